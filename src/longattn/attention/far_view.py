"""Far attention averaged over heads of any layers: who looks at what, pooled; no square of the length is held."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

TILE_ELEMENTS = 2**21
"""Logits held at once, at least one row of them for heads that share a key head: 8 MB in float32."""


class HeadSet(NamedTuple):
    """Heads of one layer that are averaged with those of the others, each counting alike."""

    q: Float[Tensor, "R H K"]
    k: Float[Tensor, "T G K"]
    scale: float
    heads: Sequence[int]
    """Of the H query heads, 0-based, each once."""


class FarView(NamedTuple):
    """Far attention p of query rows, mean over heads; far are the keys ``skip_first <= j <= n - distance``."""

    mass: Float[Tensor, " R"]
    """Sum over far keys of each row, float64."""
    received: Float[Tensor, " T"]
    """Sum over rows of what each far key gets, float64."""
    pooled: Float[Tensor, "M M"]
    """Sum over rows of each block (first axis) and far keys of each block (second), float64."""
    keys: Int[Tensor, "R C"]
    """Far candidates that get most of each row, strongest first, int64; -1 where there are no more."""
    weights: Float[Tensor, "R C"]
    """What they get, float32; 0 where there are no more."""


def far_view(
    layers: Sequence[HeadSet],
    *,
    positions: Int[Tensor, " R"],
    distance: int,
    skip_first: int = 0,
    edges: Sequence[int],
    candidates: Bool[Tensor, " T"],
    top: int,
) -> FarView:
    """Look at far attention of the query rows that stand at ``positions``, ascending, among the T keys.

    p(n, j) is the causal softmax over all keys ``j <= n``, averaged over the heads of all ``layers``. Block m holds the
    positions from ``edges[m]`` up to ``edges[m + 1]``; rows stand from ``edges[0]`` on. Only ``candidates`` can be
    among a row's ``top`` keys; sums count every far key. Works in at least float32, and adds up in float64.

    Raises ``ValueError`` for no heads, for a distance below 1, for positions that do not ascend within the edges, and
    for edges that do not ascend to T.
    """
    _check(layers, positions, distance, edges)
    device, T, R = layers[0].k.device, layers[0].k.shape[0], len(positions)
    # float64 does not exist on every device
    wide = torch.float32 if device.type == "mps" else torch.float64
    positions_R = positions.to(device)
    block_T = torch.bucketize(torch.arange(T, device=device), torch.tensor(edges[1:-1], device=device), right=True)
    mass_R, received_T = torch.zeros(R, dtype=wide, device=device), torch.zeros(T, dtype=wide, device=device)
    pooled_MM = torch.zeros(len(edges) - 1, len(edges) - 1, dtype=wide, device=device)
    keys_RC = torch.full((R, top), -1, dtype=torch.int64, device=device)
    weights_RC = torch.zeros(R, top, dtype=torch.float32, device=device)
    with torch.no_grad():
        mean = _Mean(layers)
        for rows in _tiles(positions_R, mean.heads_at_once):
            at_r = positions_R[rows]
            far_rt = mean.rows(rows, at_r)
            _keep_far(far_rt, at_r, distance, skip_first)
            t = far_rt.shape[1]
            mass_R[rows] = far_rt.sum(-1, dtype=wide)
            received_T[:t] += far_rt.sum(0, dtype=wide)
            blocks_rM = torch.stack([far_rt[:, a:b].sum(-1, dtype=wide) for a, b in pairwise(edges)], -1)
            pooled_MM.index_add_(0, block_T[at_r], blocks_rM)
            count = min(top, t)
            best = far_rt.masked_fill_(~candidates.to(device)[:t], 0).topk(count)
            weights_RC[rows, :count] = best.values.float()
            keys_RC[rows, :count] = best.indices.masked_fill(best.values == 0, -1)
    mass_R, received_T, pooled_MM = (part.cpu().double() for part in (mass_R, received_T, pooled_MM))
    return FarView(mass_R, received_T, pooled_MM, keys_RC.cpu(), weights_RC.cpu())


def _tiles(positions_R: Tensor, heads_at_once: int) -> Iterator[slice]:
    """Rows to be computed together: as many as have room, fewer where they see more keys."""
    start = 0
    while start < len(positions_R):
        # later rows see more: what the last one may see bounds them all
        stop = min(len(positions_R), start + max(1, TILE_ELEMENTS // (heads_at_once * (int(positions_R[start]) + 1))))
        while stop > start + 1 and (stop - start) * heads_at_once * (int(positions_R[stop - 1]) + 1) > TILE_ELEMENTS:
            stop -= max(1, (stop - start) // 8)
        yield slice(start, stop)
        start = stop


def _keep_far(p_rt: Tensor, at_r: Tensor, distance: int, skip_first: int) -> None:
    """Set to zero what is nearer than ``distance`` or skipped."""
    p_rt[:, :skip_first] = 0
    # keys before this are far for every row
    first = max(0, int(at_r[0]) - distance + 1)
    key_t = torch.arange(first, p_rt.shape[1], device=p_rt.device)
    p_rt[:, first:].masked_fill_(key_t > at_r[:, None] - distance, 0)


class _Mean:
    """Attention of some rows at a time, averaged over heads."""

    def __init__(self, layers: Sequence[HeadSet]) -> None:
        self.layers = layers
        self.num_heads = sum(len(layer.heads) for layer in layers)
        self.working = torch.promote_types(layers[0].q.dtype, torch.float32)
        self.keys = [layer.k.to(self.working).transpose(0, 1).contiguous() for layer in layers]
        self.memory = self.keys[0].new_empty(0)
        self.heads_at_once = max(layer.q.shape[1] // layer.k.shape[1] for layer in layers)

    def rows(self, rows: slice, at_r: Tensor) -> Tensor:
        """Attention [r, t] of the rows at positions ``at_r`` on the keys up to the last of these."""
        first, last = int(at_r[0]), int(at_r[-1])
        mean_rt = torch.zeros(len(at_r), last + 1, dtype=self.working, device=at_r.device)
        after_rt = torch.arange(first + 1, last + 1, device=at_r.device) > at_r[:, None]
        for layer, k_GTK in zip(self.layers, self.keys, strict=True):
            shared = layer.q.shape[1] // layer.k.shape[1]
            for g in range(layer.k.shape[1]):
                # queries that share a key head sit side by side, so keys are read once and never copied
                heads = [head for head in layer.heads if head // shared == g]
                if not heads:
                    continue
                # base-2 logits: torch's exp2 is several times as fast as its exp
                q_rhK = layer.q[rows][:, heads].to(self.working) * (layer.scale * math.log2(math.e))
                e_hrt = self._product(q_rhK.transpose(0, 1), k_GTK[g, : last + 1])
                e_hrt[..., first + 1 :].masked_fill_(after_rt, -torch.inf)
                e_hrt.sub_(e_hrt.amax(-1, keepdim=True)).exp2_()
                share_hr1 = 1 / (e_hrt.sum(-1, keepdim=True) * self.num_heads)
                for e_rt, share_r1 in zip(e_hrt, share_hr1, strict=True):
                    mean_rt.addcmul_(e_rt, share_r1)
        return mean_rt

    def _product(self, q_hrK: Tensor, k_tK: Tensor) -> Tensor:
        """Logits [h, r, t], in memory that the next call writes over: fresh pages would cost more than the product."""
        h, r, K = q_hrK.shape
        if self.memory.numel() < h * r * len(k_tK):
            self.memory = q_hrK.new_empty(max(TILE_ELEMENTS, h * r * len(k_tK)))
        out = self.memory[: h * r * len(k_tK)].view(h * r, len(k_tK))
        return torch.mm(q_hrK.reshape(h * r, K), k_tK.T, out=out).view(h, r, len(k_tK))


def _check(layers: Sequence[HeadSet], positions: Tensor, distance: int, edges: Sequence[int]) -> None:
    if not sum(len(layer.heads) for layer in layers):
        raise ValueError("there must be at least one head to look at")
    if distance < 1:
        raise ValueError(f"distance must be at least 1, got {distance}")
    T, R = layers[0].k.shape[0], layers[0].q.shape[0]
    if len(edges) < 2 or edges[0] < 0 or edges[-1] != T or any(a >= b for a, b in pairwise(edges)):
        raise ValueError(f"edges must ascend to {T}, the number of keys, from at least 0, got {list(edges)}")
    if positions.shape != (R,):
        raise ValueError(f"there must be one position per query row ({R}), got {tuple(positions.shape)}")
    if R and not edges[0] <= int(positions.min()) <= int(positions.max()) < T:
        raise ValueError(
            f"positions must lie in [{edges[0]}, {T}), got {int(positions.min())} to {int(positions.max())}"
        )
    if bool((positions.diff() <= 0).any()):
        raise ValueError("positions must ascend")
