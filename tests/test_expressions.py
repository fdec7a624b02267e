"""Formulas over columns: exact moments, and what becomes of values that are no numbers."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from longattn.expressions import (
    Column,
    Constant,
    Standardised,
    column,
    columns_of,
    evaluate,
    exp,
    in_table,
    mean_of,
    minmax,
    moments,
    softmax,
    to_sql,
    walk,
    zscore,
)

NUMBERS = st.floats(min_value=-1e300, max_value=1e300)


def test_three_values_by_hand():
    """Mean 2, population variance 2/3."""
    of = moments(np.array([1.0, 2.0, 3.0]))
    assert (of.count, of.mean, of.low, of.high) == (3, 2.0, 1.0, 3.0)
    assert of.deviation == pytest.approx(math.sqrt(2 / 3), rel=1e-15)


def test_zscores_and_minmax_by_hand_within_groups():
    x = np.array([0.0, 2.0, 10.0, 10.0, 30.0])
    groups = ["a", "a", "b", "b", "b"]
    assert evaluate(zscore(column("x")), {"x": x}, groups)[:2].tolist() == [-1.0, 1.0]
    assert evaluate(minmax(column("x")), {"x": x}, groups).tolist() == [0.0, 1.0, 0.0, 0.0, 1.0]
    assert evaluate(minmax(column("x")), {"x": x}).tolist() == [0.0, 2 / 30, 1 / 3, 1 / 3, 1.0]


def test_a_plain_number_may_stand_on_either_side():
    x = np.array([2.0, 4.0])
    of = column("x")
    parts = (1.0 + of, 1.0 - of, 3.0 * of, 1.0 / of, of / 2.0, -of)
    expected = ([3, 5], [-1, -3], [6, 12], [0.5, 0.25], [1, 2], [-2, -4])
    assert tuple(evaluate(part, {"x": x}).tolist() for part in parts) == expected


@given(st.lists(NUMBERS, min_size=1, max_size=20), st.randoms(use_true_random=False))
def test_moments_do_not_depend_on_the_order_of_values(values, random):
    shuffled = random.sample(values, len(values))
    assert moments(np.array(values)) == moments(np.array(shuffled))


@given(st.lists(st.floats(min_value=-1e3, max_value=1e3), min_size=1, max_size=20))
@example([0.0, 2.4e-175])
def test_moments_are_those_of_exact_arithmetic_within_rounding(values):
    exact = [Fraction(v) for v in values]
    mean = sum(exact) / len(exact)
    largest = max(map(abs, values))
    # relative to the largest value, lest the squares underflow
    unit = Fraction(largest or 1.0)
    deviation = math.sqrt(sum(((v - mean) / unit) ** 2 for v in exact) / len(exact)) * float(unit)
    of = moments(np.array(values))
    assert of.mean == pytest.approx(float(mean), rel=1e-15, abs=1e-16 * largest)
    assert of.deviation == pytest.approx(deviation, rel=1e-8, abs=4e-16 * largest)


@pytest.mark.parametrize("factor", [1e-305, 1e-300, 1e-9, 1.0, 1e150, 1e299])
def test_values_of_any_magnitude_are_standardised(factor):
    """Squares of the deviations would underflow or overflow if they were not scaled first."""
    scores = evaluate(zscore(column("x")), {"x": np.array([1.0, 2.0, 3.0]) * factor})
    assert scores.tolist() == pytest.approx([-math.sqrt(1.5), 0.0, math.sqrt(1.5)])


def test_equal_values_are_standardised_to_zero():
    for value in (0.0, 0.1, -3e299, 5e-324):
        x = np.full(7, value)
        assert moments(x).deviation == 0
        assert evaluate(zscore(column("x")) + minmax(column("x")), {"x": x}).tolist() == [0.0] * 7


def test_a_row_with_a_value_that_is_no_number_gets_none_and_moves_no_other():
    x = np.array([1.0, np.nan, 2.0, np.inf, 3.0, -1e301, 4.0])
    y = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, np.nan])
    scores = evaluate(zscore(column("x")) + column("y"), {"x": x, "y": y})
    assert np.isnan(scores).tolist() == [False, True, False, True, False, True, True]
    alone = evaluate(zscore(column("x")), {"x": np.array([1.0, 2.0, 3.0])})
    assert scores[[0, 2, 4]].tolist() == alone.tolist()


def test_a_quotient_by_zero_is_left_out_of_what_it_is_standardised_over():
    columns = {"x": np.array([1.0, 2.0, 3.0, 5.0]), "y": np.array([1.0, 1.0, 1.0, 0.0])}
    scores = evaluate(zscore(column("x") / column("y")), columns)
    assert scores.tolist()[:3] == evaluate(zscore(column("x")), {"x": columns["x"][:3]}).tolist()
    assert math.isnan(scores[3])


def test_softmax_by_hand_within_groups_and_for_values_of_any_size():
    x = np.array([0.0, math.log(3.0), -1e5, 5e4, 5e4])
    shares = evaluate(softmax(column("x")), {"x": x}, ["a", "a", "b", "b", "b"])
    assert shares.tolist() == pytest.approx([0.25, 0.75, 0.0, 0.5, 0.5], rel=1e-15)
    assert evaluate(softmax(column("x")), {"x": np.full(4, 7.0)}).tolist() == [0.25] * 4


def test_powers_of_e_are_those_of_the_c_library_and_too_large_ones_no_numbers():
    x = np.array([-1e300, -1.0, 0.0, 1.0, 690.0, 700.0, 1e300, np.nan])
    found = evaluate(exp(column("x")), {"x": x})
    assert found[:5].tolist() == [0.0, math.exp(-1), 1.0, math.e, math.exp(690)]
    assert np.isnan(found[5:]).all()
    assert evaluate(in_table(exp(column("x")), "t"), {"t.x": np.array([0.0])}).tolist() == [1.0]


def test_list_columns_constants_and_signs():
    heads = np.array([[1.0, 3.0], [5.0, 7.0]])
    mean = mean_of([column("heads", 0), column("heads", 1)])
    assert evaluate(mean, {"heads": heads}).tolist() == [2.0, 6.0]
    assert evaluate(1.0 - 2.0 * mean / 4.0, {"heads": heads}).tolist() == [0.0, -2.0]
    assert evaluate(-mean, {"heads": heads}).tolist() == [-2.0, -6.0]
    with pytest.raises(ValueError, match="at least one"):
        mean_of([])


def test_columns_are_found_once_and_moved_into_a_table():
    expression = zscore(column("a") + column("b")) * column("a")
    assert columns_of(expression) == [Column("a"), Column("b")]
    moved = in_table(expression, "t")
    assert columns_of(moved) == [Column("a", None, "t"), Column("b", None, "t")]
    assert evaluate(moved, {"t.a": np.array([1.0, 2.0]), "t.b": np.zeros(2)}).tolist() == [-1.0, 2.0]


def test_inner_standardised_parts_come_first():
    inner = zscore(column("a"))
    outer = minmax(inner + column("b"))
    assert [node for node in walk(outer) if isinstance(node, Standardised)] == [inner, outer]


def test_constants_reach_sql_with_all_their_digits():
    assert to_sql(Constant(0.1 + 0.2), str, str, str) == "CAST('0.30000000000000004' AS DOUBLE)"


def test_with_a_reference_other_rows_are_placed_on_its_scale():
    columns = {"x": np.array([1.0, 3.0, 100.0, 5.0])}
    reference = np.array([True, True, False, False])
    assert evaluate(zscore(column("x")), columns, reference=reference).tolist() == [-1.0, 1.0, 98.0, 3.0]
    assert evaluate(minmax(column("x")), columns, reference=reference).tolist() == [0.0, 1.0, 49.5, 2.0]
    # a group without a row of the reference has no scale
    alone = evaluate(zscore(column("x")), columns, groups=["a", "a", "a", "b"], reference=reference)
    assert np.isnan(alone[3])
    assert alone[:3].tolist() == [-1.0, 1.0, 98.0]
