"""Packed documents that are kept apart: what a row of them comes to is what they come to by themselves."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import MambaConfig, MambaForCausalLM

from longattn import cli
from longattn.errors import ModelError, RunError
from longattn.train import Training, train
from longattn.train.loop import IGNORED, collate
from longattn.train.models import check_apart
from longattn.train.windows import document_starts, read_windows

STARTS, LENGTH = [0, 7, 8, 19], 32
TRAINING = Training(batch_tokens=64, learning_rate=1e-3, warmup=0.0, documents="apart")


@pytest.fixture
def packed():
    """Two rows: one of four documents, of which one is a single token, and one of one document."""
    random = np.random.default_rng(0)
    first, second = (random.integers(0, 256, LENGTH).astype(np.int32) for _ in range(2))
    return [{"input_ids": first, "boundaries": np.array(STARTS)}, {"input_ids": second, "boundaries": np.array([0])}]


def documents(rows):
    for row in rows:
        for piece in np.split(row["input_ids"], row["boundaries"][1:]):
            yield torch.from_numpy(piece.astype(np.int64))[None]


def by_themselves(model, rows):
    """The mean loss over all tokens that are predicted, each document in a forward pass of its own."""
    parts = list(documents(rows))
    count = sum(part.shape[1] - 1 for part in parts)
    logits = [(model(input_ids=part, use_cache=False).logits[0, :-1], part[0, 1:]) for part in parts]
    losses = [torch.nn.functional.cross_entropy(*pair, reduction="sum") for pair in logits]
    return torch.stack(losses).sum() / count


@pytest.mark.parametrize("checkpointing", [False, True])
def test_loss_and_gradients_are_those_of_the_documents_by_themselves(checkpointing, packed, load_tiny):
    together, alone = load_tiny().train(), load_tiny().train()
    if checkpointing:
        together.activation_checkpointing_enable({"use_reentrant": False})
    loss, wanted = together(**collate(packed, apart=True), use_cache=False).loss, by_themselves(alone, packed)
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-6)
    loss.backward()
    wanted.backward()
    for (name, mine), (_, his) in zip(together.named_parameters(), alone.named_parameters(), strict=True):
        assert torch.allclose(mine.grad, his.grad, rtol=1e-4, atol=1e-7), name
    assert abs(load_tiny()(**collate(packed)).loss.item() - wanted.item()) > 1e-3, "keeping apart would not show"


def test_a_training_keeps_them_apart_and_goes_on_to_the_same_curve(packed, load_tiny, tmp_path):
    wanted = by_themselves(load_tiny(), packed).item()
    found = train(load_tiny(), packed, TRAINING, tmp_path / "apart", held_out=packed)
    # the loss of held-out windows is the mean over windows
    each = [by_themselves(load_tiny(), [row]).item() for row in packed]
    assert found.curve[0] == {"step": 0, "held_out_loss": pytest.approx(sum(each) / 2, rel=1e-6)}
    assert found.curve[1]["loss"] == pytest.approx(wanted, rel=1e-6)
    one_by_one = train(load_tiny(), packed, replace(TRAINING, device_windows=2), tmp_path / "at-once")
    assert one_by_one.curve[0]["loss"] == pytest.approx(wanted, rel=1e-6)
    with pytest.raises(RunError, match="documents was apart, is together"):
        train(load_tiny(), packed, replace(TRAINING, documents="together"), tmp_path / "apart", held_out=packed)


def test_rows_of_other_lengths_are_filled_up(packed, load_tiny):
    short = {"input_ids": packed[0]["input_ids"][:20], "boundaries": np.array(STARTS)}
    rows = [short, packed[1]]
    found = load_tiny()(**collate(rows, apart=True), use_cache=False).loss.item()
    assert found == pytest.approx(by_themselves(load_tiny(), rows).item(), rel=1e-6)


def test_the_first_token_of_a_document_is_not_predicted_and_positions_begin_anew(packed):
    batch = collate(packed, apart=True)
    assert (batch["labels"] == IGNORED).nonzero().tolist() == [[0, start] for start in STARTS] + [[1, 0]]
    assert batch["position_ids"][0].tolist() == [*range(7), 0, *range(11), *range(13)]
    assert "position_ids" not in collate(packed)


def test_position_ids_say_it_as_well_as_boundaries(packed):
    places = collate(packed, apart=True)["position_ids"].numpy()
    others = [{"input_ids": row["input_ids"], "position_ids": place} for row, place in zip(packed, places, strict=True)]
    assert [document_starts(row) for row in others] == [STARTS, [0]]


@pytest.mark.parametrize("starts", [[], [1, 5], [0, 5, 5], [0, LENGTH]])
def test_boundaries_that_are_none_are_refused(starts, packed):
    with pytest.raises(RunError, match=r"must rise from 0 and stay below the window's 32 tokens"):
        collate([packed[0] | {"boundaries": np.array(starts)}], apart=True)


def test_rows_without_boundaries_cannot_be_kept_apart(packed):
    with pytest.raises(RunError, match="neither boundaries nor position_ids"):
        collate([{"input_ids": packed[0]["input_ids"]}], apart=True)


def test_a_model_that_sees_other_documents_all_the_same_is_refused(load_tiny):
    check_apart(load_tiny(), "tiny")
    config = MambaConfig(vocab_size=8, hidden_size=16, num_hidden_layers=1, state_size=4)
    with pytest.raises(ModelError, match="mamba cannot keep documents apart"):
        check_apart(MambaForCausalLM(config), "mamba")


@pytest.mark.parametrize("change", [{"chunk_tokens": 8}, {"attention": "shifted"}])
def test_ways_that_see_no_mask_are_refused(change):
    with pytest.raises(ValueError, match="documents apart need full attention"):
        replace(TRAINING, **change).check()


@pytest.fixture
def mixture(tiny_model_folder, tmp_path, capsys):
    """Short documents packed by ``longattn mix``, in a format."""

    def make(format):
        random = np.random.default_rng(0)
        texts = ["".join(map(chr, random.integers(97, 123, size))) for size in random.integers(3, 60, 40)]
        (tmp_path / "short.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        flags = ["--documents", f"short={tmp_path / 'short.jsonl'}", "--shares.short", "1", "--tokens", "512"]
        flags += ["--model", str(tiny_model_folder), "--end-token", "10", "--length", "64"]
        flags += ["--write.format", format, "--output", str(tmp_path / "mix")]
        assert cli.launch(["mix", *flags]) == 0
        return tmp_path / "mix"

    return make


@pytest.mark.parametrize("format", ["parquet", "jsonl", "hf"])
def test_the_boundaries_of_a_mixture_are_those_behind_its_end_tokens(format, mixture, cache):
    windows = read_windows(mixture(format))
    assert windows.has_documents
    rows = list(windows)
    assert sum(len(row["boundaries"]) for row in rows) > len(rows) == 8, "no sequence has two documents"
    for row in rows:
        # a document that was cut has no end token before the next
        assert set(document_starts(row)) >= {0, *(np.flatnonzero(row["input_ids"][:-1] == 10) + 1).tolist()}


def test_a_mixture_is_trained_with_its_documents_apart(mixture, tiny_model_folder, load_tiny, tmp_path, cache):
    place = mixture("parquet")
    flags = ["--model.name", str(tiny_model_folder), "--train.batch-tokens", "512", "--train.documents", "apart"]
    assert cli.launch(["train", str(place), *flags, "--output", str(tmp_path / "out")]) == 0
    (line,) = map(json.loads, (tmp_path / "out" / "metrics.jsonl").read_text().splitlines())
    assert line["loss"] == pytest.approx(by_themselves(load_tiny(), list(read_windows(place))).item(), rel=1e-6)


def test_an_export_that_does_not_say_where_documents_begin_is_refused(tiny_model_folder, tmp_path, cache, capsys):
    (tmp_path / "mine.jsonl").write_text(json.dumps({"input_ids": list(range(32))}) + "\n")
    flags = ["--model.name", str(tiny_model_folder), "--train.batch-tokens", "32", "--train.documents", "apart"]
    assert cli.launch(["train", str(tmp_path / "mine.jsonl"), *flags, "--output", str(tmp_path / "out")]) == 1
    assert "does not say where documents begin" in capsys.readouterr().err
