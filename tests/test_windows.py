"""Where windows lie: Algorithm 1 as printed is the oracle, except for a document of exactly one window."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longattn.records import Document, Turn
from longattn.tokens import Tokenized
from longattn.windows import cut, window_starts


def algorithm_1(n: int, W: int) -> list[int]:
    """The paper's pseudo-code, line by line."""
    if n < W:
        return []
    left, right, starts = 0, n, []
    while right - left > 3 * W:
        starts += [left, right - W]
        left, right = left + W, right - W
    D = right - left
    if W < D <= 2 * W:
        starts += [left, right - W]
    elif 2 * W < D <= 3 * W:
        starts += [left, left + (D - W) // 2, right - W]
    return sorted(starts)


@given(st.integers(0, 2000), st.integers(1, 100))
def test_starts_are_those_of_algorithm_1(num_tokens, length):
    expected = [0] if num_tokens == length else algorithm_1(num_tokens, length)
    assert window_starts(num_tokens, length) == expected


@given(st.integers(1, 2000), st.integers(1, 100))
def test_windows_cover_every_token_of_a_long_enough_document(num_tokens, length):
    covered = {t for start in window_starts(num_tokens, length) for t in range(start, start + length)}
    assert covered == (set(range(num_tokens)) if num_tokens >= length else set())


@pytest.mark.parametrize("num_tokens", [9, 10, 11, 20, 21, 30, 31])
def test_cut_records_overlaps_and_spans(num_tokens):
    ids = np.arange(num_tokens, dtype=np.uint32)
    spans = np.arange(num_tokens, dtype=np.uint32)
    document = Document("d", "s", "x" * 3 * num_tokens, "f", 7)
    windows = cut(document, Tokenized.of((ids, 3 * spans, 3 * spans + 3)), 10)
    assert [w.start for w in windows] == window_starts(num_tokens, 10)
    end = 0
    for window in windows:
        assert window.tokens.tolist() == list(range(window.start, window.start + 10))
        assert (window.char_start, window.char_end) == (3 * window.start, 3 * window.start + 30)
        assert window.overlap == max(0, end - window.start)
        assert window.id == f"d@{window.start}"
        assert (window.source, window.file, window.position, window.doc_tokens) == ("s", "f", 7, num_tokens)
        end = window.start + 10


def test_a_length_below_one_is_refused():
    with pytest.raises(ValueError, match="length must be at least 1, got 0"):
        window_starts(5, 0)


def test_a_sample_without_tokens_is_no_window():
    nothing = np.empty(0, np.uint32)
    document = Document("d", "s", "\u200b", "f", 0, turns=(Turn("user", 0, 1),))
    assert cut(document, Tokenized.of((nothing, nothing, nothing)), 10) == []
