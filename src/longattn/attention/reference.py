"""The formula in float64: every other kernel is tested against this one."""

from itertools import pairwise

import torch
from torch import Tensor


def row_moments(
    q_BRHK: Tensor, k_BTGK: Tensor, positions_R: Tensor, distances: list[int], skip_first: int, scale: float
) -> tuple[Tensor, Tensor]:
    """Mass and square, each float64 [B, H, R, D], from the full attention map."""
    num_keys, heads_per_key = k_BTGK.shape[1], q_BRHK.shape[2] // k_BTGK.shape[2]
    k_BTHK = k_BTGK.double().repeat_interleave(heads_per_key, dim=2)
    logits_BHRT = torch.einsum("brhk,bthk->bhrt", q_BRHK.double(), k_BTHK) * scale

    row_R1, key_T = positions_R[:, None], torch.arange(num_keys, device=k_BTGK.device)
    p_BHRT = logits_BHRT.masked_fill(key_T > row_R1, -torch.inf).softmax(-1)

    far_DRT = torch.stack([(key_T >= skip_first) & (key_T <= row_R1 - d) for d in distances]).double()
    mass_BHRD = torch.einsum("bhrt,drt->bhrd", p_BHRT, far_DRT)
    square_BHRD = torch.einsum("bhrt,drt->bhrd", p_BHRT.square(), far_DRT)
    return mass_BHRD, square_BHRD


def span_mass(q_BRHK: Tensor, k_BTGK: Tensor, limits_R: Tensor, edges: list[int], scale: float) -> Tensor:
    """Mass on spans of keys, float64 [B, H, R, S], from the full attention map."""
    k_BTHK = k_BTGK.double().repeat_interleave(q_BRHK.shape[2] // k_BTGK.shape[2], dim=2)
    logits_BHRT = torch.einsum("brhk,bthk->bhrt", q_BRHK.double(), k_BTHK) * scale

    key_T = torch.arange(k_BTGK.shape[1], device=k_BTGK.device)
    p_BHRT = logits_BHRT.masked_fill(key_T >= limits_R[:, None], -torch.inf).softmax(-1)

    in_span_ST = torch.stack([(key_T >= a) & (key_T < b) for a, b in pairwise(edges)]).double()
    return torch.einsum("bhrt,st->bhrs", p_BHRT, in_span_ST)
