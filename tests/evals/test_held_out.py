"""Held-out text: which windows are measured, that the numbers are the model's, and what is refused."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from longattn.cli import launch
from longattn.errors import CorpusError, ModelError
from longattn.evals.held_out import draw, log_probs, measure
from longattn.evals.settings import Measuring
from longattn.models import resolve
from longattn.scorers import ShortContext
from longattn.settings import Corpus, Model
from longattn.tables import read_sealed, write_parquet
from longattn.tokens import Tokenizer

LINE = "The ferry leaves at noon and comes back at dusk, unless the fog is thick. "
RULE = Measuring(length=64, windows=6, resamples=50)


@pytest.fixture
def texts(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    for i in range(4):
        (folder / f"{i}.txt").write_text(f"Day {i}. " + LINE * (i + 2))
    return Corpus(inputs=(str(folder),))


@pytest.fixture
def model(tiny_model_folder):
    return Model(name=str(tiny_model_folder))


def test_log_probabilities_are_the_models_from_all_and_from_few_tokens(texts, model):
    checkpoint = resolve(model)
    windows = draw(texts, checkpoint, RULE)
    found = log_probs(checkpoint, model, windows, ShortContext(8, 8))
    assert found.long.shape == (6, 63)
    assert found.short.shape == (6, 56)
    # tokens 8 to 15 are predicted from all before them in either case; from then on the short one starts later
    assert np.allclose(found.long[:, 7:15], found.short[:, :8], atol=1e-4)
    assert not np.allclose(found.long[:, 15:23], found.short[:, 8:16], atol=1e-4)


def test_results_say_what_was_measured_and_are_sealed(texts, model, tmp_path):
    found = measure(tmp_path / "out", model, texts, RULE)
    (file,) = (tmp_path / "out").glob("held-out-*.json")
    written = read_sealed(file)
    assert written["settings"]["measuring"]["context"] == 4
    assert written["settings"]["text"]["windows"] == 6
    assert written["late_loss"]["value"] == found.late_loss.value
    assert [(one.start, one.stop) for one in found.loss_by_position] == [(1, 16), (16, 32), (32, 64)]
    assert found.late_loss == found.loss_by_position[-1].loss
    assert found.settings["evaluator"]["is_the_model"]


def test_windows_are_drawn_from_all_documents_alike_and_stay_in_order(texts, model):
    checkpoint = resolve(model)
    everything = draw(texts, checkpoint, Measuring(length=64, windows=100))
    some = draw(texts, checkpoint, Measuring(length=64, windows=5, seed=3))
    ids = [window.id for window in everything]
    assert len(ids) > 10
    places = [ids.index(window.id) for window in some]
    assert places == sorted(set(places))
    assert places != [ids.index(w.id) for w in draw(texts, checkpoint, Measuring(length=64, windows=5, seed=4))]


def test_exported_windows_are_taken_as_they_are(model, tmp_path):
    rows = [list(range(i, i + 70)) for i in range(3)] + [[1, 2, 3]]
    folder = tmp_path / "run" / "export" / "data"
    folder.mkdir(parents=True)
    table = pa.table({"input_ids": pa.array(rows, pa.list_(pa.int32())), "doc_id": ["a", "b", "b", "c"]})
    write_parquet(folder / "part.parquet", table)
    checkpoint = resolve(model)
    for place in (tmp_path / "run", tmp_path / "run" / "export", folder / "part.parquet"):
        windows = draw(Corpus(inputs=(str(place),)), checkpoint, Measuring(length=64))
        assert [(window.doc_id, window.tokens.tolist()) for window in windows] == [
            (name, row[:64]) for name, row in zip(["a", "b", "b"], rows, strict=False)
        ]


def test_an_export_of_another_tokenizers_ids_is_refused(model, tmp_path):
    checkpoint = resolve(model)
    folder = tmp_path / "run" / "export" / "data"
    folder.mkdir(parents=True)
    write_parquet(folder / "part.parquet", pa.table({"input_ids": pa.array([list(range(70))], pa.list_(pa.int32()))}))
    summary = tmp_path / "run" / "export" / "export.json"
    places = [tmp_path / "run", tmp_path / "run" / "export", folder, folder / "part.parquet"]
    for place in places:
        summary.write_text(json.dumps({"tokenizer": "0123456789abcdef"}))
        with pytest.raises(ModelError, match=r"ids of the tokenizer 0123456789abcdef.*--write\.retokenize"):
            draw(Corpus(inputs=(str(place),)), checkpoint, Measuring(length=64))
        summary.write_text(json.dumps({"tokenizer": Tokenizer.load(checkpoint.tokenizer_file).hash}))
        assert len(draw(Corpus(inputs=(str(place),)), checkpoint, Measuring(length=64))) == 1


def test_inputs_without_a_window_and_settings_without_sense_are_refused(texts, model, tmp_path):
    with pytest.raises(CorpusError, match="hold no window of 4000 tokens"):
        measure(tmp_path, model, texts, Measuring(length=4000))
    for name in ("windows", "resamples"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            measure(tmp_path, model, texts, replace(RULE, **{name: 0}))
    with pytest.raises(ValueError, match="late must be from 4, the context, to 63, got 2"):
        measure(tmp_path, model, texts, Measuring(length=64, late=2))


def test_the_command_shows_a_table_or_json(texts, model, tmp_path, capsys):
    common = ["eval", "text", *texts.inputs, "--model.name", model.name, "--length", "64", "--windows", "3"]
    assert launch([*common, "-o", str(tmp_path), "--evaluator", model.name]) == 0
    assert "truncation gain" in capsys.readouterr().out
    assert launch([*common, "-o", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["truncation_gain"]["tokens"] == 3 * 32


def test_windows_of_one_document_have_means_without_intervals(texts, model, tmp_path, capsys):
    (one,) = (tmp_path / "texts").glob("3.txt")
    command = ["eval", "text", str(one), "--model.name", model.name, "--length", "64", "-o", str(tmp_path / "out")]
    assert launch(command) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if "late loss" in line)
    assert " to " not in row
    assert launch([*command, "--json"]) == 0
    loss = json.loads(capsys.readouterr().out)["late_loss"]
    assert loss["value"] > 0
    assert loss["low"] is loss["high"] is None
