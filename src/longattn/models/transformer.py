"""Queries and keys of any layer of any causal language model that ``transformers`` runs.

The model is told to use our attention function. It shows the queries and keys of the layers that were asked
for, computes the attention of the layers before the last of them, and stops the forward pass there: no
logits, no cache, no mask of T x T. A call that asks for more than causal softmax attention is refused, so
that nothing is scored wrongly.
"""

import contextlib
import logging
import re
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, cast

import torch
import transformers
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_MAPPING,
    AttentionInterface,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.masking_utils import AttentionMaskInterface

from longattn.errors import ModelError
from longattn.models.base import LayerAttention, Model, Visit, check_tokens
from longattn.models.checkpoint import Checkpoint
from longattn.models.configuration import max_positions
from longattn.models.first_layer import FAMILIES

_INTERFACE = "longattn"
# arguments of an attention call that do not change what it means, or are checked by themselves
_HARMLESS = {
    "cache_position",
    "dropout",
    "is_causal",
    "output_router_logits",
    "position_embeddings",
    "position_ids",
    "sliding_window",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class AnyLayer(Model):
    """A model of ``transformers``, as deep as the deepest layer that will be asked for."""

    module: PreTrainedModel = field(repr=False)

    @torch.inference_mode()
    def queries_and_keys(
        self,
        tokens: Int[Tensor, "B T"],
        layers: Sequence[int],
        visit: Visit,
        rows: Int[Tensor, " R"] | None = None,
    ) -> None:
        """Run the model up to the attention of the last asked layer."""
        depth = self.module.config.num_hidden_layers
        if not layers or not 0 <= min(layers) <= max(layers) < depth:
            raise ValueError(f"layers must be from 0 to {depth - 1}, as loaded, got {list(layers)}")
        tokens = tokens.to(self.device)
        check_tokens(self, tokens)
        rope = getattr(self.module.config, "rope_parameters", None) or {}
        if rope.get("rope_type") == "dynamic" and tokens.shape[1] != self.window:
            raise ValueError(
                f"with dynamic scaling windows must have exactly {self.window} tokens, got {tokens.shape[1]}"
            )
        self._run(tokens, _Pending(set(layers), visit, None if rows is None else rows.to(self.device)))

    def _run(self, tokens: Int[Tensor, "B T"], pending: "_Pending") -> None:
        reset = _PENDING.set(pending)
        try:
            with contextlib.suppress(_Finished):
                self.module(input_ids=tokens.long(), use_cache=False)
        except ModelError as error:
            raise ModelError(f"{self.name}: {error}") from error
        finally:
            _PENDING.reset(reset)
        if pending.layers:
            raise ModelError(f"{self.name}: layers {sorted(pending.layers)} have no attention that can be read")

    @torch.inference_mode()
    def check(self, layers: Sequence[int]) -> None:
        """Raise ``ModelError`` if attention of these layers is refused; two tokens are enough to find out."""
        self._run(torch.zeros(1, 2, dtype=torch.int64, device=self.device), _Pending(set(layers), _ignore, None))


def load_any_layer(
    checkpoint: Checkpoint,
    config: PreTrainedConfig,
    *,
    layers: Sequence[int],
    window: int,
    device: torch.device,
    dtype: torch.dtype,
) -> AnyLayer:
    """Load the model without its head and, where that is known to be safe, without deeper layers.

    Raises ``ModelError`` for a model that is not a causal language model, that does not use the attention
    functions of ``transformers``, or whose checkpoint lacks tensors.
    """
    num_layers = config.num_hidden_layers
    if config.model_type in FAMILIES:
        _shorten(config, max(layers) + 1)
    module = _load_module(checkpoint, config, dtype)
    loaded = AnyLayer(
        name=checkpoint.name,
        hash=checkpoint.hash,
        num_layers=num_layers,
        vocab_size=cast("nn.Embedding", module.get_input_embeddings()).num_embeddings,
        max_positions=max_positions(config),
        window=window,
        device=device,
        dtype=dtype,
        module=cast("Any", module.eval()).to(device),
    )
    loaded.check(layers)
    return loaded


def _load_module(checkpoint: Checkpoint, config: PreTrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    kind = type(config)
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING or kind not in MODEL_MAPPING:
        raise ModelError(f"{checkpoint.name}: transformers has no causal language model {config.model_type!r}")
    model_class = cast("type[PreTrainedModel]", MODEL_MAPPING[kind])
    if not model_class._supports_attention_backend:
        raise ModelError(f"{checkpoint.name}: the attention of {config.model_type!r} models cannot be read")
    AttentionInterface.register(_INTERFACE, _attend)
    AttentionMaskInterface.register(_INTERFACE, _no_mask)
    with _quiet():
        module, report = cast("Any", model_class).from_pretrained(
            checkpoint.weights.fetch(_needed(checkpoint, config)).folder,
            config=config,
            dtype=dtype,
            attn_implementation=_INTERFACE,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    # transformers fills in random numbers
    if absent := sorted(report["missing_keys"]) + sorted(str(key) for key in report["mismatched_keys"]):
        raise ModelError(f"{checkpoint.name}: lacking, or of another shape: {', '.join(absent[:5])}")
    return module


def _shorten(config: PreTrainedConfig, depth: int) -> None:
    """Leave out the layers beyond ``depth``."""
    config.num_hidden_layers = depth
    for name in ("layer_types", "no_rope_layers"):
        if per_layer := getattr(config, name, None):
            setattr(config, name, per_layer[:depth])


def _needed(checkpoint: Checkpoint, config: PreTrainedConfig) -> list[str]:
    """The checkpoint's tensors without the head and without layers that are not loaded."""
    names = [name for name in checkpoint.weights.names if not name.startswith("lm_head.")]
    layer = {name: re.search(r"(?:^|\.)layers\.(\d+)\.", name) for name in names}
    return [name for name, found in layer.items() if found is None or int(found[1]) < config.num_hidden_layers]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Neither a progress bar nor a list of the tensors that were left out on purpose."""
    logger = logging.getLogger("transformers")
    level, bar = logger.level, transformers.utils.logging.is_progress_bar_enabled()
    logger.setLevel(logging.ERROR)
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        logger.setLevel(level)
        if bar:
            transformers.utils.logging.enable_progress_bar()


@dataclass
class _Pending:
    """What the forward pass that is running shall still show."""

    layers: set[int]
    visit: Visit
    rows: Int[Tensor, " R"] | None


_PENDING: ContextVar[_Pending] = ContextVar("pending")


def _ignore(_: LayerAttention) -> None:
    pass


class _Finished(Exception):
    """The last asked layer has been shown: what remains of the forward pass is not needed."""


def _attend(
    module: nn.Module,
    query: Float[Tensor, "B H T K"],
    key: Float[Tensor, "B G T K"],
    value: Float[Tensor, "B G T V"],
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Float[Tensor, "B T H V"], None]:
    """The attention function that ``transformers`` calls in place of its own."""
    pending = _PENDING.get()
    _check_call(module, key.shape[2], attention_mask, options)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    layer = cast("int", module.layer_idx)
    if layer in pending.layers:
        q = query.transpose(1, 2)
        q = q if pending.rows is None else q[:, pending.rows]
        pending.visit(LayerAttention(layer, q, key.transpose(1, 2), scale))
        pending.layers.remove(layer)
    if not pending.layers:
        raise _Finished
    grouped = query.shape[1] != key.shape[1]
    output = scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale, enable_gqa=grouped)
    return output.transpose(1, 2).contiguous(), None


def _check_call(module: nn.Module, length: int, mask: Tensor | None, options: dict[str, Any]) -> None:
    """Raise ``ModelError`` if the model asks for anything but causal softmax attention over the whole window."""
    reach = options.get("sliding_window")
    if mask is not None or not getattr(module, "is_causal", True) or options.get("is_causal") is False:
        raise ModelError(f"{type(module).__name__} uses a mask that is not the causal one")
    if reach is not None and reach < length:
        raise ModelError(f"{type(module).__name__} reaches only {reach} tokens back, less than a window of {length}")
    used = {name for name, value in options.items() if value is not None and value is not False}
    if other := sorted(used - _HARMLESS):
        raise ModelError(f"{type(module).__name__} uses {', '.join(other)}, which the moments do not describe")


def _no_mask(*, kv_length: int, local_size: int | None = None, allow_is_causal_skip: bool = False, **_: Any) -> None:
    """The mask function that ``transformers`` calls in place of its own: a causal mask need not be built."""
    if not allow_is_causal_skip or (local_size is not None and local_size < kv_length):
        raise ModelError("the model uses a mask that is not the causal one")
