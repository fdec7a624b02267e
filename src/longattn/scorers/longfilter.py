"""LongFilter: how much better a window's tokens are predicted from all before them than from a short context."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from longattn.expressions import Expression, column
from longattn.records import Window
from longattn.scorers.base import Ask, Columns, Schema, Scorer, Seen, ShortContext, WholeWindow, long_and_short


@dataclass(frozen=True, kw_only=True)
class LongFilter(Scorer):
    """Information that the long context adds, mean over tokens.

    Paper: https://arxiv.org/abs/2510.25804. With p_i the probability of the i-th token given all before it in the
    window, and q_i its probability given a short context::

        score = (1/N) * sum_i p_i * (log p_i - log q_i)

    which is the term of the divergence KL(p || q) that belongs to the token that is there. Its code has not been
    released. The paper's contexts are 64K tokens, here the window, and 4K; chunks that give the short context overlap,
    by how much it does not say, see :meth:`ShortContext.within`.

    ``context`` and ``step`` are measured; ``weighted`` may be changed afterwards. A window's first ``context`` tokens
    have no longer context and are not counted in N.
    """

    name: ClassVar[str] = "longfilter"

    context: int | None = None
    """Least number of tokens that the short context holds; None is L/16."""
    step: int | None = None
    """Tokens that share a beginning of their short context; None is L/4 less the context."""

    weighted: bool = True
    """Weight each token's gain by its probability, as the paper does; without, the score is the plain difference of
    the two losses."""

    def for_length(self, length: int) -> "LongFilter":
        """The scorer with contexts in tokens. Raises ``ValueError`` for a context that is not within the window."""
        short = ShortContext.within(length, self.context, self.step)
        return replace(self, context=short.length, step=short.step)

    def measurement(self) -> Mapping[str, Any]:
        """The short context."""
        return {"context": self.context, "step": self.step}

    def ask(self) -> Ask:
        """Predictions from the whole window and from the short context."""
        return Ask(contexts=(WholeWindow(), self._short))

    def schema(self) -> Schema:
        """Tokens compared (N), and sums over them in nats: both losses, and the weighted gain."""
        sums: Schema = dict.fromkeys(("long_loss", "short_loss", "weighted_gain"), "float64")
        return {"compared": "int32", **sums}

    def measure(self, windows: Sequence[Window], seen: Seen) -> Columns:
        """The columns of :meth:`schema`, of one window."""
        long, short = long_and_short(seen, self._short)
        return {
            "compared": np.array([len(long)], dtype=np.int32),
            "long_loss": np.array([-long.sum()]),
            "short_loss": np.array([-short.sum()]),
            "weighted_gain": np.array([(np.exp(long) * (long - short)).sum()]),
        }

    def score(self) -> Expression:
        """Mean gain, in nats per token."""
        return self.readings()["weighted_gain" if self.weighted else "gain"]

    def readings(self) -> Mapping[str, Expression]:
        """``weighted_gain`` (the paper's score), ``gain`` without the weights, and ``loss`` with all of the context."""
        tokens, long = column("compared"), column("long_loss")
        return {
            "weighted_gain": column("weighted_gain") / tokens,
            "gain": (column("short_loss") - long) / tokens,
            "loss": long / tokens,
        }

    @property
    def _short(self) -> ShortContext:
        assert self.context is not None, "for_length() comes first"
        assert self.step is not None, "for_length() comes first"
        return ShortContext(self.context, self.step)
