"""MinHash: which runs of tokens are shingles, and what it refuses."""

import numpy as np
import pytest

from longattn.scorers import MinHash
from longattn.scorers.minhash import shingle_hashes


def test_equal_shingles_have_equal_hashes_wherever_they_stand():
    hashes = shingle_hashes(np.array([1, 2, 3, 1, 2, 3, 4], np.uint32), 3)
    assert len(hashes) == 5
    assert hashes[0] == hashes[3]
    assert len(set(hashes.tolist())) == 4


def test_fewer_tokens_than_a_shingle_are_one():
    assert len(shingle_hashes(np.array([7, 8], np.uint32), 5)) == 1


def test_a_shingle_has_a_token_at_least():
    with pytest.raises(ValueError, match="shingle must be at least 1, got 0"):
        MinHash(shingle=0).for_length(64)
