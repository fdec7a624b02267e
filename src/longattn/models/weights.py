"""Tensors of a checkpoint by name: only those that are asked for are read.

A safetensors file is a header (8 bytes of length, then JSON with the type, shape and byte range of each
tensor) followed by the tensors' bytes. Headers are read here, so that a tensor can be fetched by its byte
range.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from longattn.errors import ModelError

_MAX_HEADER = 100 * 2**20

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


def local_header(path: Path) -> dict[str, TensorInfo]:
    """The tensors of a safetensors file on this machine."""
    with path.open("rb") as file:

        def read(start: int, stop: int) -> bytes:
            file.seek(start)
            return file.read(stop - start)

        return read_header(str(path), path.stat().st_size, read)


def read_header(name: str, size: int, read: Read) -> dict[str, TensorInfo]:
    """The tensors of a safetensors file of ``size`` bytes. Raises ``ModelError`` for one that is damaged."""
    try:
        length = int.from_bytes(read(0, 8), "little")
        if length > min(_MAX_HEADER, size - 8):
            raise ValueError(f"its header claims {length} bytes")
        header = json.loads(read(8, 8 + length))
        infos = {key: _tensor_info(8 + length, **facts) for key, facts in header.items() if key != "__metadata__"}
        if any(not 8 + length <= info.start <= info.stop <= size for info in infos.values()):
            raise ValueError("a tensor lies outside of it")
    except (ValueError, TypeError, AttributeError) as error:
        raise ModelError(f"{name} is not a whole safetensors file: {error}") from error
    return infos


def _tensor_info(base: int, *, dtype: str, shape: list[int], data_offsets: list[int]) -> TensorInfo:
    start, stop = data_offsets
    return TensorInfo(dtype, tuple(shape), base + start, base + stop)


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
