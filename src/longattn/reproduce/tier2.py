"""Tier 2 as a whole: the plan of its steps at a scale, the gates, and the page."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from longattn.models import resolve
from longattn.reproduce import natural, page
from longattn.reproduce.comparing import paired
from longattn.reproduce.picking import Arm, arm
from longattn.reproduce.plan import Plan
from longattn.reproduce.pools import Pool, make_pool
from longattn.reproduce.steps import Done, Step, Steps
from longattn.reproduce.texts import Texts, make_tokenizer, write_parts
from longattn.settings import Model, plain
from longattn.tables import write_sealed, write_text

OTHER, OTHER_PRESET = "smollm2", "smollm2-far-21"
"""The embedded model, asked beside the tiny scorer, and its calibrated heads."""

LEAST_COPY, MOST_ICL = 1.0, -0.1
"""Gates, in nats: by how much a random block must be cheaper at its second standing than at its first; how much lower
the loss must be late in held-out text than early."""

MEASURES = {
    "gain": "truncation gain",
    "far_repeat": "far-repeat loss",
    "far_repeat_gain": "far-repeat gain",
    "long_ppl": "LongPPL",
    "late": "late loss",
    "icl": "ICL score",
    "short": "short loss",
    "recall": "recall",
}
"""In the order of the protocol; the first was named as the primary one before anything was measured."""


def arms_of(plan: Plan) -> dict[str, tuple[Arm, ...]]:
    """The arms by the step that picks for them: by what the scorer measures, by its calibrated heads, by SmolLM2."""
    near = [
        *(arm(f"random {seed}", f"column:random{seed}") for seed in range(plan.seeds)),
        arm("prolong", "prolong"),
        arm("longattn", "longattn"),
        arm("longattn, alpha 1", "longattn", longattn={"alpha": 1.0}),
        arm("longattn, no DU", "longattn", longattn={"alpha": 0.0}),
        arm("longfilter", "longfilter"),
        arm("oracle", {"column:dependent": 1.0}),
    ]
    other = (
        arm("longattn, SmolLM2", {"column:other0_ds": 1.0, "column:other0_du": 0.5}),
        arm("far attention, SmolLM2", {"column:other_far_ds": 1.0}),
    )
    far = {"far-picks": (arm("far attention", "longattn"),)}
    return {"picks": tuple(near), **far, **({"other-picks": other} if plan.smollm2 else {})}


def names_of(plan: Plan) -> list[str]:
    """Arms as tables show them: the draws of the random one are one."""
    names = [rule.name for rules in arms_of(plan).values() for rule in rules]
    return list(dict.fromkeys("random" if name.startswith("random ") else name for name in names))


@dataclass(frozen=True)
class Chain:
    """The steps of a plan, by what they are to each other."""

    scorer: Step
    base: Step
    pool: Step
    picks: Mapping[str, Step]
    """By name, in the order of tables."""
    start: Step
    continued: Mapping[tuple[str, int, int], Step]
    """By arm, budget and seed."""


def chain(plan: Plan, inputs: Sequence[str]) -> Chain:
    """The steps of a plan. Raises ``ValueError`` for a scale or length that leaves nothing to do.

    Texts and given models are named by what they hold now: once they are changed, the same command makes other steps.
    """
    if not 0 < plan.scale <= 1:
        raise ValueError(f"scale must be above 0 and at most 1, got {plan.scale}")
    if plan.length < 128 or plan.length % 16:
        raise ValueError(f"length must be a multiple of 16 and at least 128, got {plan.length}")
    device, length = plan.device, plan.length
    texts = Step("texts", write_parts, Texts.of(inputs))
    tokenizer = (
        Step("tokenizer", make_tokenizer, 2048, {"texts": texts})
        if plan.base is None
        else Step("tokenizer", natural.link_tokenizer, str(plan.base))
    )
    with_texts = {"texts": texts, "tokenizer": tokenizer}
    tokens = Step("tokens", natural.encode, natural.Encoding(length=length, held_out=plan.tokens(64, 16)), with_texts)
    learning = {"tokenizer": tokenizer, "tokens": tokens}
    grown = Step("base" if plan.base is None else "grown", natural.grow, _growing(plan), learning)
    base = grown if plan.base is None else _given("base", plan.base, length // 4, device, learning)
    longer = natural.Reading(tokens=plan.tokens(6_000_000, 40_000), length=length, batch=2)
    scorer = (
        Step("scorer", natural.extend, natural.Extending(texts=longer), {"grown": grown, **learning})
        if plan.scorer is None
        else _given("scorer", plan.scorer, length, device, learning)
    )
    size = Pool(windows=plan.tokens(3_000, 120), length=length, draws=plan.seeds)
    # not of the scorer: another one reads the same windows
    pool = Step("pool", make_pool, size, with_texts)
    seeking = Step(
        "far-attention",
        natural.seek,
        natural.Seeking(length=length, pairs=plan.tokens(32, 8), device=device),
        {"texts": texts, "scorer": scorer},
    )
    budgets = tuple(plan.tokens(budget, 20 * length) for budget in plan.budgets)
    asking = natural.Asking(model=OTHER, preset=OTHER_PRESET, device=device)
    other = Step("smollm2", natural.ask_other, asking, {"pool": pool})
    # by what is measured, and what else is read
    picking: dict[str, tuple[tuple[str, ...], dict[str, Step]]] = {
        "picks": (("longattn", "prolong", "longfilter"), {}),
        "far-picks": (("longattn",), {"preset": seeking}),
        "other-picks": ((), {"other": other}),
    }
    picks: dict[str, Step] = {}
    for name, arms in arms_of(plan).items():
        scorers, more = picking[name]
        settings = natural.Picking(length=length, arms=arms, budgets=budgets, scorers=scorers, device=device)
        picks[name] = Step(name, natural.make_picks, settings, {"scorer": scorer, "pool": pool, **more})
    evaluator = Step(
        "evaluator",
        natural.make_evaluator,
        natural.Evaluating(length=length, device=device),
        {"scorer": scorer, "tokens": tokens},
    )
    judged = {"base": base, "tokens": tokens, "evaluator": evaluator}
    start = Step(
        "start",
        natural.judge_base,
        natural.Starting(length=length, rope_scale=plan.rope_scale, device=device),
        judged,
    )
    rate = plan.rate or (1e-3 if plan.base is None else 1e-5)
    continued = {}
    for seed in range(plan.seeds):
        for budget in budgets:
            for name in names_of(plan):
                settings = natural.Continuing(
                    arm=f"random {seed}" if name == "random" else name,
                    budget=budget,
                    seed=seed,
                    length=length,
                    rope_scale=plan.rope_scale,
                    rate=rate,
                    batch=plan.batch,
                    device=device,
                )
                of = next(picks[key] for key, rules in arms_of(plan).items() if settings.arm in [r.name for r in rules])
                word = name.replace(",", "").replace(" ", "-")
                continued[name, budget, seed] = Step(
                    f"continued-{word}-{budget}-{seed}", natural.continue_training, settings, {**judged, "picks": of}
                )
    return Chain(scorer, base, pool, picks, start, continued)


def _growing(plan: Plan) -> natural.Growing:
    """How a tiny model is trained: heads that look for what stood there before form in blocks, and stay in texts."""
    short = plan.length // 4
    blocks = natural.Reading(tokens=plan.tokens(2_500_000, 20_000), length=short, batch=8, rate=1e-3, blocks=1.0)
    texts = natural.Reading(tokens=plan.tokens(12_000_000, 40_000), length=short, batch=4, blocks=0.3)
    return natural.Growing(blocks=blocks, texts=texts)


def _given(name: str, folder: Path, length: int, device: str, inputs: Mapping[str, Step]) -> Step:
    content = resolve(Model(name=str(folder))).hash
    rule = natural.Given(folder=str(folder), content=content, length=length, device=device)
    return Step(name, natural.take, rule, inputs)


@dataclass(frozen=True)
class Gate:
    """Whether a model has learned what it must have learned before anything can be said of it."""

    model: str
    what: str
    value: float
    bound: float
    passed: bool


@dataclass(frozen=True)
class Tier2:
    """What a run of Tier 2 found."""

    measures: Mapping[str, Mapping[int, Mapping[str, Sequence[float]]]]
    """By arm, budget and measure, a value for each seed."""
    gates: Sequence[Gate]
    page: Path

    @property
    def passed(self) -> bool:
        """Whether every gate has been passed."""
        return all(gate.passed for gate in self.gates)


def run(
    root: Path, inputs: Sequence[str], plan: Plan, workers: int, command: str, tell: Callable[[str], None]
) -> Tier2:
    """Do what is not done yet, and write ``tier2.md`` and ``tier2.json``; ``command`` is what the page names."""
    of = chain(plan, inputs)
    with Steps(root, workers, tell) as doing:
        # the picks first: what fails for want of text must not do so after an hour of training
        doing.do(*of.picks.values(), of.start, *of.continued.values())
        done = doing.done
    measures: dict[str, dict[int, dict[str, list[float]]]] = {}
    for (name, budget, _), step in of.continued.items():
        values = measures.setdefault(name, {}).setdefault(budget, {measure: [] for measure in MEASURES})
        for measure in MEASURES:
            values[measure].append(done[step.key].facts[measure])
    gates = [*_gates("scorer", done[of.scorer.key].facts), *_gates("base", done[of.base.key].facts)]
    result = Tier2(measures, gates, root / "tier2.md")
    write_text(result.page, _page(result, of, done, plan, command))
    timings = {key: {"cpu_seconds": one.cpu_seconds, "seconds": one.seconds} for key, one in done.items()}
    written = {"measures": plain(measures), "gates": plain(gates), "passed": result.passed, "steps": timings}
    write_sealed(root / "tier2.json", written)
    return result


def _gates(model: str, facts: Mapping[str, Any]) -> list[Gate]:
    copy = facts["first_copy"] - facts["second_copy"]
    return [
        Gate(model, "random block, first less second standing, nats", copy, LEAST_COPY, copy >= LEAST_COPY),
        Gate(model, "ICL score, nats", facts["icl"], MOST_ICL, facts["icl"] <= MOST_ICL),
    ]


def _page(result: Tier2, of: Chain, done: Mapping[str, Done], plan: Plan, command: str) -> str:
    parts = [
        "# Tier 2: real text",
        page.made_by(command),
        _outcome(result, of, done, plan),
        "## Gates",
        _gate_table(result, of, done),
        "## The pool, and what arms keep of it",
        *_selection_tables(of, done, plan),
        *_result_tables(result, of, done),
        "## What it cost",
        page.costs(list(done.values())),
        "",
    ]
    return "\n\n".join(parts)


def _outcome(result: Tier2, of: Chain, done: Mapping[str, Done], plan: Plan) -> str:
    """What the figures show and do not show, in plain sentences that follow from them."""
    best = max(budget for budgets in result.measures.values() for budget in budgets)
    above, below = _beyond_doubt(result, "gain", best)
    uses = np.mean([np.mean(budgets[best]["gain"]) for budgets in result.measures.values()])
    said = (
        [f"Scale {plan.scale:g}; {plan.seeds} seed(s), paired."] if plan.scale < 1 else [f"{plan.seeds} seeds, paired."]
    )
    if not result.passed:
        failed = ", ".join(f"{gate.model} ({gate.what})" for gate in result.gates if not gate.passed)
        said.append(
            f"**The gates were not passed: {failed}. The models have not learned to use what stood long ago, so "
            "nothing follows from the figures below about any rule of selection.**"
        )
    said.append(
        f"Primary measure, the truncation gain of late tokens at {best:,} tokens: above random beyond doubt (95 %) for "
        f"{_listed(above)}, below it for {_listed(below)}. Its mean over all arms is {page.number(float(uses))} nats"
        + (": the models use the long context." if uses > 0.005 else ": the models hardly use the long context.")
    )
    above, below = _beyond_doubt(result, "late", best)
    said.append(
        f"Late loss there, of which less is better: below random for {_listed(below)}, above it for {_listed(above)}. "
        "An arm of more gain and no lower late loss gains more from the long context because it knows less without it."
    )
    given = plan.base is not None
    said.append(
        "It compares rules on one pool, at equal tokens, "
        + (
            "with the models given."
            if given
            else "with models of less than a million parameters: it cannot confirm the paper's figures, of 8B."
        )
    )
    return " ".join(said)


def _beyond_doubt(result: Tier2, measure: str, budget: int) -> tuple[list[str], list[str]]:
    """Arms whose 95 % interval of the difference from random is all above it, and all below it."""
    values = {name: budgets[budget][measure] for name, budgets in result.measures.items()}
    against = {name: paired(of, values["random"]) for name, of in values.items() if name != "random"}
    known = {name: of for name, of in against.items() if of.pairs > 1}
    return [name for name, of in known.items() if of.low > 0], [name for name, of in known.items() if of.high < 0]


def _listed(names: Sequence[str]) -> str:
    """Names of arms, which hold commas."""
    return "; ".join(f"*{name}*" for name in names) if names else "none"


def _gate_table(result: Tier2, of: Chain, done: Mapping[str, Done]) -> str:
    rows = []
    for gate in result.gates:
        facts = done[(of.scorer if gate.model == "scorer" else of.base).key].facts
        trained = "given" if facts["tokens"] is None else f"{facts['tokens']:,}"
        bound = f"{'≥' if gate.bound > 0 else '≤'} {page.number(gate.bound, 1)}"
        passed = "yes" if gate.passed else "**no**"
        rows.append(
            [gate.model, f"{facts['parameters']:,}", trained, gate.what, page.number(gate.value), bound, passed]
        )
    return page.table(["model", "parameters", "tokens", "gate", "value", "must be", "passed"], rows)


def _selection_tables(of: Chain, done: Mapping[str, Done], plan: Plan) -> Iterator[str]:
    pool = done[of.pool.key].facts
    kinds = list(next(iter(pool["sources"].values())))
    rows = [[source, *(str(counts[kind]) for kind in kinds)] for source, counts in pool["sources"].items()]
    yield page.table(["windows", *kinds], rows)
    picked = [done[step.key].facts["budgets"] for step in of.picks.values()]
    for budget in picked[0]:
        rows = []
        found = {name: facts for budgets in picked for name, facts in budgets[budget].items()}
        # a receipt that was read again has another order
        for name in (rule.name for rules in arms_of(plan).values() for rule in rules):
            facts = found[name]
            kept = [str(facts["kept"][kind]) for kind in kinds]
            aucs = [page.number(facts["auc"].get(kind, math.nan), 2) for kind in kinds if kind != "dependent"]
            rows.append([name, *kept, *aucs])
        columns = [
            f"kept of {int(budget):,} tokens",
            *kinds,
            *(f"AUC over {kind}" for kind in kinds if kind != "dependent"),
        ]
        yield page.table(columns, rows)


def _result_tables(result: Tier2, of: Chain, done: Mapping[str, Done]) -> Iterator[str]:
    start = done[of.start.key].facts
    budgets = sorted({budget for budgets in result.measures.values() for budget in budgets})
    for measure, title in MEASURES.items():
        yield f"## {title[0].upper()}{title[1:]}" + (" (primary)" if measure == "gain" else "")
        rows = [["before", *(page.number(start[measure], 4) for _ in budgets), *("" for _ in budgets)]]
        for name, found in result.measures.items():
            means = [page.number(float(np.mean(found[budget][measure])), 4) for budget in budgets]
            against = [
                ""
                if name == "random"
                else page.difference(paired(found[b][measure], result.measures["random"][b][measure]), 4)
                for b in budgets
            ]
            rows.append([name, *means, *against])
        heads = [f"{budget:,}" for budget in budgets]
        yield page.table(["arm", *heads, *(f"{head}: less random" for head in heads)], rows)
    repeats, keys = start["far_repeat_tokens"], start["key_tokens"]
    yield (
        "Means over seeds; differences are paired by seed, with Student's 95 % intervals. Of the held-out tokens "
        f"{repeats:,} are far repeats, and {keys:,} are key tokens of LongPPL by the scorer."
    )
