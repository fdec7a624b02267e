"""The one signature of all kernels: it checks the question, then picks who answers it."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from longattn.attention import blocked, native, reference, triton
from longattn.settings import Backend


class RowMoments(NamedTuple):
    """Far attention of each query row, float64."""

    mass: Float[Tensor, "B H R D"]
    """Sum of p(n, j) over the keys j with ``skip_first <= j <= n - d``."""
    square: Float[Tensor, "B H R D"]
    """Sum of p(n, j)² over the same keys."""


KERNELS: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {
    "reference": reference.row_moments,
    "blocked": blocked.row_moments,
    "native": native.row_moments,
    "triton": triton.row_moments,
}


def row_moments(
    q: Float[Tensor, "B R H K"],
    k: Float[Tensor, "B T G K"],
    *,
    positions: Int[Tensor, "R"],
    distances: Sequence[int],
    skip_first: int = 0,
    scale: float | None = None,
    backend: Backend = "auto",
) -> RowMoments:
    """First and second moments of causal attention, without keeping the attention map.

    p is the softmax of ``scale * q·k`` over all keys ``j <= n``, where ``n = positions[r]`` is the place of query row r
    among the keys; rows may be any subset in any order. Keys below ``skip_first`` (attention sinks) leave the far sums
    but stay in the softmax. ``scale`` defaults to 1/sqrt(K). With all rows and distance k, the sum of ``mass`` over
    rows divided by T is a head's dependency strength (LongAttn paper, Eq. 5), and ``square`` gives its variance.

    Inputs may be float64, float32, bfloat16 or float16; the kernel works in at least float32. ``backend="auto"`` is
    ``native`` on a CPU and ``triton`` on a GPU, where they are there and the inputs are not float64, else ``blocked``.
    Raises ``ValueError`` for arguments that do not fit together, ``RuntimeError`` for a backend this machine lacks.

    >>> q = torch.zeros(1, 3, 1, 2)
    >>> row_moments(q, q, positions=torch.arange(3), distances=[2]).mass.flatten().round(decimals=4).tolist()
    [0.0, 0.0, 0.3333]
    """
    _check(q, k, positions, distances, skip_first, backend)
    if backend == "auto":
        backend = _suitable(q, k)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    with torch.no_grad():
        mass, square = KERNELS[backend](q, k, positions.to(q.device), list(distances), skip_first, scale)
    return RowMoments(mass, square)


def cpu_kernel() -> str:
    """What ``auto`` takes on this CPU, with its instruction set: ``native (avx512)``, for records of a run."""
    isa = native.isa()
    return f"native ({isa})" if isa else "blocked"


def _suitable(q: Tensor, k: Tensor) -> Backend:
    """The fastest backend for queries and keys like these, here."""
    if native.suits(q, k):
        return "native"
    return "triton" if triton.suits(q, k) else "blocked"


def _check(q: Tensor, k: Tensor, positions: Tensor, distances: Sequence[int], skip_first: int, backend: str) -> None:
    if q.ndim != 4 or k.ndim != 4 or q.shape[0] != k.shape[0] or q.shape[3] != k.shape[3]:
        raise ValueError(
            f"q must be [B, R, H, K] and k [B, T, G, K] with the same B and K, "
            f"got {tuple(q.shape)} and {tuple(k.shape)}"
        )
    if not (k.shape[2] and k.shape[3]):
        raise ValueError(f"k must have at least one head, of a size of at least 1, got {tuple(k.shape)}")
    if q.shape[2] % k.shape[2]:
        raise ValueError(f"query heads must be a multiple of key heads, got {q.shape[2]} and {k.shape[2]}")
    if positions.shape != (q.shape[1],):
        raise ValueError(f"positions must have one entry per query row ({q.shape[1]}), got {tuple(positions.shape)}")
    if len(positions) and not 0 <= int(positions.min()) <= int(positions.max()) < k.shape[1]:
        low, high = int(positions.min()), int(positions.max())
        raise ValueError(f"positions must lie in [0, {k.shape[1]}), the keys given; got {low} to {high}")
    if not distances or min(distances) < 0:
        raise ValueError(f"distances must be one or more integers of at least 0, got {list(distances)}")
    if skip_first < 0:
        raise ValueError(f"skip_first must be at least 0, got {skip_first}")
    if backend != "auto" and backend not in KERNELS:
        raise ValueError(f"backend must be 'auto' or one of {sorted(KERNELS)}, got {backend!r}")
