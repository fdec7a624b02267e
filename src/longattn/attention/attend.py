"""Causal attention itself, for forward passes: by the compiled library on CPUs, by torch elsewhere."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from longattn.attention import native


def attend(
    q: Float[Tensor, "B R H K"], k: Float[Tensor, "B T G K"], v: Float[Tensor, "B T G V"], scale: float
) -> Float[Tensor, "B R H V"]:
    """Softmax of ``scale * q·k`` over the keys up to each row's own, times their values; in the type of the inputs.

    The rows are those of the last R of the T tokens.

    On a CPU the native kernel answers where it was built and no gradient is wanted, since torch's own takes several
    times as long there. Both sum in float32 or wider, and round weights to the type of the values.

    >>> q = torch.zeros(1, 2, 1, 1)
    >>> attend(q, q, torch.tensor([1.0, 3.0]).reshape(1, 2, 1, 1), scale=1.0).flatten().tolist()
    [1.0, 2.0]
    """
    wants_gradient = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (q, k, v))
    if not wants_gradient and native.suits(q, k, v):
        return native.attend(q, k, v, torch.arange(k.shape[1] - q.shape[1], k.shape[1]), scale)
    query, key, value = (tensor.transpose(1, 2) for tensor in (q, k, v))
    rows, keys = q.shape[1], k.shape[1]
    # torch counts rows from the first token, whatever is before them
    mask = None if rows == keys else torch.ones(rows, keys, dtype=torch.bool, device=q.device).tril(keys - rows)
    output_BHRV = scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=q.shape[2] != k.shape[2]
    )
    return output_BHRV.transpose(1, 2)
