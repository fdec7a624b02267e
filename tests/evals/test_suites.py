"""Data sets through lm-eval: what is in the cache, and clear answers where something is missing."""

import pytest

from longattn.cli import launch
from longattn.evals import suites
from longattn.evals.suites import SUITES, MissingDataError, cached, run_suites
from longattn.settings import Model


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Empty caches."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "prepared")
    return tmp_path


def test_data_are_found_in_either_cache(cache):
    assert not any(map(cached, SUITES.values()))
    (cache / "hub/datasets--cais--mmlu/snapshots/abc").mkdir(parents=True)
    (cache / "prepared/Rowan___hellaswag/default").mkdir(parents=True)
    assert [name for name, one in SUITES.items() if cached(one)] == ["mmlu", "hellaswag"]


def test_missing_data_are_named_before_anything_runs(tiny_model_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(suites, "_evaluate", lambda *_: pytest.fail("nothing may run"))
    with pytest.raises(MissingDataError, match="not in the cache: cais/mmlu, Rowan/hellaswag; --download"):
        run_suites(tmp_path, Model(name=str(tiny_model_folder)), ["mmlu", "hellaswag"])


@pytest.mark.parametrize(
    ("names", "says"),
    [(["mlu"], "there is no suite 'mlu'"), (["humaneval"], "humaneval runs code that the model writes")],
)
def test_suites_that_cannot_be_run_are_refused(tmp_path, names, says):
    with pytest.raises(ValueError, match=says):
        run_suites(tmp_path, Model(), names)


def test_results_are_sealed_with_their_settings(tiny_model_folder, tmp_path, monkeypatch, capsys):
    result = {"results": {"mmlu": {"acc,none": 0.25, "alias": "mmlu"}}, "versions": {}, "samples": {}}
    ran = []
    monkeypatch.setattr(suites, "_evaluate", lambda *asked: ran.append(asked) or result)
    monkeypatch.setattr(suites, "cached", lambda suite: True)
    command = ["eval", "suite", "mmlu", "--model.name", str(tiny_model_folder), "-o", str(tmp_path), "--limit", "2"]
    assert launch(command) == 0
    assert "0.2500" in capsys.readouterr().out
    from longattn.tables import read_sealed

    (file,) = tmp_path.glob("suite-mmlu-*.json")
    assert (read_sealed(file)["shots"], read_sealed(file)["limit"]) == (5, 2)
    # those that are there are read, without their data too; with another limit it is another result
    monkeypatch.setattr(suites, "cached", lambda suite: False)
    assert launch(command) == 0
    assert "0.2500" in capsys.readouterr().out
    assert len(ran) == 1
    assert launch([*command[:-1], "3"]) == 1
    assert "not in the cache: cais/mmlu" in capsys.readouterr().err
    # one that was damaged is made again
    monkeypatch.setattr(suites, "cached", lambda suite: True)
    file.write_bytes(file.read_bytes().replace(b"0.25", b"0.75"))
    assert launch(command) == 0
    assert len(ran) == 2
    assert read_sealed(file)["results"] == result["results"]


def test_the_cache_can_be_looked_at_alone(capsys):
    assert launch(["eval", "suite", "--check"]) == 0
    assert "Xnhyacinth/LongBench" in capsys.readouterr().out
