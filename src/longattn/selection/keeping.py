"""Decide window by window, best first, which of the ranked windows are kept."""

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from longattn.selection.database import SETTLED_TOGETHER, Database, text
from longattn.selection.near_duplicates import near_duplicates
from longattn.settings import Selecting

NO_LIMIT = 2**62

COMPARED_TOGETHER = 2**21
"""Windows that are compared with those of their documents at a time, about."""


@dataclass(frozen=True)
class Limit:
    """How much of one source may be kept."""

    budget: int
    """Tokens, or windows where windows are counted."""
    threshold: float | None = None
    """Lowest score to keep."""


def check_rule(rule: Selecting) -> None:
    """Raise ``ValueError`` for a rule that no table could satisfy."""
    chosen = [name for name in ("tokens", "count", "threshold") if getattr(rule, name) is not None]
    if len(chosen) > 1:
        raise ValueError(f"choose one of tokens, count and threshold, got {' and '.join(chosen)}")
    if not chosen and rule.share is None:
        raise ValueError("one of share, tokens, count and threshold must be set; share=0.125 keeps the best eighth")
    if rule.share is not None and not 0 < rule.share <= 1:
        raise ValueError(f"share must be in (0, 1], got {rule.share}; 0.5 keeps the better half")
    for name in ("tokens", "count"):
        value = getattr(rule, name)
        if value is not None and value < 0:
            raise ValueError(f"{name} must not be negative, got {value}")
    if rule.threshold is not None and math.isnan(rule.threshold):
        raise ValueError(f"threshold must be a number, got {rule.threshold}")
    if not 0 <= rule.max_overlap <= 1:
        raise ValueError(f"max_overlap must be in [0, 1], got {rule.max_overlap}; 1 keeps all windows")
    if rule.near_duplicates is not None and not 0 < rule.near_duplicates <= 1:
        raise ValueError(f"near_duplicates must be a Jaccard similarity in (0, 1], got {rule.near_duplicates}")
    for source, quota in rule.quotas.items():
        if not chosen and not 0 <= quota <= 1:
            raise ValueError(f"the quota of {source} must be a share in [0, 1], got {quota}")
        if chosen == ["threshold"] and math.isnan(quota):
            raise ValueError(f"the quota of {source} must be a lowest score, got {quota}")
        if chosen in (["tokens"], ["count"]) and (quota < 0 or not float(quota).is_integer()):
            raise ValueError(f"the quota of {source} must be a whole number of {chosen[0]}, got {quota}")


def source_limits(rule: Selecting, scored_tokens: Mapping[str, int]) -> dict[str, Limit]:
    """The limit of each source, from the tokens of its scored windows."""
    for name in rule.quotas:
        if name not in scored_tokens:
            close = difflib.get_close_matches(name, list(scored_tokens), 1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise ValueError(
                f"quotas name an unknown source {name!r}; {hint}the sources are {', '.join(scored_tokens)}"
            )
    return {source: _limit(rule, source, tokens) for source, tokens in scored_tokens.items()}


def _limit(rule: Selecting, source: str, tokens: int) -> Limit:
    if rule.threshold is not None:
        return Limit(NO_LIMIT, rule.quotas.get(source, rule.threshold))
    if rule.tokens is not None:
        return Limit(min(NO_LIMIT, int(rule.quotas.get(source, rule.tokens))))
    if rule.count is not None:
        return Limit(min(NO_LIMIT, int(rule.quotas.get(source, rule.count))))
    share = rule.quotas.get(source, rule.share)
    # as it is written in decimals, so that a share of 0.3 of 10 tokens is 3 and not 2
    return Limit(int(Fraction(repr(float(share or 0))) * tokens))


def keep_best(database: Database, rule: Selecting, limits: Mapping[str, Limit]) -> None:
    """Set the ``reason`` of every ranked window that is kept or gives way to a better one."""
    if rule.max_overlap < 1:
        _mark(database, "overlap", _overlapping(database, rule.max_overlap))
    if rule.near_duplicates is not None:
        _queue(database, rule, limits)
        budgets = {source: limit.budget for source, limit in limits.items()}
        repeats = near_duplicates(database, budgets, rule.near_duplicates)
        _mark(database, "near_duplicate", np.array(sorted(repeats), np.int64))
    last = _last_within(database, rule, limits)
    database.lend("cut", pa.table({"source": pa.array(last, pa.string()), "last": pa.array(last.values(), pa.int64())}))
    ((rows,),) = database.rows("SELECT count(*) FROM ranked")
    for begin in range(0, rows, SETTLED_TOGETHER):
        database.change(f"""
            UPDATE ranked SET reason = 'kept'
            FROM cut
            WHERE ranked.rowid >= {begin} AND ranked.rowid < {begin + SETTLED_TOGETHER}
                AND ranked.source = cut.source AND ranked.rowid <= cut.last AND reason = 'below_cut'
        """)


def _queue(database: Database, rule: Selecting, limits: Mapping[str, Limit]) -> None:
    """Make the view ``queue``: the windows that may be kept, and what each and those before it use of the budget."""
    bounds = {
        "source": list(limits),
        "budget": [limit.budget for limit in limits.values()],
        "threshold": [limit.threshold for limit in limits.values()],
    }
    schema = pa.schema([("source", pa.string()), ("budget", pa.int64()), ("threshold", pa.float64())])
    database.lend("limits", pa.table(bounds, schema))
    database.run(f"""
        CREATE VIEW queue AS
        SELECT source, ranked.rowid AS place, row, budget,
            sum({_cost(rule)}) OVER (PARTITION BY source ORDER BY ranked.rowid) AS used
        FROM ranked JOIN limits USING (source)
        WHERE reason = 'below_cut' AND (threshold IS NULL OR score >= threshold)
    """)


def _cost(rule: Selecting) -> str:
    """SQL for what a window uses of a budget."""
    return "num_tokens" if rule.count is None else "1"


def _last_within(database: Database, rule: Selecting, limits: Mapping[str, Limit]) -> dict[str, int]:
    """Place of the last window of each source that its limit allows, by source; none where that is no window."""
    sources = [source for (source,) in database.rows("SELECT source FROM sources ORDER BY source")]
    of = [limits[source] for source in sources]
    budgets = np.array([limit.budget for limit in of], np.int64)
    lowest = np.array([-np.inf if limit.threshold is None else limit.threshold for limit in of])
    used = np.zeros(len(sources), np.int64)
    last: dict[str, int] = {}
    # a scan without a join, in the order of the rows: a window function over them all would sort them again
    for chunk in database.stream(f"""
        SELECT CAST(enum_code(source) AS INTEGER), rowid, CAST({_cost(rule)} AS BIGINT), score
        FROM ranked WHERE reason = 'below_cut'
    """):
        source, place, cost, score = (column.to_numpy() for column in chunk.columns)
        cost = np.where(score >= lowest[source], cost, 0)
        begins = np.flatnonzero(np.diff(source, prepend=-1))
        for begin, end in pairwise([*begins.tolist(), len(source)]):
            number = source[begin]
            running = used[number] + np.cumsum(cost[begin:end])
            allowed = np.flatnonzero((running <= budgets[number]) & (score[begin:end] >= lowest[number]))
            if len(allowed):
                last[sources[number]] = int(place[begin + allowed[-1]])
            used[number] = running[-1]
    return last


def _mark(database: Database, reason: str, places: npt.NDArray[np.int64]) -> None:
    """Set the reason of the windows at these places, which are sorted."""
    for begin in range(0, len(places), SETTLED_TOGETHER):
        some = places[begin : begin + SETTLED_TOGETHER]
        database.lend("dropped", pa.table({"place": some}))
        within = f"rowid >= {some[0]} AND rowid <= {some[-1]}"
        database.change(f"""
            UPDATE ranked SET reason = {text(reason)} WHERE {within} AND rowid IN (SELECT place FROM dropped)
        """)


def _overlapping(database: Database, max_overlap: float) -> npt.NDArray[np.int64]:
    """Places of windows that share more than ``max_overlap`` of their tokens with a better one that is not dropped."""
    ((rows,),) = database.rows("SELECT count(*) FROM ranked")
    # Two windows that intersect start less than the longest one apart, hence in the same or in adjacent stretches of
    # that length.
    database.run(f"""
        CREATE TABLE touching AS
        SELECT rowid AS place, doc, start, start + num_tokens AS stop, num_tokens,
            start // (SELECT max(num_tokens) FROM ranked) AS stretch
        FROM ranked WHERE reason = 'below_cut' AND shared > {max_overlap!r}::DOUBLE
    """)
    ((candidates,),) = database.rows("SELECT count(*) FROM touching")
    parts = candidates // COMPARED_TOGETHER + 1
    # a byte a window; a set of the places, perhaps a tenth of them, would take ten times as much
    is_dropped = bytearray(rows)
    for part in range(parts):
        mine = f"(SELECT * FROM touching WHERE doc % {parts} = {part})"
        for chunk in database.stream(f"""
            SELECT worse.place AS worse, better.place AS better
            FROM {mine} AS worse
            JOIN (SELECT *, unnest([stretch - 1, stretch, stretch + 1]) AS nearby FROM {mine}) AS better
                ON worse.doc = better.doc AND worse.stretch = better.nearby AND better.place < worse.place
            WHERE least(worse.stop, better.stop) - greatest(worse.start, better.start)
                > {max_overlap!r}::DOUBLE * worse.num_tokens
            ORDER BY worse
        """):
            for worse, better in zip(*(column.to_pylist() for column in chunk.columns), strict=True):
                # pairs come in the order of the worse window, so the fate of the better one is known
                if not is_dropped[better]:
                    is_dropped[worse] = True
    database.run("DROP TABLE touching")
    return np.flatnonzero(np.frombuffer(is_dropped, np.bool_))
