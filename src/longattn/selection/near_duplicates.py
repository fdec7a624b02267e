"""Find windows that all but repeat a better one, by MinHash signatures."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from longattn.selection.database import Database

MIN_BAND = 4
"""Fewest signature values in a band; shorter ones would agree between unrelated windows."""


class Suspect(NamedTuple):
    """A window that agrees with another one in at least one band of its signature."""

    source: str
    place: int
    used: int
    """What the windows of the source up to this one use of its budget, if none of them is dropped."""
    cost: int
    """What this window uses."""
    bands: list[int]
    """Hashes of the bands in which it agrees with another window."""
    signature: npt.NDArray[np.uint32]


def num_bands(num_values: int, threshold: float) -> int:
    """Into how many bands a signature is split, so that windows to be compared agree in at least one.

    Two signatures that agree in ``threshold`` of their values differ in fewer places than there are bands, so one
    band is free of differences and no pair is missed. Below a threshold of about 0.75 the bands would be too short to
    tell windows apart; they keep ``MIN_BAND`` values, and a pair just above a threshold of 0.5 is missed one time in
    eight.

    >>> num_bands(128, 0.9), num_bands(128, 0.8), num_bands(128, 0.5)
    (13, 26, 32)
    """
    most_differences = int((1 - threshold) * num_values + 1e-9)
    return max(1, min(most_differences + 1, num_values // MIN_BAND))


def near_duplicates(database: Database, budgets: Mapping[str, int], threshold: float) -> set[int]:
    """Places of the windows to drop; reads the view ``queue``.

    Windows of all sources are taken in order of rank, those of equal rank in order of source, each source until its
    budget is used up. A window whose estimated Jaccard similarity to one taken before is at least ``threshold`` is
    dropped and uses nothing, so that the next best takes its place.
    """
    num_values = _signature_length(database)
    database.run("""
        CREATE TABLE line AS
        SELECT source, place, place - first AS rank, row, used,
            used - lag(used, 1, 0) OVER (PARTITION BY source ORDER BY place) AS cost
        FROM queue JOIN sources USING (source)
    """)
    database.run("CREATE TABLE bands (place BIGINT, band UBIGINT)")
    reached, reach = dict.fromkeys(budgets, 0), dict(budgets)
    while True:
        _add_bands(database, reached, reach, num_values, num_bands(num_values, threshold))
        dropped = _drop_repeats(_suspects(database), budgets, threshold)
        # what dropped windows would have used is free again for the windows behind
        freed = dict.fromkeys(budgets, 0)
        for repeat in dropped:
            freed[repeat.source] += repeat.cost
        needed = {source: budget + freed[source] for source, budget in budgets.items()}
        if all(needed[source] <= reach[source] for source in budgets):
            return {repeat.place for repeat in dropped}
        # a little further than needed, because some of the windows behind will be dropped as well
        reached, reach = reach, {source: max(reach[source], needed[source] + freed[source] // 8) for source in budgets}


def _signature_length(database: Database) -> int:
    ((shortest, longest),) = database.rows("SELECT min(len(signature)), max(len(signature)) FROM loaded")
    if shortest != longest:
        raise ValueError(
            f"signatures must have one length, got lengths from {shortest} to {longest}; measure minhash again"
        )
    return shortest or 0


def _add_bands(
    database: Database,
    reached: Mapping[str, int],
    reach: Mapping[str, int],
    num_values: int,
    num_bands: int,
) -> None:
    """Hash the bands of the windows that come into reach of the budgets."""
    steps = {"source": list(reach), "reached": [reached[source] for source in reach], "reach": list(reach.values())}
    database.lend("steps", pa.table(steps))
    database.run(f"""
        INSERT INTO bands
        SELECT place, unnest(list_transform(range({num_bands}), lambda b:
            hash(b, signature[b * {num_values} // {num_bands} + 1 : (b + 1) * {num_values} // {num_bands}])))
        FROM line JOIN steps USING (source) JOIN loaded ON loaded.rowid = line.row
        WHERE used > reached AND used <= reach AND signature IS NOT NULL
    """)


def _suspects(database: Database) -> Iterator[Suspect]:
    """Windows that share a band with another, in the order in which they are taken."""
    query = """
        WITH shared AS (
            SELECT band FROM bands GROUP BY band HAVING count(*) > 1
        ), suspects AS (
            SELECT place, list(band) AS bands FROM bands SEMI JOIN shared USING (band) GROUP BY place
        )
        SELECT line.source, place, CAST(used AS BIGINT) AS used, CAST(cost AS BIGINT) AS cost, bands, signature
        FROM suspects JOIN line USING (place) JOIN loaded ON loaded.rowid = line.row
        ORDER BY rank, line.source
    """
    for chunk in database.stream(query):
        *plain, signatures = (column.combine_chunks() for column in chunk.columns)
        matrix = signatures.flatten().to_numpy().reshape(len(chunk), -1)
        yield from map(Suspect, *(column.to_pylist() for column in plain), matrix)


def _drop_repeats(suspects: Iterator[Suspect], budgets: Mapping[str, int], threshold: float) -> list[Suspect]:
    """The suspects that repeat one taken before them, as long as their source's budget lasts."""
    signatures: list[npt.NDArray[np.uint32]] = []
    taken: dict[int, list[int]] = {}
    freed = dict.fromkeys(budgets, 0)
    dropped: list[Suspect] = []
    for suspect in suspects:
        if suspect.used - freed[suspect.source] > budgets[suspect.source]:
            continue
        rivals = sorted({rival for band in suspect.bands for rival in taken.get(band, ())})
        if rivals and (suspect.signature == [signatures[rival] for rival in rivals]).mean(axis=1).max() >= threshold:
            dropped.append(suspect)
            freed[suspect.source] += suspect.cost
            continue
        for band in suspect.bands:
            taken.setdefault(band, []).append(len(signatures))
        signatures.append(suspect.signature)
    return dropped
