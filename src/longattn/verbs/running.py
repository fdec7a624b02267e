"""From a corpus to measured tables, and the whole way: plan, cut, measure, run."""

import logging
import os
import platform
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from longattn import corpus, engines, measuring, settings, versions
from longattn.errors import CorpusError, DamageError, RunError
from longattn.ledger import Books, add_up, balance
from longattn.measuring import Job
from longattn.pilots import with_pilots
from longattn.recipes import Recipe
from longattn.records import WorkUnit
from longattn.scorers import PilotScorer
from longattn.stores import refresh
from longattn.tables import RunFolder, Table, read_sealed, write_sealed
from longattn.verbs.choosing import refine, select
from longattn.verbs.preparing import prepare
from longattn.verbs.writing import export_selection, write_report

if TYPE_CHECKING:
    from longattn.export import ExportSummary
    from longattn.selection import Selection

log = logging.getLogger(__name__)


def plan(recipe: Recipe, output: str | Path, hashes: Path | None = None) -> list[WorkUnit]:
    """List the input as work units and write ``plan.parquet``.

    Units that an earlier plan of this folder made of files that are still the same are kept, so that files added later
    are measured without doing the rest again. With ``hashes`` every file is read, its size and SHA-256 are written
    there, and the units know them. Raises :class:`CorpusError` for an input that matches nothing, or that is not what
    its manifest lists, and :class:`RunError` for a folder that somebody measures in.
    """
    run = RunFolder.at(output)
    if hashes is not None:
        recipe = replace(recipe, corpus=replace(recipe.corpus, manifest=str(hashes)))
        corpus.write_manifest(hashes, corpus.list_files(recipe.corpus, compare=False).files)
    with run.lock():
        units = corpus.list_units(recipe.corpus, run.plan())
        run.write_plan(units)
    return units


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
        found = engines.survey(job, units, compute)
        _open(job, recipe, found, compute)
        try:
            attempt = engines.measure(job, units, compute, progress, found)
        except (CorpusError, RunError):
            _close(job, units, compute.shard)
            raise
        ledger = _close(job, units, compute.shard)
        _write_timings(job, began, time.monotonic() - started, attempt, compute)
    return ledger


def _open(job: Job, recipe: Recipe, found: engines.Survey, compute: settings.Compute) -> None:
    """Write down what is going to be measured, so that a run that is stopped can be looked at and selected from.

    Raises :class:`RunError`, and writes nothing, where other versions measured and no change of these is allowed.
    """
    tables = {table.name: {"folder": table.folder.name, "settings": table.settings} for table in job.tables()}
    facts = {
        # what is there is added up at the end: of a shard, or of a run that is stopped, by select
        "ledger": {},
        "recipe": recipe,
        "model": {"name": job.checkpoint.name, "hash": job.checkpoint.hash},
        "model_files": job.checkpoint.files,
    }
    present = measuring.package_versions()

    def change(now: dict[str, Any]) -> dict[str, Any]:
        written = {table.folder.name: _written(table, now, found, compute) for table in job.tables()}
        if found.waiting:
            different: dict[str, tuple[str, str]] = {}
            for table in job.tables():
                different |= versions.differences(table, written[table.folder.name], present)
            versions.check_change(job.run.place, different, allowed=compute.allow_version_change)
            # who measures other units at the same time, or elsewhere later, sees no receipt of these
            written = {
                table.folder.name: versions.with_present(table, written[table.folder.name], present)
                for table in job.tables()
            }
        return versions.recorded({**now, **facts, "tables": {**now.get("tables", {}), **tables}}, written)

    job.run.change_manifest(change)


def _written(
    table: Table, manifest: Mapping[str, Any], found: engines.Survey, compute: settings.Compute
) -> dict[str, str]:
    """The versions that wrote a table, by receipts that were read anyway; by the manifest for units that were not."""
    seen = found.writers.of(table)
    listed = manifest.get("tables", {}).get(table.name, {})
    all_seen = compute.shard is None and not table.run.listing
    if all_seen or listed.get("folder") != table.folder.name or not table.is_begun():
        return seen
    return versions.merged([seen, listed.get("versions", {})])


def _close(job: Job, units: Sequence[WorkUnit], shard: str | None) -> Counter[str]:
    """Add up what is on disk and, unless it is a shard, write it down."""
    for table in job.tables():
        if table.folder.exists():
            table.describe()
    books = Books.of(job, engines.shard_of(units, shard))
    if shard is None:
        return add_up(job.run, books)
    try:
        return balance(books)
    finally:
        # somebody may have selected while it was at work
        job.run.change_manifest(lambda now: {**_with_more(now, books.writers.tables()), "ledger": {}})


def _with_more(manifest: dict[str, Any], found: Mapping[str, versions.Versions]) -> dict[str, Any]:
    """The manifest with these versions of its tables, beside those that other shards have named."""
    listed = {facts["folder"]: facts.get("versions", {}) for facts in manifest["tables"].values()}
    return versions.recorded(manifest, {name: versions.merged([found[name], listed.get(name, {})]) for name in found})


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
    texts: bool | None = None,
) -> RunResult:
    """All of it: plan, cut, measure, select, export, report, in which texts are shown as :func:`write_report` does it.

    Raises ``ValueError``, before anything is measured, for a shard, which is a part of the units, and for a rule that
    could not be followed afterwards.
    """
    from longattn.selection import check_rule

    if compute is not None and compute.shard is not None:
        raise ValueError("a run selects, for which all shards must be there: measure each shard, then select")
    check_rule(recipe.keep)
    recipe.chosen_scorers()
    for name in recipe.keep.weights:
        if name not in recipe.scorers and not name.startswith("column:"):
            others = [scorer for scorer in recipe.scorers if scorer != "minhash"]
            instead = f", or choose by another one (--keep.weights.{others[0]} 1)" if others else ""
            raise ValueError(f"keep.weights names {name!r}, which is not measured: add --scorers {name}{instead}")
    ledger = measure(recipe, output, compute, progress)
    if recipe.refine.confidence is None:
        selection = select(recipe, output)
    else:
        _, selection = refine(recipe, output, compute)
    return RunResult(ledger, selection, export_selection(recipe, output), write_report(recipe, output, texts=texts))
