"""Documents in sequences of one length, none of it empty."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longattn.mixing.packing import Slice, pack

documents = st.lists(st.integers(1, 40), max_size=60)


def packed(lengths, length, lookahead):
    return list(pack(iter(lengths), length, lookahead))


def test_by_hand():
    """10 tokens a sequence. The oldest begins, then the longest that fits; where none does, the longest is cut."""
    assert packed([4, 9, 6, 3], 10, 4) == [
        [Slice(0, 0, 4), Slice(2, 0, 6)],
        [Slice(1, 0, 9), Slice(3, 0, 1)],
    ]
    assert packed([4, 9, 6, 3], 10, 1) == [
        [Slice(0, 0, 4), Slice(1, 0, 6)],
        [Slice(1, 6, 9), Slice(2, 0, 6), Slice(3, 0, 1)],
    ]


@given(documents, st.integers(1, 30), st.integers(1, 10))
def test_sequences_are_full_and_every_token_is_in_one_at_most(lengths, length, lookahead):
    sequences = packed(lengths, length, lookahead)
    assert all(sum(part.num_tokens for part in parts) == length for parts in sequences)
    assert len(sequences) == sum(lengths) // length
    placed = [(part.document, i) for parts in sequences for part in parts for i in range(part.start, part.stop)]
    assert len(set(placed)) == len(placed)
    assert all(0 <= i < lengths[document] for document, i in placed)


@given(documents, st.integers(1, 30), st.integers(1, 10))
def test_a_cut_document_goes_on_where_it_stopped(lengths, length, lookahead):
    ends = dict.fromkeys(range(len(lengths)), 0)
    for part in (part for parts in packed(lengths, length, lookahead) for part in parts):
        assert part.start == ends[part.document]
        ends[part.document] = part.stop


@given(documents, st.integers(1, 30))
def test_one_behind_the_other_is_the_order_given(lengths, length):
    parts = [part for parts in packed(lengths, length, 1) for part in parts]
    assert [part.document for part in parts] == sorted(part.document for part in parts)


@given(st.integers(1, 20), st.integers(1, 9), st.integers(1, 8))
def test_documents_of_the_sequences_length_stay_as_they_are(count, length, lookahead):
    """Selected windows: each is a sequence, in the order drawn."""
    assert packed([length] * count, length, lookahead) == [[Slice(i, 0, length)] for i in range(count)]


def test_looking_ahead_cuts_fewer_documents_and_less_of_each():
    lengths = [1 + i * i % 90 for i in range(500)]
    cuts, pieces = [], []
    for lookahead in (1, 256):
        parts = [part for parts in packed(lengths, 100, lookahead) for part in parts]
        cut = [part for part in parts if part.stop < lengths[part.document]]
        cuts.append(len(cut))
        pieces.append(sum(min(part.num_tokens, lengths[part.document] - part.stop) for part in cut))
    assert cuts[1] < 0.8 * cuts[0], cuts
    assert pieces[1] < 0.3 * pieces[0], pieces


def test_no_document_waits_for_ever():
    """A long one fits into no rest, and begins the next sequence all the same."""
    sequences = packed([50, *[3] * 100], 10, 8)
    assert {part.document for parts in sequences[:5] for part in parts} == {0}


@pytest.mark.parametrize("lookahead", [2, 3, 256])
def test_what_fills_a_sequence_is_never_cut(lookahead):
    """As windows of several runs, some as long as a sequence, some shorter."""
    lengths = [3, 8, 8, 2, 8, 11, 8, 8, 6, 8]
    found = list(pack(iter(lengths), 8, lookahead))
    whole = [number for number, size in enumerate(lengths) if size == 8]
    assert [one[0] for one in found if one[0].document in whole] == [Slice(number, 0, 8) for number in whole]
    assert {len(one) for one in found if one[0].document in whole} == {1}
    assert len(found) == sum(lengths) // 8
