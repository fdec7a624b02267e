"""The same faults for longattn, datatrove and the released code: ``python benchmarks/faults_compared.py``.

Each reads the same 400 documents from 8 files, gives each a number and writes what it is meant to write: longattn by
``measure`` and ``select`` with the scorer ``length``, datatrove by its JSON lines reader and writer and a step between
them, in a task for each file with one worker at a time, the released code by the function that runs a file through its
model, here a stand-in that takes no time, so that only reading and writing are tried. Every step waits 2 ms a document.
After each fault the same command is given again, as a person or a scheduler would. A trial is passed if all documents
are there then, each once, or if an error says that they are not.

* killed: SIGKILL at a random moment, three times, then once to the end
* given twice: the command of a finished run once more
* power cut: the command is killed at a random moment, and files that were written since and never synced are empty
* other tasks: killed when half is done, then given with 3 tasks or shards instead of 8

datatrove takes part where it is installed. The released code has no licence and is not here: name a checkout of it and
a Python with what it needs, torch, transformers==4.43.3, accelerate, tqdm and jsonlines::

    python benchmarks/faults_compared.py --released released --python released-env/bin/python
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from common import commit, publish
from longattn.testing import tiny_checkpoint

FILES, DOCUMENTS = 8, 50


class Subject:
    """One of those that are compared: a server with everything imported, which forks a child for each command."""

    def __init__(self, name: str, python: str, folder: Path, checkout: str = "") -> None:
        self.name, self.folder = name, folder
        command = [python, str(Path(__file__).with_name("faults_subject.py")), name, str(folder), checkout]
        self._server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert json.loads(self._read()) == "ready"

    def _read(self) -> str:
        assert self._server.stdout is not None
        line = self._server.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} does not run")
        return line

    def do(self, seconds: float | None = None, tasks: int = FILES, power_cut: bool = False) -> tuple[int, float]:
        """Give the command, killed after so many seconds; returns its status and the time it took."""
        assert self._server.stdin is not None
        job = {"seconds": seconds, "tasks": tasks, "power_cut": power_cut}
        self._server.stdin.write(json.dumps(job) + "\n")
        self._server.stdin.flush()
        status, took = json.loads(self._read())
        return status, took

    def clear(self) -> None:
        """Make the next command a first one."""
        shutil.rmtree(self.folder / "run", ignore_errors=True)

    def found(self) -> Counter[str]:
        """How often each document is in the result."""
        if self.name == "longattn":
            import pyarrow.parquet as pq

            path = self.folder / "run" / "selection.parquet"
            return Counter(pq.read_table(path)["doc_id"].to_pylist() if path.exists() else [])
        found: Counter[str] = Counter()
        for path in (self.folder / "run").rglob("*.jsonl"):
            for line in path.read_bytes().splitlines():
                try:
                    row = json.loads(line)
                    found[row["id"] if "id" in row else row["data_id"]] += 1
                except ValueError:
                    found["(torn line)"] += 1
        return found

    def close(self) -> None:
        """End the server."""
        self._server.communicate()


def killed(subject: Subject, chosen: random.Random, took: float) -> int:
    """Killed three times, then once to the end."""
    for _ in range(3):
        subject.do(chosen.uniform(0, took))
    return subject.do()[0]


def twice(subject: Subject, chosen: random.Random, took: float) -> int:
    """The command of a finished run."""
    subject.do()
    return subject.do()[0]


def power_cut(subject: Subject, chosen: random.Random, took: float) -> int:
    """What was not synced is gone; names are kept, which is what a file system's own log sees to."""
    subject.do(chosen.uniform(0, 1.2 * took), power_cut=True)
    return subject.do()[0]


def other_tasks(subject: Subject, chosen: random.Random, took: float) -> int:
    """Another number of tasks than the first attempt had."""
    subject.do(took / 2)
    return subject.do(tasks=3)[0]


TRIALS: dict[str, tuple[Callable[[Subject, random.Random, float], int], int]] = {
    "killed": (killed, 20),
    "given twice": (twice, 1),
    "power cut": (power_cut, 20),
    "other tasks": (other_tasks, 3),
}


def try_all(subject: Subject, seed: int, share: float) -> list[dict[str, object]]:
    """A row for each kind of fault."""
    expected = Counter({f"{f}-{d}": 1 for f in range(FILES) for d in range(DOCUMENTS)})
    subject.clear()
    status, took = subject.do()
    assert status == 0, f"{subject.name} ends with {status}"
    assert subject.found() == expected, f"{subject.name} does not do its work undisturbed"
    rows = []
    for name, (trial, number) in TRIALS.items():
        if name == "other tasks" and subject.name == "released":
            # all it has is one process
            continue
        chosen, row = random.Random(seed), Counter({"lost": 0, "doubled": 0, "passed": 0})
        number = max(1, round(number * share))
        for _ in range(number):
            subject.clear()
            status = trial(subject, chosen, took)
            found = subject.found()
            lost, doubled = (expected - found).total(), (found - expected).total()
            row += Counter(lost=lost, doubled=doubled, passed=int(status != 0 or lost == doubled == 0))
        facts = {"documents": number * expected.total(), "lost": row["lost"], "doubled": row["doubled"]}
        rows.append({"fault": name, "subject": subject.name, "trials": number, "passed": row["passed"], **facts})
        print(rows[-1], file=sys.stderr, flush=True)
    return rows


def main() -> None:
    """Make the input, try each, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--released", type=Path, help="folder with the released code")
    parser.add_argument("--python", help="the Python that runs it")
    parser.add_argument("--seed", type=int, default=20261122)
    parser.add_argument("--share", type=float, default=1.0, help="of the trials")
    parser.add_argument("--json", type=Path, help="also write everything to this file")
    options = parser.parse_args()
    versions = {"longattn": version("longattn")}
    rows = []
    fast = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=fast if fast.is_dir() else None) as temporary:
        folder = Path(temporary)
        tiny_checkpoint(folder / "model")
        (folder / "corpus").mkdir()
        for f in range(FILES):
            lines = [json.dumps({"id": f"{f}-{d}", "text": (f"{f} {d} " * 20)[:64]}) for d in range(DOCUMENTS)]
            (folder / "corpus" / f"{f}.jsonl").write_text("\n".join(lines) + "\n")
        subjects = [("longattn", sys.executable, "")]
        try:
            versions["datatrove"] = version("datatrove")
            subjects.append(("datatrove", sys.executable, ""))
        except PackageNotFoundError:
            pass
        if options.released and options.python:
            versions["released"] = commit(options.released)
            subjects.append(("released", options.python, str(options.released.absolute())))
        for name, python, checkout in subjects:
            subject = Subject(name, python, folder, checkout)
            rows += try_all(subject, options.seed, options.share)
            subject.close()
    publish(rows, options.json, versions=versions, seed=options.seed)
    print(json.dumps(versions))


if __name__ == "__main__":
    main()
