"""Row moments, and attention itself, on the CPU by the compiled library: where it is, which instruction set answers."""

import ctypes
import logging
import os
from functools import cache
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

LIBRARY = Path(__file__).with_name("_native.so")
DTYPES = {torch.float32: 0, torch.bfloat16: 1}
ACCEPTED = (torch.float32, torch.bfloat16, torch.float16)
"""float16 is widened to float32; float64 would lose what it was chosen for."""
NO_MEMORY = 2

logger = logging.getLogger(__name__)


class _Question(ctypes.Structure):
    """``Question`` of native/question.hpp, field by field."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("q", "k", "positions", "distances", "mass", "square")),
        *((name, ctypes.c_int64 * 4) for name in ("q_strides", "k_strides")),
        *((name, ctypes.c_int64) for name in ("windows", "rows", "keys", "query_heads", "key_heads", "head_size")),
        *((name, ctypes.c_int64) for name in ("num_distances", "skip_first")),
        ("scale", ctypes.c_double),
        *((name, ctypes.c_int32) for name in ("dtype", "threads")),
    ]


class _Attention(ctypes.Structure):
    """``Attention`` of native/question.hpp, field by field."""

    _fields_ = [
        ("rows", _Question),
        *((name, ctypes.c_void_p) for name in ("v", "output")),
        ("v_strides", ctypes.c_int64 * 4),
        ("value_size", ctypes.c_int64),
    ]


@cache
def _library() -> ctypes.CDLL | None:
    if not LIBRARY.exists():
        return None
    try:
        library = ctypes.CDLL(str(LIBRARY))
    except OSError as error:
        raise RuntimeError(f"{LIBRARY} cannot be loaded here ({error}); install longattn again") from error
    library.longattn_struct_bytes.restype = ctypes.c_int64
    library.longattn_instruction_set.restype = ctypes.c_char_p
    library.longattn_instruction_set.argtypes = [ctypes.c_int32]
    library.longattn_row_moments.argtypes = [ctypes.POINTER(_Question), ctypes.c_char_p]
    library.longattn_attend.argtypes = [ctypes.POINTER(_Attention), ctypes.c_char_p]
    library.longattn_floor.restype = ctypes.c_int64
    library.longattn_floor.argtypes = [ctypes.c_char_p, *(getattr(ctypes, f"c_int{b}") for b in (32, 64, 32, 32, 64))]
    if library.longattn_struct_bytes() != ctypes.sizeof(_Attention):
        raise RuntimeError(f"{LIBRARY} was built from other sources than this Python; install longattn again")
    return library


def instruction_sets() -> list[str]:
    """What the library has code for and this machine can run, best first; empty where the library was not built."""
    library, names = _library(), []
    while library and (name := library.longattn_instruction_set(len(names))):
        names.append(name.decode())
    return names


def isa() -> str | None:
    """The instruction set that answers: the best, or the one ``LONGATTN_ISA`` names; None without the library."""
    names = instruction_sets()
    asked = os.environ.get("LONGATTN_ISA")
    if not names or not asked:
        return names[0] if names else None
    if asked not in names:
        raise ValueError(f"LONGATTN_ISA must be one of {names} on this machine, got {asked!r}")
    return asked


def suits(*tensors: Tensor) -> bool:
    """Whether these tensors can be answered here: the library is built, they are on the CPU and not float64."""
    for tensor in tensors:
        if tensor.device.type != "cpu" or tensor.dtype not in ACCEPTED:
            return False
    if _library() is None:
        _tell_once()
        return False
    return True


def work_at_the_floor(part: Literal["products", "exponentials"], dtype: torch.dtype, head_size: int, pairs: int) -> int:
    """Does what no kernel can leave out, from the nearest cache, for at least so many pairs; how many pairs it were.

    ``products`` are those of queries and keys, ``exponentials`` one polynomial exponential, the subtraction before it,
    a sum and a sum of squares. On as many threads as torch uses; the caller takes the time.
    """
    library, name = _library(), isa()
    if library is None or name is None:
        raise RuntimeError(f"backend='native' was not built when longattn was installed. {_REMEDY}")
    threads = torch.get_num_threads()
    each = -(-pairs // threads)
    arguments = (DTYPES[dtype], head_size, ("products", "exponentials").index(part), threads, each)
    return library.longattn_floor(name.encode(), *arguments) * threads


@cache
def _tell_once() -> None:
    logger.warning("The native attention kernel was not built, the slower 'blocked' is used. %s", _REMEDY)


_REMEDY = "Install a C++17 compiler (GCC or Clang), then longattn again: pip install --force-reinstall --no-deps ."


def row_moments(
    q_BRHK: Tensor, k_BTGK: Tensor, positions_R: Tensor, distances: list[int], skip_first: int, scale: float
) -> tuple[Tensor, Tensor]:
    """Mass and square, each float64 [B, H, R, D], on as many threads as torch uses; bit-identical for any number.

    Raises ``RuntimeError`` where the library was not built, ``ValueError`` for tensors that are not on the CPU, for
    float64 and for an unknown ``LONGATTN_ISA``.
    """
    library, name = _ready(q_BRHK, k_BTGK)
    working = torch.bfloat16 if q_BRHK.dtype == k_BTGK.dtype == torch.bfloat16 else torch.float32
    q_BRHK, k_BTGK = q_BRHK.to(working), k_BTGK.to(working)
    (B, R, H, _), T = q_BRHK.shape, k_BTGK.shape[1]

    positions_R = positions_R.to(torch.int64).contiguous()
    distances_D = torch.tensor([min(distance, T) for distance in distances])
    mass_BHRD, square_BHRD = (torch.empty(B, H, R, len(distances), dtype=torch.float64) for _ in range(2))
    outputs = (distances_D.data_ptr(), mass_BHRD.data_ptr(), square_BHRD.data_ptr())
    question = _question(q_BRHK, k_BTGK, positions_R, outputs, len(distances), min(skip_first, T), scale)
    if library.longattn_row_moments(ctypes.byref(question), name) == NO_MEMORY:
        raise _no_memory("keys", k_BTGK)
    return mass_BHRD, square_BHRD


def attend(q_BRHK: Tensor, k_BTGK: Tensor, v_BTGV: Tensor, positions_R: Tensor, scale: float) -> Tensor:
    """Causal attention, [B, R, H, V] in the type of ``q``, on as many threads as torch uses; the same for any number.

    Each row's softmax over the keys up to its own, times their values. Sums are float32; with bfloat16 inputs the
    weights are rounded to bfloat16 before the product with the values, as flash attention does it. Raises as
    :func:`row_moments`.
    """
    library, name = _ready(q_BRHK, k_BTGK, v_BTGV)
    wanted = q_BRHK.dtype
    working = torch.bfloat16 if wanted == k_BTGK.dtype == v_BTGV.dtype == torch.bfloat16 else torch.float32
    q_BRHK, k_BTGK, v_BTGV = q_BRHK.to(working), k_BTGK.to(working), v_BTGV.to(working)
    positions_R = positions_R.to(torch.int64).contiguous()
    output_BRHV = torch.empty(*q_BRHK.shape[:3], v_BTGV.shape[3], dtype=working)
    attention = _Attention(
        _question(q_BRHK, k_BTGK, positions_R, (None, None, None), 0, 0, scale),
        *(v_BTGV.data_ptr(), output_BRHV.data_ptr()),
        (ctypes.c_int64 * 4)(*v_BTGV.stride()),
        v_BTGV.shape[3],
    )
    if library.longattn_attend(ctypes.byref(attention), name) == NO_MEMORY:
        raise _no_memory("keys and values", k_BTGK)
    return output_BRHV.to(wanted)


def _ready(*tensors: Tensor) -> tuple[ctypes.CDLL, bytes]:
    """The library and the instruction set that answers."""
    library, name = _library(), isa()
    if library is None or name is None:
        raise RuntimeError(f"backend='native' was not built when longattn was installed. {_REMEDY}")
    for tensor in tensors:
        if tensor.device.type != "cpu":
            raise ValueError(f"backend='native' takes tensors on the CPU, got one on {tensor.device}")
        if tensor.dtype not in ACCEPTED:
            raise ValueError(
                f"backend='native' works in float32 and takes {', '.join(str(d)[6:] for d in ACCEPTED)}, "
                f"got {str(tensor.dtype)[6:]}; backend='blocked' works in float64"
            )
    return library, name.encode()


def _question(
    q_BRHK: Tensor,
    k_BTGK: Tensor,
    positions_R: Tensor,
    outputs: tuple[int | None, int | None, int | None],
    num_distances: int,
    skip_first: int,
    scale: float,
) -> _Question:
    """``outputs`` are where distances, mass and square lie; the tensors have to outlive the question."""
    (B, R, H, K), (T, G) = q_BRHK.shape, k_BTGK.shape[1:3]
    return _Question(
        *(tensor.data_ptr() for tensor in (q_BRHK, k_BTGK, positions_R)),
        *outputs,
        *((ctypes.c_int64 * 4)(*tensor.stride()) for tensor in (q_BRHK, k_BTGK)),
        *(B, R, T, H, G, K, num_distances, skip_first),
        scale,
        *(DTYPES[q_BRHK.dtype], torch.get_num_threads()),
    )


def _no_memory(what: str, k_BTGK: Tensor) -> MemoryError:
    B, T, G, K = k_BTGK.shape
    return MemoryError(f"no memory for the packed {what} of {B} windows of {T} tokens with {G} key heads of {K}")
