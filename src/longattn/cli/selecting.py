"""The verbs of a run, from a corpus to an export."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from longattn.addresses import below
from longattn.cli.application import (
    DONE,
    LEFT_OUT,
    SELECT,
    Everything,
    Folder,
    Inputs,
    Output,
    Spread,
    app,
    with_inputs,
)
from longattn.cli.saying import complain, counted, progress_shown, say
from longattn.recipes import Recipe
from longattn.settings import Compute

if TYPE_CHECKING:
    from longattn.refining import Refinement
    from longattn.selection import Selection


@app.command(group=SELECT)
def run(
    *inputs: Inputs,
    output: Output = "longattn-run",
    dry_run: bool = False,
    texts: bool | None = None,
    recipe: Everything = Recipe(),
    compute: Spread = Compute(),
) -> int:
    """Do all of it: plan, cut, measure, select, export, report.

    Parameters
    ----------
    dry_run
        Only estimate windows, bytes and time from a sample of the input.
    texts
        Show the beginning and end of some windows in the report; done unless the corpus is private.
    """
    from longattn import verbs

    recipe = with_inputs(recipe, inputs)
    if dry_run:
        return _estimate(recipe, output, compute)
    with progress_shown() as progress:
        result = verbs.run(recipe, output, compute, progress, texts)
    code = _say_ledger(result.ledger, output)
    _say_selection(result.selection, output)
    say(f"selected windows  {below(output, 'export/data')}")
    say(f"all scores        {below(output, 'selection.parquet')}")
    say(f"report            {below(output, 'report.html')}")
    return code


@app.command(group=SELECT)
def plan(
    *inputs: Inputs,
    output: Output = "longattn-run",
    hashes: Path | None = None,
    recipe: Everything = Recipe(),
) -> int:
    """List the input as work units; reads no document.

    Parameters
    ----------
    hashes
        Read every file once, and write its size and SHA-256 to this file, for --corpus.manifest.
    """
    from longattn import verbs

    units = verbs.plan(with_inputs(recipe, inputs), output, hashes)
    size = sum(unit.num_bytes for unit in units)
    say(f"{counted(len(units), 'work unit')}, {size / 1e6:,.1f} MB -> {below(output, 'plan.parquet')}")
    return DONE


@app.command(group=SELECT)
def cut(
    *inputs: Inputs,
    output: Output = "longattn-run",
    recipe: Everything = Recipe(),
    compute: Spread = Compute(),
) -> int:
    """Read, tokenise and cut into windows, without a model: counts, spans and rejects, before measuring."""
    from longattn import verbs

    with progress_shown() as progress:
        ledger = verbs.cut(with_inputs(recipe, inputs), output, compute, progress)
    return _say_ledger(ledger, output)


@app.command(group=SELECT)
def measure(
    *inputs: Inputs,
    output: Output = "longattn-run",
    dry_run: bool = False,
    recipe: Everything = Recipe(),
    compute: Spread = Compute(),
) -> int:
    """Measure every window with the model; continues where an earlier attempt stopped.

    Parameters
    ----------
    dry_run
        Only estimate windows, bytes and time from a sample of the input.
    """
    from longattn import verbs

    recipe = with_inputs(recipe, inputs)
    if dry_run:
        return _estimate(recipe, output, compute)
    with progress_shown() as progress:
        ledger = verbs.measure(recipe, output, compute, progress)
    return _say_ledger(ledger, output)


@app.command(group=SELECT)
def select(folder: Folder, *, recipe: Everything = Recipe()) -> int:
    """Choose among measured windows; settings not given are those of the run. Takes seconds, loads no model."""
    from longattn import verbs

    _say_selection(verbs.select(recipe, folder), folder)
    return DONE


@app.command(group=SELECT)
def refine(folder: Folder, *, recipe: Everything = Recipe(), compute: Spread = Compute()) -> int:
    """Draw more rows of windows near the cut until the kept set is the exact one with stated confidence."""
    from longattn import verbs

    found, selection = verbs.refine(recipe, folder, compute)
    _say_refinement(found)
    _say_selection(selection, folder)
    return DONE


@app.command(group=SELECT)
def export(folder: Folder, *, recipe: Everything = Recipe()) -> int:
    """Write the selected windows as what a trainer reads, with a dataset card; --write.format says for which."""
    from longattn import verbs

    summary = verbs.export_selection(recipe, folder)
    say(f"{summary.num_windows} windows, {summary.num_tokens:,} tokens -> {below(folder, 'export/data')}")
    return DONE


def _estimate(recipe: Recipe, output: str, compute: Compute) -> int:
    from longattn import verbs

    guess = verbs.estimate(recipe, output, compute)
    say(f"{counted(guess.units, 'work unit')} ({guess.units_done} done), {guess.num_bytes / 1e6:,.1f} MB")
    say(f"about {guess.windows:,} windows, {guess.tokens:,} tokens")
    say(f"about {guess.seconds / 3600:.2f} hours for one process on {compute.devices[0]}, measured on a sample")
    return DONE


@app.command(group=SELECT)
def attributes(
    folder: Folder,
    *,
    output: Annotated[Path, Parameter(name=("--output", "-o"), help="Folder of the data set, beside its documents/.")],
    name: str = "longattn",
    recipe: Everything = Recipe(),
) -> int:
    """Write the scores of all windows as Dolma attributes, a file beside each file of documents, line for line.

        longattn attributes RUN --output data/wiki

    Of a run over several data sets, give the folder that holds them all: OUTPUT/wiki/attributes/NAME/... and so on.

    Parameters
    ----------
    name
        What the attributes are called: OUTPUT/attributes/NAME/..., NAME__score and NAME__kept.
    """
    from longattn import verbs

    files = verbs.write_attributes(recipe, folder, output, name)
    say(f"{len(files)} files of attributes {name} -> {output}")
    return DONE


def _say_ledger(ledger: Mapping[str, int], output: str) -> int:
    """Say what became of the input; returns the exit code that it deserves."""
    rejected = {key.removeprefix("rejected."): n for key, n in ledger.items() if key.startswith("rejected.")}
    reasons = ", ".join(f"{n} {reason}" for reason, n in sorted(rejected.items()))
    say(
        f"{ledger['documents']} documents = {ledger['windowed']} cut into {ledger['windows']} windows"
        f" + {ledger['too_short']} too short for a window + {sum(rejected.values())} rejected"
        + (f" ({reasons}: see {below(output, 'rejects.jsonl')})" if rejected else "")
    )
    if not ledger["windows"]:
        _say_why_nothing(ledger, output)
    broken = sum(n for key, n in ledger.items() if key.startswith("non_finite."))
    if broken:
        complain(f"{broken} measurements are not finite numbers; their windows are never selected")
    failed = max((n for key, n in ledger.items() if key.startswith("failed.")), default=0)
    crashed, units = rejected.get("crashed", 0), ledger.get("units_failed", 0)
    if failed or crashed or units:
        complain(
            f"left out: {units} whole work units, {crashed} documents that could not be cut, "
            f"{failed} windows that could not be measured; `longattn status {output}` says why, --retry tries again"
        )
    return LEFT_OUT if broken or failed or crashed or units else DONE


def _say_why_nothing(ledger: Mapping[str, int], output: str) -> None:
    """What most likely was meant otherwise, where there is not one window."""
    if ledger["too_short"]:
        complain(
            "no document is as long as a window: choose a shorter --window.length, or join short records by a field "
            "that they share (--corpus.join-by FIELD)"
        )
    rejects = Path(output) / "rejects.jsonl"
    if rejects.is_file() and (first := rejects.read_text(encoding="utf-8").partition("\n")[0]):
        one = json.loads(first)
        line = f", line {one['line']}" if one["line"] else ""
        complain(f"the first record that was rejected is {one['file']}{line}: {one['detail']}")


def _say_selection(selection: "Selection", folder: str) -> None:
    for source, part in selection.sources.items():
        say(f"  {source}: kept {part.kept} of {part.windows} windows, {part.kept_tokens:,} of {part.tokens:,} tokens")
    for note in selection.notes:
        complain(note)


def _say_refinement(found: "Refinement") -> None:
    say(
        f"the kept set is the one that all rows give with a probability of at least {found.confidence:.1%}, "
        f"for {found.pairs:.1%} of the exact cost, pilot included, after {found.rounds} rounds"
    )
    if found.undecided:
        say(f"{len(found.undecided)} windows are undecided; manifest.json names them (refinement.undecided)")
