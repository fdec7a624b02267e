"""The verbs from selected windows to a trained model: the checkpoint for longer windows, and the training."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from longattn.cli.application import DONE, TRAIN, AsJson, Threads, app
from longattn.cli.saying import complain, say, say_json, share_shown
from longattn.settings import Adjusting, Model
from longattn.train.settings import Training

if TYPE_CHECKING:
    from longattn.train.abf import Adjusted


@app.command(group=TRAIN)
def abf(
    model: Annotated[str, Parameter(help="A folder with safetensors and tokenizer.json, a GGUF file, or smollm2.")],
    *,
    output: Annotated[Path | None, Parameter(name=("--output", "-o"))] = None,
    rule: Annotated[Adjusting, Parameter(name="*")],
    as_json: AsJson = False,
) -> int:
    """Make a checkpoint for longer windows: a higher rotary base (ABF) that every version of transformers reads.

    Without --output nothing is written: what would be done, and the base that the rule suggests.

        longattn abf Meta-Llama-3-8B --length 32768
        longattn abf Meta-Llama-3-8B --length 32768 --theta 5e6 --output llama-3-8b-32k

    Parameters
    ----------
    output
        A new folder for the checkpoint; one that was made here is replaced.
    as_json
        Print one JSON object, that of abf.json in the folder.
    """
    from longattn.train.abf import adjust

    found = adjust(model, rule, output)
    if as_json:
        say_json(found)
        return DONE
    _say_adjusted(found, rule)
    for note in found.notes:
        complain(note)
    if output is None:
        say("nothing was written; --output FOLDER makes the checkpoint")
    else:
        left_out = f", left out: {', '.join(found.left_out)}" if found.left_out else ""
        say(f"checkpoint        {output}{left_out}")
    return DONE


def _say_adjusted(found: "Adjusted", rule: Adjusting) -> None:
    say(f"base              {found.base_before:,.0f} -> {found.base:,.0f}")
    say(
        f"suggested         {found.suggested:,} = base · ({rule.length:,} / {found.positions_before:,})^(d/(d-2)) "
        f"with d = {found.dims} rotated dimensions, rounded up to two digits"
    )
    say(f"positions         {found.positions_before:,} that the old base was made for -> {found.positions:,}")
    if found.scaling:
        say(f"scaled embedding  {found.scaling}")
    if found.entropy:
        say(f"queries           times max(1, ln i / ln {found.entropy['window']:,}), but in the first 2 layers")
    for reader, base in found.readers.items():
        say(f"read by           {reader}: {base:,.0f}")


@app.command(group=TRAIN)
def train(
    export: Annotated[str, Parameter(help="An export with token ids, a run that has one, or files with input_ids.")],
    *,
    output: Annotated[Path, Parameter(name=("--output", "-o"), help="The folder of the training.")] = Path("trained"),
    model: Annotated[Model, Parameter(group="Model")] = Model(),
    train: Annotated[Training, Parameter(group="Train")] = Training(),
    threads: Threads = None,
) -> int:
    """Continue a model's pre-training on the windows of an export.

    Settings are the LongAttn paper's where it states any. A window has to fit the model's positions:

        longattn export RUN --write.content tokens
        longattn train RUN --model.name MODEL --output OUT

    Stop it however you like and give the same command again: it goes on from the last checkpoint that is whole, and
    the losses are those of a training that was not stopped. On several GPUs or machines start it with accelerate,
    whose configuration says how the model is spread (FSDP, context parallelism):

        accelerate launch -m longattn train RUN --model.name MODEL --output OUT

    OUT/model is the trained checkpoint, OUT/metrics.jsonl the loss of every step.
    """
    from longattn.train import begin, continue_pretraining

    is_main = begin(threads)
    with share_shown("training") as shown:

        def progress(done: int, total: int) -> None:
            if is_main:
                shown(done, total)

        trained = continue_pretraining(model, export, output, train, progress)
    if is_main:
        losses = [line["loss"] for line in trained.curve if "loss" in line]
        say(f"{trained.steps} steps, {trained.tokens:,} tokens, loss {losses[0]:.4f} -> {losses[-1]:.4f}")
        held_out = [line["held_out_loss"] for line in trained.curve if "held_out_loss" in line]
        if held_out:
            say(f"held-out loss     {held_out[0]:.4f} -> {held_out[-1]:.4f}")
        if trained.left_out:
            say(f"left out          {trained.left_out} windows, which would not have filled a step")
        say(f"model             {output / 'model'}")
        say(f"every step        {output / 'metrics.jsonl'}")
    return DONE
