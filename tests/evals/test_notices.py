"""Notices: ids, what they say, and which of them a question means."""

import random
import re
from collections import Counter

import pytest

from longattn.evals.notices import _KINDS, _NAMES, COLLECTIONS, MOST, _notices, _stands_out
from longattn.evals.tasks import generate

KIND = {"For": None, "Lost": "loss", "Wanted": "wish"}


def notices(sample):
    """Id and text of each."""
    return dict(re.findall(r"Notice (N\d+)\n(.+)", sample.prompt))


def kind(text):
    return KIND[text.split()[0].rstrip(":")] or ("sale" if text.startswith("For sale") else "hire")


def price(text):
    return re.search(r"(\d+) crowns", text)[1]


@pytest.mark.parametrize("name", ["collections_explicit", "collections_explicit_several"])
def test_notices_are_found_by_their_ids(materials, name):
    for sample in generate(COLLECTIONS[name], materials, 2000, 4).samples:
        found = notices(sample)
        asked = re.findall(r"N\d+", sample.prompt.rsplit("Question: ", 1)[1])
        assert tuple(price(found[one]) for one in asked) == sample.answers
        assert sample.length <= 2000


def test_a_notice_is_found_by_what_it_is_about(materials):
    for sample in generate(COLLECTIONS["collections_semantic"], materials, 2000, 4).samples:
        thing, colour = re.search(r"that is about (.+), (.+)\?", sample.prompt).groups()
        mine = [text for text in notices(sample).values() if f"{thing}, {colour}" in text]
        assert [price(text) for text in mine] == list(sample.answers)


def test_all_notices_of_a_kind_are_asked_for(materials):
    for sample in generate(COLLECTIONS["collections_semantic_several"], materials, 2000, 4).samples:
        wanted = [one for one, text in notices(sample).items() if text.startswith("Wanted")]
        assert tuple(wanted) == sample.answers
        assert len(wanted) == 3


def test_the_most_frequent_kind_takes_all_notices(materials):
    answers = set()
    for sample in generate(COLLECTIONS["collections_global"], materials, 2000, 12).samples:
        counts = Counter(map(kind, notices(sample).values()))
        (first, n), (_, second), *_ = counts.most_common()
        assert n > second
        assert sample.answers == (_NAMES[first],)
        answers |= set(sample.answers)
    assert len(answers) > 1


def test_notices_differ_in_what_they_are_about_and_there_are_only_so_many():
    found = _notices(random.Random(2), 2000)
    assert len({(one.thing, one.colour) for one in found}) == len({one.id for one in found}) == 2000
    with pytest.raises(ValueError, match=f"at most {MOST:,} notices"):
        _notices(random.Random(2), MOST + 1)
    assert not _stands_out([])
    assert not _stands_out(["sale", "loss"])
    assert _stands_out([*_KINDS, "wish"])
