"""Metrics and intervals by hand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longattn.evals.metrics import cleaned, is_settled, score, wilson


@pytest.mark.parametrize(
    ("answer", "references", "metric", "expected"),
    [
        # each reference counts alike, wherever it stands
        ("4821 and 93", ["4821", "77"], "all", 0.5),
        ("AbC", ["abc"], "all", 1.0),
        ("", ["abc"], "all", 0.0),
        # a reference inside a longer word counts, as in RULER
        ("1234567", ["345"], "all", 1.0),
        # several spellings of one answer: any of them will do
        ("Denver", ["Denver", "Denver, Colorado", "Denver Colorado"], "part", 1.0),
        ("Boulder", ["Denver", "Denver, Colorado"], "part", 0.0),
        ("a b", ["a", "b"], "every", 1.0),
        ("a", ["a", "b"], "every", 0.0),
        ("17 years", ["7"], "every", 0.0),
        ("Ulm [3].", ["ulm", "[3]"], "every", 1.0),
    ],
)
def test_scores(answer, references, metric, expected):
    assert score(answer, references, metric) == expected


@pytest.mark.parametrize(
    ("said", "references", "metric", "settled"),
    [
        # 3 and then 4 are 34, which is wrong; a blank or a full stop ends a number
        (" 3", ["3"], "every", False),
        (" 3 ", ["3"], "every", True),
        (" Kenlo", ["Kenlo"], "every", False),
        (" Kenlo\ufffd", ["Kenlo"], "every", False),
        (" Kenlo, [12]", ["Kenlo", "[12]"], "every", False),
        (" Kenlo, [12].", ["Kenlo", "[12]"], "every", True),
        # RULER takes a part of a word or number
        (" 3", ["3"], "all", True),
        (" 3", ["3", "5"], "all", False),
        (" 3", ["3", "5"], "part", True),
    ],
)
def test_an_answer_is_settled_when_nothing_can_take_its_score_back(said, references, metric, settled):
    assert is_settled(said, references, metric) == settled
    endings = [score(cleaned(said + more), references, metric) for more in ("", "4", "tam", " no", "é")]
    assert not settled or set(endings) == {1.0}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [("  12 \n", "12"), ("a\x00b", "a\nb"), ("\x01a\x1f", "a"), ("a\r\nb", "a\n\nb"), ("ä\x7f", "ä\x7f")],
)
def test_control_characters_become_line_ends(answer, expected):
    assert cleaned(answer) == expected


def test_wilsons_interval_is_the_textbooks():
    # 15 of 20 (Newcombe 1998, table I, method 3: 0.531 to 0.888)
    found = wilson([1.0] * 15 + [0.0] * 5)
    assert (found.value, found.n) == (0.75, 20)
    assert (found.low, found.high) == (pytest.approx(0.5313, abs=1e-4), pytest.approx(0.8881, abs=1e-4))


def test_scores_that_are_all_alike_leave_doubt():
    assert wilson([0.0] * 10).high == pytest.approx(0.2775, abs=1e-4)
    assert wilson([1.0] * 10).low == pytest.approx(0.7225, abs=1e-4)


def test_without_scores_nothing_is_known():
    found = wilson([])
    assert math.isnan(found.value)
    assert (found.low, found.high, found.n) == (0.0, 1.0, 0)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=50))
def test_the_mean_is_within_its_interval(scores):
    found = wilson(scores)
    assert 0 <= found.low <= found.value + 1e-12
    assert found.value - 1e-12 <= found.high <= 1
