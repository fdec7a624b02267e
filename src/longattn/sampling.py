"""Which query rows of a window are measured, and what those say of the sums over all rows.

Every head draws rows of its own. A head's rows are put in an order in which neighbours are alike, cut into strata, and
two of each stratum are drawn without replacement. With N rows in a stratum of which n were drawn, their mean m and
their variance s²::

    total    = sum of N * m                        unbiased
    variance = sum of N² * (1 - n / N) * s² / n    unbiased; 0 where every row was drawn

What is drawn for is the difference between a row and its prediction (:class:`Prediction`), whose sum over all rows is
known; predictions change the variance and never the mean (difference estimator: Cochran, Sampling Techniques, 1977).
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

PER_STRATUM = 2
"""Rows drawn of a stratum: the fewest that tell how much they vary."""
RANGES = 4
"""Equal ranges of positions that a token has coefficients for."""
CURVE_STEP = 32
"""Positions that one point of a mean curve is averaged over."""
SHRINKAGE = 3.0
"""Rows that a coefficient's prior counts for."""
NEIGHBOURS = 10
"""Rows of one token, next to each other, that deviations are taken within: about a stratum at a tenth of the rows."""
CLASSES = np.array([1, 4, 16, 64, 256])
"""Where tokens are told apart by how often the pilot saw them."""
RARE = 16
"""A token that the pilot saw less often has the deviation of its class."""
FLOOR = 0.1
"""Smallest deviation that a row is drawn with, relative to the window's mean: a prediction may be wrong."""


class Draw(NamedTuple):
    """Rows drawn of one head."""

    rows: Integers
    """Indices of the rows [n], sorted by stratum."""
    stratum: Integers
    """The stratum of each [n], 0-based."""
    sizes: Integers
    """Rows of each stratum, drawn or not [S]."""


class Estimated(NamedTuple):
    """Estimates of the sums over all rows."""

    totals: Floats
    """Shape [V]."""
    covariance: Floats
    """Of the totals' errors [V, V]; its expectation is the true one."""


def generator(seed: int, *names: object) -> np.random.Generator:
    """Random numbers that depend on the seed and the names alone."""
    text = ":".join(map(str, (seed, *names)))
    return np.random.Generator(np.random.Philox(key=int.from_bytes(hashlib.sha256(text.encode()).digest()[:16])))


def inclusion(sizes: Floats, costs: Floats, budget: float) -> Floats:
    """Probabilities [N, H] in proportion to ``sizes`` [N, H], none above 1, of expected cost ``budget``.

    ``costs`` [N] are those of a row of any head. A row of size 0 has probability 0; all others have 1 if the budget
    covers them.
    """
    every = np.broadcast_to(costs[:, None], sizes.shape)
    certain = np.zeros(sizes.shape, dtype=bool)
    while budget < every[sizes > 0].sum():
        rest = float((sizes * every)[~certain].sum())
        scale = (budget - every[certain].sum()) / rest
        more = ~certain & (sizes * scale >= 1)
        if not more.any():
            return np.where(certain, 1.0, sizes * scale)
        certain |= more
    return (sizes > 0).astype(np.float64)


def draw(order: Integers, probability: Floats, random: np.random.Generator) -> Draw:
    """Draw of the rows of one head that ``order`` [N] lists, so that neighbours are alike; ``probability`` is by row.

    Strata are stretches of equal expected number of rows, so a row is drawn with about its probability; the exact one,
    min(1, 2 / N) for a stratum of N rows, is what :func:`estimate` weights by. All are drawn if all are certain.
    """
    wanted = probability[order]
    if len(order) == 0 or wanted.min() >= 1:
        return Draw(order, np.arange(len(order)), np.ones(len(order), dtype=np.int64))
    expected = wanted.cumsum()
    number = max(1, round(float(expected[-1]) / PER_STRATUM))
    middle = (expected - wanted / 2) / expected[-1]
    starts = np.flatnonzero(np.diff((middle * number).astype(np.int64), prepend=-1))
    sizes = np.diff(starts, append=len(order))
    one = (random.random(len(sizes)) * sizes).astype(np.int64)
    # another of those that are left; a stratum of one row has none
    two = (random.random(len(sizes)) * (sizes - 1)).astype(np.int64)
    two += two >= one
    place = np.stack([starts + one, starts + two], axis=1)
    drawn = np.stack([np.full(len(sizes), True), sizes > 1], axis=1)
    return Draw(order[place[drawn]], np.nonzero(drawn)[0], sizes)


def estimate(drawn: Draw, values: Floats) -> Estimated:
    """Sums over all rows of the head, from ``values`` [n, V] of the rows drawn."""
    number = np.bincount(drawn.stratum)
    means = _sums(drawn.stratum, values, len(drawn.sizes)) / number[:, None]
    apart = values - means[drawn.stratum]
    weight = drawn.sizes**2 * (1 - number / drawn.sizes) / number / np.maximum(number - 1, 1)
    covariance = (apart * weight[drawn.stratum, None]).T @ apart
    return Estimated((drawn.sizes[:, None] * means).sum(axis=0), covariance)


def _sums(group: Integers, values: npt.NDArray, groups: int) -> Floats:
    """Sums of the rows of ``values`` [n, V] by group: [groups, V]."""
    return np.stack([np.bincount(group, column, groups) for column in values.T], axis=1).astype(np.float64)


@dataclass(frozen=True)
class Prediction:
    """What the pilot says of a window's rows, from the token and the position of each.

    A row's values are predicted as a coefficient of its token and range of positions, times the mean curve of the
    pilot over positions.
    """

    tokens: Integers
    """Token ids that the pilot has seen, ascending [U]."""
    coefficients: npt.NDArray[np.float32]
    """Shape [ranges, U + 1, H, V]; the last token is any that was not seen."""
    curves: npt.NDArray[np.float32]
    """Mean of each value by position [T, H, V]."""
    deviations: npt.NDArray[np.float32]
    """How far rows of a token are from like rows, in what they add to the score [U + 1, H]."""
    rank: npt.NDArray[np.int32]
    """Place of each token among all, by what its rows are predicted to add to the score [U + 1]."""

    def arrays(self) -> dict[str, npt.NDArray]:
        """The tables by name, to be stored."""
        return dict(vars(self))

    def values(self, tokens: npt.NDArray, positions: Integers) -> npt.NDArray[np.float32]:
        """The predicted values [N, H, V] of the rows at ``positions`` [N] of a window with these ``tokens`` [T]."""
        part = ranges(len(tokens))[positions]
        return self.coefficients[part, self._columns(tokens[positions])] * self.curves[positions]

    def order(self, tokens: npt.NDArray, positions: Integers, first: int) -> Integers:
        """Rows before ``first`` apart; then by token, tokens that are alike side by side, then by position [N]."""
        rank = self.rank[self._columns(tokens[positions])]
        return np.lexsort((positions, rank, positions >= first)).astype(np.int64)

    def sizes(self, tokens: npt.NDArray, positions: Integers, first: int) -> Floats:
        """What the probability to draw a row should be in proportion to, by head [N, H].

        Rows before ``first`` add nothing to the score.
        """
        sizes = self.deviations[self._columns(tokens[positions])] * (positions >= first)[:, None].astype(np.float64)
        return np.maximum(sizes, max(FLOOR * float(sizes.mean()), np.finfo(float).tiny))

    def _columns(self, tokens: npt.NDArray) -> Integers:
        """Where the tokens stand in the tables."""
        place = np.searchsorted(self.tokens, tokens)
        known = self.tokens[np.minimum(place, len(self.tokens) - 1)] == tokens
        return np.where(known, place, len(self.tokens)).astype(np.int64)


def ranges(length: int) -> Integers:
    """The range of positions that each of ``length`` rows belongs to."""
    return np.arange(length) * RANGES // length


def fit(tokens: npt.NDArray, values: npt.NDArray[np.float32], influence: Floats, first: int) -> Prediction:
    """Tables from the rows of a pilot: ``tokens`` [W, T] and ``values`` [W, T, H, V] of every row.

    ``influence`` [H, V] is what a unit of each value adds to a window's score, to which rows from ``first`` on add.
    Curves and coefficients are fitted by least squares, a coefficient drawn towards its token's and its range's.
    Deviations are those of one half of the windows from what the other half predicts, within rows of one token that are
    neighbours.
    """
    seen, column = np.unique(tokens, return_inverse=True)
    column = column.reshape(tokens.shape)
    coefficients, curves = _fit_all(column, values, len(seen))
    levels = np.einsum("buhv,hv,hv->u", coefficients, curves.mean(axis=0), influence)
    rank = np.argsort(np.argsort(levels, kind="stable"), kind="stable").astype(np.int32)
    used = influence.any(axis=0)
    deviations = _deviations(column, values[..., used], influence[:, used], len(seen), first)
    return Prediction(seen.astype(np.int64), coefficients, curves, deviations, rank)


def _fit_all(
    column: Integers, values: npt.NDArray[np.float32], num_tokens: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Coefficients [ranges, U + 1, H, V] and curves [T, H, V]."""
    _, T, H, V = values.shape
    cell = (ranges(T) * (num_tokens + 1) + column).ravel()
    coefficients = np.empty((RANGES, num_tokens + 1, H, V), dtype=np.float32)
    curves = np.empty((T, H, V), dtype=np.float32)
    for h, v in np.ndindex(H, V):
        curve = _curve(values[:, :, h, v].mean(axis=0, dtype=np.float64))
        curves[:, h, v] = curve
        coefficients[:, :, h, v] = _fit_one(cell, values[:, :, h, v], curve, num_tokens + 1)
    return coefficients, curves


def _curve(mean: Floats) -> Floats:
    """A mean by position [T] smoothed where it is not 0: averages of some positions, straight lines between them."""
    curve = np.zeros(len(mean))
    if not mean.any():
        return curve
    first = int(np.flatnonzero(mean)[0])
    rest = mean[first:]
    step = max(1, min(CURVE_STEP, len(rest) // 8))
    points = len(rest) // step
    averages = rest[: points * step].reshape(points, step).mean(axis=1)
    centres = np.arange(points) * step + (step - 1) / 2
    place = np.arange(len(rest))
    curve[first:] = np.interp(place, centres, averages)
    if points > 1:
        early = place < centres[0]
        slope = (averages[1] - averages[0]) / step
        curve[first:][early] = np.maximum(averages[0] + slope * (place[early] - centres[0]), 0.0)
    return curve


def _fit_one(cell: Integers, values: npt.NDArray[np.float32], curve: Floats, num_columns: int) -> Floats:
    """Coefficients [ranges, columns] on a curve."""
    on = np.broadcast_to(curve, values.shape).ravel()
    shape = (RANGES, num_columns)
    squares = np.bincount(cell, on * on, minlength=RANGES * num_columns).reshape(shape)
    products = np.bincount(cell, on * values.ravel(), minlength=RANGES * num_columns).reshape(shape)
    rows = np.bincount(cell, minlength=RANGES * num_columns).reshape(shape).sum(axis=1, keepdims=True)
    tiny = np.finfo(float).tiny
    unit = np.maximum(squares.sum(axis=1, keepdims=True) / rows, tiny)
    of_range = products.sum(axis=1, keepdims=True) / np.maximum(squares.sum(axis=1, keepdims=True), tiny)
    of_token = ((products - squares * of_range) / unit).sum(axis=0) / ((squares / unit).sum(axis=0) + 1)
    return (products + SHRINKAGE * unit * (of_range + of_token)) / (squares + SHRINKAGE * unit)


def _deviations(
    column: Integers, values: npt.NDArray[np.float32], influence: Floats, num_tokens: int, first: int
) -> npt.NDArray[np.float32]:
    """Root mean square deviation of each token's rows, from ``first`` on, by head [U + 1, H]."""
    W, T, H, _ = values.shape
    apart = np.zeros((W, T - first, H))
    expected = np.zeros((W, T - first), dtype=np.int64)
    halves = [np.arange(W) % 2 == half for half in (0, 1)] if W > 1 else [np.array([True])] * 2
    for here, there in (halves, halves[::-1]):
        coefficients, curves = _fit_all(column[there], values[there], num_tokens)
        predicted = coefficients[ranges(T)[first:], column[here, first:]] * curves[first:]
        apart[here] = np.einsum("wthv,hv->wth", values[here, first:] - predicted, influence)
        expected[here] = 2 * np.bincount(column[there].ravel(), minlength=num_tokens)[column[here, first:]]
    column = column[:, first:]
    counts = np.bincount(column.ravel(), minlength=num_tokens + 1)
    square = np.stack([_within_neighbours(one, tokens) for one, tokens in zip(apart, column, strict=True)]) ** 2
    group = np.digitize(expected, CLASSES)
    classes = len(CLASSES) + 1
    of_class = _sums(group.ravel(), square.reshape(-1, H), classes)
    of_class /= np.maximum(1, np.bincount(group.ravel(), minlength=classes))[:, None]
    prior = of_class[np.digitize(counts, CLASSES)]
    sums = _sums(column.ravel(), square.reshape(-1, H), num_tokens + 1)
    mixed = (sums + NEIGHBOURS * prior) / (counts + NEIGHBOURS)[:, None]
    return np.sqrt(np.where(counts[:, None] < RARE, prior, mixed)).astype(np.float32)


def _within_neighbours(values: Floats, column: Integers) -> Floats:
    """Deviations [T, H] from the mean of the neighbours of one token, scaled to keep their variance."""
    order = np.lexsort((np.arange(len(column)), column))
    result = np.zeros_like(values)
    for part in _parts(order):
        apart = values[part] - values[part].mean(axis=0)
        result[part] = apart * np.sqrt(len(part) / max(1, len(part) - 1))
    return result


def _parts(order: Integers) -> Iterator[Integers]:
    yield from np.array_split(order, max(1, len(order) // NEIGHBOURS))


def influence(s1: Floats, s2: Floats, sources: Sequence[str], cells: float, alpha: float) -> tuple[Floats, Floats]:
    """What a unit of mass and of square in a head adds to a window's score: each [H], from pilot sums [W, H].

    Linear part of ``z(strength) - alpha * z(variance)``; standard deviations are those within sources.
    """
    heads = s1.shape[1]
    strength, variance = s1.mean(axis=1), (s2 - s1**2 / cells).mean(axis=1)
    of_mass = 1 / (heads * _spread(strength, sources))
    of_square = alpha / (heads * _spread(variance, sources))
    return of_mass + of_square * 2 * s1.mean(axis=0) / cells, np.full(heads, -of_square)


def _spread(values: Floats, sources: Sequence[str]) -> float:
    """Standard deviation within sources; over all of them where that is 0, and 1 where that is 0 too."""
    labels = np.asarray(sources)
    within = np.concatenate([values[labels == source] - values[labels == source].mean() for source in set(sources)])
    return float(np.sqrt(np.mean(within**2)) or values.std() or 1.0)
