"""LongAttn against a direct computation from the attention map, and its golden numbers."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from longattn.errors import PresetError
from longattn.expressions import evaluate, zscore
from longattn.models import resolve
from longattn.models.base import LayerAttention
from longattn.presets import FOLDER
from longattn.recipes import Recipe
from longattn.records import Window
from longattn.scorers import LongAttn, Seen
from longattn.scorers.longattn import uniform_moments
from longattn.settings import Model
from longattn.verbs import prepare

LENGTH, DISTANCE = 48, 12


def attention_map(q, k, scale):
    """Causal softmax [H, T, T] in float64, with key heads repeated."""
    k = k.double().repeat_interleave(q.shape[2] // k.shape[2], dim=2)
    logits = torch.einsum("bqhk,bthk->bhqt", q.double(), k)[0] * scale
    future = torch.ones(logits.shape[-2:]).triu(1).bool()
    return logits.masked_fill(future, -torch.inf).softmax(-1).numpy()


@pytest.fixture
def seen(generator):
    """Queries and keys of four windows, four heads over two key heads."""
    q, k = (torch.randn(4, LENGTH, heads, 8, generator=generator) * 2 for heads in (4, 2))
    return [LayerAttention(0, q[i : i + 1], k[i : i + 1], 8**-0.5, torch.arange(q.shape[1])) for i in range(4)]


def table(scorer, seen):
    window = Window("d", "s", 0, np.zeros(LENGTH, np.uint32), 0, LENGTH, LENGTH)
    parts = [scorer.measure([window], Seen({0: scorer.observe(attention)})) for attention in seen]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def direct(maps, reading, distance=DISTANCE, skip=0):
    """DS and variance per window, head by head from the map itself."""
    row, key = np.arange(LENGTH)[:, None], np.arange(LENGTH)
    far = (row - key >= distance) & (key >= skip)
    strengths, variances = [], []
    for p in maps:
        masked = np.where(far, p, 0.0)
        strengths.append(np.mean([head.sum() / LENGTH for head in masked]))
        if reading == "square":
            variances.append(np.mean([head.var(ddof=1) for head in masked]))
        elif reading == "block":
            variances.append(np.mean([head[distance:, skip : LENGTH - distance].var() for head in masked]))
        else:
            variances.append(np.mean([head[far].var() for head in p]))
    return np.array(strengths), np.array(variances)


@pytest.mark.parametrize("reading", ["block", "square", "triangle"])
@pytest.mark.parametrize("skip", [0, 3])
def test_strength_and_uniformity_equal_the_map_itself(seen, reading, skip):
    scorer = LongAttn(variance=reading, skip_first=skip).for_length(LENGTH)
    columns = table(scorer, seen)
    strength, variance = direct([attention_map(a.q, a.k, a.scale) for a in seen], reading, skip=skip)
    readings = scorer.readings()
    assert evaluate(readings["ds"], columns) == pytest.approx(strength, rel=1e-5)
    assert evaluate(readings["du"], columns) == pytest.approx(-variance, rel=1e-4)


def test_the_paper_adds_z_scores_and_the_released_code_rescales_to_one(seen):
    maps = [attention_map(a.q, a.k, a.scale) for a in seen]

    def zscore(x):
        return (x - x.mean()) / x.std()

    def minmax(x):
        return (x - x.min()) / (x.max() - x.min())

    columns = table(LongAttn().for_length(LENGTH), seen)
    for convention, reading, rule in (("paper", "block", zscore), ("released", "square", minmax)):
        scorer = LongAttn(convention=convention).for_length(LENGTH)
        strength, variance = direct(maps, reading)
        assert evaluate(scorer.score(), columns) == pytest.approx(rule(strength) + 0.5 * rule(-variance), abs=1e-3)


def test_a_head_set_is_chosen_after_measuring(seen):
    measured = LongAttn(per_head=True).for_length(LENGTH)
    columns = table(measured, seen)
    chosen = LongAttn(per_head=True, heads=((0, 1), (0, 3))).for_length(LENGTH)
    assert chosen.measurement() == measured.measurement()
    strength, variance = direct([attention_map(a.q, a.k, a.scale)[[1, 3]] for a in seen], "block")
    assert evaluate(chosen.readings()["ds"], columns) == pytest.approx(strength, rel=1e-5)
    assert evaluate(chosen.readings()["du"], columns) == pytest.approx(-variance, rel=1e-4)


def test_golden_numbers_of_uniform_attention():
    null = {r: LongAttn(variance=r).for_length(32768).null() for r in ("square", "block", "triangle")}
    assert f"{null['block']['ds']:.8f}" == "0.40343785"
    assert null["square"]["du"] == pytest.approx(-4.410e-10, rel=2e-4)
    assert null["block"]["du"] == pytest.approx(-5.744e-10, rel=2e-4)
    assert null["triangle"]["du"] == pytest.approx(-1.908e-10, rel=3e-4)
    s1, _ = uniform_moments(10**6, 250_000)
    assert s1 / 10**6 == pytest.approx(0.75 + 0.25 * np.log(0.25), abs=1e-6)


def test_only_what_is_measured_enters_the_tables_name():
    plain = LongAttn().for_length(LENGTH)
    for change in ({"alpha": 1.0}, {"convention": "released"}, {"variance": "square"}, {"normalise": "minmax"}):
        assert LongAttn(**change).for_length(LENGTH).measurement() == plain.measurement()
    for change in ({"layers": (1,)}, {"distances": (12, 5)}, {"skip_first": 2}, {"per_head": True}):
        assert LongAttn(**change).for_length(LENGTH).measurement() != plain.measurement()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"distances": (0,)}, r"distance must be in \[1, 48\)"),
        ({"distances": (48,)}, r"distance must be in \[1, 48\)"),
        ({"distances": (4, 8), "distance": 16}, "one of the measured distances"),
        ({"skip_first": 40}, r"distance must be in \[1, 8\)"),
        ({"skip_first": 47}, "skip_first must be from 0 to 46 for windows of 48 tokens, got 47"),
        ({"skip_first": -1}, "skip_first must be from 0 to 46 for windows of 48 tokens, got -1"),
    ],
)
def test_distances_that_cannot_be_measured_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        LongAttn(**change).for_length(LENGTH)


def test_in_a_window_of_one_token_nothing_is_far():
    with pytest.raises(ValueError, match="windows must have at least 2 tokens for attention to reach back, got 1"):
        LongAttn().for_length(1)
    assert LongAttn().for_length(2).null() == {"ds": 0.25, "du": -0.0, "ds@1": 0.25}


def test_choosing_heads_needs_heads():
    with pytest.raises(ValueError, match="per_head=True"):
        LongAttn(heads=((0, 0),)).for_length(LENGTH).readings()


def test_heads_of_several_layers_are_pairs(seen):
    """Two layers that show different maps: head 1 of the first and head 2 of the second are averaged, no others."""
    scorer = LongAttn(layers=(2, 5), per_head=True, heads=((2, 1), (5, 2))).for_length(LENGTH)
    window = Window("d", "s", 0, np.zeros(LENGTH, np.uint32), 0, LENGTH, LENGTH)
    columns = scorer.measure([window], Seen({2: scorer.observe(seen[0]), 5: scorer.observe(seen[1])}))
    maps = [np.stack([attention_map(a.q, a.k, a.scale)[head] for a, head in zip(seen[:2], (1, 2), strict=True)])]
    strength, variance = direct(maps, "block")
    assert evaluate(scorer.readings()["ds"], columns) == pytest.approx(strength, rel=1e-5)
    assert evaluate(scorer.readings()["du"], columns) == pytest.approx(-variance, rel=1e-4)


def test_heads_of_a_layer_that_is_not_measured_are_named():
    with pytest.raises(ValueError, match=r"measured layers \[2\], got \(0, 1\)"):
        LongAttn(layers=(2,), per_head=True, heads=((2, 0), (0, 1))).for_length(LENGTH)


def test_the_sign_of_the_variance_is_chosen_after_measuring(seen):
    columns = table(LongAttn().for_length(LENGTH), seen)
    strength = evaluate(zscore(LongAttn().for_length(LENGTH).readings()["ds"]), columns)
    paper, other = (LongAttn(spread=sign).for_length(LENGTH) for sign in (-1, 1))
    assert other.measurement() == paper.measurement()
    # z(DS) + z(DU)/2 and z(DS) - z(DU)/2 have z(DS) halfway between them
    both = [evaluate(scorer.score(), columns) for scorer in (paper, other)]
    assert (both[0] + both[1]) / 2 == pytest.approx(strength, abs=1e-12)
    assert not np.allclose(*both)


PRESET = {
    "model": "0123456789abcdef",
    "layers": [1, 4],
    "heads": [[1, 0], [4, 3]],
    "distances": [5, "1/4", "1/2"],
    "distance": "1/4",
    "skip_first": 2,
    "spread": 1,
    "alpha": 0.25,
    "evidence": {},
}


def test_a_preset_replaces_what_it_found(tmp_path):
    file = tmp_path / "found.json"
    file.write_text(json.dumps(PRESET))
    scorer = LongAttn(preset=str(file), layers=(7,), convention="released").for_length(LENGTH)
    assert scorer == LongAttn(
        preset=str(file),
        layers=(1, 4),
        heads=((1, 0), (4, 3)),
        per_head=True,
        distances=(5, 12, 24),
        distance=12,
        skip_first=2,
        spread=1,
        alpha=0.25,
        convention="released",
        length=LENGTH,
    )
    assert scorer.measurement()["layers"] == (1, 4)


def test_a_preset_of_retrieval_heads_names_the_heads_and_nothing_else(tmp_path):
    file = tmp_path / "heads.json"
    file.write_text(json.dumps({"model": "0123", "heads": [[4, 3, 0.9], [1, 0, 0.4]], "evidence": {}}))
    scorer = LongAttn(preset=str(file), layers=(7,), skip_first=2, alpha=0.0, distance=12).for_length(LENGTH)
    chosen = LongAttn(layers=(1, 4), heads=((4, 3), (1, 0)), per_head=True, skip_first=2, alpha=0.0, distance=12)
    assert replace(scorer, preset=None) == chosen.for_length(LENGTH)


@pytest.mark.parametrize("same", [True, False])
def test_a_preset_of_another_model_is_said(tmp_path, tiny_model_folder, caplog, same):
    settings = Model(name=str(tiny_model_folder))
    file = tmp_path / "found.json"
    file.write_text(json.dumps(PRESET | ({"model": resolve(settings).hash} if same else {})))
    scorers = replace(Recipe().settings, longattn=LongAttn(preset=str(file)))
    prepare(Recipe(model=settings, settings=scorers), tmp_path / "run")
    assert ("was found on model 0123456789abcdef" in caplog.text) is not same


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no preset"),
        ("layers: 1", "is not JSON"),
        ("[]", "is not a JSON object"),
        ('{"layers": [0], "heads": [[0, 1]]}', "has no distances, distance, skip_first, spread, alpha"),
        ('{"heads": [[0, 1]]}', "has no heads as"),
        ('{"heads": []}', "lists no heads"),
    ],
)
def test_what_is_no_preset_is_said(tmp_path, content, message):
    file = tmp_path / "found.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(PresetError, match=message):
        LongAttn(preset=str(file)).for_length(LENGTH)


@pytest.mark.parametrize(
    ("name", "layers", "skip_first", "alpha", "spread"),
    [("smollm2-far", (15, 17, 18, 19, 21), 4, 0.0, -1), ("smollm2-far-21", (21,), 16, 0.5, 1)],
)
def test_a_preset_that_comes_with_the_package_holds_its_evidence(name, layers, skip_first, alpha, spread):
    """What the study says of it."""
    preset = json.loads((FOLDER / f"{name}.json").read_bytes())
    scorer = LongAttn(preset=name).for_length(2048)
    assert (scorer.layers, scorer.distance, scorer.skip_first) == (layers, 512, skip_first)
    assert (scorer.alpha, scorer.spread) == (alpha, spread)
    evidence = preset["evidence"]
    assert evidence["cost_share"] <= 0.75
    assert evidence["model"]["hash"] == preset["model"]
    splices = [row for row in evidence["separations"] if row["control"] in ("spliced-4", "spliced-8")]
    assert len(splices) == 6
    assert min(row["held_out"][0] for row in splices) >= 0.95
