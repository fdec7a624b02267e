"""Random choice: its draws, which must stay what they are, since runs are compared across versions."""

import numpy as np
import pytest

from longattn.records import Window
from longattn.scorers import Random, Seen


@pytest.mark.parametrize(
    ("seed", "doc_id", "start", "draw"),
    [
        # sha256sum of "0", a zero byte and "essay@0" begins with 038c92be2cf60ccb
        (0, "essay", 0, 0.013863727025601347),
        (0, "essay", 64, 0.41912462857316357),
        (1, "essay", 0, 0.5931980626120018),
    ],
)
def test_a_draw_is_the_beginning_of_a_hash_and_never_another(seed, doc_id, start, draw):
    one = Window(doc_id, "s", start, np.zeros(4, np.uint32), 0, 1, 4)
    assert Random(seed=seed).measure([one], Seen())["random"].tolist() == [draw]
