"""What the log-probabilities of held-out windows tell of a model's use of context, by where in the window a token is.

Plain functions over arrays: no task, no question, and no model in here. ``log_probs [N, T - 1]`` are natural logarithms
of the probabilities of the tokens 1 to T - 1 of N windows, each given all before it in its window; ``short
[N, T - context]`` are those of the tokens from number ``context`` on when no more than a short context may be seen
(:class:`longattn.scorers.base.ShortContext`). Losses are their negatives, in nats.

Tokens of a window, and windows of a document, are alike, so intervals are made by drawing documents with replacement
and all tokens of each (percentile bootstrap, :data:`longattn.validity.statistics.PERCENT` %).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from longattn.scorers.longce import key_tokens
from longattn.validity.statistics import Array, draws, interval

Tokens = npt.NDArray[np.integer]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Mean:
    """A mean over tokens with its interval; NaN where there are none, and the interval where one document has them."""

    value: float
    low: float
    high: float
    tokens: int
    windows: int
    """Windows that have such tokens."""
    documents: int
    """Documents that have such tokens: what the interval is made from."""


@dataclass(frozen=True)
class Bucket:
    """The loss of the tokens at positions from ``start`` up to, not including, ``stop``."""

    start: int
    stop: int
    loss: Mean


def mean(values: Array, counted: Mask, documents: Sequence[str], *, resamples: int = 1000, seed: int = 0) -> Mean:
    """Mean of the counted ``values [N, S]``, every token alike; ``documents [N]`` name where each window comes from.

    Raises ``ValueError`` for shapes that do not fit.
    """
    if values.shape != counted.shape or len(values) != len(documents):
        raise ValueError(
            f"values {values.shape}, counted {counted.shape} and {len(documents)} documents must speak of the same "
            "windows and tokens"
        )
    sums = np.where(counted, values, 0.0).sum(axis=1, dtype=np.float64)
    counts = counted.sum(axis=1)
    having = counts > 0
    if not having.any():
        return Mean(float("nan"), float("nan"), float("nan"), 0, 0, 0)
    sums, counts = sums[having], counts[having]
    names = np.asarray(documents)[having]
    weights = draws(names.tolist(), resamples, seed)
    low, high = interval((weights @ sums) / (weights @ counts))
    return Mean(
        float(sums.sum() / counts.sum()), low, high, int(counts.sum()), int(having.sum()), len(np.unique(names))
    )


def doubling_edges(length: int, first: int = 16) -> tuple[int, ...]:
    """Edges of buckets that double: short ones where the loss falls fast, long ones where it falls slowly.

    >>> doubling_edges(200)
    (1, 16, 32, 64, 128, 200)
    """
    if length < 2:
        raise ValueError(f"length must be at least 2, a token to predict and one before it, got {length}")
    edges = [1]
    while first < length:
        if first > 1:
            edges.append(first)
        first *= 2
    return (*edges, length)


def loss_by_position(
    log_probs: Array, edges: Sequence[int], documents: Sequence[str], *, resamples: int = 1000, seed: int = 0
) -> list[Bucket]:
    """Mean loss of the tokens between neighbouring ``edges``, which are positions in the window, from 1 to T.

    Raises ``ValueError`` for edges that do not ascend within that range.
    """
    last = log_probs.shape[1] + 1
    if list(edges) != sorted(set(edges)) or len(edges) < 2 or edges[0] < 1 or edges[-1] > last:
        raise ValueError(f"edges must ascend from 1 or more to {last} or less, got {list(edges)}")
    return [
        Bucket(
            start, stop, mean(-log_probs, _between(log_probs, start, stop), documents, resamples=resamples, seed=seed)
        )
        for start, stop in pairwise(edges)
    ]


def late_loss(log_probs: Array, first: int, documents: Sequence[str], *, resamples: int = 1000, seed: int = 0) -> Mean:
    """Mean loss of the tokens from number ``first`` of their window on."""
    counted = _between(log_probs, first, log_probs.shape[1] + 1)
    return mean(-log_probs, counted, documents, resamples=resamples, seed=seed)


def truncation_gain(
    log_probs: Array, short: Array, first: int, documents: Sequence[str], *, resamples: int = 1000, seed: int = 0
) -> Mean:
    """Mean over the tokens from number ``first`` on of the loss with a short context less the loss with all of it.

    Above 0 where what only the long context holds helps. A lower loss at late positions by itself shows no such thing:
    cleaner training data lower the loss everywhere.
    """
    gain = long_short_difference(log_probs, short)
    counted = np.broadcast_to(np.arange(log_probs.shape[1] + 1)[-gain.shape[1] :] >= first, gain.shape)
    return mean(gain, counted, documents, resamples=resamples, seed=seed)


def long_short_difference(log_probs: Array, short: Array) -> Array:
    """[N, T - context]: by how much the long context raises the log-probability of each token that has a short one.

    Raises ``ValueError`` for shapes that do not fit.
    """
    if len(short) != len(log_probs) or not 0 < short.shape[1] <= log_probs.shape[1]:
        raise ValueError(f"short {short.shape} must hold the last tokens of the windows of log_probs {log_probs.shape}")
    return (log_probs[:, -short.shape[1] :] - short).astype(np.float64)


def far_repeats(tokens: Tokens, distance: int) -> Mask:
    """[N, T]: tokens that finish a trigram again whose last two tokens stood nowhere in the last ``distance``.

    Token t is one if the latest earlier place where the bigram (t - 1, t) ends lies at least ``distance`` back and the
    trigram (t - 2, t - 1, t) ends there too: whoever looks back that far can copy it, and nothing nearer says it. No
    model is asked, so that all models are compared on the same tokens. Raises ``ValueError`` for a distance below 1.
    """
    if distance < 1:
        raise ValueError(f"distance must be at least 1, got {distance}")
    found = np.zeros(tokens.shape, dtype=np.bool_)
    for row, window in zip(found, tokens.tolist(), strict=True):
        last: dict[tuple[int, int], int] = {}
        for t in range(1, len(window)):
            bigram = (window[t - 1], window[t])
            j = last.get(bigram)
            row[t] = j is not None and j >= 2 and t - j >= distance and window[j - 2] == window[t - 2]
            last[bigram] = t
    return found


def far_repeat_loss(
    log_probs: Array, tokens: Tokens, distance: int, documents: Sequence[str], *, resamples: int = 1000, seed: int = 0
) -> Mean:
    """Mean loss of the tokens that :func:`far_repeats` finds in ``tokens [N, T]``."""
    _check_tokens(log_probs, tokens)
    counted = far_repeats(tokens, distance)[:, 1:]
    return mean(-log_probs, counted, documents, resamples=resamples, seed=seed)


def far_repeat_gain(
    log_probs: Array,
    short: Array,
    tokens: Tokens,
    distance: int,
    documents: Sequence[str],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Mean:
    """Truncation gain of the tokens that :func:`far_repeats` finds, those that have a short context."""
    _check_tokens(log_probs, tokens)
    gain = long_short_difference(log_probs, short)
    counted = far_repeats(tokens, distance)[:, -gain.shape[1] :]
    return mean(gain, counted, documents, resamples=resamples, seed=seed)


def long_ppl(
    log_probs: Array,
    evaluator_long: Array,
    evaluator_short: Array,
    documents: Sequence[str],
    *,
    alpha: float = 2.0,
    beta: float = -2.0,
    resamples: int = 1000,
    seed: int = 0,
) -> Mean:
    """LongPPL (https://arxiv.org/abs/2410.23771): perplexity over the tokens that need the long context.

    Which these are is decided by an evaluator model, from its log-probabilities with all and with a short context:
    :func:`longattn.scorers.longce.key_tokens`. Models that are compared need the same evaluator, or each is asked about
    other tokens. ``log_probs`` are those of the model that is judged; with its own as ``evaluator_long`` it chooses its
    own questions. The interval is that of the mean loss, exponentiated.
    """
    long_short_difference(log_probs, evaluator_short)
    long = evaluator_long[:, -evaluator_short.shape[1] :]
    keys = key_tokens(long.astype(np.float64), evaluator_short.astype(np.float64), alpha, beta)
    judged = log_probs[:, -evaluator_short.shape[1] :]
    loss = mean(-judged, keys, documents, resamples=resamples, seed=seed)
    value, low, high = np.exp([loss.value, loss.low, loss.high]).tolist()
    return Mean(value, low, high, loss.tokens, loss.windows, loss.documents)


def _between(log_probs: Array, start: int, stop: int) -> Mask:
    """[N, T - 1]: the tokens at positions from ``start`` up to ``stop``."""
    positions = np.arange(1, log_probs.shape[1] + 1)
    return np.broadcast_to((positions >= start) & (positions < stop), log_probs.shape)


def _check_tokens(log_probs: Array, tokens: Tokens) -> None:
    if tokens.shape != (len(log_probs), log_probs.shape[1] + 1):
        raise ValueError(
            f"tokens {tokens.shape} must be those of log_probs {log_probs.shape}, and the first of each window"
        )
