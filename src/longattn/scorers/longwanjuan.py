"""LongWanjuan: how much better a chunk's last tokens are predicted, and hit, from most of the chunk than from less."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np

from longattn.expressions import Expression, column
from longattn.records import Window
from longattn.scorers.base import Ask, Columns, Context, Excerpt, Schema, Scorer, Seen

EPSILON = 1e-5
"""Added to the denominators of both ratios, as in the released code."""


@dataclass(frozen=True)
class ChunkEnds(Context):
    """The last ``chunk // 4`` tokens of each chunk, from up to ``context`` tokens just before them."""

    chunk: int
    context: int

    def excerpts(self, window: Window) -> Sequence[Excerpt]:
        """One per chunk; a last chunk that is not full is left out."""
        predicted = self.chunk // 4
        ends = range(self.chunk, len(window.tokens) + 1, self.chunk)
        return [Excerpt(window.tokens[end - predicted - self.context : end], self.context) for end in ends]


@dataclass(frozen=True, kw_only=True)
class LongWanjuan(Scorer):
    """The coherence part of LongWanjuan's measures, means over a window's chunks.

    Paper: https://arxiv.org/abs/2402.13583. The last quarter of each chunk is predicted from the three quarters before
    it, and again from the one quarter just before it (chunks of 4,096 tokens: 1,024 from 3,072 and from 1,024). With
    the accuracy of the most probable token, and the perplexity, of both::

        acc_delta = acc_long - acc_short        acc_ratio = acc_delta / (acc_long + 1e-5)
        ppl_delta = ppl_short - ppl_long        ppl_ratio = ppl_delta / (ppl_short + 1e-5)

    Paper and released code agree, except that in the code's tables of English text the key ``acc_ratio`` holds the
    perplexity's ratio, which overwrites the accuracy's. From these, and from counts of words and lines, the paper
    derives three classes of documents by rules that are not published; one number that ranks windows is our use of it.
    Its measures of cohesion and complexity need text, a trained classifier and word lists per language, and look no
    further than neighbouring sentences: they are not here.

    ``chunk`` is measured; which of the four the score is may be changed afterwards.
    """

    name: ClassVar[str] = "longwanjuan"

    chunk: int | None = None
    """Tokens per chunk; None is L/8, which is the paper's 4,096 in windows of 32,768."""

    use: Literal["acc_delta", "acc_ratio", "ppl_delta", "ppl_ratio"] = "ppl_ratio"
    """The measure to score by."""

    def for_length(self, length: int) -> "LongWanjuan":
        """The scorer with its chunk in tokens. Raises ``ValueError`` for one that is not within the window."""
        chunk = max(4, length // 8) if self.chunk is None else self.chunk
        if not 4 <= chunk <= length:
            raise ValueError(f"chunk must be from 4 to {length} for windows of {length} tokens, got {chunk}")
        return replace(self, chunk=chunk)

    def measurement(self) -> Mapping[str, Any]:
        """The chunk."""
        return {"chunk": self.chunk}

    def ask(self) -> Ask:
        """Predictions of the chunks' ends from a long and from a short context."""
        return Ask(contexts=self._long_and_short)

    def schema(self) -> Schema:
        """Accuracy and perplexity from either context, means over chunks."""
        return dict.fromkeys(("acc_long", "acc_short", "ppl_long", "ppl_short"), "float64")

    def measure(self, windows: Sequence[Window], seen: Seen) -> Columns:
        """The columns of :meth:`schema`, of one window."""
        columns = {}
        for name, context in zip(("long", "short"), self._long_and_short, strict=True):
            chunks = seen.predictions[context]
            perplexity = [np.exp(-scores.log_probs.mean(dtype=np.float64)) for scores in chunks]
            columns[f"acc_{name}"] = np.array([np.mean([scores.hits.mean() for scores in chunks])])
            columns[f"ppl_{name}"] = np.array([np.mean(perplexity)])
        return columns

    def score(self) -> Expression:
        """The measure chosen; all grow with what the longer context is good for."""
        return self.readings()[self.use]

    def readings(self) -> Mapping[str, Expression]:
        """All four measures."""
        accuracy, perplexity = column("acc_long"), column("ppl_short")
        gained, saved = accuracy - column("acc_short"), perplexity - column("ppl_long")
        return {
            "acc_delta": gained,
            "acc_ratio": gained / (accuracy + EPSILON),
            "ppl_delta": saved,
            "ppl_ratio": saved / (perplexity + EPSILON),
        }

    @property
    def _long_and_short(self) -> tuple[ChunkEnds, ChunkEnds]:
        assert self.chunk is not None, "for_length() comes first"
        predicted = self.chunk // 4
        return ChunkEnds(self.chunk, self.chunk - predicted), ChunkEnds(self.chunk, predicted)
