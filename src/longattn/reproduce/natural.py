"""Tier 2, step by step: what learns from real text, what is asked of it, and what each arm's choice leads to."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from longattn.reproduce import picking
from longattn.reproduce.arrays import load_array, save_array
from longattn.reproduce.learning import Course, Shape, log_probs, new_model, read_model, short_log_probs, train
from longattn.reproduce.learning import write_model as write_checkpoint
from longattn.reproduce.picking import Arm
from longattn.reproduce.pools import recipe_of
from longattn.reproduce.texts import kinds_of, read_documents
from longattn.scorers import LongAttn
from longattn.tables import durable, read_parquet, write_parquet
from longattn.tokens import Tokenizer

Facts = Mapping[str, Any]
Inputs = Mapping[str, Path]
Tokens = npt.NDArray[np.integer]

SHAPE = Shape(hidden=128, heads=2, bias=True, tied=True)
"""Of the scorer and of the base: two heads, since a rotary embedding leaves only the slow half of a head's dimensions
to tell tokens apart by."""


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """What is kept of the texts as tokens."""

    length: int
    held_out: int
    """Windows of each kind, at most; no two of them overlap."""


def encode(folder: Path, inputs: Inputs, rule: Encoding) -> Facts:
    """Write the training tokens of all kinds, one document after another, and the held-out windows."""
    tokenizer = Tokenizer.load(inputs["tokenizer"] / "tokenizer.json")
    kinds = kinds_of(inputs["texts"])
    training: list[Tokens] = []
    counts: dict[str, int] = {}
    for kind in kinds:
        found = [tokenizer.encode(text).ids for _, text in read_documents(inputs["texts"] / f"training-{kind}.jsonl")]
        training += found
        counts[kind] = sum(map(len, found))
    held_out: list[Tokens] = []
    names: list[str] = []
    for kind in kinds:
        mine: list[tuple[str, Tokens]] = []
        for name, text in read_documents(inputs["texts"] / f"held-out-{kind}.jsonl"):
            ids = tokenizer.encode(text).ids
            starts = range(0, len(ids) - rule.length + 1, rule.length)
            mine += [(f"{kind}/{name}", ids[start : start + rule.length]) for start in starts]
        # from as many documents as there are
        chosen = mine[:: max(1, len(mine) // rule.held_out)][: rule.held_out]
        names += [name for name, _ in chosen]
        held_out += [ids for _, ids in chosen]
    order = np.random.default_rng(0).permutation(len(training))
    save_array(folder / "training.npy", np.concatenate([training[i] for i in order]).astype(np.uint32))
    save_array(folder / "held-out.npy", np.stack(held_out).astype(np.uint32))
    with durable(folder / "documents.json") as file:
        file.write(json.dumps(names).encode())
    return {"training_tokens": counts, "held_out_windows": len(held_out), "held_out_documents": len(set(names))}


def link_tokenizer(folder: Path, inputs: Inputs, checkpoint: str) -> Facts:
    """Take the tokenizer of a given base."""
    content = (Path(checkpoint) / "tokenizer.json").read_bytes()
    with durable(folder / "tokenizer.json") as file:
        file.write(content)
    return {"vocab_size": Tokenizer(content).vocab_size}


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a tiny model is trained on the training texts."""

    tokens: int
    length: int
    batch: int
    rate: float = 3e-3
    memory: float = 0.99
    blocks: float = 0.2
    """Share of the windows that are a random block of tokens over and over: what makes a model learn early to look for
    what stood there before (https://arxiv.org/abs/2511.16893)."""
    evenly: float = 0.7
    """Share of such blocks in which all tokens are equally frequent; in the others as frequent as in the texts."""
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Growing:
    """A tiny model that is trained from nothing: first on blocks alone, then on the texts."""

    blocks: Reading
    texts: Reading
    shape: Shape = SHAPE


def grow(folder: Path, inputs: Inputs, rule: Growing) -> Facts:
    """Train a model on the training texts, and see whether it has learned to repeat."""
    model = new_model(rule.shape, _tokenizer(inputs).vocab_size, rule.texts.length, rule.texts.seed)
    curve = [*_read(model, inputs, rule.blocks), *_read(model, inputs, rule.texts)]
    return _grown(folder, inputs, model, curve, rule.blocks.tokens + rule.texts.tokens, rule.texts.length)


@dataclass(frozen=True, kw_only=True)
class Extending:
    """A grown model that goes on reading in longer windows, its rotary base raised."""

    texts: Reading
    rope_scale: float = 10.0


def extend(folder: Path, inputs: Inputs, rule: Extending) -> Facts:
    """Make a scorer of a grown model, as models of long contexts are made of others."""
    length = rule.texts.length
    model = read_model(inputs["grown"] / "model", rope_scale=rule.rope_scale, positions=length)
    return _grown(folder, inputs, model, _read(model, inputs, rule.texts), rule.texts.tokens, length)


def _read(model: Any, inputs: Inputs, rule: Reading) -> list[float]:
    """Train on random windows of the training texts; returns the curve of the loss."""
    stream = load_array(inputs["tokens"] / "training.npy")
    vocab_size = _tokenizer(inputs).vocab_size
    generator = np.random.default_rng((rule.seed, 7))
    number = max(rule.batch, rule.tokens // rule.length)
    windows = stream[generator.integers(len(stream) - rule.length, size=number)[:, None] + np.arange(rule.length)]
    for i in np.flatnonzero(generator.random(number) < rule.blocks):
        size = int(generator.integers(rule.length // 8, rule.length // 2 + 1))
        even = generator.random() < rule.evenly
        block = generator.integers(vocab_size, size=size) if even else generator.choice(stream, size)
        windows[i] = np.resize(block, rule.length)
    return train(model, windows, Course(rate=rule.rate, batch=rule.batch, seed=rule.seed, memory=rule.memory))


def _grown(
    folder: Path, inputs: Inputs, model: Any, curve: Sequence[float], tokens: int, length: int
) -> dict[str, Any]:
    """Write a trained model; returns what is to be known of it."""
    write_checkpoint(model, folder / "model", (inputs["tokenizer"] / "tokenizer.json").read_text(encoding="utf-8"))
    parameters = sum(weight.numel() for weight in model.parameters())
    return {"tokens": tokens, "parameters": parameters, "curve": list(curve), **gate(model, inputs, length)}


def _tokenizer(inputs: Inputs) -> Tokenizer:
    return Tokenizer.load(inputs["tokenizer"] / "tokenizer.json")


@dataclass(frozen=True, kw_only=True)
class Given:
    """A checkpoint of the user's."""

    folder: str
    content: str
    """Hash of its weights and configuration."""
    length: int
    device: str


def take(folder: Path, inputs: Inputs, rule: Given) -> Facts:
    """See whether a given model has learned to repeat; its folder is linked, not copied."""
    link = folder / "model"
    own = (inputs["tokenizer"] / "tokenizer.json").read_bytes()
    if (Path(rule.folder) / "tokenizer.json").read_bytes() != own:
        raise ValueError(f"{rule.folder} has another tokenizer than the base; scorer and base must share one")
    link.unlink(missing_ok=True)
    link.symlink_to(Path(rule.folder).resolve(), target_is_directory=True)
    model = read_model(link, device=rule.device)
    parameters = sum(weight.numel() for weight in model.parameters())
    return {"tokens": None, "parameters": parameters, **gate(model, inputs, rule.length)}


def gate(model: Any, inputs: Inputs, length: int) -> dict[str, float]:
    """What shows whether a model can carry a far signal at all: losses of a random block at its first and second
    standing, and how much lower the loss is late in held-out text than early.
    """
    stream = load_array(inputs["tokens"] / "training.npy")
    blocks = np.random.default_rng(11).choice(stream, (64, length // 2))
    losses = -log_probs(model, np.tile(blocks, (1, 2)))
    first, second = losses[:, : length // 2 - 1], losses[:, length // 2 :]
    held_out = -log_probs(model, load_array(inputs["tokens"] / "held-out.npy")[:, :length])
    late = held_out[:, -length // 8 :].mean()
    early = held_out[:, length // 16 : length // 8].mean()
    return {
        "first_copy": float(first.mean()),
        "second_copy": float(second.mean()),
        "icl": float(late - early),
        "loss": float(held_out.mean()),
    }


@dataclass(frozen=True, kw_only=True)
class Seeking:
    """How far attention is calibrated."""

    length: int
    pairs: int
    device: str


def seek(folder: Path, inputs: Inputs, rule: Seeking) -> Facts:
    """Calibrate far attention of the scorer on the training texts, none of which is in the pool."""
    from longattn import trials
    from longattn.settings import Calibrating, Corpus

    recipe = recipe_of(folder, rule.length, inputs["scorer"] / "model")
    files = sorted(inputs["texts"].glob("training-*.jsonl"))
    sources = tuple(f"{file.stem.removeprefix('training-')}={file}" for file in files)
    recipe = replace(recipe, corpus=Corpus(inputs=sources))
    # pieces of four documents: a kind of text may have few
    calibrating = Calibrating(pairs=rule.pairs, share=1.0, targets=("spliced-4",), skips=(0, 1, 4))
    found = trials.calibrate(recipe, folder / "run", folder / "preset.json", calibrating, rule.device, 1)
    return {
        "layers": found.layers,
        "heads": found.heads,
        "distance": found.distance,
        "skip_first": found.skip_first,
        "expected": found.evidence["expected"],
    }


@dataclass(frozen=True, kw_only=True)
class Asking:
    """Another model, with a tokenizer of its own, that is asked about the pool's windows."""

    model: str
    preset: str
    device: str


def ask_other(folder: Path, inputs: Inputs, rule: Asking) -> Facts:
    """Score the text of every window of the pool by a model that cuts it into other tokens: each window as a whole.

    Distances are the same shares of a window. Writes ``scores.parquet``: DS and DU of layer 0, and what the preset's
    heads see.
    """
    from longattn.asking import load_model_for
    from longattn.expressions import evaluate
    from longattn.measuring import measure_each
    from longattn.models import resolve
    from longattn.records import Document
    from longattn.settings import Model
    from longattn.windows import cut

    settings = Model(name=rule.model)
    checkpoint = resolve(settings)
    tokenizer = Tokenizer.load(checkpoint.tokenizer_file)
    texts = read_documents(inputs["pool"] / "windows.jsonl")
    encoded = [tokenizer.encode(text) for _, text in texts]
    scorers = {"other0": LongAttn(), "other_far": LongAttn(preset=rule.preset)}
    asks = [ask for scorer in scorers.values() if (ask := scorer.for_length(512).ask())]
    longest = max(len(tokens.ids) for tokens in encoded)
    model = load_model_for(asks, checkpoint, settings, longest, rule.device)
    rows: list[dict[str, Any]] = []
    for (name, text), tokens in zip(texts, encoded, strict=True):
        # a length that distances divide
        length = len(tokens.ids) // 16 * 16
        window = cut(Document(name, "pool", text, name, 0), tokens, length)[0]
        row: dict[str, Any] = {"window_id": name}
        own = [scorer.for_length(length) for scorer in scorers.values()]
        for label, scorer, columns in zip(scorers, own, measure_each(own, model, [window]), strict=True):
            row |= {f"{label}_{key}": float(evaluate(of, columns)[0]) for key, of in scorer.readings().items()}
        rows.append(row)
    write_parquet(folder / "scores.parquet", pa.Table.from_pylist(rows))
    return {"tokens": sum(len(tokens.ids) for tokens in encoded), "columns": sorted(rows[0])}


@dataclass(frozen=True, kw_only=True)
class Picking:
    """What is measured of the pool, and what arms keep of it."""

    length: int
    arms: tuple[Arm, ...]
    budgets: tuple[int, ...]
    """Tokens."""
    scorers: tuple[str, ...]
    device: str


def make_picks(folder: Path, inputs: Inputs, rule: Picking) -> Facts:
    """Measure the pool by the scorer, and write what each arm keeps of each source for each budget.

    Every arm keeps the same number of windows of each source, in the proportions of the pool.
    """
    recipe = recipe_of(inputs["pool"], rule.length, inputs["scorer"] / "model", rule.scorers)
    if "preset" in inputs:
        far = LongAttn(preset=str(inputs["preset"] / "preset.json"))
        recipe = replace(recipe, settings=replace(recipe.settings, longattn=far))
    ledger = picking.measure(recipe, folder / "run", rule.device)
    total = read_parquet(inputs["pool"] / "kinds.parquet", ["window_id"]).num_rows
    tables = (str(inputs["pool"] / "kinds.parquet"),)
    if "other" in inputs:
        tables = (*tables, str(inputs["other"] / "scores.parquet"))
    found: dict[str, Any] = {}
    for budget in rule.budgets:
        share = min(1.0, budget / (total * rule.length))
        keeping = picking.keep_share(recipe, share)
        found[str(budget)] = {
            arm.name: picking.pick(keeping, folder / "run", arm, tables, folder / f"{arm.name}-{budget}.parquet")
            for arm in rule.arms
        }
        kept = {sum(of["kept"].values()) for of in found[str(budget)].values()}
        if len(kept) != 1:
            raise ValueError(f"arms must keep equally many windows for a budget of {budget:,} tokens, got {kept}")
    return {"ledger": ledger, "budgets": found}


@dataclass(frozen=True, kw_only=True)
class Continuing:
    """A continued training."""

    arm: str
    budget: int
    seed: int
    length: int
    rope_scale: float
    rate: float
    batch: int
    device: str


def continue_training(folder: Path, inputs: Inputs, rule: Continuing) -> Facts:
    """Continue the base, its rotary base raised, on one arm's windows, and judge it on what is held out."""
    model = read_model(inputs["base"] / "model", rope_scale=rule.rope_scale, positions=rule.length, device=rule.device)
    windows = picking.read_windows(inputs["picks"] / f"{rule.arm}-{rule.budget}.parquet")
    batch = min(rule.batch, len(windows))
    curve = train(model, windows, Course(rate=rule.rate, batch=batch, seed=rule.seed))
    return {"tokens": int(windows.size), "curve": curve, **judge(model, inputs, rule.length)}


@dataclass(frozen=True, kw_only=True)
class Starting:
    """What there was before any arm."""

    length: int
    rope_scale: float
    device: str


def judge_base(folder: Path, inputs: Inputs, rule: Starting) -> Facts:
    """Judge the base with its rotary base raised, before it is continued."""
    model = read_model(inputs["base"] / "model", rope_scale=rule.rope_scale, positions=rule.length, device=rule.device)
    return judge(model, inputs, rule.length)


@dataclass(frozen=True, kw_only=True)
class Evaluating:
    """The model that says which tokens need the long context."""

    length: int
    device: str


def make_evaluator(folder: Path, inputs: Inputs, rule: Evaluating) -> Facts:
    """Write the scorer's log-probabilities of the held-out windows, from all and from a short context."""
    model = read_model(inputs["scorer"] / "model", device=rule.device)
    windows = load_array(inputs["tokens"] / "held-out.npy")
    save_array(folder / "long.npy", log_probs(model, windows))
    save_array(folder / "short.npy", short_log_probs(model, windows, *short_context(rule.length)))
    return {}


def short_context(length: int) -> tuple[int, int]:
    """The short context that truncation leaves, in tokens: at least an eighth of the window, at most three."""
    return length // 8, length // 4


def judge(model: Any, inputs: Inputs, length: int) -> dict[str, float]:
    """The measures on held-out windows, in the order of the protocol; losses in nats.

    LongPPL's tokens are chosen by the scorer. ``recall`` is by how much a random block's second standing is predicted
    better than its first.
    """
    from longattn.evals import by_position

    windows = load_array(inputs["tokens"] / "held-out.npy")
    documents = json.loads((inputs["tokens"] / "documents.json").read_bytes())
    long, short = log_probs(model, windows), short_log_probs(model, windows, *short_context(length))
    evaluated, evaluated_short = (load_array(inputs["evaluator"] / f"{name}.npy") for name in ("long", "short"))
    half, far = length // 2, length // 4
    once: dict[str, Any] = {"documents": documents, "resamples": 1}
    repeats = by_position.far_repeat_loss(long, windows, far, **once)
    keys = by_position.long_ppl(long, evaluated, evaluated_short, **once)
    measured = gate(model, inputs, length)
    return {
        "gain": by_position.truncation_gain(long, short, half, **once).value,
        "far_repeat": repeats.value,
        "far_repeat_gain": by_position.far_repeat_gain(long, short, windows, far, **once).value,
        "far_repeat_tokens": repeats.tokens,
        "long_ppl": keys.value,
        "key_tokens": keys.tokens,
        "late": by_position.late_loss(long, half, **once).value,
        "icl": measured["icl"],
        "short": -float(long[:, : length // 4 - 1].mean()),
        "recall": measured["first_copy"] - measured["second_copy"],
    }
