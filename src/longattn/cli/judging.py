"""The verbs that ask whether a score sees what it claims to see."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from longattn.addresses import below
from longattn.cli.application import (
    DONE,
    JUDGE,
    Device,
    Everything,
    Folder,
    Inputs,
    Output,
    Threads,
    VersionChange,
    app,
    with_inputs,
)
from longattn.cli.saying import complain, progress_shown, say, say_table, steps
from longattn.recipes import Recipe
from longattn.settings import Calibrating, Corpus, Model, Needles, Validating

if TYPE_CHECKING:
    from longattn.validity import Comparison, Preset, Validation


@app.command(group=JUDGE)
def validate(
    *inputs: Inputs,
    output: Output = "longattn-run",
    recipe: Everything = Recipe(),
    rule: Annotated[Validating, Parameter(name="*", group="Validate")] = Validating(),
    device: Device = "auto",
    threads: Threads = None,
    allow_version_change: VersionChange = False,
) -> int:
    """Test scorers on your own text: do they tell a window from pieces of others, or from itself in disorder?

    Without inputs, those of the run in the output folder are used, with its settings. Continues where an earlier
    attempt stopped.
    """
    from longattn import trials

    with progress_shown() as progress:
        recipe = with_inputs(recipe, inputs)
        found = trials.validate(
            recipe, output, rule, device, threads, progress, allow_version_change=allow_version_change
        )
    _say_validation(found)
    say(f"all figures       {below(output, 'validity/validation.json')}")
    say(f"page              {below(output, 'validity/validation.html')}")
    return DONE


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
        say_table(title, ["control", *found.scorers], rows)
    costs = [[name, f"{of.seconds:.4f}", f"{of.tokens_per_second:,.0f}"] for name, of in found.costs.items()]
    say_table("cost of one window", ["scorer", "seconds", "tokens/s"], costs)
    for note in found.notes:
        complain(note)


@app.command(group=JUDGE)
def calibrate(
    *inputs: Inputs,
    output: Output = "longattn-run",
    preset: Path = Path("preset.json"),
    recipe: Everything = Recipe(),
    rule: Annotated[Calibrating, Parameter(name="*", group="Calibrate")] = Calibrating(),
    device: Device = "auto",
    threads: Threads = None,
    allow_version_change: VersionChange = False,
) -> int:
    """Find the layers, heads and distance whose far attention tells intact text from pieces, at a share of the cost.

    Documents are split in two: what is found on one part is judged on the other. Use it with --longattn.preset FILE.

    Parameters
    ----------
    preset
        Where to write what was found, with its evidence.
    """
    from longattn import trials

    with progress_shown() as progress:
        recipe = with_inputs(recipe, inputs)
        found = trials.calibrate(
            recipe, output, preset, rule, device, threads, progress, allow_version_change=allow_version_change
        )
    _say_preset(found)
    say(f"preset            {preset}")
    return DONE


def _say_preset(found: "Preset") -> None:
    from longattn.validity.page import figure

    heads = "all" if found.heads is None else ", ".join(f"{layer}.{head}" for layer, head in found.heads)
    say(f"layers {', '.join(map(str, found.layers))}; heads {heads}; distance {found.distance}")
    say(f"first {found.skip_first} keys skipped; alpha {found.alpha}; spread {found.spread:+d}")
    rows = [
        [row["source"], row["control"], figure(row["calibration"]), figure(row["held_out"])]
        for row in found.evidence["separations"]
    ]
    say_table("AUC", ["source", "control", "calibration", "held out"], rows)


@app.command(group=JUDGE)
def compare(folder: Folder, *, texts: bool | None = None, recipe: Everything = Recipe()) -> int:
    """Show how far the scorers of a run agree: ranks, kept sets, and windows that they disagree on. Loads no model.

    Parameters
    ----------
    texts
        Show the beginnings of windows that scorers disagree on; done unless the corpus is private.
    """
    from longattn import trials

    _say_comparison(trials.compare(recipe, folder, texts=texts))
    say(f"all figures       {below(folder, 'validity/comparison.json')}")
    say(f"page              {below(folder, 'validity/comparison.html')}")
    return DONE


def _say_comparison(found: "Comparison") -> None:
    from longattn.report.words import signed

    for source, count in found.windows.items():
        mine = [of for of in found.agreements if of.source == source]
        rows = [
            [f"{of.first}, {of.second}", signed(of.correlation), *(f"{share:.2f}" for share in of.overlap.values())]
            for of in mine
        ]
        budgets = [f"best {budget}" for budget in mine[0].overlap] if mine else []
        say_table(f"{source}: {count} windows", ["scorers", "Spearman", *budgets], rows)
    rows = [[name, f"{of:.4f}" if (of := found.costs.get(name)) is not None else "–"] for name in found.scorers]
    say_table("cost of one window", ["scorer", "seconds"], rows)
    if len(found.costs) < len(found.scorers):
        say("–: longattn validate with this output folder times a scorer by itself")


@app.command(group=JUDGE)
def heads(
    *inputs: Inputs,
    output: Annotated[Path, Parameter(name=("--output", "-o"))] = Path("heads.json"),
    needles: Annotated[Needles, Parameter(group="Needles")] = Needles(),
    model: Annotated[Model, Parameter(group="Model")] = Model(),
    corpus: Annotated[Corpus, Parameter(group="Corpus")] = Corpus(),
    device: Device = "auto",
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
    show
        How many heads to print.
    """
    from longattn import trials
    from longattn.heads import RETRIEVES, TOP

    total = sum(needles.lengths) * needles.depths * needles.prompts
    with steps("asking", total) as advance:
        found = trials.heads(replace(corpus, inputs=inputs or corpus.inputs), model, needles, output, device, advance)
    say("right answers by length (rows) and place of the fact, from the beginning to the end of the text")
    for length in needles.lengths:
        cells = [f"{cell.right}/{cell.prompts}" for cell in found.cells if cell.length == length]
        say(f"  {length:>7,}  {'  '.join(cells)}")
    say("best heads")
    for layer, head, score in found.best()[:show]:
        say(f"  layer {layer:>3}  head {head:>3}  {score:.3f}")
    strong = int((found.scores > RETRIEVES).sum())
    say(f"{strong} of {found.scores.size} heads are above {RETRIEVES} -> {output}")
    say(f"the {TOP} best of every other prompt and the {TOP} best of the rest have {found.agreement} in common")
    return DONE
