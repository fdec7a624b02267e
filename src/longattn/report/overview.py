"""The overview: what a person should know of a selection in half a minute, as a few figures with a sentence each."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from longattn.report.data import ReportData
from longattn.report.evidence import SELECTED, Evidence
from longattn.report.words import brief, percent

State = Literal["good", "look", "unknown"]

STABLE = 0.8
"""Part of the kept tokens that every other choice should keep, for the selection to count as stable."""
EXPLAINED = 0.5
"""Part of the kept tokens that counting tokens may keep too, before it explains the selection."""
DOMINANT = 0.25
"""Part of a source's kept tokens that one document may hold."""
REPEATED = 0.02
"""Part of the kept tokens that may be in two kept windows."""
MISPLACED = 0.01
"""Part of the kept windows that may be on the wrong side of the cut."""
CONFIDENT = 0.9
"""Probability of a refined selection to be the exact one."""
LONGER = 1.5
"""How many times as long the documents of kept windows may be."""
SEPARATES = 0.75
"""AUC against spliced windows from which a score counts as seeing long range."""


@dataclass(frozen=True)
class Card:
    """A question, the figure that answers it, and what to make of it."""

    title: str
    value: str
    text: str
    state: State
    link: str
    """The section that says more."""

    @property
    def verdict(self) -> str:
        """The state in a word, for those who do not see its colour."""
        return {"good": "fine", "look": "look closer", "unknown": "not checked"}[self.state]


def cards(data: ReportData) -> list[Card]:
    """The overview's figures; what was not measured says how it could be."""
    found = [_tested(data), _cut(data), *_read(data)]
    if data.evidence is not None:
        found += [*_choices(data.evidence), _tokens_alone(data.evidence), *_lengths(data.evidence)]
        found += [*_repeats(data), *_one_document(data.evidence)]
    return found


def scorer_names(data: ReportData) -> list[str]:
    """The scorers that the selection's score is made of."""
    return list(data.manifest.get("recipe", {}).get("keep", {}).get("weights", {"longattn": 1.0}))


def separations(data: ReportData, scorers: Sequence[str] | None = None) -> list[Mapping[str, Any]]:
    """What the validation says of these scorers, or of all; estimates are lists of a value and its interval's ends."""
    if data.validation is None:
        return []
    kinds = {label: of.get("scorer", label) for label, of in data.validation["scorers"].items()}
    rows = data.validation["separations"]
    return [row for row in rows if scorers is None or kinds.get(row["scorer"], row["scorer"]) in scorers]


def _tested(data: ReportData) -> Card:
    title = "Does the score see long range?"
    rows = separations(data, scorer_names(data))
    for control in sorted({row["control"] for row in rows}, key=_nearness):
        of_control = [row for row in rows if row["control"] == control]
        if of_control:
            worst = min(of_control, key=lambda row: row["auc"][0])
            value, low, _ = worst["auc"]
            sees = value >= SEPARATES and low is not None and low > 0.5
            text = (
                f"is how often an intact window scores above a {control} one, in the source where it does so least "
                f"({brief(worst['source'], 40)}). Chance is 50 %, and a score that reads gets close to 100 %."
            )
            return Card(title, percent(value, 0), text, "good" if sees else "look", "validation")
    held_out = [row for row in (data.preset or {}).get("evidence", {}).get("separations", ()) if row["held_out"]]
    if held_out:
        worst = min(held_out, key=lambda row: row["held_out"][0])
        value, *_ = worst["held_out"]
        text = (
            f"is how often, in documents that the calibration did not use, an intact window scores above a "
            f"{worst['control']} one, where it does so least. Chance is 50 %."
        )
        return Card(title, percent(value, 0), text, "good" if value >= SEPARATES else "look", "validation")
    text = "Nobody has checked on this text yet: longattn validate holds intact windows against spliced ones."
    return Card(title, "–", text, "unknown", "validation")


def _nearness(control: str) -> tuple[int, int, str]:
    """Sorts controls by how near they are to the question of long range: eight pieces, then the most pieces."""
    kind, _, number = control.partition("-")
    if kind == "spliced":
        return (0 if number == "8" else 1, -int(number), control)
    return (2 if kind == "twin" else 3, 0, control)


def _cut(data: ReportData) -> Card:
    title = "Is the cut certain?"
    refinement = data.manifest.get("refinement")
    kept = sum(of["kept"] for of in data.manifest.get("selection", {}).get("sources", {}).values())
    if refinement:
        text = "is how sure it is, at least, that all rows would keep these windows; rows were drawn, then refined."
        value = refinement["confidence"]
        return Card(title, percent(value), text, "good" if value >= CONFIDENT else "look", "cut")
    cuts = data.cuts.values()
    if any(of.wrong is not None for of in cuts):
        wrong = sum(of.wrong or 0.0 for of in cuts)
        text = "windows are expected on the wrong side, because rows were drawn; longattn refine settles them."
        return Card(title, f"{wrong:.1f}", text, "good" if wrong <= MISPLACED * kept else "look", "cut")
    if any(of.near is not None for of in cuts):
        near = sum(of.near or 0 for of in cuts)
        text = "windows lie so close to the cut that rounding could move them to the other side."
        return Card(title, f"{near:,}", text, "good" if near <= MISPLACED * kept else "look", "cut")
    ties = sum(of.ties for of in cuts)
    text = "windows were left out with the very score of one that was kept; their ids decided."
    return Card(title, f"{ties:,}", text, "good" if ties <= MISPLACED * kept else "look", "cut")


def _read(data: ReportData) -> Iterator[Card]:
    ledger = data.manifest.get("ledger", {})
    if ledger.get("documents"):
        rejected = sum(count for key, count in ledger.items() if key.startswith("rejected."))
        text = (
            f"of {ledger['documents']:,} records could not be read as documents; {ledger.get('too_short', 0):,} were "
            "too short for a window."
        )
        yield Card("Was everything read?", f"{rejected:,}", text, _good(not rejected), "read")


def overlap(evidence: Evidence, name: str, source: str | None = None) -> float | None:
    """The part of the kept tokens that another choice keeps too; None where nothing is kept."""
    whole = evidence.outcome.tokens(SELECTED, source=source)
    return evidence.outcome.tokens(SELECTED, name, source=source) / whole if whole else None


def _choices(evidence: Evidence) -> Iterator[Card]:
    found = [(share, of.name) for of in evidence.effects if (share := overlap(evidence, of.name)) is not None]
    if found:
        least, name = min(found)
        text = f"of the kept tokens stay kept with {name}, of {len(found)} other settings the one that changes most."
        yield Card("Would other settings keep the same?", percent(least, 0), text, _good(least >= STABLE), "choices")


def _tokens_alone(evidence: Evidence) -> Card:
    title = "Is it more than counting tokens?"
    if "token_null" not in evidence.scorers:
        text = "The scorer token_null was not measured: what a bag of tokens alone would keep is not known."
        return Card(title, "–", text, "unknown", "scorers")
    share = overlap(evidence, "token_null")
    if share is None:
        return Card(title, "–", "Nothing is kept that a bag of tokens could explain.", "unknown", "scorers")
    text = "of the kept tokens would be kept as well by counting which tokens a window has, without reading it."
    return Card(title, percent(share, 0), text, _good(share <= EXPLAINED), "scorers")


def _lengths(evidence: Evidence) -> Iterator[Card]:
    ratios = [
        (of.kept_quantiles[50] / of.quantiles[50], source)
        for source, of in evidence.lengths.items()
        if of.kept_quantiles and of.kept_quantiles[50] and of.quantiles[50]
    ]
    if ratios:
        # half as long is as far from the usual as twice as long
        ratio, source = max(ratios, key=lambda pair: max(pair[0], 1 / pair[0]))
        text = (
            f"as long as usual are the documents that kept windows come from (medians, in {brief(source, 40)}, "
            "where this differs most)."
        )
        good = 1 / LONGER <= ratio <= LONGER
        yield Card("Is it only length?", f"{ratio:.2f}×", text, _good(good), "checks")


def _repeats(data: ReportData) -> Iterator[Card]:
    documents = data.evidence.documents.values() if data.evidence else ()
    tokens = sum(of.tokens for of in documents)
    if tokens:
        repeated = sum(of.repeated for of in documents) / tokens
        searched = data.manifest.get("recipe", {}).get("keep", {}).get("near_duplicates") is not None
        text = "of the kept tokens are in two kept windows. Near duplicates were " + (
            "dropped." if searched else "not looked for (--keep.near-duplicates)."
        )
        state: State = "look" if repeated > REPEATED else "good" if searched else "unknown"
        yield Card("Is anything kept twice?", percent(repeated), text, state, "checks")


def _one_document(evidence: Evidence) -> Iterator[Card]:
    found = [(of.largest_share, source) for source, of in evidence.documents.items() if of.tokens]
    if found:
        share, source = max(found)
        text = f"of a source's kept tokens come from one document, in {brief(source, 40)}, where this is most."
        yield Card("Does one document dominate?", percent(share, 0), text, _good(share <= DOMINANT), "checks")


def _good(holds: bool) -> State:
    return "good" if holds else "look"
