"""Queries scaled by the logarithm of their position, where a config.json asks for entropy-aware ABF.

``transformers`` has no such thing, so it is done to the loaded model: measured, trained and evaluated alike.
"""

import math
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from longattn.errors import ModelError
from longattn.models.checkpoint import ENTROPY


def scale_queries(model: PreTrainedModel) -> int:
    """Let a model scale its queries as its config.json asks for entropy-aware ABF; returns the layers that do.

    Changes nothing, and returns 0, where it does not ask. The queries of a layer at position i, 0-based within its
    document, are multiplied by max(1, ln(i + 1) / ln(c)); rotating them commutes with that. Raises ``ModelError`` for
    layers whose queries are not made by a module of their own.
    """
    rule: dict[str, Any] | None = getattr(model.config, ENTROPY, None)
    if rule is None:
        return 0
    attentions = [module for name, module in model.named_modules() if name.endswith(".self_attn")]
    scaled = attentions[rule["unscaled_layers"] :]
    for attention in scaled:
        # a norm of the queries would take the factor out again
        queries = getattr(attention, "q_norm", None) or getattr(attention, "q_proj", None)
        if not isinstance(queries, nn.Module):
            raise ModelError(f"queries of {type(attention).__name__} cannot be scaled: it has no q_proj")
        _QueryScale(rule["window"]).attach(attention, queries)
    return len(scaled)


class _QueryScale:
    """Hooks of one layer: what its positions are, then its queries multiplied."""

    def __init__(self, window: int) -> None:
        self._log_window = math.log(window)
        self._positions: torch.Tensor | None = None

    def attach(self, attention: nn.Module, queries: nn.Module) -> None:
        attention.register_forward_pre_hook(self._see, with_kwargs=True)
        queries.register_forward_hook(self._scale)

    def _see(self, attention: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        self._positions = named["position_ids"]

    def _scale(self, module: nn.Module, arguments: tuple[Any, ...], queries: torch.Tensor) -> torch.Tensor:
        assert self._positions is not None
        factor = (torch.log(self._positions.double() + 1) / self._log_window).clamp(min=1.0).to(queries.dtype)
        # [B, T, H·K] of a projection, [B, T, H, K] of a norm
        return queries * factor.reshape(*factor.shape, *[1] * (queries.dim() - factor.dim()))
