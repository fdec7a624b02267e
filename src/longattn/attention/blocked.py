"""Row moments on any torch device, a block of query rows at a time: memory grows with the keys, not their square."""

from itertools import pairwise

import torch
from torch import Tensor

BLOCK_ELEMENTS = 2**19
"""Logits held at once; 2 MB in float32, which stay in the cache between the passes over a block."""


def row_moments(
    q_BRHK: Tensor, k_BTGK: Tensor, positions_R: Tensor, distances: list[int], skip_first: int, scale: float
) -> tuple[Tensor, Tensor]:
    """Mass and square, each float64 [B, H, R, D]; sums over a block of keys in float32, quotients in float64."""
    working = torch.promote_types(torch.promote_types(q_BRHK.dtype, k_BTGK.dtype), torch.float32)
    (B, R, H, _), G = q_BRHK.shape, k_BTGK.shape[2]
    order_R = positions_R.argsort()
    sorted_positions = positions_R[order_R].tolist()
    totals_BHR1 = q_BRHK.new_empty(B, H, R, 1, dtype=working)
    far_BHRD, squares_BHRD = (q_BRHK.new_empty(B, H, R, len(distances), dtype=working) for _ in range(2))

    for b in range(B):
        for g in range(G):
            # queries that share a key head sit side by side, so keys are read once and never copied
            heads = slice(g * (H // G), (g + 1) * (H // G))
            k_TK = k_BTGK[b, :, g].to(working)
            for rows in _blocks(sorted_positions, H // G):
                rows_r, positions = order_R[rows], sorted_positions[rows]
                q_hrK = (q_BRHK[b, rows_r, heads].to(working) * scale).transpose(0, 1)
                l_hr, f_hrd, g_hrd = _block_moments(q_hrK, k_TK, positions, distances, skip_first)
                totals_BHR1[b, heads, rows_r, 0] = l_hr
                far_BHRD[b, heads, rows_r] = f_hrd
                squares_BHRD[b, heads, rows_r] = g_hrd

    # float64 does not exist on every device (MPS)
    device = totals_BHR1.device if totals_BHR1.device.type != "mps" else "cpu"
    totals = totals_BHR1.to(device, torch.float64)
    return far_BHRD.to(device, torch.float64) / totals, squares_BHRD.to(device, torch.float64) / totals.square()


def _blocks(sorted_positions: list[int], heads: int) -> list[slice]:
    """Runs of rows whose logits fit the block size; the bounds depend on nothing but the rows and the heads."""
    blocks, start = [], 0
    while start < len(sorted_positions):
        stop = start + 1
        while (
            stop < len(sorted_positions) and (stop + 1 - start) * heads * (sorted_positions[stop] + 1) <= BLOCK_ELEMENTS
        ):
            stop += 1
        blocks.append(slice(start, stop))
        start = stop
    return blocks


def _block_moments(
    q_hrK: Tensor, k_TK: Tensor, positions: list[int], distances: list[int], skip_first: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Softmax normaliser [h, r] and far sums of exponentials and of their squares [h, r, d] for sorted rows."""
    first, last = positions[0], positions[-1]
    row_r1 = torch.tensor(positions, device=q_hrK.device)[:, None]
    e_hrt = q_hrK @ k_TK[: last + 1].T
    if last > first:
        key_t = torch.arange(first + 1, last + 1, device=q_hrK.device)
        e_hrt[..., first + 1 :].masked_fill_(key_t > row_r1, -torch.inf)
    e_hrt.sub_(e_hrt.amax(-1, keepdim=True)).exp_()
    squares_hrt = e_hrt.square()

    # the keys before a cut are far for every row of the block: one pass over the segments between cuts serves all
    # distances. What lies between the cut and the last row's own border is ragged and masked by hand.
    cuts = [min(max(first - d + 1, skip_first), last + 1) for d in distances]
    edges = sorted({min(skip_first, last + 1), *cuts})
    far, squares = {edges[0]: torch.zeros_like(e_hrt[..., 0])}, {edges[0]: torch.zeros_like(e_hrt[..., 0])}
    for low, high in pairwise(edges):
        far[high] = far[low] + e_hrt[..., low:high].sum(-1)
        squares[high] = squares[low] + squares_hrt[..., low:high].sum(-1)

    f_hrd, g_hrd = [], []
    for distance, cut in zip(distances, cuts, strict=True):
        border = max(last - distance + 1, cut)
        ragged_rt = torch.arange(cut, border, device=q_hrK.device) <= row_r1 - distance
        f_hrd.append(far[cut] + (e_hrt[..., cut:border] * ragged_rt).sum(-1))
        g_hrd.append(squares[cut] + (squares_hrt[..., cut:border] * ragged_rt).sum(-1))
    return e_hrt.sum(-1), torch.stack(f_hrd, -1), torch.stack(g_hrd, -1)
