"""Work units on this machine: tokeniser processes feed one scorer process per device."""

import contextlib
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path

from longattn import settings
from longattn.attempts import blame, left_out, measure_unit
from longattn.engines.metrics import Metrics
from longattn.engines.places import devices
from longattn.engines.processes import Pools, load_model
from longattn.engines.progress import Progress, Quiet, Several, State, StatusFile
from longattn.engines.sharding import resolve_shard, shard_of
from longattn.engines.tally import Allowed, Tally
from longattn.errors import LongAttnError
from longattn.measuring import CutUnit, Job, cut_unit
from longattn.quarantine import Place, Stage
from longattn.records import WorkUnit
from longattn.tokens import Tokenizer
from longattn.versions import Writers

MAX_DEATHS = 3
"""A unit that ends so many processes while it is alone, with another document in hand each time, is left out."""

TICK = 0.2
"""Seconds to wait for something to happen before looking around."""

More = Callable[[], list[WorkUnit] | None]
"""Units that have come since it was last asked; None when no more will come."""


@dataclass(frozen=True)
class Survey:
    """The units of an attempt, by what is to become of them."""

    done: list[WorkUnit] = field(default_factory=list)
    waiting: list[WorkUnit] = field(default_factory=list)
    failed: list[WorkUnit] = field(default_factory=list)
    """Left out by an earlier attempt, and not tried again."""
    again: set[str] = field(default_factory=set[str])
    """Ids of waiting units that are, wholly or in part, in quarantine until they are tried again."""
    writers: Writers = field(default_factory=Writers)
    """Versions that wrote what is done, as far as this machine has it."""


def survey(job: Job, units: Sequence[WorkUnit], compute: settings.Compute) -> Survey:
    """Look at what is done, and change nothing; what is in quarantine waits again where ``compute`` says so."""
    mine = shard_of(units, compute.shard)
    again = {entry.unit for entry in job.quarantine.lacking(job.tables())} if compute.retry else set[str]()
    found, gone = Survey(again=again & {unit.id for unit in mine}), left_out(job) - again
    for unit in mine:
        is_done = job.is_done(unit.id, found.writers) and unit.id not in again
        (found.done if is_done else found.failed if unit.id in gone else found.waiting).append(unit)
    return found


def measure(
    job: Job,
    units: Sequence[WorkUnit],
    compute: settings.Compute,
    progress: Progress | None = None,
    found: Survey | None = None,
) -> Counter[str]:
    """Measure every unit that is not done, by what a survey ``found`` just now; returns what this attempt counted.

    Safe to stop at any moment and to call again: a unit is either on disk as a whole or begins anew. Documents that
    fail again and again are put into quarantine, as are units of which no document can be named, and the run goes on.
    Raises :class:`CorpusError` when more records than ``max_errors`` are rejected or fail, and :class:`RunError` when
    nothing but failures come.
    """
    found = found or survey(job, units, compute)
    if found.again:
        job.quarantine.release(job.tables(), found.again)
    waiting = found.waiting
    finished = sum(unit.num_bytes for unit in (*found.done, *found.failed))
    total = finished + sum(unit.num_bytes for unit in waiting)
    number = len(found.done) + len(found.failed) + len(waiting)
    state = State(number, len(found.done), total, float(finished), float(finished), units_failed=len(found.failed))
    status = StatusFile(job.run.root, compute.engine, compute.shard)
    watchers: list[Progress] = [progress or Quiet(), status]
    if compute.metrics:
        watchers.append(Metrics(Path(compute.metrics), job.run.root, compute.shard))
    tally = Tally(compute, state, Several(watchers))
    if compute.engine == "ray":
        # an extra, and heavy
        from longattn.engines.ray import work
    else:
        work = pipeline
    try:
        if waiting:
            work(job, waiting, compute, tally)
            tally.finish()
    except BaseException as error:
        phase = "failed" if isinstance(error, Exception) else "stopped"
        # a full disk takes no last word either, and the first error is the one that counts
        with contextlib.suppress(OSError, LongAttnError):
            tally.watchers.end(state, phase, str(error))
        raise
    tally.watchers.end(state, "stopped" if tally.enough else "done", "")
    return tally.counts


def check(compute: settings.Compute) -> None:
    """Raise ``ValueError`` for settings that make no sense, before anything is looked up or loaded."""
    resolve_shard(compute.shard, {})
    Allowed.read(compute.max_errors)


def pipeline(
    job: Job, waiting: Sequence[WorkUnit], compute: settings.Compute, tally: Tally, more: More | None = None
) -> None:
    """Measure units in this process, or in processes of its own; ends when all are done and no more will come."""
    run = _inline if compute.workers == 0 else _in_processes
    run(job, waiting, compute, tally, more)


def _inline(job: Job, waiting: Sequence[WorkUnit], compute: settings.Compute, tally: Tally, more: More | None) -> None:
    """Everything in this process, one unit after another."""
    tokenizer = Tokenizer.load(job.checkpoint.tokenizer_file, compute.tokenizer)
    model = load_model(job, waiting, compute, devices(compute, needed=bool(job.asks))[0])

    for unit in _arriving(waiting, more):
        if tally.enough:
            break
        pieces = cut_unit(unit, job, tokenizer)
        part = unit.num_bytes / max(1, len(pieces.windows))
        state = tally.state

        def on_window(tokens: int, state: State = state, part: float = part) -> None:
            tally.show(state.windows + 1, state.tokens + tokens, state.bytes_done + part)

        tally.unit_done(unit, measure_unit(job, model, pieces, on_window, patience=tally.patience))


def _arriving(waiting: Sequence[WorkUnit], more: More | None) -> Iterator[WorkUnit]:
    """The units that are there, and those that come."""
    yield from waiting
    while more is not None and (arrived := more()) is not None:
        yield from arrived
        if not arrived:
            time.sleep(TICK)


def _in_processes(
    job: Job, waiting: Sequence[WorkUnit], compute: settings.Compute, tally: Tally, more: More | None
) -> None:
    """Tokeniser processes and one scorer process per device, with only a few units under way at once."""
    places = devices(compute, needed=bool(job.asks))
    with Pools(job, waiting, compute, places, tally.patience) as pools:
        queue = _Queue(job, deque(waiting), more)
        while queue.busy or ((queue.left or queue.more) and not tally.enough):
            queue.ask_for_more()
            if not tally.enough:
                queue.feed_cutters(pools)
            queue.feed_scorers(pools)
            pools.remember()
            queue.collect(pools, tally)
            pools.check_models()


@dataclass
class _Queue:
    """Units on their way: waiting, being cut, ready to be measured, being measured."""

    job: Job
    waiting: deque[WorkUnit]
    more: More | None = None
    cutting: dict[Future, WorkUnit] = field(default_factory=dict)
    ready: deque[tuple[WorkUnit, CutUnit]] = field(default_factory=deque)
    scoring: dict[Future, tuple[WorkUnit, CutUnit, int]] = field(default_factory=dict)
    suspects: deque[WorkUnit] = field(default_factory=deque)
    """Units that were in hand when a process died; tried again, each alone, so that only the guilty is lost."""
    alone: dict[str, list[Place | None]] = field(default_factory=dict)
    """By unit that was tried alone: the document that was in hand at each death."""
    measured_windows: int = 0

    @property
    def busy(self) -> bool:
        """Whether some process or device has a unit, or is about to."""
        return bool(self.cutting or self.ready or self.scoring)

    @property
    def left(self) -> bool:
        """Whether there are units to hand out."""
        return bool(self.waiting or self.suspects)

    def ask_for_more(self) -> None:
        """Put what has come at the end of the queue."""
        if self.more is not None and (arrived := self.more()) is not None:
            self.waiting.extend(arrived)
        else:
            self.more = None

    def feed_cutters(self, pools: Pools) -> None:
        """Hand out units while only a few are ahead of the scorers; a suspect goes alone."""
        if self.suspects:
            if not self.busy:
                unit = self.suspects.popleft()
                self.alone.setdefault(unit.id, [])
                self.cutting[pools.cut(unit, alone=True)] = unit
            return
        while self.waiting and len(self.cutting) + len(self.ready) < pools.num_cutters + len(pools.scorers):
            unit = self.waiting.popleft()
            self.cutting[pools.cut(unit, alone=False)] = unit

    def feed_scorers(self, pools: Pools) -> None:
        """Give every idle device the next unit that is cut."""
        idle = set(range(len(pools.scorers))) - {device for _, _, device in self.scoring.values()}
        for device in sorted(idle):
            if not self.ready:
                break
            unit, pieces = self.ready.popleft()
            self.scoring[pools.score(device, pieces, unit.id in self.alone)] = (unit, pieces, device)

    def collect(self, pools: Pools, tally: Tally) -> None:
        """Wait a moment for results; put back what a dead process had in hand."""
        if not (self.cutting or self.scoring):
            time.sleep(TICK)
        done, _ = wait([*self.cutting, *self.scoring], timeout=TICK, return_when=FIRST_COMPLETED)
        for future in done:
            stage = "cut" if future in self.cutting else "measure"
            unit = self.cutting[future] if stage == "cut" else self.scoring[future][0]
            try:
                self._take(future, tally)
            except (BrokenProcessPool, MemoryError) as error:
                died = isinstance(error, BrokenProcessPool)
                how = pools.how_it_died() if died else "there was not enough memory"
                tally.state.deaths += pools.mend()
                place = pools.in_hand([part.file for part in unit.slices])
                self._put_back(unit, stage, place, how, tally)
        windows, tokens = pools.counters
        in_hand = sum(unit.num_bytes for unit, _, _ in self.scoring.values())
        planned = sum(len(pieces.windows) for _, pieces, _ in self.scoring.values())
        share = min(1.0, (windows - self.measured_windows) / planned) if planned else 0.0
        tally.show(windows, tokens, tally.finished_bytes + max(0.0, share) * in_hand)

    def _put_back(self, unit: WorkUnit, stage: Stage, place: Place | None, how: str, tally: Tally) -> None:
        """Have a unit tried again; without the document that was in hand at two deaths, if there is one."""
        deaths = self.alone.get(unit.id)
        if deaths is None:
            # it need not be the one that did it
            self.suspects.append(unit)
            return
        if place is not None and place in deaths:
            tally.document_failed(blame(self.job, unit, stage, place, how))
            deaths.clear()
        elif len(deaths) + 1 >= MAX_DEATHS:
            tally.unit_failed(unit, blame(self.job, unit, stage, None, how))
            return
        else:
            deaths.append(place)
        self.suspects.appendleft(unit)

    def _take(self, future: Future, tally: Tally) -> None:
        """Move a unit on by what its process returned, or raise what it raised."""
        if future in self.cutting:
            unit = self.cutting.pop(future)
            self.ready.append((unit, future.result()))
            return
        unit, pieces, _ = self.scoring.pop(future)
        counts = future.result()
        self.measured_windows += len(pieces.windows)
        tally.unit_done(unit, counts)
