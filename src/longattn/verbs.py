"""The stages of a run as functions: what each command line verb does, for a script or a notebook."""

import json
import os
import platform
import shlex
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from longattn import corpus, engines, measuring, settings
from longattn.asking import load_model_for
from longattn.errors import RunError
from longattn.expressions import Constant, evaluate
from longattn.ledger import balance, rejects
from longattn.measuring import Job
from longattn.pilots import with_pilots
from longattn.recipes import Recipe, as_flags
from longattn.records import Document, Window, WorkUnit
from longattn.scorers import PilotScorer, Scorer
from longattn.tables import RunFolder, Table, durable, write_json

if TYPE_CHECKING:
    from longattn.export import ExportSummary
    from longattn.selection import Selection
    from longattn.validity import Comparison, Preset, Validation


def plan(recipe: Recipe, output: Path) -> list[WorkUnit]:
    """List the input as work units and write ``plan.parquet``.

    Units that an earlier plan of this folder made of files that are still the same are kept, so that files added later
    are measured without doing the rest again. Raises :class:`CorpusError` for an input that matches nothing.
    """
    run = RunFolder(output)
    units = corpus.list_units(recipe.corpus, run.plan())
    run.write_plan(units)
    return units


def prepare(recipe: Recipe, output: Path) -> Job:
    """Look up the model and its tokenizer, and say what to measure; loads no weights."""
    from longattn.models import resolve

    checkpoint = resolve(recipe.model)
    return Job(RunFolder(output), recipe.corpus, recipe.window, recipe.model, checkpoint, recipe.chosen_scorers())


def cut(
    recipe: Recipe,
    output: Path,
    compute: settings.Compute | None = None,
    progress: engines.Progress | None = None,
) -> Counter[str]:
    """Plan and cut, without measuring: documents, windows and rejects are known before any model runs."""
    return measure(replace(recipe, scorers=()), output, compute, progress)


def measure(
    recipe: Recipe,
    output: Path,
    compute: settings.Compute | None = None,
    progress: engines.Progress | None = None,
) -> Counter[str]:
    """Plan, cut and measure: every scorer's table of every unit; continues where an earlier attempt stopped.

    Returns the ledger: records read and what became of them, windows planned and scored. Writes ``rejects.jsonl``,
    ``manifest.json`` and ``timings.json``.
    """
    compute = compute or settings.Compute()
    job = prepare(recipe, output)
    began = time.time()
    units = job.run.plan()
    if compute.shard is None or not units:
        # shards work on one plan, which the first of them makes
        units = corpus.list_units(recipe.corpus, units)
    with job.run.lock(compute.shard):
        job.run.write_plan(units)
        if any(isinstance(scorer, PilotScorer) for scorer in job.scorers):
            job = with_pilots(job, units, engines.devices(compute)[0])
        try:
            attempt = engines.measure(job, units, compute, progress)
        finally:
            ledger = _close(job, recipe, units)
        _write_timings(job.run, began, attempt, compute)
    return ledger


def _close(job: Job, recipe: Recipe, units: Sequence[WorkUnit]) -> Counter[str]:
    """Add up what is on disk and write it down; also after an interruption, so that the folder can be looked at."""
    ledger = balance(job, units)
    with durable(job.run.root / "rejects.jsonl") as file:
        for line in rejects(job, units):
            file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
    tables = {table.name: {"folder": table.folder.name, "settings": table.settings} for table in job.tables()}
    job.run.update_manifest(
        recipe=recipe,
        versions=measuring.package_versions(),
        model={"name": job.checkpoint.name, "hash": job.checkpoint.hash},
        tables={**job.run.manifest().get("tables", {}), **tables},
        ledger=ledger,
    )
    return ledger


def _write_timings(run: RunFolder, began: float, counts: Counter[str], compute: settings.Compute) -> None:
    """Append this attempt to ``timings.json``, which alone holds times and facts of the machine."""
    path = run.root / "timings.json"
    attempts = json.loads(path.read_bytes()) if path.exists() else []
    seconds = time.time() - began
    facts = {
        "began": began,
        "seconds": seconds,
        "windows": counts["windows"],
        "tokens_per_second": counts["tokens"] / seconds,
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "compute": settings.plain(compute),
    }
    with durable(path) as file:
        file.write(json.dumps([*attempts, facts], indent=1).encode())


def estimate(recipe: Recipe, output: Path, compute: settings.Compute | None = None) -> measuring.Estimate:
    """Windows, bytes and time that measuring would take, from a sample of the input; writes nothing."""
    job = prepare(recipe, output)
    units = corpus.list_units(recipe.corpus, RunFolder(output).plan())
    device = engines.devices(compute or settings.Compute(), needed=bool(job.asks))[0]
    return measuring.estimate(job, units, device)


def select(recipe: Recipe, output: Path) -> "Selection":
    """Choose among the measured windows and write ``selection.parquet``; no model is loaded.

    Uses the tables that are there: raises :class:`RunError` when a scorer was not measured, or was measured with other
    settings than asked for.
    """
    from longattn.selection import Formula, select

    run = RunFolder(output)
    tables = run.manifest().get("tables", {})
    names = [name for name in recipe.keep.weights if not name.startswith("column:")]
    windows = _table(run, tables, "windows")
    weighted = {name: _measured(run, tables, name, dict(recipe.scorer(name).measurement())) for name in names}
    for name, table in weighted.items():
        if not _same_windows(table, windows):
            raise RunError(f"{name} was measured on other windows than the last ones cut; measure it again")
    planned = [unit.id for unit in run.plan()]
    done = [unit for unit in planned if all(table.receipt(unit) for table in (windows, *weighted.values()))]
    formulas = {
        name: Formula(table, recipe.scorer(name).score(), recipe.scorer(name).readings())
        for name, table in weighted.items()
    }
    for name in tables.keys() - formulas.keys() - {"documents", "windows"}:
        # a table that no score uses can be named in a condition, and near duplicates need their signatures; one that
        # lacks some of the units must not take these out of the selection
        table = _table(run, tables, name)
        if _same_windows(table, windows) and all(table.receipt(unit) for unit in done):
            formulas[name] = Formula(table, Constant(0.0))
    formulas |= {Path(file).stem: Formula(Path(file), Constant(0.0)) for file in recipe.keep.tables}
    selection = select(done, windows, dict(sorted(formulas.items())), recipe.keep, output / "selection.parquet")
    if len(done) < len(planned):
        missing = f"{len(planned) - len(done)} of {len(planned)} work units are not measured yet and took no part"
        selection = replace(selection, notes=(*selection.notes, missing))
    # rejects.jsonl names them all
    facts = {**settings.plain(selection), "duplicates": len(selection.duplicates)}
    run.update_manifest(selection=facts, recipe=recipe)
    return selection


def _table(run: RunFolder, tables: dict[str, Any], name: str) -> Table:
    if name not in tables:
        raise RunError(f"{run.root} has no table {name!r}; measure it first (it has: {', '.join(tables) or 'none'})")
    return run.table(name, tables[name]["settings"])


def _same_windows(table: Table, windows: Table) -> bool:
    """Whether a scorer's table is of these windows: everything that decided them is in its settings too."""
    return all(table.settings.get(key) == value for key, value in windows.settings.items())


def _measured(run: RunFolder, tables: dict[str, Any], name: str, wanted: dict[str, Any]) -> Table:
    """The scorer's table, if it was measured with these settings."""
    table = _table(run, tables, name)
    # a pilot is a product of measuring, nothing that is asked for
    apart = ("scorer", "pilot")
    measured = {key: value for key, value in table.settings["measurement"].items() if key not in apart}
    wanted = {key: value for key, value in settings.plain(wanted).items() if key not in apart}
    if measured != wanted:
        different = {key: (measured.get(key), wanted[key]) for key in wanted if measured.get(key) != wanted[key]}
        listed = "; ".join(f"{key} was {old}, asked {new}" for key, (old, new) in different.items())
        raise RunError(f"{name} was measured with other settings ({listed}); run measure with them first")
    return table


def export_selection(recipe: Recipe, output: Path) -> "ExportSummary":
    """Write the selected windows as ``export/``, re-reading only the units that hold some."""
    from longattn.export import export, push
    from longattn.models import resolve
    from longattn.tokens import Tokenizer

    run = RunFolder(output)
    windows = _table(run, run.manifest().get("tables", {}), "windows")
    rule = recipe.write
    tokenizer = retokenizer = None
    if rule.retokenize is not None:
        retokenizer = Tokenizer.load(_tokenizer_file(rule.retokenize))
    elif rule.content != "text":
        tokenizer = Tokenizer.load(resolve(recipe.model).tokenizer_file)
    folder = output / "export"
    chosen = output / "selection.parquet"
    summary = export(run, run.plan(), windows, chosen, recipe.corpus, tokenizer, rule, folder, retokenizer)
    if rule.push_to is not None:
        push(folder, rule.push_to, private=rule.push_private)
    run.update_manifest(recipe=recipe)
    return summary


def _tokenizer_file(name: str) -> Path:
    """A tokenizer.json by itself, or that of a model."""
    from longattn.models import resolve

    path = Path(name)
    return path if path.suffix == ".json" else resolve(settings.Model(name=name)).tokenizer_file


def write_report(recipe: Recipe, output: Path, *, texts: bool = True) -> Path:
    """Write ``report.html`` of a selected run; with ``texts`` False no text of the corpus is shown in it."""
    from longattn import report
    from longattn.export import read_texts

    run = RunFolder(output)
    windows = _table(run, run.manifest().get("tables", {}), "windows")
    names = [name for name in recipe.keep.weights if not name.startswith("column:")]
    null = {key: value for name in names for key, value in recipe.scorer(name).null().items()}
    command = ["longattn", "run", *recipe.corpus.inputs, "--output", str(output), *as_flags(recipe)]

    def read(ids: Sequence[str]) -> Mapping[str, str]:
        return read_texts(run.plan(), windows, ids, recipe.corpus)

    data = report.gather(run, null=null, command=shlex.join(command), texts=read if texts else None)
    return report.write_report(run, data)


class RunResult(NamedTuple):
    """What a whole run came to."""

    ledger: Counter[str]
    selection: "Selection"
    export: "ExportSummary"
    report: Path


def run(
    recipe: Recipe,
    output: Path,
    compute: settings.Compute | None = None,
    progress: engines.Progress | None = None,
) -> RunResult:
    """All of it: plan, cut, measure, select, export, report."""
    ledger = measure(recipe, output, compute, progress)
    selection = select(recipe, output)
    return RunResult(ledger, selection, export_selection(recipe, output), write_report(recipe, output))


@dataclass(frozen=True)
class Status:
    """How far a run is, from what is on disk."""

    units: int
    tables: dict[str, int]
    """Units done, by table."""
    ledger: dict[str, int]
    running: list[dict[str, Any]]
    """What running attempts last said, one entry per shard."""
    selected: bool


def status(output: Path) -> Status:
    """Look at a run folder without disturbing whoever works in it. Raises ``FileNotFoundError`` if it is none."""
    run = RunFolder(output)
    if not (output / "plan.parquet").exists():
        raise FileNotFoundError(f"{output} is no run folder: it has no plan.parquet")
    units = run.plan()
    tables = {}
    for folder in sorted((output / "tables").glob("*-*")):
        settings_file = folder / "settings.json"
        if settings_file.exists():
            table = run.table(folder.name.rsplit("-", 1)[0], json.loads(settings_file.read_bytes()))
            tables[folder.name] = sum(table.receipt(unit.id) is not None for unit in units)
    running = [json.loads(path.read_bytes()) for path in sorted(output.glob("progress*.json"))]
    return Status(
        len(units), tables, run.manifest().get("ledger", {}), running, (output / "selection.parquet").exists()
    )


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
    return TextScore(num_tokens, rows, dict(scorer.null()))


BASELINES = ("token_null", "length", "random")
"""Scorers that stand in every validation: what they explain is no long-range dependency."""


def validate(
    recipe: Recipe,
    output: Path,
    rule: settings.Validating | None = None,
    device: str = "auto",
    threads: int | None = None,
    progress: engines.Progress | None = None,
    more: Mapping[str, Scorer] | None = None,
) -> "Validation":
    """Put the recipe's scorers and the baselines to the test on windows of its corpus.

    ``more`` are scorers by a label of their own, such as one scorer with other settings. Writes below
    ``output/validity``: what was measured, ``validation.json`` and ``validation.html``; continues where an earlier
    attempt stopped.
    """
    from longattn import validity

    rule = rule or settings.Validating()
    validity.check_rule(rule)
    names = dict.fromkeys([*recipe.scorers, *BASELINES])
    scorers = {name: recipe.scorer(name) for name in names}
    scorers |= {label: scorer.for_length(recipe.window.length) for label, scorer in (more or {}).items()}
    job, units, place = _validity_job(recipe, output, tuple(scorers.values()), device, threads)
    with job.run.lock():
        labelled = dict(zip(scorers, job.scorers, strict=True))
        found = validity.validate(job, units, labelled, rule, place, progress)
        validity.write_validation(job.run.root / "validation.html", found)
    return found


def _validity_job(
    recipe: Recipe, output: Path, scorers: tuple[Scorer, ...], device: str, threads: int | None
) -> tuple[Job, list[WorkUnit], str]:
    """A job whose tables are below ``output/validity``, its input as units, and the device to work on."""
    job = replace(prepare(recipe, output), scorers=scorers)
    units = corpus.list_units(recipe.corpus, job.run.plan())
    (place, *_) = engines.devices(settings.Compute(devices=(device,)), needed=bool(job.asks) or not scorers)
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    # a pilot of the run itself serves as well
    job = with_pilots(job, units, place)
    return replace(job, run=RunFolder(output / "validity")), units, place


def calibrate(
    recipe: Recipe,
    output: Path,
    preset: Path,
    rule: settings.Calibrating | None = None,
    device: str = "auto",
    threads: int | None = None,
    progress: engines.Progress | None = None,
) -> "Preset":
    """Find the far attention that tells intact windows of the recipe's corpus from controls, and write it as a preset.

    Measures below ``output/validity`` and continues where an earlier attempt stopped.
    """
    from longattn import validity

    job, units, place = _validity_job(recipe, output, (), device, threads)
    with job.run.lock():
        found = validity.calibrate(job, units, rule or settings.Calibrating(), place, progress)
    write_json(preset, found)
    return found


def compare(recipe: Recipe, output: Path, *, texts: bool = True) -> "Comparison":
    """Compare the scorers that a run has measured, on all of its windows; no model is loaded.

    Writes ``comparison.json`` and ``comparison.html`` below ``output/validity``; with ``texts`` False no text of the
    corpus is shown. All scores are held in memory. Raises :class:`RunError` for scorers measured with other settings.
    """
    from longattn import validity
    from longattn.export import read_texts

    run = RunFolder(output)
    tables = run.manifest().get("tables", {})
    windows = _table(run, tables, "windows")
    scorers = {name: recipe.scorer(name) for name in tables if name not in ("documents", "windows", "minhash")}
    measured = {name: _measured(run, tables, name, dict(of.measurement())) for name, of in scorers.items()}
    measured = {name: table for name, table in measured.items() if _same_windows(table, windows)}
    units = [unit.id for unit in run.plan() if all(t.receipt(unit.id) for t in (windows, *measured.values()))]
    if not units:
        raise RunError(f"{output} has no work unit that every scorer has measured")
    scores = {name: (table, scorers[name].score()) for name, table in measured.items()}
    known = json.loads(path.read_bytes()) if (path := output / "validity" / "timings.json").exists() else {}
    costs = {name: known[table.hash]["seconds"] for name, table in measured.items() if table.hash in known}

    def read(ids: Sequence[str]) -> Mapping[str, str]:
        return read_texts(run.plan(), windows, ids, recipe.corpus)

    found = validity.compare_tables(windows, units, scores, texts=read if texts else None, costs=costs)
    write_json(output / "validity" / "comparison.json", found)
    validity.write_comparison(output / "validity" / "comparison.html", found)
    return found


def verify(output: Path) -> Iterator[str]:
    """Sentences about what is wrong with a run folder's tables; none if every file has the hash it was written with."""
    if not (output / "plan.parquet").exists():
        raise FileNotFoundError(f"{output} is no run folder: it has no plan.parquet")
    run = RunFolder(output)
    units = [unit.id for unit in run.plan()]
    for name, facts in run.manifest().get("tables", {}).items():
        table = run.table(name, facts["settings"])
        written = [unit for unit in units if (table.folder / f"unit-{unit}.json").exists()]
        for unit in table.verify(written):
            yield f"{table.file(unit)} is missing or damaged; delete it and measure again"
