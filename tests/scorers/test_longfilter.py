"""LongFilter by hand: a window of four tokens, two of them with a short context to compare with."""

from dataclasses import replace

import numpy as np
import pytest

from longattn.expressions import evaluate
from longattn.records import Window
from longattn.scorers import LongFilter, Seen, ShortContext, TokenScores, WholeWindow

WINDOW = Window("d", "s", 0, np.arange(4, dtype=np.uint32), 0, 4, 4)


def predicted(*probabilities):
    """Scores of tokens that had these probabilities."""
    return TokenScores(np.log(np.array(probabilities, np.float32)), np.ones(len(probabilities), bool))


@pytest.fixture
def columns():
    """Tokens 1, 2, 3 had probabilities 1/2, 1/4, 1/2 in the window; tokens 2 and 3 had 1/8 and 1/2 from two before."""
    scorer = LongFilter(context=2, step=1).for_length(4)
    whole, short = [predicted(1 / 2, 1 / 4, 1 / 2)], [predicted(1 / 8), predicted(1 / 2)]
    seen = Seen({}, {WholeWindow(): whole, ShortContext(2, 1): short})
    return scorer, scorer.measure([WINDOW], seen)


def test_the_gain_is_weighted_by_the_probability_of_the_token(columns):
    scorer, measured = columns
    # token 2: 1/4 * (log 1/4 - log 1/8) = log(2) / 4; token 3: nothing; two tokens compared
    assert evaluate(scorer.score(), measured) == pytest.approx([np.log(2) / 8], rel=1e-6)


def test_without_weights_it_is_the_difference_of_the_losses(columns):
    scorer, measured = columns
    plain = replace(scorer, weighted=False)
    assert plain.measurement() == scorer.measurement()
    assert evaluate(plain.score(), measured) == pytest.approx([np.log(2) / 2], rel=1e-6)
    # losses log 4 and log 2
    assert evaluate(scorer.readings()["loss"], measured) == pytest.approx([np.log(8) / 2], rel=1e-6)


def test_contexts_scale_with_the_window_unless_given():
    cheap = LongFilter().for_length(32768)
    assert (cheap.context, cheap.step) == (2048, 6144)
    paper = LongFilter(context=4096, step=1024).for_length(65536)
    assert (paper.context, paper.step) == (4096, 1024)
    assert cheap.measurement() != paper.measurement()


@pytest.mark.parametrize("settings", [{"context": 64}, {"context": 0}, {"step": 0}])
def test_a_context_that_leaves_nothing_to_predict_is_refused(settings):
    with pytest.raises(ValueError, match=r"context must be from 1 to 63|step must be at least 1"):
        LongFilter(**settings).for_length(64)
