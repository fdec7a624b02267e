"""Processes that are killed, disks that are full, folders that cannot be used, changed conditions: goals R4 to R6."""

import errno
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from longattn import cli, engines, ledger, tables, verbs
from longattn.engines.processes import Pools
from longattn.errors import LongAttnError
from longattn.recipes import Recipe
from longattn.scorers import Length, Random
from longattn.selection import database
from longattn.settings import Compute, Corpus, Model, Selecting, Windowing
from longattn.testing import tiny_checkpoint

INLINE = Compute(workers=0, devices=("cpu",))
PROCESSES = Compute(workers=1, devices=("cpu",))


def write_corpus(folder: Path, files: int, documents: int = 4) -> Path:
    folder.mkdir()
    for f in range(files):
        records = [
            {"id": f"{f}-{d}", "text": f"file {f}, document {d}: far and near. " * (3 + d)} for d in range(documents)
        ]
        (folder / f"{f}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


@pytest.fixture
def recipe(tiny_model_folder, tmp_path) -> Recipe:
    return Recipe(
        corpus=Corpus(inputs=(str(write_corpus(tmp_path / "in", 6)),), source="all", unit_bytes=1000),
        window=Windowing(length=64),
        model=Model(name=str(tiny_model_folder)),
        scorers=("length", "random"),
        keep=Selecting(weights={"random": 1.0}, share=0.5),
    )


def outcome(recipe: Recipe, folder: Path, compute: Compute = INLINE) -> str:
    """A digest of all tables and of the selection after measuring to the end."""
    verbs.measure(recipe, folder, compute)
    verbs.select(recipe, folder)
    digest = hashlib.sha256((folder / "selection.parquet").read_bytes())
    for path in sorted(folder.glob("tables/*/unit-*")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def unfinished(folder: Path) -> list[str]:
    """What is damaged in a folder; a run that was stopped has nothing of the kind."""
    found = verbs.verify(folder).damaged if (folder / "plan.parquet").exists() else []
    return [f"{one.file}: {one.problem}" for one in found]


def command(recipe: Recipe, folder: Path, *more: str) -> list[str]:
    flags = [*recipe.corpus.inputs, "--corpus.source", "all", "--corpus.unit-bytes", "1000", "--output", str(folder)]
    flags += ["--model.name", recipe.model.name, "--window.length", "64", "--devices", "cpu"]
    return [
        sys.executable,
        "-m",
        "longattn",
        "measure",
        *flags,
        "--scorers",
        "length",
        "--scorers",
        "random",
        *more,
    ]


def children(pid: int) -> set[int]:
    try:
        return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    except FileNotFoundError:
        return set()


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_a_worker_killed_at_any_moment_is_replaced(recipe, tmp_path, trials, monkeypatch):
    """R4. One killer thread and one run: every kill hits a process of the run, and no document is blamed for it.

    A death counts as noticed when its pool is replaced, or when the run ends, where nothing more was asked of the dead
    one: within 5 seconds, and the run within three times an undisturbed one. On a machine busy with other work a run of
    some seconds varies by as much, so a death may also take as long as a whole undisturbed run, and a run 30 seconds.
    """
    import multiprocessing
    import threading

    expected = outcome(recipe, tmp_path / "calm")
    began = time.monotonic()
    assert outcome(recipe, tmp_path / "undisturbed", PROCESSES) == expected
    calm = time.monotonic() - began
    notice_within, end_within = max(5, calm), max(30, 3 * calm)
    noticed: list[float] = []
    mend = Pools.mend

    def noted(pools: Pools) -> bool:
        moment = time.monotonic()
        if broken := mend(pools):
            noticed.append(moment)
        return broken

    monkeypatch.setattr(Pools, "mend", noted)
    rng, kills, passed = trials.random(), 0, 0
    while kills < trials.number(100, 3):
        folder = tmp_path / f"run {kills}"
        ended, killed = threading.Event(), []
        noticed.clear()

        def kill(ended: threading.Event = ended, killed: list[float] = killed) -> None:
            others = set(multiprocessing.active_children())
            if ended.wait(rng.uniform(0.0, 1.5)):
                return
            while not ended.wait(0.01):
                if living := [p for p in multiprocessing.active_children() if p not in others and p.pid]:
                    killed.append(time.monotonic())
                    os.kill(rng.choice(living).pid or 0, signal.SIGKILL)
                    return

        killer = threading.Thread(target=kill)
        began = time.monotonic()
        killer.start()
        found = outcome(recipe, folder, PROCESSES)
        over = time.monotonic()
        ended.set()
        killer.join()
        kills += len(killed)
        soon = all(min([*noticed, over]) - moment <= notice_within for moment in killed) and over - began <= end_within
        passed += len(killed) * (soon and found == expected and not (folder / "quarantine").exists())
        shutil.rmtree(folder)
    row = "SIGKILL of a worker at a random moment: noticed within 5 s or a calm run's time, the run goes on"
    trials.count("R4", row, kills, passed)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["TERM", "INT"])
def test_a_run_that_is_asked_to_end_ends_soon_and_goes_on(recipe, tmp_path, trials, number, code):
    """R5. The whole group is told, as Slurm and a terminal do; afterwards the same command finishes the run."""
    write_corpus(tmp_path / "more", 60)
    recipe = replace(recipe, corpus=replace(recipe.corpus, inputs=(str(tmp_path / "more"),)))
    expected, rng, passed = outcome(recipe, tmp_path / "calm"), trials.random(), 0
    wanted, made, by_themselves = trials.number(10, 1), 0, 0
    while made < wanted:
        folder = tmp_path / f"run {made} {by_themselves}"
        process = subprocess.Popen(
            command(recipe, folder, "--workers", "1"), start_new_session=True, stderr=subprocess.PIPE, text=True
        )
        while not list(folder.glob("tables/*/unit-*.json")) and process.poll() is None:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.3))
        began = time.monotonic()
        # it may have ended, and been collected
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        _, said = process.communicate(timeout=60)
        seconds = time.monotonic() - began
        if process.returncode == 0:
            # one that ended by itself is no trial; were there more of these, signals would not be heard at all
            by_themselves += 1
            assert by_themselves <= 5 + wanted, f"{by_themselves} runs ended by themselves, {made} by the signal"
            continue
        made += 1
        good = process.returncode == code and seconds < 10 and "Traceback" not in said and unfinished(folder) == []
        passed += good and outcome(recipe, folder) == expected
    trials.count("R5", f"SIG{number.name[3:]} to the process group: code {code} within 10 s", wanted, passed)


def test_workers_end_when_their_parent_does(recipe, tmp_path, trials):
    """R4. A parent that is killed leaves no second writer behind, and its lock to the next run at once."""
    write_corpus(tmp_path / "more", 60)
    recipe = replace(recipe, corpus=replace(recipe.corpus, inputs=(str(tmp_path / "more"),)))
    wanted, passed, rng = trials.number(10, 1), 0, trials.random()
    for trial in range(wanted):
        folder = tmp_path / f"run {trial}"
        process = subprocess.Popen(command(recipe, folder, "--workers", "1"), stderr=subprocess.DEVNULL)
        while not list(folder.glob("tables/*/unit-*.json")) and process.poll() is None:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.2))
        mine = children(process.pid)
        process.kill()
        process.wait()
        deadline = time.monotonic() + 5
        while any(map(is_running, mine)) and time.monotonic() < deadline:
            time.sleep(0.02)
        began = time.monotonic()
        with tables.RunFolder(folder).lock():
            passed += bool(mine) and not any(map(is_running, mine)) and time.monotonic() - began < 1
    trials.count("R4", "SIGKILL of the parent: workers end within 5 s, the lock is free", wanted, passed)


@contextmanager
def failing(call: int, number: int) -> Iterator[Callable[[], int]]:
    """Let the N-th write, fsync or rename below a run folder fail; yields how many there were."""
    calls = 0
    real_durable, real_sync, real_rename = tables.durable, os.fsync, Path.rename

    def count() -> None:
        nonlocal calls
        calls += 1
        if calls == call:
            raise OSError(number, os.strerror(number))

    @contextmanager
    def durable(path: Path):
        with real_durable(path) as file:
            write = file.write

            class Full:
                closed = False

                def write(self, data):
                    count()
                    return write(data)

                def __getattr__(self, name):
                    return getattr(file, name)

            yield Full()

    def fsync(handle: int) -> None:
        count()
        real_sync(handle)

    def rename(self: Path, target: Path) -> Path:
        count()
        return real_rename(self, target)

    with pytest.MonkeyPatch.context() as patch:
        for module in (tables, ledger):
            patch.setattr(module, "durable", durable)
        patch.setattr(os, "fsync", fsync)
        patch.setattr(Path, "rename", rename)
        yield lambda: calls


# an I/O error at every operation is R1's
@pytest.mark.parametrize(("name", "number", "most"), [("full disk", errno.ENOSPC, 1000), ("I/O error", errno.EIO, 60)])
def test_a_disk_that_fails_anywhere_stops_the_run_and_costs_nothing(
    recipe, tmp_path, trials, name, number, most, capsys
):
    """R5. One line, no half file under a final name, and the same selection once there is room again."""
    recipe = replace(recipe, corpus=replace(recipe.corpus, inputs=(str(tmp_path / "in" / "0.jsonl"),)))
    expected = outcome(recipe, tmp_path / "calm")
    words = command(recipe, tmp_path / "counted", "--workers", "0")[3:]
    with failing(0, number) as calls:
        assert cli.launch(words) == 0
    total = calls()
    assert total > 25
    places = trials.random().sample(range(1, total + 1), trials.number(min(total, most), 8))
    passed = 0
    for place in places:
        folder = tmp_path / f"run {place}"
        words = command(recipe, folder, "--workers", "0")[3:]
        capsys.readouterr()
        with failing(place, number):
            code = cli.launch(words)
        said = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("found ")]
        good = code == 1 and len(said) == 1 and os.strerror(number) in said[0] and str(folder) in said[0]
        good = good and unfinished(folder) == []
        passed += good and outcome(recipe, folder) == expected
        shutil.rmtree(folder)
    trials.count("R5", f"{name} at a write, fsync or rename", len(places), passed)


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """A file system of its own, where the tests may mount one."""
    folder.mkdir(exist_ok=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(folder)], capture_output=True).returncode:
        pytest.skip("no right to mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_small_disk_that_fills_up_stops_the_run_and_costs_nothing(recipe, tmp_path, trials):
    """R5. A real file system of some kilobytes, which is then made larger."""
    expected, passed = outcome(recipe, tmp_path / "calm"), 0
    wanted = trials.number(50, 3)
    sizes = [4 * (2 + (k * 66) // wanted) for k in range(wanted)]
    for size in sizes:
        with mounted(tmp_path / f"disk {size} {passed}", f"size={size}k") as disk:
            try:
                verbs.measure(recipe, disk / "run", INLINE)
                good = False
            except (OSError, LongAttnError) as error:
                good = "No space left" in str(error)
            left = [path for path in disk.rglob("*") if path.suffix == ".parquet" and path.stat().st_size == 0]
            subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
            passed += good and not left and outcome(recipe, disk / "run") == expected
    trials.count("R5", "a disk of 8 to 268 kB that fills up", wanted, passed)


AFTER_MEASURING = {"select": ["--keep.share", "0.5"], "export": ["--write.content", "both"], "report": []}
"""Verbs that write results, in order, and what they are told here."""


def results(folder: Path) -> dict[str, bytes]:
    """All that must not depend on what went wrong on the way."""
    apart = ("progress", "timings.json", ".lock")
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(apart)
    }


def give(verb: str, run: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    """Give a verb's command; its exit code and what it said of errors, in lines."""
    capsys.readouterr()
    code = cli.launch([verb, str(run), *AFTER_MEASURING[verb]])
    return code, capsys.readouterr().err.splitlines()


def chosen_from(recipe: Recipe, run: Path, verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Make the run that a verb is given on: measured, and with results of an earlier selection.

    The results of the verbs before this one are those of the present selection.
    """
    verbs.measure(recipe, run, INLINE)
    verbs.select(replace(recipe, keep=replace(recipe.keep, share=0.2)), run)
    verbs.export_selection(recipe, run)
    verbs.write_report(recipe, run)
    for earlier in AFTER_MEASURING:
        if earlier == verb:
            break
        assert give(earlier, run, capsys)[0] == 0


@pytest.mark.parametrize("verb", AFTER_MEASURING)
def test_a_full_disk_at_any_write_of_a_result_leaves_nothing_that_is_taken_for_whole(
    recipe, tmp_path, trials, capsys, verb
):
    """R5. One line that names the file, no damage, and the same bytes once there is room."""
    run, before = tmp_path / "run", tmp_path / "before"
    chosen_from(recipe, run, verb, capsys)
    shutil.copytree(run, before)
    with failing(0, errno.ENOSPC) as calls:
        assert give(verb, run, capsys)[0] == 0
    expected, total = results(run), calls()
    assert total > 5
    places = trials.random().sample(range(1, total + 1), trials.number(total, 4))
    injected = passed = 0
    for place in places:
        shutil.rmtree(run)
        shutil.copytree(before, run)
        with failing(place, errno.ENOSPC) as calls:
            code, said = give(verb, run, capsys)
        # what is swept or synced once is not there to be counted again
        if calls() < place:
            continue
        injected += 1
        good = code == 1 and len(said) == 1 and os.strerror(errno.ENOSPC) in said[0] and str(run) in said[0]
        good = good and unfinished(run) == []
        passed += good and give(verb, run, capsys)[0] == 0 and results(run) == expected
    trials.count("R5", f"full disk at a write, fsync or rename of {verb}", injected, passed)


@pytest.mark.parametrize(("verb", "step"), [("select", 64), ("export", 2), ("report", 128)])
def test_a_small_disk_that_fills_up_under_a_result_costs_nothing(
    recipe, tmp_path, trials, capsys, monkeypatch, verb, step
):
    """R5. A real file system with some kilobytes left, more each time; DuckDB's own file has to fit as well."""
    # the database is written to the file as soon as it has some rows
    monkeypatch.setattr(database, "SETTLED_TOGETHER", 8)
    run, before, wanted, most = tmp_path / "disk" / "run", tmp_path / "before", 0, trials.number(40, 3)
    passed, expected, heard = 0, {}, ""
    with mounted(tmp_path / "disk", "size=64m"):
        chosen_from(recipe, run, verb, capsys)
        shutil.copytree(run, before)
        assert give(verb, run, capsys)[0] == 0
        expected = results(run)
    for left in range(0, most * step, step):
        with mounted(tmp_path / "disk", "size=64m") as disk:
            shutil.copytree(before, run)
            room = os.statvfs(disk)
            used = (room.f_blocks - room.f_bfree) * room.f_frsize // 1024
            subprocess.run(["mount", "-o", f"remount,size={used + left}k", str(disk)], check=True)
            code, said = give(verb, run, capsys)
            subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
            if code == 0:
                # all of it fits
                assert results(run) == expected
                break
            wanted += 1
            heard += "".join(said)
            good = code == 1 and len(said) == 1 and os.strerror(errno.ENOSPC) in said[0] and str(disk) in said[0]
            good = good and "Error" not in said[0].partition(":")[0] and unfinished(run) == []
            passed += good and give(verb, run, capsys)[0] == 0 and results(run) == expected
    # it was not always one of our own files that did not fit
    assert verb != "select" or "has no room for the database" in heard
    trials.count("R5", f"a disk that fills up under {verb}, {step} kB more left each time", wanted, passed)


def test_a_folder_that_cannot_be_used_is_named_before_a_model_is_looked_up(
    recipe, tmp_path, trials, capsys, monkeypatch
):
    """R5. Read-only, no permission, a file in its place, in use."""
    monkeypatch.setattr(verbs.running, "prepare", lambda *_: pytest.fail("a model was looked up"))
    (tmp_path / "file").write_text("")
    said: dict[str, tuple[int, float, list[str]]] = {}

    def attempt(name: str, folder: Path) -> None:
        capsys.readouterr()
        began = time.monotonic()
        code = cli.launch(command(recipe, folder, "--workers", "0")[3:])
        said[name] = (code, time.monotonic() - began, capsys.readouterr().err.splitlines())

    attempt("a file", tmp_path / "file")
    attempt("below a file", tmp_path / "file" / "run")
    attempt("/proc, where nobody may write", Path("/proc/run"))
    with mounted(tmp_path / "disk", "size=1m") as disk:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        attempt("a read-only disk", disk / "run")
    with tables.RunFolder(tmp_path / "busy").lock():
        attempt("in use", tmp_path / "busy")
    passed = sum(code == 1 and seconds < 2 and len(lines) == 1 for code, seconds, lines in said.values())
    trials.count("R5", "an output folder that cannot be used: one line within 2 s", len(said), passed)


def changed(recipe: Recipe, tmp_path: Path) -> dict[str, Callable[[], Recipe]]:
    """Conditions that change what is measured, each made to a copy of the recipe."""
    model = tmp_path / "model"
    shutil.copytree(recipe.model.name, model)

    def model_with(name: str, change: Callable[[bytes], bytes]) -> Recipe:
        path = model / name
        path.write_bytes(change(path.read_bytes()))
        return replace(recipe, model=replace(recipe.model, name=str(model)))

    def document() -> Recipe:
        path = Path(recipe.corpus.inputs[0], "0.jsonl")
        path.write_text(path.read_text().replace("far", "fat", 1))
        return recipe

    def scorer(**choice: object) -> Recipe:
        return replace(recipe, settings=replace(recipe.settings, longattn=replace(recipe.settings.longattn, **choice)))

    def with_space(text: bytes) -> bytes:
        return text + b"\n"

    def flipped(weights: bytes) -> bytes:
        return weights[:-1] + bytes([weights[-1] ^ 1])

    def text_field() -> Recipe:
        return replace(recipe, corpus=replace(recipe.corpus, text_field="id"))

    def window() -> Recipe:
        return replace(recipe, window=Windowing(length=80))

    def dtype() -> Recipe:
        return replace(recipe, model=replace(recipe.model, dtype="bfloat16"))

    return {
        "window length": window,
        "dtype": dtype,
        "rope_theta": lambda: replace(recipe, model=replace(recipe.model, rope_theta=123.0)),
        "distances": lambda: scorer(distances=(5,)),
        "layers": lambda: scorer(layers=(1,)),
        "first keys skipped": lambda: scorer(skip_first=4),
        "heads kept apart": lambda: scorer(per_head=True),
        "text field": text_field,
        "source": lambda: replace(recipe, corpus=replace(recipe.corpus, source="other")),
        "an input file": document,
        "the tokenizer's file": lambda: model_with("tokenizer.json", with_space),
        "the model's weights": lambda: model_with("model.safetensors", flipped),
    }


def test_what_changes_a_measurement_never_meets_what_was_measured_before(tmp_path, trials):
    """R6. Either nothing of the old tables is used, or only the units of files that are the same."""
    passed, names = 0, []
    base = Recipe(window=Windowing(length=64), scorers=("longattn",))
    for name in changed(_with_model(base, tmp_path / "names"), tmp_path / "names"):
        folder = tmp_path / name.replace(" ", "-")
        recipe = _with_model(base, folder)
        verbs.measure(recipe, folder / "run", INLINE)
        before = {path: path.stat().st_mtime_ns for path in (folder / "run").glob("tables/longattn-*/unit-*.json")}
        other = changed(recipe, folder)[name]()
        if name != "an input file":
            # what was measured is not what is asked for, and selecting says so or finds none of it
            assert len({path.parent for path in before}) == 1
        verbs.measure(other, folder / "run", INLINE)
        verbs.measure(other, folder / "alone", INLINE)
        for run in ("run", "alone"):
            verbs.select(other, folder / run)
        same = (folder / "run" / "selection.parquet").read_bytes() == (
            folder / "alone" / "selection.parquet"
        ).read_bytes()
        untouched = all(path.stat().st_mtime_ns == moment for path, moment in before.items())
        made = set((folder / "run").glob("tables/longattn-*/unit-*.json")) - set(before)
        names.append(name)
        passed += same and untouched and len(made) == (1 if name == "an input file" else 3)
    trials.count("R6", f"changed: {', '.join(names)}", len(names), passed)


def _with_model(recipe: Recipe, folder: Path) -> Recipe:
    folder.mkdir()
    model = tiny_checkpoint(folder / "tiny")
    corpus = Corpus(inputs=(str(write_corpus(folder / "in", 3)),), source="all", unit_bytes=1000)
    return replace(recipe, corpus=corpus, model=Model(name=str(model)))


def test_what_must_not_matter_does_not(recipe, tmp_path, trials, monkeypatch):
    """R6. Workers, threads, where it is called from, what the machine is called, language, time zone, log level.

    With attention of the first layer and of a later one, for which whole layers are computed. That products of this
    model's size come out alike for 1 and 2 threads is no promise for every size and machine: docs/clusters.md. A run
    has no batch size; how windows are put together is tried in test_numbers.py.
    """
    layers = replace(recipe.settings.longattn, layers=(0, 1))
    recipe = replace(
        recipe,
        scorers=("longattn", "length", "random"),
        settings=replace(recipe.settings, longattn=layers),
        keep=Selecting(weights={"longattn": 1.0, "random": 1.0}, share=0.5),
    )
    usual = {"--workers": "0", "--threads": "1", "--log-level": "info"}
    one_thread = replace(INLINE, threads=1)
    verbs.measure(recipe, tmp_path / "first", replace(one_thread, limit=1))
    expected, passed = outcome(recipe, tmp_path / "calm", one_thread), 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    elsewhere = {"LC_ALL": "tr_TR.UTF-8", "LANG": "C", "TZ": "Pacific/Kiritimati", "PYTHONHASHSEED": "7"}
    conditions: dict[str, dict[str, str]] = {
        "workers": {"--workers": "2"},
        "threads": {"--threads": "2"},
        "host name": {},
        "log level and format": {"--log-level": "debug", "--log-format": "json"},
        "locale, time zone and hash seed": {},
    }
    for name, different in conditions.items():
        folder = tmp_path / f"run with other {name}"
        shutil.copytree(tmp_path / "first", folder)
        flags = [word for flag in (usual | different).items() for word in flag]
        layers = ["--longattn.layers", "0", "--longattn.layers", "1"]
        words = command(recipe, folder, "--scorers", "longattn", *layers, *flags)
        if name == "locale, time zone and hash seed":
            # what a process is born with
            code = subprocess.run(words, env={**os.environ, **elsewhere}, stdout=-3, stderr=-3).returncode
        else:
            with monkeypatch.context() as patch:
                if name == "host name":
                    patch.setattr(socket, "gethostname", lambda: "another")
                code = cli.launch(words[3:])
        host = json.loads((folder / "progress.json").read_bytes())["host"]
        assert (host == "another") == (name == "host name")
        made = {path: path.stat().st_mtime_ns for path in folder.glob("tables/*/unit-*")}
        passed += code == 0 and outcome(recipe, folder, one_thread) == expected
        # what is compared is what was measured under the condition
        assert made == {path: path.stat().st_mtime_ns for path in folder.glob("tables/*/unit-*")}
    trials.count("R6", f"must not matter: working directory, {', '.join(conditions)}", len(conditions), passed)


def test_a_clock_that_jumps_changes_nothing(recipe, tmp_path, trials, monkeypatch):
    """R5. Hours back and forth between any two looks at the clock."""
    expected, rng = outcome(recipe, tmp_path / "calm"), trials.random()
    real, wanted, passed = time.time, trials.number(20, 2), 0
    for trial in range(wanted):
        with monkeypatch.context() as patch:
            patch.setattr(time, "time", lambda: real() + rng.uniform(-1e6, 1e6))
            passed += outcome(recipe, tmp_path / f"run {trial}", PROCESSES if trial == 0 else INLINE) == expected
        said = json.loads((tmp_path / f"run {trial}" / "progress.json").read_bytes())
        assert said["elapsed"] >= 0
        assert said["tokens_per_second"] >= 0
    trials.count("R5", "a clock that jumps", wanted, passed)


def test_the_scorers_of_these_trials_need_no_model():
    assert Length().ask() is Random().ask() is None
    assert engines.devices(INLINE, needed=False) == ["cpu"]
