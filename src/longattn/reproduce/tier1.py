"""Tier 1 as a whole: its steps for every seed, the checks that they must pass, and the page."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from longattn.reproduce import page
from longattn.reproduce.comparing import paired
from longattn.reproduce.steps import Done, Steps
from longattn.reproduce.synthetic import ARMS, Size, steps
from longattn.settings import plain
from longattn.tables import write_sealed, write_text

MARGIN = 0.02
"""Nats of late loss by which arms must differ; orders of the same windows differ by a tenth of it."""
LEAST_AUC = 0.65
"""Of the context gain, dependent windows over joined ones."""
EXACT = 1e-6
"""Largest difference between the DS of a model whose attention is uniform and what that gives."""


@dataclass(frozen=True)
class Check:
    """Something that must hold for one seed, whatever the machine."""

    seed: int
    what: str
    value: float
    bound: float
    is_least: bool = True
    """Whether the bound is the least value; otherwise it is the largest."""

    @property
    def passed(self) -> bool:
        """Whether the value keeps to the bound."""
        return self.value >= self.bound if self.is_least else self.value <= self.bound


@dataclass(frozen=True)
class Tier1:
    """What a run of Tier 1 found."""

    arms: Mapping[str, Mapping[str, Sequence[float]]]
    """By arm and measure, a value for each seed, the mean over orders."""
    checks: Sequence[Check]
    page: Path

    @property
    def passed(self) -> bool:
        """Whether every check of every seed has passed."""
        return all(check.passed for check in self.checks)


MEASURES = ("share", "auc", "late", "gain", "far", "short")


def run(
    root: Path, seeds: Sequence[int], orders: int, workers: int, command: str, tell: Callable[[str], None]
) -> Tier1:
    """Do what is not done yet, and write ``tier1.md`` and ``tier1.json``; ``command`` is what the page names.

    Raises ``ValueError`` for no seed or no order.
    """
    if not seeds or orders < 1:
        raise ValueError(f"one seed and one order at least are needed, got {len(seeds)} and {orders}")
    found: dict[str, dict[str, list[float]]] = {rule.name: {name: [] for name in MEASURES} for rule in ARMS}
    checks: list[Check] = []
    every: list[Done] = []
    with Steps(root, workers, tell) as doing:
        for seed in dict.fromkeys(seeds):
            done = doing.do(*steps(Size(seed=seed), orders))
            every += done
            facts = {one.step.name: one.facts for one in done}
            for name, values in _by_arm(facts, orders).items():
                for measure, value in values.items():
                    found[name][measure].append(value)
            checks += _checks(seed, facts, found)
    result = Tier1(found, checks, root / "tier1.md")
    write_text(result.page, _page(result, every, list(dict.fromkeys(seeds)), orders, command))
    timings = {one.step.key: {"cpu_seconds": one.cpu_seconds, "seconds": one.seconds} for one in every}
    write_sealed(
        root / "tier1.json",
        {"arms": plain(found), "checks": plain(checks), "passed": result.passed, "steps": timings},
    )
    return result


def _by_arm(facts: Mapping[str, Any], orders: int) -> dict[str, dict[str, float]]:
    """Of one seed: what each arm kept, and the mean over orders of what it led to."""
    values = {}
    for rule in ARMS:
        picked = facts["picks"]["arms"][rule.name]
        continued = [facts[f"continued-{rule.name.replace(' ', '-')}-{order}"] for order in range(orders)]
        losses = {name: float(np.mean([one[name] for one in continued])) for name in ("late", "gain", "far", "short")}
        kept = picked["kept"]
        values[rule.name] = {
            "share": kept["dependent"] / sum(kept.values()),
            "auc": picked["auc"]["joined"],
            **losses,
        }
    return values


def _checks(seed: int, facts: Mapping[str, Any], found: Mapping[str, Mapping[str, Sequence[float]]]) -> list[Check]:
    """What the last seed that was added must show."""
    late = {name: values["late"][-1] for name, values in found.items()}
    return [
        Check(seed, "late loss, only short less random", late["only short"] - late["random"], MARGIN),
        Check(seed, "late loss, random less oracle", late["random"] - late["oracle"], MARGIN),
        Check(seed, "AUC of context gain", found["context gain"]["auc"][-1], LEAST_AUC),
        Check(seed, "error of DS, uniform attention", facts["uniform"]["largest_difference"], EXACT, is_least=False),
    ]


def _page(result: Tier1, done: Sequence[Done], seeds: Sequence[int], orders: int, command: str) -> str:
    rows = []
    for name, values in result.arms.items():
        mean = {measure: float(np.mean(values[measure])) for measure in MEASURES}
        against = paired(values["late"], result.arms["random"]["late"])
        rows.append(
            [
                name,
                f"{100 * mean['share']:.0f} %",
                page.number(mean["auc"], 2),
                *(page.number(mean[measure]) for measure in ("late", "gain", "far", "short")),
                "" if name == "random" else page.difference(against),
            ]
        )
    columns = ["arm", "dependent", "AUC", "late loss", "truncation gain", "far loss", "short loss", "late − random"]
    tokens = next(one.facts["tokens"] for one in done if one.step.name.startswith("continued"))
    each = [
        [
            str(of.seed),
            of.what,
            f"{of.value:.3g}",
            f"{'≥' if of.is_least else '≤'} {of.bound:g}",
            "yes" if of.passed else "**no**",
        ]
        for of in result.checks
    ]
    outcome = "Every check has passed." if result.passed else "**Not every check has passed: see the table of checks.**"
    return "\n\n".join(
        [
            "# Tier 1: a language of which it is known what depends on what",
            page.made_by(command),
            f"{len(seeds)} base seed(s), {orders} order(s) of the windows each, {tokens:,} tokens for every arm. "
            f"Losses in nats a token, on documents that nobody has seen. {outcome}",
            page.table(columns, rows),
            "dependent: share of the kept windows that are one long document. AUC: how often the score ranks such a "
            "window above one joined of short documents. late loss: tokens of the second half of long documents. "
            "truncation gain: what all of the context is worth there beyond a short one. far loss: values whose name "
            "last stood a quarter of the window back or more. short loss: short documents. late − random: paired by "
            "base, with Student's 95 % interval over the bases where there are several.",
            page.table(["seed", "check", "value", "must be", "passed"], each),
            "It shows that the stages fit together and that the measures follow the share of dependent windows. It "
            "says nothing of how well a scorer reads natural language: these models have seen none.",
            page.costs(done),
            "",
        ]
    )
