"""Steps of a long piece of work, each done once: a folder for what it makes, and a sealed file that says it is whole.

A step is named by what it is and by everything that decides its result, the names of the steps that it builds on
included. So the same command goes on where it was stopped, and one with other settings makes other steps beside these.
"""

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

from longattn import __version__
from longattn.errors import DamageError, RunError
from longattn.locks import locked
from longattn.settings import fingerprint, plain
from longattn.tables import file_sha256, make_folder, read_sealed, write_sealed

log = logging.getLogger(__name__)

Facts = Mapping[str, Any]

RECEIPT = "step.json"


@dataclass(frozen=True)
class Step:
    """Something to do: ``work(folder, inputs, settings)`` makes files in its folder and returns facts, as JSON types.

    It must be safe to do again in a folder that a stopped attempt has left.
    """

    name: str
    work: Callable[[Path, Mapping[str, Path], Any], Facts]
    """A function of a module: it is run in another process."""
    settings: Any
    """A frozen dataclass that decides the result."""
    inputs: Mapping[str, "Step"] = field(default_factory=dict)
    """Steps whose folders the work is given, by what they are to it."""

    @cached_property
    def key(self) -> str:
        """Name of the folder."""
        inputs = {role: step.key for role, step in self.inputs.items()}
        decides = {"settings": plain(self.settings), "inputs": inputs, "version": __version__}
        return f"{self.name}-{fingerprint(decides)}"


@dataclass(frozen=True)
class Done:
    """What is known of a step that is done."""

    step: Step
    folder: Path
    facts: Facts
    cpu_seconds: float
    """Of all threads of the process that did it; an attempt that was stopped is not counted."""
    seconds: float


class Steps:
    """Does steps in processes of one thread each; for a ``with`` block, in which the folder is this process's."""

    def __init__(self, root: Path, workers: int, tell: Callable[[str], None] = log.info) -> None:
        """``tell`` is called with a line about each step that is done."""
        self.root, self._workers, self._tell = root, workers, tell
        self.done: dict[str, Done] = {}
        """Every step that was asked for and is done, by its key."""

    def __enter__(self) -> "Steps":
        make_folder(self.root / "steps")
        self._stack = ExitStack()
        self._stack.enter_context(locked(self.root / ".lock"))
        self._pool = self._stack.enter_context(
            ProcessPoolExecutor(self._workers, mp_context=get_context("spawn"), initializer=_one_thread)
        )
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is not None:
            # who waits for the end of half an hour's step after Ctrl-C
            for process in list(self._pool._processes.values()):
                process.terminate()
        self._stack.close()

    def folder(self, step: Step) -> Path:
        """Where the step's files are."""
        return self.root / "steps" / step.key

    def do(self, *steps: Step) -> list[Done]:
        """Do these steps, each after those that it builds on; returns what is known of them, in the order given.

        Raises what a step raises, :class:`RunError` where its process was killed, and :class:`DamageError` for a
        finished step whose files are no longer those that were written.
        """
        waiting = [step for step in _in_order(steps) if step.key not in self.done]
        under_way: dict[Future[dict[str, Any]], Step] = {}
        while waiting or under_way:
            # in order, so that one look starts all that can be done, also behind steps that an earlier command did
            for step in waiting.copy():
                if not all(of.key in self.done for of in step.inputs.values()):
                    continue
                waiting.remove(step)
                if (known := self._known(step)) is not None:
                    self.done[step.key] = known
                else:
                    inputs = {role: self.folder(of) for role, of in step.inputs.items()}
                    future = self._pool.submit(_perform, step.work, self.folder(step), inputs, step.settings)
                    under_way[future] = step
            for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                self._finish(under_way.pop(future), future)
        return [self.done[step.key] for step in steps]

    def _finish(self, step: Step, future: "Future[dict[str, Any]]") -> None:
        try:
            receipt = future.result()
        except BrokenProcessPool as error:
            raise RunError(
                f"a process was killed while it did {step.name} or a step beside it, for want of memory perhaps; "
                "the same command goes on"
            ) from error
        write_sealed(self.folder(step) / RECEIPT, receipt)
        self.done[step.key] = self._read(step, receipt)
        self._tell(f"{step.name}: {receipt['cpu_seconds']:.1f} CPU seconds")

    def _known(self, step: Step) -> Done | None:
        folder = self.folder(step)
        if not (folder / RECEIPT).exists():
            return None
        receipt = read_sealed(folder / RECEIPT)
        for name, digest in receipt["files"].items():
            if not (folder / name).exists() or file_sha256(folder / name) != digest:
                raise DamageError(folder / name, "it is not the file that the step has made")
        return self._read(step, receipt)

    def _read(self, step: Step, receipt: Facts) -> Done:
        return Done(step, self.folder(step), receipt["facts"], receipt["cpu_seconds"], receipt["seconds"])


def _in_order(steps: Sequence[Step]) -> list[Step]:
    """The steps and all that they build on, each once and after these."""
    found: dict[str, Step] = {}

    def visit(step: Step) -> None:
        if step.key not in found:
            for of in step.inputs.values():
                visit(of)
            found[step.key] = step

    for step in steps:
        visit(step)
    return list(found.values())


def _one_thread() -> None:
    """One thread for each process: more would wait for each other, and sums would depend on how many there are."""
    # read by torch when it is imported, which takes seconds and not every step needs
    os.environ["OMP_NUM_THREADS"] = "1"
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(1)
    # who gave the command ends its processes
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _perform(
    work: Callable[[Path, Mapping[str, Path], Any], Facts], folder: Path, inputs: Mapping[str, Path], settings: Any
) -> dict[str, Any]:
    """Do a step's work in this process; returns its receipt."""
    make_folder(folder)
    began, cpu = time.monotonic(), time.process_time()
    facts = plain(work(folder, inputs, settings))
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in (RECEIPT, ".lock"))
    return {
        "facts": facts,
        "files": {path.relative_to(folder).as_posix(): file_sha256(path) for path in files},
        "cpu_seconds": time.process_time() - cpu,
        "seconds": time.monotonic() - began,
    }
