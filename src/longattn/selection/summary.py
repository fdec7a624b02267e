"""What a selection came to, source by source, so that a report needs no pass over the windows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from longattn.expressions import Moments
from longattn.records import Reject
from longattn.selection.database import Database
from longattn.selection.moments import moments_by

PERCENTS: tuple[int, ...] = (1, 5, 25, 50, 75, 95, 99)
NUM_BINS = 40


@dataclass(frozen=True)
class Distribution:
    """How a quantity is distributed over some windows."""

    count: int
    mean: float
    deviation: float
    """Population standard deviation."""
    low: float
    high: float
    quantiles: Mapping[int, float]
    """By percent: the smallest value that at least so many percent of the windows do not exceed."""
    histogram: Sequence[int]
    """Windows between neighbouring ``edges`` of the :class:`Quantity`; those outside are in the first or last bin."""


@dataclass(frozen=True)
class Quantity:
    """A score or a reading, over the scored windows of a source and over the kept ones."""

    edges: Sequence[float]
    """Edges of the histograms' 40 bins; far outliers lie outside."""
    scored: Distribution | None
    """None where no window has a value."""
    kept: Distribution | None


@dataclass(frozen=True)
class SourceSummary:
    """What became of the windows of one source."""

    windows: int
    tokens: int
    documents: int
    scored: int
    scored_tokens: int
    kept: int
    kept_tokens: int
    kept_documents: int
    cut_score: float | None
    """Score of the worst kept window."""
    reasons: Mapping[str, int]
    """Windows by the reason in the selection file."""
    quantities: Mapping[str, Quantity]
    """``score``, then the readings."""


@dataclass(frozen=True)
class Selection:
    """Where the selected windows are listed, and what a person should know of them."""

    path: str
    """The selection file: every window, kept or not."""
    sources: Mapping[str, SourceSummary]
    duplicates: Sequence[Reject] = field(default=())
    """Documents left out because their id had been read before."""
    notes: Sequence[str] = field(default=())
    """What is unusual about this selection, one sentence each."""


def summarise(database: Database, readings: Sequence[str]) -> dict[str, SourceSummary]:
    """The summary of each source of ``ranked``, whose columns ``reading_0 ...`` have these names."""
    reasons: dict[str, dict[str, int]] = {}
    for source, reason, count in database.rows(
        "SELECT source, reason, count(*) FROM ranked GROUP BY ALL ORDER BY source, reason"
    ):
        reasons.setdefault(source, {})[reason] = count
    names = {"score": "score"} | {name: f"reading_{i}" for i, name in enumerate(readings)}
    quantities = {name: _quantity(database, column) for name, column in names.items()}
    totals = database.rows("""
        SELECT source, sum(windows), sum(tokens), count(*), sum(scored), sum(scored_tokens),
            sum(kept), sum(kept_tokens), count(*) FILTER (kept > 0), min(cut_score)
        FROM (
            SELECT source, count(*) AS windows, sum(num_tokens) AS tokens,
                count(score) AS scored, sum(if(score IS NULL, 0, num_tokens)) AS scored_tokens,
                count_if(reason = 'kept') AS kept, sum(if(reason = 'kept', num_tokens, 0)) AS kept_tokens,
                min(score) FILTER (reason = 'kept') AS cut_score
            FROM ranked GROUP BY source, hash(doc_id)
        )
        GROUP BY source ORDER BY source
    """)
    return {
        source: SourceSummary(
            *counts,
            reasons=reasons[source],
            quantities={name: of[source] for name, of in quantities.items() if source in of},
        )
        for source, *counts in totals
    }


def _quantity(database: Database, column: str) -> dict[str, Quantity]:
    """The distributions of a column of ``ranked`` by source."""
    scored = f"ranked WHERE score IS NOT NULL AND {column} IS NOT NULL"
    moments = moments_by(database, scored, "source", column)
    moments_kept = moments_by(database, f"{scored} AND reason = 'kept'", "source", column)
    probabilities = [percent / 100 for percent in PERCENTS]
    quantiles = {
        source: [dict(zip(PERCENTS, values or (), strict=False)) for values in of]
        for source, *of in database.rows(f"""
            SELECT source, quantile_disc({column}, {probabilities}),
                quantile_disc({column}, {probabilities}) FILTER (reason = 'kept')
            FROM {scored} GROUP BY source
        """)
    }
    edges = {source: _edges(of.low, of.high, quantiles[source][0]) for source, of in moments.items()}
    histograms = _histograms(database, scored, column, edges)

    def distribution(source: str, of: Mapping[str, Moments], i: int) -> Distribution | None:
        if source not in of:
            return None
        m = of[source]
        return Distribution(m.count, m.mean, m.deviation, m.low, m.high, quantiles[source][i], histograms[source][i])

    return {
        source: Quantity(edges[source], distribution(source, moments, 0), distribution(source, moments_kept, 1))
        for source in moments
    }


def _edges(low: float, high: float, quantiles: Mapping[int, float]) -> list[float]:
    """Edges of equal bins that a few far outliers cannot stretch."""
    reach = 4 * (quantiles[75] - quantiles[25])
    if reach > 0:
        low, high = max(low, quantiles[25] - reach), min(high, quantiles[75] + reach)
    if low == high:
        half = max(0.5, abs(low) / 2)
        low, high = low - half, high + half
    return [*(low + (high - low) * k / NUM_BINS for k in range(NUM_BINS)), high]


def _histograms(
    database: Database, relation: str, column: str, edges: Mapping[str, Sequence[float]]
) -> dict[str, tuple[list[int], list[int]]]:
    """Windows by bin, all of ``relation`` and the kept ones."""
    bounds = {"source": list(edges), "low": [e[0] for e in edges.values()], "high": [e[-1] for e in edges.values()]}
    database.lend("bounds", pa.table(bounds))
    counts = {source: ([0] * NUM_BINS, [0] * NUM_BINS) for source in edges}
    for source, bin_, scored, kept in database.rows(f"""
        SELECT source, CAST(least(greatest(floor(share * {NUM_BINS}), 0), {NUM_BINS - 1}) AS INTEGER) AS bin,
            count(*), count(*) FILTER (reason = 'kept')
        FROM (
            SELECT source, ({column} - low) / (high - low) AS share, reason
            FROM (SELECT * FROM {relation}) JOIN bounds USING (source)
        )
        GROUP BY source, bin
    """):
        counts[source][0][bin_], counts[source][1][bin_] = scored, kept
    return counts
