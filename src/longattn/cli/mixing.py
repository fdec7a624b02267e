"""The verbs before a trainer: one training set of several sources, and the configuration of a training stack."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from longattn.cli.application import DONE, TRAIN, AsJson, app
from longattn.cli.saying import complain, say, say_json, say_table, share_shown
from longattn.settings import Mixture
from longattn.templates import Stack
from longattn.train.settings import Training

if TYPE_CHECKING:
    from longattn.mixing import MixSummary


@app.command(group=TRAIN)
def mix(
    *,
    output: Annotated[Path, Parameter(name=("--output", "-o"))] = Path("longattn-mix"),
    mixture: Annotated[Mixture, Parameter(name="*")] = Mixture(),
    as_json: AsJson = False,
) -> int:
    """Make a training set of selected windows and short documents in declared shares, shuffled, in a trainer's format.

        longattn mix --windows books=RUN --windows code=RUN --documents wiki=wiki/*.jsonl.zst --shares.books 45
        --shares.code 45 --shares.wiki 10 --tokens 5000000000 --output MIX

    The same as a file, for --config:

        windows = ["books=RUN", "code=RUN"]
        documents = ["wiki=wiki/*.jsonl.zst"]
        shares = {books = 45, code = 45, wiki = 10}
        tokens = 5_000_000_000

    Parameters
    ----------
    output
        A new folder for the mixture; one that was made here is replaced.
    as_json
        Print one JSON object, that of export.json in the folder.
    """
    from longattn.mixing import mix

    with share_shown("mixing") as progress:
        found = mix(mixture, output, progress)
    if as_json:
        say_json(found)
    else:
        _say_mixture(found)
        say(f"mixture           {output}")
    return DONE


def _say_mixture(found: "MixSummary") -> None:
    rows = [
        [
            name,
            f"{part.share_asked:.2%}",
            f"{part.share:.2%}",
            f"{part.sequences:,}",
            f"{part.tokens:,}",
            f"{part.passes:.2f}",
            f"{part.left_over:,}",
        ]
        for name, part in found.portions.items()
    ]
    columns = ["source", "asked", "share", "sequences", "tokens", "passes", "left over"]
    title = f"{found.num_windows:,} sequences of {found.length:,} tokens, {found.num_tokens:,} in all"
    say_table(title, columns, rows)
    for name, part in found.portions.items():
        if part.rejected:
            reasons = ", ".join(f"{count} {reason}" for reason, count in part.rejected.items())
            complain(f"{name}: rejected {reasons}")


@app.command(group=TRAIN)
def recipe(
    stack: Stack,
    folder: Annotated[Path, Parameter(help="An export, a mixture, or a run that has an export.")],
    *,
    model: Annotated[
        str, Parameter(help="The model to train: a folder, best one that `longattn abf` made, or a name.")
    ],
    train: Annotated[Training, Parameter(group="Train")] = Training(),
    gpus: int = 8,
) -> int:
    """Print the configuration of a training stack for an export or a mixture, with its traps as comments.

    Steps, lengths, sources and weights are those of the data; the rest is the paper's, or ours where it says nothing.

        longattn mix --config mix.toml --write.format megatron --output MIX
        longattn recipe megatron-bridge MIX --model llama-3-8b-32k --gpus 64 > train.py
        longattn recipe axolotl MIX --model llama-3-8b-32k > train.yaml

    Parameters
    ----------
    stack
        hf (Trainer and accelerate), Megatron-Bridge, torchtitan, axolotl or LLaMA-Factory.
    gpus
        Over which the windows of a step are split.
    """
    from longattn.templates.stacks import render

    say(render(stack, folder, model, train, gpus=gpus).rstrip())
    return DONE
