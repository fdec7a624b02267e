"""Work units on a Ray cluster: workers get names of units, and read and write everything else themselves.

Each worker is an actor with one device, which runs the embedded pipeline. Ray carries settings, names and counts; no
text, window or column passes through its object store. The driver alone holds the lock of the run folder and writes
plan, ledger and manifest. A unit is committed under a name made of its content, so an attempt that was given up and
ends all the same changes nothing.
"""

import contextlib
import logging
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from longattn import settings
from longattn.addresses import is_uri
from longattn.asking import resolve_others
from longattn.attempts import blame
from longattn.engines.embedded import pipeline
from longattn.engines.progress import Quiet, State
from longattn.engines.tally import Tally
from longattn.errors import RunError
from longattn.measuring import Job, package_versions
from longattn.models import resolve
from longattn.quarantine import Failure
from longattn.records import WorkUnit
from longattn.scorers import Scorer
from longattn.settings import fingerprint
from longattn.tables import RunFolder

log = logging.getLogger(__name__)

POLL = 1.0
"""Seconds that a worker waits for news before it answers without any."""
SILENCE = 120.0
"""Seconds without an answer after which a worker is given up."""
MAX_DEATHS = 2
"""A unit that ends so many workers while they have nothing else in hand is left out."""
FALSE_STARTS = 3
"""So many workers that die before they have begun, one after another, end the run."""


@dataclass(frozen=True)
class Task:
    """What a worker is told when it begins; the rest it finds in the run folder."""

    root: Path
    """The run folder, on a file system that all machines see."""
    folder: Path
    """The driver's working directory, which relative names of input files and of the model start from."""
    corpus: settings.Corpus
    window: settings.Windowing
    model: settings.Model
    scorers: tuple[Scorer, ...]
    compute: settings.Compute


class Introduction(NamedTuple):
    """Who a worker is, and what its numbers would depend on."""

    host: str
    pid: int
    node: str
    facts: dict[str, str]


class Report(NamedTuple):
    """What a worker has done since it last reported."""

    ended: list[tuple[str, Mapping[str, int] | Failure]]
    """Units that are on disk, with their counts, and units that are left out as a whole."""
    windows: int
    """Measured since it began; so are tokens."""
    tokens: int
    bytes_in_hand: float
    """The measured part of units that have not ended."""


class Worker:
    """The actor: the embedded pipeline of one device, fed by name. Its methods run in threads of their own."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._news = threading.Condition()
        self._arrived: list[WorkUnit] = []
        self._ended: list[tuple[str, Mapping[str, int] | Failure]] = []
        self._state = State(units=0, units_done=0, num_bytes=sys.maxsize, bytes_done=0.0)

    def introduce(self) -> Introduction:
        """Look at the run folder and the model from here. Raises :class:`RunError` if they cannot be seen."""
        import ray

        task, host = self._task, socket.gethostname()
        run = RunFolder(task.root)
        units = run.plan()
        if not units:
            raise RunError(f"{host} sees no plan in {task.root}; a run folder must be on a file system of all machines")
        try:
            os.chdir(task.folder)
        except OSError as error:
            names = [part.file for unit in units for part in unit.slices]
            if not all(is_uri(name) or Path(name).is_absolute() for name in names):
                raise RunError(f"{host} has no folder {task.folder}; name inputs and run by absolute paths") from error
        self._units = {unit.id: unit for unit in units}
        checkpoint = resolve(task.model)
        others = resolve_others([ask for scorer in task.scorers if (ask := scorer.ask())], checkpoint)
        self._job = Job(run, task.corpus, task.window, task.model, checkpoint, task.scorers, others)
        node = ray.get_runtime_context().get_node_id()
        return Introduction(host, os.getpid(), node, facts_of(self._job, units))

    def work(self) -> None:
        """Measure whatever comes; ends with the actor, or with an error that no other worker would escape."""
        compute = self._task.compute
        # how many may fail is for the driver to say, which sees them all
        allowed = None if compute.max_errors is None else sys.maxsize
        tally = Tally(replace(compute, max_errors=allowed, limit=None), self._state, Quiet(), self._end)
        pipeline(self._job, [], compute, tally, self._more)

    def exchange(self, names: list[str]) -> Report:
        """Take more units, and tell what became of earlier ones, at once or as soon as there is something to tell."""
        with self._news:
            self._arrived += [self._units[name] for name in names]
            self._news.wait_for(lambda: self._ended, timeout=0 if names else POLL)
            ended, self._ended = self._ended, []
            state = self._state
            done = sum(self._units[name].num_bytes for name, _ in ended)
            state.bytes_before += done
            return Report(ended, state.windows, state.tokens, max(0.0, state.bytes_done - state.bytes_before))

    def _more(self) -> list[WorkUnit]:
        with self._news:
            arrived, self._arrived = self._arrived, []
            return arrived

    def _end(self, unit: WorkUnit, outcome: Mapping[str, int] | Failure) -> None:
        with self._news:
            self._ended.append((unit.id, outcome))
            self._news.notify_all()


def facts_of(job: Job, units: Sequence[WorkUnit]) -> dict[str, str]:
    """What must be the same wherever a run is worked on, in words for an error message.

    Of versions the part after ``+`` is left out: a driver without a GPU has another build of torch than its workers.
    """
    versions = {name: version.partition("+")[0] for name, version in package_versions().items()}
    versions["python"] = ".".join(versions["python"].split(".")[:2])
    facts = versions | {"model": job.checkpoint.hash, "plan": fingerprint([unit.id for unit in units])}
    return facts | {f"table {table.name}": table.folder.name for table in job.tables()}


def work(job: Job, waiting: Sequence[WorkUnit], compute: settings.Compute, tally: Tally) -> None:
    """Measure units on a cluster.

    Raises :class:`RunError` for workers that differ from the driver or cannot begin, and ``ValueError`` for devices by
    name and for a run in an object store: of that the driver would not see what workers elsewhere write.
    """
    if any(device not in ("auto", "cpu") for device in compute.devices):
        raise ValueError(f"Ray hands out the GPUs: devices must be auto or cpu, got {', '.join(compute.devices)}")
    if is_uri(job.run.place):
        raise ValueError(f"Ray needs a run folder that all machines see, got {job.run.place}; measure it as shards")
    with connection(compute):
        driver = _Driver(job, tally, deque(waiting), *_crew_of(job, compute))
        try:
            driver.run()
        finally:
            driver.dismiss()


@contextlib.contextmanager
def connection(compute: settings.Compute) -> Iterator[None]:
    """Be connected to the cluster that is named, or else to one of this machine alone that nobody else can reach."""
    address = compute.ray_address or os.environ.get("RAY_ADDRESS")
    if address is None and "ray" not in sys.modules:
        # these are read when Ray is imported: listen to this machine only, ask for a token, tell nobody
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise RunError("Ray is not installed: pip install 'longattn[ray]'") from error
    if ray.is_initialized():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        _connect(address, max(os.cpu_count() or 1, compute.ray_workers or 1))
        if threading.current_thread() is threading.main_thread():
            # Ray has put its own in the place of ours
            signal.signal(signal.SIGTERM, before)
        yield
    finally:
        ray.shutdown()


def _connect(address: str | None, cores: int) -> None:
    """Join the cluster at an address, or start one of so many cores. Raises :class:`RunError` in one line."""
    import ray

    options: dict[str, Any] = {"address": address}
    if address is None:
        options = {"address": "local", "num_cpus": cores, "include_dashboard": False}
    try:
        ray.init(**options, logging_level=logging.WARNING)
    except Exception as error:
        # Ray raises whatever it meets, a bare Exception too, with logs of many lines
        about = f"there is no Ray cluster at {address}" if address else "Ray does not start on this machine"
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RunError(f"{about}: {said}") from error
    reachable = {node["NodeManagerAddress"] for node in ray.nodes()} - {"127.0.0.1"}
    if address is None and reachable:
        raise RunError(
            f"Ray would listen at {', '.join(reachable)}, since it was imported before longattn started it; "
            "start it yourself (ray.init), or import it later"
        )


def _crew_of(job: Job, compute: settings.Compute) -> tuple[Task, dict[str, Any], int]:
    """What workers are told, what each asks Ray for, and how many there are to be."""
    import ray

    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = int(sum(resources.get("GPU", 0) for resources in machines))
    on_gpus = bool(job.asks) and gpus > 0 and compute.devices == ("auto",)
    count = compute.ray_workers or (gpus if on_gpus else len(machines))
    cores = max(1, int(sum(resources.get("CPU", 0) for resources in machines)) // count)
    # Ray sees to it that a worker finds the GPU it was given and no other
    mine = replace(
        compute,
        devices=("auto",) if on_gpus else ("cpu",),
        workers=max(1, cores // 2) if compute.workers is None else compute.workers,
        threads=compute.threads or (None if on_gpus else cores),
    )
    root = job.run.root.absolute()
    task = Task(root, Path.cwd(), job.corpus, job.window, job.model, job.scorers, mine)
    asks = {"num_cpus": 1, "num_gpus": 1 if on_gpus else 0, "scheduling_strategy": "SPREAD", "max_concurrency": 4}
    return task, asks, count


@dataclass
class _Member:
    """A worker as the driver sees it."""

    actor: Any
    pending: dict[Any, str]
    """What it was asked and has not answered: the reply to come, and the method."""
    who: Introduction | None = None
    hand: dict[str, WorkUnit] = field(default_factory=dict)
    """Units that it has and has not ended."""
    report: Report = field(default_factory=lambda: Report([], 0, 0, 0.0))
    heard: float = field(default_factory=time.monotonic)

    @property
    def silent(self) -> bool:
        """Whether it owes an answer for too long; one that Ray has not started yet may take its time."""
        return self.who is not None and time.monotonic() - self.heard > SILENCE


@dataclass
class _Driver:
    """Hands out units, hears what became of them, replaces workers that die."""

    job: Job
    tally: Tally
    waiting: deque[WorkUnit]
    task: Task
    asks: dict[str, Any]
    count: int
    crew: list[_Member] = field(default_factory=list)
    suspects: deque[WorkUnit] = field(default_factory=deque)
    """Units that were in the hand of a worker when it died; tried once more, each with a worker of its own."""
    alone: Counter[str] = field(default_factory=Counter)
    """By unit that was tried alone: the workers that died of it."""
    false_starts: int = 0
    gone: tuple[int, int] = (0, 0)
    """Windows and tokens that workers had measured who are no more."""

    def run(self) -> None:
        """Until every unit is on disk or given up, or the limit is reached."""
        import ray

        self.facts = facts_of(self.job, self.job.run.plan())
        self.crew = [self._hire() for _ in range(self.count)]
        while self._in_hand or ((self.waiting or self.suspects) and not self.tally.enough):
            for member in self.crew:
                if member.who and "exchange" not in member.pending.values():
                    self._feed(member)
            asked = {reply: member for member in self.crew for reply in member.pending}
            replies, _ = ray.wait(list(asked), num_returns=len(asked), timeout=0.2, fetch_local=False)
            for reply in replies:
                # it may have died by an earlier reply of this round
                if asked[reply] in self.crew:
                    self._hear(asked[reply], reply)
            for member in [member for member in self.crew if member.silent]:
                self._give_up(member, f"has not answered for {SILENCE:.0f} s")
            self._show()

    def dismiss(self) -> None:
        """End all workers; their processes end with them."""
        import ray

        for member in self.crew:
            ray.kill(member.actor)

    @property
    def _in_hand(self) -> bool:
        return any(member.hand for member in self.crew)

    def _hire(self) -> _Member:
        import ray

        remote: Any = ray.remote(Worker)
        actor = remote.options(**self.asks).remote(self.task)
        return _Member(actor, {actor.introduce.remote(): "introduce"})

    def _feed(self, member: _Member) -> None:
        """Give a worker enough to cut ahead, or one suspect by itself; then ask what is new."""
        units: list[WorkUnit] = []
        alone = any(name in self.alone for name in member.hand)
        if self.suspects and not member.hand:
            units = [self.suspects.popleft()]
            self.alone[units[0].id] += 0
        elif not alone and not self.tally.enough:
            room = (self.task.compute.workers or 0) + 2 - len(member.hand)
            units = [self.waiting.popleft() for _ in range(min(room, len(self.waiting)))]
        member.hand |= {unit.id: unit for unit in units}
        member.pending[member.actor.exchange.remote([unit.id for unit in units])] = "exchange"
        member.heard = time.monotonic()

    def _hear(self, member: _Member, reply: Any) -> None:
        """Act on an answer, which may be that there is nobody left to answer."""
        import ray
        from ray.exceptions import RayActorError, RayError, RayTaskError

        method = member.pending.pop(reply)
        try:
            value: Any = ray.get(reply)
        except RayActorError as error:
            self._give_up(member, "died", error)
            return
        except RayTaskError as error:
            cause = error.cause
            raise cause if isinstance(cause, Exception) else RunError(str(error)) from error
        except RayError as error:
            raise RunError(f"Ray could not start a worker: {error}") from error
        member.heard = time.monotonic()
        if method == "introduce":
            self._welcome(member, value)
        elif method == "exchange":
            self._note(member, value)

    def _welcome(self, member: _Member, who: Introduction) -> None:
        """Let a worker begin whose numbers are those of all others."""
        different = {
            name: (who.facts.get(name), value)
            for name, value in self.facts.items()
            # a driver need not have what only workers use
            if who.facts.get(name, value if name in package_versions() else None) != value
        }
        if different:
            listed = "; ".join(f"{name} is {there} there, {here} here" for name, (there, here) in different.items())
            raise RunError(f"the worker on {who.host} (process {who.pid}) differs from the driver: {listed}")
        member.who = who
        member.pending[member.actor.work.remote()] = "work"
        self.false_starts = 0

    def _note(self, member: _Member, report: Report) -> None:
        member.report = report
        for name, outcome in report.ended:
            unit = member.hand.pop(name)
            if isinstance(outcome, Failure):
                self.tally.unit_failed(unit, outcome)
            else:
                self.tally.unit_done(unit, outcome)

    def _give_up(self, member: _Member, how: str, error: Exception | None = None) -> None:
        """Replace a worker; what it had in hand is done if it is on disk, else suspect, unless its machine is gone."""
        import ray

        # one that is only silent may come back to life
        ray.kill(member.actor)
        self.crew.remove(member)
        self.tally.state.deaths += 1
        self.gone = self.gone[0] + member.report.windows, self.gone[1] + member.report.tokens
        if member.who is None:
            self.false_starts += 1
            if self.false_starts >= FALSE_STARTS:
                raise RunError(f"{self.false_starts} workers died before they had begun: {error}") from error
        else:
            log.warning("the worker on %s (process %d) %s and is replaced", member.who.host, member.who.pid, how)
        machines = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        for unit in list(member.hand.values()):
            receipt = self.job.documents.receipt(unit.id)
            if receipt is not None and self.job.is_done(unit.id):
                self.tally.unit_done(unit, dict(receipt.counts))
            elif member.who is None or member.who.node not in machines:
                self.waiting.appendleft(unit)
            else:
                self._suspect(unit, f"the worker that had it and nothing else {how}")
        self.crew.append(self._hire())

    def _suspect(self, unit: WorkUnit, how: str) -> None:
        """Have a unit tried alone, or leave it out."""
        if unit.id in self.alone:
            self.alone[unit.id] += 1
        if self.alone[unit.id] >= MAX_DEATHS:
            self.tally.unit_failed(unit, blame(self.job, unit, "measure", None, how))
        else:
            self.suspects.append(unit)

    def _show(self) -> None:
        reports = [member.report for member in self.crew]
        windows = self.gone[0] + sum(report.windows for report in reports)
        tokens = self.gone[1] + sum(report.tokens for report in reports)
        self.tally.state.workers = [
            {
                "host": member.who.host if member.who else None,
                "pid": member.who.pid if member.who else None,
                "units": list(member.hand),
                "windows": member.report.windows,
                "tokens": member.report.tokens,
            }
            for member in self.crew
        ]
        in_hand = sum(report.bytes_in_hand for report in reports)
        self.tally.show(windows, tokens, self.tally.finished_bytes + in_hand)
