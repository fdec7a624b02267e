"""Calibration: nothing is shared between the parts, the statistics are LongAttn's, and a head that sees is found."""

import json
from dataclasses import replace

import numpy as np
import pytest

from longattn import settings, trials
from longattn.errors import LongAttnError
from longattn.measuring import measure_windows
from longattn.models import load_model, resolve
from longattn.recipes import Recipe
from longattn.records import Window
from longattn.scorers import LongAttn
from longattn.validity import calibrating
from longattn.validity.blocks import INTACT
from longattn.validity.calibrating import Rule, Statistics, choose, split
from longattn.validity.far_attention import FarAttention
from longattn.validity.sampling import Intact

RULE = settings.Calibrating(
    share=1.0,
    targets=("spliced-2", "spliced-4"),
    others=("repeated",),
    pairs=8,
    rows=None,
    skips=(4,),
    resamples=50,
    folds=2,
)


@pytest.fixture
def recipe(corpus_inputs, tiny_model_folder):
    return Recipe(
        corpus=settings.Corpus(inputs=corpus_inputs[:1]),
        window=settings.Windowing(length=64),
        model=settings.Model(name=str(tiny_model_folder)),
    )


@pytest.fixture(scope="module")
def model(tiny_model_folder):
    facts = settings.Model(name=str(tiny_model_folder))
    return load_model(resolve(facts), facts, layers=(0, 1), window=64)


def window(seed=0):
    tokens = np.random.default_rng(seed).integers(0, 256, 64).astype(np.uint32)
    return Window(f"d{seed}", "s", 0, tokens, 0, 64, 64)


def test_statistics_are_those_of_longattn(model):
    far = FarAttention(layers=(0, 1), distances=(8, 16), skips=(0, 4))
    found = measure_windows([far], model, [window()])["far_attention"]
    for k, skip in enumerate(far.skips):
        scorer = LongAttn(layers=(0, 1), distances=(8, 16), distance=16, skip_first=skip, per_head=True).for_length(64)
        expected = measure_windows([scorer], model, [window()])["longattn"]
        for kind in ("s1", "s2"):
            sums = found[kind].reshape(2, 4, 2, 2)
            for layer in (0, 1):
                for d, distance in enumerate((8, 16)):
                    want = expected[f"heads_{kind}_l{layer}_d{distance}"][0]
                    assert sums[layer, :, k, d] == pytest.approx(want, rel=1e-6)


def test_a_sample_of_the_rows_stands_for_all(model):
    every, half = (FarAttention(layers=(1,), distances=(8,), num_rows=rows) for rows in (None, 32))
    sums = [measure_windows([far], model, [window()])["far_attention"]["s1"] for far in (every, half)]
    assert sums[1] == pytest.approx(sums[0], rel=0.05)
    assert half._rows(window()).tolist() == list(range(1, 64, 2))


def test_no_document_is_in_both_parts():
    windows = [Intact(replace(window(k), doc_id=f"d{k % 21}"), None) for k in range(80)]
    parts = split(windows, seed=0)
    documents = {part: {one.window.doc_id for one in group} for part, group in parts.items()}
    assert not documents["calibration"] & documents["held_out"]
    assert {len(names) for names in documents.values()} == {10, 11}
    assert sum(map(len, parts.values())) == 80


def made_up(sees, sign=1.0, pairs=24, seed=0):
    """Three layers of two heads, two numbers of skipped keys, four distances; one head sees at one of them."""
    random = np.random.default_rng(seed)
    strength = {group: random.normal(size=(pairs, 3, 2, 2, 4)) for group in (INTACT, "spliced-4", "spliced-8")}
    variance = {group: random.normal(size=(pairs, 3, 2, 2, 4)) for group in strength}
    strength[INTACT][:, *sees] += 4 * sign
    return Statistics("s", [f"d{k}" for k in range(pairs)], strength, variance)


def test_the_head_that_sees_is_found_with_its_distance_and_skip():
    rule, heads, expected = choose([made_up((2, 1, 1, 3))], ("spliced-4", "spliced-8"), 4, 0)
    assert (rule.skip, rule.distance, rule.number, rule.whole_layers) == (1, 3, 1, False)
    assert heads == [(2, 1)]
    assert expected > 0.97


def test_a_window_without_values_has_no_part_in_the_choice():
    whole, holed = made_up((2, 1, 1, 3)), made_up((2, 1, 1, 3), pairs=25)
    for statistic in ("strength", "variance"):
        for group, values in getattr(holed, statistic).items():
            values[:24] = getattr(whole, statistic)[group]
            values[24] = np.nan
    targets = ("spliced-4", "spliced-8")
    assert choose([holed.with_values()], targets, 4, 0) == choose([whole], targets, 4, 0)


def test_a_spread_that_sees_gets_its_sign():
    random = np.random.default_rng(3)
    one = made_up((0, 0, 0, 0), sign=0.0)
    for group in one.variance:
        one.variance[group][:, 1, 0, 0, 2] = random.normal(size=24) + (4.0 if group == INTACT else 0.0)
    rule, heads, _ = choose([one], ("spliced-4", "spliced-8"), 4, 0)
    assert rule.spread == 1
    assert rule.alpha == max(calibrating.ALPHAS)
    assert heads == [(1, 0)]


def test_chance_is_not_taken_for_sight():
    """With 60 heads and nothing to see, the best apparent AUC is high; what folds expect is not."""
    random = np.random.default_rng(0)
    blind = Statistics(
        "s",
        [f"d{k}" for k in range(16)],
        *({g: random.normal(size=(16, 10, 6, 1, 1)) for g in (INTACT, "spliced-4")} for _ in range(2)),
    )
    _, heads, expected = choose([blind], ("spliced-4",), 4, 0)
    layer, head = heads[0]
    apparent = calibrating._alone([blind], ("spliced-4",), Rule(0, 0, -1, 0.0, False, 1)).max()
    assert apparent > 0.75
    assert expected < apparent
    assert (layer, head) in {(a, b) for a in range(10) for b in range(6)}


def test_a_preset_is_written_with_its_evidence(recipe, tmp_path):
    found = trials.calibrate(recipe, tmp_path, tmp_path / "preset.json", RULE, "cpu")
    preset = json.loads((tmp_path / "preset.json").read_bytes())
    assert set(preset) >= {"layers", "heads", "distances", "distance", "skip_first", "spread", "alpha", "model"}
    assert preset["model"] == found.evidence["model"]["hash"]
    rows = preset["evidence"]["separations"]
    assert [(row["source"], row["control"]) for row in rows] == [
        ("many", name) for name in ("spliced-2", "spliced-4", "repeated")
    ]
    for row in rows:
        for part in ("calibration", "held_out"):
            value, low, high = row[part]
            assert 0 <= low <= value <= high <= 1
    assert preset["evidence"]["sources"] == {"many": {"calibration": 8, "held_out": 8}}
    assert preset["evidence"]["cost_share"] == (max(preset["layers"]) + 1) / 2
    trials.calibrate(recipe, tmp_path, tmp_path / "again.json", RULE, "cpu")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "preset.json").read_bytes()


def test_a_share_without_a_layer_is_an_error(recipe, tmp_path):
    with pytest.raises(ValueError, match="share must give 1 to 2 layers"):
        trials.calibrate(recipe, tmp_path, tmp_path / "preset.json", replace(RULE, share=0.1), "cpu")


def test_a_share_is_taken_as_it_is_written_in_decimals():
    """0.58 * 50 is 28.999... in binary."""
    assert calibrating.depth_within(0.58, 50) == 29
    assert calibrating.depth_within(0.1, 9) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"folds": 1}, "folds must be at least 2, got 1"),
        ({"pairs": 0}, "pairs must be at least 2, got 0"),
        ({"resamples": 0}, "resamples must be at least 1, got 0"),
        ({"rows": 0}, "rows must be at least 1, got 0; None looks at all"),
        ({"targets": ()}, "targets must name at least one control"),
        ({"skips": ()}, "skips must name at least one number of keys"),
        ({"skips": (0, 32)}, "skips must be from 0 to 31 for windows of 64 tokens, got 32"),
        ({"skips": (-1,)}, "skips must be from 0 to 31 for windows of 64 tokens, got -1"),
        ({"others": ("tiwn",)}, "control must be one of"),
    ],
)
def test_a_mistake_is_said_before_anything_is_read(change, message):
    with pytest.raises(ValueError, match=message):
        calibrating.check_rule(replace(RULE, **change), 64)


def test_one_document_is_not_enough_to_choose_and_judge():
    random = np.random.default_rng(0)
    values = ({g: random.normal(size=(4, 3, 2, 1, 1)) for g in (INTACT, "shuffled-8")} for _ in range(2))
    with pytest.raises(LongAttnError, match="more documents"):
        choose([Statistics("s", ["a"] * 4, *values)], ("shuffled-8",), 4, 0)


def test_too_few_documents_are_an_error(recipe, corpus_inputs, tmp_path):
    alone = replace(recipe, corpus=settings.Corpus(inputs=corpus_inputs[1:]))
    with pytest.raises(LongAttnError, match=r"one: .*do not allow spliced-2, spliced-4"):
        trials.calibrate(alone, tmp_path, tmp_path / "preset.json", RULE, "cpu")
