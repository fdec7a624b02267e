"""How well a score tells two groups of windows apart, and how sure that is."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

PERCENT = 95
"""Of the bootstrap's values that an interval holds."""


class Estimate(NamedTuple):
    """A figure with its bootstrap interval, which a sample of one document does not have."""

    value: float
    low: float | None = None
    high: float | None = None


def wins(better: Array, worse: Array) -> Array:
    """[N, M]: 1 where a score of the first group is the higher one, 1/2 where the two are equal, else 0."""
    return (better[:, None] > worse) + 0.5 * (better[:, None] == worse)


def auc(better: Array, worse: Array) -> float:
    """The probability that a window of the first group scores higher than one of the second; ties count half.

    The area under the ROC curve, and the Mann-Whitney U statistic over N·M. Raises ``ValueError`` for an empty group.

    >>> auc(np.array([3.0, 2.0]), np.array([1.0, 2.0]))
    0.875
    """
    if not len(better) or not len(worse):
        raise ValueError(f"auc needs two groups of windows, got {len(better)} and {len(worse)}")
    return float(wins(better, worse).mean())


def ranks(values: Array) -> Array:
    """Ranks from 1, the mean rank for equal values.

    >>> ranks(np.array([0.5, 0.1, 0.5])).tolist()
    [2.5, 1.0, 2.5]
    """
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[place]


def spearman(x: Array, y: Array) -> float:
    """Rank correlation of two readings of the same windows; 0 where one of them does not vary.

    >>> spearman(np.array([1.0, 2.0, 3.0]), np.array([1.0, 8.0, 27.0]))
    1.0
    """
    if len(x) < 2:
        return 0.0
    a, b = (r - r.mean() for r in (ranks(x), ranks(y)))
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b / scale) if scale else 0.0


def draws(documents: Sequence[str], resamples: int, seed: int) -> Array:
    """[resamples, N]: how often each item is in a sample of documents drawn with replacement, all items of each.

    Windows of one document are alike, so documents are what is drawn: intervals from windows would be too narrow.
    The same documents and seed give the same draws, so scorers are compared on the same samples. Items of one document
    give no draws, [0, N]: all would be the same, and say nothing of how sure a figure is.
    """
    names, place = np.unique(np.asarray(documents), return_inverse=True)
    if len(names) < 2:
        return np.empty((0, len(place)))
    generator = np.random.default_rng(seed)
    counts = generator.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    return counts[:, place].astype(np.float64)


def interval(samples: Array) -> tuple[float, float]:
    """The ends of the middle :data:`PERCENT` of some samples, those that are no number left out; NaN without any."""
    known = samples[np.isfinite(samples)]
    if not len(known):
        return float("nan"), float("nan")
    tail = (100 - PERCENT) / 2
    low, high = np.percentile(known, [tail, 100 - tail])
    return float(low), float(high)


def auc_interval(better: Array, worse: Array, weights: Array) -> Estimate:
    """AUC of paired groups (window i of one was made from window i of the other) over ``weights`` [resamples, N]."""
    won = wins(better, worse)
    totals = weights.sum(axis=1)
    samples = np.einsum("bi,ij,bj->b", weights, won, weights, optimize=True) / totals**2
    return _estimate(float(won.mean()), samples)


def mean_interval(values: Array, weights: Array) -> Estimate:
    """The mean of a reading of each pair over ``weights`` [resamples, N]."""
    return _estimate(float(values.mean()), weights @ values / weights.sum(axis=1))


def resampled(statistic: Callable[[npt.NDArray[np.int64]], float], weights: Array) -> Estimate:
    """Any statistic of the items named by their places, each as often as it was drawn."""
    items = np.arange(weights.shape[1])
    samples = [statistic(np.repeat(items, counts.astype(np.int64))) for counts in weights]
    return _estimate(statistic(items), np.array(samples))


def _estimate(value: float, samples: Array) -> Estimate:
    return Estimate(value, *interval(samples)) if len(samples) else Estimate(value)
