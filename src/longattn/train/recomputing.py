"""Decide what a layer keeps for its backward pass: what attention gave; all else is computed again.

Attention's time grows with the square of the window and what it gives with the window alone, so of all that a layer
could keep it saves most time for its memory (selective activation checkpointing).
"""

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch.utils.checkpoint import create_selective_checkpoint_contexts

_ATTENTION = [
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.aten._scaled_dot_product_cudnn_attention.default,
]
"""What ``scaled_dot_product_attention`` becomes, by device. An attention that is none of these is computed again."""


def keep_attention() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """The ``context_fn`` of ``torch.utils.checkpoint`` for a layer: for its forward pass, and for the second one."""
    return create_selective_checkpoint_contexts(_ATTENTION)
