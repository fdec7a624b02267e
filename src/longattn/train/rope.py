"""What a config.json says of the rotary embedding, who reads it how, and the same config with another base.

``transformers`` 4 takes the base from ``rope_theta``; ``transformers`` 5 takes it from ``rope_parameters`` (or from
``rope_scaling``, which it prefers), then from ``rope_theta``, and saves ``rope_parameters`` alone. A file with only one
of the two is read with the class's default base, 10,000, by the other generation, and nothing says so.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from longattn.errors import ModelError

DEFAULT_BASE = 10_000.0
DEFAULT_BASE_OF = frozenset({"llama", "mistral", "phi3", "qwen2", "qwen3"})
"""Model types whose class takes ``DEFAULT_BASE``, in either generation, where config.json names no base."""

KEPT = ("linear", "llama3", "yarn")
"""Kinds of scaled embedding that stay what they are with another base and more positions."""

Scaling = Literal["refuse", "drop", "keep"]


@dataclass(frozen=True)
class Rope:
    """The rotary embedding of a config.json, as ``transformers`` 5 reads it."""

    base: float
    """The base b: pair j of a head's d rotated dimensions turns by b^(-2j/d) for each position."""
    dims: int
    """Rotated dimensions of a head, d."""
    positions: int
    """Positions that the base was trained for, before any scaling."""
    limit: int
    """``max_position_embeddings``."""
    scaling: Mapping[str, Any] = field(default_factory=dict)
    """Parameters of a scaled embedding (Llama 3.1's, YaRN, ...); empty for the plain one."""
    partial: float | None = None
    """The part of a head that is rotated, where config.json names it."""

    @property
    def kind(self) -> str:
        """``default`` for the plain embedding, else how it is scaled."""
        return self.scaling.get("rope_type", "default")


def read_rope(config: Mapping[str, Any]) -> Rope:
    """The rotary embedding of a config.json.

    Raises ``ModelError`` for a model without one, with several, or with a file that names two bases.
    """
    parameters = _parameters(config)
    if "text_config" in config or any(isinstance(value, Mapping) for value in parameters.values()):
        raise ModelError("its rotary embedding differs between parts or kinds of layers; one base cannot be set")
    if "rope_local_base_freq" in config:
        raise ModelError("its layers have two bases (rope_local_base_freq); one base cannot be set")
    if "max_position_embeddings" not in config:
        raise ModelError("config.json names no max_position_embeddings")
    stated = {float(one["rope_theta"]) for one in (config, parameters) if one.get("rope_theta") is not None}
    if len(stated) > 1:
        raise ModelError(f"config.json names several bases, {sorted(stated)}; make rope_theta the true one everywhere")
    if not stated and config.get("model_type") not in DEFAULT_BASE_OF:
        raise ModelError(
            f"config.json of the type {config.get('model_type')!r} names no base, in rope_theta or rope_parameters"
        )
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    scaling = {key: value for key, value in parameters.items() if key not in ("rope_theta", "type", _PARTIAL)}
    limit = int(config["max_position_embeddings"])
    partial = parameters.get(_PARTIAL, config.get(_PARTIAL))
    # Phi-3 has it beside the parameters of its scaling, and transformers prefers that one
    beside = None if kind == "default" else config.get(_ORIGINAL)
    head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    dims = int(head * (1.0 if partial is None else partial))
    if dims < 4:
        raise ModelError(f"only {dims} dimensions of a head are rotated; a base needs 4 or more to be of consequence")
    return Rope(
        base=stated.pop() if stated else DEFAULT_BASE,
        dims=dims,
        positions=int(beside or parameters.get(_ORIGINAL) or limit),
        limit=limit,
        scaling={} if kind == "default" else {**scaling, "rope_type": kind},
        partial=partial,
    )


def suggest_base(base: float, old: int, new: int, dims: int) -> int:
    """A base for windows of ``new`` tokens where ``base`` was trained on ``old``.

    b' = b · s^(d/(d-2)) with s = new/old, the NTK-aware rule: the slowest pair, b^(-(d-2)/d), then turns as far over
    the new window as it did over the old one. Rounded up to two digits, and whole, since Megatron takes no other.

    >>> suggest_base(500_000.0, 8192, 32768, 128)
    2100000
    """
    if new <= old:
        return math.ceil(base)
    exact = base * (new / old) ** (dims / (dims - 2))
    unit = 10 ** (math.floor(math.log10(exact)) - 1)
    return math.ceil(exact / unit) * unit


def with_base(config: Mapping[str, Any], base: float, positions: int, *, keep_scaling: bool = False) -> dict[str, Any]:
    """The same config with another base and as many positions, for every reader.

    A scaled embedding becomes the plain one unless ``keep_scaling``. Other keys stay as they are.
    """
    rope = read_rope(config)
    partial = {} if rope.partial is None else {_PARTIAL: rope.partial}
    edited = {key: value for key, value in config.items() if key != "rope_scaling"}
    scaling = {}
    if keep_scaling and rope.scaling:
        # without it these kinds take max_position_embeddings, which is about to change
        original = {} if rope.kind == "linear" else {_ORIGINAL: rope.positions}
        scaling = {**rope.scaling, **original}
        # transformers 4 reads this one, in its early versions by the name "type"
        edited["rope_scaling"] = {**scaling, "type": rope.kind}
    edited["rope_parameters"] = {"rope_type": "default", **scaling, "rope_theta": base, **partial}
    return {**edited, "rope_theta": base, "max_position_embeddings": positions, **partial}


def bases(config: Mapping[str, Any]) -> dict[str, float]:
    """The base that each generation of ``transformers`` takes from a config.json."""
    top = config.get("rope_theta")
    default = DEFAULT_BASE if top is None else float(top)
    return {"transformers 4": default, "transformers 5": float(_parameters(config).get("rope_theta", default))}


def inverse_frequencies(base: float, dims: int) -> npt.NDArray[np.float64]:
    """The plain rotary table, [d/2]: radians per position, b^(-2j/d)."""
    return base ** (-np.arange(0, dims, 2) / dims)


def entropy_scale(positions: npt.ArrayLike, window: int) -> npt.NDArray[np.float64]:
    """What entropy-aware ABF multiplies a query with: max(1, ln i / ln c), by 0-based position i - 1.

    c is the window the model was trained for. It keeps the entropy of attention from growing with the number of keys.
    Zhang et al. 2024, https://arxiv.org/abs/2401.07004, section 4; the first two layers are left as they are.

    >>> entropy_scale([0, 4095, 16_777_215], 4096).tolist()
    [1.0, 1.0, 2.0]
    """
    return np.maximum(1.0, np.log(np.asarray(positions, np.float64) + 1) / np.log(window))


def base_of(table: npt.NDArray[np.floating[Any]], rope: Rope) -> float | None:
    """The base b that a rotary table, [d/2], was made of, by its two fastest pairs, which are as b^(2/d) to 1.

    A scaling that is kept leaves these alone, or scales both alike. None where the second of them is too slow for that,
    which takes a head of few dimensions.
    """
    if rope.kind not in ("default", "linear"):
        # pairs that turn so often within the old length are left alone: Llama 3.1's 4 times, YaRN's 32
        often = float(rope.scaling.get("high_freq_factor") or rope.scaling.get("beta_fast") or 32)
        if 2 * math.pi * rope.base ** (2 / rope.dims) * often > rope.positions:
            return None
    return float(table[0] / table[1]) ** (rope.dims / 2)


_PARTIAL = "partial_rotary_factor"
_ORIGINAL = "original_max_position_embeddings"


def _parameters(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """What ``transformers`` 5 makes ``rope_parameters`` of."""
    return config.get("rope_scaling") or config.get("rope_parameters") or {}
