"""What one program of the Triton kernel does: a tile of query rows against its keys, once over, first key to last.

A tile holds pairs of a query row and a head, of heads that share a key head: a key is loaded once for all of them. A
pair's state is a maximum, a normaliser and two far sums, however many distances are asked for: keys come in ascending
order, so the far sum at distance d of row n *is* the running sum once key ``n - d`` has been added. It is written out
in the tile of that key, with the maximum it was scaled by, and never touched again.

Only tiles where some row passes a border (its own position, one of its distances, the skipped keys) are masked. Between
them runs a loop without masks, whose float32 sums go into float64 at its end, at the latest after ``RUN`` tiles.

Letters in shapes: M pairs of a row and a head, N keys of a tile; B, H, R, K, D as in the package.
"""

from typing import no_type_check

import triton
import triton.language as tl


@triton.jit
@no_type_check
def _products(q_MK, keys, start, num_keys, stride_kt, stride_kk, K: tl.constexpr, BLOCK_N: tl.constexpr):
    """Queries times the ``BLOCK_N`` keys from ``start`` on, [M, N] in float32."""
    key_N, at_K = start + tl.arange(0, BLOCK_N), tl.arange(0, q_MK.shape[1])
    place_NK = key_N.to(tl.int64)[:, None] * stride_kt + at_K[None, :] * stride_kk
    k_NK = tl.load(keys + place_NK, mask=(key_N < num_keys)[:, None] & (at_K < K)[None, :], other=0.0)
    return tl.dot(q_MK, tl.trans(k_NK), input_precision="ieee")


@triton.jit
@no_type_check
def _whole_peak(peak_M, highest_M):
    """The row's peak so far, rounded up: between whole base-2 logits every rescaling is exact."""
    return tl.maximum(peak_M, tl.ceil(highest_M))


@triton.jit
@no_type_check
def _power_of_two(exponent_M):
    """2 to the power of whole numbers of at most 0, exactly; 0 where float32 has no normal number for it."""
    return ((tl.maximum(exponent_M, -127.0) + 127.0).to(tl.int32) << 23).to(tl.float32, bitcast=True)


@triton.jit
@no_type_check
def row_moments_kernel(
    q,  # [B, R, H, K]
    k,  # [B, T, G, K]
    positions,  # [R], ascending
    order,  # [R], the row of q and of the results at each of these positions
    distances,  # [D]
    far,  # [D, B, H, R] float64: sum of the far exponentials when the row's last far key had been added
    squares,  # the same of their squares
    far_peak,  # [D, B, H, R] float32: base-2 logit that both are relative to
    total,  # [B, H, R] float64: sum of all exponentials
    peak,  # [B, H, R] float32: base-2 logit that it is relative to
    num_rows,
    num_keys,
    num_heads,
    skip_first,
    scale,  # of base-2 logits, at least 0
    stride_qb,
    stride_qr,
    stride_qh,
    stride_qk,
    stride_kb,
    stride_kt,
    stride_kg,
    stride_kk,
    distance_stride,  # elements of far per distance
    D: tl.constexpr,
    D_PADDED: tl.constexpr,
    K: tl.constexpr,
    K_PADDED: tl.constexpr,
    SHARE: tl.constexpr,  # query heads of a key head
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    RUN: tl.constexpr,
):
    """One tile of one window and key head; see the module."""
    num_pairs = num_rows * SHARE
    num_tiles = tl.cdiv(num_pairs, BLOCK_M)
    # the last rows have the most keys: they begin first, so that no long program is left alone at the end
    tile = num_tiles - 1 - tl.program_id(0) % num_tiles
    b = (tl.program_id(0) // num_tiles // (num_heads // SHARE)).to(tl.int64)
    g = (tl.program_id(0) // num_tiles % (num_heads // SHARE)).to(tl.int64)

    # pairs beyond the last repeat it: they write the same numbers to the same place
    pair_M = tl.minimum(tile * BLOCK_M + tl.arange(0, BLOCK_M), num_pairs - 1)
    head_M = g * SHARE + pair_M % SHARE
    row_M = tl.load(order + pair_M // SHARE)
    position_M = tl.load(positions + pair_M // SHARE).to(tl.int32)
    first = tl.load(positions + tile * BLOCK_M // SHARE).to(tl.int32)
    last = tl.load(positions + (tl.minimum((tile + 1) * BLOCK_M, num_pairs) - 1) // SHARE).to(tl.int32)
    result_M = (b * num_heads + head_M) * num_rows + row_M

    at_K = tl.arange(0, K_PADDED)
    place_MK = (b * stride_qb + row_M * stride_qr + head_M * stride_qh)[:, None] + at_K[None, :] * stride_qk
    q_MK = tl.load(q + place_MK, mask=(at_K < K)[None, :], other=0.0)
    keys = k + b * stride_kb + g * stride_kg

    at_D = tl.arange(0, D_PADDED)
    distance_D = tl.load(distances + at_D, mask=at_D < D, other=0)
    border_D = tl.maximum(first - distance_D, 0)
    last_border_D = tl.where(at_D < D, tl.maximum(last - distance_D, 0), -1)

    peak_M = tl.full([BLOCK_M], -float("inf"), tl.float32)
    wide_peak_M = peak_M
    total_M = tl.zeros([BLOCK_M], tl.float64)
    far_M = tl.zeros([BLOCK_M], tl.float64)
    squares_M = tl.zeros([BLOCK_M], tl.float64)
    start = 0
    while start <= last:
        # tiles up to the next border of any row take no mask
        border = tl.min(tl.where(last_border_D >= start, border_D, first))
        border = tl.minimum(tl.where(start <= skip_first, skip_first, border), tl.minimum(border, first))
        until = tl.maximum(tl.minimum(border // BLOCK_N * BLOCK_N, start + (RUN - 1) * BLOCK_N), start)
        counted = tl.where(start >= skip_first, 1.0, 0.0)
        sum_M = tl.zeros([BLOCK_M], tl.float32)
        far_sum_M = tl.zeros([BLOCK_M], tl.float32)
        square_sum_M = tl.zeros([BLOCK_M], tl.float32)
        for here in range(start, until, BLOCK_N):
            s_MN = _products(q_MK, keys, here, num_keys, stride_kt, stride_kk, K, BLOCK_N)
            higher_M = _whole_peak(peak_M, tl.max(s_MN, 1) * scale)
            shrink_M = _power_of_two(peak_M - higher_M)
            e_MN = tl.exp2(s_MN * scale - higher_M[:, None])
            added_M = tl.sum(e_MN, 1)
            sum_M = sum_M * shrink_M + added_M
            far_sum_M = far_sum_M * shrink_M + added_M * counted
            square_sum_M = square_sum_M * shrink_M * shrink_M + tl.sum(e_MN * e_MN, 1) * counted
            peak_M = higher_M
        start = until

        # the tile with the border
        key_N = start + tl.arange(0, BLOCK_N)
        x_MN = _products(q_MK, keys, start, num_keys, stride_kt, stride_kk, K, BLOCK_N) * scale
        x_MN = tl.where(key_N[None, :] <= position_M[:, None], x_MN, -float("inf"))
        higher_M = _whole_peak(peak_M, tl.max(x_MN, 1))
        shrink_M = _power_of_two(peak_M - higher_M)
        wide_shrink_M = _power_of_two(wide_peak_M - higher_M).to(tl.float64)
        e_MN = tl.exp2(x_MN - higher_M[:, None])
        total_M = total_M * wide_shrink_M + (sum_M * shrink_M + tl.sum(e_MN, 1))
        far_M = far_M * wide_shrink_M + far_sum_M * shrink_M
        squares_M = squares_M * wide_shrink_M * wide_shrink_M + square_sum_M * shrink_M * shrink_M
        e_MN = tl.where((key_N >= skip_first)[None, :], e_MN, 0.0)
        place_M = result_M
        for i in range(D):
            distance = tl.load(distances + i)
            if (first - distance < start + BLOCK_N) & (tl.maximum(last - distance, 0) >= start):
                border_M = tl.maximum(position_M - distance, 0)
                near_MN = tl.where(key_N[None, :] <= (position_M - distance)[:, None], e_MN, 0.0)
                here_M = (border_M >= start) & (border_M < start + BLOCK_N)
                tl.store(far + place_M, far_M + tl.sum(near_MN, 1), mask=here_M)
                tl.store(squares + place_M, squares_M + tl.sum(near_MN * near_MN, 1), mask=here_M)
                tl.store(far_peak + place_M, higher_M, mask=here_M)
            place_M += distance_stride
        far_M += tl.sum(e_MN, 1)
        squares_M += tl.sum(e_MN * e_MN, 1)
        peak_M = higher_M
        wide_peak_M = higher_M
        start += BLOCK_N

    tl.store(total + result_M, total_M)
    tl.store(peak + result_M, peak_M)
