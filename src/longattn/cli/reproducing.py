"""The verb that puts selection to the test that counts: models continued on what each rule picks."""

import os
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from longattn.cli.application import DONE, ERROR, TRAIN, app
from longattn.cli.saying import complain, say, say_table
from longattn.reproduce.plan import Plan

if TYPE_CHECKING:
    from longattn.reproduce.tier1 import Tier1
    from longattn.reproduce.tier2 import Tier2


@app.command(group=TRAIN)
def reproduce(
    *inputs: str,
    tier: Literal[1, 2] = 1,
    output: Annotated[Path, Parameter(name=("--output", "-o"))] = Path("longattn-reproduction"),
    seeds: int | None = None,
    orders: int = 1,
    workers: int | None = None,
    plan: Annotated[Plan, Parameter(name="*", group="Tier 2")] = Plan(),
) -> int:
    """The paper's comparison in small, on CPU: does a model learn more from what a rule picks than from chance?

    Tier 1, two minutes: a language is made in which it is known which windows depend on far tokens. A tiny base learns
    it from short documents, is continued with a raised rotary base on as many windows of each rule's choice (only short
    ones, random, LongAttn, context gain, an oracle), and judged on long documents that nobody has seen. Late loss must
    fall with the share of dependent windows, by 0.02 nats at least from rule to rule, or the exit code is 1.

        longattn reproduce --output TIER1

    Tier 2, 75 minutes of two idle cores: the same with real text. A scorer and a base are trained from nothing and must
    show that they have learned to use far tokens (the gates); the pool holds intact windows, joined and repeated ones;
    arms are random, ProLong, LongAttn with alpha 0, 0.5 and 1, calibrated far attention, LongFilter and an oracle, and
    LongAttn and far attention of SmolLM2. The page says what it shows and what not; failed gates are no error.

        longattn reproduce code=src/ prose=books/*.txt --tier 2 --output TIER2
        longattn reproduce books=books.jsonl --tier 2 --scorer LLAMA --base LLAMA-1B --length 8192 --device cuda:0

    Stop it at any time: the same command goes on. Equal seeds give equal figures on one machine, bit by bit.

    Parameters
    ----------
    inputs
        Of Tier 2: texts by kind, as the inputs of a run; without any, this Python's modules and its reference.
    tier
        1 or 2.
    output
        Where everything goes: each step with its CPU seconds, ``tier1.md`` and ``tier1.json``, or those of Tier 2.
    seeds
        Of Tier 1: bases, each with a language and a pool of its own; 1 unless given. Of Tier 2: orders of the windows
        and draws of the random arm; 5 unless given. With several there are intervals.
    orders
        Of Tier 1: orders in which each arm's windows are shown to each base.
    workers
        Processes, of one thread each; None takes one for each core.
    """
    command = shlex.join(["longattn", *sys.argv[1:]])
    processes = workers or os.cpu_count() or 1
    if tier == 1:
        if inputs:
            raise ValueError("Tier 1 makes its own text; inputs are for --tier 2")
        from longattn.reproduce import tier1

        found = tier1.run(output, range(1 if seeds is None else seeds), orders, processes, command, complain)
        _say_first(found)
        return DONE if found.passed else ERROR
    from longattn.reproduce import tier2

    plan = plan if seeds is None else replace(plan, seeds=seeds)
    _say_second(tier2.run(output, inputs, plan, processes, command, complain))
    return DONE


def _say_first(found: "Tier1") -> None:
    rows = [
        [name, *(" ".join(f"{value:.3f}" for value in values[measure]) for measure in ("share", "auc", "late", "gain"))]
        for name, values in found.arms.items()
    ]
    say_table("each seed", ["arm", "share dependent", "AUC", "late loss", "truncation gain"], rows)
    checks = [[str(of.seed), of.what, f"{of.value:.3g}", "passed" if of.passed else "FAILED"] for of in found.checks]
    say_table("checks", ["seed", "check", "value", ""], checks)
    say(f"page              {found.page}")
    if not found.passed:
        complain("not every check has passed")


def _say_second(found: "Tier2") -> None:
    for name, budgets in found.measures.items():
        for budget, values in budgets.items():
            gains = " ".join(f"{value:.4f}" for value in values["gain"])
            say(f"{name}, {budget:,} tokens: truncation gain {gains}")
    for gate in found.gates:
        say(f"gate, {gate.model}: {gate.what} {gate.value:.3f}, {'passed' if gate.passed else 'NOT PASSED'}")
    say(f"page              {found.page}")
