"""The page itself: a run's data put into words, tables and charts, in one file that loads nothing."""

import shlex
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from longattn.corpus import REASONS as REJECTS
from longattn.report import charts, overview
from longattn.report.data import Kind, ReportData, largest_sources
from longattn.report.html import page_template
from longattn.report.sections import Choices, Run, Source
from longattn.report.text import visible
from longattn.report.words import FILTERS, place
from longattn.tables import RunFolder, write_text

KINDS: Mapping[Kind, str] = {
    "best": "highest score",
    "borderline": "next to the cut",
    "worst": "lowest score",
    "random": "at random",
}
"""Why a window is in the table."""

MAX_ROWS = 150
"""Sources in a table; the largest are shown."""


def write_report(run: RunFolder, data: ReportData) -> Path:
    """Write ``report.html`` into the run folder and return its path; equal data give equal bytes."""
    path = run.root / "report.html"
    write_text(path, render(data))
    return path


def render(data: ReportData) -> str:
    """The page as HTML: no address outside the run, nothing that is fetched; data are text and never markup."""
    selection = data.manifest.get("selection", {})
    every = sorted(selection.get("sources", {}).items())
    largest = largest_sources(data.manifest, MAX_ROWS)
    sources = [_source(data, name, facts) for name, facts in every if name in largest]
    by_name = {source.name: source for source in sources}
    shown = largest_sources(data.manifest)
    large = [source for source in sources if source.name in shown]
    run = Run(data.manifest, data.preset)
    totals = {
        key: sum(facts[key] for _, facts in every)
        for key in ("windows", "tokens", "kept", "kept_tokens", "kept_documents", "documents", "scored_tokens")
    }
    return _template().render(
        data=data,
        run=run,
        cards=overview.cards(data),
        sources=sources,
        windows=[(kind, e, by_name[e.source]) for kind, e in data.windows if e.source in by_name],
        num_sources=len(every),
        shown=large,
        bars=charts.token_bars([(visible(s.name), s.facts["scored_tokens"], s.facts["kept_tokens"]) for s in large]),
        notes=[*run.warnings(), *_remarks(data), *selection.get("notes", ())],
        met=sorted({reason for source in sources for reason in source.facts["reasons"]}, key=place),
        totals=totals,
        chance=totals["kept_tokens"] / totals["scored_tokens"] if totals["scored_tokens"] else 0.0,
        choices=None if data.evidence is None else Choices(data.evidence, [source.name for source in large]),
        separations=overview.separations(data),
        measured=overview.scorer_names(data),
        kinds=KINDS,
        rejects=REJECTS,
        command=lambda window: shlex.join(["longattn", "inspect", data.folder or "RUN", window]),
    )


def _source(data: ReportData, name: str, facts: Mapping[str, Any]) -> Source:
    evidence = data.evidence
    return Source(
        name,
        facts,
        data.null,
        best=tuple(data.best.get(name, ())),
        borderline=tuple(data.borderline.get(name, ())),
        worst=tuple(data.worst.get(name, ())),
        cut=data.cuts.get(name),
        explained=evidence.token_null.get(name, ()) if evidence else (),
        around=tuple(e for kind, e in data.windows if kind == "borderline" and e.source == name),
        by_length=evidence.lengths[name].histogram if evidence and name in evidence.lengths else {},
    )


def _remarks(data: ReportData) -> list[str]:
    """What does not fit together."""
    found = []
    if data.evidence is not None and not data.evidence.same:
        found.append(
            "selecting again by the recorded settings keeps other windows than the selection file does: tables or "
            "settings have changed since; run longattn select"
        )
    if data.validation is not None:
        run, model = Run(data.manifest), data.validation.get("model", {})
        theirs = (data.validation.get("window"), model.get("hash"))
        mine = (run.length, data.manifest.get("model", {}).get("hash"))
        if theirs != mine:
            found.append(
                f"the validation is of windows of {theirs[0]} tokens and model {theirs[1]}, this run of "
                f"{mine[0]} and {mine[1]}"
            )
    return found


@cache
def _template() -> jinja2.Template:
    return page_template("longattn.report", "report.html.jinja", scripts=("tables.js",), filters=FILTERS)
