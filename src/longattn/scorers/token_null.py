"""Token null: the far attention that a window's bag of tokens explains, which every attention score must beat."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from longattn.expressions import Expression, column
from longattn.records import Window
from longattn.scorers.base import Ask, Columns, PilotScorer, Schema, Seen

if TYPE_CHECKING:
    from longattn.models.base import LayerAttention

BUCKETS = 16
"""Equal ranges of positions; far mass depends on how many keys a row has."""
SHRINKAGE = 4.0
"""Rows of a bucket's mean that a token's own rows are added to, so that rare tokens do not speak loudly."""


@dataclass(frozen=True, kw_only=True)
class TokenNull(PilotScorer):
    """DS as predicted from each query's token id and position alone.

    On a pilot sample of windows the far attention mass of every row is measured and averaged by token id and range of
    positions; a window's value is the mean of these averages over its rows. The order of its tokens is of no
    consequence beyond the ranges, so whatever an attention score has in common with this one is no long-range
    dependency.
    """

    name: ClassVar[str] = "token_null"

    layer: int = 0
    """Decoder layer, 0-based."""
    distance: int | None = None
    """Minimum distance k in tokens; None is L/4."""
    windows: int = 64
    """Windows in the pilot sample."""
    pilot: str | None = None
    """File with the fitted tables; filled in by the run."""
    pilot_hash: str | None = None
    """Content hash of that file; filled in by the run."""

    def for_length(self, length: int) -> "TokenNull":
        """The scorer with its distance in tokens. Raises ``ValueError`` for one that is not within the window."""
        distance = max(1, length // 4) if self.distance is None else self.distance
        if not 1 <= distance < max(2, length):
            raise ValueError(f"distance must be from 1 to {length - 1} for windows of {length} tokens, got {distance}")
        if self.windows < 1:
            raise ValueError(f"windows must be at least 1, got {self.windows}: without a sample there is no table")
        return replace(self, distance=distance)

    def measurement(self) -> Mapping[str, Any]:
        """Layer, distance and the pilot."""
        chosen = {"layer": self.layer, "distance": self.distance, "windows": self.windows}
        return {**chosen, "pilot": self.pilot_hash}

    def pilot_windows(self) -> int:
        """As set."""
        return self.windows

    def pilot_ask(self) -> Ask:
        """Far mass of every row of the layer."""
        return Ask(layers=(self.layer,), observe=self._far_mass)

    def _far_mass(self, layer: "LayerAttention") -> Columns:
        """Far mass of each row, mean over heads: [B, R]."""
        assert self.distance is not None, "for_length() comes first"
        mass_BHR = layer.row_moments([self.distance]).mass[..., 0]
        return {"mass": mass_BHR.mean(dim=1).cpu().numpy()}

    def fit(self, windows: Sequence[Window], seen: Sequence[Seen]) -> dict[str, npt.NDArray]:
        """``mass``, float32 [buckets, tokens]: mean far mass by range of positions and token id."""
        mass = np.concatenate([one.layers[self.layer]["mass"][0] for one in seen])
        tokens = np.concatenate([window.tokens for window in windows]).astype(np.int64)
        bucket = np.concatenate([_buckets(len(window.tokens)) for window in windows])
        vocabulary = int(tokens.max()) + 1
        cell = bucket * vocabulary + tokens
        counts = np.bincount(cell, minlength=BUCKETS * vocabulary).reshape(BUCKETS, vocabulary)
        sums = np.bincount(cell, mass, minlength=BUCKETS * vocabulary).reshape(BUCKETS, vocabulary)
        means = sums.sum(axis=1, keepdims=True) / np.maximum(1, counts.sum(axis=1, keepdims=True))
        fitted = (sums + SHRINKAGE * means) / (counts + SHRINKAGE)
        # one more column, for tokens that the sample has not seen
        return {"mass": np.concatenate([fitted, means], axis=1).astype(np.float32)}

    def with_pilot(self, file: str, content_hash: str) -> "TokenNull":
        """The scorer with its table."""
        return replace(self, pilot=file, pilot_hash=content_hash)

    def schema(self) -> Schema:
        """``token_null``."""
        return {"token_null": "float64"}

    def measure(self, windows: Sequence[Window], seen: Seen) -> Columns:
        """The predicted DS of each window."""
        assert self.pilot is not None, "the pilot comes first"
        table = _table(self.pilot)
        unseen = table.shape[1] - 1
        predicted = [
            table[_buckets(len(w.tokens)), np.minimum(w.tokens, unseen)].mean(dtype=np.float64) for w in windows
        ]
        return {"token_null": np.array(predicted, dtype=np.float64)}

    def score(self) -> Expression:
        """The prediction itself."""
        return column("token_null")


def _buckets(length: int) -> npt.NDArray[np.int64]:
    """The range of positions that each row belongs to."""
    return np.arange(length) * BUCKETS // length


@lru_cache(maxsize=4)
def _table(pilot: str) -> npt.NDArray[np.float32]:
    from safetensors.numpy import load_file

    return load_file(pilot)["mass"]
