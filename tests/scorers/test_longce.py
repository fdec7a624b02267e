"""LongCE by hand: weights and key tokens of three tokens that have a short context."""

from dataclasses import replace

import numpy as np
import pytest

from longattn.expressions import evaluate
from longattn.records import Window
from longattn.scorers import LongCE, Seen, ShortContext, TokenScores, WholeWindow

WINDOW = Window("d", "s", 0, np.arange(5, dtype=np.uint32), 0, 5, 5)


def scores(*log_probs):
    return TokenScores(np.array(log_probs, np.float32), np.ones(len(log_probs), bool))


@pytest.fixture
def columns():
    """Log-probabilities -9, -1, -3, -0.5 in the window; the last three were -4, -5.5, -1 from a short context.

    The long-short differences are then 3, 2.5 and 0.5.
    """
    scorer = LongCE(context=2, step=2, alphas=(0.0, 2.0, 2.5)).for_length(5)
    short = [scores(-4, -5.5), scores(-1)]
    seen = Seen({}, {WholeWindow(): [scores(-9, -1, -3, -0.5)], ShortContext(2, 2): short})
    return scorer, scorer.measure([WINDOW], seen)


@pytest.mark.parametrize(
    ("gamma", "weights"),
    # exp(3) = 20.1 and exp(2.5) = 12.2 are above every limit, exp(0.5) = 1.65 below
    [(2.0, 2 + 2 + np.exp(0.5)), (5.0, 5 + 5 + np.exp(0.5)), (10.0, 10 + 10 + np.exp(0.5))],
)
def test_weights_are_cut_off_at_gamma_and_averaged(columns, gamma, weights):
    scorer, measured = columns
    chosen = replace(scorer, gamma=gamma)
    assert chosen.measurement() == scorer.measurement()
    assert evaluate(chosen.score(), measured) == pytest.approx([weights / 3], rel=1e-6)


@pytest.mark.parametrize(
    ("alpha", "keys", "loss"),
    # the second of the three is no key token at any alpha: its log-probability, -3, is below beta
    [(0.0, 2, 1.5), (2.0, 1, 1.0), (2.5, 1, 1.0)],
)
def test_key_tokens_gain_more_than_alpha_and_are_likelier_than_beta(columns, alpha, keys, loss):
    scorer, measured = columns
    chosen = replace(scorer, alpha=alpha, use="key_share")
    assert evaluate(chosen.score(), measured) == pytest.approx([keys / 3])
    assert measured["key_loss"][0][scorer.alphas.index(alpha)] == pytest.approx(loss)


def test_a_difference_of_exactly_alpha_is_not_enough():
    scorer = LongCE(context=1, step=2, beta=-9.0).for_length(3)
    seen = Seen({}, {WholeWindow(): [scores(-1, -1)], ShortContext(1, 2): [scores(-3, -3.5)]})
    window = Window("d", "s", 0, np.arange(3, dtype=np.uint32), 0, 3, 3)
    assert scorer.measure([window], seen)["key_tokens"][0].tolist() == [2, 2, 1]


def test_a_hopeless_short_context_is_still_a_number():
    scorer = LongCE(context=1, step=1).for_length(2)
    seen = Seen({}, {WholeWindow(): [scores(-1e-3)], ShortContext(1, 1): [scores(-1e6)]})
    window = Window("d", "s", 0, np.arange(2, dtype=np.uint32), 0, 2, 2)
    assert evaluate(scorer.score(), scorer.measure([window], seen)) == pytest.approx([5.0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gamma": 4.0}, r"gamma must be one of the measured gammas \[2.0, 5.0, 10.0\], got 4.0"),
        ({"alpha": 3.0}, "alpha"),
    ],
)
def test_only_what_is_measured_can_be_chosen(settings, message):
    with pytest.raises(ValueError, match=message):
        LongCE(**settings).for_length(64)
