"""Read the header of a GGUF file, trusting none of its counts.

Every length is checked against what is left of the file before anything is read or allocated, and each step
of a loop consumes bytes, so that a damaged or hostile file ends in a ``ModelError`` and never in a hang.
"""

import math
import struct
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from longattn.errors import ModelError
from longattn.models.weights import MAX_HEADER

_SCALARS = {
    0: np.dtype("u1"),
    1: np.dtype("i1"),
    2: np.dtype("<u2"),
    3: np.dtype("<i2"),
    4: np.dtype("<u4"),
    5: np.dtype("<i4"),
    6: np.dtype("<f4"),
    7: np.dtype("?"),
    10: np.dtype("<u8"),
    11: np.dtype("<i8"),
    12: np.dtype("<f8"),
}
_STRING = 8
_ARRAY = 9


class Quantised(NamedTuple):
    """One tensor of a GGUF file."""

    shape: tuple[int, ...]
    """Rows first, as numpy counts."""
    kind: GGMLQuantizationType
    data: npt.NDArray[np.uint8]
    """Bytes, shape [rows, bytes per row]; not in memory until touched."""


@dataclass(frozen=True)
class GGUFFile:
    """What a GGUF file says about its model, and its tensors."""

    metadata: dict[str, Any]
    tensors: dict[str, Quantised]


def read_gguf(path: Path, max_bytes: int = MAX_HEADER) -> GGUFFile:
    """Read a GGUF file, version 2 or 3, little endian.

    Raises ``ModelError`` if anything in it does not add up, or if its header has more than ``max_bytes``.
    """
    data = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.empty(0, np.uint8)
    try:
        return _Cursor(data, max_bytes).file()
    except (ValueError, KeyError, OverflowError, struct.error) as error:
        raise ModelError(f"{path} is not a GGUF file that can be read: {str(error)[:300]}") from error


class _Cursor:
    """A position in the bytes of the file."""

    def __init__(self, data: npt.NDArray[np.uint8], max_header: int) -> None:
        self.data = data
        self.at = 0
        self.max_header = max_header

    def file(self) -> GGUFFile:
        if bytes(self.take(4)) != b"GGUF":
            raise ValueError("it does not begin with GGUF")
        version = self.integer("<I")
        if version not in (2, 3):
            raise ValueError(f"version {version} is not supported, only 2 and 3")
        num_tensors, num_fields = self.integer("<Q"), self.integer("<Q")
        metadata: dict[str, Any] = {}
        for _ in range(num_fields):
            key = self.string()
            if key in metadata:
                raise ValueError(f"the field {key} comes twice")
            metadata[key] = self.value(self.integer("<I"))
        headers = [self.tensor_header() for _ in range(num_tensors)]
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise ValueError(f"its alignment is {alignment!r}, not a power of two")
        base = -(-self.at // alignment) * alignment
        self.max_header = len(self.data)
        tensors = {name: self.tensor(base + offset, shape, kind) for name, shape, kind, offset in headers}
        if len(tensors) != num_tensors:
            raise ValueError("two tensors have the same name")
        placed = sorted((offset, tensors[name].data.nbytes, name) for name, _, _, offset in headers)
        for (offset, size, name), (following, _, other) in pairwise(placed):
            # else a small file could be dequantised into one of any size
            if offset + size > following:
                raise ValueError(f"the tensors {name} and {other} overlap")
        return GGUFFile(metadata, tensors)

    def take(self, num_bytes: int) -> npt.NDArray[np.uint8]:
        if num_bytes > len(self.data) - self.at:
            raise ValueError(f"it ends before the {num_bytes} bytes that should follow byte {self.at}")
        if self.at + num_bytes > self.max_header:
            raise ValueError(f"its header has more bytes than model.max_header_bytes {self.max_header}")
        self.at += num_bytes
        return self.data[self.at - num_bytes : self.at]

    def integer(self, layout: str) -> int:
        return struct.unpack(layout, bytes(self.take(struct.calcsize(layout))))[0]

    def string(self) -> str:
        return bytes(self.take(self.integer("<Q"))).decode()

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind in _SCALARS:
            return self.take(_SCALARS[kind].itemsize).view(_SCALARS[kind])[0].item()
        if kind == _ARRAY:
            return self.array(self.integer("<I"), self.integer("<Q"))
        raise ValueError(f"a field has the unknown type {kind}")

    def array(self, kind: int, length: int) -> list[Any]:
        if kind == _STRING:
            return [self.string() for _ in range(length)]
        if kind in _SCALARS:
            return self.take(length * _SCALARS[kind].itemsize).view(_SCALARS[kind]).tolist()
        raise ValueError(f"an array has elements of the type {kind}")

    def tensor_header(self) -> tuple[str, tuple[int, ...], GGMLQuantizationType, int]:
        name = self.string()
        num_dimensions = self.integer("<I")
        if not 1 <= num_dimensions <= 4:
            raise ValueError(f"tensor {name} has {num_dimensions} dimensions")
        shape = tuple(self.integer("<Q") for _ in range(num_dimensions))[::-1]
        return name, shape, GGMLQuantizationType(self.integer("<I")), self.integer("<Q")

    def tensor(self, start: int, shape: tuple[int, ...], kind: GGMLQuantizationType) -> Quantised:
        block_size, block_bytes = GGML_QUANT_SIZES[kind]
        if shape[-1] % block_size:
            raise ValueError(f"rows of {shape[-1]} values do not divide into {kind.name} blocks of {block_size}")
        row_bytes = shape[-1] // block_size * block_bytes
        rows = math.prod(shape[:-1])
        self.at = start
        return Quantised(shape, kind, self.take(rows * row_bytes).reshape(rows, row_bytes))
