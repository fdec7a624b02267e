"""LongWanjuan by hand: two chunks, each predicted from two contexts."""

from dataclasses import replace

import numpy as np
import pytest

from longattn.expressions import evaluate
from longattn.records import Window
from longattn.scorers import LongWanjuan, Seen, TokenScores
from longattn.scorers.longwanjuan import ChunkEnds

WINDOW = Window("d", "s", 0, np.arange(18, dtype=np.uint32), 0, 18, 18)


def scores(perplexity, *hits):
    return TokenScores(np.full(len(hits), -np.log(perplexity), np.float32), np.array(hits, bool))


@pytest.fixture
def measured():
    """Perplexities 2 and 4 from the long context, 4 and 16 from the short; 3 of 4 tokens hit, and 1 of 4."""
    scorer = LongWanjuan(chunk=8).for_length(18)
    long = [scores(2, True, True), scores(4, True, False)]
    short = [scores(4, True, False), scores(16, False, False)]
    return scorer, scorer.measure([WINDOW], Seen({}, {ChunkEnds(8, 6): long, ChunkEnds(8, 2): short}))


@pytest.mark.parametrize(
    ("use", "expected"),
    # perplexities are averaged over chunks: 3 and 10
    [("acc_delta", 0.5), ("acc_ratio", 0.5 / 0.75001), ("ppl_delta", 7), ("ppl_ratio", 7 / 10.00001)],
)
def test_the_four_measures(measured, use, expected):
    scorer, columns = measured
    chosen = replace(scorer, use=use)
    assert chosen.measurement() == scorer.measurement()
    assert evaluate(chosen.score(), columns) == pytest.approx([expected], rel=1e-6)


def test_no_hit_at_all_is_still_a_number():
    scorer = LongWanjuan(chunk=8).for_length(8)
    missed = [scores(9, False, False)]
    columns = scorer.measure([WINDOW], Seen({}, {ChunkEnds(8, 6): missed, ChunkEnds(8, 2): missed}))
    assert all(evaluate(reading, columns).tolist() == [0] for reading in scorer.readings().values())


def test_a_chunks_last_quarter_is_predicted_from_the_rest_or_from_as_much_again():
    long, short = LongWanjuan(chunk=8).for_length(18).ask().contexts
    assert [(e.tokens.tolist(), e.first) for e in long.excerpts(WINDOW)] == [
        (list(range(8)), 6),
        (list(range(8, 16)), 6),
    ]
    assert [(e.tokens.tolist(), e.first) for e in short.excerpts(WINDOW)] == [([4, 5, 6, 7], 2), ([12, 13, 14, 15], 2)]


def test_a_chunk_is_the_papers_at_its_length():
    scorer = LongWanjuan().for_length(32768)
    assert scorer.chunk == 4096
    assert scorer.ask().contexts == (ChunkEnds(4096, 3072), ChunkEnds(4096, 1024))


@pytest.mark.parametrize("chunk", [3, 65])
def test_a_chunk_that_the_window_does_not_hold_is_refused(chunk):
    with pytest.raises(ValueError, match=f"chunk must be from 4 to 64 for windows of 64 tokens, got {chunk}"):
        LongWanjuan(chunk=chunk).for_length(64)
