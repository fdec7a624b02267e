"""Queries and keys of any layer, and predictions, of any causal language model that ``transformers`` runs.

The model is told to use our attention function. It shows the queries and keys of the layers that were asked
for and, when no prediction is wanted, ends the forward pass at the last of them: no cache, no mask of T x T, and
never a window of vocabulary-wide logits. A call that asks for more than causal softmax attention is refused, so
that nothing is scored wrongly.
"""

import contextlib
import copy
import logging
import re
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, cast

import torch
import transformers
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_MAPPING,
    AttentionInterface,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from longattn.attention import attend
from longattn.errors import ModelError
from longattn.models.base import Heads, LayerAttention, Model, Predictions, Visit, check_finite, check_tokens
from longattn.models.checkpoint import Checkpoint
from longattn.models.configuration import max_positions
from longattn.models.first_layer import FAMILIES
from longattn.models.query_scale import scale_queries
from longattn.models.weights import LocalWeights

HEAD_ROWS = {"cpu": 192}
"""Positions whose logits are held at once, 256 unless said otherwise: a processor is faster while they are few enough
for its caches, and for the allocator to use the same memory again."""
WIDE_ROWS = {"cpu": 4}
"""Positions of which they are float32 at once, all unless said otherwise: what a processor goes through four times
should stay in its caches."""
_INTERFACE, _GENERATING = "longattn", "longattn_generating"
_MAX_TABLES = 2**28
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
    head: nn.Module | None = field(repr=False)
    """Makes logits of the last hidden states; None if no prediction will be asked for."""

    @torch.inference_mode()
    def queries_and_keys(
        self,
        tokens: Int[Tensor, "B T"],
        layers: Sequence[int],
        visit: Visit,
        rows: Int[Tensor, " R"] | None = None,
    ) -> None:
        """Run the model up to the attention of the last asked layer."""
        if not layers:
            raise ValueError("layers must name at least one layer")
        self._run(self._checked(tokens, layers), _Pending(set(layers), visit, self._place(rows), ends=True))

    @torch.inference_mode()
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
        """Run the whole model; the head sees a few positions at a time, so that memory does not grow with T x V."""
        if self.head is None:
            raise ValueError("the model was loaded without its head, for attention alone")
        if not 1 <= first < tokens.shape[1]:
            raise ValueError(f"first must be from 1 to {tokens.shape[1] - 1}, the last token, got {first}")
        if not 0 <= shared < first:
            raise ValueError(f"shared must be from 0 to {first - 1}, before the first token predicted, got {shared}")
        if shared and (layers or not bool((tokens[:, :shared] == tokens[:1, :shared]).all())):
            raise ValueError("shared tokens must be the same in all rows, and no layer can be visited beside them")
        masked = self._by_layer(masked_heads)
        pending = _Pending(set(layers), visit or _ignore, self._place(rows), masked)
        tokens = self._checked(tokens, layers)
        return self._predict(tokens, first, pending, shared if shared and self._can_share else 0)

    @cached_property
    def _can_share(self) -> bool:
        """Whether keys and values are all that tokens need of those before them, and the model takes positions.

        Found out on a few tokens: not so where a layer has another memory than attention. Where the rotation of all
        tokens depends on how many there are, those before would be turned otherwise than in a whole row.
        """
        rope = getattr(self.module.config, "rope_parameters", None) or {}
        if rope.get("rope_type") in ("dynamic", "longrope"):
            return False
        tokens = torch.arange(min(6, self.window, self.vocab_size), device=self.device)[None].repeat(2, 1)
        if tokens.shape[1] < 4:
            return False
        tokens[1, 2:] = tokens[0, 2:].flip(0)
        try:
            once = self._predict(tokens, 3, _Pending(set(), _ignore, None), 2).log_probs
        except (TypeError, ValueError, RuntimeError, ModelError):
            return False
        each = self._predict(tokens, 3, _Pending(set(), _ignore, None)).log_probs
        return torch.allclose(once, each, rtol=1e-3, atol=1e-2)

    def _predict(self, tokens: Int[Tensor, "B T"], first: int, pending: "_Pending", shared: int = 0) -> Predictions:
        """Predictions of tokens of any number, on the model's device."""
        assert self.head is not None, "loaded to predict"
        if shared:
            before = replace(pending, kept={})
            self._run(tokens[:1, :shared], before)
            hidden_BTC = self._run(tokens[:, shared:], replace(pending, before=before.kept), begins=shared)
        else:
            hidden_BTC = self._run(tokens, pending)
        assert hidden_BTC is not None, "nothing ends this forward pass early"
        wanted = tokens[:, first:].long()
        log_probs, hits = (
            wanted.new_empty(wanted.shape, dtype=torch.float32),
            torch.empty_like(wanted, dtype=torch.bool),
        )
        at_once = HEAD_ROWS.get(self.device.type, 256)
        wide = WIDE_ROWS.get(self.device.type, at_once)
        for b, window in enumerate(wanted):
            for start in range(0, len(window), at_once):
                part = slice(start, start + at_once)
                logits_NV = self.head(hidden_BTC[b, first - shared - 1 : -1][part])
                for few in range(0, len(logits_NV), wide):
                    logits_nV = logits_NV[few : few + wide].float()
                    rows = slice(start + few, start + few + len(logits_nV))
                    log_probs[b, rows] = logits_nV.log_softmax(1).gather(1, window[rows, None])[:, 0]
                    hits[b, rows] = logits_nV.argmax(1) == window[rows]
        return Predictions(log_probs, hits)

    def _by_layer(self, heads: Heads) -> dict[int, list[int]]:
        """Heads of each layer; ``ValueError`` for one that the model does not have."""
        depth, width = self.module.config.num_hidden_layers, self.module.config.num_attention_heads
        found: dict[int, list[int]] = {}
        for layer, head in sorted(heads):
            if not (0 <= layer < depth and 0 <= head < width):
                raise ValueError(
                    f"heads must be from (0, 0) to ({depth - 1}, {width - 1}), (layer, head), got {(layer, head)}"
                )
            found.setdefault(layer, []).append(head)
        return found

    def _place(self, rows: Int[Tensor, " R"] | None) -> Int[Tensor, " R"] | None:
        return None if rows is None else rows.to(self.device)

    def _checked(self, tokens: Int[Tensor, "B T"], layers: Sequence[int]) -> Int[Tensor, "B T"]:
        """The tokens on the model's device; ``ValueError`` for tokens or layers that it was not loaded for."""
        depth = self.module.config.num_hidden_layers
        if layers and not 0 <= min(layers) <= max(layers) < depth:
            raise ValueError(f"layers must be from 0 to {depth - 1}, as loaded, got {list(layers)}")
        tokens = tokens.to(self.device)
        check_tokens(self, tokens)
        rope = getattr(self.module.config, "rope_parameters", None) or {}
        if rope.get("rope_type") == "dynamic" and tokens.shape[1] != self.window:
            raise ValueError(
                f"with dynamic scaling windows must have exactly {self.window} tokens, got {tokens.shape[1]}"
            )
        return tokens

    def _run(self, tokens: Int[Tensor, "B T"], pending: "_Pending", begins: int = 0) -> Float[Tensor, "B T C"] | None:
        """The last hidden states of tokens from position ``begins`` on, or None if the pass ended before them."""
        length = tokens.shape[1]
        places = {"position_ids": torch.arange(begins, begins + length, device=self.device)[None]} if begins else {}
        reset = _PENDING.set(pending)
        hidden = None
        try:
            with contextlib.suppress(_Finished):
                hidden = self.module(input_ids=tokens.long(), use_cache=False, **places)[0]
        except ModelError as error:
            raise ModelError(f"{self.name}: {error}") from error
        finally:
            _PENDING.reset(reset)
        if pending.layers:
            raise ModelError(f"{self.name}: layers {sorted(pending.layers)} have no attention that can be read")
        return hidden

    @torch.inference_mode()
    def check(self, layers: Sequence[int]) -> None:
        """Raise ``ModelError`` if attention of these layers is refused; two tokens are enough to find out."""
        self._run(
            torch.zeros(1, 2, dtype=torch.int64, device=self.device), _Pending(set(layers), _ignore, None, ends=True)
        )


def load_any_layer(
    checkpoint: Checkpoint,
    config: PreTrainedConfig,
    *,
    layers: Sequence[int],
    predicts: bool = False,
    window: int,
    device: torch.device,
    dtype: torch.dtype,
) -> AnyLayer:
    """Load the model; if it need not predict, without its head and, where that is known to be safe, deeper layers.

    Raises ``ModelError`` for a model that is not a causal language model, that does not use the attention
    functions of ``transformers``, whose head does more than multiply, or whose checkpoint lacks tensors.
    """
    num_layers = config.num_hidden_layers
    if config.model_type in FAMILIES and not predicts:
        _shorten(config, max(layers) + 1)
    whole = cast("Any", _load_module(checkpoint, config, dtype, predicts).eval()).to(device)
    check_finite(checkpoint.name, dict(whole.named_parameters()))
    module = whole.base_model if predicts else whole
    loaded = AnyLayer(
        name=checkpoint.name,
        hash=checkpoint.hash,
        num_layers=num_layers,
        vocab_size=cast("nn.Embedding", module.get_input_embeddings()).num_embeddings,
        max_positions=max_positions(config),
        window=window,
        device=device,
        dtype=dtype,
        module=module,
        head=whole.get_output_embeddings() if predicts else None,
    )
    loaded.check(layers)
    if predicts:
        _check_head(loaded, whole)
    return loaded


@torch.inference_mode()
def _check_head(loaded: AnyLayer, whole: PreTrainedModel) -> None:
    """Raise ``ModelError`` if the model's own logits are not the head's, because it scales or caps them."""
    tokens = torch.arange(min(8, loaded.window, loaded.vocab_size), device=loaded.device)[None]
    # a few tokens, where dynamic scaling lets only whole windows be asked for
    mine = loaded._predict(tokens, 1, _Pending(set(), _ignore, None)).log_probs
    pending = _PENDING.set(_Pending(set(), _ignore, None))
    try:
        logits = cast("Any", whole)(input_ids=tokens, use_cache=False).logits.float()
    finally:
        _PENDING.reset(pending)
    own = logits[:, :-1].log_softmax(-1).gather(2, tokens[:, 1:, None])[..., 0]
    if not torch.allclose(mine, own, rtol=1e-3, atol=1e-2):
        raise ModelError(f"{loaded.name}: its logits are more than its head's product, predictions would be wrong")


def load_generating(
    checkpoint: Checkpoint, config: PreTrainedConfig, *, device: torch.device, dtype: torch.dtype
) -> PreTrainedModel:
    """The whole model as ``transformers`` runs it, with its own attention and cache, to continue texts with.

    Raises ``ModelError`` for what :func:`load_any_layer` refuses of a checkpoint.
    """
    AttentionInterface.register(_GENERATING, _attend_generating)
    AttentionMaskInterface.register(_GENERATING, sdpa_mask)
    module = _load_module(checkpoint, config, dtype, predicts=True, attention=_GENERATING)
    check_finite(checkpoint.name, dict(module.named_parameters()))
    return cast("Any", module.eval()).to(device)


def _load_module(
    checkpoint: Checkpoint, config: PreTrainedConfig, dtype: torch.dtype, predicts: bool, attention: str = _INTERFACE
) -> PreTrainedModel:
    kind = type(config)
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING or kind not in MODEL_MAPPING:
        raise ModelError(f"{checkpoint.name}: transformers has no causal language model {config.model_type!r}")
    model_class = cast("type[PreTrainedModel]", (MODEL_FOR_CAUSAL_LM_MAPPING if predicts else MODEL_MAPPING)[kind])
    if not model_class._supports_attention_backend:
        raise ModelError(f"{checkpoint.name}: the attention of {config.model_type!r} models cannot be read")
    weights = checkpoint.weights.fetch(_needed(checkpoint, config, predicts))
    _check_size(checkpoint, model_class, config, weights)
    AttentionInterface.register(_INTERFACE, _attend)
    AttentionMaskInterface.register(_INTERFACE, _no_mask)
    return filled(model_class, checkpoint.name, weights, config, dtype, attention)


def filled(
    model_class: Any,
    name: str,
    weights: LocalWeights,
    config: PreTrainedConfig,
    dtype: torch.dtype,
    attention: str | None,
) -> PreTrainedModel:
    """A model of ``transformers`` with every tensor of its files. Raises ``ModelError`` for files that lack some."""
    with quiet():
        module, report = model_class.from_pretrained(
            weights.folder,
            config=config,
            dtype=dtype,
            attn_implementation=attention,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    # transformers fills in random numbers
    if absent := sorted(report["missing_keys"]) + sorted(str(key) for key in report["mismatched_keys"]):
        raise ModelError(f"{name}: lacking, or of another shape: {', '.join(absent[:5])}")
    scale_queries(module)
    return module


def _check_size(
    checkpoint: Checkpoint, model_class: type[PreTrainedModel], config: PreTrainedConfig, weights: LocalWeights
) -> None:
    """Raise ``ModelError`` for a config that describes a much larger model than the files hold, before one is made."""
    with torch.device("meta"), quiet():
        described = cast("Any", model_class)(copy.deepcopy(config))
    wanted = sum(parameter.numel() for parameter in described.parameters())
    # an embedding that is also the head stands once in a file
    if wanted > 2 * (held := weights.num_values()):
        raise ModelError(f"{checkpoint.name}: config.json describes {wanted} numbers, the files hold {held}")
    if (tables := sum(buffer.numel() for buffer in described.buffers())) > max(_MAX_TABLES, held):
        raise ModelError(f"{checkpoint.name}: config.json describes tables of {tables} numbers")


def _shorten(config: PreTrainedConfig, depth: int) -> None:
    """Leave out the layers beyond ``depth``."""
    config.num_hidden_layers = depth
    for name in ("layer_types", "no_rope_layers"):
        if per_layer := getattr(config, name, None):
            setattr(config, name, per_layer[:depth])


def _needed(checkpoint: Checkpoint, config: PreTrainedConfig, predicts: bool) -> list[str]:
    """The checkpoint's tensors without layers, and without a head, that are not loaded."""
    names = [name for name in checkpoint.weights.names if predicts or not name.startswith("lm_head.")]
    layer = {name: re.search(r"(?:^|\.)layers\.(\d+)\.", name) for name in names}
    return [name for name, found in layer.items() if found is None or int(found[1]) < config.num_hidden_layers]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
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
    masked: dict[int, list[int]] = field(default_factory=dict)
    """Heads of each layer that attend to all their keys alike."""
    ends: bool = False
    """Whether the forward pass ends when the last of the layers has been shown."""
    kept: dict[int, tuple[Tensor, Tensor]] | None = None
    """Where each layer's keys and values are put down, rotated, for those who come after these tokens."""
    before: dict[int, tuple[Tensor, Tensor]] | None = None
    """Keys and values of the tokens before all rows of the batch."""


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
    layer = cast("int", module.layer_idx)
    if pending.kept is not None:
        pending.kept[layer] = (key, value)
    if pending.before is not None:
        old_key, old_value = (tensor.expand(len(key), -1, -1, -1) for tensor in pending.before[layer])
        key, value = torch.cat([old_key, key], 2), torch.cat([old_value, value], 2)
    _check_call(module, key.shape[2], attention_mask, options)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if layer in pending.layers:
        rows = torch.arange(query.shape[2], device=query.device) if pending.rows is None else pending.rows
        q = query.transpose(1, 2)
        q = q if pending.rows is None else q[:, rows]
        pending.visit(LayerAttention(layer, q, key.transpose(1, 2), scale, rows))
        pending.layers.remove(layer)
    if pending.ends and not pending.layers:
        raise _Finished
    output_BTHV = attend(*(tensor.transpose(1, 2) for tensor in (query, key, value)), scale=scale)
    for head in pending.masked.get(layer, ()):
        means_BTV = _mean_so_far(value[:, head * value.shape[1] // query.shape[1]])
        output_BTHV[:, :, head] = means_BTV[:, -query.shape[2] :]
    return output_BTHV.contiguous(), None


def _mean_so_far(value: Float[Tensor, "B T V"]) -> Float[Tensor, "B T V"]:
    """What a head passes on that attends to all its keys alike."""
    count = torch.arange(1, value.shape[1] + 1, device=value.device)
    return (value.float().cumsum(1) / count[:, None]).to(value.dtype)


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


def _attend_generating(
    module: nn.Module,
    query: Float[Tensor, "B H T K"],
    key: Float[Tensor, "B G S K"],
    value: Float[Tensor, "B G S V"],
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Float[Tensor, "B T H V"], None]:
    """``transformers``' own, by the faster of its two ways for one query where query heads share key heads.

    With a mask it makes the query heads of a key head the rows of one product; without one it leaves sharing to torch,
    which on CPUs goes through the keys of each query head by itself: six times as long in bfloat16.
    """
    if attention_mask is None and query.shape[2] == 1 and query.device.type == "cpu":
        attention_mask = torch.ones(1, 1, 1, key.shape[2], dtype=torch.bool)
    return ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, attention_mask, **options)


def _no_mask(*, kv_length: int, local_size: int | None = None, allow_is_causal_skip: bool = False, **_: Any) -> None:
    """The mask function that ``transformers`` calls in place of its own: a causal mask need not be built."""
    if not allow_is_causal_skip or (local_size is not None and local_size < kv_length):
        raise ModelError("the model uses a mask that is not the causal one")
