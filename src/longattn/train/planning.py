"""Decide which windows each step trains on, before anything is loaded: nothing later changes it."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from longattn.sampling import generator
from longattn.train.settings import Training


@dataclass(frozen=True, eq=False)
class Plan:
    """The windows of every step. How many devices there are changes none of it."""

    order: npt.NDArray[np.int64] = field(repr=False)
    """Indices of windows, those of the first step first."""
    step_windows: int
    """Windows per step."""
    window: int
    """Tokens of the longest window."""
    left_out: int
    """Windows that no step gets because they would not fill one."""

    @property
    def steps(self) -> int:
        """Steps of the optimizer."""
        return len(self.order) // self.step_windows

    def accumulation(self, devices: int, device_windows: int) -> int:
        """Times that each of ``devices`` computes ``device_windows`` windows before a step.

        Raises ``ValueError`` where the step's windows cannot be dealt out evenly.
        """
        at_once = devices * device_windows
        if self.step_windows % at_once:
            fit = [n for n in range(1, self.step_windows + 1) if self.step_windows % n == 0]
            raise ValueError(
                f"a step has {self.step_windows} windows (batch_tokens, at {self.window} tokens each), which {devices} "
                f"devices with {device_windows} at once cannot share evenly; devices times device_windows must be one "
                f"of {', '.join(map(str, fit))}, or batch_tokens another"
            )
        return self.step_windows // at_once


def plan(num_windows: int, window: int, training: Training) -> Plan:
    """Deal ``num_windows`` windows of up to ``window`` tokens out to steps of ``batch_tokens``.

    A pass over the windows ends before the next begins. Raises ``ValueError`` where there is less than one step.
    """
    training.check()
    step_windows = windows_of_a_step(window, training)
    wanted = num_windows if training.tokens is None else training.tokens // window
    steps = wanted // step_windows
    if not steps:
        raise ValueError(
            f"{wanted} windows of {window} tokens are less than one step of batch_tokens, {training.batch_tokens}; "
            f"set it to {wanted * window} or less"
        )
    used = steps * step_windows
    passes = [_pass(num_windows, number, training) for number in range(-(-used // num_windows))]
    return Plan(np.concatenate(passes)[:used], step_windows, window, wanted - used)


def windows_of_a_step(window: int, training: Training) -> int:
    """How many windows of ``window`` tokens fit in ``batch_tokens``. Raises ``ValueError`` where none does."""
    if training.batch_tokens < window:
        raise ValueError(f"batch_tokens must be at least one window, {window} tokens, got {training.batch_tokens}")
    return training.batch_tokens // window


def _pass(num_windows: int, number: int, training: Training) -> npt.NDArray[np.int64]:
    """Every window once."""
    if training.order == "given":
        return np.arange(num_windows)
    keys = generator(training.seed, "order", number).integers(0, 2**64, num_windows, dtype=np.uint64)
    return np.argsort(keys, kind="stable")


def step_seed(seed: int, step: int, process: int) -> int:
    """What the random numbers of a step begin with, so that a step is the same whatever was stopped before it."""
    return int(generator(seed, "step", step, process).integers(2**32))
