"""The command line: one verb per stage, made from typed functions; everything heavy is imported when it is used."""

import json
import logging
import os
import shlex
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import cyclopts
import orjson
from cyclopts import App, Parameter

from longattn import __version__
from longattn.addresses import below
from longattn.errors import LongAttnError
from longattn.logs import Format, Level, Style, printable, show_log, style
from longattn.recipes import RECIPES, Recipe, as_flags
from longattn.settings import Calibrating, Compute, Corpus, Inspecting, Model, Needles, Validating, plain
from longattn.templates import Scheduler

if TYPE_CHECKING:
    from longattn.engines import Progress
    from longattn.records import Inspection
    from longattn.refining import Refinement
    from longattn.report.diff import Difference, SourceChange
    from longattn.selection import Selection
    from longattn.validity import Comparison, Preset, Validation
    from longattn.verbs import Status

HELP = """Select long-context training data by measured long-range dependency.

A run goes through **plan, cut, measure, select, export, report**; `run` does all of it:

    longattn run books=books.jsonl.zst code=src/ --output RUN

Measuring is the long part and is never repeated: stop it at any time, run the same command again, and choose
anew with `longattn select RUN --longattn.alpha 1 --keep.share 0.2` in seconds.

Every setting is a flag, a key of a TOML or YAML file (`--config`), and a variable (`LONGATTN_WINDOW_LENGTH`);
flags win over variables, variables over files, files over the recipe.
"""

EPILOGUE = """Exit codes:

* 0: done
* 1: stopped by an error, which is named in one line; what is on disk stays good, and the same command goes on from it
* 2: the command line was not understood, nothing was done
* 3: done, but something was left out: documents or units in quarantine, or values that are no finite numbers
* 130 and 143: stopped by Ctrl-C (SIGINT) or by SIGTERM; the same command goes on
"""

SHOWN = 10
"""Units in quarantine, and documents of each, that a person is shown."""

DONE, ERROR, USAGE, LEFT_OUT = 0, 1, 2, 3
"""Exit codes; a signal's is 128 and its number."""

app = App(
    name="longattn",
    help=HELP,
    help_epilogue=EPILOGUE,
    help_format="markdown",
    version=__version__,
    default_parameter=Parameter(negative_iterable=(), show_env_var=False),
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)

Inputs = Annotated[str, Parameter(help="Files, folders or globs; SOURCE=PATH names the source.")]
Output = Annotated[str, Parameter(name=("--output", "-o"), help="The run folder, or the address of one in a store.")]
Folder = Annotated[str, Parameter(help="A run folder, or the address of one in a store.")]
Everything = Annotated[Recipe, Parameter(name="*")]
Spread = Annotated[Compute, Parameter(name="*")]
"""How the work is spread: flags without a prefix, since every verb that works has them."""


@app.command
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

    units = verbs.plan(_with_inputs(recipe, inputs), output, hashes)
    size = sum(unit.num_bytes for unit in units)
    _say(f"{len(units)} work units, {size / 1e6:,.1f} MB -> {below(output, 'plan.parquet')}")
    return 0


@app.command
def cut(
    *inputs: Inputs,
    output: Output = "longattn-run",
    recipe: Everything = Recipe(),
    compute: Spread = Compute(),
) -> int:
    """Read, tokenise and cut into windows, without a model: counts, spans and rejects, before measuring."""
    from longattn import verbs

    with _progress() as progress:
        ledger = verbs.cut(_with_inputs(recipe, inputs), output, compute, progress)
    return _say_ledger(ledger, output)


@app.command
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

    recipe = _with_inputs(recipe, inputs)
    if dry_run:
        return _estimate(recipe, output, compute)
    with _progress() as progress:
        ledger = verbs.measure(recipe, output, compute, progress)
    return _say_ledger(ledger, output)


@app.command
def select(folder: Folder, *, recipe: Everything = Recipe()) -> int:
    """Choose among measured windows; settings not given are those of the run. Takes seconds, loads no model."""
    from longattn import verbs

    _say_selection(verbs.select(recipe, folder), folder)
    return 0


@app.command
def refine(folder: Folder, *, recipe: Everything = Recipe(), compute: Spread = Compute()) -> int:
    """Draw more rows of windows near the cut until the kept set is the exact one with stated confidence."""
    from longattn import verbs

    found, selection = verbs.refine(recipe, folder, compute)
    _say_refinement(found)
    _say_selection(selection, folder)
    return 0


@app.command
def export(folder: Folder, *, recipe: Everything = Recipe()) -> int:
    """Write the selected windows as Parquet or JSON lines with a dataset card."""
    from longattn import verbs

    summary = verbs.export_selection(recipe, folder)
    _say(f"{summary.num_windows} windows, {summary.num_tokens:,} tokens -> {below(folder, 'export/data')}")
    return 0


@app.command
def report(
    folder: Folder,
    *,
    validation: Path | None = None,
    timings: bool = False,
    recipe: Everything = Recipe(),
) -> int:
    """Write report.html: what was kept, why, how sure the cut is, and what other choices would keep.

    Parameters
    ----------
    validation
        A validation.json to show; without it, the run's own, if there is one.
    timings
        Show seconds and the machine as well; the page then differs between runs of the same.
    """
    from longattn import verbs

    verbs.write_report(recipe, folder, validation=validation, timings=timings)
    _say(f"report -> {below(folder, 'report.html')}")
    return 0


@app.command
def diff(
    first: Annotated[Path, Parameter(help="A run folder, or a selection.parquet.")],
    second: Annotated[Path, Parameter(help="Another one.")],
    *,
    output: Annotated[Path | None, Parameter(name=("--output", "-o"), help="Write an HTML page to this file.")] = None,
    changes: Path | None = None,
    json: bool = False,
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
    json
        Print all figures as JSON instead of tables.
    """
    from longattn import verbs

    found = verbs.diff(first, second, output, changes)
    if json:
        _say_json(found)
        return 0
    _say_difference(found)
    for what, path in (("changes", changes), ("page", output)):
        if path is not None:
            _say(f"{what:<17} {path}")
    return 0


@app.command
def run(
    *inputs: Inputs,
    output: Output = "longattn-run",
    dry_run: bool = False,
    recipe: Everything = Recipe(),
    compute: Spread = Compute(),
) -> int:
    """Do all of it: plan, cut, measure, select, export, report.

    Parameters
    ----------
    dry_run
        Only estimate windows, bytes and time from a sample of the input.
    """
    from longattn import verbs

    recipe = _with_inputs(recipe, inputs)
    if dry_run:
        return _estimate(recipe, output, compute)
    with _progress() as progress:
        result = verbs.run(recipe, output, compute, progress)
    code = _say_ledger(result.ledger, output)
    _say_selection(result.selection, output)
    _say(f"selected windows  {below(output, 'export/data')}")
    _say(f"all scores        {below(output, 'selection.parquet')}")
    _say(f"report            {below(output, 'report.html')}")
    return code


@app.command
def status(folder: Folder, *, as_json: Annotated[bool, Parameter(name="--json", negative=())] = False) -> int:
    """Show how far a run is, shards and workers of Ray added up, and what was left out; safe to call while it works.

    Parameters
    ----------
    as_json
        Print one JSON object, with all that is in quarantine.
    """
    from longattn import engines, verbs

    state = verbs.status(folder)
    if as_json:
        _say(json.dumps(plain(state), indent=1))
        return DONE
    _say(f"{state.units} work units planned")
    for name, done in state.tables.items():
        _say(f"  {name:<40} {done} of {state.units} units")
    together = engines.together(state.attempts)
    for line in together.lines():
        _say(f"  {line}")
    for attempt in together.worth_a_line:
        _say(f"  {_attempt(attempt)}")
    for line in together.workers():
        _say(f"    {line}")
    _say_left_out(state)
    _say("selected: " + ("yes" if state.selected else "not yet"))
    return 0


@app.command
def template(
    scheduler: Scheduler,
    *inputs: Inputs,
    output: Output = "longattn-run",
    shards: int = 16,
    gpus: int = 1,
    image: str = "IMAGE",
    recipe: Everything = Recipe(),
) -> int:
    """Print a job file for a scheduler, with the command that measures these inputs with these settings.

        longattn template slurm books=/shared/books --output /shared/run --shards 64 > measure.sbatch

    Parameters
    ----------
    scheduler
        An array of Slurm, an indexed job of Kubernetes, or a job of a running Ray cluster.
    shards
        Tasks or pods; many more than there are machines at a time lose less to a slow one.
    gpus
        GPUs of a task or pod; 0 for none.
    image
        Container image of the pods.
    """
    from longattn.templates import render

    _say(render(scheduler, _with_inputs(recipe, inputs), output, shards=shards, gpus=gpus, image=image).rstrip())
    return DONE


@app.command
def verify(folder: Folder, *, json: bool = False) -> int:
    """Compare every file of a run, finished or stopped, with what it was written as; exit code 1 if any is damaged.

    With --json, one object: files and num_bytes that are as written, damaged (file, problem, remedy), unfinished and
    strangers.
    """
    from longattn import verbs

    found = verbs.verify(folder)
    if json:
        _say(orjson.dumps(plain(found), option=orjson.OPT_INDENT_2).decode())
        return 1 if found.damaged else 0
    for one in found.damaged:
        _complain(f"{below(folder, one.file)} is damaged: {one.problem}; {one.remedy}")
    for sentence in found.unfinished:
        _say(f"unfinished: {sentence}")
    for name in found.strangers:
        _say(f"no part of the run: {name}")
    _say(
        f"{found.files} files, {found.num_bytes / 1e6:,.1f} MB, are as they were written; {len(found.damaged)} damaged"
    )
    return 1 if found.damaged else 0


@app.command
def doctor(
    *,
    output: Annotated[Path | None, Parameter(name=("--output", "-o"))] = None,
    model: Annotated[Model, Parameter(group="Model")] = Model(),
    window: int = 4096,
    as_json: Annotated[bool, Parameter(name="--json", negative=())] = False,
) -> int:
    """Check the installation, a model and an output folder before hours are spent; each line says what to do.

    Parameters
    ----------
    output
        A run folder, or a place for one: can it be written durably, is there room, is it in use, is it whole.
    window
        Tokens per window that the model is loaded for.
    as_json
        Print the findings as a JSON list.
    """
    from longattn.doctor import examine

    findings = examine(model, window, output)
    if as_json:
        _say(json.dumps(plain(findings), indent=1))
    else:
        for one in findings:
            _say(printable(f"{one.outcome}  {one.what:<14} {one.found}" + (f"; {one.advice}" if one.advice else "")))
    return ERROR if any(one.outcome == "fail" for one in findings) else DONE


@app.command
def validate(
    *inputs: Inputs,
    output: Output = "longattn-run",
    recipe: Everything = Recipe(),
    rule: Annotated[Validating, Parameter(name="*", group="Validate")] = Validating(),
    device: str = "auto",
    threads: int | None = None,
) -> int:
    """Test scorers on your own text: do they tell a window from pieces of others, or from itself in disorder?

    Without inputs, those of the run in the output folder are used, with its settings. Continues where an earlier
    attempt stopped.

    Parameters
    ----------
    device
        What to measure on: cpu, cuda:0, mps; auto takes the first GPU, or the CPU.
    threads
        CPU threads; None leaves it to torch.
    """
    from longattn import trials

    with _progress() as progress:
        found = trials.validate(_with_inputs(recipe, inputs), output, rule, device, threads, progress)
    _say_validation(found)
    _say(f"all figures       {below(output, 'validity/validation.json')}")
    _say(f"page              {below(output, 'validity/validation.html')}")
    return 0


@app.command
def calibrate(
    *inputs: Inputs,
    output: Output = "longattn-run",
    preset: Path = Path("preset.json"),
    recipe: Everything = Recipe(),
    rule: Annotated[Calibrating, Parameter(name="*", group="Calibrate")] = Calibrating(),
    device: str = "auto",
    threads: int | None = None,
) -> int:
    """Find the layers, heads and distance whose far attention tells intact text from pieces, at a share of the cost.

    Documents are split in two: what is found on one part is judged on the other. Use it with --longattn.preset FILE.

    Parameters
    ----------
    preset
        Where to write what was found, with its evidence.
    device
        What to measure on: cpu, cuda:0, mps; auto takes the first GPU, or the CPU.
    threads
        CPU threads; None leaves it to torch.
    """
    from longattn import trials

    with _progress() as progress:
        found = trials.calibrate(_with_inputs(recipe, inputs), output, preset, rule, device, threads, progress)
    _say_preset(found)
    _say(f"preset            {preset}")
    return 0


@app.command
def compare(folder: Folder, *, recipe: Everything = Recipe()) -> int:
    """Show how far the scorers of a run agree: ranks, kept sets, and windows that they disagree on. Loads no model."""
    from longattn import trials

    _say_comparison(trials.compare(recipe, folder))
    _say(f"all figures       {below(folder, 'validity/comparison.json')}")
    _say(f"page              {below(folder, 'validity/comparison.html')}")
    return 0


@app.command
def score(
    file: Annotated[Path, Parameter(allow_leading_hyphen=True)], *, recipe: Everything = Recipe(), device: str = "cpu"
) -> int:
    """Measure one text file (``-`` for standard input) and show DS and DU of its windows."""
    from longattn import verbs

    text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    result = verbs.score(text, recipe, device)
    _say(f"{result.num_tokens} tokens, {len(result.windows)} windows; uniform attention has DS {result.null['ds']:.4f}")
    for row in result.windows:
        far = "  ".join(f"{name} {value:.4f}" for name, value in row.items() if name.startswith("ds@"))
        _say(
            f"  tokens {row['start']:.0f} to {row['start'] + row['num_tokens']:.0f}:  DS {row['ds']:.4f} "
            f"({row['ds'] - result.null['ds']:+.4f})  DU {row['du']:.3e}  {far}"
        )
    return 0


@app.command(name="inspect")
def inspect_(
    target: Annotated[
        Path, Parameter(help="A run folder, a text file, or ``-`` for standard input.", allow_leading_hyphen=True)
    ],
    *windows: Annotated[str, Parameter(help="Ids of windows of the run; numbers of windows of the text, from 1 on.")],
    output: Annotated[Path | None, Parameter(name=("--output", "-o"))] = None,
    figures: Path | None = None,
    recipe: Everything = Recipe(),
    rule: Annotated[Inspecting, Parameter(name="*", group="Inspect")] = Inspecting(),
    device: str = "cpu",
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
    device
        What to measure on: cpu, cuda:0, mps.
    """
    from longattn import verbs
    from longattn.report.figures import write_figures
    from longattn.report.inspect_page import page_path, write_inspection

    pages: Iterator[tuple[str, Inspection]]
    if is_run := (target / "manifest.json").exists():
        pages = ((one.window_id, one) for one in verbs.inspect_windows(target, windows, recipe, rule, device))
    else:
        text = sys.stdin.read() if str(target) == "-" else target.read_text(encoding="utf-8")
        name = "text" if str(target) == "-" else target.name
        numbers = windows or ("1",)
        pages = ((n, verbs.inspect_text(text, name, recipe, rule, _number(n), device)) for n in numbers)
    for window, found in pages:
        path = page_path(target if is_run else Path(), found.window_id)
        if output is not None:
            path = output if output.suffix == ".html" and len(windows) < 2 else output / path.name
        command = ["longattn", "inspect", str(target), window, *as_flags(recipe), *_flags_of(rule)]
        write_inspection(path, found, shlex.join(command))
        _say(f"{found.window_id}: DS {found.readings['ds']:.4f}, uniform {found.null['ds']:.4f} -> {path}")
        if figures is not None:
            _say(f"figures -> {write_figures(figures / path.stem, found)}")
    return 0


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


@app.command
def heads(
    *inputs: Inputs,
    output: Annotated[Path, Parameter(name=("--output", "-o"))] = Path("heads.json"),
    needles: Annotated[Needles, Parameter(group="Needles")] = Needles(),
    model: Annotated[Model, Parameter(group="Model")] = Model(),
    corpus: Annotated[Corpus, Parameter(group="Corpus")] = Corpus(),
    device: str = "auto",
    show: int = 10,
) -> int:
    """Find the heads that fetch from far back, and save them as a preset for scorers.

    A random fact ("The secret code of Marlow is 48213.") is put somewhere into a text, and asked for at its end. A head
    that attends most to the very token of the fact that is said next has copied it; its score is the share of such
    tokens, over the prompts that the model answers right. A few heads in a hundred have a score above 0.1, and they are
    found with few prompts:

        longattn heads books.jsonl --needles.lengths 4096 --needles.lengths 16384 --model.name MODEL

    Without input the text is Python's own documentation. Prompts that the model cannot answer say nothing of its heads:
    see the table of right answers before you trust a score.

    Parameters
    ----------
    output
        The preset, a JSON file: heads above 0.1 as [layer, head, score], best first, and the evidence.
    device
        ``cpu``, ``cuda:0``, ``mps``; ``auto`` takes a GPU where there is one.
    show
        How many heads to print.
    """
    from longattn import trials

    total = sum(needles.lengths) * needles.depths * needles.prompts
    with _steps("asking", total) as advance:
        found = trials.heads(replace(corpus, inputs=inputs or corpus.inputs), model, needles, output, device, advance)
    _say("right answers by length (rows) and place of the fact, from the beginning to the end of the text")
    for length in needles.lengths:
        cells = [f"{cell.right}/{cell.prompts}" for cell in found.cells if cell.length == length]
        _say(f"  {length:>7,}  {'  '.join(cells)}")
    _say("best heads")
    for layer, head, score in found.best()[:show]:
        _say(f"  layer {layer:>3}  head {head:>3}  {score:.3f}")
    strong = int((found.scores > 0.1).sum())
    _say(f"{strong} of {found.scores.size} heads are above 0.1 -> {output}")
    _say(f"the 10 best of every other prompt and the 10 best of the rest have {found.agreement} in common")
    return 0


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: settings from flags, variables, ``--config`` and ``--recipe``; errors as one line."""
    sys.exit(launch(sys.argv[1:] if arguments is None else list(arguments)))


@app.meta.default
def _launch(
    *arguments: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    config: Annotated[
        Path | None, Parameter(help="TOML or YAML file with settings, by the names of the flags.")
    ] = None,
    recipe: Annotated[str, Parameter(help=f"Settings to begin from: {', '.join(RECIPES)}.")] = "laptop",
    debug: Annotated[bool, Parameter(help="Show the traceback of an error.")] = False,
    log_format: Annotated[Format, Parameter(help="Log lines as text, or each as a JSON object.")] = "text",
    log_level: Annotated[Level, Parameter(help="What is worth a log line.")] = "info",
) -> int:
    show_log(Style(log_format, log_level))
    sources: list[Any] = [cyclopts.config.Env("LONGATTN_", command=False)]
    if config is not None:
        reader = cyclopts.config.Toml if config.suffix == ".toml" else cyclopts.config.Yaml
        sources.append(reader(config, must_exist=True, use_commands_as_keys=False))
    if recipe not in RECIPES:
        _complain(f"recipe must be one of {', '.join(RECIPES)}, got {recipe!r}")
        return USAGE
    sources.append(_Base(recipe))
    app.config = tuple(sources)
    try:
        return app(arguments, exit_on_error=True) or DONE
    except KeyboardInterrupt as stop:
        _complain("stopped; run the same command again to continue")
        return 128 + (stop.number if isinstance(stop, _Stopped) else signal.SIGINT)
    except Exception as error:
        # the last stop before a person, who gets one line; --debug shows all of it
        if debug:
            sys.stderr.write(_shown(traceback.format_exc()))
        _complain(_in_one_line(error))
        return ERROR


class _Stopped(KeyboardInterrupt):
    """A signal asked the process to end."""

    def __init__(self, number: int) -> None:
        self.number = number


def _in_one_line(error: Exception) -> str:
    """What went wrong, for whom a traceback says nothing."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if not isinstance(error, (LongAttnError, ValueError, OSError)):
        text = f"{type(error).__name__}: {text} (--debug shows where)"
    return printable("; ".join([text or type(error).__name__, *getattr(error, "__notes__", [])]))


@dataclass(frozen=True)
class _Base:
    """Where settings come from when nobody gives them: the run folder a verb works on, or a recipe."""

    recipe: str

    def __call__(self, app: App, commands: tuple[str, ...], arguments: Any) -> None:
        given = {a.name: a.tokens[0].value for a in arguments if a.tokens}
        folder = given.get("--folder")
        source, recipe = f"recipe {self.recipe}", plain(RECIPES[self.recipe]())
        verb = commands[0] if commands else ""
        if verb in ("validate", "calibrate") and "--inputs" not in given and "INPUTS" not in given:
            folder = given.get("--output", "longattn-run")
        if verb == "inspect" and (Path(given.get("--target", "")) / "manifest.json").exists():
            source, recipe = f"{given['--target']}/manifest.json", _recorded_recipe(given["--target"])
        if folder is not None and verb in ("select", "refine", "export", "report", "compare", "validate", "calibrate"):
            source = f"{folder}/manifest.json"
            recipe = _recorded_recipe(folder)
        if any(a.name.startswith("--window.") for a in arguments):
            values = _given({**recipe, **recipe["settings"]})
            values.pop("settings", None)
            values["keep"] = _without_replaced(values["keep"], {a.name for a in arguments if a.tokens})
            cyclopts.config.Dict(values, source=source, use_commands_as_keys=False)(app, commands, arguments)


def _without_replaced(keep: dict[str, Any], given: set[str]) -> dict[str, Any]:
    """What to keep, without what a given setting takes the place of as a whole: a budget, the weights, the quotas."""
    for together in (("share", "tokens", "count", "threshold"), ("weights",), ("quotas",)):
        if any(name.startswith(f"--keep.{one}") for name in given for one in together):
            keep = {key: value for key, value in keep.items() if key not in together}
    return keep


def _recorded_recipe(folder: str) -> dict[str, Any]:
    """The recipe that the run was last called with."""
    from longattn.tables import RunFolder

    recipe = RunFolder.at(folder).manifest().get("recipe")
    if recipe is None:
        raise FileNotFoundError(f"{folder} is no measured run: it has no manifest.json; run `longattn measure` first")
    return recipe


def _given(value: Any) -> Any:
    """Settings without those that are None or empty: a flag has no way to say so, and all of them default to it."""
    if not isinstance(value, dict):
        return value
    inner = {key: _given(item) for key, item in value.items()}
    return {key: item for key, item in inner.items() if item not in (None, {}, [])}


def launch(arguments: list[str]) -> int:
    """Run the command line and return its exit code.

    SIGTERM, which comes before a preemption, ends it as politely as Ctrl-C; a second signal of either kind ends it at
    once.
    """

    def interrupt(number: int, frame: object) -> None:
        for one in before:
            signal.signal(one, end)
        raise _Stopped(number)

    def end(number: int, frame: object) -> None:
        # processes notice that their parent is gone, and what they had in hand begins anew
        os._exit(128 + number)

    before = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}
    for one in before:
        signal.signal(one, interrupt)
    try:
        return app.meta(arguments)
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _with_inputs(recipe: Recipe, inputs: tuple[str, ...]) -> Recipe:
    inputs = inputs or recipe.corpus.inputs
    if not inputs:
        raise ValueError("no input given: name files, folders or globs, such as books=data/*.jsonl.zst")
    return replace(recipe, corpus=replace(recipe.corpus, inputs=tuple(inputs)))


def _estimate(recipe: Recipe, output: str, compute: Compute) -> int:
    from longattn import verbs

    guess = verbs.estimate(recipe, output, compute)
    _say(f"{guess.units} work units ({guess.units_done} done), {guess.num_bytes / 1e6:,.1f} MB")
    _say(f"about {guess.windows:,} windows, {guess.tokens:,} tokens")
    _say(f"about {guess.seconds / 3600:.2f} hours for one process on {compute.devices[0]}, measured on a sample")
    return 0


def _say_ledger(ledger: Mapping[str, int], output: str) -> int:
    """Say what became of the input; returns the exit code that it deserves."""
    rejected = {key.removeprefix("rejected."): n for key, n in ledger.items() if key.startswith("rejected.")}
    reasons = ", ".join(f"{n} {reason}" for reason, n in sorted(rejected.items()))
    _say(
        f"{ledger['documents']} documents = {ledger['windowed']} cut into {ledger['windows']} windows"
        f" + {ledger['too_short']} too short for a window + {sum(rejected.values())} rejected"
        + (f" ({reasons}: see {below(output, 'rejects.jsonl')})" if rejected else "")
    )
    broken = sum(n for key, n in ledger.items() if key.startswith("non_finite."))
    if broken:
        _complain(f"{broken} measurements are not finite numbers; their windows are never selected")
    failed = max((n for key, n in ledger.items() if key.startswith("failed.")), default=0)
    crashed, units = rejected.get("crashed", 0), ledger.get("units_failed", 0)
    if failed or crashed or units:
        _complain(
            f"left out: {units} whole work units, {crashed} documents that could not be cut, "
            f"{failed} windows that could not be measured; `longattn status {output}` says why, --retry tries again"
        )
    return LEFT_OUT if broken or failed or crashed or units else DONE


def _attempt(said: Mapping[str, Any]) -> str:
    """What an attempt last said, in one line."""
    who = f"{said['engine']}, process {said['pid']} on {said['host']}" + (f", {said['shard']}" if said["shard"] else "")
    did = f"{said['units_done']} of {said['units']} units, {said['windows']} windows"
    if reasons := ", ".join(f"{n} {reason}" for reason, n in sorted(said["rejects"].items())):
        did += f", rejected {reasons}"
    if said["phase"] != "running":
        return f"{who}: {said['phase']}, {did}" + (f": {printable(said['message'])}" if said["message"] else "")
    if said["silent"] > 60:
        return f"{who}: {did}; last heard of {said['silent'] / 60:.0f} min ago"
    left = said["seconds_left"]
    remaining = f", about {left / 60:.0f} min left" if left is not None else ""
    return f"{who}: {did}, {said['tokens_per_second']:,.0f} tokens/s{remaining}"


def _say_left_out(state: "Status") -> None:
    """Rejects by reason, and the first of what is in quarantine."""
    for key, count in sorted(state.ledger.items()):
        if key.startswith("rejected.") and count:
            _say(f"  rejected: {count} {key.removeprefix('rejected.')}")
    for entry in state.quarantine[:SHOWN]:
        if entry["whole"]:
            _say(f"  left out: unit {entry['unit']} ({', '.join(entry['files'][:2])}): {entry['whole']}")
        for one in entry["failures"][:SHOWN]:
            where = f"{one['file']} at {one['position']}" + (f", id {one['doc_id']}" if one["doc_id"] else "")
            _say(printable(f"  left out by {entry['stage']}: {where}: {one['reason']}: {one['detail']}"))
    if (more := len(state.quarantine) - SHOWN) > 0:
        _say(f"  left out: {more} more units, see --json")


def _say_selection(selection: "Selection", folder: str) -> None:
    for source, part in selection.sources.items():
        _say(f"  {source}: kept {part.kept} of {part.windows} windows, {part.kept_tokens:,} of {part.tokens:,} tokens")
    for note in selection.notes:
        _complain(note)


def _say_refinement(found: "Refinement") -> None:
    _say(
        f"the kept set is the one that all rows give with a probability of at least {found.confidence:.1%}, "
        f"for {found.pairs:.1%} of the exact cost, pilot included, after {found.rounds} rounds"
    )
    if found.undecided:
        _say(f"{len(found.undecided)} windows are undecided; manifest.json names them (refinement.undecided)")


def _say_validation(found: "Validation") -> None:
    from longattn.validity.page import figure

    by = {(s.source, s.control, s.scorer): s for s in found.separations}
    for source, facts in found.sources.items():
        title = f"{source}: AUC against {facts['windows']} intact windows of {facts['documents']} documents"
        rows = [
            [control, *(figure(of.auc if (of := by.get((source, control, name))) else None) for name in found.scorers)]
            for control in found.settings["controls"]
        ]
        for name in ("trend", "length", "recut"):
            values = {of.scorer: of.value for of in found.readings if (of.source, of.name) == (source, name)}
            rows.append([name, *(figure(values.get(scorer)) for scorer in found.scorers)])
        _say_table(title, ["control", *found.scorers], rows)
    costs = [[name, f"{of.seconds:.4f}", f"{of.tokens_per_second:,.0f}"] for name, of in found.costs.items()]
    _say_table("cost of one window", ["scorer", "seconds", "tokens/s"], costs)
    for note in found.notes:
        _complain(note)


def _say_preset(found: "Preset") -> None:
    from longattn.validity.page import figure

    heads = "all" if found.heads is None else ", ".join(f"{layer}.{head}" for layer, head in found.heads)
    _say(f"layers {', '.join(map(str, found.layers))}; heads {heads}; distance {found.distance}")
    _say(f"first {found.skip_first} keys skipped; alpha {found.alpha}; spread {found.spread:+d}")
    rows = [
        [row["source"], row["control"], figure(row["calibration"]), figure(row["held_out"])]
        for row in found.evidence["separations"]
    ]
    _say_table("AUC", ["source", "control", "calibration", "held out"], rows)


def _say_comparison(found: "Comparison") -> None:
    for source, count in found.windows.items():
        mine = [of for of in found.agreements if of.source == source]
        rows = [
            [f"{of.first}, {of.second}", f"{of.correlation:.2f}", *(f"{share:.2f}" for share in of.overlap.values())]
            for of in mine
        ]
        budgets = [f"best {budget}" for budget in mine[0].overlap] if mine else []
        _say_table(f"{source}: {count} windows", ["scorers", "Spearman", *budgets], rows)


def _say_difference(found: "Difference") -> None:
    from longattn.report.diff_page import CAUSES
    from longattn.report.words import percent, setting

    for remark in found.remarks:
        _complain(remark)
    rows = [
        [of.source, *(f"{n:,}" for n in (*of.kept, of.both, of.left, of.entered)), percent(_part(of))]
        for of in found.sources
    ]
    columns = ["source", "kept, first", "kept, second", "in both", "left", "entered", "tokens in common"]
    _say_table(f"{found.names[0]} (first) and {found.names[1]} (second)", columns, rows)
    why = [[of.change, CAUSES.get(of.cause, of.cause), of.mover or "", f"{of.windows:,}"] for of in found.reasons]
    _say_table("changes", ["change", "why not kept on the other side", "moved most by", "windows"], why)
    settings = [[name, setting(first), setting(second)] for name, first, second in found.settings]
    if settings:
        _say_table("what differs in settings and versions", ["name", "first", "second"], settings)


def _part(of: "SourceChange") -> float | None:
    """Tokens that both keep, as a part of those that either does."""
    either = sum(of.tokens) - of.both_tokens
    return of.both_tokens / either if either else None


def _say_json(value: Any) -> None:
    _say(orjson.dumps(plain(value), option=orjson.OPT_INDENT_2).decode())


def _say_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # what stands in brackets would be taken for colours and links
    table = Table(title=Text(_shown(title)), title_justify="left")
    for i, name in enumerate(columns):
        table.add_column(Text(_shown(name)), justify="left" if i == 0 else "right")
    for row in rows:
        table.add_row(*(Text(_shown(cell)) for cell in row))
    console = Console(file=sys.stdout)
    # a file has no width: a table that is folded there could not be searched
    console.print(table, width=None if console.is_terminal else 60 * len(columns))


def _say(text: str) -> None:
    sys.stdout.write(_shown(text) + "\n")


def _complain(text: str) -> None:
    if style().format == "json":
        logging.getLogger("longattn").error("%s", text)
    else:
        sys.stderr.write(_shown(f"longattn: {text}") + "\n")


def _shown(text: str) -> str:
    """The text without what could act on a terminal: names of files and sources come from the corpus."""
    if text.isprintable():
        return text
    from longattn.report.text import visible

    return visible(text)


@contextmanager
def _progress() -> "Iterator[Progress]":
    """A bar on a terminal, a line every ten seconds elsewhere."""
    from longattn.engines.showing import Bar, Lines

    if sys.stderr.isatty():
        with Bar() as bar:
            yield bar
    else:
        yield Lines()


@contextmanager
def _steps(doing: str, total: int) -> "Iterator[Callable[[int], None]]":
    """A function to call with what was done of ``total``: a bar on a terminal, a line every ten seconds elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn(doing), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    last, done = time.time(), 0
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(doing, total=total)

        def advance(amount: int) -> None:
            nonlocal last, done
            done += amount
            bar.advance(task, amount)
            if not console.is_terminal and time.time() - last >= 10:
                last = time.time()
                _complain(f"{doing}: {100 * done / total:.0f} %")

        yield advance


if __name__ == "__main__":
    main()
