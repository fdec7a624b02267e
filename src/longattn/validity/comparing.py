"""How far scorers agree on the same windows: ranks, kept sets and the windows that they disagree on most."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from longattn.expressions import Expression, evaluate
from longattn.tables import Table
from longattn.validity.columns import read_columns
from longattn.validity.statistics import ranks, spearman

Scores = npt.NDArray[np.float64]

BUDGETS = (0.05, 0.125, 0.25, 0.5)
"""Shares of a source's windows that are kept; two sets chosen at random share the same share of each other."""
READING = ("doc_id", "file", "position")
"""Columns of the windows table that tell one reading of a document from another."""
SNIPPET = 300
"""Characters of a window that are shown."""


@dataclass(frozen=True)
class Agreement:
    """Two scorers on the windows of one source."""

    source: str
    first: str
    second: str
    windows: int
    """Windows that both have scored."""
    correlation: float | None
    """Spearman's; None where a scorer gives all of these windows the same score."""
    overlap: Mapping[str, float]
    """By budget (a share of the windows): the share of one kept set that is in the other."""


@dataclass(frozen=True)
class Disagreement:
    """A window that one scorer ranks high and another one low."""

    source: str
    window: str
    high: str
    low: str
    high_rank: float
    """Share of the source's windows that score lower by ``high``, ties counted half."""
    low_rank: float
    text: str = ""
    """Its beginning; empty where texts are not to be shown."""


@dataclass(frozen=True)
class Comparison:
    """What a comparison found."""

    scorers: Sequence[str]
    windows: Mapping[str, int]
    """By source."""
    agreements: Sequence[Agreement]
    disagreements: Sequence[Disagreement]
    costs: Mapping[str, float] = field(default_factory=dict)
    """Seconds of one window, where a validation has measured them."""


def compare(
    windows: list[str],
    sources: list[str],
    scores: Mapping[str, Scores],
    *,
    samples: int = 2,
    texts: Callable[[Sequence[str]], Mapping[str, str]] | None = None,
    costs: Mapping[str, float] | None = None,
) -> Comparison:
    """Compare every two scorers on every source.

    ``windows`` [N] are ids, ``sources`` [N] theirs, ``scores`` arrays [N] by scorer, NaN where there is none. Of each
    two scorers and source, ``samples`` windows are shown that one ranks highest above the other, and as many the other
    way round. Raises ``ValueError`` for fewer than two scorers.
    """
    if len(scores) < 2:
        raise ValueError(f"a comparison needs two or more measured scorers, got {', '.join(scores) or 'none'}")
    labels = np.asarray(sources)
    agreements: list[Agreement] = []
    disagreements: list[Disagreement] = []
    for source in sorted(set(sources)):
        mine = np.flatnonzero(labels == source)
        for first, second in itertools.combinations(scores, 2):
            rows = mine[np.isfinite(scores[first][mine]) & np.isfinite(scores[second][mine])]
            if len(rows) < 2:
                continue
            ids = [windows[row] for row in rows]
            a, b = scores[first][rows], scores[second][rows]
            overlap = {f"{budget:g}": overlap_of_best(ids, a, b, budget) for budget in BUDGETS}
            correlation = spearman(a, b) if np.ptp(a) and np.ptp(b) else None
            agreements.append(Agreement(source, first, second, len(rows), correlation, overlap))
            disagreements += _disagreements(source, ids, (first, a), (second, b), samples)
    if texts is not None:
        found = texts(list(dict.fromkeys(one.window for one in disagreements)))
        disagreements = [replace(one, text=found.get(one.window, "")[:SNIPPET]) for one in disagreements]
    counts = {source: int((labels == source).sum()) for source in sorted(set(sources))}
    return Comparison(list(scores), counts, agreements, disagreements, dict(costs or {}))


def compare_tables(
    windows: Table,
    units: Sequence[str],
    scores: Mapping[str, tuple[Table, Expression]],
    *,
    texts: Callable[[Sequence[str]], Mapping[str, str]] | None = None,
    costs: Mapping[str, float] | None = None,
) -> Comparison:
    """Compare scorers by their tables of some units; a score is standardised within each source, as in selecting.

    Of documents of one id only the first takes part, by file and position, as in selecting.
    """
    rows = pa.concat_tables(list(windows.read(units, ["window_id", "source", *READING])))
    mine = _of_first_readings(rows)
    rows = rows.filter(pa.array(mine))
    sources = rows["source"].to_pylist()
    found = {}
    for name, (table, score) in scores.items():
        columns = {column: values[mine] for column, values in read_columns(table, units, score).items()}
        found[name] = evaluate(score, columns, groups=sources)
    return compare(rows["window_id"].to_pylist(), sources, found, texts=texts, costs=costs)


def _of_first_readings(rows: pa.Table) -> npt.NDArray[np.bool_]:
    """Which windows [N] are of the first reading of their document, each once."""
    readings = list(zip(*(rows[name].to_pylist() for name in READING), strict=True))
    first = {document: origin for document, *origin in sorted(readings, reverse=True)}
    seen: set[str] = set()
    mine = np.zeros(len(readings), dtype=bool)
    for row, (window, (document, *origin)) in enumerate(zip(rows["window_id"].to_pylist(), readings, strict=True)):
        mine[row] = origin == first[document] and window not in seen
        if mine[row]:
            seen.add(window)
    return mine


def overlap_of_best(ids: Sequence[str], first: Scores, second: Scores, budget: float) -> float:
    """The share of windows that are among the best ``budget`` by both; ties in score are broken by id, as in selecting.

    >>> overlap_of_best(["a", "b", "c", "d"], np.array([4.0, 3, 2, 1]), np.array([1.0, 4, 3, 2]), 0.5)
    0.5
    """
    count = max(1, round(budget * len(ids)))
    kept = [
        {ids[k] for k in sorted(range(len(ids)), key=lambda k: (-scores[k], ids[k]))[:count]}
        for scores in (first, second)
    ]
    return len(kept[0] & kept[1]) / count


def _disagreements(
    source: str, ids: Sequence[str], first: tuple[str, Scores], second: tuple[str, Scores], samples: int
) -> list[Disagreement]:
    places = {name: (ranks(scores) - 0.5) / len(ids) for name, scores in (first, second)}
    found = []
    for high, low in ((first[0], second[0]), (second[0], first[0])):
        gap = places[high] - places[low]
        for k in sorted(range(len(ids)), key=lambda k: (-gap[k], ids[k]))[:samples]:
            if gap[k] > 0:
                found.append(Disagreement(source, ids[k], high, low, float(places[high][k]), float(places[low][k])))
    return found
