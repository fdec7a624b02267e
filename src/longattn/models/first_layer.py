"""Queries and keys of the first layer, from the few tensors they depend on, where it is built like Llama's.

Before the rotary embedding they depend on the token alone, so a token that occurs many times in a window is
projected once. Every window of a batch is computed by itself: its result does not depend on its neighbours.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, cast

import torch
from jaxtyping import Float, Int
from safetensors import safe_open
from torch import Tensor
from torch.nn.functional import linear
from transformers import LlamaConfig, PreTrainedConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, rotate_half

from longattn.errors import ModelError
from longattn.models.base import Heads, LayerAttention, Model, Predictions, Visit, check_tokens
from longattn.models.checkpoint import Checkpoint
from longattn.models.configuration import max_positions
from longattn.models.weights import LocalWeights

_NORMED = ("qwen3",)
_BIASED = ("qwen2",)
_BIASED_ON_REQUEST = ("llama", "qwen3", "smollm3")
FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "smollm3")
"""Model types with Llama's first layer, with or without biases and with or without norms of queries and keys."""


class Projection(NamedTuple):
    """One of the two matrices that make queries or keys of hidden states."""

    weight: Float[Tensor, "O D"]
    bias: Float[Tensor, " O"] | None
    norm: Float[Tensor, " K"] | None
    """Weight of the norm over each head's vector."""


def follows_llama(config: PreTrainedConfig) -> bool:
    """Whether :class:`FirstLayer` computes this model's first layer as ``transformers`` does."""
    rope = config.rope_parameters if config.model_type in FAMILIES else {}
    rotary = getattr(config, "no_rope_layers", None) or [1]
    return bool(rope and rope.get("partial_rotary_factor", 1.0) == 1.0 and rotary[0])


@dataclass(frozen=True, kw_only=True, eq=False)
class FirstLayer(Model):
    """The first layer's queries and keys, without the rest of the model."""

    config: PreTrainedConfig = field(repr=False)
    embeddings: Float[Tensor, "V D"] = field(repr=False)
    norm: Float[Tensor, " D"] = field(repr=False)
    query: Projection = field(repr=False)
    key: Projection = field(repr=False)

    @torch.inference_mode()
    def queries_and_keys(
        self,
        tokens: Int[Tensor, "B T"],
        layers: Sequence[int],
        visit: Visit,
        rows: Int[Tensor, " R"] | None = None,
    ) -> None:
        """Call ``visit`` for layer 0, the only one there is."""
        if list(layers) != [0]:
            raise ValueError(f"only layer 0 was loaded, got {list(layers)}")
        tokens = tokens.to(self.device)
        check_tokens(self, tokens)
        positions = torch.arange(tokens.shape[1], device=self.device)
        rows = positions if rows is None else rows.to(self.device)
        cos, sin = self._rotation(positions)
        q = [_rotate(self._heads(self.query, window[rows]), cos[rows], sin[rows]) for window in tokens]
        k = [_rotate(self._heads(self.key, window), cos, sin) for window in tokens]
        visit(LayerAttention(0, torch.stack(q), torch.stack(k), _head_dim(self.config) ** -0.5, rows))

    def predictions(
        self,
        tokens: Int[Tensor, "B T"],
        first: int = 1,
        *,
        masked_heads: Heads = frozenset(),
        layers: Sequence[int] = (),
        visit: Visit | None = None,
        rows: Int[Tensor, " R"] | None = None,
    ) -> Predictions:
        """Raise ``ValueError``: one layer predicts nothing."""
        raise ValueError("only layer 0 was loaded, which predicts no tokens")

    def _heads(self, projection: Projection, tokens: Int[Tensor, " N"]) -> Float[Tensor, "N H K"]:
        """Queries or keys of some tokens, before the rotary embedding."""
        ids, place = tokens.unique(return_inverse=True)
        # a product of fewer than 16 rows is added up in another order, which depends on the threads
        ids = torch.cat([ids, ids.new_zeros(max(0, 16 - len(ids)))])
        hidden = _rms_norm(self.embeddings[ids], self.norm, self.config.rms_norm_eps)
        heads = linear(hidden, projection.weight, projection.bias).unflatten(-1, (-1, _head_dim(self.config)))
        if projection.norm is not None:
            heads = _rms_norm(heads, projection.norm, self.config.rms_norm_eps)
        return heads[place]

    def _rotation(self, positions: Int[Tensor, " T"]) -> tuple[Float[Tensor, "T K"], Float[Tensor, "T K"]]:
        """Cosine and sine per position."""
        # a new one each time, because some kinds keep the longest length they have seen
        rotary = LlamaRotaryEmbedding(cast("LlamaConfig", self.config)).to(self.device)
        cos, sin = rotary(self.embeddings, positions[None])
        return cos[0], sin[0]


def load_first_layer(
    checkpoint: Checkpoint, config: PreTrainedConfig, *, window: int, device: torch.device, dtype: torch.dtype
) -> FirstLayer:
    """Read the tensors that the first layer's queries and keys depend on, and no others.

    Raises ``ModelError`` if one of them is missing or has another shape than the config says.
    """
    kind = config.model_type
    stem = "model." if "model.embed_tokens.weight" in checkpoint.weights.names else ""
    names = ["embed_tokens.weight", "layers.0.input_layernorm.weight"]
    names += [f"layers.0.self_attn.{part}_proj.weight" for part in "qk"]
    if kind in _BIASED or (kind in _BIASED_ON_REQUEST and config.attention_bias):
        names += [f"layers.0.self_attn.{part}_proj.bias" for part in "qk"]
    if kind in _NORMED:
        names += [f"layers.0.self_attn.{part}_norm.weight" for part in "qk"]
    weights = checkpoint.weights.fetch(stem + name for name in names)
    tensors = {name: _read(weights, stem + name).to(device, dtype) for name in names}

    def projection(part: str, heads: int) -> Projection:
        prefix = f"layers.0.self_attn.{part}"
        weight = tensors[f"{prefix}_proj.weight"]
        if weight.shape != (expected := (heads * _head_dim(config), config.hidden_size)):
            raise ModelError(f"{checkpoint.name}: {part}_proj has shape {tuple(weight.shape)}, its config {expected}")
        return Projection(weight, tensors.get(f"{prefix}_proj.bias"), tensors.get(f"{prefix}_norm.weight"))

    return FirstLayer(
        name=checkpoint.name,
        hash=checkpoint.hash,
        num_layers=config.num_hidden_layers,
        vocab_size=len(tensors["embed_tokens.weight"]),
        max_positions=max_positions(config),
        window=window,
        device=device,
        dtype=dtype,
        config=config,
        embeddings=tensors["embed_tokens.weight"],
        norm=tensors["layers.0.input_layernorm.weight"],
        query=projection("q", config.num_attention_heads),
        key=projection("k", config.num_key_value_heads),
    )


def _read(weights: LocalWeights, name: str) -> Tensor:
    with safe_open(weights.path(name), framework="pt") as file:
        return file.get_tensor(name)


def _head_dim(config: PreTrainedConfig) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _rms_norm(x: Float[Tensor, "... D"], weight: Float[Tensor, " D"], eps: float) -> Float[Tensor, "... D"]:
    """Root mean square norm in single precision, whatever the type of the input."""
    wide = x.float()
    return weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype)


def _rotate(x: Float[Tensor, "N H K"], cos: Float[Tensor, "N K"], sin: Float[Tensor, "N K"]) -> Float[Tensor, "N H K"]:
    return x * cos[:, None] + rotate_half(x) * sin[:, None]
