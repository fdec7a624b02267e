"""Refining a sampled run: it ends with the exact selection, says how sure it is, and goes on where it was stopped."""

import dataclasses
import json
import math
import random
from dataclasses import replace

import numpy as np
import orjson
import pyarrow.parquet as pq
import pytest

from longattn import refining, verbs
from longattn.recipes import Recipe
from longattn.refining import Rows, Standing, doubt, wanted
from longattn.scorers import LongAttn
from longattn.settings import Compute, Corpus, Model, Refining, Selecting, Windowing

INLINE = Compute(workers=0, devices=("cpu",), threads=1)
WORDS = [
    "the",
    "far",
    "key",
    "of",
    "a",
    "row",
    "in",
    "this",
    "window",
    "and",
    "other",
    "words",
    "that",
    "come",
    "+=",
    "(1)",
]


def with_scorer(recipe: Recipe, **settings) -> Recipe:
    return replace(recipe, settings=replace(recipe.settings, longattn=LongAttn(**settings)))


@pytest.fixture
def recipe(tiny_model_folder, tmp_path):
    """Thirty windows of two sources, two of them of one document and nearly the same."""
    chosen = random.Random(5)
    lines = []
    for i in range(15):
        words = chosen.sample(WORDS, 5)
        text = " ".join(chosen.choice(words) for _ in range(60))[: 131 if i == 3 else 130]
        lines.append(orjson.dumps({"id": str(i), "text": text, "kind": "ab"[i % 2]}))
    (tmp_path / "part.jsonl").write_bytes(b"\n".join(lines))
    recipe = Recipe(
        corpus=Corpus(inputs=(str(tmp_path / "part.jsonl"),), source_field="kind", unit_bytes=700),
        window=Windowing(length=64),
        model=Model(name=str(tiny_model_folder)),
        keep=Selecting(share=0.3),
        refine=Refining(confidence=0.95),
    )
    return with_scorer(recipe, rows=0.4, pilot_sample=4, distances=(16,))


def kept(folder):
    table = pq.read_table(folder / "selection.parquet").to_pydict()
    return {window for window, kept in zip(table["window_id"], table["kept"], strict=True) if kept}


@pytest.fixture
def exact(recipe, tmp_path):
    everything = with_scorer(recipe, distances=(16,))
    verbs.measure(everything, tmp_path / "exact", INLINE)
    verbs.select(everything, tmp_path / "exact")
    assert "score_se" not in pq.read_schema(tmp_path / "exact" / "selection.parquet").names
    return kept(tmp_path / "exact")


def test_refining_ends_with_the_exact_selection(recipe, exact, tmp_path):
    verbs.measure(recipe, tmp_path / "run", INLINE)
    verbs.select(recipe, tmp_path / "run")
    first = pq.read_table(tmp_path / "run" / "selection.parquet")
    assert first.column_names[-1] == "score_se"
    assert np.mean(first["score_se"].to_numpy()) > 0
    found, selection = verbs.refine(recipe, tmp_path / "run", INLINE)
    assert kept(tmp_path / "run") == exact
    refined = pq.read_table(tmp_path / "run" / "selection.parquet")
    assert np.mean(refined["score_se"].to_numpy()) < np.mean(first["score_se"].to_numpy())
    assert found.confidence >= 0.95
    assert 0.15 < found.pairs < 1.1
    assert found.rounds >= 1
    assert sum(source.kept for source in selection.sources.values()) == len(exact)
    recorded = json.loads((tmp_path / "run" / "manifest.json").read_bytes())["refinement"]
    assert recorded == dataclasses.asdict(found)
    # another selection is not what this was said of
    verbs.select(replace(recipe, keep=Selecting(share=0.5)), tmp_path / "run")
    assert json.loads((tmp_path / "run" / "manifest.json").read_bytes())["refinement"] is None


def test_without_a_window_there_is_nothing_to_refine(recipe, tmp_path):
    long = with_scorer(replace(recipe, window=Windowing(length=4096)), rows=0.4, pilot_sample=0)
    verbs.measure(long, tmp_path / "run", INLINE)
    verbs.select(long, tmp_path / "run")
    found, selection = verbs.refine(long, tmp_path / "run", INLINE)
    assert dataclasses.astuple(found) == (1.0, 0.0, 0, [])
    assert not any(source.kept for source in selection.sources.values())


def test_a_second_reading_of_a_document_takes_no_part(recipe, tmp_path):
    """Its windows have the ids of the first reading's, and other text."""
    recipe = replace(recipe, corpus=replace(recipe.corpus, unit_bytes=10**6))
    recipe = with_scorer(recipe, rows=0.4, pilot_sample=0, distances=(16,))
    part = tmp_path / "part.jsonl"
    found = {}
    for name in ("once", "twice"):
        verbs.measure(recipe, tmp_path / name, INLINE)
        refinement, _ = verbs.refine(recipe, tmp_path / name, INLINE)
        rows = pq.read_table(tmp_path / name / "selection.parquet").to_pylist()
        found[name] = refinement.confidence, [row for row in rows if row["reason"] != "duplicate_id"]
        # read again after all others, with the letters in reverse
        again = [orjson.loads(line) for line in part.read_bytes().splitlines()]
        part.write_bytes(
            b"\n".join(orjson.dumps(one) for one in [*again, *({**one, "text": one["text"][::-1]} for one in again)])
        )
    assert refinement.rounds >= 1
    assert len(rows) > len(found["once"][1])
    assert found["twice"] == found["once"]


def test_a_stopped_attempt_is_continued(recipe, tmp_path, monkeypatch):
    for folder in ("whole", "stopped"):
        verbs.measure(recipe, tmp_path / folder, INLINE)
    whole, _ = verbs.refine(recipe, tmp_path / "whole", INLINE)

    looks, original = [], refining.look

    def look(*arguments):
        looks.append(arguments)
        if len(looks) == stop:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(refining, "look", look)
    stop = 9
    with pytest.raises(KeyboardInterrupt):
        verbs.refine(recipe, tmp_path / "stopped", INLINE)
    stop = -1
    continued, _ = verbs.refine(recipe, tmp_path / "stopped", INLINE)
    assert continued == whole
    both = [(tmp_path / folder / "selection.parquet").read_bytes() for folder in ("whole", "stopped")]
    assert both[0] == both[1]
    # what was done is not done again: only the unit in hand was begun anew
    before = len(looks)
    verbs.refine(recipe, tmp_path / "stopped", INLINE)
    assert len(looks) == before


def test_limits_end_it_with_windows_undecided(recipe, tmp_path):
    verbs.measure(recipe, tmp_path / "run", INLINE)
    found, _ = verbs.refine(replace(recipe, refine=Refining(max_rounds=0)), tmp_path / "run", INLINE)
    assert found.rounds == 0
    assert found.confidence < 0.95
    assert found.undecided
    dear, _ = verbs.refine(replace(recipe, refine=Refining(max_pairs=0.01)), tmp_path / "run", INLINE)
    assert dear == found


def test_what_no_confidence_can_be_stated_for_is_refused():
    sampled = LongAttn(rows=0.1).for_length(64)
    with pytest.raises(ValueError, match="all rows were measured"):
        refining.check(LongAttn().for_length(64), Selecting())
    with pytest.raises(ValueError, match="z-scores"):
        refining.check(replace(sampled, normalise="minmax"), Selecting())
    with pytest.raises(ValueError, match="budget"):
        refining.check(sampled, Selecting(threshold=1.0))


def standing(score, error, kept, leverage=0.0, tilt=0.0, bias=0.0):
    score, error = np.array(score, dtype=float), np.array(error, dtype=float)
    flags = np.array(kept, dtype=bool)
    same = np.ones(len(score), dtype=bool)
    return Standing(same, score, error, np.broadcast_to(float(tilt), score.shape) * score, flags, leverage * same, bias)


def test_two_windows_by_hand():
    """Two standard errors on either side of the cut: 2.275 % each is the best that a cut in between can say."""
    found = doubt(standing([2.0, -2.0], [1.0, 1.0], [True, False]))
    assert found.risk == pytest.approx(2 * 0.0227501, rel=1e-5)
    assert found.own == pytest.approx(found.risk)


def test_known_scores_leave_no_doubt_and_a_scale_in_doubt_does():
    known = standing([0.002, 0.001, -1.0], [0.0, 0.0, 0.0], [True, False, False])
    assert doubt(known).risk == 0.0
    # a tilt that brings the first two together by one standard deviation of the ratio
    tilted = known._replace(tilt=np.array([-0.1, 0.0, 0.0]), leverage=np.full(3, 1e-4 / 3))
    assert doubt(tilted).risk == pytest.approx(0.1587, abs=0.03)
    assert doubt(tilted).own == 0.0


def test_the_stated_risk_is_kept_in_simulation():
    generator = np.random.default_rng(3)
    risks, wrong = [], 0
    for _ in range(400):
        true = generator.normal(size=40)
        error = np.full(40, 0.02)
        seen = true + error * generator.normal(size=40)
        best = np.argsort(-seen)[:5]
        kept = np.isin(np.arange(40), best)
        risks.append(doubt(standing(seen, error, kept)).risk)
        wrong += set(best) != set(np.argsort(-true)[:5])
    assert 0.02 < wrong / 400 <= np.mean(risks) + 0.03


def test_only_what_the_risk_hangs_on_is_wanted():
    near = standing([1.0, 0.51, 0.5, -3.0], [0.05, 0.05, 0.05, 0.05], [True, True, False, False])
    assert wanted(near, doubt(near), 0.05).tolist() == [False, True, True, False]
    assert not wanted(near, doubt(near), 1.0).any()


def rows_of(rule: Selecting, scores, starts, reasons, pairs) -> Rows:
    """Windows of 64 tokens of one document, each score with a standard error of 0.1."""
    number, length = len(scores), 64
    sampled = LongAttn(rows=0.1, distances=(16,), distance=16).for_length(length)
    measured = {f"{kind}_l0_d16": np.linspace(1.0, 2.0, number) for kind in ("s1", "s1sq", "s2")}
    measured |= {"covariance_l0_d16": np.zeros((number, 6)), "num_tokens": np.full(number, length)}
    selection = {
        "window_id": np.array([f"d@{start}" for start in starts], dtype=object),
        "source": np.full(number, "s", dtype=object),
        "reason": np.array(reasons, dtype=object),
        "score": np.array(scores, dtype=float),
        "score_se": np.full(number, 0.1),
        "doc_id": np.full(number, "d", dtype=object),
        "start": np.array(starts),
        "num_tokens": np.full(number, length),
    }
    return Rows({**measured, "pairs": np.array(pairs)}, selection, sampled, rule)


def test_a_window_without_values_leaves_the_cost_of_the_others_known():
    fates = ["kept", "below_cut", "non_finite"]
    rows = rows_of(Selecting(), [2.0, 1.0, np.nan], [0, 100, 200], fates, [0.1, 0.3, np.nan])
    assert rows.spent == pytest.approx(0.2)


def test_a_score_turned_round_is_tilted_the_other_way():
    fates = ["kept", "kept", "below_cut"]
    plain = rows_of(Selecting(), [3.0, 2.0, 1.0], [0, 100, 200], fates, [0.1] * 3)
    turned = rows_of(Selecting(weights={"longattn": -2.0}), [3.0, 2.0, 1.0], [0, 100, 200], fates, [0.1] * 3)
    assert plain.tilt.any()
    assert np.array_equal(turned.tilt, -plain.tilt)
    assert np.array_equal(turned.leverage, plain.leverage)


def test_a_window_that_gave_way_is_held_against_better_ones_alone():
    """The one in the middle touches both others: it gave way to the best, and the worst stays whatever it scores."""
    fates = ["kept", "overlap", "below_cut"]
    [(pair, risk)] = rows_of(Selecting(max_overlap=0.3), [3.0, 2.9, 2.8], [0, 33, 66], fates, [0.1] * 3).overlaps()
    assert pair.tolist() == [1, 0]
    assert risk == pytest.approx(0.5 * math.erfc(0.1 / math.hypot(0.1, 0.1) / math.sqrt(2)))


def test_few_rows_are_warned_of(caplog):
    refining.check(LongAttn(rows=0.1).for_length(64), Selecting())
    assert "about 6 rows of each head" in caplog.text
    caplog.clear()
    refining.check(LongAttn(rows=0.1).for_length(4096), Selecting())
    assert not caplog.text
