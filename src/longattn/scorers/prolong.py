"""ProLong: how much each chunk of a window helps to predict a later one, how far apart they are, how few do so."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from longattn.expressions import Expression, column
from longattn.records import Window
from longattn.scorers.base import Ask, Columns, Context, Excerpt, Schema, Scorer, Seen

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Chunks(Context):
    """Each chunk by itself: all its tokens but the first."""

    chunk: int

    def excerpts(self, window: Window) -> Sequence[Excerpt]:
        """One per chunk; a last one that is not full is left out."""
        return [Excerpt(tokens, 1) for tokens in _chunks(window, self.chunk)]


@dataclass(frozen=True)
class ChunkPairs(Context):
    """The same tokens of a chunk, given an earlier chunk as if it stood just before."""

    chunk: int
    pairs: int | None
    """Pairs to draw; None takes all of them."""
    seed: int

    def excerpts(self, window: Window) -> Sequence[Excerpt]:
        """One per pair, in the order of :meth:`drawn`."""
        chunks, first = _chunks(window, self.chunk), self.chunk + 1
        later, earlier = self.drawn(window)
        return [
            Excerpt(np.concatenate([chunks[j], chunks[i]]), first, shared=self.chunk)
            for i, j in zip(later, earlier, strict=True)
        ]

    def drawn(self, window: Window) -> tuple[Indices, Indices]:
        """Numbers of the later and of the earlier chunk of each pair, int64 [P], by later and then earlier chunk.

        All pairs are alike in their chance to be drawn; which are depends on the seed and the window's id alone.
        """
        later, earlier = np.tril_indices(len(window.tokens) // self.chunk, -1)
        if self.pairs is not None and self.pairs < len(later):
            digest = hashlib.sha256(f"{self.seed}\0{window.id}".encode()).digest()
            # the raw stream of a bit generator is the same in every version of NumPy, what is made of it is not
            numbers = np.random.PCG64(int.from_bytes(digest[:16], "big")).random_raw(len(later))
            chosen = np.sort(np.argsort(numbers, kind="stable")[: self.pairs])
            later, earlier = later[chosen], earlier[chosen]
        return later, earlier


@dataclass(frozen=True, kw_only=True)
class ProLong(Scorer):
    """Long dependency score: perplexity of chunks given earlier ones, pair by pair.

    Paper: https://arxiv.org/abs/2405.17915. A window is cut into N chunks. With P_i the perplexity of chunk i by
    itself, P_ij the one of the same tokens after chunk j < i, and Δ_ij = P_i - P_ij::

        DST_ij = Δ_ij / P_i                                       dependency strength
        DDI_ij = (i - j) / (N - 1)                                dependency distance
        DSP_i  = 1 - entropy(softmax over j of Δ_ij) / log n_i    dependency specificity, 1 where n_i = 1
        LDS    = sum of (DST_ij + DDI_ij) * DSP_i over the pairs with DST_ij > threshold

    where n_i is the number of earlier chunks that i is paired with. Pairs are drawn at random, or all are taken. That
    is also what the released code does wherever it gives a number; where fewer pairs exist than it shall draw, it
    gives 0 to every document, here all pairs are taken then.

    ``chunk``, ``pairs``, ``seed`` and ``thresholds`` are measured; ``threshold`` and the weight of distances may be
    changed afterwards.
    """

    name: ClassVar[str] = "prolong"

    chunk: int | None = None
    """Tokens per chunk; None is 128, as in the paper, or L/16 for windows of fewer than 2,048 tokens."""
    pairs: int | None = 500
    """Pairs of chunks to draw from a window; None takes all of them."""
    seed: int = 0
    """Another seed draws other pairs."""
    thresholds: tuple[float, ...] = (0.0, 0.05, 0.1, 0.2)
    """Least strengths of a pair that counts, to measure."""

    threshold: float = 0.1
    """Least strength of a pair that counts; one of ``thresholds``."""
    distance_weight: float = 1.0
    """Weight of a pair's distance against its strength."""

    def for_length(self, length: int) -> "ProLong":
        """The scorer with its chunk in tokens.

        Raises ``ValueError`` for chunks of which a window does not hold two, for pairs that are not at least one, and
        for a threshold that is not measured.
        """
        chunk = max(2, min(128, length // 16)) if self.chunk is None else self.chunk
        if not 2 <= chunk <= length // 2:
            raise ValueError(f"chunk must be from 2 to {length // 2} for windows of {length} tokens, got {chunk}")
        if self.pairs is not None and self.pairs < 1:
            raise ValueError(f"pairs must be at least 1, got {self.pairs}; None takes all")
        if self.threshold not in self.thresholds:
            raise ValueError(
                f"threshold must be one of the measured thresholds {list(self.thresholds)}, got {self.threshold}"
            )
        return replace(self, chunk=chunk)

    def measurement(self) -> Mapping[str, Any]:
        """Chunk, pairs and seed, and what sums are taken for."""
        return {name: getattr(self, name) for name in ("chunk", "pairs", "seed", "thresholds")}

    def ask(self) -> Ask:
        """Predictions of chunks by themselves and in pairs."""
        return Ask(contexts=(self._alone, self._paired))

    def schema(self) -> Schema:
        """Pairs seen, mean loss (nats) of the chunks' tokens by themselves and in pairs; per threshold the number of
        pairs above it and the sums of DST * DSP and DDI * DSP over them.
        """
        lists: Schema = dict.fromkeys(("above", "strength", "distance"), "list<float64>")
        return {"pairs": "int32", "alone_loss": "float64", "paired_loss": "float64", **lists}

    def measure(self, windows: Sequence[Window], seen: Seen) -> Columns:
        """The columns of :meth:`schema`, of one window."""
        alone, paired = (
            np.array([-scores.log_probs.mean(dtype=np.float64) for scores in seen.predictions[context]])
            for context in (self._alone, self._paired)
        )
        later, earlier = self._paired.drawn(windows[0])
        strength, distance, specificity = dependencies(np.exp(alone), np.exp(paired), later, earlier)
        counted = [strength > threshold for threshold in self.thresholds]
        return {
            "pairs": np.array([len(later)], dtype=np.int32),
            "alone_loss": np.array([alone[later].mean()]),
            "paired_loss": np.array([paired.mean()]),
            "above": np.array([[float(pair.sum()) for pair in counted]]),
            "strength": np.array([[(strength * specificity)[pair].sum() for pair in counted]]),
            "distance": np.array([[(distance * specificity)[pair].sum() for pair in counted]]),
        }

    def score(self) -> Expression:
        """LDS; a sum over pairs, of which windows of one length have the same number."""
        chosen = self.thresholds.index(self.threshold)
        return column("strength", chosen) + self.distance_weight * column("distance", chosen)

    def readings(self) -> Mapping[str, Expression]:
        """``lds_per_pair``, the ``share`` of pairs above the threshold, and the mean ``gain`` of a pair in nats."""
        above = column("above", self.thresholds.index(self.threshold))
        return {
            "lds_per_pair": self.score() / column("pairs"),
            "share": above / column("pairs"),
            "gain": column("alone_loss") - column("paired_loss"),
        }

    @property
    def _alone(self) -> Chunks:
        return Chunks(self._chunk)

    @property
    def _paired(self) -> ChunkPairs:
        return ChunkPairs(self._chunk, self.pairs, self.seed)

    @property
    def _chunk(self) -> int:
        assert self.chunk is not None, "for_length() comes first"
        return self.chunk


def dependencies(alone: Floats, paired: Floats, later: Indices, earlier: Indices) -> tuple[Floats, Floats, Floats]:
    """DST, DDI and DSP of each pair, float64 [P], from perplexities of chunks [N] and of pairs [P].

    >>> ones = np.ones(3)
    >>> dependencies(ones * 8, np.array([4.0, 8, 8]), np.array([1, 2, 2]), np.array([0, 0, 1]))
    (array([0.5, 0. , 0. ]), array([0.5, 1. , 0.5]), array([1., 0., 0.]))
    """
    delta = alone[later] - paired
    specificity = np.ones(len(later))
    for chunk in np.unique(later):
        of_chunk = later == chunk
        if (count := int(of_chunk.sum())) > 1:
            shares = np.exp(delta[of_chunk] - delta[of_chunk].max())
            shares /= shares.sum()
            entropy = -(shares * np.log(shares, where=shares > 0, out=np.zeros(count))).sum()
            specificity[of_chunk] = np.clip(1 - entropy / np.log(count), 0, 1)
    return delta / alone[later], (later - earlier) / (len(alone) - 1), specificity


def _chunks(window: Window, chunk: int) -> list[npt.NDArray[np.uint32]]:
    return [window.tokens[start : start + chunk] for start in range(0, len(window.tokens) - chunk + 1, chunk)]
