"""Which documents of a source are taken, and in which order: a draw that hangs on seed and texts alone.

A document's key is a hash of the seed and its text. Those with the smallest keys are taken until there are enough
tokens, so the draw is the same however the input is split into files, and whatever order these are read in; a larger
budget takes the same documents and more. Texts that occur twice have one key and are taken once.
"""

import hashlib
import heapq
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[np.uint32]


def key_of(seed: int, text: str) -> int:
    """128 bits that decide the place of a text in the draw."""
    # a document may hold half of a surrogate pair, which the tokenizer then refuses
    return _hash(f"{seed}:".encode(), text.encode("utf-8", "surrogatepass"))


def place_of(seed: int, source: str, number: int) -> int:
    """128 bits that decide the place of a source's sequence in the mixture."""
    return _hash(f"{seed}:{number}:".encode(), source.encode())


def _hash(*parts: bytes) -> int:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part)
    return int.from_bytes(digest.digest())


@dataclass(frozen=True, eq=False)
class Drawn:
    """The documents that were taken, in the order of their keys."""

    keys: Sequence[int]
    ids: Sequence[str]
    offsets: npt.NDArray[np.int64]
    """First token of each in ``spilled``, [D]."""
    lengths: npt.NDArray[np.int64]
    """Tokens of each, [D]; one more stands behind them, that would follow."""
    spilled: Tokens

    @property
    def num_tokens(self) -> int:
        """Tokens of all of them."""
        return int(self.lengths.sum())

    def order(self, number: int) -> list[int]:
        """The documents in the order of pass ``number``: that of the keys, then others."""
        places = range(len(self.keys))
        if number == 0:
            return list(places)
        return sorted(places, key=lambda i: _hash(f"{number}:".encode(), self.keys[i].to_bytes(16)))

    def passes(self, number: int) -> Iterator[int]:
        """The documents of so many passes, one after another."""
        for one in range(number):
            yield from self.order(one)

    def tokens(self, document: int, start: int, stop: int) -> Tokens:
        """Some tokens of a document; up to one behind its end."""
        offset = int(self.offsets[document])
        return np.array(self.spilled[offset + start : offset + stop])


class Draw:
    """Takes documents one by one and keeps those with the smallest keys, on disk, until they have enough tokens."""

    def __init__(self, folder: Path, enough: int | None) -> None:
        """Keep ``enough`` tokens, None for all; they lie in a file without a name in ``folder``."""
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        self._enough = enough
        self._kept: list[tuple[int, int, int, str]] = []
        self._keys: set[int] = set()
        self._num_tokens = 0
        self._written = 0

    def wants(self, key: int) -> bool:
        """Whether a document of this key would be kept, so far."""
        if key in self._keys:
            return False
        if self._enough is None or self._num_tokens < self._enough:
            return True
        return bool(self._kept) and key < -self._kept[0][0]

    def add(self, key: int, id: str, tokens: Tokens, following: int) -> None:
        """Keep a document that is wanted, and let go of those that are not any more."""
        self._file.write(np.append(tokens, np.uint32(following)).astype(np.uint32).tobytes())
        heapq.heappush(self._kept, (-key, self._written, len(tokens), id))
        self._keys.add(key)
        self._written += len(tokens) + 1
        self._num_tokens += len(tokens)
        while self._enough is not None and self._num_tokens - self._kept[0][2] >= self._enough:
            negative, _, length, _ = heapq.heappop(self._kept)
            self._keys.remove(-negative)
            self._num_tokens -= length

    def close(self) -> None:
        """Give the file up; what was drawn still has it mapped."""
        self._file.close()

    def drawn(self) -> Drawn:
        """What was kept; nothing is added after this."""
        self._file.flush()
        kept = sorted(self._kept, reverse=True)
        spilled = np.memmap(self._file, np.uint32, "r") if self._written else np.zeros(0, np.uint32)
        return Drawn(
            [-negative for negative, *_ in kept],
            [id for *_, id in kept],
            np.array([offset for _, offset, _, _ in kept], np.int64),
            np.array([length for _, _, length, _ in kept], np.int64),
            spilled,
        )
