"""Needles in a haystack: what is hidden where, and how it is asked for."""

from dataclasses import replace

import pytest

from longattn.evals.haystacks import Haystack, sentences
from longattn.evals.ruler import RULER
from longattn.evals.ruler.niah import DEPTHS
from longattn.evals.tasks import generate
from longattn.evals.wording import OURS


def samples(materials, name, length=1024, count=6):
    return generate(RULER[name], materials, length, count).samples


def needles(sample):
    return [line for line in sample.prompt.split("\n") if line.startswith("One of the secret")]


def test_a_value_stands_under_the_key_that_is_asked_for(materials):
    for sample in samples(materials, "niah_single_1"):
        (key,), (value,) = sample.facts["keys"], sample.answers
        assert needles(sample) == [f"One of the secret numbers of {key} is {value}."]
        assert sample.prompt.endswith(f"Which secret number of {key} does the text give?")
        assert sample.answer_prefix == f" The secret number of {key} that the text gives is"
        assert len(value) == 7
        assert value.isdigit()


def test_lines_that_say_nothing_are_all_alike(materials):
    lines = samples(materials, "niah_single_1")[0].prompt.split("\n")
    assert set(lines[1:-1]) - set(needles(samples(materials, "niah_single_1")[0])) == {OURS.noise}


def test_every_line_can_be_a_needle(materials):
    for name in ("niah_multikey_2", "niah_multikey_3"):
        sample = samples(materials, name)[0]
        lines = sample.prompt.split("\n")[1:-1]
        assert needles(sample) == lines
        assert len(lines) > 5
        assert sum(sample.facts["keys"][0] in line for line in lines) == 1
    assert [len(part) for part in sample.answers[0].split("-")] == [8, 4, 4, 4, 12]


def test_four_keys_one_of_which_is_asked_for(materials):
    for sample in samples(materials, "niah_multikey_1"):
        assert sample.prompt.count("One of the secret numbers of") == 4
        assert len(sample.answers) == len(sample.facts["keys"]) == 1


def test_four_values_of_one_key(materials):
    for sample in samples(materials, "niah_multivalue"):
        (key,) = sample.facts["keys"]
        assert sample.prompt.count(f"One of the secret numbers of {key} is") == 4
        assert len(set(sample.answers)) == 4
        assert sample.answer_prefix == f" The secret numbers of {key} that the text gives are"


def test_four_keys_are_asked_for_at_once(materials):
    for sample in samples(materials, "niah_multiquery"):
        a, b, c, d = sample.facts["keys"]
        assert f"Which secret numbers of {a}, {b}, {c}, and {d} does the text give?" in sample.prompt
        for key, value in zip(sample.facts["keys"], sample.answers, strict=True):
            assert f"One of the secret numbers of {key} is {value}." in sample.prompt


def test_needles_stand_between_sentences_and_nothing_of_the_text_is_lost(materials):
    for sample in samples(materials, "niah_multikey_1"):
        context = sample.prompt.split("\n")[1]
        without = [s for s in sentences(context) if not s.startswith("One of the secret")]
        assert materials.haystack.text.startswith(" ".join(without))


def test_needles_are_spread_from_the_beginning_to_the_end(materials):
    places = [s.facts["answer_at"] / s.length for s in samples(materials, "niah_single_2", count=60)]
    assert min(places) < 0.15
    assert max(places) > 0.7
    assert DEPTHS[0] == 0
    assert DEPTHS[-1] == 100
    assert len(set(DEPTHS)) == 40


def test_the_place_of_an_answer_is_counted_in_tokens(materials):
    sample = samples(materials, "niah_single_2")[0]
    before = sample.prompt[: sample.prompt.index(sample.answers[0])]
    assert sample.facts["answer_at"] == materials.count_tokens(before)


def test_a_text_that_is_too_short_begins_again(materials):
    short = replace(materials, haystack=Haystack("texts", "note", "The tide is out. The tide is in."))
    sample = generate(RULER["niah_single_2"], short, 1024, 1).samples[0]
    assert sample.prompt.count("The tide is out.") > 20
    assert sample.length > 900


def test_where_room_is_short_there_are_fewer_needles_and_the_result_says_so(materials):
    made = generate(RULER["niah_multivalue"], materials, 128, 3)
    assert made.reduced == {"values": made.task.values, "max_new_tokens": made.max_new_tokens}
    assert all(len(sample.answers) == made.task.values for sample in made.samples)


@pytest.mark.parametrize("name", ["niah_single_3", "niah_multikey_3"])
def test_uuids_are_of_the_fourth_kind(materials, name):
    assert {sample.answers[0][14] for sample in samples(materials, name)} == {"4"}
