from dataclasses import replace

import numpy as np
import pytest

from longattn.train.planning import plan, step_seed
from longattn.train.settings import Training

TRAINING = Training(batch_tokens=40)


def test_a_step_has_the_windows_that_its_tokens_hold_and_the_rest_is_left_out():
    planned = plan(11, 10, TRAINING)
    assert (planned.step_windows, planned.steps, planned.left_out) == (4, 2, 3)
    assert len(set(planned.order.tolist())) == 8


def test_the_paper_has_64_windows_in_a_step():
    assert plan(64, 32768, Training()).step_windows == 64


def test_every_pass_holds_every_window_once_in_an_order_of_its_own():
    planned = plan(8, 10, replace(TRAINING, tokens=160))
    first, second = planned.order[:8], planned.order[8:]
    assert planned.steps == 4
    assert sorted(first) == sorted(second) == list(range(8))
    assert first.tolist() != second.tolist()


def test_the_order_depends_on_the_seed_alone():
    orders = [plan(100, 10, replace(TRAINING, seed=seed)).order.tolist() for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    # a fixed one: another version of numpy must not train on other windows
    assert orders[0][:8] == [21, 92, 29, 55, 18, 22, 99, 3]


def test_windows_can_be_taken_as_they_come():
    assert plan(9, 10, replace(TRAINING, order="given")).order.tolist() == list(range(8))


@pytest.mark.parametrize(
    ("num_windows", "window", "changes", "match"),
    [
        (11, 41, {}, "at least one window, 41 tokens"),
        (3, 10, {}, "less than one step.*set it to 30"),
        (11, 10, {"tokens": 39}, "tokens must be at least batch_tokens"),
        (11, 10, {"warmup": 1.0}, "warmup"),
        (11, 10, {"learning_rate": 0.0}, "learning_rate"),
        (11, 10, {"keep": 0}, "keep"),
    ],
)
def test_what_cannot_be_planned_is_refused(num_windows, window, changes, match):
    with pytest.raises(ValueError, match=match):
        plan(num_windows, window, replace(TRAINING, **changes))


def test_devices_share_a_step_evenly_or_not_at_all():
    planned = plan(12, 10, replace(TRAINING, batch_tokens=60))
    assert planned.accumulation(devices=3, device_windows=1) == 2
    with pytest.raises(ValueError, match=r"one of 1, 2, 3, 6,"):
        planned.accumulation(devices=4, device_windows=1)


def test_random_numbers_of_steps_and_processes_differ():
    seeds = {step_seed(0, step, process) for step in range(20) for process in range(4)}
    assert len(seeds) == 80
    assert np.all([0 <= seed < 2**32 for seed in seeds])
