"""The verbs around a run: how far it is, whether it is whole, whether a machine is fit for it, job files."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from longattn.addresses import below
from longattn.cli.application import (
    DONE,
    ERROR,
    WATCH,
    AsJson,
    Everything,
    Folder,
    Inputs,
    Output,
    app,
    with_inputs,
)
from longattn.cli.saying import complain, counted, say, say_json
from longattn.logs import printable
from longattn.recipes import Recipe
from longattn.settings import Model
from longattn.templates import Scheduler

if TYPE_CHECKING:
    from longattn.verbs import Status

SHOWN = 10
"""Units in quarantine, and documents of each, that a person is shown."""


@app.command(group=WATCH)
def status(folder: Folder, *, as_json: AsJson = False) -> int:
    """Show how far a run is, shards and workers of Ray added up, and what was left out; safe to call while it works.

    Parameters
    ----------
    as_json
        Print one JSON object, with all that is in quarantine.
    """
    from longattn import engines, verbs

    state = verbs.status(folder)
    if as_json:
        say_json(state)
        return DONE
    say(f"{counted(state.units, 'work unit')} planned")
    for name, done in state.tables.items():
        say(f"  {name:<40} {done} of {state.units} units")
    together = engines.together(state.attempts)
    for line in together.lines():
        say(f"  {line}")
    for attempt in together.worth_a_line:
        say(f"  {_attempt(attempt)}")
    for line in together.workers():
        say(f"    {line}")
    _say_left_out(state)
    say("selected: " + ("yes" if state.selected else "not yet"))
    return DONE


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
            say(f"  rejected: {count} {key.removeprefix('rejected.')}")
    for entry in state.quarantine[:SHOWN]:
        if entry["whole"]:
            say(f"  left out: unit {entry['unit']} ({', '.join(entry['files'][:2])}): {entry['whole']}")
        for one in entry["failures"][:SHOWN]:
            where = f"{one['file']} at {one['position']}" + (f", id {one['doc_id']}" if one["doc_id"] else "")
            say(printable(f"  left out by {entry['stage']}: {where}: {one['reason']}: {one['detail']}"))
    if (more := len(state.quarantine) - SHOWN) > 0:
        say(f"  left out: {more} more units, see --json")


@app.command(group=WATCH)
def verify(folder: Folder, *, as_json: AsJson = False) -> int:
    """Compare every file of a run, finished or stopped, with what it was written as; exit code 1 if any is damaged.

    Parameters
    ----------
    as_json
        Print one JSON object: files and num_bytes that are as written, damaged (file, problem, remedy), unfinished and
        strangers.
    """
    from longattn import verbs

    found = verbs.verify(folder)
    if as_json:
        say_json(found)
        return ERROR if found.damaged else DONE
    for one in found.damaged:
        complain(f"{below(folder, one.file)} is damaged: {one.problem}; {one.remedy}")
    for sentence in found.unfinished:
        say(f"unfinished: {sentence}")
    for name in found.strangers:
        say(f"no part of the run: {name}")
    say(f"{found.files} files, {found.num_bytes / 1e6:,.1f} MB, are as they were written; {len(found.damaged)} damaged")
    return ERROR if found.damaged else DONE


@app.command(group=WATCH)
def doctor(
    *,
    output: Annotated[str | None, Parameter(name=("--output", "-o"))] = None,
    model: Annotated[Model, Parameter(group="Model")] = Model(),
    window: int = 4096,
    as_json: AsJson = False,
) -> int:
    """Check the installation, a model and an output folder before hours are spent; each line says what to do.

    Parameters
    ----------
    output
        A run folder, or a place for one: can it be written durably, is there room, is it in use, is it whole. Of an
        address in a store only whether it can be written.
    window
        Tokens per window that the model is loaded for.
    as_json
        Print the findings as a JSON list.
    """
    from longattn.doctor import examine

    findings = examine(model, window, output)
    if as_json:
        say_json(findings)
    else:
        for one in findings:
            say(printable(f"{one.outcome}  {one.what:<14} {one.found}" + (f"; {one.advice}" if one.advice else "")))
    return ERROR if any(one.outcome == "fail" for one in findings) else DONE


@app.command(group=WATCH)
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

    say(render(scheduler, with_inputs(recipe, inputs), output, shards=shards, gpus=gpus, image=image).rstrip())
    return DONE
