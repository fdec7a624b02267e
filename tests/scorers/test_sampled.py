"""LongAttn from some of its rows, against all of them."""

from dataclasses import replace

import numpy as np
import pytest

from longattn import settings
from longattn.asking import look
from longattn.expressions import evaluate
from longattn.measuring import measure_windows
from longattn.models import load_model, resolve
from longattn.records import Window
from longattn.scorers import LongAttn
from longattn.scorers.sampled import Sampling

LENGTH, DISTANCES = 96, (12, 24)


@pytest.fixture(scope="module")
def model(tiny_model_folder):
    facts = settings.Model(name=str(tiny_model_folder))
    return load_model(resolve(facts), facts, layers=(0,), window=LENGTH)


@pytest.fixture(scope="module")
def windows():
    random = np.random.default_rng(4)
    tokens = random.integers(0, 30, (5, LENGTH)).astype(np.uint32)
    return [Window(f"d{i}", "s", 0, row, 0, LENGTH, LENGTH) for i, row in enumerate(tokens)]


@pytest.fixture(scope="module")
def scorer(model, windows, tmp_path_factory):
    """Rows drawn with a pilot of the first three windows."""
    from safetensors.numpy import save_file

    file = tmp_path_factory.mktemp("pilots") / "pilot.safetensors"
    plain = LongAttn(distances=DISTANCES, rows=0.2, pilot_sample=3, backend="reference").for_length(LENGTH)
    seen = [look([plain.pilot_ask()], model, window)[0] for window in windows[:3]]
    save_file(plain.fit(windows[:3], seen), file)
    return plain.with_pilot(str(file), "hash")


def exact(model, windows):
    whole = LongAttn(distances=DISTANCES, backend="reference").for_length(LENGTH)
    return measure_windows([whole], model, windows)["longattn"]


def measured(scorer, model, windows):
    return measure_windows([scorer], model, windows)["longattn"]


KEYS = [f"{kind}_l0_d{distance}" for distance in DISTANCES for kind in ("s1", "s1sq", "s2")]


def test_all_rows_are_exact(scorer, model, windows):
    everything = exact(model, windows)
    for rows in (LENGTH, 0.999):
        for some in (replace(scorer, rows=rows), replace(scorer, rows=rows, pilot=None)):
            columns = measured(some, model, windows)
            for key in KEYS:
                assert columns[key] == pytest.approx(everything[key], rel=1e-12)
            assert not np.any(columns["covariance_l0_d24"])


def test_windows_of_the_pilot_are_known_exactly(scorer, model, windows):
    columns, everything = measured(scorer, model, windows), exact(model, windows)
    for key in KEYS:
        assert columns[key][:3] == pytest.approx(everything[key][:3], rel=1e-12)
        assert not np.any(columns[key][3:] == everything[key][3:])
    assert columns["pairs"][:3].tolist() == [1.0] * 3
    assert columns["pairs"][3:] == pytest.approx([0.2] * 2, abs=0.05)
    assert columns["draws"].tolist() == [0, 0, 0, 1, 1]


def test_another_document_of_the_same_id_is_no_window_of_the_pilot(scorer, model, windows):
    """Ids that come twice are settled when windows are selected; until then both are measured."""
    other = replace(windows[4], doc_id=windows[0].doc_id)
    columns = measured(scorer, model, [other])
    assert columns["draws"].tolist() == [1]
    assert columns["s1_l0_d24"] == pytest.approx(exact(model, [other])["s1_l0_d24"], rel=0.2)


@pytest.fixture(scope="module")
def stored(scorer, model, windows):
    """Every row of the last window, as the kernel would return some of them."""
    rows = look([scorer.pilot_ask()], model, windows[4])[0].layers[0]["rows"][0].astype(np.float64)
    return lambda positions: [rows[one, head] for head, one in enumerate(positions)]


def draws(scorer, window, stored, number):
    """What is known after so many draws, for each of a hundred seeds."""
    found = []
    for seed in range(100):
        sampling = Sampling(scorer.rows, seed, DISTANCES, 0, "reference", 24, scorer.pilot)
        one = None
        for _ in range(number):
            one = sampling.estimate(window, 0, 4, stored, one)
        found.append(one)
    return found


@pytest.mark.parametrize(("with_pilot", "number"), [(True, 1), (False, 1), (True, 2)])
def test_estimates_are_unbiased_with_the_stated_errors(with_pilot, number, scorer, model, windows, stored):
    """S1² too, although it is no sum over rows; the second draw with what the first has found."""
    some = scorer if with_pilot else replace(scorer, pilot=None)
    everything = exact(model, windows[4:])
    drawn = draws(some, windows[4], stored, number)
    for kind, place in {"s1": 0, "s1sq": 3, "s2": 5}.items():
        found = np.array([getattr(one, kind)[1] for one in drawn])
        stated = np.array([one.covariance[1, place] for one in drawn])
        assert abs(found.mean() - everything[f"{kind}_l0_d24"][0]) < 4 * found.std() / np.sqrt(len(found))
        assert stated.mean() == pytest.approx(found.var(), rel=0.5)


def test_two_draws_are_better_than_one(scorer, windows, stored):
    once, twice = (np.var([found.s1[1] for found in draws(scorer, windows[4], stored, number)]) for number in (1, 2))
    assert twice < 0.6 * once


def more(scorer, model, window, columns):
    return scorer.measure([window], look([scorer.ask_more(columns)], model, window)[0])


def test_drawing_again_draws_other_rows_until_all_are_drawn(scorer, model, windows):
    window, everything = windows[4], exact(model, windows[4:])
    columns = measured(scorer, model, [window])
    pairs = [float(columns["pairs"][0])]
    while np.any(columns["covariance_l0_d24"]):
        columns = more(scorer, model, window, columns)
        pairs.append(float(columns["pairs"][0]))
    assert pairs == sorted(pairs)
    # every row once: rows too close to the beginning for any far key are not among them
    assert pairs[-1] == pytest.approx(1 - 12 * 13 / (LENGTH * (LENGTH + 1)))
    assert columns["draws"].tolist() == [len(pairs)]
    for key in KEYS:
        assert columns[key] == pytest.approx(everything[key], rel=1e-12)
    assert columns["drawn_l0_d24"][0, :4].mean() == pytest.approx(everything["s1_l0_d24"][0], rel=1e-12)


def test_the_variance_of_the_score_is_that_of_its_parts(scorer, model, windows):
    """DS and DU in units of their standard deviations, weighted and with their covariance."""
    columns = measured(scorer, model, windows)
    ds, du = (evaluate(scorer.readings()[name], columns) for name in ("ds", "du"))
    cells = (LENGTH - 24) ** 2
    for i in (3, 4):
        matrix = np.zeros((3, 3))
        matrix[np.triu_indices(3)] = columns["covariance_l0_d24"][i]
        matrix = matrix + matrix.T - np.diag(np.diag(matrix))
        slope = np.array([1 / LENGTH / ds.std(), 0.5 / cells**2 / du.std(), -0.5 / cells / du.std()])
        variance = evaluate(scorer.variance_of_score(), columns)
        assert variance[i] == pytest.approx(slope @ matrix @ slope, rel=1e-9)


def test_settings_that_make_no_sense_are_refused():
    for rows in (1.5, 0, -0.1):
        with pytest.raises(ValueError, match="a share in"):
            LongAttn(rows=rows).for_length(LENGTH)
    with pytest.raises(ValueError, match="per_head"):
        LongAttn(rows=0.1, per_head=True).for_length(LENGTH)
    with pytest.raises(ValueError, match="pilot_sample"):
        LongAttn(rows=0.1, pilot_sample=-1).for_length(LENGTH)


def test_tables_of_all_rows_are_named_as_ever():
    assert set(LongAttn().measurement()) == {"layers", "distances", "skip_first", "per_head", "backend"}
    assert LongAttn(rows=0.1).measurement()["rows"] == 0.1
