"""Shifted sparse attention (S²-Attn): attention within groups of neighbours, for training alone.

LongLoRA (arXiv 2309.12307, section 3.2) cuts a window into groups of G tokens; half of the heads see the groups from
the window's beginning, the other half groups that begin G / 2 tokens later, so that what one half tells apart the other
joins. The paper's code shifts by rolling queries and keys, which puts the window's end and its beginning into one
group, and its causal mask counts places in the group: tokens of the beginning then see those of the end, their own
future. Here nothing is rolled. Shifted groups are those of the window itself: half a group, whole ones, the rest.
"""

from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from longattn.errors import ModelError

_HARMLESS = {
    "cache_position",
    "is_causal",
    # what the Trainer divides a loss by
    "num_items_in_batch",
    "position_embeddings",
    "position_ids",
    "sliding_window",
    "use_cache",
}


def shifted_name(groups: int) -> str:
    """The name, for ``attn_implementation``, of this attention with ``groups`` groups; registers it."""
    name = f"longattn_shifted_{groups}"
    AttentionInterface.register(name, partial(_attend, groups=groups))
    AttentionMaskInterface.register(name, sdpa_mask)
    return name


def shifted_attention(
    query: Float[Tensor, "B H T K"],
    key: Float[Tensor, "B G T K"],
    value: Float[Tensor, "B G T V"],
    *,
    group: int,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, "B H T V"]:
    """Causal attention within groups of ``group`` tokens; the groups of the second half of the heads are shifted.

    A last group may be shorter. With one group (``group`` at least T) nothing is shifted: it is full attention.
    """
    heads = query.shape[1]
    # half of the heads is in general no whole number of key heads
    key, value = (each.repeat_interleave(heads // each.shape[1], dim=1) for each in (key, value))
    apart = heads // 2
    parts = [slice(0, apart), slice(apart, heads)]
    firsts = [group, group if group >= query.shape[2] else max(group // 2, 1)]
    found = [
        _within_groups(query[:, part], key[:, part], value[:, part], first, group, scale, dropout)
        for part, first in zip(parts, firsts, strict=True)
    ]
    return torch.cat(found, dim=1)


def _within_groups(
    query: Float[Tensor, "B H T K"],
    key: Float[Tensor, "B H T K"],
    value: Float[Tensor, "B H T V"],
    first: int,
    group: int,
    scale: float | None,
    dropout: float,
) -> Float[Tensor, "B H T V"]:
    """Attention within a first group of ``first`` tokens and groups of ``group`` tokens behind it."""
    length = query.shape[2]
    first = min(first, length)
    whole = (length - first) // group
    borders = [0, first, first + whole * group, length]
    found = []
    for begin, end, size in zip(borders, borders[1:], (first, group, group), strict=False):
        if begin == end:
            continue
        # groups of one size become windows of their own; the rest is one that is shorter
        parts = [
            each[:, :, begin:end].unflatten(2, (-1, min(size, end - begin))).transpose(1, 2).flatten(0, 1)
            for each in (query, key, value)
        ]
        out = scaled_dot_product_attention(*parts, dropout_p=dropout, is_causal=True, scale=scale)
        found.append(out.unflatten(0, (query.shape[0], -1)).transpose(1, 2).flatten(2, 3))
    return torch.cat(found, dim=2)


def _attend(
    module: nn.Module,
    query: Float[Tensor, "B H T K"],
    key: Float[Tensor, "B G S K"],
    value: Float[Tensor, "B G S V"],
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    *,
    groups: int,
    **options: Any,
) -> tuple[Float[Tensor, "B T H V"], None]:
    """The attention function that ``transformers`` calls: full attention but for training."""
    if not module.training:
        full = ALL_ATTENTION_FUNCTIONS["sdpa"]
        return full(module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **options)
    length, reach = query.shape[2], options.get("sliding_window")
    used = {name for name, value in options.items() if value is not None and value is not False} - _HARMLESS
    if attention_mask is not None or key.shape[2] != length or used or (reach is not None and reach < length):
        raise ModelError(f"{type(module).__name__} asks for more than causal attention, which cannot be shifted")
    group = -(-length // groups)
    out = shifted_attention(query, key, value, group=group, scale=scaling, dropout=dropout)
    return out.transpose(1, 2).contiguous(), None
