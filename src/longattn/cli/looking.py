"""The verbs that show what was kept and why: pages, figures, one text by itself."""

import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from longattn.addresses import below, is_uri
from longattn.cli.application import DONE, LOOK, AsJson, Device, Everything, Folder, app
from longattn.cli.saying import complain, say, say_json, say_table
from longattn.recipes import Recipe, as_flags
from longattn.settings import Inspecting, plain

if TYPE_CHECKING:
    from longattn.records import Inspection
    from longattn.report.diff import Difference, SourceChange


@app.command(group=LOOK)
def report(
    folder: Folder,
    *,
    validation: Path | None = None,
    timings: bool = False,
    texts: bool | None = None,
    recipe: Everything = Recipe(),
) -> int:
    """Write report.html: what was kept, why, how sure the cut is, and what other choices would keep.

    Parameters
    ----------
    validation
        A validation.json to show; without it, the run's own, if there is one.
    timings
        Show seconds and the machine as well; the page then differs between runs of the same.
    texts
        Show the beginning and end of some windows; done unless the corpus is private.
    """
    from longattn import verbs

    verbs.write_report(recipe, folder, texts=texts, validation=validation, timings=timings)
    say(f"report -> {below(folder, 'report.html')}")
    return DONE


@app.command(name="inspect", group=LOOK)
def inspect_(
    target: Annotated[
        str,
        Parameter(
            help="A run folder, the address of one, a text file, or ``-`` for standard input.",
            allow_leading_hyphen=True,
        ),
    ],
    *windows: Annotated[str, Parameter(help="Ids of windows of the run; numbers of windows of the text, from 1 on.")],
    output: Annotated[Path | None, Parameter(name=("--output", "-o"))] = None,
    figures: Path | None = None,
    recipe: Everything = Recipe(),
    rule: Annotated[Inspecting, Parameter(name="*", group="Inspect")] = Inspecting(),
    device: Device = "auto",
) -> int:
    """Look closely at windows: a page with the text, which tokens look far back, and at what.

    Of a run, without ids, the best window of each source. Any layers, heads and distance, measured or not:

        longattn inspect RUN --longattn.layers 15 --longattn.skip-first 4 --longattn.distance 512

    Parameters
    ----------
    output
        The page, or a folder for pages of several windows; RUN/inspect, or the working folder for a text.
    figures
        Write the figures into this folder as well: SVG, and PNG where ``longattn[figures]`` is installed.
    """
    from longattn import verbs
    from longattn.report.figures import write_figures
    from longattn.report.inspect_page import page_path, write_inspection
    from longattn.stores import working_copy

    pages: Iterator[tuple[str, Inspection]]
    if is_run := is_uri(target) or (Path(target) / "manifest.json").exists():
        pages = ((one.window_id, one) for one in verbs.inspect_windows(target, windows, recipe, rule, device))
    else:
        text = sys.stdin.read() if target == "-" else Path(target).read_text(encoding="utf-8")
        name = "text" if target == "-" else Path(target).name
        numbers = windows or ("1",)
        pages = ((n, verbs.inspect_text(text, name, recipe, rule, _number(n), device)) for n in numbers)
    # a page of a run in a store goes there as well
    home = working_copy(target) if is_uri(target) else Path(target if is_run else "")
    for window, found in pages:
        path = page_path(home, found.window_id)
        place = below(target, f"inspect/{path.name}") if is_uri(target) else path
        if output is not None:
            place = path = output if output.suffix == ".html" and len(windows) < 2 else output / path.name
        command = ["longattn", "inspect", target, window, *as_flags(recipe), *_flags_of(rule)]
        write_inspection(path, found, shlex.join(command))
        say(f"{found.window_id}: DS {found.readings['ds']:.4f}, uniform {found.null['ds']:.4f} -> {place}")
        if figures is not None:
            say(f"figures -> {write_figures(figures / path.stem, found)}")
    return DONE


def _number(word: str) -> int:
    """Which window of a text."""
    if not word.isdecimal():
        raise ValueError(f"windows of a text are named by number, from 1 on, got {word!r}")
    return int(word)


def _flags_of(rule: Inspecting) -> list[str]:
    """What differs from the default, as flags."""
    given = {name: value for name, value in plain(rule).items() if value != getattr(Inspecting(), name)}
    names = {name: name.replace("_", "-") for name in given}
    return [
        word
        for name, value in given.items()
        for word in ([f"--no-{names[name]}"] if value is False else [f"--{names[name]}", str(value)])
    ]


@app.command(group=LOOK)
def score(
    file: Annotated[Path, Parameter(allow_leading_hyphen=True)],
    *,
    recipe: Everything = Recipe(),
    device: Device = "auto",
) -> int:
    """Measure one text file (- for standard input) and show DS and DU of its windows."""
    from longattn import verbs

    text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    result = verbs.score(text, recipe, device)
    say(f"{result.num_tokens} tokens, {len(result.windows)} windows; uniform attention has DS {result.null['ds']:.4f}")
    for row in result.windows:
        far = "  ".join(f"{name} {value:.4f}" for name, value in row.items() if name.startswith("ds@"))
        say(
            f"  tokens {row['start']:.0f} to {row['start'] + row['num_tokens']:.0f}:  DS {row['ds']:.4f} "
            f"({row['ds'] - result.null['ds']:+.4f})  DU {row['du']:.3e}  {far}"
        )
    return DONE


@app.command(group=LOOK)
def diff(
    first: Annotated[str, Parameter(help="A run folder, the address of one, or a selection.parquet.")],
    second: Annotated[str, Parameter(help="Another one.")],
    *,
    output: Annotated[Path | None, Parameter(name=("--output", "-o"), help="Write an HTML page to this file.")] = None,
    changes: Path | None = None,
    as_json: AsJson = False,
) -> int:
    """Show what two selections keep differently, and why; loads no model.

    Select anew and see what it changes:

        cp RUN/selection.parquet before.parquet
        longattn select RUN --longattn.alpha 1
        longattn diff before.parquet RUN --output diff.html

    Parameters
    ----------
    changes
        Write every window that entered or left to this Parquet file.
    as_json
        Print all figures as JSON instead of tables.
    """
    from longattn import verbs

    found = verbs.diff(first, second, output, changes)
    if as_json:
        say_json(found)
        return DONE
    _say_difference(found)
    for what, path in (("changes", changes), ("page", output)):
        if path is not None:
            say(f"{what:<17} {path}")
    return DONE


def _say_difference(found: "Difference") -> None:
    from longattn.report.diff_page import CAUSES
    from longattn.report.words import percent, setting

    for remark in found.remarks:
        complain(remark)
    rows = [
        [of.source, *(f"{n:,}" for n in (*of.kept, of.both, of.left, of.entered)), percent(_part(of))]
        for of in found.sources
    ]
    columns = ["source", "kept, first", "kept, second", "in both", "left", "entered", "tokens in common"]
    say_table(f"{found.names[0]} (first) and {found.names[1]} (second)", columns, rows)
    why = [[of.change, CAUSES.get(of.cause, of.cause), of.mover or "", f"{of.windows:,}"] for of in found.reasons]
    say_table("changes", ["change", "why not kept on the other side", "moved most by", "windows"], why)
    settings = [[name, setting(first), setting(second)] for name, first, second in found.settings]
    if settings:
        say_table("what differs in settings and versions", ["name", "first", "second"], settings)


def _part(of: "SourceChange") -> float | None:
    """Tokens that both keep, as a part of those that either does."""
    either = sum(of.tokens) - of.both_tokens
    return of.both_tokens / either if either else None
