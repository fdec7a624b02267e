"""Biographies: every question can be answered from the text, and only where it should be."""

import datetime
import random
import re

import pytest

from longattn.evals.biographies import _TELL, BIOGRAPHIES, TODAY, UNKNOWN, Person, _people
from longattn.evals.tasks import generate


def biographies(sample):
    return sample.prompt.split("\n\n")[1:-1]


@pytest.mark.parametrize("name", ["standard", "multi", "paraphrase", "pronoun", "multihop", "citation"])
def test_answers_stand_in_the_biographies_asked_about(materials, name):
    task = BIOGRAPHIES[f"biographies_{name}"]
    for sample in generate(task, materials, 2500, 4).samples:
        told = biographies(sample)
        place = round(sample.facts["depths"][0] * (len(told) - 1))
        assert sample.answers[0].lower() in told[place].lower()
        assert sample.length <= 2500
        if name != "multi":
            assert len(sample.answers) == (2 if name == "citation" else 1)


def test_each_biography_tells_everything_once(materials):
    sample = generate(BIOGRAPHIES["biographies_standard"], materials, 2500, 1).samples[0]
    for told in biographies(sample):
        assert len(re.findall(r"\. |\.$", told)) == len(_TELL)


def test_what_is_asked_for_is_not_told_where_the_answer_is_that_nobody_says(materials):
    for sample in generate(BIOGRAPHIES["biographies_unknown"], materials, 2500, 4).samples:
        assert sample.answers == (UNKNOWN,)
        told = biographies(sample)
        place = round(sample.facts["depths"][0] * (len(told) - 1))
        assert [len(re.findall(r"\. |\.$", text)) for text in told] == [
            len(_TELL) - (i == place) for i in range(len(told))
        ]
        assert f"answer: {UNKNOWN}." in sample.prompt


def test_the_number_to_cite_is_that_of_the_biography(materials):
    for sample in generate(BIOGRAPHIES["biographies_citation"], materials, 2500, 4).samples:
        value, number = sample.answers
        (mine,) = [told for told in biographies(sample) if told.startswith(number)]
        assert value in mine


def test_who_speaks_of_themselves_is_named_once(materials):
    sample = generate(BIOGRAPHIES["biographies_pronoun"], materials, 2500, 1).samples[0]
    for told in biographies(sample):
        name = told.split(" tells: ")[0]
        assert told.count(name) == 1
        assert "My " in told


def born(sample, name):
    (day,) = re.findall(rf"{name} was born on (\d+ \w+ \d+)\.", sample.prompt)
    return datetime.datetime.strptime(day, "%d %B %Y").date()


def test_ages_are_compared_on_the_day_that_is_named(materials):
    for sample in generate(BIOGRAPHIES["biographies_calculation"], materials, 2500, 4).samples:
        names = re.search(r"ages of (.+) and (.+) differ", sample.prompt).groups()
        ages = [Person("", born(sample, name), {}).age for name in names]
        assert sample.answers == (str(abs(ages[0] - ages[1])),)
    assert Person("", datetime.date(2000, TODAY.month, TODAY.day), {}).age == 25
    assert Person("", datetime.date(2000, 1, 2), {}).age == 24


def test_the_oldest_of_several_is_the_answer(materials):
    for sample in generate(BIOGRAPHIES["biographies_rank"], materials, 2500, 4).samples:
        names = re.search(r"born first: (.+)\?", sample.prompt)[1].split(", ")
        assert sample.answers == (min(names, key=lambda name: born(sample, name)),)


def test_no_two_people_share_what_they_are_found_by():
    people = _people(random.Random(4), 800)
    for values in ([p.name for p in people], *([p.facts[k] for p in people] for k in ("birthplace", "university"))):
        assert len(set(values)) == 800
