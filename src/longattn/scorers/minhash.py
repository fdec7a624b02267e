"""MinHash: a signature of a window's token 5-grams, from which near duplicates are told at selection."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from longattn.expressions import Constant, Expression
from longattn.records import Window
from longattn.scorers.base import Columns, Schema, Scorer, Seen

PERMUTATIONS = 128
_MIX = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


@dataclass(frozen=True, kw_only=True)
class MinHash(Scorer):
    """No opinion on a window, only its signature, for ``keep.near_duplicates``; needs the extra ``longattn[dedup]``.

    The share of equal entries of two signatures estimates the Jaccard similarity of their sets of shingles, with a
    standard error of at most 1 / (2 * sqrt(128)) = 0.044.
    """

    name: ClassVar[str] = "minhash"
    measures = ("windows", "samples")

    shingle: int = 5
    """Tokens per shingle."""

    def for_length(self, length: int) -> "MinHash":
        """The scorer itself. Raises ``ValueError`` for shingles without a token."""
        if self.shingle < 1:
            raise ValueError(f"shingle must be at least 1, got {self.shingle}")
        return self

    def measurement(self) -> Mapping[str, Any]:
        """The shingle's length and the signature's."""
        return {"shingle": self.shingle, "permutations": PERMUTATIONS}

    def schema(self) -> Schema:
        """``minhash``, 128 numbers."""
        return {"minhash": "list<uint32>"}

    def measure(self, windows: Sequence[Window], seen: Seen) -> Columns:
        """Signatures, uint32 [N, 128]."""
        try:
            # the library has no type information
            library = import_module("rensa").RMinHash
        except ImportError as error:
            raise ImportError("the minhash scorer needs rensa: pip install 'longattn[dedup]'") from error

        hashes = [shingle_hashes(window.tokens, self.shingle) for window in windows]
        offsets = np.cumsum([0, *map(len, hashes)]).tolist()
        flat = np.concatenate([np.empty(0, np.uint64), *hashes])
        rows = library.digest_matrix_from_flat_token_hashes(flat, offsets, PERMUTATIONS, 0).to_rows()
        return {"minhash": np.array(rows, dtype=np.uint32).reshape(len(windows), PERMUTATIONS)}

    def score(self) -> Expression:
        """Zero for every window."""
        return Constant(0.0)


def shingle_hashes(tokens: npt.NDArray[np.uint32], length: int) -> npt.NDArray[np.uint64]:
    """A 64-bit hash (chained SplitMix64) of every run of ``length`` tokens; one of all tokens if there are fewer."""
    count = max(1, len(tokens) - length + 1)
    hashes = np.zeros(count, np.uint64)
    for i in range(min(length, len(tokens))):
        mixed = (hashes ^ tokens[i : i + count].astype(np.uint64)) + _MIX[0]
        mixed = (mixed ^ (mixed >> np.uint64(30))) * _MIX[1]
        mixed = (mixed ^ (mixed >> np.uint64(27))) * _MIX[2]
        hashes = mixed ^ (mixed >> np.uint64(31))
    return hashes
