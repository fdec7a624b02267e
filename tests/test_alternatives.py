"""What a report is offered to try: the same scores that the flags it names would give."""

from pathlib import Path

import pytest

from longattn.alternatives import measured, score_noise
from longattn.expressions import Column
from longattn.scorers import Length, LongAttn, Repetition, TokenNull
from longattn.settings import Selecting
from longattn.tables import RunFolder

LENGTH = 4096


def of(values: dict) -> dict:
    return {"scored": values, "kept": None}


QUANTITIES = {
    "ds": of({"mean": 0.4, "deviation": 0.01, "low": 0.35, "high": 0.45}),
    "du": of({"mean": -4e-8, "deviation": 2e-9, "low": -5e-8, "high": -3e-8}),
}


def offered(scorers, rule=None, sources=None, dtype="float32"):
    scorers = {name: scorer.for_length(LENGTH) for name, scorer in scorers.items()}
    windows = RunFolder(Path("none")).table("windows", {})
    return measured([], windows, {}, scorers, rule or Selecting(), sources or {}, dtype)


def test_every_setting_that_needs_no_model_is_offered_with_the_flags_that_choose_it():
    effects = {e.flags: e.scores["longattn"] for e in offered({"longattn": LongAttn()}).effects}
    expected = {
        "--longattn.alpha 0": LongAttn(alpha=0.0),
        "--longattn.alpha 1": LongAttn(alpha=1.0),
        "--longattn.distance 256": LongAttn(distance=256),
        "--longattn.distance 512": LongAttn(distance=512),
        "--longattn.distance 2048": LongAttn(distance=2048),
        "--longattn.normalise minmax": LongAttn(normalise="minmax"),
    }
    assert effects == {flags: scorer.for_length(LENGTH).score() for flags, scorer in expected.items()}


def test_what_was_chosen_is_not_offered_again():
    chosen = LongAttn(alpha=1.0, convention="released", distances=(300,), distance=300)
    effects = offered({"longattn": chosen}).effects
    assert [e.name for e in effects] == ["alpha 0", "alpha 0.5", "z-scores"]


def test_a_score_without_longattn_has_nothing_to_vary():
    found = offered({"longattn": LongAttn(), "length": Length()}, Selecting(weights={"length": 1.0}))
    assert found.effects == []
    assert set(found.scores) == {"longattn", "length"}


@pytest.mark.parametrize(
    ("null", "longattn", "known"),
    [
        (TokenNull(), LongAttn(), True),
        (TokenNull(distance=512), LongAttn(distance=512), True),
        (TokenNull(distance=512), LongAttn(), False),
        (TokenNull(layer=3), LongAttn(), False),
        (TokenNull(), LongAttn(layers=(0, 1)), False),
        (TokenNull(), LongAttn(skip_first=4), False),
        (TokenNull(), LongAttn(per_head=True, heads=((0, 1),)), False),
    ],
)
def test_a_bag_of_tokens_explains_only_the_attention_that_it_was_fitted_to(null, longattn, known):
    found = offered({"token_null": null, "longattn": longattn}).token_null
    assert found == (Column("token_null", None, "token_null") if known else None)


def test_readings_of_repetition_are_where_its_table_has_them():
    found = offered({"repetition": Repetition(size=4)}).repetition
    assert found == {"new": Column("new", 0, "repetition"), "compression": Column("compression", None, "repetition")}


def test_noise_is_the_kernels_bound_on_the_scale_of_the_score():
    """DS: 1e-5 · 0.4 / 0.01. DU: 1e-5 · (4e-8 + 3 (4096 · 0.4 / N)²) / 2e-9 with N = 3072 · 3073 / 2, times alpha."""
    scorer = LongAttn().for_length(LENGTH)
    cells = 3072 * 3073 / 2
    expected = 1e-5 * (0.4 / 0.01 + 0.5 * (4e-8 + 3 * (4096 * 0.4 / cells) ** 2) / 2e-9)
    assert score_noise(scorer, "float32", QUANTITIES) == pytest.approx(expected)
    assert score_noise(scorer, "bfloat16", QUANTITIES) == pytest.approx(100 * expected)
    ranges = 1e-5 * (0.4 / 0.1 + 0.5 * (4e-8 + 3 * (4096 * 0.4 / cells) ** 2) / 2e-8)
    minmax = LongAttn(normalise="minmax").for_length(LENGTH)
    assert score_noise(minmax, "float32", QUANTITIES) == pytest.approx(ranges)


def test_where_no_bound_is_known_none_is_given():
    scorer = LongAttn().for_length(LENGTH)
    flat = {**QUANTITIES, "du": of({"mean": 0.0, "deviation": 0.0, "low": 0.0, "high": 0.0})}
    assert score_noise(scorer, "float32", flat) is None
    assert score_noise(scorer, "float32", {"score": QUANTITIES["ds"]}) is None
    sources = {"code": {"quantities": QUANTITIES}, "flat": {"quantities": flat}}
    assert set(offered({"longattn": LongAttn()}, sources=sources).noise) == {"code"}
    both = Selecting(weights={"longattn": 1.0, "length": 1.0})
    assert offered({"longattn": LongAttn(), "length": Length()}, both, sources).noise == {}
