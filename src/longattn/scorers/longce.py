"""LongCE: how many of a window's tokens are predicted much better from all before them than from a short context."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from longattn.expressions import Expression, column
from longattn.records import Window
from longattn.scorers.base import Ask, Columns, Schema, Scorer, Seen, ShortContext, WholeWindow, long_and_short


def key_tokens(
    long: npt.NDArray[np.float64], short: npt.NDArray[np.float64], alpha: float, beta: float
) -> npt.NDArray[np.bool_]:
    """LongPPL's key tokens, from log-probabilities given all before them and given a short context.

    Those that the long context makes more than exp(``alpha``) times as likely, and likelier than exp(``beta``).
    """
    return (long - short > alpha) & (long > beta)


@dataclass(frozen=True, kw_only=True)
class LongCE(Scorer):
    """The weights that LongCE would train a window's tokens with, averaged; and LongPPL's share of key tokens.

    Paper: https://arxiv.org/abs/2410.23771. With p the probability of a token given all before it in the window, and q
    given a short context::

        LSD    = log p - log q                         long-short difference
        key    = LSD > alpha and log p > beta          key tokens; LongPPL is the perplexity over them
        weight = min(exp(LSD), gamma)                  LongCE trains with the mean of weight * loss

    Paper and released code agree. Both weigh and select tokens; that the mean weight, or the share of key tokens, ranks
    windows is our use of them. Their short context is 4,096 tokens and grows by up to 1,024, which takes 28 more
    passes for a window of 32,768; the default is cheaper, see :meth:`ShortContext.within`.

    Sums are measured for each of ``gammas`` and ``alphas``, among which ``gamma`` and ``alpha`` may be chosen
    afterwards. A window's first ``context`` tokens have no longer context and are not counted.
    """

    name: ClassVar[str] = "longce"

    context: int | None = None
    """Least number of tokens that the short context holds; None is L/16."""
    step: int | None = None
    """Tokens that share a beginning of their short context; None is L/4 less the context."""
    gammas: tuple[float, ...] = (2.0, 5.0, 10.0)
    """Largest weights to measure."""
    alphas: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Least long-short differences of key tokens to measure, in nats."""
    beta: float = -2.0
    """Least log-probability of a key token, in nats."""

    gamma: float = 5.0
    """Largest weight; one of ``gammas``."""
    alpha: float = 2.0
    """Least long-short difference of a key token; one of ``alphas``."""
    use: Literal["weight", "key_share"] = "weight"
    """Score by the mean weight or by the share of key tokens."""

    def for_length(self, length: int) -> "LongCE":
        """The scorer with contexts in tokens.

        Raises ``ValueError`` for a context that is not within the window, for a gamma that is no weight, and for a
        gamma or alpha that is not measured.
        """
        for name, chosen, measured in (("gamma", self.gamma, self.gammas), ("alpha", self.alpha, self.alphas)):
            if chosen not in measured:
                raise ValueError(f"{name} must be one of the measured {name}s {list(measured)}, got {chosen}")
        if min(self.gammas) <= 0:
            raise ValueError(f"gammas must be above 0, got {list(self.gammas)}")
        short = ShortContext.within(length, self.context, self.step)
        return replace(self, context=short.length, step=short.step)

    def measurement(self) -> Mapping[str, Any]:
        """The short context, and what sums are taken for."""
        return {name: getattr(self, name) for name in ("context", "step", "gammas", "alphas", "beta")}

    def ask(self) -> Ask:
        """Predictions from the whole window and from the short context."""
        return Ask(contexts=(WholeWindow(), self._short))

    def schema(self) -> Schema:
        """Tokens compared; sums over them of the loss (nats) and, per gamma, of the weight; per alpha, of key tokens
        and of their loss.
        """
        lists: Schema = dict.fromkeys(("weight", "key_tokens", "key_loss"), "list<float64>")
        return {"compared": "int32", "loss": "float64", **lists}

    def measure(self, windows: Sequence[Window], seen: Seen) -> Columns:
        """The columns of :meth:`schema`, of one window."""
        long, short = long_and_short(seen, self._short)
        difference = long - short
        # the smaller exponent first, so that no token is beyond the largest number
        weights = [np.exp(np.minimum(difference, np.log(gamma))).sum() for gamma in self.gammas]
        keys = [key_tokens(long, short, alpha, self.beta) for alpha in self.alphas]
        return {
            "compared": np.array([len(long)], dtype=np.int32),
            "loss": np.array([-long.sum()]),
            "weight": np.array([weights]),
            "key_tokens": np.array([[float(key.sum()) for key in keys]]),
            "key_loss": np.array([[-long[key].sum() for key in keys]]),
        }

    def score(self) -> Expression:
        """Mean weight, or share of key tokens."""
        return self.readings()[self.use]

    def readings(self) -> Mapping[str, Expression]:
        """``weight``, ``key_share``, and ``loss`` with all of the context."""
        tokens = column("compared")
        return {
            "weight": column("weight", self.gammas.index(self.gamma)) / tokens,
            "key_share": column("key_tokens", self.alphas.index(self.alpha)) / tokens,
            "loss": column("loss") / tokens,
        }

    @property
    def _short(self) -> ShortContext:
        assert self.context is not None, "for_length() comes first"
        assert self.step is not None, "for_length() comes first"
        return ShortContext(self.context, self.step)
