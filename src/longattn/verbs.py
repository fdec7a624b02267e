"""The stages of a run as functions: what each command line verb does, for a script or a notebook."""

import json
import logging
import os
import platform
import shlex
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from longattn import corpus, engines, measuring, settings
from longattn.addresses import below, is_uri
from longattn.asking import load_model_for, resolve_others
from longattn.errors import CorpusError, DamageError, RunError
from longattn.expressions import Constant, evaluate
from longattn.ledger import Books, balance, rejects
from longattn.locks import holder
from longattn.measuring import Job
from longattn.pilots import with_pilots
from longattn.presets import read_preset
from longattn.quarantine import Quarantine
from longattn.recipes import Recipe, as_flags
from longattn.records import Document, Window, WorkUnit
from longattn.scorers import SCORERS, PilotScorer
from longattn.stores import refresh
from longattn.tables import RunFolder, Table, durable, read_sealed, write_sealed

if TYPE_CHECKING:
    import pyarrow as pa

    from longattn.export import ExportSummary
    from longattn.records import Inspection
    from longattn.refining import Refinement
    from longattn.report import Difference, Measured
    from longattn.scorers import Ask, LongAttn
    from longattn.selection import Selection
    from longattn.verifying import Verification

log = logging.getLogger(__name__)


def plan(recipe: Recipe, output: str | Path, hashes: Path | None = None) -> list[WorkUnit]:
    """List the input as work units and write ``plan.parquet``.

    Units that an earlier plan of this folder made of files that are still the same are kept, so that files added later
    are measured without doing the rest again. With ``hashes`` every file is read, its size and SHA-256 are written
    there, and the units know them. Raises :class:`CorpusError` for an input that matches nothing, or that is not what
    its manifest lists.
    """
    run = RunFolder.at(output)
    if hashes is not None:
        recipe = replace(recipe, corpus=replace(recipe.corpus, manifest=str(hashes)))
        corpus.write_manifest(hashes, corpus.list_files(recipe.corpus, compare=False).files)
    units = corpus.list_units(recipe.corpus, run.plan())
    run.write_plan(units)
    return units


def prepare(recipe: Recipe, output: str | Path | RunFolder) -> Job:
    """Look up the model and its tokenizer, and say what to measure; loads no weights.

    ``output`` is where the run is, or the run as it was looked up already: the listing of a store takes requests.
    Raises ``ValueError`` for a scorer that does not measure what the corpus holds, windows or samples.
    """
    from longattn.models import resolve

    kind = "samples" if recipe.corpus.holds_samples else "windows"
    for scorer in recipe.chosen_scorers():
        if kind not in scorer.measures:
            others = ", ".join(name for name, one in sorted(SCORERS.items()) if kind in one.measures)
            raise ValueError(f"{scorer.name} does not measure {kind}; those that do: {others}")
    checkpoint = resolve(recipe.model)
    presets = [getattr(getattr(recipe.settings, name, None), "preset", None) for name in recipe.scorers]
    for preset in filter(None, presets):
        if (found_on := read_preset(preset, ["model"])["model"]) != checkpoint.hash:
            log.warning("the preset %s was found on model %s, this is model %s", preset, found_on, checkpoint.hash)
    scorers = recipe.chosen_scorers()
    others = resolve_others([ask for scorer in scorers if (ask := scorer.ask())], checkpoint)
    run = output if isinstance(output, RunFolder) else RunFolder.at(output)
    return Job(run, recipe.corpus, recipe.window, recipe.model, checkpoint, scorers, others)


def cut(
    recipe: Recipe,
    output: str | Path,
    compute: settings.Compute | None = None,
    progress: engines.Progress | None = None,
) -> Counter[str]:
    """Plan and cut, without measuring: documents, windows and rejects are known before any model runs."""
    return measure(replace(recipe, scorers=()), output, compute, progress)


def measure(
    recipe: Recipe,
    output: str | Path,
    compute: settings.Compute | None = None,
    progress: engines.Progress | None = None,
) -> Counter[str]:
    """Plan, cut and measure: every scorer's table of every unit; continues where an earlier attempt stopped.

    Returns the ledger: records read and what became of them, windows planned and scored. Writes ``rejects.jsonl``,
    ``manifest.json`` and ``timings.json``. A shard returns its own ledger; what all shards add up to is written by
    :func:`select`.
    """
    compute = compute or settings.Compute()
    compute = replace(compute, shard=engines.resolve_shard(compute.shard, os.environ))
    engines.check(compute)
    run, began, started = RunFolder.at(output), time.time(), time.monotonic()
    # a folder that is in use, or cannot be written, is no reason to look up a model first
    with run.lock(compute.shard):
        run.sweep()
        job = prepare(recipe, run)
        units = run.plan()
        if compute.shard is None or not units:
            # shards work on one plan, which the first of them makes
            units = corpus.list_units(recipe.corpus, units)
            run.write_plan(units)
        if any(isinstance(scorer, PilotScorer) for scorer in job.scorers):
            job = with_pilots(job, units, engines.devices(compute)[0])
        _open(job, recipe, compute.shard)
        try:
            attempt = engines.measure(job, units, compute, progress)
        except (CorpusError, RunError):
            _close(job, units, compute.shard)
            raise
        ledger = _close(job, units, compute.shard)
        _write_timings(job, began, time.monotonic() - started, attempt, compute)
    return ledger


def _open(job: Job, recipe: Recipe, shard: str | None) -> None:
    """Write down what is going to be measured, so that a run that is stopped can be looked at and selected from."""
    tables = {table.name: {"folder": table.folder.name, "settings": table.settings} for table in job.tables()}
    # no shard knows all units, so select is left to add them up
    apart = {} if shard is None else {"ledger": {}}
    job.run.update_manifest(
        **apart,
        recipe=recipe,
        versions=measuring.package_versions(),
        model={"name": job.checkpoint.name, "hash": job.checkpoint.hash},
        model_files=job.checkpoint.files,
        tables={**job.run.manifest().get("tables", {}), **tables},
    )


def _close(job: Job, units: Sequence[WorkUnit], shard: str | None) -> Counter[str]:
    """Add up what is on disk and, unless it is a shard, write it down."""
    for table in job.tables():
        if table.folder.exists():
            table.describe()
    books = Books.of(job, engines.shard_of(units, shard))
    if shard is None:
        return _add_up(job.run, books)
    # somebody may have selected while it was at work
    job.run.update_manifest(ledger={})
    return balance(books)


def _add_up(run: RunFolder, books: Books) -> Counter[str]:
    """Write ``rejects.jsonl`` and the ledger of all units that are on disk."""
    # of two processes, the last one to write must be the last to look as well
    with run.lock("ledger", wait=True), run.replacing("rejects.jsonl") as sections:
        ledger = balance(books)
        with durable(run.root / "rejects.jsonl") as file:
            for line in rejects(books):
                file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
        sections.update(ledger=ledger)
    return ledger


def _write_timings(job: Job, began: float, seconds: float, counts: Counter[str], compute: settings.Compute) -> None:
    """Append this attempt to ``timings.json``, which alone holds times and facts of the machine."""
    path = job.run.root / "timings.json"
    facts: dict[str, Any] = {
        "began": began,
        "seconds": seconds,
        "windows": counts["windows"],
        "tokens_per_second": counts["tokens"] / max(1e-9, seconds),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "compute": settings.plain(compute),
    }
    if job.asks:
        from longattn.attention import cpu_kernel

        facts["cpu_kernel"] = cpu_kernel()
    # a whole run has the folder to itself; shards may end at the same moment
    with nullcontext() if compute.shard is None else job.run.lock("timings", wait=True):
        if compute.shard is not None:
            refresh(path)
        try:
            attempts = read_sealed(path)["attempts"] if path.exists() else []
        except DamageError as error:
            # no result hangs on it, so the hours of this attempt must not
            log.warning("%s; attempts before this one are forgotten", error)
            attempts = []
        write_sealed(path, {"attempts": [*attempts, facts]})


def estimate(recipe: Recipe, output: str | Path, compute: settings.Compute | None = None) -> measuring.Estimate:
    """Windows, bytes and time that measuring would take, from a sample of the input; writes nothing."""
    job = prepare(recipe, output)
    units = corpus.list_units(recipe.corpus, RunFolder.at(output).plan())
    device = engines.devices(compute or settings.Compute(), needed=bool(job.asks))[0]
    return measuring.estimate(job, units, device)


def select(recipe: Recipe, output: str | Path) -> "Selection":
    """Choose among the measured windows and write ``selection.parquet``; no model is loaded.

    Uses the tables that are there: raises :class:`RunError` when a scorer was not measured, or was measured with other
    settings than asked for. After shards it first writes what they add up to: ``rejects.jsonl`` and the ledger.
    """
    from longattn.selection import Formula, select

    run = RunFolder.at(output)
    tables = run.manifest().get("tables", {})
    names = [name for name in recipe.keep.weights if not name.startswith("column:")]
    windows = run_table(run, tables, "windows")
    weighted = {name: measured_table(run, tables, name, dict(recipe.scorer(name).measurement())) for name in names}
    for name, table in weighted.items():
        if not same_windows(table, windows):
            raise RunError(f"{name} was measured on other windows than the last ones cut; measure it again")
    units = run.plan()
    planned = [unit.id for unit in units]
    run.sweep()
    if not run.manifest().get("ledger"):
        _add_up(run, _books(run, tables, windows, units))
    for table in (windows, *weighted.values()):
        table.bring(planned, rows=False)
    done = [unit for unit in planned if all(table.receipt(unit) for table in (windows, *weighted.values()))]
    formulas = {
        name: Formula(table, scorer.score(), scorer.readings(), scorer.variance_of_score())
        for name, table in weighted.items()
        for scorer in (recipe.scorer(name),)
    }
    for name in tables.keys() - formulas.keys() - {"documents", "windows"}:
        # a table that no score uses can be named in a condition, and near duplicates need their signatures; one that
        # lacks some of the units must not take these out of the selection
        table = run_table(run, tables, name)
        if same_windows(table, windows) and all(table.receipt(unit) for unit in done):
            formulas[name] = Formula(table, Constant(0.0))
    formulas |= {Path(file).stem: Formula(Path(file), Constant(0.0)) for file in recipe.keep.tables}
    for table in (windows, *(of.table for of in formulas.values() if isinstance(of.table, Table))):
        table.bring(done)
    with run.replacing("selection.parquet") as sections:
        path = run.root / "selection.parquet"
        selection = select(done, windows, dict(sorted(formulas.items())), recipe.keep, path)
        selection = replace(selection, path=below(run.place, path.name))
        if len(done) < len(planned):
            note = _missing(run, units, done)
            selection = replace(selection, notes=(*selection.notes, note))
        # rejects.jsonl names them all
        facts = {**settings.plain(selection), "duplicates": len(selection.duplicates)}
        # what refining said was said of another selection
        sections.update(selection=facts, recipe=recipe, refinement=None)
    return selection


def _books(run: RunFolder, tables: dict[str, Any], windows: Table, units: Sequence[WorkUnit]) -> Books:
    """What to add up where there is no job: the tables that the manifest lists."""
    found = {name: run_table(run, tables, name) for name in sorted(tables.keys() - {"documents", "windows"})}
    scorers = {name: table for name, table in found.items() if same_windows(table, windows)}
    return Books(run_table(run, tables, "documents"), windows, scorers, units)


def _missing(run: RunFolder, units: Sequence[WorkUnit], done: Sequence[str]) -> str:
    """How many units took no part in a selection, and whose they are."""
    there = set(done)
    missing = [unit for unit in units if unit.id not in there]
    note = f"{len(missing)} of {len(units)} work units are not measured yet and took no part"
    if shards := engines.shards_of(units, missing, run.root):
        note += f": those of shards {', '.join(shards[:10])}" + (", ..." if len(shards) > 10 else "")
    return note


def refine(
    recipe: Recipe, output: str | Path, compute: settings.Compute | None = None
) -> "tuple[Refinement, Selection]":
    """Draw more rows of windows near the cut, and select again, until the kept set is, with the confidence asked for,
    the one that all rows would give.

    Continues where an earlier attempt stopped. Afterwards the run's table of ``longattn`` is the refined one; measuring
    again makes it the first one again. Raises :class:`RunError` for a run that was measured with other settings, and
    ``ValueError`` where all rows were measured or no confidence can be stated.
    """
    from longattn import refining
    from longattn.tables import read_parquet

    job = prepare(replace(recipe, scorers=("longattn",)), output)
    refining.check(cast("LongAttn", job.scorers[0]), recipe.keep)
    units = job.run.plan()
    with job.run.lock():
        device = engines.devices(compute or settings.Compute())[0]
        job = with_pilots(job, units, device)
        scorer = cast("LongAttn", job.scorers[0])
        measured_table(job.run, job.run.manifest().get("tables", {}), "longattn", dict(scorer.measurement()))

        selections: list[Selection] = []

        def choose(table: Table) -> "pa.Table":
            facts = {"folder": table.folder.name, "settings": table.settings}
            job.run.update_manifest(tables={**job.run.manifest()["tables"], "longattn": facts})
            selections.append(select(recipe, output))
            return read_parquet(job.run.root / "selection.parquet")

        begin = job.table(scorer)
        result, _ = refining.refine(job, scorer, units, begin, device, recipe.keep, recipe.refine, choose)
        job.run.update_manifest(refinement=result)
    return result, selections[-1]


def run_table(run: RunFolder, tables: dict[str, Any], name: str) -> Table:
    """A table that the run's manifest lists. Raises :class:`RunError` for one that it does not."""
    if name not in tables:
        raise RunError(f"{run.place} has no table {name!r}; measure it first (it has: {', '.join(tables) or 'none'})")
    return run.table(name, tables[name]["settings"])


def same_windows(table: Table, windows: Table) -> bool:
    """Whether a scorer's table is of these windows: everything that decided them is in its settings too."""
    return all(table.settings.get(key) == value for key, value in windows.settings.items())


def measured_table(run: RunFolder, tables: dict[str, Any], name: str, wanted: dict[str, Any]) -> Table:
    """The scorer's table, if it was measured with these settings."""
    table = run_table(run, tables, name)
    # a pilot is a product of measuring, nothing that is asked for
    apart = ("scorer", "pilot")
    measured = {key: value for key, value in table.settings["measurement"].items() if key not in apart}
    wanted = {key: value for key, value in settings.plain(wanted).items() if key not in apart}
    if measured != wanted:
        different = {key: (measured.get(key), wanted[key]) for key in wanted if measured.get(key) != wanted[key]}
        listed = "; ".join(f"{key} was {old}, asked {new}" for key, (old, new) in different.items())
        raise RunError(f"{name} was measured with other settings ({listed}); run measure with them first")
    return table


def export_selection(recipe: Recipe, output: str | Path) -> "ExportSummary":
    """Write the selected windows as ``export/``, re-reading only the units that hold some."""
    from longattn.export import export, has_tokens, push
    from longattn.tokens import Tokenizer

    run = RunFolder.at(output)
    windows = run_table(run, run.manifest().get("tables", {}), "windows")
    rule = recipe.write
    tokenizer = retokenizer = end_token = None
    if rule.retokenize is not None:
        file, end_token = _tokenizer_and_end(rule.retokenize)
        retokenizer = Tokenizer.load(file)
    elif has_tokens(rule):
        file, end_token = _tokenizer_and_end(recipe.model.name)
        tokenizer = Tokenizer.load(file)
    folder = run.root / "export"
    units = run.plan()
    windows.bring(unit.id for unit in units)
    chosen = run.listed("selection.parquet", "select again")
    with run.replacing("export/README.md", "export/export.json", of="selection.parquet") as sections:
        summary = export(run, units, windows, chosen, recipe.corpus, tokenizer, rule, folder, retokenizer, end_token)
        sections.update(recipe=recipe)
    if rule.push_to is not None:
        push(folder, rule.push_to, private=rule.push_private)
    return summary


def _tokenizer_and_end(name: str) -> tuple[Path, int | None]:
    """A tokenizer.json by itself, or that of a model, whose end token is known too."""
    from longattn.models import resolve

    path = Path(name)
    if path.suffix == ".json":
        return path, None
    checkpoint = resolve(settings.Model(name=name))
    return checkpoint.tokenizer_file, checkpoint.end_token


def write_report(
    recipe: Recipe,
    output: str | Path,
    *,
    texts: bool = True,
    validation: Path | None = None,
    timings: bool = False,
) -> Path:
    """Write ``report.html`` of a selected run; with ``texts`` False no text of the corpus is shown in it.

    ``validation`` is a ``validation.json`` other than the run's own. With ``timings`` the page shows seconds and the
    machine, and is no longer the same for the same run made again.
    """
    from longattn import report
    from longattn.export import read_texts
    from longattn.report.inspect_page import page_path

    run = RunFolder.at(output)
    windows = run_table(run, run.manifest().get("tables", {}), "windows")
    names = [name for name in recipe.keep.weights if not name.startswith("column:")]
    null = {key: value for name in names for key, value in recipe.scorer(name).null(int(recipe.model.bos)).items()}
    command = ["longattn", "run", *recipe.corpus.inputs, "--output", str(output), *as_flags(recipe)]
    preset = recipe.settings.longattn.preset if "longattn" in names else None

    def read(ids: Sequence[str]) -> Mapping[str, str]:
        windows.bring(unit.id for unit in run.plan())
        return read_texts(run.plan(), windows, ids, recipe.corpus)

    run.listed("selection.parquet", "select again")
    run.listed("rejects.jsonl", "measure again")
    data = report.gather(
        run,
        null=null,
        command=shlex.join(command),
        texts=read if texts else None,
        measured=_measured(recipe, run, windows),
        validation=validation,
        preset=None if preset is None else read_preset(preset, ["evidence"]),
        timings=timings,
        page_of=lambda window: page_path(Path(), window).as_posix(),
    )
    with run.replacing("report.html", of="selection.parquet"):
        return report.write_report(run, data)


def diff(first: Path, second: Path, page: Path | None = None, changes: Path | None = None) -> "Difference":
    """Compare two selections, each a run folder or a selection file; loads no model.

    Writes the HTML file ``page`` and, with every window that entered or left, the Parquet file ``changes``.
    """
    from longattn import report

    found = report.compare_selections(first, second, changes)
    if page is not None:
        report.write_difference(page, found)
    return found


def _measured(recipe: Recipe, run: RunFolder, windows: Table) -> "Measured | None":
    """What other choices than the recorded one can be tried on; None where a table of the score is not at hand.

    Other scorers take part if they were measured on all of these windows, with the settings of the recipe.
    """
    from longattn import alternatives

    manifest = run.manifest()
    tables, rule = manifest["tables"], recipe.keep
    weighted = {name for name in rule.weights if not name.startswith("column:")}
    scorers = {name: recipe.scorer(name) for name in tables if name in SCORERS}
    found: dict[str, Table] = {}
    for name, scorer in scorers.items():
        try:
            found[name] = measured_table(run, tables, name, dict(scorer.measurement()))
        except RunError:
            log.warning("%s was measured with other settings, and is left out of the report", name)
    found = {name: table for name, table in found.items() if same_windows(table, windows)}
    if not weighted <= found.keys() or not all(Path(file).exists() for file in rule.tables):
        return None
    of_score = [windows, *(found[name] for name in weighted)]
    planned = [unit.id for unit in run.plan()]
    for table in (windows, *found.values()):
        table.bring(planned)
    done = [unit for unit in planned if all(table.receipt(unit) for table in of_score)]
    found = {name: table for name, table in found.items() if all(table.receipt(unit) for unit in done)}
    if not done:
        return None
    scorers = {name: scorers[name] for name in found}
    sources = manifest.get("selection", {}).get("sources", {})
    return alternatives.measured(done, windows, found, scorers, rule, sources, recipe.model.dtype)


class RunResult(NamedTuple):
    """What a whole run came to."""

    ledger: Counter[str]
    selection: "Selection"
    export: "ExportSummary"
    report: Path


def run(
    recipe: Recipe,
    output: str | Path,
    compute: settings.Compute | None = None,
    progress: engines.Progress | None = None,
) -> RunResult:
    """All of it: plan, cut, measure, select, export, report. Raises ``ValueError`` for a shard, a part of the units."""
    if compute is not None and compute.shard is not None:
        raise ValueError("a run selects, for which all shards must be there: measure each shard, then select")
    ledger = measure(recipe, output, compute, progress)
    if recipe.refine.confidence is None:
        selection = select(recipe, output)
    else:
        _, selection = refine(recipe, output, compute)
    return RunResult(ledger, selection, export_selection(recipe, output), write_report(recipe, output))


@dataclass(frozen=True)
class Status:
    """How far a run is, from what is on disk."""

    units: int
    tables: dict[str, int]
    """Units done, by table."""
    ledger: dict[str, int]
    attempts: list[dict[str, Any]]
    """What attempts last said, one entry per shard (see :mod:`longattn.engines.progress`), and ``silent``, the seconds
    since then."""
    quarantine: list[dict[str, Any]]
    """What is left out of work units (see :mod:`longattn.quarantine`)."""
    owner: str | None
    """Who holds the folder's lock."""
    selected: bool


def status(output: str | Path) -> Status:
    """Look at a run folder without disturbing whoever works in it. Raises ``FileNotFoundError`` if it is none."""
    run = RunFolder.at(output)
    if not (run.root / "plan.parquet").exists():
        raise FileNotFoundError(f"{output} is no run folder: it has no plan.parquet")
    units = run.plan()
    tables = {}
    run.fetch(*(run.root / name for name in run.listing if PurePath(name).match("tables/*/settings.json")))
    for folder in sorted((run.root / "tables").glob("*-*")):
        settings_file = folder / "settings.json"
        if settings_file.exists():
            table = run.table(folder.name.rsplit("-", 1)[0], read_sealed(settings_file))
            tables[folder.name] = sum(table.holds(unit.id) for unit in units)
    now = time.time()
    attempts = [{**said, "silent": max(0.0, now - said["updated"])} for said in engines.read_progress(run.root)]
    owner = holder(run.root / ".lock")
    return Status(
        len(units),
        tables,
        run.manifest().get("ledger", {}),
        attempts,
        [asdict(entry) for entry in Quarantine(run).entries()],
        None if owner is None else str(owner),
        run.entry(run.root / "selection.parquet") is not None or (run.root / "selection.parquet").exists(),
    )


def verify(output: str | Path) -> "Verification":
    """Recompute hashes, ledger and manifest of a run, finished or stopped; changes nothing.

    All files of a run in a store are fetched for it, into a temporary folder. Raises ``FileNotFoundError`` if it is no
    run.
    """
    from longattn.stores import downloaded
    from longattn.verifying import verify

    with downloaded(str(output)) if is_uri(str(output)) else nullcontext(Path(output)) as root:
        return verify(root)


@dataclass(frozen=True)
class TextScore:
    """The readings of one text."""

    num_tokens: int
    windows: list[dict[str, float]]
    """Per window: start, num_tokens and the scorer's readings."""
    null: dict[str, float]
    """The readings under uniform attention."""


def score(text: str, recipe: Recipe | None = None, device: str = "cpu") -> TextScore:
    """Measure one text by itself: its windows, or all of it where it is shorter than a window.

    A single text has nothing to be standardised against, so readings (DS, DU) are returned, not scores. Raises
    ``ValueError`` for a text of fewer than 8 tokens.
    """
    from longattn.models import resolve
    from longattn.tokens import Tokenizer
    from longattn.windows import cut

    recipe = recipe or Recipe()
    checkpoint = resolve(recipe.model)
    tokenized = Tokenizer.load(checkpoint.tokenizer_file).encode(text)
    num_tokens = len(tokenized.ids)
    if num_tokens < 8:
        raise ValueError(f"text must have at least 8 tokens to measure distances in, got {num_tokens}")
    length = min(recipe.window.length, num_tokens)
    scorer = replace(recipe, window=settings.Windowing(length=length)).scorer("longattn")
    windows: list[Window] = cut(Document("text", "text", text, "text", 0), tokenized, length)
    ask = scorer.ask()
    assert ask is not None
    model = load_model_for([ask], checkpoint, recipe.model, length, device)
    columns = measuring.measure_windows([scorer], model, windows)[scorer.name]
    readings = {name: evaluate(reading, columns) for name, reading in scorer.readings().items()}
    rows = [
        {
            "start": float(w.start),
            "num_tokens": float(length),
            **{n: float(v[i]) for n, v in readings.items()},
        }
        for i, w in enumerate(windows)
    ]
    return TextScore(num_tokens, rows, dict(scorer.null(int(recipe.model.bos))))


def inspect_text(
    text: str, name: str, recipe: Recipe, rule: settings.Inspecting, number: int = 1, device: str = "cpu"
) -> "Inspection":
    """Look closely at one window of a text, the first by default, or at all of it where it is shorter than a window.

    Raises ``ValueError`` for a text of fewer than 8 tokens, and for a window that it does not have.
    """
    from longattn.inspecting import Cut, inspect, pieces_of
    from longattn.models import resolve
    from longattn.tokens import Tokenizer
    from longattn.windows import cut

    checkpoint = resolve(recipe.model)
    tokenized = Tokenizer.load(checkpoint.tokenizer_file).encode(text)
    num_tokens = len(tokenized.ids)
    if num_tokens < 8:
        raise ValueError(f"text must have at least 8 tokens to measure distances in, got {num_tokens}")
    length = min(recipe.window.length, num_tokens)
    windows = cut(Document(name, "text", text, name, 0), tokenized, length)
    if not 1 <= number <= len(windows):
        raise ValueError(f"{name} has windows 1 to {len(windows)} of {length} tokens, got {number}")
    window, scorer = windows[number - 1], _looking(recipe, length)
    starts = tokenized.char_starts[window.start : window.start + length]
    model = load_model_for([cast("Ask", scorer.ask())], checkpoint, recipe.model, length, device)
    return inspect(model, Cut(window, pieces_of(text, starts, window.char_end)), scorer, rule)


def inspect_windows(
    output: Path, window_ids: Sequence[str], recipe: Recipe, rule: settings.Inspecting, device: str = "cpu"
) -> "Iterator[Inspection]":
    """Look closely at windows of a run, by id, or without any at the best window of each source.

    Every document is read and tokenised again, so that the tokens are those that were measured. Raises
    :class:`RunError` for an id that the run does not have, and for a document that is no longer the same.
    """
    import pyarrow.parquet as pq

    from longattn.export import read_tokenized
    from longattn.inspecting import Cut, inspect, pieces_of
    from longattn.models import resolve
    from longattn.tokens import Tokenizer

    run = RunFolder(output)
    windows = run_table(run, run.manifest().get("tables", {}), "windows")
    if not window_ids:
        chosen = run.listed("selection.parquet", "select, or name the windows to inspect")
        best = pq.read_table(chosen, columns=["window_id", "source"], filters=[("rank", "=", 1)])
        window_ids = best.sort_by("source")["window_id"].to_pylist()
    scorer, checkpoint = _looking(recipe, recipe.window.length), resolve(recipe.model)
    tokenizer = Tokenizer.load(checkpoint.tokenizer_file)
    model = load_model_for([cast("Ask", scorer.ask())], checkpoint, recipe.model, recipe.window.length, device)
    facts = _selection_facts(run, window_ids)
    for document, tokenized, kept in read_tokenized(run.plan(), windows, window_ids, recipe.corpus, tokenizer):
        part = slice(kept.start, kept.start + kept.num_tokens)
        place = {name: getattr(kept, name) for name in ("doc_id", "source", "start", "char_start", "char_end")}
        window = Window(**place, tokens=tokenized.ids[part], doc_tokens=kept.doc_tokens)
        pieces = pieces_of(document.text, tokenized.char_starts[part], kept.char_end)
        yield inspect(model, Cut(window, pieces, facts.get(kept.window_id, {})), scorer, rule)


def _looking(recipe: Recipe, length: int) -> "LongAttn":
    """The recipe's layers, heads, distance and skipped keys for one window, whatever was measured of others."""
    exact = replace(recipe.settings.longattn, rows=None, per_head=True, distances=())
    return exact.for_length(length)


def _selection_facts(run: RunFolder, window_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Score, rank and what became of windows, by id, where the run has been selected."""
    import pyarrow.parquet as pq

    from longattn.report.words import reason

    if not (run.root / "selection.parquet").exists():
        return {}
    path = run.listed("selection.parquet", "select again")
    columns = ["window_id", "source", "score", "rank", "reason"]
    rows = pq.read_table(path, columns=columns, filters=[("window_id", "in", list(window_ids))]).to_pylist()
    return {row["window_id"]: {"score": row["score"], "rank": row["rank"], "": reason(row["reason"])} for row in rows}
