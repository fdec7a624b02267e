"""Tier 1: whether late loss follows the share of truly dependent windows, in a language of which these are known.

Windows of the pool are one long document each (dependent), or four short ones that have nothing to do with each other
(joined). A base that has learned to remember values within short documents is continued, at four times the length and
with a raised rotary base, on as many windows of each rule's choice, and judged on long documents that nobody has seen.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from longattn.reproduce import picking
from longattn.reproduce.arrays import load_array, save_array
from longattn.reproduce.language import Language
from longattn.reproduce.picking import arm
from longattn.reproduce.steps import Step

Facts = Mapping[str, Any]

SHORT, LENGTH = 64, 256
"""Tokens of a short document, and of a window."""
FAR = LENGTH // 4
"""The least distance that counts as far, as in the paper."""
CONTEXT, ADVANCE = 32, 32
"""The short context in which a window is read again: from 32 to 63 tokens."""

ARMS = (
    arm("only short", {"column:dependent": -1.0}),
    arm("random", "random"),
    arm("longattn", "longattn"),
    arm("context gain", "longfilter"),
    arm("oracle", {"column:dependent": 1.0}),
)
"""Rules, in the order of tables. ``only short`` and ``oracle`` are told the kinds."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much of everything there is. The defaults are the smallest whose effects stand clear of the seeds."""

    seed: int
    base_documents: int = 24_000
    pool: int = 2_400
    dependent: float = 0.4
    """Share of the pool's windows that are dependent."""
    kept: int = 900
    held_out: int = 256


@dataclass(frozen=True, kw_only=True)
class Order:
    """Of a continued training: which seed the windows are shown by."""

    arm: str
    order: int


def steps(size: Size, orders: int) -> list[Step]:
    """The steps whose facts make the tables: base, scores, and every arm in every order."""
    base = Step("base", make_base, size)
    pool = Step("pool", make_pool, size)
    uniform = Step("uniform", measure_uniform, size, {"base": base, "pool": pool})
    picks = Step("picks", make_picks, size, {"base": base, "pool": pool})
    continued = [
        Step(
            f"continued-{rule.name.replace(' ', '-')}-{order}",
            continue_training,
            Order(arm=rule.name, order=order),
            {"base": base, "pool": pool, "picks": picks},
        )
        for rule in ARMS
        for order in range(orders)
    ]
    return [base, pool, uniform, picks, *continued]


def make_base(folder: Path, inputs: Mapping[str, Path], size: Size) -> Facts:
    """Train a base on short documents; writes it, and it with a rotary base four times as large."""
    from longattn.reproduce.learning import Course, Shape, log_probs, new_model, read_model, train, write_model

    language = Language(size.seed)
    generator = np.random.default_rng((size.seed, 1))
    # few names, so that they recur soon: this is what makes a model learn to look for them
    short, _ = language.documents(size.base_documents, SHORT, in_use=6, rate=0.4, generator=generator)
    model = new_model(Shape(), len(language.words), SHORT, size.seed)
    curve = train(model, short, Course(rate=3e-3, batch=16, seed=size.seed))
    write_model(model, folder / "base", language.tokenizer())
    adjusted = read_model(folder / "base", rope_scale=LENGTH / SHORT, positions=LENGTH)
    write_model(adjusted, folder / "adjusted", language.tokenizer())
    unseen, distances = language.documents(256, SHORT, in_use=6, rate=0.4, generator=generator)
    losses = -log_probs(model, unseen)
    return {
        "tokens": short.size,
        "curve": curve,
        "new": float(losses[distances[:, 1:] == 0].mean()),
        "seen": float(losses[distances[:, 1:] > 0].mean()),
    }


def make_pool(folder: Path, inputs: Mapping[str, Path], size: Size) -> Facts:
    """Write the pool as a corpus with its kinds beside it, and the held-out documents, long ones and short ones."""
    from longattn.tables import durable, write_parquet

    language = Language(size.seed)
    generator = np.random.default_rng((size.seed, 2))
    dependent = round(size.pool * size.dependent)
    whole, _ = language.documents(dependent, LENGTH, in_use=16, rate=0.5, generator=generator)
    parts = LENGTH // SHORT
    joined = language.joined(size.pool - dependent, parts, SHORT, in_use=16, rate=0.5, generator=generator)
    windows = np.concatenate([whole, joined])
    kinds = np.repeat(["dependent", "joined"], [len(whole), len(joined)])
    order = generator.permutation(len(windows))
    with durable(folder / "pool.jsonl") as file:
        for number, i in enumerate(order):
            record = {"id": f"window-{number:05d}", "text": language.text(windows[i].tolist())}
            file.write(json.dumps(record).encode() + b"\n")
    ids = [f"window-{number:05d}@0" for number in range(len(order))]
    shuffled = kinds[order]
    rows = {"window_id": ids, "kind": shuffled.tolist(), "dependent": (shuffled == "dependent").astype(np.float64)}
    write_parquet(folder / "kinds.parquet", pa.table(rows, picking.KINDS))
    long, far = language.documents(size.held_out, LENGTH, in_use=16, rate=0.5, generator=generator)
    short, near = language.documents(size.held_out, SHORT, in_use=16, rate=0.5, generator=generator)
    for name, values in (("long", long), ("long-distances", far), ("short", short), ("short-distances", near)):
        save_array(folder / f"{name}.npy", values)
    return {"dependent": dependent, "joined": size.pool - dependent}


def _recipe(pool: Path, model: Path, scorers: Sequence[str]) -> Any:
    from longattn.recipes import Recipe
    from longattn.settings import Corpus, Model, Windowing

    return Recipe(
        corpus=Corpus(inputs=(f"pool={pool}",)),
        window=Windowing(length=LENGTH),
        model=Model(name=str(model)),
        scorers=tuple(scorers),
    )


def measure_uniform(folder: Path, inputs: Mapping[str, Path], size: Size) -> Facts:
    """Measure windows with a base whose queries are zero: its attention is uniform, and DS must be what that gives."""
    import torch

    from longattn.reproduce.learning import read_model, write_model
    from longattn.tables import RunFolder, durable, read_parquet

    blind = read_model(inputs["base"] / "adjusted")
    with torch.no_grad():
        blind.get_parameter("model.layers.0.self_attn.q_proj.weight").zero_()
    write_model(blind, folder / "blind", Language(size.seed).tokenizer())
    few = (inputs["pool"] / "pool.jsonl").read_bytes().splitlines(keepends=True)[:32]
    with durable(folder / "few.jsonl") as file:
        file.writelines(few)
    recipe = _recipe(folder / "few.jsonl", folder / "blind", ["longattn"])
    picking.measure(recipe, folder / "run")
    from longattn import verbs

    verbs.select(recipe, folder / "run")
    found = read_parquet(RunFolder(folder / "run").root / "selection.parquet", ["ds"])["ds"].to_numpy()
    # row n spreads evenly over n + 1 keys, of which n + 1 - k are far
    rows = np.arange(FAR, LENGTH)
    known = float(((rows + 1 - FAR) / (rows + 1)).sum() / LENGTH)
    return {"known": known, "windows": len(found), "largest_difference": float(np.abs(found - known).max())}


def make_picks(folder: Path, inputs: Mapping[str, Path], size: Size) -> Facts:
    """Measure the pool once, and write what each arm keeps of it."""
    from dataclasses import replace

    from longattn.scorers import LongFilter, Random

    recipe = _recipe(inputs["pool"] / "pool.jsonl", inputs["base"] / "adjusted", ["longattn", "longfilter", "random"])
    settings = replace(
        recipe.settings, longfilter=LongFilter(context=CONTEXT, step=ADVANCE), random=Random(seed=size.seed)
    )
    recipe = picking.keep_count(replace(recipe, settings=settings), size.kept)
    ledger = picking.measure(recipe, folder / "run")
    tables = (str(inputs["pool"] / "kinds.parquet"),)
    picked = {
        rule.name: picking.pick(recipe, folder / "run", rule, tables, folder / f"{rule.name}.parquet") for rule in ARMS
    }
    return {"ledger": ledger, "arms": picked}


def continue_training(folder: Path, inputs: Mapping[str, Path], settings: Order) -> Facts:
    """Continue the base on one arm's windows in one order, and judge it on what is held out."""
    from longattn.reproduce.learning import Course, read_model, train

    model = read_model(inputs["base"] / "adjusted")
    windows = picking.read_windows(inputs["picks"] / f"{settings.arm}.parquet")
    curve = train(model, windows, Course(rate=2e-3, batch=8, seed=settings.order))
    return {"tokens": windows.size, "curve": curve, **judge(model, inputs["pool"])}


def judge(model: Any, pool: Path) -> dict[str, float]:
    """Losses on the held-out documents, in nats: late, of values whose name stands far back, short; and what the
    context beyond a short one gains late.
    """
    from longattn.evals.by_position import late_loss, truncation_gain
    from longattn.reproduce.learning import log_probs, short_log_probs

    long, distances = (load_array(pool / f"{name}.npy") for name in ("long", "long-distances"))
    short = load_array(pool / "short.npy")
    found, truncated = log_probs(model, long), short_log_probs(model, long, CONTEXT, ADVANCE)
    documents = [str(i) for i in range(len(long))]
    return {
        "late": late_loss(found, LENGTH // 2, documents, resamples=1).value,
        "gain": truncation_gain(found, truncated, LENGTH // 2, documents, resamples=1).value,
        "far": -float(found[distances[:, 1:] >= FAR].mean()),
        "short": -float(log_probs(model, short).mean()),
    }
