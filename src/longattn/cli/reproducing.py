"""The verb that puts selection to the test that counts: models continued on what each rule picks."""

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from longattn.cli.application import DONE, ERROR, TRAIN, app
from longattn.cli.saying import complain, say, say_table

if TYPE_CHECKING:
    from longattn.reproduce.tier1 import Tier1


@app.command(group=TRAIN)
def reproduce(
    *,
    output: Annotated[Path, Parameter(name=("--output", "-o"))] = Path("longattn-reproduction"),
    seeds: tuple[int, ...] = (0,),
    orders: int = 1,
    workers: int | None = None,
) -> int:
    """The paper's comparison in small, on CPU: does a model learn more from what a rule picks than from chance?

    A language is made in which it is known which windows depend on far tokens. A tiny base learns it from short
    documents, is continued with a raised rotary base on as many windows of each rule's choice (only short ones,
    random, LongAttn, context gain, an oracle), and judged on long documents that nobody has seen. Late loss must fall
    with the share of dependent windows, by 0.02 nats at least from rule to rule, or the exit code is 1. Two minutes:

        longattn reproduce --output TIER1

    Stop it at any time: the same command goes on. Equal seeds give equal figures on one machine, bit by bit.

    Parameters
    ----------
    output
        Where everything goes: each step with its CPU seconds, ``tier1.md`` and ``tier1.json``.
    seeds
        Bases, each with a language and a pool of its own; with several, intervals are over bases.
    orders
        Orders in which each arm's windows are shown.
    workers
        Processes, of one thread each; None takes one for each core.
    """
    from longattn.reproduce import tier1

    command = shlex.join(["longattn", *sys.argv[1:]])
    found = tier1.run(output, seeds, orders, workers or os.cpu_count() or 1, command, complain)
    _say(found)
    say(f"page              {found.page}")
    if not found.passed:
        complain("not every check has passed")
    return DONE if found.passed else ERROR


def _say(found: "Tier1") -> None:
    rows = [
        [name, *(" ".join(f"{value:.3f}" for value in values[measure]) for measure in ("share", "auc", "late", "gain"))]
        for name, values in found.arms.items()
    ]
    say_table("each seed", ["arm", "share dependent", "AUC", "late loss", "truncation gain"], rows)
    checks = [[str(of.seed), of.what, f"{of.value:.3g}", "passed" if of.passed else "FAILED"] for of in found.checks]
    say_table("checks", ["seed", "check", "value", ""], checks)
