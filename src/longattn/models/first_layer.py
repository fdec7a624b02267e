"""Queries and keys of the first layer, from the few tensors they depend on, where it is built like Llama's.

Before the rotary embedding they depend on the token alone (see :mod:`longattn.models.vocabulary`), and the rotation
depends on the position alone. Every window of a batch is computed by itself: its result does not depend on its
neighbours.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, cast

import torch
from jaxtyping import Float, Int
from safetensors import safe_open
from torch import Tensor
from transformers import LlamaConfig, PreTrainedConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from longattn.errors import ModelError
from longattn.models.base import Heads, LayerAttention, Model, Predictions, Visit, check_finite, check_tokens
from longattn.models.checkpoint import ENTROPY, Checkpoint
from longattn.models.configuration import max_positions
from longattn.models.vocabulary import Projection, Projector, Vocabulary, open_table
from longattn.models.weights import LocalWeights

_NORMED = ("qwen3",)
_BIASED = ("qwen2",)
_BIASED_ON_REQUEST = ("llama", "qwen3", "smollm3")
FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "smollm3")
"""Model types with Llama's first layer, with or without biases and with or without norms of queries and keys."""


def follows_llama(config: PreTrainedConfig) -> bool:
    """Whether :class:`FirstLayer` computes this model's first layer as ``transformers`` does."""
    rope = config.rope_parameters if config.model_type in FAMILIES else {}
    rotary = getattr(config, "no_rope_layers", None) or [1]
    rule = getattr(config, ENTROPY, None)
    scaled = rule is not None and rule["unscaled_layers"] < 1
    return bool(rope and rope.get("partial_rotary_factor", 1.0) == 1.0 and rotary[0] and not scaled)


class Rotation(NamedTuple):
    """The rotary embedding of N positions; both halves of a row are equal, up to its scale."""

    cos: Float[Tensor, "N K"]
    sin: Float[Tensor, "N K"]


@dataclass(frozen=True, kw_only=True, eq=False)
class FirstLayer(Model):
    """The first layer's queries and keys, without the rest of the model."""

    config: PreTrainedConfig = field(repr=False)
    projector: Projector = field(repr=False)
    vocabulary: Vocabulary = field(repr=False)
    _rotations: dict[int, Rotation] = field(default_factory=dict, repr=False, init=False)

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
        rows = rows if rows is None else rows.to(self.device)
        positions = torch.arange(tokens.shape[1], device=self.device)
        every = self._rotation(tokens.shape[1])
        chosen = every if rows is None else Rotation(every.cos[rows], every.sin[rows])
        q, k = [], []
        for window in tokens:
            unrotated, place = self.vocabulary.rows(window)
            k.append(_rotate(unrotated.k, place, every))
            q.append(_rotate(unrotated.q, place if rows is None else place[rows], chosen))
        scale = self.projector.head_dim**-0.5
        visit(LayerAttention(0, _stack(q), _stack(k), scale, positions if rows is None else rows))

    def predictions(
        self,
        tokens: Int[Tensor, "B T"],
        first: int = 1,
        *,
        shared: int = 0,
        masked_heads: Heads = frozenset(),
        layers: Sequence[int] = (),
        visit: Visit | None = None,
        rows: Int[Tensor, " R"] | None = None,
    ) -> Predictions:
        """Raise ``ValueError``: one layer predicts nothing."""
        raise ValueError("only layer 0 was loaded, which predicts no tokens")

    def with_table(self, *, build: bool) -> "FirstLayer":
        """The same model, reading queries and keys from the table on disk if there is one, or if it may ``build`` it.

        See :func:`longattn.models.vocabulary.open_table`.
        """
        table = open_table(self.projector, self.hash, build=build)
        return self if table is None else replace(self, vocabulary=Vocabulary(self.projector, table))

    def _rotation(self, length: int) -> Rotation:
        """Cosine and sine of each position of a window."""
        rotation = self._rotations.get(length)
        if rotation is None:
            # a new embedding for each length, because some kinds keep the longest length they have seen
            rotary = LlamaRotaryEmbedding(cast("LlamaConfig", self.config)).to(self.device)
            cos, sin = rotary(self.projector.embeddings, torch.arange(length, device=self.device)[None])
            rotation = Rotation(cos[0], sin[0])
            # windows of a run have one length, so the last one is enough
            self._rotations.clear()
            self._rotations[length] = rotation
        return rotation


def load_first_layer(
    checkpoint: Checkpoint, config: PreTrainedConfig, *, window: int, device: torch.device, dtype: torch.dtype
) -> FirstLayer:
    """Read the tensors that the first layer's queries and keys depend on, and no others.

    Raises ``ModelError`` if one of them is missing, has another shape than the config says, or holds no finite numbers.
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
    _check_shapes(checkpoint, config, tensors)
    check_finite(checkpoint.name, tensors)

    def projection(part: str) -> Projection:
        stem = f"layers.0.self_attn.{part}"
        bias, norm = (tensors.get(f"{stem}_{name}") for name in ("proj.bias", "norm.weight"))
        return Projection(tensors[f"{stem}_proj.weight"], bias, norm)

    projector = Projector(
        embeddings=tensors["embed_tokens.weight"],
        norm=tensors["layers.0.input_layernorm.weight"],
        query=projection("q"),
        key=projection("k"),
        head_dim=_head_dim(config),
        eps=config.rms_norm_eps,
    )
    return FirstLayer(
        name=checkpoint.name,
        hash=checkpoint.hash,
        num_layers=config.num_hidden_layers,
        vocab_size=len(projector.embeddings),
        max_positions=max_positions(config),
        window=window,
        device=device,
        dtype=dtype,
        config=config,
        projector=projector,
        vocabulary=Vocabulary(projector),
    )


def _check_shapes(checkpoint: Checkpoint, config: PreTrainedConfig, tensors: Mapping[str, Tensor]) -> None:
    """Raise ``ModelError`` for a tensor of another shape than the config says: one number would pass for a vector."""
    hidden, head_dim = config.hidden_size, _head_dim(config)
    # rows for more ids than the tokenizer has do no harm
    expected = {"embed_tokens.weight": (*tensors["embed_tokens.weight"].shape[:1], hidden)}
    expected["layers.0.input_layernorm.weight"] = (hidden,)
    for part, heads in (("q", config.num_attention_heads), ("k", config.num_key_value_heads)):
        stem = f"layers.0.self_attn.{part}"
        expected[f"{stem}_proj.weight"] = (heads * head_dim, hidden)
        expected[f"{stem}_proj.bias"] = (heads * head_dim,)
        expected[f"{stem}_norm.weight"] = (head_dim,)
    for name, tensor in tensors.items():
        if tensor.shape != expected[name]:
            shape = tuple(tensor.shape)
            raise ModelError(f"{checkpoint.name}: {name} has shape {shape}, its config says {expected[name]}")


def _read(weights: LocalWeights, name: str) -> Tensor:
    with safe_open(weights.path(name), framework="pt") as file:
        return file.get_tensor(name)


def _head_dim(config: PreTrainedConfig) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _rotate(unrotated: Float[Tensor, "V H K"], place: Int[Tensor, " N"], rotation: Rotation) -> Float[Tensor, "N H K"]:
    """Some rows of ``unrotated`` after the rotary embedding, each at the next position of ``rotation``."""
    cos_NHK, sin_NHK = (part[:, None] for part in rotation)
    plain_NHK = unrotated.flatten(1).index_select(0, place).unflatten(1, unrotated.shape[1:])
    half = unrotated.shape[2] // 2
    turned_NHK = plain_NHK * cos_NHK
    turned_NHK[..., :half].addcmul_(plain_NHK[..., half:], sin_NHK[..., :half], value=-1)
    turned_NHK[..., half:].addcmul_(plain_NHK[..., :half], sin_NHK[..., half:])
    return turned_NHK


def _stack(windows: Sequence[Float[Tensor, "N H K"]]) -> Float[Tensor, "B N H K"]:
    return windows[0][None] if len(windows) == 1 else torch.stack(tuple(windows))
