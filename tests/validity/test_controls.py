"""Controls are exactly what they are said to be."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longattn.records import Window
from longattn.validity import CONTROLS, Pool
from longattn.validity.controls import CHANGING, LINE, PHRASE, PHRASES


def pieces_of(control, windows):
    by_id = {window.id: window for window in windows}
    return [by_id[p.window].tokens[p.start : p.start + p.length] for p in control.pieces]


@pytest.mark.parametrize("name", CONTROLS)
def test_a_control_has_the_windows_length_and_source_and_an_id_of_its_own(name, make_windows):
    windows = make_windows(length=1024)
    made = [Pool(with_recurring_phrases(windows)).make(name, i) for i in range(3)]
    assert len({control.window.id for control in made}) == 3
    for control, window in zip(made, windows, strict=False):
        assert control.window.tokens.shape == window.tokens.shape
        assert control.window.tokens.dtype == np.uint32
        assert control.window.source == window.source
        assert control.window.doc_tokens == window.doc_tokens
        assert control.window.id.startswith(f"{name}:")


@pytest.mark.parametrize("name", CONTROLS)
def test_a_control_depends_on_windows_and_seed_alone(name, make_windows):
    windows = with_recurring_phrases(make_windows(length=1024))
    first, again = (Pool(windows, seed=5).make(name, 2) for _ in range(2))
    assert np.array_equal(first.window.tokens, again.window.tokens)
    assert first.window.id == again.window.id
    assert first.pieces == again.pieces


@settings(deadline=None, max_examples=60)
@given(st.sampled_from([2, 3, 4, 8, 16]), st.integers(16, 300), st.integers(16, 20), st.integers(0, 15))
def test_a_splice_is_pieces_of_different_documents_at_their_own_places(number, length, documents, i):
    windows = make(documents, length)
    control = Pool(windows).make(f"spliced-{number}", i)
    tokens = control.window.tokens
    assert len(control.pieces) == number
    assert control.pieces[0].window == windows[i].id
    assert len({piece.window.split("@")[0] for piece in control.pieces}) == number
    for piece, part in zip(control.pieces, pieces_of(control, windows), strict=True):
        assert abs(piece.length - length / number) < 1
        assert np.array_equal(tokens[piece.start : piece.start + piece.length], part)
    assert sum(piece.length for piece in control.pieces) == length


def test_all_splices_together_hold_the_tokens_of_all_windows_place_by_place(make_windows):
    windows = make_windows(documents=16)
    made = [Pool(windows).make("spliced-8", i).window.tokens for i in range(16)]
    intact = np.stack([window.tokens for window in windows])
    assert np.array_equal(np.sort(np.stack(made), axis=0), np.sort(intact, axis=0))


def test_a_source_of_too_few_documents_has_no_splice(make_windows):
    windows = make_windows(documents=3, each=10)
    assert Pool(windows).make("spliced-4", 0) is None
    assert Pool(windows).make("spliced-2", 0) is not None
    assert Pool(make_windows(documents=1, each=5)).make("twin", 0) is None


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 100), st.integers(3, 400), st.integers(0, 3))
def test_a_shuffled_window_has_its_chunks_and_no_chunk_its_place(size, length, seed):
    windows = [replace(window, tokens=np.arange(length, dtype=np.uint32)) for window in make(2, length)]
    control = Pool(windows, seed).make(f"shuffled-{size}", 0)
    if length <= size:
        assert control is None
        return
    tokens = control.window.tokens.tolist()
    assert sorted(tokens) == list(range(length))
    assert np.array_equal(np.concatenate(pieces_of(control, windows)), control.window.tokens)
    for piece in control.pieces:
        assert piece.start % size == 0
        assert piece.length == min(size, length - piece.start)
    # a chunk never follows the one before it
    follows = dict(pairwise(tokens))
    assert all(follows.get(start - 1) != start for start in range(size, length, size))


@pytest.mark.parametrize("length", [256, 257])
def test_swapped_is_the_halves_in_the_wrong_order(length, make_windows):
    windows = make_windows(length=length)
    tokens, half = windows[0].tokens, (length + 1) // 2
    made = Pool(windows).make("swapped", 0).window.tokens
    assert np.array_equal(made, np.concatenate([tokens[half:], tokens[:half]]))


def test_repeated_is_one_chunk_over_and_over(make_windows):
    windows = make_windows(length=260)
    made = Pool(windows).make("repeated", 0).window.tokens
    assert np.array_equal(made, np.resize(windows[0].tokens[:32], 260))


def test_boilerplate_is_a_line_with_some_other_tokens_each_time(make_windows):
    windows = make_windows(length=1000)
    made, line = Pool(windows).make("boilerplate", 0).window.tokens, windows[0].tokens[:LINE]
    differing = np.flatnonzero(made != np.resize(line, 1000))
    assert np.array_equal(made[:LINE], line)
    assert len(set(differing % LINE)) == CHANGING
    assert np.isin(made, windows[0].tokens).all()


def test_a_twin_keeps_the_second_half_and_gets_another_documents_first(make_windows):
    windows = make_windows()
    control = Pool(windows).make("twin", 3)
    assert np.array_equal(control.window.tokens[128:], windows[3].tokens[128:])
    other = next(window for window in windows if window.id == control.pieces[0].window)
    assert other.doc_id != windows[3].doc_id
    assert np.array_equal(control.window.tokens[:128], other.tokens[:128])


def test_planted_differs_only_where_a_phrase_of_both_halves_stood_in_the_first(make_windows):
    windows = with_recurring_phrases(make_windows(length=1024))
    control = Pool(windows).make("planted", 4)
    before, after = windows[4].tokens, control.window.tokens
    differing = np.flatnonzero(before != after)
    phrase = {*range(40, 40 + PHRASE), *range(90, 90 + PHRASE)}
    assert set(differing) <= phrase
    assert len(differing) > 0
    assert (differing < 512).all()
    # the phrase is used in the second half, but nowhere introduced
    assert places_of(after, before[40:43]) == [700]
    assert len(control.pieces) <= PHRASES
    (piece,) = control.pieces
    other = next(window for window in windows if window.id == piece.window)
    assert other.doc_id != windows[4].doc_id
    put_in = other.tokens[piece.start : piece.start + PHRASE]
    assert places_of(after, put_in) == [40, 90]
    # of the phrases of the other window the one that stands there equally often
    assert len(places_of(other.tokens, put_in)) == len(places_of(before, before[40:43])) == 3


def test_planted_needs_a_phrase_in_both_halves(make_windows):
    windows = with_recurring_phrases(make_windows(length=1024))
    windows[0] = replace(windows[0], tokens=np.arange(1024, dtype=np.uint32))
    assert Pool(windows).make("planted", 0) is None


def test_a_phrase_of_another_document_is_not_planted(make_windows):
    windows = with_recurring_phrases(make_windows(length=1024))
    common = windows[0].tokens.copy()
    common[300:303] = windows[4].tokens[40:43]
    windows[0] = replace(windows[0], tokens=common)
    assert Pool(windows).make("planted", 4) is None


@pytest.mark.parametrize("name", ["spliced", "spliced-1", "twin-2", "shuffled-x", "nothing", "planted-3"])
def test_an_unknown_control_is_answered_with_the_known_ones(name, make_windows):
    with pytest.raises(ValueError, match="control must be one of spliced-2"):
        Pool(make_windows()).make(name, 0)


def make(documents, length):
    return [
        Window(f"d{d}", "s", 0, (np.arange(length) % 50 + 100 * d).astype(np.uint32), 0, length, length)
        for d in range(documents)
    ]


def with_recurring_phrases(windows):
    """A phrase of each document's own stands twice in the first half and once in the second; nothing else recurs."""
    found = []
    for d, window in enumerate(windows):
        tokens = (np.arange(len(window.tokens)) + 5000 * (d + 1)).astype(np.uint32)
        for place in (90, 700):
            tokens[place : place + PHRASE] = tokens[40 : 40 + PHRASE]
        found.append(replace(window, tokens=tokens))
    assert Counter(w.doc_id for w in found).most_common(1)[0][1] == 1
    return found


def places_of(tokens, phrase):
    width = len(phrase)
    return [k for k in range(len(tokens) - width + 1) if np.array_equal(tokens[k : k + width], phrase)]
