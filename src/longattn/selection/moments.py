"""Exact moments of many rows by group, the same to the bit as :func:`longattn.expressions.moments`."""

import math

import pyarrow as pa

from longattn.expressions import LARGEST, SUM_SCALE, Moments, mean_of_sum, power_below
from longattn.selection.database import Database


def is_number(value: str) -> str:
    """SQL for :func:`longattn.expressions.is_number`."""
    return f"coalesce(abs({value}) <= CAST('{LARGEST!r}' AS DOUBLE), false)"


def number(value: str) -> str:
    """SQL for the value where it is a number, else NULL."""
    return f"(CASE WHEN {is_number(value)} THEN {value} END)"


def moments_by(database: Database, relation: str, group: str, value: str) -> dict[str, Moments]:
    """Moments of ``value``, SQL over ``relation`` (a FROM clause), for each ``group``; NULLs are left out.

    A floating-point sum would depend on how rows are dealt to threads, so values are brought into [-2, 2] by a power
    of two and added as integers.
    """
    values = f"(SELECT {group} AS peers, {value} AS value FROM {relation})"
    ranges = {
        peers: (count, low, high)
        for peers, count, low, high in database.rows(
            f"SELECT peers, count(value), min(value), max(value) FROM {values} GROUP BY peers"
        )
        if count
    }

    def means(origins: dict[str, float], units: dict[str, float], term: str) -> dict[str, float]:
        """The mean of ``term`` by group, where ``x`` is (value - origin) / unit."""
        grid = {"peers": list(ranges), "origin": list(origins.values()), "unit": list(units.values())}
        database.lend("grid", pa.table(grid))
        sums = database.rows(f"""
            SELECT peers, sum(CAST(floor({term} * {SUM_SCALE!r}::DOUBLE + 0.5::DOUBLE) AS BIGINT))
            FROM (SELECT peers, (value - origin) / unit AS x FROM {values} JOIN grid USING (peers))
            GROUP BY peers
        """)
        totals = dict(sums)
        return {peers: mean_of_sum(totals[peers], count) for peers, (count, _, _) in ranges.items()}

    powers = {peers: power_below(max(abs(low), abs(high))) for peers, (_, low, high) in ranges.items()}
    scaled = means(dict.fromkeys(ranges, 0.0), powers, "x")
    mean = {peers: scaled[peers] * powers[peers] for peers in ranges}
    spread = {
        peers: power_below(max(abs(low - mean[peers]), abs(high - mean[peers])))
        for peers, (_, low, high) in ranges.items()
    }
    variance = means(mean, spread, "x * x")
    return {
        peers: Moments(count, mean[peers], math.sqrt(variance[peers]) * spread[peers], low, high)
        for peers, (count, low, high) in ranges.items()
    }
