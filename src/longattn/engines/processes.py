"""The processes of the embedded engine: what runs in them, and how one that died is replaced."""

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import connection, resource_tracker
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any, NamedTuple

from longattn import settings
from longattn.attempts import measure_unit
from longattn.logs import Style, show_log, style
from longattn.measuring import CutUnit, Job, cut_unit
from longattn.quarantine import Place
from longattn.records import WorkUnit
from longattn.tokens import Tokenizer

if TYPE_CHECKING:
    from longattn.models.base import Model

log = logging.getLogger(__name__)

SPAWN = multiprocessing.get_context("spawn")
BYTES_PER_TOKEN = 4
"""Of plain text, roughly; compressed input holds more tokens."""

DEATHS = {
    signal.SIGKILL: "memory is the usual cause: fewer workers or a smaller unit_bytes help",
    signal.SIGBUS: "a file that was mapped into memory, such as the model, was changed meanwhile",
    signal.SIGSEGV: "a fault of a compiled library",
}
"""What a signal that ends a process means here."""


class Shared(NamedTuple):
    """Memory that all processes see."""

    windows: Any
    """Windows that all scorers have measured so far."""
    tokens: Any
    """Tokens of those windows."""
    in_hand: Any
    """Of a unit that is tried alone: 1 if a document is in hand, the number of its file, its position."""


class Pools:
    """Cutters share one pool of processes, each device has a pool of one."""

    def __init__(
        self,
        job: Job,
        waiting: Sequence[WorkUnit],
        compute: settings.Compute,
        places: Sequence[str],
        patience: int | None,
    ) -> None:
        """``places`` are the devices; ``patience`` is that of :func:`~longattn.attempts.measure_unit`."""
        self._job, self._waiting, self._compute, self._places = job, waiting, compute, places
        self._patience = patience
        self.num_cutters = compute.workers or max(1, (os.cpu_count() or 2) // 2)
        self._shared = Shared(SPAWN.Value("q", 0), SPAWN.Value("q", 0), SPAWN.RawArray("q", 3))
        self._known: set[BaseProcess] = set()
        self._loading: dict[int, Future] = {}

    def __enter__(self) -> "Pools":
        self._others = set(multiprocessing.active_children())
        self.cutters = self._cutters()
        self.scorers = [self._scorer(number) for number in range(len(self._places))]
        return self

    def __exit__(self, *error: object) -> None:
        pools = [self.cutters, *self.scorers]
        if error[0] is not None:
            # a unit in hand may take minutes; it begins anew next time, so nothing is lost by ending it now
            for process in set(multiprocessing.active_children()) - self._others:
                process.kill()
        for pool in pools:
            pool.shutdown(wait=True, cancel_futures=True)

    def cut(self, unit: WorkUnit, alone: bool) -> "Future[CutUnit]":
        """Have a unit read and cut; of one that goes alone it is known which document is in hand."""
        self._shared.in_hand[0] = 0
        with _unbothered():
            try:
                return self.cutters.submit(_cut, unit, alone)
            except BrokenProcessPool:
                # a process died while it had nothing to do
                self.mend()
                return self.cutters.submit(_cut, unit, alone)

    def score(self, device: int, pieces: CutUnit, alone: bool) -> "Future[dict[str, int]]":
        """Have a unit measured and committed; of one that goes alone it is known which document is in hand."""
        self._shared.in_hand[0] = 0
        try:
            return self.scorers[device].submit(_score, pieces, alone)
        except BrokenProcessPool:
            self.mend()
            return self.scorers[device].submit(_score, pieces, alone)

    def check_models(self) -> None:
        """Raise what went wrong if a model could not be loaded."""
        for future in self._loading.values():
            if future.done() and not isinstance(error := future.exception(), BrokenProcessPool) and error:
                raise error

    @property
    def counters(self) -> tuple[int, int]:
        """Windows and tokens that all scorers have measured so far."""
        return self._shared.windows.value, self._shared.tokens.value

    def remember(self) -> None:
        """Note the processes that live now: exit codes are known only of those that were seen alive."""
        self._known.update(multiprocessing.active_children())

    def in_hand(self, files: Sequence[str]) -> Place | None:
        """The document that the process of a unit tried alone was at, by the unit's files."""
        has_one, file, position = list(self._shared.in_hand)
        return (files[int(file)], int(position)) if has_one else None

    def how_it_died(self) -> str:
        """What is known of the last process that died."""
        ended = set(connection.wait([process.sentinel for process in self._known], timeout=1))
        until = time.monotonic() + 1
        # a pool is told of a death a moment before the system has the exit code, and may be the one to collect it
        while time.monotonic() < until and any(p.exitcode is None for p in self._known if p.sentinel in ended):
            time.sleep(0.01)
        codes = [code for process in self._known if (code := process.exitcode)]
        # the other processes of a broken pool are ended by SIGTERM
        telling = [code for code in codes if code != -signal.SIGTERM] or codes
        self._known = {process for process in self._known if process.exitcode is None}
        if not telling:
            return "its process died"
        if telling[0] > 0:
            return f"its process ended with exit code {telling[0]}"
        number = signal.Signals(-telling[0])
        meaning = f" ({DEATHS[number]})" if number in DEATHS else ""
        return f"its process was ended by {number.name}{meaning}"

    def mend(self) -> bool:
        """Replace the pools that a dead process has broken; whether there were any."""
        broken = [number for number, pool in enumerate(self.scorers) if _is_broken(pool)]
        for number in broken:
            self.scorers[number] = self._scorer(number)
        if cutters := _is_broken(self.cutters):
            self.cutters = self._cutters()
        return bool(broken or cutters)

    def _cutters(self) -> ProcessPoolExecutor:
        facts = (self._job, self._compute.tokenizer, self._shared, style())
        return ProcessPoolExecutor(self.num_cutters, SPAWN, _begin_cutter, facts)

    def _scorer(self, number: int) -> ProcessPoolExecutor:
        load = (self._job, self._waiting, self._compute, self._places[number])
        facts = (self._job, load, self._shared, self._patience, style())
        pool = ProcessPoolExecutor(1, SPAWN, _begin_scorer, facts)
        with _unbothered():
            # as a task, not as an initializer, whose exceptions would be lost
            self._loading[number] = pool.submit(_load_model)
        return pool


def _is_broken(pool: ProcessPoolExecutor) -> bool:
    try:
        pool.submit(os.getpid)
    except BrokenProcessPool:
        return True
    return False


@contextmanager
def _unbothered() -> Iterator[None]:
    """Processes that begin here leave Ctrl-C to their parent from the first moment on."""
    # it unblocks signals itself when it begins
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def load_model(job: Job, units: Sequence[WorkUnit], compute: settings.Compute, device: str) -> "Model | None":
    """The model that measures ``units`` on a device, or None when no scorer asks for one."""
    if not job.asks:
        return None
    import torch

    from longattn.models.loading import with_table

    if compute.threads is not None:
        torch.set_num_threads(compute.threads)
    model = job.load_model(device)
    assert model is not None, "there is something to ask of it"
    num_tokens = sum(unit.num_bytes for unit in units) // BYTES_PER_TOKEN
    return with_table(model, compute.vocabulary_table, num_tokens)


# What runs in the processes. Each has one job, given to it when it begins.

_here: dict[str, Any] = {}


def _begin(style: Style) -> None:
    """Log as the parent does, and end when it does."""
    show_log(style)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _begin_cutter(job: Job, backend: settings.TokenizerBackend, shared: Shared, style: Style) -> None:
    _begin(style)
    # the processes are the parallelism
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _here.update(job=job, shared=shared, backend=backend)


def _cut(unit: WorkUnit, alone: bool) -> CutUnit:
    if "tokenizer" not in _here:
        _here["tokenizer"] = Tokenizer.load(_here["job"].checkpoint.tokenizer_file, _here["backend"])
    on_document = _show_in_hand([part.file for part in unit.slices]) if alone else None
    return cut_unit(unit, _here["job"], _here["tokenizer"], on_document)


def _begin_scorer(job: Job, load: tuple[Any, ...], shared: Shared, patience: int | None, style: Style) -> None:
    _begin(style)
    _here.update(job=job, load=load, shared=shared, patience=patience)


def _load_model() -> None:
    if "model" not in _here:
        _here["model"] = load_model(*_here["load"])


def _score(pieces: CutUnit, alone: bool) -> dict[str, int]:
    _load_model()
    shared: Shared = _here["shared"]

    def on_window(tokens: int) -> None:
        with shared.windows.get_lock():
            shared.windows.value += 1
        with shared.tokens.get_lock():
            shared.tokens.value += tokens

    on_document = _show_in_hand(pieces.files) if alone else None
    return measure_unit(_here["job"], _here["model"], pieces, on_window, on_document, _here["patience"])


def _show_in_hand(files: Sequence[str]) -> Callable[[Place | None], None]:
    """A function that leaves word, where the parent can read it, of the document that is worked on."""
    numbers = {file: number for number, file in reversed(list(enumerate(files)))}
    in_hand = _here["shared"].in_hand

    def show(place: Place | None) -> None:
        in_hand[0] = 0
        if place is not None and place[0] in numbers:
            in_hand[1], in_hand[2] = numbers[place[0]], place[1]
            in_hand[0] = 1

    return show
