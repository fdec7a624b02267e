"""From a selection to what others read: export, report, and two selections side by side."""

import logging
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from longattn.errors import RunError
from longattn.presets import read_preset
from longattn.recipes import Recipe, as_flags
from longattn.scorers import SCORERS
from longattn.tables import RunFolder, Table
from longattn.verbs.finding import measured_table, run_table, same_windows

if TYPE_CHECKING:
    from longattn.export import ExportSummary
    from longattn.report import Difference, Measured

log = logging.getLogger(__name__)


def export_selection(recipe: Recipe, output: str | Path) -> "ExportSummary":
    """Write the selected windows as ``export/``, re-reading only the units that hold some."""
    from longattn.export import export, has_tokens, push
    from longattn.models import tokenizer_and_end
    from longattn.report.figures import card_figures
    from longattn.tokens import Tokenizer

    run = RunFolder.at(output)
    windows = run_table(run, run.manifest().get("tables", {}), "windows")
    rule = recipe.write
    tokenizer = retokenizer = end_token = None
    if rule.retokenize is not None:
        file, end_token = tokenizer_and_end(rule.retokenize)
        retokenizer = Tokenizer.load(file)
    elif has_tokens(rule):
        file, end_token = tokenizer_and_end(recipe.model.name)
        tokenizer = Tokenizer.load(file)
    folder = run.root / "export"
    units = run.plan()
    windows.bring(unit.id for unit in units)
    chosen = run.listed("selection.parquet", "select again")
    with run.replacing("export/README.md", "export/export.json", of="selection.parquet") as sections:
        summary = export(
            run,
            units,
            windows,
            chosen,
            recipe.corpus,
            tokenizer,
            rule,
            folder,
            retokenizer,
            end_token,
            figures=card_figures(run.manifest(), _null(recipe)),
        )
        sections.update(recipe=recipe)
    if rule.push_to is not None:
        push(folder, rule.push_to, private=rule.push_private)
    return summary


def write_attributes(recipe: Recipe, output: str | Path, folder: Path, name: str = "longattn") -> list[Path]:
    """Write the scores of all windows as Dolma attributes ``name`` into ``folder``, and return the files.

    ``folder`` is that of the data set, whose documents are in ``folder/documents``, or the one that holds all of
    several data sets, ``folder/DATASET/documents``. Raises ``ValueError`` for inputs that are no Dolma documents.
    """
    from longattn.export import write_attributes

    run = RunFolder.at(output)
    tables = run.manifest().get("tables", {})
    documents, windows = (run_table(run, tables, table) for table in ("documents", "windows"))
    chosen = run.listed("selection.parquet", "select again")
    return write_attributes(run.plan(), documents, windows, chosen, recipe.corpus, name, folder)


def _null(recipe: Recipe) -> dict[str, float]:
    """What the readings of the chosen scorers are under uniform attention."""
    names = [name for name in recipe.keep.weights if not name.startswith("column:")]
    return {key: value for name in names for key, value in recipe.scorer(name).null(int(recipe.model.bos)).items()}


def write_report(
    recipe: Recipe,
    output: str | Path,
    *,
    texts: bool | None = None,
    validation: Path | None = None,
    timings: bool = False,
) -> Path:
    """Write ``report.html`` of a selected run.

    With ``texts`` False no text of the corpus is shown in it; None shows them unless ``corpus.private`` is set.
    ``validation`` is a ``validation.json`` other than the run's own. With ``timings`` the page shows seconds and the
    machine, and is no longer the same for the same run made again.
    """
    from longattn import report
    from longattn.export import read_texts
    from longattn.report.inspect_page import page_path

    run = RunFolder.at(output)
    windows = run_table(run, run.manifest().get("tables", {}), "windows")
    names = [name for name in recipe.keep.weights if not name.startswith("column:")]
    command = ["longattn", "run", *recipe.corpus.inputs, "--output", str(output), *as_flags(recipe)]
    preset = recipe.settings.longattn.preset if "longattn" in names else None

    def read(ids: Sequence[str]) -> Mapping[str, str]:
        windows.bring(unit.id for unit in run.plan())
        return read_texts(run.plan(), windows, ids, recipe.corpus)

    run.listed("selection.parquet", "select again")
    run.listed("rejects.jsonl", "measure again")
    data = report.gather(
        run,
        null=_null(recipe),
        command=shlex.join(command),
        texts=read if recipe.corpus.shown(texts) else None,
        measured=_measured(recipe, run, windows),
        validation=validation,
        preset=None if preset is None else read_preset(preset, ["evidence"]),
        timings=timings,
        page_of=lambda window: page_path(Path(), window).as_posix(),
    )
    with run.lock("report"), run.replacing("report.html", of="selection.parquet"):
        return report.write_report(run, data)


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


def diff(first: str | Path, second: str | Path, page: Path | None = None, changes: Path | None = None) -> "Difference":
    """Compare two selections, each a run folder, the address of one, or a selection file; loads no model.

    Writes the HTML file ``page`` and, with every window that entered or left, the Parquet file ``changes``.
    """
    from longattn import report

    found = report.compare_selections(first, second, changes)
    if page is not None:
        report.write_difference(page, found)
    return found
