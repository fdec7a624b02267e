"""From a checkpoint and an export to a checkpoint that was trained on it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from longattn import settings
from longattn.models.checkpoint import Checkpoint, resolve
from longattn.train.adapters import merged, with_lora
from longattn.train.loop import Progress, Trained, train
from longattn.train.models import (
    check_apart,
    check_documents,
    check_fit,
    load_trainable,
    save_trained,
    trainable_config,
)
from longattn.train.planning import plan
from longattn.train.settings import Training
from longattn.train.windows import Windows, read_windows


def begin(threads: int | None = None) -> bool:
    """Join the other processes of a distributed training, if there are any; whether this is the main one."""
    if threads is not None:
        torch.set_num_threads(threads)
    return PartialState(cpu=not torch.accelerator.is_available()).is_main_process


def continue_pretraining(
    model: settings.Model,
    export: str,
    output: Path,
    training: Training,
    progress: Progress = lambda done, total: None,
) -> Trained:
    """Train a model on the windows of an export; the result is the checkpoint ``output/model``.

    Give the same again to go on after a stop, and in every process of a distributed training. Raises ``ModelError``
    for a model that the windows do not fit, and what :func:`read_windows` and :func:`train` raise.
    """
    training.check()
    begin()
    # one process of a machine converts what the others find in the cache
    with PartialState().local_main_process_first():
        checkpoint = resolve(model)
        windows = read_windows(export)
        held_out = None if training.held_out is None else read_windows(training.held_out)
    config = trainable_config(checkpoint, model, training.dropout)
    for each in filter(None, (windows, held_out)):
        check_fit(checkpoint, config, model, each)
        check_documents(each, training)
    adds = training.lora_rank is not None
    module = load_trainable(checkpoint, config, training)
    if training.documents == "apart":
        check_apart(module, checkpoint.name)
    facts = _facts(checkpoint, windows, held_out)

    def finish(weights: Mapping[str, Any]) -> None:
        base = load_trainable(checkpoint, config, training) if adds else module
        weights = merged(base, training, weights) if adds else weights
        save_trained(base, weights, checkpoint, output / "model", _made(checkpoint, windows, training))

    trainee = with_lora(module, training) if adds else module
    return train(trainee, windows, training, output, held_out=held_out, facts=facts, finish=finish, progress=progress)


def _facts(checkpoint: Checkpoint, windows: Windows, held_out: Windows | None) -> dict[str, Any]:
    """What decides the result besides the settings."""
    return {"model": checkpoint.hash, "windows": windows.hash, "held_out": held_out and held_out.hash}


def _made(checkpoint: Checkpoint, windows: Windows, training: Training) -> str:
    planned = plan(len(windows), int(windows.lengths.max()), training)
    return (
        f"{checkpoint.name} (content hash {checkpoint.hash}), trained by longattn for {planned.steps} steps of "
        f"{planned.step_windows} windows of {planned.window} tokens, of {windows.name} (content hash {windows.hash})."
    )
