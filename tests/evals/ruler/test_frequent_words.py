"""Frequent words: ranks two to four of a coded text, whatever the tokenizer."""

from collections import Counter
from dataclasses import replace

import pytest

from longattn.evals.ruler import RULER
from longattn.evals.ruler.frequent_words import LEAST, _is_clear, occurrences
from longattn.evals.tasks import DoesNotFitError, generate


@pytest.mark.parametrize("length", [170, 180, 256, 1024, 4096])
def test_the_three_answers_are_the_most_frequent_words_and_no_fourth_is_as_frequent(materials, length):
    for sample in generate(RULER["fwe"], materials, length, 6).samples:
        text = sample.prompt.split("Dots are no words. ")[1].split("\n")[0]
        counts = Counter(text.split())
        assert counts.pop("...") == max(sample.facts["counts"])
        ranked = counts.most_common(4)
        assert tuple(word for word, _ in ranked[:3]) == sample.answers
        assert len(ranked) == 3 or ranked[2][1] > ranked[3][1]


def test_counts_fall_with_the_square_of_the_rank():
    # 1000 / (pi^2 / 6) = 607.9
    assert [occurrences(1000, rank) for rank in (1, 2, 3, 10)] == [607, 151, 67, 6]


def test_tokens_for_the_answer_are_kept_free(materials):
    made = generate(RULER["fwe"], materials, 1024, 4)
    assert all(materials.count_tokens(sample.text) <= 1024 - 50 for sample in made.samples)


def test_a_text_too_short_to_tell_words_apart_is_an_error(materials):
    assert [_is_clear(size) for size in (LEAST - 1, LEAST, 41, 42, 52, 53)] == [False, True, True, False, False, True]
    letters = replace(materials, count_tokens=len)
    with pytest.raises(DoesNotFitError, match=r"its least text makes it 3.. tokens long, 2.. are free"):
        generate(RULER["fwe"], letters, 256, 1)
