"""A score as a formula over measured columns, so that NumPy and DuckDB compute the same number from one definition.

A scorer's ``score`` returns an :class:`Expression`, written as the paper writes it::

    zscore(column("ds")) + 0.5 * zscore(column("du"))

What a formula needs of other rows is only what :class:`Moments` holds for each group (a source, or the corpus).
Moments merge, and sums are exact: the order of rows, files and threads cannot change a bit of a result.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Rule = Literal["zscore", "minmax", "top", "share"]


class Expression:
    """A number per row; combine with ``+ - * /`` and with plain numbers."""

    def __add__(self, other: "Expression | float") -> "Expression":
        return Binary("+", self, _expression(other))

    def __radd__(self, other: float) -> "Expression":
        return Binary("+", _expression(other), self)

    def __sub__(self, other: "Expression | float") -> "Expression":
        return Binary("-", self, _expression(other))

    def __rsub__(self, other: float) -> "Expression":
        return Binary("-", _expression(other), self)

    def __mul__(self, other: "Expression | float") -> "Expression":
        return Binary("*", self, _expression(other))

    def __rmul__(self, other: float) -> "Expression":
        return Binary("*", _expression(other), self)

    def __truediv__(self, other: "Expression | float") -> "Expression":
        return Binary("/", self, _expression(other))

    def __rtruediv__(self, other: float) -> "Expression":
        return Binary("/", _expression(other), self)

    def __neg__(self) -> "Expression":
        return Binary("*", Constant(-1.0), self)


@dataclass(frozen=True)
class Constant(Expression):
    """The same number in every row."""

    value: float


@dataclass(frozen=True)
class Column(Expression):
    """A measured column, or one element of a list column (a head)."""

    name: str
    index: int | None = None
    table: str | None = None
    """The scorer whose table holds the column; filled in when scorers are combined."""


@dataclass(frozen=True)
class Binary(Expression):
    """Two expressions joined by an arithmetic sign."""

    sign: Literal["+", "-", "*", "/"]
    left: Expression
    right: Expression


@dataclass(frozen=True)
class Exp(Expression):
    """e to the power of an expression."""

    of: Expression


@dataclass(frozen=True)
class Standardised(Expression):
    """An expression on the scale of its group: z-scores (population deviation) or [0, 1], 0 where all are equal; its
    distance from the largest; or its share of the sum, 0 where that is not above 0.
    """

    inner: Expression
    rule: Rule


@dataclass(frozen=True)
class Unit(Expression):
    """What standardising divides by, the same in every row of a group: standard deviation, or range."""

    of: Standardised


def unit(inner: Expression, rule: Rule) -> Expression:
    """The standard deviation (``zscore``) or range (``minmax``) of ``inner`` over the group."""
    return Unit(Standardised(inner, rule))


def column(name: str, index: int | None = None) -> Expression:
    """The measured column called ``name``; with ``index``, that element (0-based) of a list column."""
    return Column(name, index)


def zscore(inner: Expression) -> Expression:
    """(x - mean) / standard deviation over the group (paper, Eq. 8)."""
    return Standardised(inner, "zscore")


def minmax(inner: Expression) -> Expression:
    """(x - min) / (max - min) over the group (what the released LongAttn code does)."""
    return Standardised(inner, "minmax")


def exp(inner: Expression) -> Expression:
    """e to the power of ``inner``; no number beyond about 690, as :data:`LARGEST` says."""
    return Exp(inner)


def softmax(inner: Expression) -> Expression:
    """exp(x) / sum of exp(x) over the group, for x of any size."""
    return Standardised(Exp(Standardised(inner, "top")), "share")


def mean_of(parts: Sequence[Expression]) -> Expression:
    """The mean of several expressions, added up from the left."""
    if not parts:
        raise ValueError("mean_of needs at least one expression, got none")
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total / float(len(parts))


def walk(expression: Expression) -> Iterator[Expression]:
    """Every node, children before parents, so that inner standardisations come first."""
    if isinstance(expression, Binary):
        yield from walk(expression.left)
        yield from walk(expression.right)
    elif isinstance(expression, Standardised):
        yield from walk(expression.inner)
    elif isinstance(expression, (Exp, Unit)):
        yield from walk(expression.of)
    yield expression


def columns_of(expression: Expression) -> list[Column]:
    """The distinct columns that the expression reads, in order of first use."""
    return list(dict.fromkeys(node for node in walk(expression) if isinstance(node, Column)))


def check_index(element: Column, count: int) -> None:
    """Raise ``ValueError`` for an element that a list column of ``count`` numbers a row does not have."""
    if element.index is not None and not 0 <= element.index < count:
        of = f" of table {element.table}" if element.table else ""
        raise ValueError(
            f"column {element.name}{of} has {count} numbers for each window (one for each head, say), from 0 to "
            f"{count - 1}; there is no number {element.index}"
        )


def in_table(expression: Expression, table: str) -> Expression:
    """The same expression with every column taken from ``table``."""
    if isinstance(expression, Column):
        return Column(expression.name, expression.index, table)
    if isinstance(expression, Binary):
        return Binary(expression.sign, in_table(expression.left, table), in_table(expression.right, table))
    if isinstance(expression, Standardised):
        return Standardised(in_table(expression.inner, table), expression.rule)
    if isinstance(expression, Exp):
        return Exp(in_table(expression.of, table))
    if isinstance(expression, Unit):
        return unit(in_table(expression.of.inner, table), expression.of.rule)
    return expression


def to_sql(
    expression: Expression,
    column_sql: Callable[[Column], str],
    standardised_sql: Callable[[Standardised], str],
    unit_sql: Callable[[Standardised], str],
) -> str:
    """The expression as SQL over doubles; how columns, standardised values and units are reached is the caller's."""
    if isinstance(expression, Constant):
        # as text, because DuckDB reads a bare literal as a DECIMAL, which would round differently
        return f"CAST('{expression.value!r}' AS DOUBLE)"
    if isinstance(expression, Column):
        return column_sql(expression)
    if isinstance(expression, Standardised):
        return standardised_sql(expression)
    if isinstance(expression, Unit):
        return unit_sql(expression.of)
    if isinstance(expression, Exp):
        return f"exp({to_sql(expression.of, column_sql, standardised_sql, unit_sql)})"
    assert isinstance(expression, Binary), expression
    left = to_sql(expression.left, column_sql, standardised_sql, unit_sql)
    right = to_sql(expression.right, column_sql, standardised_sql, unit_sql)
    return f"({left} {expression.sign} {right})"


@dataclass(frozen=True)
class Moments:
    """What standardising needs to know of a group's values."""

    count: int
    mean: float
    deviation: float
    """Population standard deviation."""
    low: float
    high: float


LARGEST = 1e300
"""A value of larger magnitude counts as not finite, so that no difference of two values overflows."""

SUM_SCALE = 2.0**60
"""Values in [-4, 4] are added as ``floor(x * SUM_SCALE + 0.5)``, which fits 64 bits; their sum is an exact integer."""


def is_number(values: Array) -> npt.NDArray[np.bool_]:
    """Which values can be standardised: neither NaN nor infinite nor beyond ``LARGEST``."""
    return np.abs(values) <= LARGEST


def power_below(largest: float) -> float:
    """The power of two that brings ``largest`` into [1, 2) when it divides; 1 for zero.

    >>> power_below(0.4), power_below(5e-324)
    (0.25, 5e-324)
    """
    return math.ldexp(1.0, math.frexp(largest)[1] - 1) if largest > 0 else 1.0


def mean_of_sum(total: int, count: int) -> float:
    """The mean of ``count`` values that were added up as integers to ``total``, rounded once."""
    return total / count / SUM_SCALE


def moments(values: Array) -> Moments:
    """Moments of at least one number [N], from exact sums: the order of the values is of no consequence.

    Selection computes the same in DuckDB, sum by sum, and gets the same bits.
    """

    def exact_mean(x: Array) -> float:
        return mean_of_sum(sum(map(int, np.floor(x * SUM_SCALE + 0.5).tolist())), len(x))

    low, high = float(values.min()), float(values.max())
    power = power_below(max(abs(low), abs(high)))
    mean = exact_mean(values / power) * power
    spread = power_below(max(abs(low - mean), abs(high - mean)))
    scaled = (values - mean) / spread
    return Moments(len(values), mean, math.sqrt(exact_mean(scaled * scaled)) * spread, low, high)


def origin_and_unit(rule: Rule, of: Moments) -> tuple[float, float]:
    """What is subtracted from a value and what the rest is divided by; a unit of 0 means that all values are equal."""
    scales = {
        "zscore": (of.mean, of.deviation),
        "minmax": (of.low, of.high - of.low),
        "top": (of.high, 1.0),
        "share": (0.0, of.mean * of.count),
    }
    return scales[rule]


def evaluate(
    expression: Expression,
    columns: Mapping[str, npt.NDArray],
    groups: Sequence[str] | npt.NDArray | None = None,
    reference: npt.NDArray[np.bool_] | None = None,
) -> Array:
    """The expression over a small table in memory: one float64 per row, NaN where a column it reads is not a number.

    ``columns`` maps names (``table.name`` for a column with a table) to arrays [N], or [N, M] for list columns;
    ``groups`` [N] names the group of each row within which values are standardised, None makes all rows one group.
    With ``reference`` [N], only these rows of a group decide its scale, and the others are placed on it. Rows where a
    column that it reads is not a number are no part of any group. Raises ``KeyError`` for a column that is not there,
    ``ValueError`` for an element that a list column does not have.
    """
    num_rows = len(next(iter(columns.values())))
    labels = np.zeros(num_rows, dtype=np.int64) if groups is None else np.asarray(groups)

    def read(node: Column) -> Array:
        data = columns[node.name if node.table is None else f"{node.table}.{node.name}"]
        if node.index is not None:
            check_index(node, data.shape[1])
            data = data[:, node.index]
        return np.asarray(data, dtype=np.float64)

    def value(node: Expression) -> Array:
        if isinstance(node, Constant):
            return np.full(num_rows, node.value)
        if isinstance(node, Column):
            return read(node)
        if isinstance(node, (Standardised, Unit)):
            scaled = node if isinstance(node, Standardised) else node.of
            inner, result = value(scaled.inner), np.full(num_rows, np.nan)
            known = usable & is_number(inner)
            deciding = known if reference is None else known & reference
            for label in np.unique(labels[deciding]):
                rows = known & (labels == label)
                origin, size = origin_and_unit(scaled.rule, moments(inner[deciding & rows]))
                if isinstance(node, Unit):
                    result[rows] = size
                else:
                    result[rows] = (inner[rows] - origin) / size if size > 0 else 0.0
            return result
        if isinstance(node, Exp):
            return _exp(value(node.of))
        assert isinstance(node, Binary), node
        left, right = value(node.left), value(node.right)
        return {"+": np.add, "-": np.subtract, "*": np.multiply, "/": np.divide}[node.sign](left, right)

    # dividing by a column that holds 0 is answered with NaN, as in a database, not with a warning
    with np.errstate(all="ignore"):
        usable = np.logical_and.reduce([is_number(read(node)) for node in columns_of(expression)] or [labels == labels])
        result = value(expression)
        return np.where(usable & is_number(result), result, np.nan)


def _exp(values: Array) -> Array:
    """e to the power of each value, as the C library has it: NumPy's own is not the database's to the bit."""
    largest = math.log(np.finfo(np.float64).max)
    return np.array([math.inf if x > largest else math.exp(x) for x in values.tolist()], dtype=np.float64)


def _expression(value: "Expression | float") -> Expression:
    return value if isinstance(value, Expression) else Constant(float(value))
