"""Rotary embeddings in a living model: the table that ``transformers`` makes, queries scaled by entropy-aware ABF."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from longattn.errors import ModelError
from longattn.train.rope import ENTROPY


def reader() -> str:
    """The installed ``transformers`` with its version."""
    return f"transformers {transformers.__version__}"


def rotary_table(folder: Path) -> npt.NDArray[np.float32]:
    """The inverse frequencies, [d/2], with which the installed ``transformers`` would run a checkpoint.

    The model is made without weights, and its rotary embedding once more with values. Raises ``ModelError`` for a model
    that has none.
    """
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    for module in model.modules():
        if "inv_freq" in dict(module.named_buffers(recurse=False)):
            return type(module)(config=config).inv_freq.numpy()
    raise ModelError(f"{folder}: transformers makes no rotary embedding of it")


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
        self._log_window = float(np.log(window))
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
