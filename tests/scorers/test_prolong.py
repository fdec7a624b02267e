"""ProLong by hand: three chunks, and what is drawn from many."""

from dataclasses import replace

import numpy as np
import pytest

from longattn.expressions import evaluate
from longattn.records import Window
from longattn.scorers import ProLong, Seen, TokenScores
from longattn.scorers.prolong import ChunkPairs, Chunks, dependencies


def window(length, doc="d"):
    return Window(doc, "s", 0, np.arange(length, dtype=np.uint32), 0, length, length)


def of_perplexity(value, tokens=3):
    """Scores of tokens whose perplexity is this."""
    return TokenScores(np.full(tokens, -np.log(value), np.float32), np.zeros(tokens, bool))


@pytest.fixture
def measured():
    """Chunks of perplexity 8, 8 and 10; after chunk 0, the second has 4 and the third 10; after chunk 1 it has 8."""
    scorer = ProLong(chunk=4, thresholds=(0.0, 0.1, 0.3)).for_length(12)
    alone, paired = ([of_perplexity(value) for value in values] for values in ((8, 8, 10), (4, 10, 8)))
    seen = Seen({}, {Chunks(4): alone, ChunkPairs(4, 500, 0): paired})
    return scorer, scorer.measure([window(12)], seen)


def specificity_of_the_third():
    """Differences 0 and 2, so shares 1 and e² of 1 + e²; entropy in units of log 2."""
    p = np.exp(2) / (1 + np.exp(2))
    return 1 + (p * np.log(p) + (1 - p) * np.log(1 - p)) / np.log(2)


def test_the_score_adds_strength_and_distance_of_strong_pairs_times_specificity(measured):
    scorer, columns = measured
    # (1, 0): strength 4/8, distance 1/2, specificity 1 for want of another; (2, 1): 2/10, 1/2; (2, 0): strength 0
    expected = (0.5 + 0.5) * 1 + (0.2 + 0.5) * specificity_of_the_third()
    assert evaluate(scorer.score(), columns) == pytest.approx([expected], rel=1e-6)
    readings = {name: evaluate(reading, columns)[0] for name, reading in scorer.readings().items()}
    assert readings["lds_per_pair"] == pytest.approx(expected / 3, rel=1e-6)
    assert readings["share"] == pytest.approx(2 / 3)
    # mean log perplexity of the later chunks alone (8, 10, 10) and in pairs (4, 10, 8)
    assert readings["gain"] == pytest.approx((np.log(8 * 10 * 10) - np.log(4 * 10 * 8)) / 3, rel=1e-6)


@pytest.mark.parametrize(("threshold", "pairs"), [(0.0, 2), (0.1, 2), (0.3, 1)])
def test_the_threshold_is_chosen_after_measuring(measured, threshold, pairs):
    scorer, columns = measured
    chosen = replace(scorer, threshold=threshold, distance_weight=0.0).for_length(12)
    assert chosen.measurement() == scorer.measurement()
    assert evaluate(chosen.readings()["share"], columns) == pytest.approx([pairs / 3])
    strengths = [0.5, 0.2 * specificity_of_the_third()][:pairs]
    assert evaluate(chosen.score(), columns) == pytest.approx([sum(strengths)], rel=1e-5)


def test_specificity_is_none_for_equal_help_and_full_for_help_from_one_chunk():
    later, earlier = np.array([2, 2, 3, 3]), np.array([0, 1, 0, 2])
    _, _, specificity = dependencies(np.full(4, 1e3), np.array([5.0, 5.0, 1e3, 5.0]), later, earlier)
    assert specificity.tolist() == pytest.approx([0, 0, 1, 1], abs=1e-9)


def test_excerpts_are_the_earlier_chunk_and_then_the_later_one():
    excerpts = ChunkPairs(4, None, 0).excerpts(window(14))
    assert [excerpt.tokens.tolist() for excerpt in excerpts] == [
        [0, 1, 2, 3, 4, 5, 6, 7],
        [0, 1, 2, 3, 8, 9, 10, 11],
        [4, 5, 6, 7, 8, 9, 10, 11],
    ]
    # the same three tokens that are predicted of a chunk by itself
    assert {excerpt.first for excerpt in excerpts} == {5}
    assert [excerpt.tokens[excerpt.first :].tolist() for excerpt in Chunks(4).excerpts(window(14))][1] == [5, 6, 7]


def test_the_draw_depends_on_seed_and_window_alone():
    context = ChunkPairs(2, 30, 0)
    later, earlier = context.drawn(window(128))
    again = context.drawn(window(128))
    assert np.array_equal([later, earlier], again)
    pairs = set(zip(later.tolist(), earlier.tolist(), strict=True))
    assert len(pairs) == 30
    assert all(0 <= j < i < 64 for i, j in pairs)
    others = [ChunkPairs(2, 30, 1).drawn(window(128)), context.drawn(window(128, "another"))]
    assert all(set(zip(*map(np.ndarray.tolist, drawn), strict=True)) != pairs for drawn in others)
    # frozen, so that tables measured today and later can be put together
    assert (later[:4].tolist(), earlier[:4].tolist()) == ([4, 7, 9, 11], [1, 6, 4, 8])


def test_every_pair_is_drawn_equally_often():
    counts = np.zeros((6, 6))
    for number in range(2000):
        counts[ChunkPairs(2, 5, 0).drawn(window(12, str(number)))] += 1
    drawn = counts[np.tril_indices(6, -1)]
    # a third of 2000, with a standard error of 21
    assert np.abs(drawn - 2000 / 3).max() < 4 * 21.1


def test_chunks_are_the_papers_or_a_sixteenth_of_a_shorter_window():
    assert [ProLong().for_length(length).chunk for length in (32768, 2048, 1024, 64, 4)] == [128, 128, 64, 4, 2]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"chunk": 40}, "chunk must be from 2 to 32 for windows of 64 tokens, got 40"),
        ({"chunk": 1}, "chunk must be from 2"),
        ({"pairs": 0}, "None takes all"),
        ({"threshold": 0.3}, r"threshold must be one of the measured thresholds \[0.0, 0.05, 0.1, 0.2\], got 0.3"),
    ],
)
def test_what_cannot_be_measured_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ProLong(**settings).for_length(64)
