"""Documents of the language: what is fixed, what is drawn, and what is said of each token."""

import json

import numpy as np
import pytest

from longattn.reproduce.language import NEW, NO_VALUE, Language
from longattn.tokens import Tokenizer

LANGUAGE = Language(seed=3)


def made(number=40, length=96, in_use=5, rate=0.4, seed=0):
    return LANGUAGE.documents(number, length, in_use=in_use, rate=rate, generator=np.random.default_rng(seed))


def parts(tokens):
    """Which tokens are names, and which are values."""
    names = (tokens >= LANGUAGE.background) & (tokens < LANGUAGE.background + LANGUAGE.names)
    return names, tokens >= LANGUAGE.background + LANGUAGE.names


def test_a_name_is_always_followed_by_its_value_and_keeps_it_for_the_length_of_a_document():
    tokens, _ = made()
    names, values = parts(tokens)
    assert np.array_equal(names[:, :-1], values[:, 1:])
    assert not values[:, 0].any()
    assert not names[:, -1].any()
    for document, named in zip(tokens, names, strict=True):
        places = np.flatnonzero(named)
        meant = {name: {document[p + 1] for p in places if document[p] == name} for name in document[places]}
        assert all(len(values) == 1 for values in meant.values())
        assert len(meant) <= 5


def test_distances_say_how_far_back_the_value_last_stood():
    tokens, distances = made()
    _, values = parts(tokens)
    assert np.array_equal(distances != NO_VALUE, values)
    for document, found in zip(tokens, distances, strict=True):
        for place in np.flatnonzero(found != NO_VALUE):
            # names may share a value, so the name is what is looked for
            earlier = [p + 1 for p in range(place - 1) if document[p] == document[place - 1]]
            assert found[place] == (place - earlier[-1] if earlier else NEW)


def test_what_a_name_means_in_one_document_tells_nothing_of_the_next():
    joined = LANGUAGE.joined(300, 4, 32, in_use=16, rate=0.5, generator=np.random.default_rng(1))
    assert joined.shape == (300, 128)
    names, _ = parts(joined)
    same = total = 0
    for window, named in zip(joined, names, strict=True):
        first = {window[p]: window[p + 1] for p in np.flatnonzero(named[:32])}
        again = [window[p + 1] == first[window[p]] for p in np.flatnonzero(named) if p >= 32 and window[p] in first]
        same, total = same + sum(again), total + len(again)
    assert same / total == pytest.approx(1 / LANGUAGE.values, abs=0.01)


def test_equal_seeds_give_equal_documents_and_another_chain_gives_others():
    assert np.array_equal(made()[0], made()[0])
    assert not np.array_equal(made()[0], made(seed=1)[0])
    other, _ = Language(seed=4).documents(40, 96, in_use=5, rate=0.4, generator=np.random.default_rng(0))
    assert not np.array_equal(made()[0], other)


def test_the_tokenizer_gives_back_the_tokens_that_a_text_was_made_of():
    tokens, _ = made(number=3)
    tokenizer = Tokenizer(LANGUAGE.tokenizer().encode())
    assert tokenizer.vocab_size == len(LANGUAGE.words) == 80
    for document in tokens:
        assert tokenizer.encode(LANGUAGE.text(document.tolist())).ids.tolist() == document.tolist()
    assert json.loads(LANGUAGE.tokenizer())["model"]["type"] == "WordLevel"
