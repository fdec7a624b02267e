"""Tensors of a checkpoint by name: only those that are asked for are read.

A safetensors file is a header (8 bytes of length, then JSON with the type, shape and byte range of each
tensor) followed by the tensors' bytes. Headers are read here, so that a tensor can be fetched by its byte
range.
"""

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from longattn.errors import ModelError

MAX_HEADER = 32 * 2**20
"""Bytes of a header, unless the settings say otherwise; checkpoints of a terabyte have headers of a megabyte a file."""
_BITS = {"BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "BF16": 16, "C64": 64}
_BITS |= {f"{kind}{bits}": bits for kind in "IUF" for bits in (8, 16, 32, 64)}
_BITS |= dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8)
"""Size of each type of value that the format knows."""

Read = Callable[[int, int], bytes]
"""Bytes from one position of a file up to another."""


class TensorInfo(NamedTuple):
    """Where a tensor is in its safetensors file."""

    dtype: str
    """As safetensors names it: ``F32``, ``BF16``, ..."""
    shape: tuple[int, ...]
    start: int
    """First byte, counted from the beginning of the file."""
    stop: int


class Weights(ABC):
    """The tensors of one checkpoint."""

    @property
    @abstractmethod
    def names(self) -> frozenset[str]:
        """Names of all tensors."""

    @abstractmethod
    def fetch(self, names: Iterable[str]) -> "LocalWeights":
        """Weights on this machine with at least the named tensors. Raises ``ModelError`` for one missing."""

    def check(self, names: Iterable[str]) -> None:
        """Raise ``ModelError`` if one of these tensors is missing."""
        if missing := sorted(set(names) - self.names):
            raise ModelError(f"the checkpoint has no tensor {', '.join(missing)}")


@dataclass(frozen=True)
class LocalWeights(Weights):
    """Safetensors files in one folder."""

    folder: Path
    files: Mapping[str, str]
    """File name of each tensor."""
    max_header: int = MAX_HEADER
    """Most bytes of a file's header."""

    @property
    def names(self) -> frozenset[str]:
        """Names of all tensors."""
        return frozenset(self.files)

    def fetch(self, names: Iterable[str]) -> "LocalWeights":
        """These weights: nothing needs to be moved."""
        self.check(names)
        return self

    def path(self, name: str) -> Path:
        """The safetensors file that holds a tensor."""
        return self.folder / self.files[name]

    def num_values(self) -> int:
        """Values in all tensors of these files together."""
        headers = [local_header(self.folder / file, self.max_header) for file in set(self.files.values())]
        return sum(math.prod(info.shape) for header in headers for info in header.values())


def local_header(path: Path, max_bytes: int = MAX_HEADER) -> dict[str, TensorInfo]:
    """The tensors of a safetensors file on this machine."""
    with path.open("rb") as file:

        def read(start: int, stop: int) -> bytes:
            file.seek(start)
            return file.read(stop - start)

        return read_header(str(path), path.stat().st_size, read, max_bytes)


def read_header(name: str, size: int, read: Read, max_bytes: int = MAX_HEADER) -> dict[str, TensorInfo]:
    """The tensors of a safetensors file of ``size`` bytes.

    Raises ``ModelError`` for one that is damaged: with a header of more than ``max_bytes``, a name given twice, a
    tensor of another size than its shape takes, or tensors that overlap, leave holes or do not end with the file.
    """
    try:
        length = int.from_bytes(read(0, 8), "little")
        if length > size - 8:
            raise ValueError(f"its header claims {length} bytes, the file has {size}")
        if length > max_bytes:
            raise ValueError(f"its header has {length} bytes, more than model.max_header_bytes {max_bytes}")
        header = json.loads(read(8, 8 + length), object_pairs_hook=_without_doubles)
        infos = {key: _tensor_info(key, 8 + length, **of) for key, of in header.items() if key != "__metadata__"}
        _check_layout(infos, 8 + length, size)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"{name} is not a whole safetensors file: {str(error)[:200]}") from error
    return infos


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is given twice")
    return found


def _tensor_info(name: str, base: int, *, dtype: str, shape: list[int], data_offsets: list[int]) -> TensorInfo:
    start, stop = data_offsets
    if not all(type(number) is int and 0 <= number < 2**63 for number in (*shape, start, stop)):
        raise ValueError(f"the shape or place of {name} is not of whole numbers from 0 on")
    bits = _BITS.get(dtype)
    if bits is None:
        raise ValueError(f"{name} is of the unknown type {dtype!r}")
    if math.prod(shape) * bits != 8 * (stop - start):
        raise ValueError(f"{name} of shape {shape} and type {dtype} does not take {stop - start} bytes")
    return TensorInfo(dtype, tuple(shape), base + start, base + stop)


def _check_layout(infos: Mapping[str, TensorInfo], begin: int, size: int) -> None:
    """Raise ``ValueError`` unless the tensors follow one another from the header to the end of the file."""
    end = begin
    for name, info in sorted(infos.items(), key=lambda item: (item[1].start, item[1].stop)):
        if info.start != end:
            raise ValueError(f"{name} begins at byte {info.start}, where {end} is expected: a hole or an overlap")
        end = info.stop
    if end != size:
        raise ValueError(f"its tensors end at byte {end}, the file has {size}")


def write_safetensors(
    path: Path, specs: Mapping[str, tuple[str, tuple[int, ...], int]], chunks: Iterable[bytes]
) -> None:
    """Write a safetensors file in pieces, of which no more than one is in memory.

    ``specs`` gives type, shape and number of bytes of each tensor; ``chunks`` are all the bytes, in the same
    order.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, shape, num_bytes) in specs.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + num_bytes]}
        end += num_bytes
    encoded = json.dumps(header, separators=(",", ":")).encode()
    # readers map the file into memory: the tensors begin at a multiple of 8 bytes
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        written = sum(file.write(chunk) for chunk in chunks)
    if written != end:
        raise ModelError(f"{path.name}: {written} bytes of tensors came, {end} were announced")
