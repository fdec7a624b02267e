"""Agreement of scorers, on cases worked by hand and on a run."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from longattn import settings, trials, verbs
from longattn.expressions import column, zscore
from longattn.recipes import Recipe
from longattn.tables import RunFolder
from longattn.validity import compare, compare_tables


def test_agreement_by_hand():
    windows, sources = ["a", "b", "c", "d", "e"], ["x"] * 4 + ["y"]
    first = np.array([4.0, 3.0, 2.0, 1.0, 0.0])
    second = np.array([1.0, 4.0, 3.0, 2.0, 0.0])
    found = compare(windows, sources, {"f": first, "g": second}, samples=1)
    (one,) = found.agreements
    assert (one.source, one.windows) == ("x", 4)
    # rank differences 3, -1, -1, -1: 1 - 6 * 12 / (4 * 15)
    assert one.correlation == pytest.approx(-0.2)
    assert one.overlap == {"0.05": 0.0, "0.125": 0.0, "0.25": 0.0, "0.5": 0.5}
    assert [(d.high, d.low, d.window) for d in found.disagreements] == [("f", "g", "a"), ("g", "f", "b")]
    assert found.disagreements[0].high_rank == pytest.approx(0.875)
    assert found.disagreements[0].low_rank == pytest.approx(0.125)


def test_windows_that_one_of_them_has_no_score_for_are_left_out():
    windows, sources = ["a", "b", "c"], ["x"] * 3
    found = compare(windows, sources, {"f": np.array([1.0, 2.0, np.nan]), "g": np.array([1.0, 2.0, 3.0])})
    assert (found.agreements[0].windows, found.agreements[0].correlation) == (2, 1)


def test_a_scorer_that_gives_all_windows_one_score_correlates_with_nothing():
    scores = {"f": np.array([1.0, 2.0, 3.0]), "g": np.ones(3)}
    (one,) = compare(["a", "b", "c"], ["x"] * 3, scores).agreements
    assert one.correlation is None
    assert one.windows == 3


def test_a_second_reading_of_a_document_takes_no_part(tmp_path):
    """Its windows have the ids of the first reading's; selecting leaves them out too."""
    run, unit = RunFolder(tmp_path), "0" * 16
    windows, scores = run.table("windows", {}), run.table("m", {})
    rows = {"window_id": ["a@0", "b@0", "a@0", "b@0"], "source": ["x"] * 4, "doc_id": ["a", "b", "a", "b"]}
    windows.commit(unit, pa.table({**rows, "file": ["f"] * 4, "position": [5, 6, 1, 6]}), {}, {})
    scores.commit(unit, pa.table({"window_id": rows["window_id"], "s": [100.0, 2.0, 1.0, 2.0]}), {}, {})
    found = compare_tables(windows, [unit], {name: (scores, zscore(column("s"))) for name in ("f", "g")})
    assert found.windows == {"x": 2}
    (one,) = found.agreements
    assert (one.windows, one.correlation, set(one.overlap.values())) == (2, 1.0, {1.0})


def test_one_scorer_alone_agrees_with_nobody():
    with pytest.raises(ValueError, match="two or more measured scorers, got f"):
        compare(["a"], ["x"], {"f": np.array([1.0])})


def test_a_run_is_compared_without_a_model(corpus_inputs, tiny_model_folder, tmp_path, monkeypatch):
    recipe = Recipe(
        corpus=settings.Corpus(inputs=corpus_inputs),
        window=settings.Windowing(length=64),
        model=settings.Model(name=str(tiny_model_folder)),
        scorers=("longattn", "random", "length"),
    )
    verbs.measure(recipe, tmp_path, settings.Compute(workers=0, devices=("cpu",)))
    with monkeypatch.context() as patch:
        patch.setattr("longattn.models.load_model", None)
        found = trials.compare(recipe, tmp_path)
    assert set(found.windows) == {"many", "one"}
    assert len(found.agreements) == 2 * 3
    assert all(len(one.text) > 20 for one in found.disagreements)
    page = (tmp_path / "validity" / "comparison.html").read_text(encoding="utf-8")
    assert "longattn · random" in page
    assert json.loads((tmp_path / "validity" / "comparison.json").read_bytes())["scorers"] == list(found.scorers)
    assert found.costs == {}
    rule = settings.Validating(pairs=2, controls=("shuffled-8",), resamples=10)
    trials.validate(replace(recipe, scorers=("longattn",)), tmp_path, rule, "cpu")
    timed = trials.compare(recipe, tmp_path)
    # the baselines stand in every validation
    assert set(timed.costs) == {"longattn", "random", "length"}
    assert all(cost > 0 for cost in timed.costs.values())
    page = (tmp_path / "validity" / "comparison.html").read_text(encoding="utf-8")
    assert f"<td>{timed.costs['longattn']:.4f}</td>" in page
    hidden = trials.compare(recipe, tmp_path, texts=False)
    assert not any(one.text for one in hidden.disagreements)
