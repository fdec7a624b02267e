"""The verbs from selected windows to a trainer: the checkpoint for longer windows."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from longattn.cli.application import DONE, TRAIN, app
from longattn.cli.saying import complain, say, say_json
from longattn.settings import Adjusting

if TYPE_CHECKING:
    from longattn.train.abf import Adjusted


@app.command(group=TRAIN)
def abf(
    model: Annotated[str, Parameter(help="A folder with safetensors and tokenizer.json, a GGUF file, or smollm2.")],
    *,
    output: Annotated[Path | None, Parameter(name=("--output", "-o"))] = None,
    rule: Annotated[Adjusting, Parameter(name="*")],
    as_json: Annotated[bool, Parameter(name="--json", negative=())] = False,
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
