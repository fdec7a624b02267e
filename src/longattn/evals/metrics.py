"""How answers are scored, and how sure a mean of scores is."""

import math
import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

Metric = Literal["all", "part", "every"]
"""``all``: the share of the references that the answer contains; ``part``: 1 if it contains any; both are RULER's, for
which a part of a word or number is enough. ``every``: 1 if each reference stands in the answer by itself."""

Z = 1.959963984540054
"""Of the normal distribution, between -Z and Z: 95 %."""

_CONTROLS = re.compile(r"[\x00-\x1f]")


class Proportion(NamedTuple):
    """A mean of scores from 0 to 1 with its interval."""

    value: float
    low: float
    high: float
    n: int


def cleaned(answer: str) -> str:
    r"""An answer as RULER scores it: control characters become line ends, none stand around it.

    >>> cleaned(" a\tb\r\n")
    'a\nb'
    """
    return _CONTROLS.sub("\n", answer.strip()).strip()


def score(answer: str, references: Sequence[str], metric: Metric) -> float:
    """From 0 to 1: whether the references are in the answer, in any case of letters.

    >>> score("Denver, I think", ["Denver", "Denver, Colorado"], "part")
    1.0
    >>> score("it is 17 and 4", ["17", "4", "21"], "all")
    0.6666666666666666
    """
    if metric == "every":
        whole = (rf"(?<!\w){re.escape(reference.lower())}(?!\w)" for reference in references)
        return float(all(re.search(pattern, answer.lower()) for pattern in whole))
    found = [reference.lower() in answer.lower() for reference in references]
    return float(any(found)) if metric == "part" else sum(found) / len(found)


def is_settled(answer: str, references: Sequence[str], metric: Metric) -> bool:
    """Whether an answer has its full score whatever is said after it.

    What is found in an answer stays in it, but for ``every`` a word or number at its end may still become another one.

    >>> is_settled("it is 3", ["3"], "every"), is_settled("it is 3.", ["3"], "every")
    (False, True)
    """
    if metric == "every":
        # half of a character is shown as this one until the rest of it is there
        ended = (rf"(?<!\w){re.escape(reference.lower())}(?=[^\w\ufffd])" for reference in references)
        return all(re.search(pattern, answer.lower()) for pattern in ended)
    return score(answer, references, metric) == 1.0


def wilson(scores: Sequence[float]) -> Proportion:
    """The mean of some scores with Wilson's 95 % interval.

    It is made for scores of 0 or 1. Of scores between them it is wider than it need be, as these vary less: what it
    says of a task with partial credit errs on the safe side, and it is never empty where all scores are alike.

    >>> low, high = wilson([1.0] * 10)[1:3]
    >>> round(low, 3), round(high, 3)
    (0.722, 1.0)
    """
    n = len(scores)
    if not n:
        return Proportion(math.nan, 0.0, 1.0, 0)
    mean = math.fsum(scores) / n
    centre = (mean + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(mean * (1 - mean) / n + Z**2 / (4 * n**2))
    return Proportion(mean, max(0.0, centre - half), min(1.0, centre + half), n)
