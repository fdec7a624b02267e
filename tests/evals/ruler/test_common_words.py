"""Common words: how often which words stand in the lists of the example and of the question."""

import re
from collections import Counter
from dataclasses import replace

import pytest

from longattn.evals.ruler import RULER
from longattn.evals.tasks import generate
from longattn.evals.words import Words


def lists(prompt):
    """The words of every numbered list, in order; each list begins with 1."""
    found = []
    for number, word in re.findall(r"(\d+)\. (\S+)", prompt):
        if number == "1":
            found.append([])
        found[-1].append(word)
    return found


@pytest.mark.parametrize(("length", "example", "question"), [(2048, (3, 1, 20), (6, 1)), (6000, (10, 3, 40), (30, 3))])
def test_common_words_are_repeated_as_often_as_in_ruler(materials, length, example, question):
    for sample in generate(RULER["cwe"], materials, length, 3).samples:
        shown, solved, asked = lists(sample.prompt)
        often, rarely, different = example
        counts = Counter(shown)
        assert len(counts) == different
        assert {word for word, n in counts.items() if n == often} == set(solved)
        assert set(counts.values()) == {often, rarely}
        counts = Counter(asked)
        assert {word for word, n in counts.items() if n == question[0]} == set(sample.answers)
        assert set(counts.values()) == set(question)
        assert len(sample.answers) == 10


def test_the_order_of_a_list_tells_nothing(materials):
    sample = generate(RULER["cwe"], materials, 2048, 1).samples[0]
    asked = lists(sample.prompt)[-1]
    places = [i / len(asked) for i, word in enumerate(asked) if word in sample.answers]
    assert 0.35 < sum(places) / len(places) < 0.65


def test_a_list_longer_than_the_words_there_are_is_made_of_pairs(materials):
    few = Words("few", tuple(f"noun{i}" for i in range(80)), tuple(f"adjective{i}" for i in range(80)), ("verb",))
    sample = generate(RULER["cwe"], replace(materials, words=few), 4095, 1).samples[0]
    assert all(re.fullmatch(r"adjective\d+-noun\d+", word) for word in lists(sample.prompt)[-1])
    more = replace(materials.wording, more_words=tuple(f"more{i}" for i in range(5000)))
    sample = generate(RULER["cwe"], replace(materials, words=few, wording=more), 4095, 1).samples[0]
    assert all(word.startswith("more") for word in lists(sample.prompt)[-1])


def test_where_room_is_short_there_is_no_example_and_fewer_words(materials):
    made = generate(RULER["cwe"], materials, 256, 2)
    assert made.reduced == {"example": False, "common": 5, "max_new_tokens": made.max_new_tokens}
    for sample in made.samples:
        (asked,) = lists(sample.prompt)
        assert len(sample.answers) == 5 < len(set(asked))
        assert "Which 5 words" in sample.prompt
