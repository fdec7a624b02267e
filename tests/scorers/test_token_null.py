"""Token null: what it refuses, and where its distance comes from."""

import pytest

from longattn.scorers import TokenNull


def test_the_distance_is_a_quarter_of_the_window_unless_it_is_named():
    assert TokenNull().for_length(64).distance == 16
    assert TokenNull(distance=5).for_length(64).distance == 5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"windows": 0}, "windows must be at least 1, got 0"),
        ({"distance": 0}, "distance must be from 1 to 63 for windows of 64 tokens, got 0"),
        ({"distance": 64}, "distance must be from 1 to 63"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TokenNull(**settings).for_length(64)
