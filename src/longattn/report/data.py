"""What a report shows, as plain data, and how it is gathered from a run folder."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from longattn.errors import DamageError, RunError
from longattn.records import Reject
from longattn.report.cut import Cut, find_cuts
from longattn.report.evidence import Evidence, Measured, weigh
from longattn.report.selections import load_selection, reading
from longattn.selection.database import Database
from longattn.tables import RunFolder, file_sha256, read_sealed

HEAD_CHARS, TAIL_CHARS = 700, 400
"""Characters of a window that are shown."""

MAX_SOURCES = 24
"""Sources with charts and windows of their own; the tables have all."""

FEW_SOURCES = 8
"""Up to so many sources show several texts of each kind, more of them show one."""

MAX_ROWS = 1200
"""Windows in the page's table, of all sources together."""
MOST_OF_A_KIND = 50
"""Best windows of a source in that table; as many of each other kind."""

Kind = Literal["best", "borderline", "worst", "random"]
"""Why a window is shown."""


@dataclass(frozen=True, slots=True)
class Excerpt:
    """The beginning and the end of a text."""

    head: str
    tail: str = ""
    left_out: int = 0
    """Characters between the two."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A window to look at."""

    window_id: str
    doc_id: str
    source: str
    start: int
    num_tokens: int
    ds: float | None
    du: float | None
    score: float
    score_se: float | None = None
    """Standard error of the score, where rows were drawn."""
    rank: int
    reason: str
    """``kept``, or why not."""
    excerpt: Excerpt | None = None
    page: str | None = None
    """Its inspect page, relative to the report; None where there is none."""


@dataclass(frozen=True)
class TableCost:
    """What measuring one table came to, counted: the same on every machine."""

    name: str
    windows: int
    num_bytes: int
    """On disk, compressed."""
    pairs: float | None
    """Share of all pairs of a query and a key that was looked at; None where no attention was sampled."""


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """Everything that a report says; times and facts of the machine are no part of it unless asked for."""

    manifest: Mapping[str, Any]
    """The run's: recipe, model, tables, versions, ledger, selection."""
    null: Mapping[str, float] = field(default_factory=dict)
    """Readings under uniform attention, by name."""
    best: Mapping[str, Sequence[Example]] = field(default_factory=dict)
    """By source, best first; with texts where these may be shown, as the two below."""
    borderline: Mapping[str, Sequence[Example]] = field(default_factory=dict)
    """By source, the last windows kept and the first left out, best first."""
    worst: Mapping[str, Sequence[Example]] = field(default_factory=dict)
    """By source, worst first."""
    windows: Sequence[tuple[Kind, Example]] = ()
    """More windows of each kind, without their texts."""
    cuts: Mapping[str, Cut] = field(default_factory=dict)
    evidence: Evidence | None = None
    """None where the tables are not at hand."""
    validation: Mapping[str, Any] | None = None
    """What ``longattn validate`` found, as it wrote it."""
    preset: Mapping[str, Any] | None = None
    """The preset that was measured by, with its evidence."""
    costs: Sequence[TableCost] = ()
    timings: Sequence[Mapping[str, Any]] = ()
    """Attempts at measuring, from ``timings.json``, where they are to be shown."""
    selection_hash: str = ""
    """SHA-256 of ``selection.parquet``."""
    rejects: Sequence[Reject] = ()
    """The first rejected records; the ledger has the counts."""
    command: str = ""
    """What a person types to get this run again."""
    folder: str = ""
    """The run folder, as it was named."""


def gather(
    run: RunFolder,
    *,
    null: Mapping[str, float],
    command: str,
    texts: Callable[[Sequence[str]], Mapping[str, str]] | None = None,
    measured: Measured | None = None,
    validation: Path | None = None,
    preset: Mapping[str, Any] | None = None,
    timings: bool = False,
    page_of: Callable[[str], str] | None = None,
    per_source: int = 3,
    max_rejects: int = 50,
) -> ReportData:
    """Collect a report's data from a run that has been selected.

    ``texts`` returns the texts of windows by id; None leaves them out, for a corpus that is not to be shown.
    ``measured`` are the tables that other choices are tried on. ``validation`` is a ``validation.json``; None takes the
    run's own, if there is one. ``page_of`` names the inspect page of a window, relative to the run folder; those that
    are there are linked. Raises :class:`RunError` for a run that was not selected, or a damaged file.
    """
    selection = run.root / "selection.parquet"
    if not selection.exists():
        raise RunError(f"{run.root} has no selection.parquet; select before reporting")
    manifest = run.manifest()
    sources = manifest.get("selection", {}).get("sources", {})
    shown = largest_sources(manifest)
    count = max(per_source, min(MOST_OF_A_KIND, MAX_ROWS // (len(get_args(Kind)) * max(1, len(shown)))))
    with reading(run.root) as database:
        load_selection(database, selection, "chosen")
        cuts = find_cuts(database, measured.noise if measured else {})
        found = {kind: find_windows(database, kind, count, shown) for kind in get_args(Kind)}
    found = _with_pages(found, run.root, page_of)
    texts_each = per_source if len(shown) <= FEW_SOURCES else 1
    few = {kind: {source: of[:texts_each] for source, of in found[kind].items()} for kind in ("best", "worst")}
    few["borderline"] = {source: _middle(of, min(2, texts_each)) for source, of in found["borderline"].items()}
    few["worst"] = {s: [e for e in of if e not in few["best"].get(s, ())] for s, of in few["worst"].items()}
    if texts is not None:
        named = dict.fromkeys(e.window_id for groups in few.values() for group in groups.values() for e in group)
        read = texts(list(named))
        few = {kind: _with_excerpts(groups, read) for kind, groups in few.items()}
    rejects = _first_rejects(run.root / "rejects.jsonl", max_rejects)
    if texts is None:
        # a detail may quote what was found
        rejects = [replace(one, detail="") for one in rejects]
    return ReportData(
        manifest=manifest,
        null=null,
        **few,
        windows=[(kind, e) for kind, groups in found.items() for group in groups.values() for e in group],
        cuts=cuts,
        evidence=None if measured is None else weigh(measured, selection, sources),
        validation=_read_validation(run.root, validation),
        preset=preset,
        costs=[] if measured is None else list(table_costs(run, measured)),
        timings=_timings(run.root / "timings.json") if timings else (),
        selection_hash=file_sha256(selection),
        rejects=rejects,
        command=command,
        folder=run.place,
    )


def largest_sources(manifest: Mapping[str, Any], count: int = MAX_SOURCES) -> set[str]:
    """The sources with most tokens."""
    sources = manifest.get("selection", {}).get("sources", {})
    return set(sorted(sources, key=lambda name: (-sources[name]["tokens"], name))[:count])


def find_windows(database: Database, kind: Kind, count: int, sources: set[str]) -> dict[str, list[Example]]:
    """Windows of the table ``chosen`` by source, ``count`` of each: best first, worst first, or by rank.

    Borderline are the last ``count`` / 2 kept, and as many of the first left out for their score. The random ones are
    those whose ids have the lowest MD5 sums: the same whenever they are drawn.
    """
    names = [name for name in Example.__dataclass_fields__ if name not in ("excerpt", "page")]
    row = "struct_pack(" + ", ".join(f"{name} := {name}" for name in names) + ")"
    half = max(1, count // 2)
    picks = {
        "best": f"arg_min({row}, rank, {count})",
        "worst": f"arg_max({row}, rank, {count})",
        "borderline": f"list_concat(list_reverse(arg_max({row}, rank, {half}) FILTER (reason = 'kept')), "
        f"arg_min({row}, rank, {half}) FILTER (reason = 'below_cut'))",
        "random": f"list_sort(arg_min({row.replace('(', '(rank_ := rank, ', 1)}, md5(window_id), {count}))",
    }
    found = database.rows(
        f"SELECT source, {picks[kind]} FROM chosen WHERE score IS NOT NULL GROUP BY source ORDER BY source"
    )
    fields = set(names)
    return {
        source: [Example(**{key: value for key, value in of.items() if key in fields}) for of in rows or ()]
        for source, rows in found
        if source in sources
    }


def _middle(examples: Sequence[Example], each: int) -> list[Example]:
    """The last kept and the first left out, of borderline windows in order of rank."""
    kept = [e for e in examples if e.reason == "kept"]
    return [*kept[-each:], *[e for e in examples if e.reason != "kept"][:each]]


def _with_pages(
    found: Mapping[Kind, Mapping[str, list[Example]]], root: Path, page_of: Callable[[str], str] | None
) -> dict[Kind, dict[str, list[Example]]]:
    def linked(example: Example) -> Example:
        page = page_of(example.window_id) if page_of else None
        return replace(example, page=page) if page and (root / page).exists() else example

    return {kind: {source: [linked(e) for e in of] for source, of in groups.items()} for kind, groups in found.items()}


def excerpt(text: str, head: int = HEAD_CHARS, tail: int = TAIL_CHARS) -> Excerpt:
    """The text's beginning and end, or all of it if it is short."""
    if len(text) <= head + tail:
        return Excerpt(text)
    return Excerpt(text[:head], text[-tail:], len(text) - head - tail)


def _with_excerpts(groups: Mapping[str, list[Example]], texts: Mapping[str, str]) -> dict[str, list[Example]]:
    return {
        source: [replace(e, excerpt=excerpt(texts[e.window_id])) if e.window_id in texts else e for e in group]
        for source, group in groups.items()
    }


def table_costs(run: RunFolder, measured: Measured) -> Iterator[TableCost]:
    """What measuring each table of the run came to, by name; windows that could not be measured have no share."""
    tables = run.manifest().get("tables", {})
    for name, facts in sorted(tables.items()):
        if name == "documents":
            continue
        table = run.table(name, facts["settings"])
        receipts = [receipt for unit in measured.units if (receipt := table.receipt(unit))]
        pairs = None
        if facts["settings"].get("measurement", {}).get("rows") is not None:
            shares = [share for rows in table.read(measured.units, ["pairs"]) for share in rows["pairs"].to_pylist()]
            known = [share for share in shares if math.isfinite(share)]
            pairs = math.fsum(known) / max(1, len(known))
        yield TableCost(name, sum(r.rows for r in receipts), sum(r.num_bytes for r in receipts), pairs)


def _read_validation(root: Path, path: Path | None) -> dict[str, Any] | None:
    """A validation's figures. Raises :class:`RunError` for a named file that holds none."""
    found = _read_json(path or root / "validity" / "validation.json")
    if found is None and path is not None:
        raise RunError(f"{path} is not there; longattn validate writes validity/validation.json")
    if found is not None and not (isinstance(found, dict) and {"separations", "sources", "scorers"} <= found.keys()):
        raise RunError(f"{path or root / 'validity' / 'validation.json'} is no validation; run longattn validate again")
    return found


def _read_json(path: Path) -> Any:
    """What the file holds, None where there is no file."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise DamageError(path, str(error)) from error


def _timings(path: Path) -> Sequence[Mapping[str, Any]]:
    return read_sealed(path)["attempts"] if path.exists() else ()


def _first_rejects(path: Path, count: int) -> list[Reject]:
    if not path.exists():
        return []
    with path.open("rb") as lines:
        return [Reject(**json.loads(line)) for line, _ in zip(lines, range(count), strict=False)]
