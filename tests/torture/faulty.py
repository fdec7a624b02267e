"""Small runs in forked children, whose every operation on the run folder can be counted, failed, killed or recorded.

As a script it is a server with everything imported, so that a run takes a fraction of a second: it reads jobs as lines
of JSON, forks a child for each and answers with how it ended. The patches are made in the child, around the functions
of the operating system that ``longattn.tables`` calls; the package knows nothing of them.
"""

import contextlib
import errno
import io
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from queue import Queue
from typing import Any

NO_RESULTS = (".lock", "progress", "timings.json")
"""How names of files begin that differ from run to run."""


class Box:
    """The server as its user sees it, with a folder in which the runs happen."""

    def __init__(self, root: Path, inputs: Path, package: Path) -> None:
        """``inputs`` holds ``corpus`` and ``model``; ``package`` is the folder that ``longattn`` is imported from."""
        root.mkdir()
        self.root, self.output, self.inputs = root, root / "run", inputs
        environment = {**os.environ, "PYTHONPATH": str(package), "OMP_NUM_THREADS": "1", "LONGATTN_CACHE": str(root)}
        self._server = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
        )

    def close(self) -> None:
        """End the server."""
        self._server.communicate()

    def do(self, action: str = "run", **more: Any) -> dict[str, Any]:
        """Let a child do something; returns how it ended: ``status``, ``seconds``, ``error``."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(
            json.dumps({"action": action, "root": str(self.root), "inputs": str(self.inputs), **more}) + "\n"
        )
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())

    def clear(self) -> None:
        """Make the next run a first one."""
        shutil.rmtree(self.output, ignore_errors=True)
        for name in ("measured", "injected"):
            (self.root / name).unlink(missing_ok=True)

    def results(self) -> dict[str, str]:
        """SHA-256 of every file that a run must leave, by name; also of what it should not have left."""
        return {
            str(path.relative_to(self.output)): sha256(path.read_bytes()).hexdigest()
            for path in sorted(self.output.rglob("*"))
            if path.is_file() and not path.name.startswith(NO_RESULTS)
        }

    def operations(self) -> list[tuple[Any, ...]]:
        """What a first run does to its folder: kind, path, number of the file, new name, bytes."""
        self.clear()
        ended = self.do(record=str(self.root / "operations"))
        assert ended["status"] == 0, ended
        return pickle.loads((self.root / "operations").read_bytes())

    def injected(self) -> str:
        """The operation that the last fault met; empty if there was none."""
        path = self.root / "injected"
        return path.read_text() if path.exists() else ""

    def measured(self) -> int:
        """Windows measured since the folder was cleared, all attempts together."""
        path = self.root / "measured"
        return sum(map(int, path.read_text().split())) if path.exists() else 0


class Boxes:
    """As many boxes as trials are made at a time; who has one is alone with it."""

    def __init__(self, boxes: Iterable[Box]) -> None:
        self.all = tuple(boxes)
        self._free: Queue[Box] = Queue()
        for box in self.all:
            self._free.put(box)

    @contextmanager
    def one(self) -> Iterator[Box]:
        """A box that nobody has, once there is one; for a ``with`` block."""
        box = self._free.get()
        try:
            yield box
        finally:
            self._free.put(box)


def write_inputs(root: Path, files: int = 2, documents: int = 3) -> None:
    """A corpus with rejects and a double id, in two work units."""
    folder = root / "corpus"
    folder.mkdir(parents=True)
    for f in range(files):
        lines = [
            {"id": f"{f}-{d}", "text": "far key "[d % 3 :] * (5 + 3 * d), "kind": "ab"[d % 2]} for d in range(documents)
        ]
        rows = [json.dumps(line) for line in lines]
        rows += ["no json", json.dumps({"id": "twice", "text": f"{f}" * 70, "kind": "a"})]
        (folder / f"part-{f}.jsonl").write_text("\n".join(rows) + "\n")


# What happens in the server and its children.


def recipe(inputs: Path) -> Any:
    """The run of all trials: scorer ``length``, tokens are bytes, two work units."""
    from longattn.recipes import Recipe
    from longattn.settings import Corpus, Model, Selecting, Windowing

    return Recipe(
        corpus=Corpus(inputs=(str(inputs / "corpus"),), source_field="kind", unit_bytes=500),
        window=Windowing(length=32),
        model=Model(name=str(inputs / "model")),
        scorers=("length",),
        keep=Selecting(weights={"length": 1.0}, share=0.4),
    )


def act(action: str, inputs: Path, workers: int) -> None:
    """The same command as ever, its later parts alone, or a look at the folder."""
    from longattn import verbs
    from longattn.settings import Compute

    output = Path("run")
    if action == "verify and run" and (output / "plan.parquet").exists():
        assert not (damaged := verbs.verify(output).damaged), f"a stopped run is called damaged: {damaged}"
    if action.endswith("run"):
        verbs.run(recipe(inputs), output, Compute(workers=workers, devices=("cpu",), threads=1))
    elif action == "use":
        verbs.select(recipe(inputs), output)
        verbs.export_selection(recipe(inputs), output)
        verbs.write_report(recipe(inputs), output)


@dataclass
class Layer:
    """Stands between the run and the operating system: ``at`` is told of each operation before it is done."""

    folder: str
    at: Callable[..., None]
    files: dict[int, int] = field(default_factory=dict)
    """By descriptor, the number of the file that was opened for writing."""
    count: int = 0

    def install(self) -> None:
        """Patch this process."""
        import pyarrow.parquet as pq

        layer, opened, opened_handle = self, io.open, os.open
        names: dict[int, str] = {}
        # with descriptors of folders the names would be relative to these
        shutil._use_fd_functions = False  # pyright: ignore[reportAttributeAccessIssue]

        class Raw(io.FileIO):
            def write(self, data: Any) -> int:
                layer.at("write", self.name, number=layer.files[self.fileno()], data=bytes(data), raw=self)
                return super().write(data) or 0

            def readinto(self, buffer: Any) -> int:
                layer.at("read", self.name)
                return super().readinto(buffer) or 0

            def readall(self) -> bytes:
                layer.at("read", self.name)
                return super().readall()

            def close(self) -> None:
                writes = not self.closed and layer.files.pop(self.fileno(), None) is not None
                super().close()
                if writes:
                    layer.at("close", self.name)

        def ours(path: Any) -> bool:
            return isinstance(path, (str, Path)) and str(path).startswith(layer.folder)

        def open_file(path: Any, mode: str = "r", buffering: int = -1, *more: Any, **options: Any) -> Any:
            if not ours(path) or Path(path).name.startswith(".lock"):
                file = opened(path, mode, buffering, *more, **options)
                names.pop(file.fileno(), None)
                return file
            writes = mode[0] in "wxa"
            if writes:
                layer.at("create", str(path), number=layer.count)
            raw = Raw(str(path), mode.replace("b", "").replace("t", ""))
            names[raw.fileno()] = str(path)
            if writes:
                layer.files[raw.fileno()] = layer.count
                layer.count += 1
            file = io.BufferedWriter(raw) if writes else raw if buffering == 0 else io.BufferedReader(raw)
            return file if "b" in mode else io.TextIOWrapper(file, encoding="utf-8")

        def sync(handle: int) -> None:
            # it is not done: what a kill leaves does not depend on it, and a disk takes its time
            if handle in names:
                number = layer.files.get(handle)
                layer.at("sync folder" if number is None else "sync", names[handle], number=number)

        def open_handle(path: Any, *more: Any, **options: Any) -> int:
            handle = opened_handle(path, *more, **options)
            names.pop(handle, None)
            # the folder above gets the name of the run folder
            if ours(path) or str(path) == ".":
                names[handle] = str(path)
            return handle

        io.open = open_file
        os.fsync = sync

        def around(kind: str, original: Callable[..., Any]) -> Callable[..., Any]:
            def call(path: Any, *more: Any, **options: Any) -> Any:
                if ours(path):
                    layer.at(kind, str(path), **({"to": str(more[0])} if kind == "rename" else {}))
                return original(path, *more, **options)

            return call

        for name, kind in (("rename", "rename"), ("replace", "rename"), ("unlink", "unlink"), ("remove", "unlink")):
            setattr(os, name, around(kind, getattr(os, name)))
        for name in ("mkdir", "rmdir"):
            setattr(os, name, around(name, getattr(os, name)))
        os.open = open_handle
        pq.ParquetFile = around("read", pq.ParquetFile)


def fault(at: int, how: str) -> Callable[..., None]:
    """Let the operation of this number fail, or end the process before it; of a write, half is done."""
    passed = 0

    def operate(kind: str, path: str, raw: Any = None, data: bytes = b"", **_: Any) -> None:
        nonlocal passed
        passed += 1
        if passed != at:
            return
        Path("injected").write_text(f"{kind} {path}")
        if kind == "write":
            io.FileIO.write(raw, data[: len(data) // 2])
        if how == "kill":
            os.killpg(0, signal.SIGKILL)
        raise OSError(errno.EIO, f"injected into operation {at}, {kind}", path)

    return operate


def record(operations: list[tuple[Any, ...]]) -> Callable[..., None]:
    """Note every operation on the folder."""

    def operate(kind: str, path: str, number: int | None = None, to: str = "", data: bytes = b"", **_: Any) -> None:
        operations.append((kind, path, number, to, data))

    return operate


def child(job: dict[str, Any]) -> int:
    """Do a job; 0 if it succeeded, 1 after an error that a person is told of, 3 after any other."""
    from longattn.engines import processes
    from longattn.errors import LongAttnError
    from longattn.scorers.length import Length

    root = Path(job["root"])
    os.chdir(root)
    sys.stdout = sys.stderr = (root / "said").open("w")
    measure, operations = Length.measure, []

    def counted(self: Any, windows: Any, seen: Any) -> Any:
        with (root / "measured").open("a") as file:
            file.write(f"{len(windows)}\n")
        return measure(self, windows, seen)

    Length.measure = counted
    # workers that have everything imported, and these patches
    processes.SPAWN = multiprocessing.get_context("fork")
    if "at" in job:
        Layer("run", fault(job["at"], job["how"])).install()
    else:
        # without a fault it only saves the syncs
        Layer("run", record(operations)).install()
    try:
        act(job["action"], Path(job["inputs"]), job.get("workers", 0))
    except (LongAttnError, OSError) as error:
        sys.stdout.write(f"{type(error).__name__}: {error}")
        return 1
    except BaseException:
        traceback.print_exc()
        return 3
    finally:
        sys.stdout.flush()
        if "record" in job:
            Path(job["record"]).write_bytes(pickle.dumps(operations))
    return 0


def serve() -> None:
    """Fork a child for each line of standard input; kill its process group after the seconds that the job allows."""
    # where it is installed, pyarrow imports it
    with contextlib.suppress(ImportError):
        import pandas  # noqa: F401
    import duckdb  # noqa: F401
    import tokenizers  # noqa: F401
    import yaml  # noqa: F401

    import longattn.engines.processes
    import longattn.export
    import longattn.models
    import longattn.report
    import longattn.selection
    import longattn.verbs
    import longattn.verifying

    longattn.report.page._template()
    for line in sys.stdin:
        job = json.loads(line)
        began = time.monotonic()
        pid = os.fork()
        if pid == 0:
            os.setsid()
            code = 4
            try:
                code = child(job)
            finally:
                os._exit(code)
        status, usage = wait(pid, job.get("seconds"))
        ended = {
            "status": os.waitstatus_to_exitcode(status),
            "seconds": time.monotonic() - began,
            "cpu": usage.ru_utime + usage.ru_stime,
        }
        said = Path(job["root"], "said")
        answer = {**ended, "error": said.read_text()[-2000:] if said.exists() else ""}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def wait(pid: int, seconds: float | None) -> int:
    """The status of the child, killed with all its children after so many seconds."""
    if seconds is not None:
        time.sleep(seconds)
        # it may have ended, and left children behind
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
    _, status, usage = os.wait4(pid, 0)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    return status, usage


if __name__ == "__main__":
    serve()
