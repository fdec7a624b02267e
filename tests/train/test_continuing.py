import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from longattn import cli
from longattn.errors import ModelError
from longattn.models import resolve
from longattn.settings import Model
from longattn.tables import file_sha256
from longattn.testing import tiny_checkpoint
from longattn.train import Training, continue_pretraining

TRAINING = Training(batch_tokens=128, learning_rate=1e-3, warmup=0.0)


@pytest.fixture
def export(rows, tmp_path, cache):
    """An export that says which tokenizer made its ids, by default the tiny model's."""

    def write(tokenizer=None, rows=rows):
        ids = pa.array([row["input_ids"].tolist() for row in rows], pa.list_(pa.int32()))
        folder = tmp_path / "export"
        (folder / "data").mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"input_ids": ids}), folder / "data" / "part-00000.parquet")
        (folder / "export.json").write_text(json.dumps({"format": "parquet", "tokenizer": tokenizer}))
        return folder

    return write


def test_the_verb_leaves_a_checkpoint_that_every_tool_reads(export, tiny_model_folder, tmp_path, capsys):
    own = file_sha256(tiny_model_folder / "tokenizer.json")[:16]
    words = ["train", str(export(own)), "--model.name", str(tiny_model_folder), "--output", str(tmp_path / "out")]
    words += ["--train.batch-tokens", "128", "--train.learning-rate", "1e-3", "--train.held-out", str(export(own))]
    assert cli.launch(words) == 0
    said = capsys.readouterr().out
    assert "4 steps, 512 tokens, loss " in said
    assert "held-out loss" in said
    trained = tmp_path / "out" / "model"
    before, after = (load_file(folder / "model.safetensors") for folder in (tiny_model_folder, trained))
    assert before.keys() == after.keys()
    assert not torch.equal(before["model.norm.weight"], after["model.norm.weight"])
    assert json.loads((trained / "config.json").read_text()) == json.loads(
        (tiny_model_folder / "config.json").read_text()
    )
    assert (trained / "tokenizer.json").read_bytes() == (tiny_model_folder / "tokenizer.json").read_bytes()
    assert "trained by longattn for 4 steps of 4 windows of 32 tokens" in (trained / "README.md").read_text()
    assert resolve(Model(name=str(trained))).hash != resolve(Model(name=str(tiny_model_folder))).hash


def test_weights_are_written_in_the_precision_of_the_models_own(export, tmp_path):
    folder = tiny_checkpoint(tmp_path / "half", dtype="bfloat16")
    continue_pretraining(Model(name=str(folder)), str(export()), tmp_path / "out", TRAINING)
    found = load_file(tmp_path / "out" / "model" / "model.safetensors")
    assert {tensor.dtype for tensor in found.values()} == {torch.bfloat16}


def test_ids_of_another_tokenizer_are_refused(export, tiny_model_folder, tmp_path):
    model = Model(name=str(tiny_model_folder))
    with pytest.raises(ModelError, match=r"of the tokenizer feedfeedfeedfeed.*--write.retokenize"):
        continue_pretraining(model, str(export("feedfeedfeedfeed")), tmp_path / "out", TRAINING)
    too_high = [{"input_ids": np.array([1, 256] * 16, dtype=np.int32)}] * 4
    with pytest.raises(ModelError, match=r"token id 256, .* only 256 tokens"):
        continue_pretraining(model, str(export(rows=too_high)), tmp_path / "out", TRAINING)
    assert not (tmp_path / "out").exists()


def test_windows_longer_than_the_positions_need_another_base(export, tmp_path):
    folder = str(tiny_checkpoint(tmp_path / "short", max_position_embeddings=16))
    with pytest.raises(ModelError, match=r"made for 16 positions.*windows of 32.*longattn abf"):
        continue_pretraining(Model(name=folder), str(export()), tmp_path / "out", TRAINING)
    model = Model(name=folder, allow_extrapolation=True)
    assert continue_pretraining(model, str(export()), tmp_path / "out", TRAINING).steps == 4


@pytest.mark.parametrize("change", [{"rope_theta": 1e6}, {"bos": True}, {"dtype": "bfloat16"}])
def test_settings_that_are_for_measuring_are_refused(change, export, tiny_model_folder, tmp_path):
    with pytest.raises(ValueError, match=next(iter(change))):
        continue_pretraining(Model(name=str(tiny_model_folder), **change), str(export()), tmp_path / "out", TRAINING)


def test_a_checkpoint_that_lacks_tensors_is_refused(export, tmp_path):
    folder = str(tiny_checkpoint(tmp_path / "untied", tie_word_embeddings=False))
    with pytest.raises(ModelError, match=r"lacking.*lm_head.weight"):
        continue_pretraining(Model(name=folder), str(export()), tmp_path / "out", TRAINING)


def test_without_the_extra_the_command_that_installs_it_is_named(export, tmp_path, monkeypatch, capsys):
    import sys

    for name in ("accelerate", "longattn.train.continuing"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "longattn.train.continuing")
    assert cli.launch(["train", str(export()), "--output", str(tmp_path / "out")]) == 1
    assert "pip install 'longattn[train]'" in capsys.readouterr().err
