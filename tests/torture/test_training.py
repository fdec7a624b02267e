"""Training: processes killed at any moment, and the curve they come to together."""

from functools import partial

import numpy as np
import pytest
from killing import killed_and_given_again, with_imported

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
    return with_imported("longattn.train.continuing")


def test_a_training_that_is_killed_at_any_moment_goes_on_to_the_same_curve(
    processes, trials, tiny_model_folder, tmp_path
):
    def curve(folder):
        return (folder / "metrics.jsonl").read_bytes()

    of_the_model = partial(work, tiny_model_folder)
    right = killed_and_given_again(processes, of_the_model, tmp_path, trials, "a training", curve)
    assert right.count(b"\n") == 12
