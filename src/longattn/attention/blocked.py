"""Row moments on any torch device, a tile of query rows and keys at a time: no square of the length is ever held."""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

TILE_KEYS = 1024
TILE_ELEMENTS = 2**19
"""Logits of one tile: 2 MB in float32, which stay in the cache between the passes over them."""


def row_moments(
    q_BRHK: Tensor, k_BTGK: Tensor, positions_R: Tensor, distances: list[int], skip_first: int, scale: float
) -> tuple[Tensor, Tensor]:
    """Mass and square, each float64 [B, H, R, D]; sums within a tile in float32, across tiles in float64."""
    working = torch.promote_types(torch.promote_types(q_BRHK.dtype, k_BTGK.dtype), torch.float32)
    # float64 does not exist on every device
    wide = working if q_BRHK.device.type == "mps" else torch.float64
    (B, R, H, _), G = q_BRHK.shape, k_BTGK.shape[2]
    mass_BHRD, square_BHRD = (q_BRHK.new_empty(B, H, R, len(distances), dtype=wide) for _ in range(2))
    order_R = positions_R.argsort()
    sorted_R = positions_R[order_R]
    rows_per_tile = max(1, TILE_ELEMENTS // (TILE_KEYS * (H // G)))

    for b in range(B):
        for g in range(G):
            # queries that share a key head sit side by side, so keys are read once and never copied
            heads = slice(g * (H // G), (g + 1) * (H // G))
            k_TK = k_BTGK[b, :, g].to(working)
            for start in range(0, R, rows_per_tile):
                rows_r = order_R[start : start + rows_per_tile]
                rows = _Rows(sorted_R[start : start + rows_per_tile], distances, skip_first)
                # base-2 logits: torch's exp2 is several times as fast as its exp
                q_hrK = (q_BRHK[b, rows_r, heads].to(working) * (scale * math.log2(math.e))).transpose(0, 1)
                total_hr1, far_hrd, squares_hrd = rows.moments(q_hrK, k_TK, wide)
                mass_BHRD[b, heads, rows_r] = far_hrd / total_hr1
                square_BHRD[b, heads, rows_r] = squares_hrd / total_hr1.square()
    if wide == torch.float64:
        return mass_BHRD, square_BHRD
    return mass_BHRD.cpu().double(), square_BHRD.cpu().double()


@dataclass
class _Rows:
    """Some query rows, by ascending position, and what is asked of them."""

    positions: Tensor
    distances: list[int]
    skip_first: int

    def moments(self, q_hrK: Tensor, k_TK: Tensor, wide: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """Normaliser [h, r, 1] and far sums of exponentials and of their squares [h, r, d], by online softmax.

        Logits are in base 2.
        """
        first, last = int(self.positions[0]), int(self.positions[-1])
        h, r, _ = q_hrK.shape
        q_mK = q_hrK.reshape(h * r, -1)
        # memory of one tile for all of them: fresh pages from the system cost nearly as much as the product
        tile, ragged = (q_mK.new_empty(h * r * min(TILE_KEYS, last + 1)) for _ in range(2))
        peak_hr1 = q_hrK.new_full((h, r, 1), -torch.inf)
        total_hr1 = q_hrK.new_zeros(h, r, 1, dtype=wide)
        far_hrd, squares_hrd = (q_hrK.new_zeros(h, r, len(self.distances), dtype=wide) for _ in range(2))
        for start in range(0, last + 1, TILE_KEYS):
            stop = min(start + TILE_KEYS, last + 1)
            e_mt = tile[: h * r * (stop - start)].view(h * r, stop - start)
            e_hrt = torch.mm(q_mK, k_TK[start:stop].T, out=e_mt).view(h, r, stop - start)
            if stop > first + 1:
                self._mask_future(e_hrt, start, stop, first)
            higher_hr1 = torch.maximum(peak_hr1, e_hrt.amax(-1, keepdim=True))
            e_hrt.sub_(higher_hr1).exp2_()
            shrink_hr1 = (peak_hr1 - higher_hr1).exp2().to(wide)
            peak_hr1 = higher_hr1
            total_hr1 = total_hr1 * shrink_hr1 + e_hrt.sum(-1, keepdim=True)
            sums_hrd, square_sums_hrd = self._far_sums(e_hrt, ragged, start, stop, first, last)
            far_hrd = far_hrd * shrink_hr1 + sums_hrd
            squares_hrd = squares_hrd * shrink_hr1.square() + square_sums_hrd
        return total_hr1, far_hrd, squares_hrd

    def _mask_future(self, logits_hrt: Tensor, start: int, stop: int, first: int) -> None:
        """Take keys after a row out of its softmax; only keys after the first row need a look."""
        low = max(start, first + 1)
        key_t = torch.arange(low, stop, device=logits_hrt.device)
        logits_hrt[..., low - start :].masked_fill_(key_t > self.positions[:, None], -torch.inf)

    def _far_sums(
        self, e_hrt: Tensor, ragged: Tensor, start: int, stop: int, first: int, last: int
    ) -> tuple[Tensor, Tensor]:
        """Sums of a tile's values and of their squares, [h, r, d] each, over the keys far for each row and distance.

        The keys before a cut are far for every row: one pass over the segments between cuts serves all distances.
        What lies between the cut and the last row's own border is ragged, and masked into the memory ``ragged``.
        """
        low = min(max(start, self.skip_first), stop)
        cuts = [min(max(first - d + 1, low), stop) for d in self.distances]
        nothing_hr = torch.zeros_like(e_hrt[..., 0])
        until = {low: (nothing_hr, nothing_hr)}
        for left, right in pairwise(sorted({low, *cuts})):
            until[right] = _add(until[left], e_hrt[..., left - start : right - start])
        sums = []
        for distance, cut in zip(self.distances, cuts, strict=True):
            border = min(max(last - distance + 1, cut), stop)
            total = until[cut]
            if border > cut:
                some_hrt = e_hrt[..., cut - start : border - start]
                far_rt = torch.arange(cut + distance, border + distance, device=e_hrt.device) <= self.positions[:, None]
                masked_hrt = ragged[: some_hrt.numel()].view(some_hrt.shape)
                total = _add(total, torch.mul(some_hrt, far_rt, out=masked_hrt))
            sums.append(total)
        far, squares = zip(*sums, strict=True)
        return torch.stack(far, -1), torch.stack(squares, -1)


def _add(sums: tuple[Tensor, Tensor], e_hrt: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of values and of squares [h, r], with some keys added; a norm squares without writing the squares."""
    far_hr, squares_hr = sums
    return far_hr + e_hrt.sum(-1), squares_hr + torch.linalg.vector_norm(e_hrt, dim=-1).square()
