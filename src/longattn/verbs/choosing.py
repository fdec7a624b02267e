"""From measured tables to a selection: select, and refine where rows were sampled."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from longattn import engines, measuring, settings
from longattn.addresses import below
from longattn.errors import RunError
from longattn.expressions import Constant
from longattn.ledger import Books, add_up, note_versions
from longattn.pilots import with_pilots
from longattn.recipes import Recipe
from longattn.records import WorkUnit
from longattn.tables import RunFolder, Table
from longattn.verbs.finding import measured_table, run_table, same_windows
from longattn.verbs.preparing import prepare
from longattn.versions import Writers, check_change, differences

if TYPE_CHECKING:
    import pyarrow as pa

    from longattn.refining import Refinement
    from longattn.scorers import LongAttn
    from longattn.selection import Selection


def select(recipe: Recipe, output: str | Path) -> "Selection":
    """Choose among the measured windows and write ``selection.parquet``; no model is loaded.

    Uses the tables that are there: raises :class:`RunError` when a scorer was not measured, or was measured with other
    settings than asked for, or somebody else selects here at this moment. Where measuring did not come to its end, and
    after shards, it first writes what they add up to: ``rejects.jsonl`` and the ledger.
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
        add_up(run, _books(run, tables, windows, units))
    for table in (windows, *weighted.values()):
        table.bring(planned, rows=False)
    done, writers = _measured(planned, (windows, *weighted.values()))
    note_versions(run, writers)
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
    for file in map(Path, recipe.keep.tables):
        if file.stem in {"windows", *formulas}:
            raise ValueError(
                f"{file} would be called {file.stem!r} as another table of this selection is; rename the file"
            )
        formulas[file.stem] = Formula(file, Constant(0.0))
    for table in (windows, *(of.table for of in formulas.values() if isinstance(of.table, Table))):
        table.bring(done)
    with run.lock("select"), run.replacing("selection.parquet") as sections:
        path = run.root / "selection.parquet"
        selection = select(done, windows, dict(sorted(formulas.items())), recipe.keep, path)
        selection = replace(selection, path=below(run.place, path.name))
        if len(done) < len(planned):
            note = _missing(run, units, done)
            selection = replace(selection, notes=(*selection.notes, note))
        if several := writers.several():
            listed = "; ".join(f"{name} {versions}" for name, versions in several.items())
            note = f"these windows were measured by several versions, whose numbers may differ: {listed}"
            selection = replace(selection, notes=(*selection.notes, note))
        # rejects.jsonl names them all; a run that is copied elsewhere is the same run
        facts = {**settings.plain(selection), "duplicates": len(selection.duplicates)}
        del facts["path"]
        # what refining said was said of another selection
        sections.update(selection=facts, recipe=recipe, refinement=None)
    return selection


def _measured(planned: Sequence[str], tables: Sequence[Table]) -> tuple[list[str], Writers]:
    """The units that are in all of these tables, and the versions that wrote these."""
    done, writers = [], Writers()
    for unit in planned:
        for table in tables:
            if (receipt := table.receipt(unit)) is None:
                break
            writers.note(table, receipt)
        else:
            done.append(unit)
    return done, writers


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
    again makes it the first one again. Raises :class:`RunError` for a run that was measured with other settings or by
    other versions, and ``ValueError`` where all rows were measured or no confidence can be stated.
    """
    from longattn import refining
    from longattn.tables import read_parquet

    job = prepare(replace(recipe, scorers=("longattn",)), output)
    refining.check(cast("LongAttn", job.scorers[0]), recipe.keep)
    units, compute = job.run.plan(), compute or settings.Compute()
    with job.run.lock():
        device = engines.devices(compute)[0]
        job = with_pilots(job, units, device)
        scorer = cast("LongAttn", job.scorers[0])
        measured_table(job.run, job.run.manifest().get("tables", {}), "longattn", dict(scorer.measurement()))
        begin = job.table(scorer)
        begin.bring((unit.id for unit in units), rows=False)
        _, writers = _measured([unit.id for unit in units], (begin,))
        different = differences(begin, writers.of(begin), measuring.package_versions())
        check_change(job.run.place, different, allowed=compute.allow_version_change)

        selections: list[Selection] = []

        def choose(table: Table) -> "pa.Table":
            facts = {"folder": table.folder.name, "settings": table.settings}
            job.run.change_manifest(lambda now: {**now, "tables": {**now["tables"], "longattn": facts}})
            selections.append(select(recipe, output))
            return read_parquet(job.run.root / "selection.parquet")

        result, _ = refining.refine(job, scorer, units, begin, device, recipe.keep, recipe.refine, choose)
        job.run.update_manifest(refinement=result)
    return result, selections[-1]
