"""R7: the same bytes as a run on one machine, on any number of shards and workers, whatever becomes of them.

The same bytes: every file of the run folder but ``timings.json``, progress files and locks.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from longattn import verbs
from longattn.engines.progress import Progress
from longattn.measuring import commit_unit, cut_unit, measure_windows
from longattn.recipes import Recipe
from longattn.settings import Compute, Corpus, Model, Selecting, Windowing
from longattn.tables import Table
from longattn.tokens import Tokenizer

INLINE = Compute(workers=0, devices=("cpu",))
UNITS = 14

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="needs longattn[ray]")


@pytest.fixture(scope="module")
def recipe(tiny_model_folder, tmp_path_factory):
    """A unit for each of many small files: good records, short ones, bad ones, ids that come twice."""
    folder, chosen = tmp_path_factory.mktemp("corpus"), random.Random(5)
    for i in range(UNITS):
        lines = [
            json.dumps({"id": f"{i}-{d}", "text": f"{i} {d} " * chosen.randint(5, 60), "kind": "ab"[d % 2]})
            for d in range(4)
        ]
        lines += ["broken"] * (i % 5 == 0) + [json.dumps({"id": "twice", "text": "again " * 30})] * (i % 7 == 0)
        (folder / f"{i:03d}.jsonl").write_text("\n".join(lines) + "\n")
    return Recipe(
        corpus=Corpus(inputs=(str(folder),), source_field="kind", unit_bytes=100),
        window=Windowing(length=64),
        model=Model(name=str(tiny_model_folder)),
        scorers=("length", "random"),
        keep=Selecting(weights={"length": 1.0, "random": 1.0}, share=0.4),
    )


@dataclass
class Runs:
    """Runs that are made one after another in the same folder, since some files name it."""

    recipe: Recipe
    folder: Path
    expected: dict[str, bytes] = field(default_factory=dict)

    def begin(self) -> Path:
        """An empty place."""
        shutil.rmtree(self.folder, ignore_errors=True)
        return self.folder

    def finish(self) -> dict[str, bytes]:
        """Select, export, report, and take every file that must not depend on how units were spread."""
        verbs.select(self.recipe, self.folder)
        verbs.export_selection(self.recipe, self.folder)
        verbs.write_report(self.recipe, self.folder)
        free = ("timings.json", "progress", ".lock")
        files = (path for path in self.folder.rglob("*") if path.is_file() and not path.name.startswith(free))
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in files}

    def is_as_expected(self) -> bool:
        """Whether the run in the folder, once finished, has the bytes of the undisturbed one."""
        return self.finish() == self.expected


@pytest.fixture(scope="module")
def runs(recipe):
    """The run on one machine, in one process, that all others must equal."""
    # nothing is asked of the disk, and a disk is slow
    fast = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=fast if os.access(fast, os.W_OK) else None) as folder:
        runs = Runs(recipe, Path(folder, "run"))
        verbs.measure(recipe, runs.begin(), INLINE)
        runs.expected = runs.finish()
        assert len(runs.expected) > 4 * 2 * UNITS
        yield runs


@pytest.fixture
def longer_trials(trials):
    """For trials that take too long for every ``make test``."""
    if not trials.full_size:
        pytest.skip("made by make torture alone")
    return trials


def flags(recipe: Recipe, output: Path) -> list[str]:
    """The command line that measures the recipe."""
    words = ["measure", *recipe.corpus.inputs, "--output", str(output), "--corpus.source-field", "kind"]
    words += ["--corpus.unit-bytes", "100", "--window.length", "64", "--model.name", recipe.model.name]
    words += ["--scorers", "length", "--scorers", "random", "--keep.share", "0.4"]
    words += ["--keep.weights.length", "1", "--keep.weights.random", "1", "--workers", "0", "--devices", "cpu"]
    return [sys.executable, "-m", "longattn", *words]


def test_shards_one_after_another(runs, trials):
    chosen, passed, numbers = trials.random(), 0, (1, 2, 7) if trials.full_size else (3,)
    for of in numbers:
        runs.begin()
        for number in chosen.sample(range(of), of):
            verbs.measure(runs.recipe, runs.folder, replace(INLINE, shard=f"{number}/{of}"))
        passed += runs.is_as_expected()
    trials.count("R7", f"{', '.join(map(str, numbers))} shards in any order", len(numbers), passed)


def test_shards_at_once(runs, longer_trials):
    """As an indexed job of Kubernetes begins them, all on an empty folder."""
    passed, numbers = 0, 3
    for _ in range(numbers):
        runs.begin()
        command = [*flags(runs.recipe, runs.folder), "--shard", "auto/3"]
        jobs = [
            subprocess.Popen(command, env={**os.environ, "JOB_COMPLETION_INDEX": str(i)}, stdout=-3, stderr=-3)
            for i in range(3)
        ]
        ended = [job.wait(timeout=300) for job in jobs]
        passed += ended == [0, 0, 0] and runs.is_as_expected()
    longer_trials.count("R7", "3 shards at once", numbers, passed)


def test_a_late_second_attempt(runs, trials):
    """It was given up while it wrote its tables, and goes on when all is done, without looking."""
    verbs.measure(runs.recipe, runs.begin(), INLINE)
    job = verbs.prepare(runs.recipe, runs.folder)
    tokenizer = Tokenizer.load(job.checkpoint.tokenizer_file)
    chosen, passed = trials.random(), 0
    units = chosen.sample(job.run.plan(), trials.number(UNITS, 5))
    for unit in units:
        pieces = cut_unit(unit, job, tokenizer)
        measured = measure_windows(job.scorers, None, pieces.windows)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Table, "receipt", lambda self, unit: None)
            commit_unit(job, pieces, measured)
        mine = [
            f"tables/{table.folder.name}/unit-{unit.id}{end}" for table in job.tables() for end in (".parquet", ".json")
        ]
        passed += all((runs.folder / name).read_bytes() == runs.expected[name] for name in mine)
    assert runs.is_as_expected()
    trials.count("R7", "a late second attempt of a unit", len(units), passed)


@needs_ray
def test_any_number_of_workers(ray, runs, trials):
    numbers = (2, 3, 5, 7) if trials.full_size else (2,)
    passed = 0
    for number in numbers:
        verbs.measure(runs.recipe, runs.begin(), Compute(engine="ray", ray_workers=number, workers=number % 2))
        passed += runs.is_as_expected()
    trials.count(
        "R7", "Ray with 2, 3, 5, 7 workers" if trials.full_size else "Ray with 2 workers", len(numbers), passed
    )


@dataclass
class Assassin(Progress):
    """Kills workers of Ray, or stops them, at random moments."""

    chosen: random.Random
    kills: int
    number: int = signal.SIGKILL
    done: list[int] = field(default_factory=list)
    next_at: float = 0.0

    def update(self, state):
        """Strike one that has units in hand, if it is time."""
        busy = [worker["pid"] for worker in state.workers if worker["units"] and worker["pid"] not in self.done]
        if not busy or len(self.done) >= self.kills or time.monotonic() < self.next_at:
            return
        self.done.append(self.chosen.choice(busy))
        os.kill(self.done[-1], self.number)
        self.next_at = time.monotonic() + self.chosen.uniform(0.0, 0.5)


@needs_ray
def test_workers_are_killed(ray, runs, trials):
    """A unit that is in the hand of several of them is left out, until it is asked for again."""
    wanted, killed, passed = trials.number(40, 2), 0, 0
    chosen = trials.random()
    while killed < wanted:
        runs.begin()
        assassin = Assassin(chosen, min(3, wanted - killed))
        compute = Compute(engine="ray", ray_workers=2, workers=0, retry=True)
        ledger = verbs.measure(runs.recipe, runs.folder, compute, assassin)
        while ledger["units_failed"]:
            ledger = verbs.measure(runs.recipe, runs.folder, compute, assassin)
        assert assassin.done
        killed += len(assassin.done)
        passed += len(assassin.done) if runs.is_as_expected() else 0
    trials.count("R7", "a worker of Ray killed", killed, passed)


@needs_ray
def test_a_worker_that_is_silent_is_given_up_and_its_late_attempt_changes_nothing(
    ray, runs, longer_trials, monkeypatch
):
    monkeypatch.setattr(ray, "SILENCE", 3.0)
    number, passed = 3, 0
    for _ in range(number):
        runs.begin()
        assassin = Assassin(longer_trials.random(), 1, signal.SIGSTOP)
        verbs.measure(runs.recipe, runs.folder, Compute(engine="ray", ray_workers=2, workers=0), assassin)
        [pid] = assassin.done
        if Path(f"/proc/{pid}").exists():
            os.kill(pid, signal.SIGCONT)
            time.sleep(1)
        passed += runs.is_as_expected()
    longer_trials.count("R7", "a worker of Ray stopped, given up, going on late", number, passed)


@needs_ray
def test_the_driver_is_killed(ray, runs, longer_trials):
    """With the cluster living on; the same command finishes the run."""
    import ray as library

    command = [*flags(runs.recipe, runs.folder), "--engine", "ray", "--ray-workers", "2"]
    command += ["--ray-address", library.get_runtime_context().gcs_address]
    number, passed, chosen = 10, 0, longer_trials.random()
    for _ in range(number):
        runs.begin()
        driver = subprocess.Popen(command, stdout=-3, stderr=-3)
        time.sleep(chosen.uniform(1, 12))
        driver.kill()
        driver.wait()
        passed += subprocess.run(command, capture_output=True).returncode == 0 and runs.is_as_expected()
    longer_trials.count("R7", "the driver of Ray killed", number, passed)


NODE_KILLED = """
import sys, json, ray
from dataclasses import dataclass
from pathlib import Path
from ray.cluster_utils import Cluster
from longattn import verbs
from longattn.engines.progress import Progress
from longattn.recipes import Recipe
from longattn.settings import Compute, Corpus, Model, Selecting, Windowing

corpus, model, output = sys.argv[1:]
small = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
cluster = Cluster(initialize_head=True, head_node_args={**small, "include_dashboard": False})
node = cluster.add_node(**small)
ray.init(address=cluster.address)

class Killer(Progress):
    killed = False

    def update(self, state):
        if not self.killed and sum(1 for worker in state.workers if worker["units"]) == 2:
            self.killed = True
            cluster.remove_node(node, allow_graceful=False)

recipe = Recipe(
    corpus=Corpus(inputs=(corpus,), source_field="kind", unit_bytes=100), window=Windowing(length=64),
    model=Model(name=model), scorers=("length", "random"),
    keep=Selecting(weights={"length": 1.0, "random": 1.0}, share=0.4),
)
killer = Killer()
verbs.measure(recipe, Path(output), Compute(engine="ray", ray_workers=2, workers=0), killer)
assert killer.killed
ray.shutdown()
cluster.shutdown()
"""


@needs_ray
def test_a_machine_is_killed(runs, longer_trials):
    """Ray on two machines, as far as Ray can tell."""
    number, passed = 2, 0
    for _ in range(number):
        runs.begin()
        words = [*runs.recipe.corpus.inputs, runs.recipe.model.name, str(runs.folder)]
        # the tests' own Ray is told to stay alone, which one of two machines cannot be
        variables = {**os.environ, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1", "RAY_AUTH_TOKEN": "a" * 64}
        found = subprocess.run(
            [sys.executable, "-c", NODE_KILLED, *words], env=variables, capture_output=True, text=True
        )
        assert found.returncode == 0, found.stderr[-2000:]
        passed += runs.is_as_expected()
    longer_trials.count("R7", "a machine of Ray killed", number, passed)
