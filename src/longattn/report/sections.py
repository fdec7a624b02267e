"""What the sections of a report say of a source, of other choices, and of the run as a whole."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from longattn.report import charts
from longattn.report.cut import Cut
from longattn.report.data import Example
from longattn.report.evidence import SCORE, SELECTED, Evidence
from longattn.report.overview import overlap
from longattn.report.text import visible
from longattn.selection.choices import Correlation

NAMES = {"score": "Score", "ds": "Dependency strength DS", "du": "Distribution uniformity DU"}
"""Titles of the distributions, in the order shown."""


@dataclass(frozen=True)
class Source:
    """What the page says of one source."""

    name: str
    facts: Mapping[str, Any]
    """The source's summary from the selection."""
    null: Mapping[str, float]
    best: tuple[Example, ...] = ()
    borderline: tuple[Example, ...] = ()
    worst: tuple[Example, ...] = ()
    cut: Cut | None = None
    explained: Sequence[int] = ()
    """Windows by the bins of DS, placed by what a bag of tokens predicts of it."""
    around: tuple[Example, ...] = ()
    """More borderline windows, for the chart."""
    by_length: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    """All and kept windows by the length of their document."""

    @property
    def lengths(self) -> Markup | None:
        """How long the documents of all and of kept windows are."""
        if not self.by_length or not any(kept for _, kept in self.by_length.values()):
            return None
        return charts.shares_by_length(visible(self.name), self.by_length)

    @property
    def quantities(self) -> Mapping[str, charts.Quantity]:
        """Score and readings that some scored window has."""
        return {name: of for name, of in self.facts["quantities"].items() if of["scored"]}

    @property
    def histograms(self) -> list[Markup]:
        """Distributions of score, DS and DU with the uniform null and the cut."""
        return [
            charts.histogram(title, self.quantities[name], self._marks(name), self.explained if name == "ds" else ())
            for name, title in NAMES.items()
            if name in self.quantities
        ]

    @property
    def by_distance(self) -> list[Markup]:
        """DS at every measured distance, against its null and between windows; none for a single distance."""
        found = {int(name[3:]): of for name, of in self.quantities.items() if name.startswith("ds@")}
        null = {int(name[3:]): value for name, value in self.null.items() if name.startswith("ds@")}
        if len(found.keys() & null.keys()) < 2:
            return []
        name = visible(self.name)
        return [charts.strength_by_distance(name, found, null), charts.spread_by_distance(name, found)]

    @property
    def strength(self) -> Mapping[str, float] | None:
        """DS against its null: means of scored and kept windows, differences, and the first in deviations."""
        if "ds" not in self.quantities or "ds" not in self.null:
            return None
        of, null = self.quantities["ds"], self.null["ds"]
        excess, deviation = of["scored"]["mean"] - null, of["scored"]["deviation"]
        found = {"mean": of["scored"]["mean"], "excess": excess, "deviation": deviation, "null": null}
        found["deviations"] = excess / deviation if deviation else 0.0
        return found | ({"kept": of["kept"]["mean"]} if of["kept"] else {})

    @property
    def around_the_cut(self) -> Markup | None:
        """Scores next to the cut by rank."""
        if self.cut is None or self.cut.next_best is None or len(self.around) < 2:
            return None
        points = [(e.rank, e.score, e.score_se or 0.0, e.reason == "kept") for e in self.around]
        middle = (self.cut.lowest_kept + self.cut.next_best) / 2
        return charts.around_the_cut(visible(self.name), points, middle, self.cut.noise or 0.0)

    def z(self, name: str, value: float | None) -> float | None:
        """How many standard deviations of the source's windows a reading lies above their mean."""
        if value is None or name not in self.quantities or not self.quantities[name]["scored"]["deviation"]:
            return None
        of = self.quantities[name]["scored"]
        return (value - of["mean"]) / of["deviation"]

    def _marks(self, name: str) -> list[charts.Mark]:
        marks = [charts.Mark(self.null[name], "uniform", "null")] if name in self.null else []
        if name == "score" and self.facts["cut_score"] is not None:
            marks.append(charts.Mark(self.facts["cut_score"], "cut", "cut"))
        return marks


@dataclass(frozen=True)
class Choices:
    """What the page says of other choices and other scorers."""

    evidence: Evidence
    sources: Sequence[str]
    """Those that are looked at by themselves."""

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The other settings, the one that changes most last."""
        rows = [{"name": of.name, "flags": of.flags, **self._figures(of.name)} for of in self.evidence.effects]
        return sorted(rows, key=lambda row: (-row["overlap"], row["name"]))

    @property
    def scorers(self) -> list[dict[str, Any]]:
        """Every other scorer beside the score, the one that keeps most of the same first."""
        found = {of: self._figures(of) for of in self.evidence.scorers}
        rows = [{"name": name, "spearman": self._spearman(SCORE, name), **of} for name, of in found.items()]
        return sorted(rows, key=lambda row: (-row["overlap"], row["name"]))

    @property
    def pairs(self) -> list[dict[str, Any]]:
        """Every two other scorers."""
        outcome = self.evidence.outcome
        return [
            {
                "first": first,
                "second": second,
                "spearman": self._spearman(first, second),
                "overlap": outcome.tokens(first, second) / max(1, outcome.tokens(first)),
            }
            for i, first in enumerate(self.evidence.scorers)
            for second in self.evidence.scorers[i + 1 :]
        ]

    def chart(self, rows: Sequence[Mapping[str, Any]], chance: float) -> Markup:
        """The overlaps as bars."""
        title = "Part of the kept tokens that another choice keeps too"
        return charts.overlap_bars(title, [(visible(row["name"]), row["overlap"]) for row in rows], chance)

    def _figures(self, name: str) -> dict[str, Any]:
        outcome = self.evidence.outcome
        both, mine = outcome.windows(SELECTED, name), outcome.windows(SELECTED)
        by_source = {s: overlap(self.evidence, name, s) for s in self.sources}
        return {
            "overlap": overlap(self.evidence, name) or 0.0,
            "left": mine - both,
            "entered": outcome.windows(name) - both,
            "by_source": [(source, share) for source, share in by_source.items() if share is not None],
        }

    def _spearman(self, first: str, second: str) -> float | None:
        """Mean over sources, weighted by their windows."""
        found: list[Correlation] = [
            of for of in self.evidence.outcome.correlations if {of.first, of.second} == {first, second}
        ]
        known = [(of.windows, of.spearman) for of in found if of.spearman is not None]
        windows = sum(count for count, _ in known)
        return sum(count * value for count, value in known) / windows if windows else None


@dataclass(frozen=True)
class Balance:
    """A sum of the ledger that has to come out."""

    total: int
    name: str
    parts: Mapping[str, int]

    @property
    def holds(self) -> bool:
        """Whether the parts add up to the total."""
        return sum(self.parts.values()) == self.total


@dataclass(frozen=True)
class Run:
    """What the page says of the run as a whole."""

    manifest: Mapping[str, Any]
    preset: Mapping[str, Any] | None = None
    """The preset that was measured by, where it is at hand."""

    @property
    def recipe(self) -> Mapping[str, Any]:
        """Every setting, by section."""
        return self.manifest.get("recipe", {})

    @property
    def length(self) -> int | None:
        """Tokens of a window."""
        return self.recipe.get("window", {}).get("length")

    @property
    def model(self) -> str:
        """Name of the model that was looked at; empty where there was none."""
        return self.manifest.get("model", {}).get("name", "")

    @property
    def layers(self) -> Sequence[int]:
        """Decoder layers that LongAttn looked at; none where it was not measured."""
        return self._measured.get("layers", ())

    @property
    def distance(self) -> int | None:
        """Minimum distance in tokens that DS and DU are read at; None where that is not known."""
        settings = self.recipe.get("settings", {}).get("longattn", {})
        if settings.get("preset") and (self.preset is None or "distance" in self.preset):
            # it replaces the setting, and a calibrated one measures no other; one of retrieval heads names none
            found = self._measured.get("distances", ())
            return found[0] if len(found) == 1 else None
        return settings.get("distance") or (max(1, self.length // 4) if self.length else None)

    @property
    def _measured(self) -> Mapping[str, Any]:
        """What of LongAttn's settings changes what is measured, as its table has it."""
        return self.manifest.get("tables", {}).get("longattn", {}).get("settings", {}).get("measurement", {})

    def balances(self) -> list[Balance]:
        """Records read and windows cut, with what became of them."""
        ledger = self.manifest.get("ledger", {})
        if not ledger:
            return []
        rejected = {
            f"rejected: {key.removeprefix('rejected.').replace('_', ' ')}": count
            for key, count in sorted(ledger.items())
            if key.startswith("rejected.")
        }
        parts = {
            "cut into windows": ledger.get("windowed", 0),
            "too short for a window": ledger.get("too_short", 0),
        }
        found = [Balance(ledger.get("documents", 0), "records read", parts | rejected)]
        for key in sorted(key for key in ledger if key.startswith("scored.")):
            scorer = key.removeprefix("scored.")
            parts = {"measured": ledger[key], "not a finite number": ledger.get(f"non_finite.{scorer}", 0)}
            if failed := ledger.get(f"failed.{scorer}", 0):
                parts["could not be measured"] = failed
            found.append(Balance(ledger.get("windows", 0), f"windows for {scorer}", parts))
        return found

    def rejected(self) -> dict[str, int]:
        """Rejected records by reason, most first."""
        ledger = self.manifest.get("ledger", {})
        found = {key.removeprefix("rejected."): n for key, n in ledger.items() if key.startswith("rejected.") and n}
        return dict(sorted(found.items(), key=lambda pair: (-pair[1], pair[0])))

    def warnings(self) -> list[str]:
        """What is wrong with the run as a whole."""
        found = [
            f"the ledger does not balance: {balance.total:,} {balance.name}, "
            f"{sum(balance.parts.values()):,} accounted for"
            for balance in self.balances()
            if not balance.holds
        ]
        ledger = self.manifest.get("ledger", {})
        rejected = sum(count for key, count in ledger.items() if key.startswith("rejected."))
        if rejected:
            found.append(f"{rejected:,} of {ledger.get('documents', 0):,} records were rejected; see what was read")
        return found

    def settings(self) -> dict[str, dict[str, Any]]:
        """Settings by section, those of each scorer as a section of their own."""
        sections = {name: part for name, part in self.recipe.items() if isinstance(part, dict)}
        scorers = sections.pop("settings", {})
        chosen = self.recipe.get("scorers", ())
        return {**sections, **{name: part for name, part in scorers.items() if name in chosen}}

    def facts(self) -> dict[str, Any]:
        """Hashes and versions."""
        tables = {f"table {name}": of["folder"] for name, of in sorted(self.manifest.get("tables", {}).items())}
        model = {f"model {name}": value for name, value in self.manifest.get("model", {}).items()}
        tokenizer = self.manifest.get("tables", {}).get("windows", {}).get("settings", {}).get("tokenizer")
        versions = {f"{name} version": value for name, value in sorted(self.manifest.get("versions", {}).items())}
        return {**model, **({"tokenizer hash": tokenizer} if tokenizer else {}), **tables, **versions}
