"""Words: pairs in the order that a sorted list of all of them would have."""

import random

import pytest

from longattn.errors import ModelError
from longattn.evals import words
from longattn.evals.words import Pairs, load_words


def test_pairs_are_the_sorted_list_of_all_of_them_each_once():
    adjectives = ["self", "blue", "self-made", "sel", "blue", "a-b", "a"]
    nouns = ["man", "made-man", "boat", "b-man", "man"]
    expected = sorted({f"{adjective}-{noun}" for adjective in adjectives for noun in nouns})
    pairs = Pairs(adjectives, nouns)
    # a-b with man, and a with b-man, are one
    assert len(expected) < len(set(adjectives)) * len(set(nouns))
    assert list(pairs) == expected
    assert len(pairs) == len(expected)


def test_pairs_are_drawn_from_as_a_list_is():
    full = sorted(f"{a}-{n}" for a in ("old", "new") for n in ("boat", "mill", "road"))
    pairs = Pairs(["new", "old"], ["mill", "road", "boat"])
    draws = [[random.Random(5).choice(options) for _ in range(9)] for options in (full, pairs)]
    assert draws[0] == draws[1]
    assert random.Random(5).sample(pairs, 4) == random.Random(5).sample(full, 4)


def test_there_is_no_pair_beyond_the_last():
    pairs = Pairs(["old"], ["boat"])
    with pytest.raises(IndexError):
        pairs[1]
    with pytest.raises(TypeError, match="by number"):
        pairs[0:1]
    assert len(Pairs([], ["boat"])) == 0


def test_the_packages_words_make_millions_of_pairs():
    loaded = load_words()
    assert loaded.name.startswith("wonderwords ")
    assert len(loaded.pairs) > 6_000_000
    assert set(loaded.verbs) < set(loaded.all)
    assert list(loaded.all) == sorted(set(loaded.all))


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(words.importlib.util, "find_spec", lambda name: None)
    load_words.cache_clear()
    with pytest.raises(ModelError, match=r"pip install 'longattn\[eval\]'"):
        load_words()
    load_words.cache_clear()
