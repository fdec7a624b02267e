"""What a selection came to, source by source, so that a report needs no pass over the windows."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pyarrow as pa

from longattn.expressions import Moments
from longattn.records import Reject
from longattn.selection.database import Database
from longattn.selection.moments import moments_by

PERCENTS: tuple[int, ...] = (1, 5, 25, 50, 75, 95, 99)
NUM_BINS = 40

TOGETHER = 2**23
"""Windows whose documents are counted, or whose values are sorted, at a time: about, or all of one source."""


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
    documents = _documents(database)
    totals = database.rows("""
        SELECT source, count(*), sum(num_tokens), count(score), sum(if(score IS NULL, 0, num_tokens)),
            count_if(reason = 'kept'), sum(if(reason = 'kept', num_tokens, 0)), min(score) FILTER (reason = 'kept')
        FROM ranked GROUP BY source ORDER BY source
    """)
    return {
        source: SourceSummary(
            windows=windows,
            tokens=tokens,
            documents=documents[source][0],
            scored=scored,
            scored_tokens=scored_tokens,
            kept=kept,
            kept_tokens=kept_tokens,
            kept_documents=documents[source][1],
            cut_score=cut_score,
            reasons=reasons[source],
            quantities={name: of[source] for name, of in quantities.items() if source in of},
        )
        for source, windows, tokens, scored, scored_tokens, kept, kept_tokens, cut_score in totals
    }


def _stretches(database: Database) -> Iterator[tuple[str, int]]:
    """Conditions on the rows of ``ranked``, each for some sources or all of one, and how many rows each holds."""
    places = [first for (first,) in database.rows("SELECT first FROM sources ORDER BY source")]
    ((rows,),) = database.rows("SELECT count(*) FROM ranked")
    begin = 0
    for end, after in pairwise([*places[1:], rows, rows]):
        if end > begin and (after - begin > TOGETHER or end == rows):
            yield f"ranked.rowid >= {begin} AND ranked.rowid < {end}", end - begin
            begin = end


def _documents(database: Database) -> dict[str, tuple[int, int]]:
    """Documents of each source, and those of which something is kept.

    A part of the documents is sorted at a time: to group them all would take memory for each of them.
    """
    sources = [source for (source,) in database.rows("SELECT source FROM sources ORDER BY source")]
    counts = np.zeros((len(sources), 2), np.int64)
    for stretch, rows in _stretches(database):
        parts = rows // TOGETHER + 1
        for part in range(parts):
            found = database.arrays(f"""
                SELECT CAST(enum_code(source) AS INTEGER) AS source, doc, reason = 'kept' AS kept
                FROM ranked WHERE {stretch} AND doc % {parts} = {part}
            """)
            source, doc, kept = found["source"], found["doc"], found["kept"]
            # the rows of a source come one after another
            begins = np.flatnonzero(np.diff(source, prepend=-1))
            for begin, end in pairwise([*begins.tolist(), len(source)]):
                mine = doc[begin:end]
                counts[source[begin]] += len(np.unique(mine)), len(np.unique(mine[kept[begin:end]]))
    return {source: (int(all_), int(kept)) for source, (all_, kept) in zip(sources, counts, strict=True)}


def _quantity(database: Database, column: str) -> dict[str, Quantity]:
    """The distributions of a column of ``ranked`` by source."""
    scored = f"ranked WHERE score IS NOT NULL AND {column} IS NOT NULL"
    moments = moments_by(database, scored, "source", column)
    moments_kept = moments_by(database, f"{scored} AND reason = 'kept'", "source", column)
    quantiles = _quantiles(database, scored, column, moments, moments_kept)
    edges = {source: _edges(of.low, of.high, quantiles[0][source]) for source, of in moments.items()}
    histograms = _histograms(database, scored, column, edges)

    def distribution(source: str, of: Mapping[str, Moments], i: int) -> Distribution | None:
        if source not in of:
            return None
        m = of[source]
        return Distribution(m.count, m.mean, m.deviation, m.low, m.high, quantiles[i][source], histograms[source][i])

    return {
        source: Quantity(edges[source], distribution(source, moments, 0), distribution(source, moments_kept, 1))
        for source in moments
    }


def _quantiles(
    database: Database, scored: str, column: str, all_: Mapping[str, Moments], kept: Mapping[str, Moments]
) -> tuple[dict[str, dict[int, float]], dict[str, dict[int, float]]]:
    """Exact quantiles by source and percent, of all these windows and of the kept ones.

    Read off the sorted values as they go by: DuckDB's own quantiles hold all values of a group in memory.
    """
    sources = [source for (source,) in database.rows("SELECT source FROM sources ORDER BY source")]
    wanted = [
        {
            source: {percent: max(1, -(-of.count * percent // 100)) for percent in PERCENTS}
            for source, of in moments.items()
        }
        for moments in (all_, kept)
    ]
    found = ({source: {} for source in all_}, {source: {} for source in kept})
    seen = np.zeros((2, len(sources)), np.int64)
    chunks = itertools.chain.from_iterable(
        database.stream(f"""
            SELECT CAST(enum_code(source) AS INTEGER) AS number, {column} AS value, reason = 'kept' AS kept
            FROM {scored} AND {stretch} ORDER BY number, value
        """)
        for stretch, _ in _stretches(database)
    )
    for chunk in chunks:
        # a negative zero is no other number, and where it stands among zeros is left to chance
        number, value, is_kept = chunk["number"].to_numpy(), chunk["value"].to_numpy() + 0.0, chunk["kept"].to_numpy()
        for place in np.unique(number).tolist():
            mine = number == place
            for i, values in enumerate((value[mine], value[mine & is_kept])):
                for percent, rank in wanted[i].get(sources[place], {}).items():
                    if seen[i, place] < rank <= seen[i, place] + len(values):
                        found[i][sources[place]][percent] = float(values[rank - 1 - seen[i, place]])
                seen[i, place] += len(values)
    return found


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
