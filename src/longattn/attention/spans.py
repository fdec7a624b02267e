"""How much attention lands where: mass on spans of keys and each row's top key; no square of the length is held."""

from collections.abc import Sequence
from itertools import groupby, pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor

TILE_ELEMENTS = {"cpu": 2**18}
"""Logits held at once, at least one row of them; 2**21 unless said otherwise, 8 MB in float32. A processor goes through
them four times, and is faster while they stay in its caches."""


def span_mass(
    q: Float[Tensor, "B R H K"],
    k: Float[Tensor, "B T G K"],
    *,
    limits: Int[Tensor, " R"],
    edges: Sequence[int],
    scale: float | None = None,
) -> Float[Tensor, "B H R S"]:
    """Attention mass of each query row on each span of keys, float64.

    Row r attends to the keys ``j < limits[r]``: the softmax of ``scale * q·k`` is over these alone. Causal attention of
    the query at position n has the limit n + 1; LADM's spans, which see only what is before them, have their own first
    position as limit. Span s holds the keys from ``edges[s]`` up to ``edges[s + 1]``; what of it is beyond a row's
    limit adds nothing. ``scale`` defaults to 1/sqrt(K).

    Works in at least float32, a few rows at a time; only the last division is in float64, so that masses have float32's
    precision. Raises ``ValueError`` for a limit outside [1, T] and for edges that are not ascending in [0, T].

    >>> q = torch.zeros(1, 1, 1, 2)
    >>> span_mass(q, torch.zeros(1, 5, 1, 2), limits=torch.tensor([4]), edges=[0, 1, 3, 5]).flatten().tolist()
    [0.25, 0.5, 0.25]
    """
    _check(q, k, limits, edges)
    (B, R, H, _), (_, T, G, _) = q.shape, k.shape
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    working = torch.promote_types(torch.promote_types(q.dtype, k.dtype), torch.float32)
    # float64 does not exist on every device
    wide = working if q.device.type == "mps" else torch.float64
    mass_BHRS = q.new_zeros(B, H, R, len(edges) - 1, dtype=wide)
    limits_R = limits.to(q.device)
    order_R = limits_R.argsort(stable=True)
    rows_per_tile = max(1, TILE_ELEMENTS.get(q.device.type, 2**21) // (T * (H // G)))
    with torch.no_grad():
        for b in range(B):
            for g in range(G):
                # queries that share a key head sit side by side, so keys are read once and never copied
                heads = slice(g * (H // G), (g + 1) * (H // G))
                k_TK = k[b, :, g].to(working)
                for start in range(0, R, rows_per_tile):
                    rows_r = order_R[start : start + rows_per_tile]
                    q_hrK = (q[b, rows_r, heads].to(working) * factor).transpose(0, 1)
                    mass_BHRS[b, heads, rows_r] = _tile(q_hrK, k_TK, limits_R[rows_r], edges, wide)
    return mass_BHRS if wide == torch.float64 else mass_BHRS.cpu().double()


def _tile(q_hrK: Tensor, k_TK: Tensor, limits_r: Tensor, edges: Sequence[int], wide: torch.dtype) -> Tensor:
    """Mass [h, r, S] of some rows, by ascending limit."""
    first, last = int(limits_r[0]), int(limits_r[-1])
    e_hrt = q_hrK @ k_TK[:last].T
    beyond_rt = torch.arange(first, last, device=e_hrt.device) >= limits_r[:, None]
    e_hrt[..., first:].masked_fill_(beyond_rt, -torch.inf)
    e_hrt.sub_(e_hrt.amax(-1, keepdim=True)).exp_()
    total_hr1 = e_hrt.sum(-1, keepdim=True).to(wide)
    return _sums(e_hrt, [min(edge, last) for edge in edges]).to(wide) / total_hr1


def _sums(e_hrt: Tensor, edges: Sequence[int]) -> Tensor:
    """Sums [h, r, S] within spans; neighbours that are equally wide are summed by one call."""
    runs = ((width, list(run)) for width, run in groupby(pairwise(edges), lambda span: span[1] - span[0]))
    parts = [e_hrt[..., run[0][0] : run[-1][1]].unflatten(-1, (len(run), width)).sum(-1) for width, run in runs]
    return torch.cat(parts, -1)


def top_keys(
    q: Float[Tensor, "B R H K"], k: Float[Tensor, "B T G K"], *, positions: Int[Tensor, " R"]
) -> Int[Tensor, "B H R"]:
    """The key that gets most of each row's causal attention, int64; of equal ones the first.

    Query r stands at ``positions[r]`` and attends to the keys up to there. Scaling would not change the answer. Raises
    ``ValueError`` for a position outside [0, T).
    """
    _check(q, k, positions + 1, [0, k.shape[1]])
    (B, R, H, _), (_, T, G, _) = q.shape, k.shape
    working = torch.promote_types(torch.promote_types(q.dtype, k.dtype), torch.float32)
    top_BHR = torch.empty(B, H, R, dtype=torch.int64, device=q.device)
    key_T = torch.arange(T, device=q.device)
    with torch.no_grad():
        for b in range(B):
            for g in range(G):
                heads = slice(g * (H // G), (g + 1) * (H // G))
                k_TK = k[b, :, g].to(working)
                for r, position in enumerate(positions.tolist()):
                    logits_hT = q[b, r, heads].to(working) @ k_TK.T
                    top_BHR[b, heads, r] = logits_hT.masked_fill_(key_T > position, -torch.inf).argmax(-1)
    return top_BHR


def _check(q: Tensor, k: Tensor, limits: Tensor, edges: Sequence[int]) -> None:
    if q.ndim != 4 or k.ndim != 4 or q.shape[0] != k.shape[0] or q.shape[3] != k.shape[3] or q.shape[2] % k.shape[2]:
        raise ValueError(
            "q must be [B, R, H, K] and k [B, T, G, K] with the same B and K, and H a multiple of G; "
            f"got {tuple(q.shape)} and {tuple(k.shape)}"
        )
    T = k.shape[1]
    if limits.shape != (q.shape[1],):
        raise ValueError(f"there must be one limit or position per query row ({q.shape[1]}), got {tuple(limits.shape)}")
    if len(limits) and not 1 <= int(limits.min()) <= int(limits.max()) <= T:
        raise ValueError(f"rows must see from 1 to {T} keys, got {int(limits.min())} to {int(limits.max())}")
    if len(edges) < 2 or edges[0] < 0 or edges[-1] > T or any(a > b for a, b in pairwise(edges)):
        raise ValueError(f"edges must be two or more, ascending from at least 0 to at most {T}, got {list(edges)}")
