"""Prepare a checkpoint for longer windows: Adjusted Base Frequency as a folder whose every reader takes the new base.

ABF (Xiong et al. 2023, https://arxiv.org/abs/2309.16039) raises the base of the rotary embedding and continues
training on long windows; weights are not changed. Entropy-aware ABF (Zhang et al. 2024, https://arxiv.org/abs/2401.07004)
also scales queries by the logarithm of their position.
"""

import importlib.util
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from longattn.addresses import is_uri
from longattn.errors import ModelError
from longattn.export.staging import replacing
from longattn.locks import locked
from longattn.models.checkpoint import ENTROPY, Checkpoint, resolve
from longattn.models.weights import LocalWeights
from longattn.settings import Adjusting, Model
from longattn.tables import durable, make_folder, sync_folder, write_json
from longattn.train.rope import KEPT, Rope, base_of, bases, inverse_frequencies, read_rope, suggest_base, with_base

FILE_NAME = "abf.json"
"""Where a folder made here says what was changed."""

UNSCALED_LAYERS = 2
"""First layers whose queries entropy-aware ABF leaves alone: the released code's."""

_NOT_CARRIED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".gguf", ".onnx", ".msgpack", ".h5")
_OTHER_LAYOUTS = ("params.json", "consolidated")


@dataclass(frozen=True, kw_only=True)
class Adjusted:
    """What was changed and how it is read."""

    model: str
    model_hash: str
    """Content hash of the checkpoint that was given."""
    base_before: float
    base: float
    suggested: int
    """What the NTK-aware rule gives."""
    positions_before: int
    """Positions that the old base was trained for."""
    positions: int
    """``max_position_embeddings`` now."""
    dims: int
    """Rotated dimensions of a head."""
    scaling: str
    """What became of a scaled embedding; empty for a plain one."""
    entropy: Mapping[str, int] | None
    """Window and unscaled layers of entropy-aware ABF."""
    readers: Mapping[str, float]
    """The base that each reader of the new config.json takes."""
    left_out: tuple[str, ...]
    """Files that were not carried along: other layouts of the weights have a base of their own."""
    notes: tuple[str, ...] = field(default=())


def adjust(model: str, rule: Adjusting, output: Path | None = None) -> Adjusted:
    """Make a checkpoint for windows of ``rule.length`` tokens in ``output``; without it only say what would be done.

    Both spellings of the base are written and read back, by our own reading of either generation and, where
    ``transformers`` and torch are installed, by the table that they make of it. ``output`` is replaced as a whole.
    Raises ``ModelError`` for a model whose base cannot be set, and ``ValueError`` for settings that make no sense.
    """
    checkpoint = resolve(Model(name=model))
    if not isinstance(checkpoint.weights, LocalWeights):
        raise ModelError(f"{model} is not on this machine; download it first, and name the folder")
    folder = checkpoint.weights.folder
    if output is not None and (is_uri(str(output)) or output.resolve() == folder.resolve()):
        raise ValueError(f"output must be a local folder other than the model's own, got {output}")
    config, found = _plan(checkpoint, rule)
    carried, left_out = _files(folder)
    found = {**found, "left_out": left_out}
    if output is None:
        return Adjusted(**found, readers=bases(config))
    make_folder(output.parent)
    with locked(output.parent / f".{output.name}.lock"), replacing(output, marker=FILE_NAME) as new:
        write_json(new / "config.json", config)
        for file in carried:
            _carry(file, new / file.name, config["max_position_embeddings"], rule.weights)
        result = Adjusted(**found, readers=prove(new, found["base"]))
        sync_folder(new)
        write_json(new / FILE_NAME, result)
    return result


def prove(folder: Path, base: float) -> dict[str, float]:
    """The base that each reader takes from a folder's config.json, once all of them agree on ``base``.

    Where ``transformers`` is installed with torch, its rotary table is made and compared too: a plain one as a whole,
    of a scaled one what :func:`base_of` finds in it. Raises ``ModelError`` for a reader that takes another base: the
    model would be run with it, and nothing would say so.
    """
    config = json.loads((folder / "config.json").read_bytes())
    found = bases(config)
    if importlib.util.find_spec("torch") and importlib.util.find_spec("transformers"):
        from longattn.train.rotary import reader, rotary_table

        rope = read_rope(config)
        table = rotary_table(folder)
        if rope.kind == "default" and not np.allclose(table, inverse_frequencies(base, rope.dims), rtol=1e-5, atol=0):
            raise ModelError(f"{folder}: the rotary table of {reader()} is not that of base {base:,.0f}")
        if (read := base_of(table, rope)) is not None:
            found[reader()] = read
    if wrong := {who: other for who, other in found.items() if not np.isclose(other, base, rtol=1e-3)}:
        raise ModelError(f"{folder}: config.json is read with other bases than {base:,.0f}: {wrong}")
    return found


def _plan(checkpoint: Checkpoint, rule: Adjusting) -> tuple[dict[str, Any], dict[str, Any]]:
    """The new config, and what there is to say of it."""
    try:
        rope = read_rope(checkpoint.config)
    except ModelError as error:
        raise ModelError(f"{checkpoint.name}: {error}") from error
    _check(checkpoint.name, rope, rule)
    suggested = suggest_base(rope.base, rope.positions, rule.length, rope.dims)
    base = float(suggested if rule.theta is None else rule.theta)
    kept = rule.scaling == "keep" and bool(rope.scaling)
    positions = max(rule.length, rope.limit) if kept or not rope.scaling else rule.length
    config = with_base(checkpoint.config, base, positions, keep_scaling=kept)
    entropy = None
    if rule.entropy:
        entropy = {"window": rope.positions, "unscaled_layers": UNSCALED_LAYERS}
        config[ENTROPY] = entropy
    scaling = f"{rope.kind} {'kept' if kept else 'dropped'}" if rope.scaling else ""
    return config, {
        "model": checkpoint.name,
        "model_hash": checkpoint.hash,
        "base_before": rope.base,
        "base": base,
        "suggested": suggested,
        "positions_before": rope.positions,
        "positions": positions,
        "dims": rope.dims,
        "scaling": scaling,
        "entropy": entropy,
        "notes": tuple(_notes(checkpoint.config, rope, rule, base, suggested)),
    }


def _check(name: str, rope: Rope, rule: Adjusting) -> None:
    if rule.length < 1:
        raise ValueError(f"length must be at least 1, got {rule.length}")
    if rule.theta is not None and rule.theta <= 1:
        raise ValueError(f"theta must be above 1, got {rule.theta}; {rope.base:,.0f} is the model's")
    if rope.scaling and rule.scaling == "refuse":
        raise ValueError(
            f"{name} has a scaled rotary embedding ({rope.kind}, made for {rope.positions} positions): say what "
            "becomes of it; --scaling drop goes back to the plain one, --scaling keep scales the new base the same way"
        )
    if rule.scaling == "keep" and rope.scaling and rope.kind not in KEPT:
        raise ValueError(
            f"{name}: a scaling of the kind {rope.kind} depends on the positions and cannot be kept with more of them; "
            "--scaling drop goes back to the plain embedding"
        )
    if rule.length <= rope.positions and rule.theta is None:
        raise ValueError(
            f"{name} was made for {rope.positions} positions already, length is {rule.length}; "
            "name a longer one, or a base with --theta"
        )
    if rule.entropy and rope.positions < 2:
        raise ValueError(f"entropy needs a model made for 2 positions or more, {name} has {rope.positions}")


def _notes(config: Mapping[str, Any], rope: Rope, rule: Adjusting, base: float, suggested: int) -> list[str]:
    notes = []
    if base < rope.base:
        notes.append(f"the base falls from {rope.base:,.0f} to {base:,.0f}: ABF raises it")
    elif base < 0.9 * suggested:
        notes.append(f"the rule suggests a base of {suggested:,} for {rule.length:,} tokens")
    window = config.get("sliding_window")
    if window and window < rule.length and config.get("use_sliding_window", True):
        notes.append(f"its attention reaches only {window:,} tokens back (sliding_window); no base changes that")
    if rule.entropy:
        notes.append(
            "config.json asks for scaled queries, which longattn alone reads; other trainers and "
            "servers use the base alone"
        )
    return notes


def _files(folder: Path) -> tuple[list[Path], tuple[str, ...]]:
    """The files to carry along, and the names of those that are not."""
    carried, left_out = [], []
    for path in sorted(folder.iterdir()):
        if path.name in ("config.json", FILE_NAME) or path.name.startswith("."):
            continue
        other = path.suffix in _NOT_CARRIED or path.name.startswith(_OTHER_LAYOUTS)
        (left_out if other or not path.is_file() else carried).append(path)
    return carried, tuple(path.name for path in left_out)


def _carry(source: Path, target: Path, positions: int, weights: Literal["copy", "link"]) -> None:
    """Copy a file, or link to a large one; the tokenizer's own limit is raised to the model's."""
    if source.name == "tokenizer_config.json":
        facts = json.loads(source.read_bytes())
        limit = facts.get("model_max_length")
        if isinstance(limit, int) and limit < positions:
            facts["model_max_length"] = positions
        write_json(target, facts)
    elif weights == "link" and source.suffix == ".safetensors":
        target.symlink_to(source.resolve())
    else:
        with source.open("rb") as old, durable(target) as new:
            shutil.copyfileobj(old, new, 16 * 2**20)
