"""Training: processes killed at any moment, and the curve they come to together."""

import itertools
import multiprocessing
import signal
import time

import numpy as np
import pytest

pytest.importorskip("accelerate", reason="training is not installed: pip install 'longattn[train]'")


def work(model, output):
    """One attempt at a training of twelve steps, in a process of its own."""
    from longattn.models import resolve
    from longattn.settings import Model
    from longattn.train import Training, train
    from longattn.train.models import load_trainable, trainable_config

    facts, training = Model(name=str(model)), Training(batch_tokens=64, learning_rate=1e-3, save_every=2)
    checkpoint = resolve(facts)
    random = np.random.default_rng(0)
    rows = [{"input_ids": random.integers(0, 256, 32).astype(np.int32)} for _ in range(24)]
    module = load_trainable(checkpoint, trainable_config(checkpoint, facts, 0.0), training)
    train(module, rows, training, output)


@pytest.fixture(scope="module")
def processes():
    """Processes that begin with everything imported, so that most of their time is training."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["longattn.train.continuing"])
    return context


def test_a_training_that_is_killed_at_any_moment_goes_on_to_the_same_curve(
    processes, trials, tiny_model_folder, tmp_path
):
    def attempt(output, seconds=None):
        """One process, killed after a time; how it ended."""
        process = processes.Process(target=work, args=(tiny_model_folder, output))
        process.start()
        process.join(seconds)
        if process.is_alive():
            process.kill()
            process.join()
        return process.exitcode

    # the first process waits until everything is imported
    assert attempt(tmp_path / "first") == 0
    began = time.monotonic()
    assert attempt(tmp_path / "whole") == 0
    seconds = time.monotonic() - began
    right = (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    assert right.count(b"\n") == 12
    random, injected, killed, passed = trials.random(), trials.number(20, 2), 0, 0
    for folder in (tmp_path / f"killed-{i}" for i in itertools.count()):
        # one that ended before it could be killed is no trial
        if attempt(folder, random.uniform(0.1, 1.0) * seconds) != -signal.SIGKILL:
            continue
        killed += 1
        passed += attempt(folder) == 0 and (folder / "metrics.jsonl").read_bytes() == right
        if killed == injected:
            break
    trials.count("R1", "kill -9 of a training, at any moment", injected, passed)
