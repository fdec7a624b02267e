import json
import shutil
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch

from longattn.errors import RunError
from longattn.train import Training, checkpoints, loop, train
from longattn.train.loop import IGNORED, collate

TRAINING = Training(batch_tokens=128, learning_rate=1e-3, warmup=0.3, save_every=2, keep=9, evaluate_every=2)
"""Four windows to a step, one at a time."""


def bytes_of(folder, name="metrics.jsonl"):
    return (folder / name).read_bytes()


def curve(folder):
    return [json.loads(line) for line in bytes_of(folder).splitlines()]


@pytest.fixture(scope="module")
def undisturbed(load_tiny, rows, held_out, tmp_path_factory):
    """A training of four steps that nothing stopped: its folder and the trained weights."""
    model, folder = load_tiny(), tmp_path_factory.mktemp("undisturbed")
    train(model, rows, TRAINING, folder, held_out=held_out)
    return folder, {name: tensor.clone() for name, tensor in model.state_dict().items()}


class Killed(Exception):
    pass


def die_after(step):
    """A process that ends after a step, before its checkpoint."""

    def progress(done, total):
        if done == step:
            raise Killed

    return progress


def test_a_training_that_died_goes_on_to_the_same_curve_and_weights(undisturbed, load_tiny, rows, held_out, tmp_path):
    folder, weights = undisturbed
    other = tmp_path / "other"
    with pytest.raises(Killed):
        train(load_tiny(), rows, TRAINING, other, held_out=held_out, progress=die_after(1))
    with pytest.raises(Killed):
        train(load_tiny(), rows, TRAINING, other, held_out=held_out, progress=die_after(3))
    # what a process leaves that is killed while it writes
    (other / "metrics.jsonl").write_bytes(bytes_of(other) + b'{"step": 3, "lo')
    (other / "checkpoints" / "checkpoint-3").mkdir()
    (other / "checkpoints" / "checkpoint-3" / "model.safetensors").write_bytes(b"half")
    steps = []
    model = load_tiny()
    trained = train(model, rows, TRAINING, other, held_out=held_out, progress=lambda done, _: steps.append(done))
    assert steps == [3, 4]
    assert bytes_of(other) == bytes_of(folder)
    assert list(trained.curve) == curve(folder)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, weights[name]), name


def test_another_number_of_threads_is_warned_of_when_a_training_goes_on(load_tiny, rows, tmp_path, caplog):
    threads = torch.get_num_threads()
    with pytest.raises(Killed):
        train(load_tiny(), rows, TRAINING, tmp_path, progress=die_after(3))
    with (tmp_path / "timings.jsonl").open("a") as file:
        file.write('{"step": 3, "sec')
    try:
        torch.set_num_threads(threads + 1)
        with pytest.raises(Killed):
            train(load_tiny(), rows, TRAINING, tmp_path, progress=die_after(3))
        assert f"threads {threads} -> {threads + 1};" in caplog.text
        caplog.clear()
        train(load_tiny(), rows, TRAINING, tmp_path)
        assert "not as it was begun" not in caplog.text
    finally:
        torch.set_num_threads(threads)


def test_the_curve_holds_what_each_step_was(undisturbed):
    lines = curve(undisturbed[0])
    steps = [line for line in lines if "loss" in line]
    assert [(line["step"], line["tokens"]) for line in steps] == [(1, 128), (2, 256), (3, 384), (4, 512)]
    # two steps of warm-up, then half a cosine wave over the other two
    assert [line["learning_rate"] for line in steps] == pytest.approx([0, 5e-4, 1e-3, 5e-4])
    held_out = [line for line in lines if "held_out_loss" in line]
    assert [line["step"] for line in held_out] == [0, 2, 4]
    assert held_out[-1]["held_out_loss"] < held_out[0]["held_out_loss"]
    timings = [json.loads(line) for line in bytes_of(undisturbed[0], "timings.jsonl").splitlines()]
    assert timings[0]["begun_after_step"] == 0
    assert [line["step"] for line in timings if "tokens_per_second" in line] == [1, 2, 3, 4]


def test_a_training_of_one_step_learns_something(load_tiny, rows, tmp_path):
    """A step of warm-up has the learning rate 0, so the only one is none."""
    trained = train(load_tiny(), rows[:4], replace(TRAINING, warmup=0.02), tmp_path, held_out=rows[:4])
    assert [line["learning_rate"] for line in trained.curve if "loss" in line] == [1e-3]
    before, after = (line["held_out_loss"] for line in trained.curve if "held_out_loss" in line)
    assert after < before


class Interrupting(list):
    """Windows; Ctrl-C is pressed while the first of a step is read."""

    def __init__(self, rows, after):
        super().__init__(rows)
        self.lengths, self.after, self.armed = np.full(16, 32), after, False

    def progress(self, done, total):
        self.armed = done == self.after

    def __getitem__(self, index):
        if self.armed:
            self.armed = False
            signal.raise_signal(signal.SIGINT)
        return super().__getitem__(index)


@pytest.mark.parametrize(("after", "kept"), [(1, [1]), (2, [2])])
def test_ctrl_c_gives_up_the_step_in_hand_and_keeps_those_before(after, kept, undisturbed, load_tiny, rows, tmp_path):
    folder, weights = undisturbed
    windows = Interrupting(rows, after)
    with pytest.raises(KeyboardInterrupt):
        train(load_tiny(), windows, TRAINING, tmp_path, progress=windows.progress)
    assert list(checkpoints.all_in(tmp_path / "checkpoints")) == kept
    assert all(checkpoints.problem(path) is None for path in checkpoints.all_in(tmp_path / "checkpoints").values())
    model = load_tiny()
    train(model, rows, TRAINING, tmp_path)
    assert curve(tmp_path) == [line for line in curve(folder) if "loss" in line]
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())


def test_a_finished_training_is_not_made_again(undisturbed, load_tiny, rows, held_out, tmp_path):
    folder, weights = undisturbed
    folder = shutil.copytree(folder, tmp_path / "copy")
    before, model, finished = bytes_of(folder), load_tiny(), []
    train(model, rows, TRAINING, folder, held_out=held_out, finish=finished.append)
    assert bytes_of(folder) == before
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(finished[0]["model.norm.weight"], weights["model.norm.weight"])


def test_other_settings_or_windows_are_refused_and_what_changes_nothing_is_not(undisturbed, load_tiny, rows, tmp_path):
    folder = shutil.copytree(undisturbed[0], tmp_path / "copy")
    with pytest.raises(RunError, match=r"training.learning_rate was 0.001, is 0.002"):
        train(load_tiny(), rows, replace(TRAINING, learning_rate=2e-3), folder)
    with pytest.raises(RunError, match=r"windows was None, is abc"):
        train(load_tiny(), rows, TRAINING, folder, facts={"windows": "abc"})
    train(load_tiny(), rows, replace(TRAINING, keep=1, save_every=7), folder)


def test_dropout_draws_the_same_after_a_stop(load_tiny, rows, tmp_path):
    training = replace(TRAINING, dropout=0.5)
    train(load_tiny(0.5), rows, training, tmp_path / "whole")
    windows = Interrupting(rows, 1)
    with pytest.raises(KeyboardInterrupt):
        train(load_tiny(0.5), windows, training, tmp_path / "stopped", progress=windows.progress)
    train(load_tiny(0.5), rows, training, tmp_path / "stopped")
    assert bytes_of(tmp_path / "stopped") == bytes_of(tmp_path / "whole")


def test_a_loss_that_is_no_number_stops_the_training_before_it_is_kept(load_tiny, rows, tmp_path):
    model = load_tiny()
    with torch.no_grad():
        model.model.norm.weight[0] = torch.nan
    with pytest.raises(RunError, match="step 1 has a loss or gradient that is no finite number"):
        train(model, rows, TRAINING, tmp_path)
    assert not checkpoints.all_in(tmp_path / "checkpoints")


def test_a_step_is_that_of_adamw_on_the_mean_over_its_tokens(load_tiny, rows, tmp_path):
    """One step by hand: all four windows at once, no warm-up, weight decay on matrices alone."""
    by_hand, model = load_tiny(), load_tiny()
    decayed = [tensor for tensor in by_hand.parameters() if tensor.ndim > 1]
    others = [tensor for tensor in by_hand.parameters() if tensor.ndim == 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95))
    tokens = torch.tensor(np.stack([row["input_ids"] for row in rows[:4]])).long()
    loss = by_hand(input_ids=tokens, labels=tokens).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(by_hand.parameters(), 1.0)
    optimizer.step()
    # in the same order, so that rounding is the same: a first step of AdamW is the sign of a gradient
    once = replace(TRAINING, warmup=0.0, order="given", device_windows=4, activation_checkpointing=False)
    trained = train(model, rows[:4], once, tmp_path)
    assert trained.curve[0]["loss"] == pytest.approx(loss.item(), rel=1e-6)
    for (name, mine), (_, his) in zip(model.named_parameters(), by_hand.named_parameters(), strict=True):
        assert torch.allclose(mine, his, rtol=0, atol=1e-7), name


def test_windows_at_once_change_nothing_but_rounding(load_tiny, rows, tmp_path):
    curves = [train(load_tiny(), rows, replace(TRAINING, device_windows=n), tmp_path / str(n)).curve for n in (1, 4)]
    for one, four in zip(*curves, strict=True):
        assert one["loss"] == pytest.approx(four["loss"], rel=1e-5)


def test_what_is_filled_up_behind_a_short_window_changes_nothing(load_tiny, rows):
    long, short = rows[:2]
    short = {"input_ids": short["input_ids"][:20]}
    model, batch = load_tiny(), collate([long, short])
    assert batch["labels"][1, 20:].tolist() == [IGNORED] * 12
    together = model(**batch).loss.item() * (31 + 19)
    alone = sum(model(**collate([row])).loss.item() * (len(row["input_ids"]) - 1) for row in (long, short))
    assert together == pytest.approx(alone, rel=1e-6)


def test_labels_of_ones_own_say_what_is_learned():
    row = {"input_ids": np.arange(4, dtype=np.int32), "labels": np.array([0, IGNORED, 2, 3], dtype=np.int32)}
    assert collate([row])["labels"].tolist() == [[0, IGNORED, 2, 3]]


def test_a_second_training_of_a_folder_is_refused_while_one_works(load_tiny, rows, tmp_path):
    from longattn.locks import locked

    (tmp_path / "out").mkdir()
    with locked(tmp_path / "out" / ".lock"), pytest.raises(RunError, match="in use"):
        train(load_tiny(), rows, TRAINING, tmp_path / "out")


def test_what_differs_is_named_with_all_that_it_lies_in(tmp_path):
    path = tmp_path / "train.json"
    loop._describe(path, {"model": {"weights": {"hash": "a"}}})
    with pytest.raises(RunError, match=r"\(model\.weights\.hash was a, is b\)"):
        loop._describe(path, {"model": {"weights": {"hash": "b"}}})
