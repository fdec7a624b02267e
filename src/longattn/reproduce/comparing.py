"""Differences between arms that were trained from the same base in the same order, with t-intervals."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Difference(NamedTuple):
    """A mean difference and the ends of its 95 % interval; the ends are NaN for a single pair."""

    value: float
    low: float
    high: float
    pairs: int


def paired(first: Sequence[float], second: Sequence[float]) -> Difference:
    """Mean of ``first - second`` over pairs, with Student's 95 % interval.

    Raises ``ValueError`` for sequences of different lengths, or without a pair.

    >>> [round(x, 3) for x in paired([1.1, 1.3, 1.2], [1.0, 1.1, 1.1])]
    [0.133, -0.01, 0.277, 3]
    """
    if len(first) != len(second) or not len(first):
        raise ValueError(f"pairs need as many of the first as of the second, got {len(first)} and {len(second)}")
    differences = np.subtract(first, second)
    mean, number = float(differences.mean()), len(differences)
    if number == 1:
        return Difference(mean, math.nan, math.nan, 1)
    reach = t_quantile(0.975, number - 1) * float(differences.std(ddof=1)) / math.sqrt(number)
    return Difference(mean, mean - reach, mean + reach, number)


def t_quantile(probability: float, freedom: int) -> float:
    """The value that Student's t with this many degrees of freedom does not exceed with this probability (above 1/2).

    >>> [round(t_quantile(0.975, n), 3) for n in (1, 2, 4, 29)]
    [12.706, 4.303, 2.776, 2.045]
    """
    low, high = 0.0, 1.0
    while _within(high, freedom) < 2 * probability - 1:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < 2 * probability - 1 else (low, middle)
    return high


def _within(t: float, freedom: int) -> float:
    """P(-t < T < t): Abramowitz and Stegun, 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(freedom))
    cosine = math.cos(angle)
    term = total = 1.0 if freedom % 2 == 0 else cosine
    # from 1/2 and 2/3 on, each fraction has both numbers larger by two
    for k in range(1 + freedom % 2, freedom - 2, 2):
        term *= cosine**2 * k / (k + 1)
        total += term
    if freedom % 2 == 0:
        return math.sin(angle) * total
    return 2 / math.pi * (angle + (math.sin(angle) * total if freedom > 1 else 0.0))
