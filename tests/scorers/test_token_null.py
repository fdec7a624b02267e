"""Token null: its table worked by hand, what it refuses, and where its distance comes from."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from longattn.records import Window
from longattn.scorers import Seen, TokenNull, token_null


def window(tokens):
    return Window("d", "s", 0, np.asarray(tokens, dtype=np.uint32), 0, 1, len(tokens))


def test_two_windows_of_four_tokens_by_hand(monkeypatch, tmp_path):
    """Two ranges of positions; beside a token's own rows count four of the range's mean.

    First range, rows 0 and 1: token 0 has 0, token 1 has 1/2 three times; the mean of the four is 3/8. Second range,
    rows 2 and 3: token 1 has 1/4 twice, token 2 has 3/4 twice; the mean is 1/2.
    """
    monkeypatch.setattr(token_null, "BUCKETS", 2)
    rows = {(0, 1, 1, 2): [0, 1 / 2, 1 / 4, 3 / 4], (1, 1, 2, 1): [1 / 2, 1 / 2, 3 / 4, 1 / 4]}
    seen = [Seen(layers={0: {"mass": np.array([mass], np.float32)}}) for mass in rows.values()]
    scorer = TokenNull().for_length(4)
    fitted = scorer.fit([window(tokens) for tokens in rows], seen)
    first = [(0 + 4 * 3 / 8) / 5, (3 / 2 + 4 * 3 / 8) / 7, 3 / 8]
    second = [1 / 2, (1 / 2 + 4 * 1 / 2) / 6, (3 / 2 + 4 * 1 / 2) / 6]
    # the last column is for tokens that the sample has not seen
    expected = np.array([[*first, 3 / 8], [*second, 1 / 2]])
    assert fitted["mass"] == pytest.approx(expected, rel=1e-6)

    save_file(fitted, tmp_path / "pilot")
    found = scorer.with_pilot(str(tmp_path / "pilot"), "hash").measure([window([1, 9, 2, 0])], Seen())
    assert found["token_null"].tolist() == pytest.approx([(3 / 7 + 3 / 8 + 7 / 12 + 1 / 2) / 4], rel=1e-6)


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
