"""HeadMask by hand: the relative change of a loss, and where the heads come from."""

import json
from dataclasses import replace

import numpy as np
import pytest

from longattn.errors import PresetError
from longattn.expressions import evaluate
from longattn.records import Window
from longattn.scorers import HeadMask, Seen, TokenScores, WholeWindow

WINDOW = Window("d", "s", 0, np.arange(3, dtype=np.uint32), 0, 3, 3)


def scores(*log_probs):
    return TokenScores(np.array(log_probs, np.float32), np.ones(len(log_probs), bool))


@pytest.mark.parametrize(("relative_to", "expected"), [("base", 0.5), ("masked", 1 / 3), ("nothing", 1.0)])
def test_the_loss_goes_up_by_a_half(relative_to, expected):
    scorer = HeadMask(heads=((1, 0), (0, 2)), relative_to=relative_to).for_length(3)
    masked = WholeWindow(frozenset({(0, 2), (1, 0)}))
    seen = Seen({}, {WholeWindow(): [scores(-1, -3)], masked: [scores(-2, -4)]})
    columns = scorer.measure([WINDOW], seen)
    assert evaluate(scorer.score(), columns) == pytest.approx([expected])
    assert {name: evaluate(r, columns)[0] for name, r in scorer.readings().items()} == {"loss": 2, "masked_loss": 3}


def test_the_heads_are_measured_and_what_the_change_is_divided_by_is_not():
    scorer = HeadMask(heads=((1, 0), (0, 2)))
    assert scorer.measurement() == {"heads": [(0, 2), (1, 0)]}
    assert replace(scorer, relative_to="masked").measurement() == scorer.measurement()
    assert replace(scorer, heads=((0, 2), (1, 0))).measurement() == scorer.measurement()
    assert replace(scorer, heads=((0, 2),)).measurement() != scorer.measurement()


@pytest.fixture
def preset(tmp_path):
    file = tmp_path / "heads.json"
    file.write_text(json.dumps({"model": "0123", "heads": [[3, 1, 0.2], [0, 2, 0.9], [5, 0, 0.4]]}))
    return str(file)


def test_a_preset_names_the_heads(preset):
    every = HeadMask(preset=preset).for_length(64)
    assert every.heads == ((0, 2), (5, 0), (3, 1))
    best = HeadMask(preset=preset, top=2).for_length(64)
    assert best.heads == ((0, 2), (5, 0))
    # the file is not needed any more
    assert best.for_length(64) == best


def test_heads_have_no_default():
    with pytest.raises(ValueError, match="no heads to mask"):
        HeadMask().for_length(64).ask()


def test_heads_and_a_preset_contradict_each_other(preset):
    with pytest.raises(ValueError, match="got both"):
        HeadMask(heads=((0, 0),), preset=preset).for_length(64)


@pytest.mark.parametrize("heads", [None, 3, [[1, 2]], [["a", 2, 3]], [[1, 2, [3]]]])
def test_a_preset_of_another_kind_is_named(tmp_path, heads):
    file = tmp_path / "other.json"
    file.write_text(json.dumps({"heads": heads}))
    with pytest.raises(PresetError, match=r"other.json has no heads as \[layer, head, score\]"):
        HeadMask(preset=str(file)).for_length(64)


@pytest.mark.parametrize("top", [4, 0, -1, 1.5])
def test_more_heads_than_the_preset_has_are_refused(preset, top):
    with pytest.raises(ValueError, match="top must be from 1 to 3"):
        HeadMask(preset=preset, top=top).for_length(64)


def test_a_share_of_the_heads_is_of_all_that_the_model_has(tmp_path):
    """20 heads, of which the preset lists one: 15 % are 3 of them, listed or not."""
    scores = [[0.0] * 4 for _ in range(5)]
    scores[3][1], scores[0][2], scores[4][3] = 0.9, 0.08, 0.05
    file = tmp_path / "heads.json"
    file.write_text(json.dumps({"heads": [[3, 1, 0.9]], "evidence": {"scores": scores}}))
    assert HeadMask(preset=str(file), top=0.15).for_length(64).heads == ((3, 1), (0, 2), (4, 3))
    assert HeadMask(preset=str(file), top=0.01).for_length(64).heads == ((3, 1),)
    paper = HeadMask(preset="smollm2-heads", top=0.05).for_length(64)
    assert len(paper.heads) == 14


def test_a_share_needs_the_scores_of_all_heads(preset):
    with pytest.raises(PresetError, match="or not the scores of all"):
        HeadMask(preset=preset, top=0.05).for_length(64)


def test_the_best_of_a_preset_need_one():
    with pytest.raises(ValueError, match="top is of a preset's heads"):
        HeadMask(heads=((0, 0), (0, 1)), top=1).for_length(64)
