"""The page itself: a run's data put into words, tables and charts, in one file that loads nothing."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from longattn.report import charts
from longattn.report.data import Example, ReportData, largest_sources
from longattn.report.html import page_template
from longattn.report.svg import superscript
from longattn.report.text import visible
from longattn.tables import RunFolder, write_text

REASONS = {
    "kept": "kept",
    "below_cut": "below the cut",
    "overlap": "overlaps a better window",
    "near_duplicate": "all but repeats a better window",
    "filtered": "fails the condition of --keep.where",
    "non_finite": "no finite score",
    "duplicate_id": "the document's id was read before",
}
"""What the reasons in the selection file mean."""

NAMES = {"score": "Score", "ds": "Dependency strength DS", "du": "Distribution uniformity DU"}
"""Titles of the distributions, in the order shown."""


def write_report(run: RunFolder, data: ReportData) -> Path:
    """Write ``report.html`` into the run folder and return its path; equal data give equal bytes."""
    path = run.root / "report.html"
    write_text(path, render(data))
    return path


def render(data: ReportData) -> str:
    """The page as HTML: no script, no address, nothing that is fetched; data are text and never markup."""
    selection = data.manifest.get("selection", {})
    sources = [
        Source(name, facts, data.null, tuple(data.best.get(name, ())), tuple(data.worst.get(name, ())))
        for name, facts in sorted(selection.get("sources", {}).items())
    ]
    shown = largest_sources(data.manifest)
    large = [source for source in sources if source.name in shown]
    run = Run(data.manifest)
    return _template().render(
        data=data,
        run=run,
        selection=selection,
        sources=sources,
        shown=large,
        bars=charts.token_bars([(visible(s.name), s.facts["scored_tokens"], s.facts["kept_tokens"]) for s in large]),
        notes=[*run.warnings(), *selection.get("notes", ())],
        reasons=REASONS,
        met=sorted({reason for source in sources for reason in source.facts["reasons"]}, key=_place),
        totals={key: sum(s.facts[key] for s in sources) for key in ("windows", "tokens", "kept", "kept_tokens")},
    )


@dataclass(frozen=True)
class Source:
    """What the page says of one source."""

    name: str
    facts: Mapping[str, Any]
    """The source's summary from the selection."""
    null: Mapping[str, float]
    best: tuple[Example, ...]
    worst: tuple[Example, ...]

    @property
    def quantities(self) -> Mapping[str, charts.Quantity]:
        """Score and readings that some scored window has."""
        return {name: of for name, of in self.facts["quantities"].items() if of["scored"]}

    @property
    def histograms(self) -> list[Markup]:
        """Distributions of score, DS and DU with the uniform null and the cut."""
        return [
            charts.histogram(title, self.quantities[name], self._marks(name))
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

    def _marks(self, name: str) -> list[charts.Mark]:
        marks = [charts.Mark(self.null[name], "uniform", "null")] if name in self.null else []
        if name == "score" and self.facts["cut_score"] is not None:
            marks.append(charts.Mark(self.facts["cut_score"], "cut", "cut"))
        return marks


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
        measured = self.manifest.get("tables", {}).get("longattn", {}).get("settings", {}).get("measurement", {})
        return measured.get("layers", ())

    @property
    def distance(self) -> int | None:
        """Minimum distance in tokens that DS and DU are read at."""
        settings = self.recipe.get("settings", {}).get("longattn", {})
        return settings.get("distance") or (max(1, self.length // 4) if self.length else None)

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
            found.append(Balance(ledger.get("windows", 0), f"windows for {scorer}", parts))
        return found

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


def _place(reason: str) -> tuple[int, str]:
    """Known reasons in the order of ``REASONS``, others after them."""
    known = list(REASONS)
    return (known.index(reason) if reason in known else len(known), reason)


@cache
def _template() -> jinja2.Template:
    filters = {"number": number, "thousands": "{:,}".format, "compact": charts.compact, "setting": setting}
    return page_template("longattn.report", "report.html.jinja", filters=filters)


def number(value: int | float | None, digits: int = 4) -> str:
    """A measured value for a table; a dash where there is none.

    >>> number(0.40343785), number(-5.74e-10), number(None)
    ('0.4034', '−5.74 × 10⁻¹⁰', '–')
    """
    if value is None:
        return "–"
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.{digits}f}".replace("-", "−")
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa} × {superscript(int(exponent))}".replace("-", "−")


def setting(value: object) -> str:
    """A setting as it would be written in a file; a dash where nothing is set."""
    if isinstance(value, str):
        return value
    return "–" if value is None or value in ([], {}) else json.dumps(value, ensure_ascii=False)
