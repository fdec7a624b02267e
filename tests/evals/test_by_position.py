"""Measures over log-probabilities: windows of a few tokens worked by hand, then what must hold of any."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longattn.evals.by_position import (
    doubling_edges,
    far_repeat_gain,
    far_repeat_loss,
    far_repeats,
    late_loss,
    long_ppl,
    long_short_difference,
    loss_by_position,
    mean,
    truncation_gain,
)

# two windows of five tokens: the losses of tokens 1 to 4
LONG = -np.array([[4.0, 3.0, 2.0, 1.0], [2.0, 2.0, 1.0, 0.0]])
# of tokens 2 to 4, from two tokens before them at most
SHORT = -np.array([[3.5, 3.0, 1.5], [2.0, 4.5, 0.5]])
DOCUMENTS = ["a", "b"]


def test_losses_are_averaged_between_edges_that_are_positions_in_the_window():
    found = loss_by_position(LONG, (1, 3, 5), DOCUMENTS)
    assert [(bucket.start, bucket.stop, bucket.loss.value, bucket.loss.tokens) for bucket in found] == [
        (1, 3, pytest.approx((4 + 3 + 2 + 2) / 4), 4),
        (3, 5, pytest.approx((2 + 1 + 1 + 0) / 4), 4),
    ]
    assert late_loss(LONG, 3, DOCUMENTS) == found[1].loss


@pytest.mark.parametrize("edges", [(0, 2), (1, 6), (3, 2), (1, 1, 3), (2,)])
def test_edges_outside_the_window_are_refused(edges):
    with pytest.raises(ValueError, match="edges must ascend from 1 or more to 5 or less"):
        loss_by_position(LONG, edges, DOCUMENTS)


def test_truncation_gain_is_the_short_loss_less_the_long_one_at_late_positions():
    # tokens 3 and 4: 3 - 2, 1.5 - 1 and 4.5 - 1, 0.5 - 0
    assert truncation_gain(LONG, SHORT, 3, DOCUMENTS).value == pytest.approx((1 + 0.5 + 3.5 + 0.5) / 4)
    # before token 2 there is no shorter context than all
    assert truncation_gain(LONG, SHORT, 0, DOCUMENTS).tokens == SHORT.size


def test_a_context_that_is_all_of_the_window_gains_nothing():
    assert truncation_gain(LONG, LONG, 1, DOCUMENTS).value == 0


@pytest.mark.parametrize("short", [SHORT[:1], np.zeros((2, 5)), np.zeros((2, 0))])
def test_a_short_context_of_other_windows_is_refused(short):
    with pytest.raises(ValueError, match="must hold the last tokens of the windows"):
        long_short_difference(LONG, short)


@pytest.mark.parametrize(
    ("text", "distance", "expected"),
    [
        # the second c follows ab as the first does, seven tokens back
        ("abcxyzwabc", 7, "         ^"),
        ("abcxyzwabc", 8, "          "),
        # bc stood nearer, after something else than a: what is copied could be that one
        ("abcxbcwabc", 7, "          "),
        ("abcxbcwabc", 3, "          "),
        # the latest place of the trigram counts, not the first one
        ("abcabcwabc", 7, "          "),
        ("abcabcwabc", 4, "         ^"),
        # each further token of a long repeat is one as well
        ("abcdxyzabcd", 7, "         ^^"),
        ("aaaaaa", 2, "      "),
        ("ab", 1, "  "),
    ],
)
def test_a_far_repeat_finishes_a_trigram_that_nothing_nearer_says(text, distance, expected):
    tokens = np.frombuffer(text.encode(), np.uint8)[None].astype(np.int64)
    assert far_repeats(tokens, distance)[0].tolist() == [sign == "^" for sign in expected]


def by_definition(window, distance):
    """Some place at least ``distance`` back ends the same trigram, and no place after it ends the same bigram."""
    return [
        any(
            window[j - 2 : j + 1] == window[t - 2 : t + 1]
            and all(window[i - 1 : i + 1] != window[t - 1 : t + 1] for i in range(j + 1, t))
            for j in range(2, t - distance + 1)
        )
        for t in range(len(window))
    ]


@given(st.lists(st.integers(0, 3), min_size=2, max_size=40), st.integers(1, 8))
def test_far_repeats_are_those_of_the_definition(window, distance):
    assert far_repeats(np.array([window]), distance)[0].tolist() == by_definition(window, distance)


def test_far_repeats_are_averaged_over_all_windows_alike():
    tokens = np.array([[7, 8, 9, 7, 8, 9], [7, 8, 9, 7, 8, 1]])
    log_probs = -np.array([[1, 1, 1, 1, 5.0], [1, 1, 1, 1, 9.0]])
    loss = far_repeat_loss(log_probs, tokens, 3, DOCUMENTS)
    assert (loss.value, loss.tokens, loss.windows, loss.documents) == (5.0, 1, 1, 1)
    assert far_repeat_gain(log_probs, log_probs[:, 2:] - 2, tokens, 3, DOCUMENTS).value == pytest.approx(2)
    with pytest.raises(ValueError, match="and the first of each window"):
        far_repeat_loss(log_probs, tokens[:, 1:], 3, DOCUMENTS)
    with pytest.raises(ValueError, match="distance must be at least 1, got 0"):
        far_repeats(tokens, 0)


def test_long_ppl_is_over_the_tokens_that_the_evaluator_needs_the_context_for():
    # gains of 0.5, 1, 0.5 and 0, 3.5, 0.5 nats: only one is above 2, and its loss of 1 is below 2
    found = long_ppl(LONG - 1, LONG, SHORT, DOCUMENTS)
    assert (found.value, found.tokens) == (pytest.approx(np.exp(2.0)), 1)
    # at 0.9 nats the token of loss 2 is one by its gain, and is not likely enough
    assert long_ppl(LONG, LONG, SHORT, DOCUMENTS, alpha=0.9).tokens == 1
    assert long_ppl(LONG, LONG, SHORT, DOCUMENTS, alpha=0.9, beta=-2.5).value == pytest.approx(np.exp(1.5))


def test_without_such_tokens_there_is_no_number():
    found = long_ppl(LONG, LONG, SHORT, DOCUMENTS, alpha=9.0)
    assert np.isnan([found.value, found.low, found.high]).all()
    assert found.tokens == 0


def test_intervals_are_of_documents_and_no_window_more_from_one_of_them_narrows_them():
    values = np.array([[1.0], [3.0]])
    once = mean(values, np.ones_like(values, dtype=bool), ["a", "b"])
    often = mean(np.repeat(values, 50, axis=0), np.ones((100, 1), bool), ["a"] * 50 + ["b"] * 50)
    assert (once.low, once.high) == (often.low, often.high) == (1.0, 3.0)
    assert (often.windows, often.documents) == (100, 2)
    apart = mean(np.repeat(values, 50, axis=0), np.ones((100, 1), bool), list(map(str, range(100))))
    assert 1.5 < apart.low < apart.value == 2.0 < apart.high < 2.5


def test_tokens_of_one_document_give_a_mean_without_an_interval():
    values = np.array([[1.0], [3.0]])
    found = mean(values, np.ones_like(values, dtype=bool), ["a", "a"])
    assert (found.value, found.documents) == (2, 1)
    assert np.isnan([found.low, found.high]).all()


def test_intervals_hold_the_true_mean_about_as_often_as_they_say():
    generator = np.random.default_rng(3)
    held = 0
    for seed in range(200):
        values = generator.normal(size=(60, 4)) + generator.normal(size=(60, 1))
        found = mean(values, np.ones_like(values, dtype=bool), list(map(str, range(60))), resamples=300, seed=seed)
        held += found.low <= 0 <= found.high
    # 95 % of 200, less four standard deviations
    assert held >= 178


@given(st.integers(2, 5000), st.integers(1, 64))
def test_doubling_edges_hold_every_position_once(length, first):
    edges = doubling_edges(length, first)
    assert (edges[0], edges[-1]) == (1, length)
    assert list(edges) == sorted(set(edges))


def test_a_window_of_one_token_has_no_edges():
    with pytest.raises(ValueError, match="length must be at least 2"):
        doubling_edges(1)
