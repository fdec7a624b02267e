"""Needle Threading: what the object holds, and that following it leads to the answers."""

import json
import random

import pytest

from longattn.evals.tasks import generate
from longattn.evals.threads import MARK, THREADS

LENGTH = 3000


def pairs(sample):
    text = sample.prompt.split("every key.\n", 1)[1]
    return json.JSONDecoder().raw_decode(text)[0]


def asked(sample, found):
    """The keys in the question, in its order."""
    question = sample.prompt.rsplit("}\n", 1)[1]
    return [key.strip('"') for key in question.split('"') if key in found]


@pytest.mark.parametrize("name", list(THREADS))
def test_following_values_that_are_keys_ends_at_the_answers(materials, name):
    task = THREADS[name]
    for sample in generate(task, materials, LENGTH, 3).samples:
        found = pairs(sample)
        keys = asked(sample, found)
        if task.kind == "conditional":
            keys = [key for key in found if MARK in key]
        assert len(keys) == task.needles == len(sample.answers)
        ends = []
        for key in keys:
            steps = 0
            while key in found:
                key, steps = found[key], steps + 1
            assert steps == task.steps
            ends.append(key)
        assert tuple(ends) == sample.answers
        assert sample.length <= LENGTH


def chain(sample):
    """Places of the first thread's pairs in the object."""
    found = pairs(sample)
    (key, *_), order, places = asked(sample, found), list(found), []
    while key in found:
        places.append(order.index(key))
        key = found[key]
    return places


def test_threads_run_in_their_direction(materials):
    for name, sign in (("threads_forward", 1), ("threads_backward", -1)):
        places = chain(generate(THREADS[name], materials, LENGTH, 1).samples[0])
        assert places == sorted(places, reverse=sign < 0)
    mixed = [chain(s) for s in generate(THREADS["threads_random"], materials, LENGTH, 6).samples]
    assert any(places not in (sorted(places), sorted(places, reverse=True)) for places in mixed)


def test_clustered_keys_stand_beside_each_other(materials):
    for sample in generate(THREADS["threads_clustered"], materials, LENGTH, 3).samples:
        found = pairs(sample)
        places = [list(found).index(key) for key in asked(sample, found)]
        assert places == list(range(places[0], places[0] + 5))


def test_where_room_is_short_fewer_are_asked_for():
    forms = [(form.needles, form.steps) for form in THREADS["threads_several"].smaller()]
    assert forms == [(1, 2)]
    assert [form.needles for form in THREADS["threads_multiple"].smaller()] == [2, 1]
    assert list(THREADS["threads_single"].smaller()) == []


def test_the_mark_is_in_no_uuid():
    assert MARK not in THREADS["threads_single"].draft(random.Random(1), 50).prompt.split("}\n")[0]
