"""Which windows' rows to draw again until the kept set is, with stated confidence, the one that all rows give."""

import itertools
import logging
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from longattn.asking import look
from longattn.expressions import Expression, columns_of, evaluate
from longattn.measuring import Job, cut_unit, package_versions, scorer_rows
from longattn.records import WorkUnit
from longattn.scorers import LongAttn
from longattn.settings import Refining, Selecting, fingerprint
from longattn.tables import Table
from longattn.tokens import Tokenizer
from longattn.versions import merged

log = logging.getLogger(__name__)

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

TILTS = np.linspace(-3.5, 3.5, 29)
"""Errors of the scales' ratio that confidence is averaged over, in standard deviations."""
FEW_ROWS = 16
"""Of each head. At 7 of 48 rows four of 14 refinements to 95 % kept a wrong window, at 19 none of 16."""
READING = ("file", "position", "source")
"""Columns of the windows table that tell one reading of a document from another, in the order of their priority."""
CUTS = 7
"""Places between the last window kept and the first left out that are tried as the cut."""


class Standing(NamedTuple):
    """The windows that decide what is kept of one source; shapes [N]."""

    competes: Flags
    """Windows of the source that the cut parts; the others only have a part in the scales."""
    score: Floats
    error: Floats
    """Standard error of each score, the scales of its parts taken as known."""
    tilt: Floats
    """What the score gains if the ratio of the two scales, of DU to DS, is larger by a factor e than it was taken."""
    kept: Flags
    leverage: Floats
    """What each window adds to the variance of the logarithm of that ratio."""
    bias: float
    """Expected error of that logarithm: errors of measurement widen a scale."""


class Doubt(NamedTuple):
    """How far the kept set of a source can be trusted."""

    risk: float
    """Upper bound of the probability that it is not the exact one."""
    own: float
    """What would be left of it if the scales were known."""
    wrong: Floats
    """Probability that a window is on the wrong side of the cut, by window; their sum bounds the risk."""


def doubt(standing: Standing) -> Doubt:
    """How sure the kept set is, from normal errors: a union bound over windows, at the best cut between the two sets.

    The error of the scales is common to all windows and is averaged over. That a factor common to both scales leaves
    the order alone is why one number, their ratio, is enough.
    """
    competes = standing.competes
    kept, error = standing.kept[competes], standing.error[competes]
    wrong = np.zeros(len(competes))
    if kept.all() or not kept.any():
        return Doubt(0.0, 0.0, wrong)
    deviation = math.sqrt(float(standing.leverage.sum()))
    weights = np.exp(-(TILTS**2) / 2)
    risk, own = 0.0, 0.0
    for tilt, weight in zip(TILTS, weights / weights.sum(), strict=True):
        score = standing.score + standing.tilt * (standing.bias + tilt * deviation)
        least = _wrong(score[competes], error, kept)
        risk += float(weight) * min(1.0, float(least.sum()))
        wrong[competes] += weight * least
        if tilt == 0:
            own = min(1.0, float(least.sum()))
    return Doubt(risk, own, wrong)


def _wrong(score: Floats, error: Floats, kept: Flags) -> Floats:
    """Probability of each window to be on the other side of the cut that makes their sum smallest."""
    best = np.ones(len(score))
    for cut in np.linspace(score[~kept].max(), score[kept].min(), CUTS):
        margin = np.where(kept, score - cut, cut - score)
        # nothing but the nearest windows can matter, and erfc is slow
        near = np.abs(margin) < 8 * error
        wrong = np.where(margin < 0, 1.0, 0.0)
        wrong[near] = [0.5 * math.erfc(m / (e * math.sqrt(2))) for m, e in zip(margin[near], error[near], strict=True)]
        best = wrong if wrong.sum() < best.sum() else best
    return best


def wanted(standing: Standing, found: Doubt, allowed: float) -> Flags:
    """Windows to draw more rows of so that the risk falls to what is ``allowed``; none if it has.

    Those that are likeliest on the wrong side; and, where the scales are in doubt, those with half of their variance.
    """
    chosen = np.zeros(len(standing.score), dtype=bool)
    if found.risk <= allowed:
        return chosen
    uncertain = standing.error > 0
    if found.own > 0.4 * allowed:
        wrong = np.where(uncertain, found.wrong, 0.0)
        order = np.argsort(wrong, kind="stable")
        chosen[order[wrong[order].cumsum() > 0.3 * allowed]] = True
    if found.risk - found.own > 0.5 * allowed or not (chosen & uncertain).any():
        order = np.argsort(-standing.leverage, kind="stable")
        share = standing.leverage[order].cumsum() / max(float(standing.leverage.sum()), np.finfo(float).tiny)
        chosen[order[: int(np.searchsorted(share, 0.5)) + 1]] = True
    return chosen & uncertain


@dataclass(frozen=True)
class Refinement:
    """What refining came to."""

    confidence: float
    """Lower bound of the probability that the kept set is the exact one."""
    pairs: float
    """Share of the exact cost that was spent, in pairs of a query and a key, pilot included."""
    rounds: int
    undecided: list[str]
    """Windows that are on the wrong side of the cut with a probability of more than 1 %."""


def refine(
    job: Job,
    scorer: LongAttn,
    units: Sequence[WorkUnit],
    table: Table,
    device: str,
    rule: Selecting,
    goal: Refining,
    choose: Callable[[Table], pa.Table],
) -> tuple[Refinement, Table]:
    """Draw more rows of windows near the cut, round after round, until the goal is reached or a limit is.

    ``choose`` selects by a table of the scorer and returns the selection's rows. Each round's draws are tables named by
    what they measure, so an attempt that was stopped goes on where it was. Returns the table with the better estimates,
    one row for each window, as measuring makes it. Raises ``ValueError`` for rules whose outcome hangs on more than the
    order at a cut.
    """
    check(scorer, rule)
    base, stale, model, rounds = table, None, None, 0
    while True:
        if not len(selection := choose(table)):
            return Refinement(1.0, 0.0, rounds, []), table
        rows = _read(job.windows, table, [unit.id for unit in units], selection, scorer, rule)
        if stale is not None:
            stale.discard()
        standings = list(rows.standings())
        found = [doubt(standing) for _, standing in standings]
        allowed = (1 - goal.target) / max(1, len(standings))
        more, overlaps = np.zeros(len(rows.ids), dtype=bool), rows.overlaps()
        for (places, standing), one in zip(standings, found, strict=True):
            more[places] |= wanted(standing, one, allowed)
        for pair, risk in overlaps:
            more[pair] |= (risk > allowed / 10) & (rows.error[pair] > 0)
        risk = sum(one.risk for one in found) + sum(risk for _, risk in overlaps)
        done = risk <= 1 - goal.target or not more.any()
        if done or rounds == goal.max_rounds or (goal.max_pairs is not None and rows.spent >= goal.max_pairs):
            open_ids = [rows.ids[places[one.wrong > 0.01]] for (places, _), one in zip(standings, found, strict=True)]
            undecided = sorted({str(one) for ids in open_ids for one in ids})
            return Refinement(max(0.0, 1 - risk), rows.spent, rounds, undecided), table
        model = model or job.load_model(device)
        draws = _draw(job, scorer, units, table, set(rows.ids[more].tolist()), model)
        better = _merge(base, table, draws, [unit.id for unit in units])
        stale = table if table.folder != base.folder else None
        table, rounds = better, rounds + 1


def check(scorer: LongAttn, rule: Selecting) -> None:
    """Raise ``ValueError`` where the confidence could not be stated; warn where it would be too high."""
    if scorer.rows is None:
        raise ValueError("refine needs estimates, and all rows were measured; set longattn.rows, such as 0.1")
    rows = scorer.rows if scorer.rows >= 1 else scorer.rows * (scorer.length or 0)
    if rows < FEW_ROWS:
        log.warning(
            "about %d rows of each head are drawn of a window: standard errors from so few are rough, and confidence "
            "is likely too high; more rows or longer windows help",
            rows,
        )
    if scorer.score() != replace(scorer, normalise="zscore").score():
        raise ValueError("refine needs z-scores: the ends of a min-max scale have no standard error")
    if rule.threshold is not None or rule.near_duplicates is not None or list(rule.weights) != ["longattn"]:
        raise ValueError("refine needs a budget (share, tokens or count) and the score of longattn alone")


class Rows:
    """The measured windows beside what was selected of them.

    ``measured`` are the scorer's columns, ``selection`` those of the selection file, for the same windows in one order.
    """

    def __init__(
        self,
        measured: Mapping[str, npt.NDArray],
        selection: Mapping[str, npt.NDArray],
        scorer: LongAttn,
        rule: Selecting,
    ) -> None:
        self.ids, self.source, self.reason = (selection[name] for name in ("window_id", "source", "reason"))
        self.score, self.error = selection["score"], selection["score_se"]
        # windows without values say nothing of what theirs have cost
        known = measured["pairs"][np.isfinite(measured["pairs"])]
        self.spent = float(known.mean()) if len(known) else 0.0
        self._spans = (selection["doc_id"], selection["start"], selection["num_tokens"])
        self._rule = rule
        values = {name: evaluate(part, measured) for name, part in _parts(scorer).items()}
        self._tilts(values, scorer.weight, np.isfinite(self.score))
        # a negative weight turns the score round
        self.tilt *= math.copysign(1.0, rule.weights[scorer.name])

    def _tilts(self, values: Mapping[str, Floats], weight: float, scored: Flags) -> None:
        """What an error of the scales does to each score, and what each window adds to that error."""
        self.tilt, self.leverage, self.bias = np.zeros(len(scored)), np.zeros(len(scored)), np.zeros(len(scored))
        peers = self.source if self._rule.normalise_over == "source" else np.full(len(scored), "")
        for peer in set(peers[scored]):
            here = scored & (peers == peer)
            units = {name: float(values[name][here].std()) or 1.0 for name in ("ds", "du")}
            z = {name: (values[name][here] - values[name][here].mean()) / units[name] for name in units}
            v_ds, v_du = (values[f"v_{name}"][here] / units[name] ** 2 for name in ("ds", "du"))
            both = values["both"][here] / (units["ds"] * units["du"])
            self.tilt[here] = -weight * z["du"]
            spread = z["ds"] ** 2 * v_ds + z["du"] ** 2 * v_du - 2 * z["ds"] * z["du"] * both
            self.leverage[here] = np.maximum(spread, 0.0) / here.sum() ** 2
            self.bias[here] = (v_ds.mean() - v_du.mean()) / 2

    def standings(self) -> Iterator[tuple[npt.NDArray[np.int64], Standing]]:
        """For each source the places of the windows that decide what is kept of it, and how they stand."""
        scored = np.isfinite(self.score)
        for source in sorted(set(self.source[scored])):
            here = self.source == source
            places = np.flatnonzero(scored & (here | (self._rule.normalise_over == "corpus")))
            reason = self.reason[places]
            competes = here[places] & np.isin(reason, ("kept", "below_cut"))
            numbers = (self.score[places], self.error[places], self.tilt[places])
            leverage, bias = self.leverage[places], float(self.bias[places[0]])
            yield places, Standing(competes, *numbers, reason == "kept", leverage, bias)

    def overlaps(self) -> list[tuple[npt.NDArray[np.int64], float]]:
        """Pairs of which one gave way to the other, near or above the cut, and the probability that it was wrong to."""
        documents, start, length = self._spans
        lowest = {
            s: self.score[(self.source == s) & (self.reason == "kept")].min(initial=np.inf) for s in set(self.source)
        }
        by_document: dict[str, list[int]] = {}
        reach = self.score + 4 * self.error >= [lowest[source] for source in self.source]
        for place in np.flatnonzero((self.reason == "overlap") & reach).tolist():
            by_document.setdefault(documents[place], []).append(place)
        pairs: list[tuple[npt.NDArray[np.int64], float]] = []
        for place, document in enumerate(documents):
            for worse in by_document.get(document, []):
                shared = min(start[worse] + length[worse], start[place] + length[place]) - max(
                    start[worse], start[place]
                )
                gave_way = shared > self._rule.max_overlap * length[worse] and self.reason[place] != "overlap"
                # a window is dropped for a better one; what it would have done to a worse one is of no consequence
                if not gave_way or not self.score[place] >= self.score[worse]:
                    continue
                error = math.hypot(self.error[worse], self.error[place])
                margin = self.score[place] - self.score[worse]
                risk = 0.5 * math.erfc(margin / (error * math.sqrt(2))) if error > 0 else 0.0
                pairs.append((np.array([worse, place]), risk))
        return pairs


def _parts(scorer: LongAttn) -> dict[str, Expression]:
    """DS and DU, and how their errors vary."""
    ds, du = (scorer.readings()[name] for name in ("ds", "du"))
    return dict(zip(("ds", "du", "v_ds", "both", "v_du"), (ds, du, *scorer.errors()), strict=True))


def _read(
    windows: Table, table: Table, units: Sequence[str], selection: pa.Table, scorer: LongAttn, rule: Selecting
) -> Rows:
    """The rows of a table beside those of a selection that was made by it."""
    names = sorted({column.name for part in _parts(scorer).values() for column in columns_of(part)} | {"pairs"})
    done = [unit for unit in units if table.receipt(unit)]
    rows = pa.concat_tables(table.read(done, names))
    rows = rows.take(_places(pa.concat_tables(windows.read(done, ["window_id", *READING])), selection))
    chosen = ("window_id", "source", "reason", "score", "score_se", "doc_id", "start", "num_tokens")
    return Rows(
        {name: _array(rows[name]) for name in names}, {name: _array(selection[name]) for name in chosen}, scorer, rule
    )


def _places(windows: pa.Table, selection: pa.Table) -> list[int]:
    """The row of each window of a selection among ``windows``.

    Of several readings of a document, whose windows have the same ids, a selection takes the first by file and place.
    """
    order = windows.append_column("row", pa.array(range(len(windows)))).sort_by([(n, "ascending") for n in READING])
    rows: dict[str, deque[int]] = {}
    for one, row in zip(order["window_id"].to_pylist(), order["row"].to_pylist(), strict=True):
        rows.setdefault(one, deque()).append(row)
    ids, reasons = (selection[name].to_pylist() for name in ("window_id", "reason"))
    return [
        rows[one].pop() if reason == "duplicate_id" else rows[one].popleft()
        for one, reason in zip(ids, reasons, strict=True)
    ]


def _array(column: pa.ChunkedArray) -> npt.NDArray:
    """A column as an array; a list column as one with a row per window."""
    if pa.types.is_list(column.type):
        return np.stack([np.asarray(row) for row in column.to_pylist()])
    if pa.types.is_string(column.type):
        return np.array(column.to_pylist(), dtype=object)
    return column.to_numpy()


def _draw(job: Job, scorer: LongAttn, units: Sequence[WorkUnit], table: Table, ids: set[str], model: Any) -> Table:
    """The table with the next draw of each of these windows: one file for each unit that holds some."""
    draws = job.run.table("longattn_draws", {**table.settings, "windows": fingerprint(sorted(ids))})
    tokenizer = Tokenizer.load(job.checkpoint.tokenizer_file)
    table.bring(unit.id for unit in units)
    for unit in units:
        if draws.receipt(unit.id) is not None or table.receipt(unit.id) is None:
            continue
        rows = next(table.read([unit.id]))
        chosen = [i for i, one in enumerate(rows["window_id"].to_pylist()) if one in ids]
        windows = cut_unit(unit, job, tokenizer).windows if chosen else []
        measured: list[Mapping[str, npt.NDArray]] = []
        for i in chosen:
            found = {name: _array(rows[name].slice(i, 1)) for name in rows.column_names if name != "window_id"}
            seen = look([scorer.ask_more(found)], model, windows[i])[0]
            measured.append(scorer.measure([windows[i]], seen))
        columns = {name: np.concatenate([one[name] for one in measured]) for name in scorer.schema()} if chosen else {}
        result = scorer_rows(scorer, [windows[i] for i in chosen], columns)
        draws.commit(unit.id, result, {"windows": len(chosen)}, package_versions())
    return draws


def _merge(base: Table, table: Table, draws: Table, units: Sequence[str]) -> Table:
    """The table with the rows of ``draws`` in the place of its own."""
    better = base.run.table(base.name, {**base.settings, "refined": draws.hash})
    table.bring(units)
    draws.bring(units)
    for unit in units:
        if better.receipt(unit) is not None or (receipt := table.receipt(unit)) is None:
            continue
        rows, new = next(table.read([unit])), next(draws.read([unit]))
        drawn = set(new["window_id"].to_pylist())
        # in the order of the rows, as an id may stand there twice
        next_new = itertools.count(len(rows))
        order = [next(next_new) if one in drawn else row for row, one in enumerate(rows["window_id"].to_pylist())]
        both = pa.concat_tables([rows, new.cast(rows.schema)])
        # of units without a draw no row is new
        drew = draws.receipt(unit) if drawn else None
        versions = merged([receipt.versions, drew.versions]) if drew else receipt.versions
        better.commit(unit, both.take(order), receipt.counts, versions)
    return better
