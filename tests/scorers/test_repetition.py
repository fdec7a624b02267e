"""Repetition: counted by hand, and what it says of text that repeats itself."""

import zlib

import numpy as np
import pytest

from longattn.expressions import evaluate
from longattn.records import Window
from longattn.scorers import Repetition, Seen
from longattn.scorers.repetition import compression, new_ngrams


def window(tokens):
    return Window("d", "s", 0, np.asarray(tokens, dtype=np.uint32), 0, 1, len(tokens))


@pytest.mark.parametrize(
    ("tokens", "size", "expected"),
    [
        # 1 2, 2 1, 1 2 again, 2 3
        ([1, 2, 1, 2, 3], 2, 3 / 4),
        ([7, 7, 7, 7], 2, 1 / 3),
        ([7, 7, 7, 7], 4, 1),
        ([1, 2, 3, 1], 1, 3 / 4),
        # ids whose bytes would overlap one place to the left: 256 is 00 01 00 00
        ([0, 1, 0, 256], 1, 3 / 4),
    ],
)
def test_the_share_of_ngrams_that_are_new(tokens, size, expected):
    assert new_ngrams(np.array(tokens, dtype=np.uint32), size) == pytest.approx(expected)


def test_ngrams_are_counted_across_the_whole_window_and_compression_is_not():
    random = np.random.default_rng(0).integers(0, 2**30, 12_000).astype(np.uint32)
    far_copy = np.concatenate([random, random])
    # every start but the 7 that straddle the seam has its twin
    assert new_ngrams(far_copy, 8) == pytest.approx((12_000 - 7 + 7) / (24_000 - 7))
    # the copy is 48,000 bytes back, zlib looks back 32,768
    assert compression(far_copy) > 0.95 * compression(random)
    near_copy = np.concatenate([random[:6000], random[:6000]])
    assert compression(near_copy) < 0.55 * compression(random[:6000])


def test_compression_is_the_size_of_the_packed_token_ids():
    tokens = np.array([1, 2, 3, 70_000], dtype=np.uint32)
    packed = b"\1\0\0\0\2\0\0\0\3\0\0\0\x70\x11\1\0"
    assert compression(tokens) == len(zlib.compress(packed)) / 16


@pytest.mark.parametrize("use", ["ngrams", "compression"])
@pytest.mark.parametrize("size", [4, 8, 16])
def test_windows_that_repeat_themselves_score_lower(use, size):
    random = np.random.default_rng(1)
    fresh = random.integers(0, 1000, 1024)
    windows = [window(tokens) for tokens in (fresh, np.tile(fresh[:512], 2), np.tile(fresh[:64], 16), np.full(1024, 5))]
    scorer = Repetition(use=use, size=size).for_length(1024)
    values = evaluate(scorer.score(), scorer.measure(windows, Seen()))
    assert np.all(np.diff(values) < 0)
    assert np.all((values > 0) & (values <= 1.01))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sizes": (4, 65), "size": 4}, "sizes must be from 1 to 64 for windows of 64 tokens, got 65"),
        ({"size": 5}, r"size must be one of the measured sizes \[4, 8, 16\], got 5"),
    ],
)
def test_what_cannot_be_measured_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Repetition(**settings).for_length(64)
