"""Row moments on a GPU by one Triton kernel: whether it can run here, and how large a program is."""

import math
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
RUN_TILES = 32
"""Key tiles whose sums are added in float32 before they go into float64."""


class Tile(NamedTuple):
    """What one program takes at a time, and the means it gets for it."""

    pairs: int
    """Pairs of a query row and a head."""
    keys: int
    warps: int
    stages: int
    """Key tiles in shared memory, one in use and the others on their way."""
    registers: int | None
    """Most registers of a thread; None leaves it to the compiler."""


def tile(dtype: torch.dtype, head_size: int, capability: int) -> Tile:
    """A size that compiles without spills in the unmasked loop; ``capability`` is CUDA's, major number only.

    Two programs of 8 warps, or four of 4, must fit on a multiprocessor, so that one's exponentials run beside
    another's products: that is 128 registers a thread. Wide key tiles feed Hopper's tensor cores; before and after it,
    32 keys keep a row within one warp, whose sums then need no shared memory. Float32 products have no tensor core:
    operands lie in registers, and tiles are small.
    """
    if dtype == torch.float32:
        return Tile(64, 32 if head_size <= 64 else 16, 8, 2, None)
    if capability == 9 and head_size <= 128:
        return Tile(128, 128, 8, 3 if head_size <= 64 else 2, 128)
    return Tile(128, 32, 4, 3, 128) if head_size <= 128 else Tile(64, 32, 4, 2, 128)


def constants(tile: Tile, num_distances: int, head_size: int, heads_per_key: int) -> dict[str, int]:
    """What the kernel is compiled for."""

    def padded(size: int) -> int:
        return 1 << (size - 1).bit_length()

    return {
        "D": num_distances,
        "D_PADDED": padded(num_distances),
        "K": head_size,
        # the smallest product that tensor cores take
        "K_PADDED": max(16, padded(head_size)),
        "SHARE": heads_per_key,
        "BLOCK_M": tile.pairs,
        "BLOCK_N": tile.keys,
        "RUN": RUN_TILES,
    }


def suits(q: Tensor, k: Tensor) -> bool:
    """Whether ``auto`` means this kernel: tensors on a GPU, of a type it takes, and Triton, which comes with torch."""
    dtype = torch.promote_types(q.dtype, k.dtype)
    return q.device.type == "cuda" and dtype in DTYPES and find_spec("triton") is not None


def row_moments(
    q_BRHK: Tensor, k_BTGK: Tensor, positions_R: Tensor, distances: list[int], skip_first: int, scale: float
) -> tuple[Tensor, Tensor]:
    """Mass and square, each float64 [B, H, R, D]; float32 within ``RUN_TILES`` key tiles, float64 across them.

    Takes bfloat16, float16 and float32; products of float32 are float32's own, never TensorFloat-32. Raises
    ``ValueError`` for other types, ``RuntimeError`` without Triton or, unless it interprets, for tensors on a CPU.
    """
    working = torch.promote_types(q_BRHK.dtype, k_BTGK.dtype)
    kernel, interpreted = _kernel(q_BRHK.device, working)
    if interpreted:
        # Triton's interpreter returns garbage for products of bfloat16 (seen in 3.7.1 and 3.9.0)
        working = torch.float32
    (B, R, H, K), (T, G), D = q_BRHK.shape, k_BTGK.shape[1:3], len(distances)
    # the kernel takes a maximum before it scales, so the sign goes to the queries
    q_BRHK, k_BTGK = (-q_BRHK if scale < 0 else q_BRHK).to(working), k_BTGK.to(working)
    sorted_R, order_R = positions_R.sort()
    # nothing is further away than the number of keys, which fits the kernel's 32 bits
    distances_D = torch.tensor([min(d, T) for d in distances], dtype=torch.int32, device=q_BRHK.device)

    far_DBHR, squares_DBHR = (q_BRHK.new_empty(D, B, H, R, dtype=torch.float64) for _ in range(2))
    far_peak_DBHR = q_BRHK.new_empty(D, B, H, R, dtype=torch.float32)
    total_BHR, peak_BHR = (q_BRHK.new_empty(B, H, R, dtype=dtype) for dtype in (torch.float64, torch.float32))
    size = tile(working, K, 0 if interpreted else torch.cuda.get_device_capability(q_BRHK.device)[0])
    num_programs = -(-R * (H // G) // size.pairs) * B * G
    # AMD's compiler has no such limit
    limit = {} if size.registers is None or torch.version.hip else {"maxnreg": size.registers}
    kernel[(num_programs,)](
        q_BRHK,
        k_BTGK,
        sorted_R,
        order_R,
        distances_D,
        far_DBHR,
        squares_DBHR,
        far_peak_DBHR,
        total_BHR,
        peak_BHR,
        R,
        T,
        H,
        min(skip_first, T),
        abs(scale) * math.log2(math.e),
        *q_BRHK.stride(),
        *k_BTGK.stride(),
        B * H * R,
        **constants(size, D, K, H // G),
        num_warps=size.warps,
        num_stages=size.stages,
        **limit,
    )
    # each far sum is relative to the peak of its own time
    share_DBHR = (far_peak_DBHR - peak_BHR).double().exp2_().div_(total_BHR)
    mass_DBHR, square_DBHR = far_DBHR.mul_(share_DBHR), squares_DBHR.mul_(share_DBHR.square_())
    return mass_DBHR.movedim(0, -1).contiguous(), square_DBHR.movedim(0, -1).contiguous()


def _kernel(device: torch.device, dtype: torch.dtype) -> tuple[Any, bool]:
    """The kernel, and whether Triton's interpreter runs it."""
    if dtype not in DTYPES:
        raise ValueError(
            f"backend='triton' takes bfloat16, float16 and float32, got {dtype}; backend='blocked' takes it"
        )
    try:
        from triton.runtime.jit import JITFunction

        from longattn.attention.triton_kernel import row_moments_kernel
    except ImportError as missing:
        raise RuntimeError(
            "backend='triton' needs the package triton: torch for CUDA installs it on Linux, "
            "and `pip install triton` does; backend='blocked' needs neither it nor a GPU"
        ) from missing
    interpreted = not isinstance(row_moments_kernel, JITFunction)
    if device.type != "cuda" and not interpreted:
        raise RuntimeError(
            f"backend='triton' runs on a GPU, but the queries are on {device.type!r}: move them and the keys to 'cuda' "
            "or take backend='blocked'; to try the kernel without a GPU, set TRITON_INTERPRET=1 before Python starts"
        )
    return row_moments_kernel, interpreted
