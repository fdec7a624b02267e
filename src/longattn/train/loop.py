"""Train a model on windows with the ``Trainer`` of ``transformers``, so that a stopped one goes on as if never stopped.

Ours are the order of windows, which checkpoint counts, when to stop and what is written of it; steps, devices,
precision and the optimizer are the ``Trainer``'s and ``accelerate``'s.
"""

import contextlib
import importlib.metadata
import json
import logging
import math
import os
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from accelerate import PartialState
from accelerate.parallelism_config import ParallelismConfig
from accelerate.utils import broadcast_object_list
from torch import nn
from torch.utils.data import Dataset
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from longattn.errors import RunError
from longattn.locks import locked
from longattn.mixing.filling import positions
from longattn.models.transformer import quiet
from longattn.sampling import generator
from longattn.settings import plain
from longattn.tables import append_line, make_folder, read_sealed, write_sealed, write_text
from longattn.train import checkpoints
from longattn.train.chunks import backward_by_chunks, draw_weights
from longattn.train.planning import Plan, plan, step_seed
from longattn.train.recomputing import keep_attention
from longattn.train.settings import Training
from longattn.train.windows import document_starts

Row = Mapping[str, npt.NDArray[np.integer[Any]]]
"""``input_ids`` [T] and optionally ``labels`` [T], -100 where nothing is learned, and ``boundaries`` or
``position_ids`` [T] of the documents in it."""

Line = dict[str, int | float]
"""A line of ``metrics.jsonl``: ``step``, ``tokens``, ``loss``, ``learning_rate`` and ``grad_norm`` of a step, or
``step`` and ``held_out_loss`` where that was measured."""

Progress = Callable[[int, int], None]
"""Told the steps done so far, and all that there are."""

logger = logging.getLogger(__name__)

IGNORED = -100
"""The label of a token that is not learned."""


@dataclass(frozen=True)
class Trained:
    """What a training came to."""

    steps: int
    tokens: int
    """Seen in all steps, those of earlier attempts included."""
    left_out: int
    """Windows that would not have filled a step."""
    curve: tuple[Line, ...] = field(repr=False)
    """What ``metrics.jsonl`` holds."""


def train(
    model: nn.Module,
    windows: Sequence[Row],
    training: Training,
    output: Path,
    *,
    held_out: Sequence[Row] | None = None,
    facts: Mapping[str, Any] | None = None,
    finish: Callable[[Mapping[str, Any]], object] = lambda weights: None,
    progress: Progress = lambda done, total: None,
) -> Trained:
    """Train ``model``, in place, on ``windows``; goes on from the last whole checkpoint below ``output``.

    Every process of a distributed training calls this alike. ``facts`` say what else decides the result (hashes of
    model and windows); an attempt to go on with others raises :class:`RunError`. On SIGINT or SIGTERM a checkpoint is
    written after the windows in hand, and the signal is raised again. ``finish`` is called in the main process with all
    weights after the last step.

    ``output`` gets ``train.json`` (settings and facts), ``checkpoints/``, ``metrics.jsonl`` (a line per step, the same
    however often the training was stopped) and ``timings.jsonl``.
    """
    lengths = _lengths(windows)
    planned = plan(len(windows), int(lengths.max()), training)
    arguments = _arguments(training, planned, output / "checkpoints", evaluates=held_out is not None)
    state = PartialState()
    with contextlib.ExitStack() as stack:
        stack.enter_context(quiet())
        if state.is_main_process:
            make_folder(output)
            stack.enter_context(locked(output / ".lock"))
            _describe(output / "train.json", {"training": training.decisive(), **(facts or {})})
        stop = stack.enter_context(_told_to_stop())
        start = _agreed_start(output / "checkpoints")
        arguments.eval_on_start = held_out is not None and start is None
        tokens = np.cumsum(lengths[planned.order])[planned.step_windows - 1 :: planned.step_windows]
        log = _Log(output, tokens, writes=state.is_main_process)
        log.begin(start)
        trainer = (Trainer if training.chunk_tokens is None else _ChunkedTrainer)(
            model=model,
            args=arguments,
            data_collator=partial(collate, apart=training.documents == "apart"),
            train_dataset=_Chosen(windows, planned.order),
            eval_dataset=_Chosen(held_out, np.arange(len(held_out))) if held_out is not None else None,
            callbacks=[log, _Keeper(training, stop, start), _Reporter(progress)],
        )
        if isinstance(trainer, _ChunkedTrainer):
            trainer.training = training
        # it prints every line of the log
        trainer.remove_callback(PrinterCallback)
        trainer.train(resume_from_checkpoint=None if start is None else str(start))
        done = trainer.state.global_step
        if done == planned.steps:
            weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
            if state.is_main_process:
                finish(weights)
    if done < planned.steps:
        assert stop.number is not None, "nothing else stops a training early"
        signal.raise_signal(stop.number)
    return Trained(done, int(tokens[done - 1]), planned.left_out, tuple(log.lines))


def collate(rows: Sequence[Row], *, apart: bool = False) -> dict[str, torch.Tensor]:
    """Windows as a batch: ``input_ids`` and ``labels`` [B, T], filled up at their ends where lengths differ.

    Attention is causal, so no token sees what is filled up behind it, and no mask is needed. To keep documents
    ``apart`` there are ``position_ids`` [B, T] that begin anew with each, of which ``transformers`` makes the mask of
    its attention, and the first token of each has no label. Raises :class:`RunError` for rows that do not say where
    documents begin.
    """
    longest = max(len(row["input_ids"]) for row in rows)
    tokens = torch.zeros(len(rows), longest, dtype=torch.int64)
    labels = torch.full((len(rows), longest), IGNORED)
    places = torch.zeros(len(rows), longest, dtype=torch.int64)
    for i, row in enumerate(rows):
        length = len(row["input_ids"])
        tokens[i, :length] = torch.from_numpy(row["input_ids"].astype(np.int64))
        labels[i, :length] = torch.from_numpy(row.get("labels", row["input_ids"]).astype(np.int64))
        if apart:
            starts = document_starts(row)
            places[i] = torch.from_numpy(positions(starts, longest))
            labels[i, starts] = IGNORED
    return {"input_ids": tokens, "labels": labels, **({"position_ids": places} if apart else {})}


class _Chosen(Dataset[Row]):
    """Windows in the order that they are trained on."""

    def __init__(self, windows: Sequence[Row], order: npt.NDArray[np.int64]) -> None:
        self._windows, self._order = windows, order

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: int) -> Row:
        return self._windows[int(self._order[index])]


def _lengths(windows: Sequence[Row]) -> npt.NDArray[np.int64]:
    """Tokens of each window."""
    known = getattr(windows, "lengths", None)
    return known if known is not None else np.array([len(row["input_ids"]) for row in windows], dtype=np.int64)


def _arguments(training: Training, planned: Plan, folder: Path, *, evaluates: bool) -> TrainingArguments:
    """The settings in the words of the ``Trainer``. Raises ``ValueError`` where devices cannot share a step evenly."""
    on_gpu = torch.cuda.is_available()
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=training.device_windows,
        per_device_eval_batch_size=training.device_windows,
        max_steps=planned.steps,
        # the order of windows holds every pass
        num_train_epochs=1,
        train_sampling_strategy="sequential",
        learning_rate=training.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=training.warmup_steps(planned.steps),
        weight_decay=training.weight_decay,
        adam_beta1=training.beta1,
        adam_beta2=training.beta2,
        max_grad_norm=training.clip,
        bf16=training.precision == "bfloat16"
        or (training.precision == "auto" and on_gpu and torch.cuda.is_bf16_supported()),
        activation_checkpointing=training.activation_checkpointing and training.chunk_tokens is None,
        activation_checkpointing_kwargs={"use_reentrant": False, "context_fn": keep_attention},
        # a mean over several steps would differ after a checkpoint between them
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_steps=training.save_every,
        eval_strategy="steps" if evaluates else "no",
        eval_steps=training.evaluate_every,
        prediction_loss_only=True,
        seed=training.seed,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=on_gpu,
        # without it processes on CPUs do not find each other
        use_cpu=not torch.accelerator.is_available(),
    )
    if arguments.n_gpu > 1:
        raise RunError(
            f"this process sees {arguments.n_gpu} GPUs; start one for each with `accelerate launch -m longattn train "
            "...`, or show it one with CUDA_VISIBLE_DEVICES=0"
        )
    configured = os.environ.get("ACCELERATE_USE_PARALLELISM_CONFIG", "false").lower() == "true"
    share_one = ParallelismConfig().non_data_parallel_size if configured else 1
    if share_one > 1 and (training.chunk_tokens is not None or training.documents == "apart"):
        raise ValueError(
            "chunk_tokens and documents apart are for whole windows on each device, not for tensor or context "
            "parallelism"
        )
    devices = arguments.world_size // share_one
    arguments.gradient_accumulation_steps = planned.accumulation(devices, training.device_windows)
    return arguments


def _describe(path: Path, decisive: Mapping[str, Any]) -> None:
    """Say what decides the result. Raises :class:`RunError` if an earlier attempt was another training."""
    decisive = plain(dict(decisive))
    if not path.exists():
        write_sealed(path, decisive)
    earlier = read_sealed(path)
    if other := _differences(earlier, decisive):
        raise RunError(
            f"{path.parent} holds a training with other settings ({'; '.join(other)}); give those, or another folder"
        )


def _differences(earlier: Mapping[str, Any], now: Mapping[str, Any], within: str = "") -> list[str]:
    """What differs, as ``name was X, is Y``."""
    found = []
    for name in sorted({*earlier, *now}):
        before, after = earlier.get(name), now.get(name)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            found += _differences(before, after, f"{within}{name}.")
        elif before != after:
            found.append(f"{within}{name} was {before}, is {after}")
    return found


def _agreed_start(folder: Path) -> Path | None:
    """The checkpoint that every process goes on from: the main one looks, and removes what is not whole."""
    state = PartialState()
    found = [checkpoints.last_whole(folder) if state.is_main_process else None]
    if state.num_processes > 1:
        broadcast_object_list(found)
    return found[0]


@dataclass
class _Stop:
    """Whether a signal asked the process to end."""

    number: int | None = None

    def agreed(self) -> bool:
        """Whether any process was asked to: all must stop after the same windows."""
        state = PartialState()
        if state.num_processes == 1:
            return self.number is not None
        flag = torch.tensor([self.number or 0], device=state.device)
        torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
        self.number = int(flag.item()) or None
        return self.number is not None


@contextlib.contextmanager
def _told_to_stop() -> Iterator[_Stop]:
    """Note the first SIGINT or SIGTERM; a second one does what it would have done without us."""
    stop = _Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def note(number: int, frame: object) -> None:
        stop.number = number
        restore()

    def restore() -> None:
        for one, handler in before.items():
            signal.signal(one, handler)

    before = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}
    for one in before:
        signal.signal(one, note)
    try:
        yield stop
    finally:
        restore()


class _ChunkedTrainer(Trainer):
    """Goes through a window chunk by chunk; all else is as before."""

    training: Training
    _step, _seen = -1, 0

    def training_step(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """Add the gradient of the windows in hand; returns their part of the step's loss."""
        assert num_items_in_batch is not None, "the Trainer counts labels for models that take keyword arguments"
        model.train()
        inputs = self._prepare_inputs(inputs)
        chunk, step = self.training.chunk_tokens, self.state.global_step
        assert chunk is not None, "it is why this class is used"
        self._seen = self._seen + 1 if self._step == step else 0
        self._step = step
        # the same chunks in every process: they make backward passes together
        random = generator(self.training.seed, "chunks", step, self._seen)
        num_chunks = -(-inputs["input_ids"].shape[1] // chunk)
        return backward_by_chunks(
            model,
            inputs["input_ids"],
            inputs["labels"],
            chunk=chunk,
            weights=draw_weights(num_chunks, self.training, random),
            # gradients are averaged over processes, the loss is over all their tokens
            items=float(num_items_in_batch) / self.accelerator.num_processes,
            unsynced=lambda: self.accelerator.no_sync(model),
        )


class _Keeper(TrainerCallback):
    """Keeps what another attempt needs: the random numbers of each step, and checkpoints that say they are whole."""

    def __init__(self, training: Training, stop: _Stop, start: Path | None) -> None:
        self._training, self._stop = training, stop
        self._saved = None if start is None else checkpoints.step_of(start)

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Begin the step's random numbers, whatever was drawn in a step that was given up."""
        torch.manual_seed(step_seed(self._training.seed, state.global_step, args.process_index))

    def on_substep_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Stop between two windows of a step: the step is given up, the weights are still those after the last one."""
        if self._stop.agreed():
            control.should_training_stop = True
            # a checkpoint that is there must not be written again: while it is, there would be none
            control.should_save = state.global_step not in (0, self._saved)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Stop after a step."""
        if self._stop.agreed():
            control.should_training_stop = control.should_save = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Seal the checkpoint once every process has written its part, and only then remove older ones."""
        PartialState().wait_for_everyone()
        if state.is_world_process_zero:
            assert args.output_dir is not None, "it was given"
            folder = Path(args.output_dir)
            checkpoints.seal(checkpoints.all_in(folder)[state.global_step])
            checkpoints.thin(folder, self._training.keep)
        self._saved = state.global_step
        PartialState().wait_for_everyone()


class _Log(TrainerCallback):
    """Writes ``metrics.jsonl``, which depends on the settings alone, and ``timings.jsonl``, which does not."""

    def __init__(self, output: Path, tokens: npt.NDArray[np.int64], *, writes: bool) -> None:
        self._metrics, self._timings = output / "metrics.jsonl", output / "timings.jsonl"
        self._tokens, self._writes = tokens, writes
        self.lines: list[Line] = []

    def begin(self, start: Path | None) -> None:
        """Take lines back that were written after the checkpoint: the steps behind them are made again."""
        history = [] if start is None else json.loads((start / "trainer_state.json").read_text())["log_history"]
        self.lines = [line for entry in history if (line := self._line(entry))]
        if self._writes:
            write_text(self._metrics, "".join(_json(line) for line in self.lines))

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Begin to measure time, and say on what."""
        self._last = time.monotonic()
        if self._writes:
            versions = {name: importlib.metadata.version(name) for name in ("longattn", "torch", "transformers")}
            where = {"devices": args.world_size, "device": args.device.type, "threads": torch.get_num_threads()}
            if state.global_step and self._timings.exists():
                self._warn_of_another_place({**where, "versions": versions})
            append_line(self._timings, _json({"begun_after_step": state.global_step, **where, "versions": versions}))

    def _warn_of_another_place(self, here: Mapping[str, Any]) -> None:
        """Say what of the place is not as it was: sums are made in another order, and last digits can differ."""
        before = _last_place(self._timings)
        if changed := [f"{name} {before[name]} -> {value}" for name, value in here.items() if before[name] != value]:
            logger.warning(
                "not as it was begun: %s; the steps from here on can differ in their last digits from those of an "
                "undisturbed training",
                ", ".join(changed),
            )

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Write a line. Raises :class:`RunError` for a loss that is no finite number, before anything is kept of it."""
        entry = state.log_history[-1]
        line = self._line(entry)
        if line is None:
            return
        if not all(map(math.isfinite, line.values())):
            raise RunError(
                f"step {state.global_step} has a loss or gradient that is no finite number: {line}; lower "
                "learning_rate, or look at what it was trained on. The last checkpoint is from before"
            )
        self.lines.append(line)
        if self._writes:
            append_line(self._metrics, _json(line))
            append_line(self._timings, _json(self._timing(line)))

    def _timing(self, line: Line) -> Line:
        now = time.monotonic()
        seconds, self._last = now - self._last, now
        if "loss" not in line:
            return {"step": line["step"], "held_out_seconds": round(seconds, 3)}
        step = int(line["step"])
        tokens = self._tokens[step - 1] - (self._tokens[step - 2] if step > 1 else 0)
        return {"step": step, "seconds": round(seconds, 3), "tokens_per_second": round(float(tokens) / seconds, 1)}

    def _line(self, entry: Mapping[str, Any]) -> Line | None:
        """What is kept of an entry of the ``Trainer``'s log."""
        step = entry["step"]
        if "loss" in entry:
            tokens = {"step": step, "tokens": int(self._tokens[step - 1])}
            return tokens | {name: entry[name] for name in ("loss", "learning_rate", "grad_norm")}
        return {"step": step, "held_out_loss": entry["eval_loss"]} if "eval_loss" in entry else None


def _last_place(timings: Path) -> dict[str, Any]:
    """Devices, threads and versions of the last attempt; half a line of a killed process is passed over."""
    found: dict[str, Any] = defaultdict(lambda: "unknown")
    for line in timings.read_text(errors="replace").splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            entry = json.loads(line)
            if "begun_after_step" in entry:
                found.update(entry)
    return found


def _json(line: Mapping[str, Any]) -> str:
    return json.dumps(line) + "\n"


class _Reporter(TrainerCallback):
    """Tells a person how far the training is."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """After every step."""
        self._progress(state.global_step, state.max_steps)
