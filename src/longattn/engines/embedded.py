"""Work units on this machine: tokeniser processes feed one scorer process per device."""

import multiprocessing
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from longattn import settings
from longattn.engines.progress import Progress, Quiet, State, StatusFile
from longattn.errors import CorpusError, RunError
from longattn.measuring import CutUnit, Job, commit_unit, cut_unit, measure_windows
from longattn.records import WorkUnit
from longattn.tokens import Tokenizer

if TYPE_CHECKING:
    from longattn.models.base import Model

SPAWN = multiprocessing.get_context("spawn")
BYTES_PER_TOKEN = 4
"""Of plain text, roughly; compressed input holds more tokens."""


def measure(
    job: Job, units: Sequence[WorkUnit], compute: settings.Compute, progress: Progress | None = None
) -> Counter[str]:
    """Measure every unit that is not done; returns what this attempt counted.

    Safe to stop at any moment and to call again: a unit is either on disk as a whole or begins anew. Raises
    :class:`CorpusError` when more records than ``max_errors`` are rejected and :class:`RunError` for units that twice
    killed the process that worked on them.
    """
    mine = shard_of(units, compute.shard)
    done, waiting = [], []
    for unit in mine:
        (done if job.is_done(unit.id) else waiting).append(unit)
    finished = float(sum(unit.num_bytes for unit in done))
    state = State(len(mine), len(done), sum(unit.num_bytes for unit in mine), finished, finished)
    name = "progress.json" if compute.shard is None else f"progress-{compute.shard.replace('/', '-of-')}.json"
    status = StatusFile(job.run.root / name)
    tally = _Tally(compute, state, progress or Quiet(), status)
    if not waiting:
        return tally.counts
    run = _inline if compute.workers == 0 else _in_processes
    run(job, waiting, compute, tally)
    status.update(state, finished=True)
    return tally.counts


def shard_of(units: Sequence[WorkUnit], shard: str | None) -> list[WorkUnit]:
    """Every N-th unit, beginning with the K-th (0-based), for a shard ``K/N``; all of them for None."""
    if shard is None:
        return list(units)
    number, slash, of = shard.partition("/")
    if not (slash and number.isdigit() and of.isdigit() and int(number) < int(of)):
        raise ValueError(f"shard must be K/N with 0 <= K < N, such as 0/8, got {shard!r}")
    return list(units[int(number) :: int(of)])


@dataclass
class _Tally:
    """Counts what is done, decides when to stop, and passes it on."""

    compute: settings.Compute
    state: State
    progress: Progress
    status: StatusFile
    counts: Counter[str] = field(default_factory=Counter)
    finished_bytes: float = field(init=False)

    def __post_init__(self) -> None:
        self.finished_bytes = self.state.bytes_done

    def unit_done(self, unit: WorkUnit, counts: dict[str, int]) -> None:
        """Add a committed unit; stop the run when too many records are bad."""
        self.counts.update(counts)
        self.finished_bytes += unit.num_bytes
        self.state.units_done += 1
        self.state.rejected = sum(n for key, n in self.counts.items() if key.startswith("rejected."))
        self.show(self.state.windows, self.state.tokens, self.finished_bytes)
        allowed = self.compute.max_errors
        if allowed is not None and self.state.rejected > allowed:
            raise CorpusError(
                f"{self.state.rejected} records were rejected, more than max_errors={allowed}; "
                f"the units done so far are kept, and their rejects are listed by reason in the ledger"
            )

    def show(self, windows: int, tokens: int, bytes_done: float) -> None:
        """Tell the watchers."""
        self.state.windows, self.state.tokens = windows, tokens
        self.state.bytes_done = min(bytes_done, float(self.state.num_bytes))
        self.progress.update(self.state)
        self.status.update(self.state)

    @property
    def enough(self) -> bool:
        """Whether the limit is reached."""
        return self.compute.limit is not None and self.counts["windows"] >= self.compute.limit


def _inline(job: Job, waiting: Sequence[WorkUnit], compute: settings.Compute, tally: _Tally) -> None:
    """Everything in this process, one unit after another."""
    tokenizer = Tokenizer.load(job.checkpoint.tokenizer_file, compute.tokenizer)
    model = load_model(job, waiting, compute, devices(compute, needed=bool(job.asks))[0])

    for unit in waiting:
        if tally.enough:
            break
        pieces = cut_unit(unit, job, tokenizer)
        part = unit.num_bytes / max(1, len(pieces.windows))
        state = tally.state

        def on_window(tokens: int, state: State = state, part: float = part) -> None:
            tally.show(state.windows + 1, state.tokens + tokens, state.bytes_done + part)

        measured = measure_windows(job.scorers, model, pieces.windows, on_window)
        tally.unit_done(unit, commit_unit(job, pieces, measured))


def _in_processes(job: Job, waiting: Sequence[WorkUnit], compute: settings.Compute, tally: _Tally) -> None:
    """Tokeniser processes and one scorer process per device, with only a few units under way at once."""
    with _Pools(job, waiting, compute) as pools:
        queue = _Queue(deque(waiting))
        while queue.busy or (queue.left and not tally.enough):
            if not tally.enough:
                queue.feed_cutters(pools)
            queue.feed_scorers(pools)
            queue.collect(pools, tally)
            pools.check_models()
    if queue.lost:
        names = ", ".join(f"{u.slices[0].file} (unit {u.id})" for u in queue.lost)
        raise RunError(
            f"{len(queue.lost)} work units twice ended the process that worked on them and were left out: {names}. "
            "Memory is the usual cause: fewer workers or a smaller unit_bytes help"
        )


@dataclass
class _Queue:
    """Units on their way: waiting, being cut, ready to be measured, being measured."""

    waiting: deque[WorkUnit]
    cutting: dict[Future, WorkUnit] = field(default_factory=dict)
    ready: deque[tuple[WorkUnit, CutUnit]] = field(default_factory=deque)
    scoring: dict[Future, tuple[WorkUnit, CutUnit, int]] = field(default_factory=dict)
    suspects: deque[WorkUnit] = field(default_factory=deque)
    """Units that were in hand when a process died; tried once more, each alone, so that only the guilty is lost."""
    lost: list[WorkUnit] = field(default_factory=list)
    tried_alone: set[str] = field(default_factory=set)
    measured_windows: int = 0

    @property
    def busy(self) -> bool:
        """Whether some process or device has a unit, or is about to."""
        return bool(self.cutting or self.ready or self.scoring)

    @property
    def left(self) -> bool:
        """Whether there are units to hand out."""
        return bool(self.waiting or self.suspects)

    def feed_cutters(self, pools: "_Pools") -> None:
        """Hand out units while only a few are ahead of the scorers; a suspect goes alone."""
        if self.suspects:
            if not (self.cutting or self.ready or self.scoring):
                unit = self.suspects.popleft()
                self.tried_alone.add(unit.id)
                self.cutting[pools.cutters.submit(_cut, unit)] = unit
            return
        while self.waiting and len(self.cutting) + len(self.ready) < pools.num_cutters + len(pools.scorers):
            unit = self.waiting.popleft()
            self.cutting[pools.cutters.submit(_cut, unit)] = unit

    def feed_scorers(self, pools: "_Pools") -> None:
        """Give every idle device the next unit that is cut."""
        idle = set(range(len(pools.scorers))) - {device for _, _, device in self.scoring.values()}
        for device in sorted(idle):
            if not self.ready:
                break
            unit, pieces = self.ready.popleft()
            self.scoring[pools.scorers[device].submit(_score, pieces)] = (unit, pieces, device)

    def collect(self, pools: "_Pools", tally: _Tally) -> None:
        """Wait a moment for results; put back what a dead process had in hand."""
        done, _ = wait([*self.cutting, *self.scoring], timeout=0.2, return_when=FIRST_COMPLETED)
        for future in done:
            unit = self.cutting[future] if future in self.cutting else self.scoring[future][0]
            try:
                self._take(future, tally)
            except BrokenProcessPool:
                (self.lost if unit.id in self.tried_alone else self.suspects).append(unit)
                pools.mend()
        windows, tokens = pools.counters
        in_hand = sum(unit.num_bytes for unit, _, _ in self.scoring.values())
        planned = sum(len(pieces.windows) for _, pieces, _ in self.scoring.values())
        share = min(1.0, (windows - self.measured_windows) / planned) if planned else 0.0
        tally.show(windows, tokens, tally.finished_bytes + max(0.0, share) * in_hand)

    def _take(self, future: Future, tally: _Tally) -> None:
        """Move a unit on by what its process returned, or raise what it raised."""
        if future in self.cutting:
            self.ready.append((self.cutting.pop(future), future.result()))
            return
        unit, pieces, _ = self.scoring.pop(future)
        counts = future.result()
        self.measured_windows += len(pieces.windows)
        tally.unit_done(unit, counts)


class _Pools:
    """The processes: cutters share one pool, each device has a pool of one."""

    def __init__(self, job: Job, waiting: Sequence[WorkUnit], compute: settings.Compute) -> None:
        self._job, self._waiting, self._compute = job, waiting, compute
        self.num_cutters = compute.workers or max(1, (os.cpu_count() or 2) // 2)
        self._done = SPAWN.Value("q", 0), SPAWN.Value("q", 0)

    def __enter__(self) -> "_Pools":
        self._others = set(multiprocessing.active_children())
        self.cutters = self._cutters()
        self.scorers = [self._scorer(device) for device in devices(self._compute, needed=bool(self._job.asks))]
        # as a task, not as an initializer, whose exceptions would be lost
        self._loading = [pool.submit(_load_model) for pool in self.scorers]
        return self

    def __exit__(self, *error: object) -> None:
        pools = [self.cutters, *self.scorers]
        if error[0] is not None:
            # a unit in hand may take minutes; it begins anew next time, so nothing is lost by ending it now
            for process in set(multiprocessing.active_children()) - self._others:
                process.kill()
        for pool in pools:
            pool.shutdown(wait=True, cancel_futures=True)

    def check_models(self) -> None:
        """Raise what went wrong if a model could not be loaded."""
        for future in self._loading:
            if future.done() and not isinstance(error := future.exception(), BrokenProcessPool) and error:
                raise error

    @property
    def counters(self) -> tuple[int, int]:
        """Windows and tokens that all scorers have measured so far."""
        windows, tokens = self._done
        return windows.value, tokens.value

    def mend(self) -> None:
        """Replace the pools that a dead process has broken."""
        if _is_broken(self.cutters):
            self.cutters = self._cutters()
        for i, device in enumerate(devices(self._compute, needed=bool(self._job.asks))):
            if _is_broken(self.scorers[i]):
                self.scorers[i] = self._scorer(device)

    def _cutters(self) -> ProcessPoolExecutor:
        facts = (self._job, self._compute.tokenizer)
        return ProcessPoolExecutor(self.num_cutters, SPAWN, _begin_cutter, facts)

    def _scorer(self, device: str) -> ProcessPoolExecutor:
        facts = (self._job, self._waiting, self._compute, device, self._done)
        return ProcessPoolExecutor(1, SPAWN, _begin_scorer, facts)


def _is_broken(pool: ProcessPoolExecutor) -> bool:
    try:
        pool.submit(os.getpid)
    except BrokenProcessPool:
        return True
    return False


def devices(compute: settings.Compute, needed: bool = True) -> list[str]:
    """The devices to score on; ``auto`` is every GPU, or the CPU where there is none or no model is needed."""
    if compute.devices != ("auto",):
        return list(compute.devices)
    if not needed:
        return ["cpu"]
    import torch

    if torch.cuda.is_available():
        return [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    return ["mps"] if torch.backends.mps.is_available() else ["cpu"]


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


def _begin() -> None:
    """Leave Ctrl-C to the parent, and end when the parent does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _begin_cutter(job: Job, backend: settings.TokenizerBackend) -> None:
    _begin()
    # the processes are the parallelism
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _here.update(job=job, tokenizer=Tokenizer.load(job.checkpoint.tokenizer_file, backend))


def _cut(unit: WorkUnit) -> CutUnit:
    return cut_unit(unit, _here["job"], _here["tokenizer"])


def _begin_scorer(
    job: Job, waiting: Sequence[WorkUnit], compute: settings.Compute, device: str, counters: tuple[Any, Any]
) -> None:
    _begin()
    _here.update(job=job, load=(job, waiting, compute, device), counters=counters)


def _load_model() -> None:
    if "model" not in _here:
        _here["model"] = load_model(*_here["load"])


def _score(pieces: CutUnit) -> dict[str, int]:
    _load_model()
    job: Job = _here["job"]

    def on_window(tokens: int) -> None:
        for counter, amount in zip(_here["counters"], (1, tokens), strict=True):
            with counter.get_lock():
                counter.value += amount

    return commit_unit(job, pieces, measure_windows(job.scorers, _here["model"], pieces.windows, on_window))
