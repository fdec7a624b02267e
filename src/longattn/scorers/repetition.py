"""Repetition: how little of a window has been there before, without a model; what other measures mistake for merit."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from longattn.expressions import Expression, column
from longattn.records import Window
from longattn.scorers.base import Columns, Schema, Scorer, Seen


@dataclass(frozen=True, kw_only=True)
class Repetition(Scorer):
    """The share of a window's token n-grams that occur for the first time; higher is less repetitive.

    Text that repeats itself is easy to predict from far away, so measures of long-range dependency rank boilerplate,
    tables and copied files high. This one ranks them low: a measure that is its mirror image has found repetition.

    ``compression`` is the size of the window under zlib, at its default level, as a part of the size of its token ids,
    four bytes each, little-endian. Token ids, because they are what is scored, and a window does not hold its text.
    It sees repetition of any length, but only within 32 KiB, 8,192 tokens, and depends slightly on how zlib was built;
    n-grams reach across the whole window and are the same on every machine. That is why they are the score.

    ``sizes`` are measured; which of them, or compression, the score is may be changed afterwards.
    """

    name: ClassVar[str] = "repetition"

    sizes: tuple[int, ...] = (4, 8, 16)
    """Lengths n of token n-grams to measure."""

    size: int = 8
    """The n that the score is read at; one of ``sizes``."""
    use: Literal["ngrams", "compression"] = "ngrams"
    """Score by new n-grams or by the compressed size."""

    def for_length(self, length: int) -> "Repetition":
        """The scorer itself. Raises ``ValueError`` for an n longer than the window, or chosen but not measured."""
        if wrong := [size for size in self.sizes if not 1 <= size <= length]:
            raise ValueError(f"sizes must be from 1 to {length} for windows of {length} tokens, got {wrong[0]}")
        if self.size not in self.sizes:
            raise ValueError(f"size must be one of the measured sizes {list(self.sizes)}, got {self.size}")
        return self

    def measurement(self) -> Mapping[str, Any]:
        """The lengths of n-grams."""
        return {"sizes": self.sizes}

    def schema(self) -> Schema:
        """``new``, a share per size, and ``compression``."""
        return {"new": "list<float64>", "compression": "float64"}

    def measure(self, windows: Sequence[Window], seen: Seen) -> Columns:
        """The columns of :meth:`schema`."""
        new = [[new_ngrams(window.tokens, size) for size in self.sizes] for window in windows]
        return {
            "new": np.array(new, dtype=np.float64),
            "compression": np.array([compression(window.tokens) for window in windows], dtype=np.float64),
        }

    def score(self) -> Expression:
        """Share of new n-grams, or compressed size."""
        return self.readings()["new" if self.use == "ngrams" else "compression"]

    def readings(self) -> Mapping[str, Expression]:
        """``new`` at the chosen size, and ``compression``."""
        return {"new": column("new", self.sizes.index(self.size)), "compression": column("compression")}


def new_ngrams(tokens: npt.NDArray[np.uint32], size: int) -> float:
    """The share of n-grams that no earlier place of the window has.

    >>> new_ngrams(np.array([1, 2, 1, 2, 1], dtype=np.uint32), 2)
    0.5
    """
    packed, width = tokens.tobytes(), tokens.itemsize
    starts = range(0, len(packed) - (size - 1) * width, width)
    return len({packed[start : start + size * width] for start in starts}) / len(starts)


def compression(tokens: npt.NDArray[np.uint32]) -> float:
    """Compressed size of the token ids divided by their size; a little above 1 where nothing can be saved."""
    packed = tokens.astype("<u4").tobytes()
    return len(zlib.compress(packed)) / len(packed)
