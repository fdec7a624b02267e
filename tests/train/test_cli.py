"""What the verbs of training print."""

import json

import pytest

from longattn import cli
from longattn.testing import tiny_checkpoint


@pytest.fixture
def model(tmp_path):
    return tiny_checkpoint(tmp_path / "model", max_position_embeddings=256)


def test_abf_says_what_it_did_and_why(model, tmp_path, capsys):
    assert cli.launch(["abf", str(model), "--length", "2048", "--theta", "1e5", "-o", str(tmp_path / "longer")]) == 0
    said = capsys.readouterr()
    assert "10,000 -> 100,000" in said.out
    assert "160,000 = base · (2,048 / 256)^(d/(d-2)) with d = 8" in said.out
    assert "transformers 4: 100,000" in said.out
    assert "suggests a base of 160,000" in said.err
    assert (tmp_path / "longer" / "config.json").exists()


def test_abf_without_an_output_only_tells(model, tmp_path, capsys):
    assert cli.launch(["abf", str(model), "--length", "2048"]) == 0
    assert "nothing was written" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_abf_as_json(model, tmp_path, capsys):
    assert cli.launch(["abf", str(model), "--length", "2048", "-o", str(tmp_path / "longer"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((tmp_path / "longer" / "abf.json").read_bytes())


def test_abf_of_a_model_elsewhere_says_what_to_do(capsys):
    assert cli.launch(["abf", "missing/model", "--length", "2048"]) == 1
    assert "there is no model missing/model" in capsys.readouterr().err
