"""Chunks of several documents, shuffled among each other."""

import re
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longattn.mixing.untying import check, untie
from longattn.settings import Untying


def encode(text):
    """Bytes as tokens, above those of documents."""
    return np.frombuffer(text.encode(), np.uint8).astype(np.uint32) + 10_000


documents_ = st.lists(st.integers(1, 30), min_size=1, max_size=6)
weights = st.tuples(*[st.floats(0.1, 1)] * 4)


def numbered(lengths):
    """Documents of which every token is another."""
    return [np.arange(n, dtype=np.uint32) + 1000 * k for k, n in enumerate(lengths)]


@given(documents_, weights, st.booleans(), st.integers(0, 10**6))
def test_every_token_is_there_once_and_in_the_order_of_its_document(lengths, chunks, backtrace, seed):
    documents = numbered(lengths)
    rule = Untying(chunks=chunks, identifiers=True, backtrace=backtrace)
    done = untie(documents, rule, Random(seed), encode)
    own = done.tokens[done.origin >= 0]
    assert sorted(own.tolist()) == sorted(np.concatenate(documents).tolist())
    for number, document in enumerate(documents):
        assert done.tokens[done.origin == number].tolist() == document.tolist()
    assert done.tokens[done.origin >= 0].tolist()[-1] == documents[-1][-1], "the last chunk of the last stays last"


@given(documents_, weights, st.booleans(), st.integers(0, 10**6))
def test_only_names_are_added_and_documents_are_learned(lengths, chunks, backtrace, seed):
    rule = Untying(chunks=chunks, identifiers=True, backtrace=backtrace)
    done = untie(numbered(lengths), rule, Random(seed), encode)
    assert len(done.tokens) == len(done.origin) == len(done.masked)
    assert (done.tokens[done.origin < 0] >= 10_000).all()
    assert not done.masked[done.origin >= 0].any()


@given(documents_, st.integers(0, 10**6))
def test_without_identifiers_nothing_is_added(lengths, seed):
    done = untie(numbered(lengths), Untying(), Random(seed), encode)
    assert len(done.tokens) == sum(lengths)


def test_chunks_have_names_that_are_told_in_order_behind_the_last():
    rule = Untying(chunks=(0.0, 0.0, 1.0), identifiers=True, backtrace=True)
    done = untie(numbered([40, 40]), rule, Random(3), encode)
    text = "".join(chr(t - 10_000) if o < 0 else "ab"[o] for t, o in zip(done.tokens, done.origin, strict=True))
    for letter in "ab":
        names = [name for name, of in re.findall(r"<D> (\w{6}) </D>\n([ab])", text) if of == letter]
        assert len(names) == 3
        assert f"{letter}\n<S> {' <s> '.join(names)} </S>\n" in text
    learned = "".join(
        chr(t - 10_000) for t, o, m in zip(done.tokens, done.origin, done.masked, strict=True) if o < 0 and not m
    )
    assert "<D>" not in learned, "names before chunks are given, not learned"
    assert learned.count(" </S>\n") == 2, "the names in the list are"


def test_chunks_of_different_documents_come_to_lie_between_each_other():
    rule = Untying(chunks=(0.0, 0.0, 1.0))
    mixed = sum(
        len(np.flatnonzero(np.diff(untie(numbered([40] * 4), rule, Random(s), encode).origin))) > 3 for s in range(20)
    )
    assert mixed == 20


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (Untying(share=1.5), "untie.share must be from 0 to 1"),
        (Untying(chunks=(0.0, 0.0)), "untie.chunks must be weights"),
        (Untying(backtrace=True), "which untie.identifiers gives them"),
    ],
)
def test_settings_that_make_no_sense_are_refused(rule, message):
    with pytest.raises(ValueError, match=message):
        check(rule)
