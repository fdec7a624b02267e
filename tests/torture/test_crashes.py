"""Runs that are killed, or whose writes, syncs, renames and reads fail: the same command finishes the same run.

The run has two work units and is made with the scorer ``length``. A trial that fails is shown as the call that replays
it.
"""

import json
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pyarrow as pa
import pytest
from faulty import Box, Boxes

from longattn.errors import DamageError
from longattn.tables import RunFolder, durable, spilling, sweep

T = TypeVar("T")


def both(boxes: Boxes, trial: Callable[[Box, T], str], cases: Iterable[T]) -> list[str]:
    """What each trial says, an empty text if it passed; two at a time."""

    def one(case: T) -> str:
        with boxes.one() as box:
            return trial(box, case)

    with ThreadPoolExecutor(len(boxes.all)) as pool:
        said = list(pool.map(one, cases))
    for failure in filter(None, said):
        sys.stdout.write(failure + "\n")
    return said


def calm(box: Box) -> dict[str, str]:
    """The files of an undisturbed run."""
    if not hasattr(box, "calm"):
        box.clear()
        ended = box.do()
        assert ended["status"] == 0, ended
        box.calm, box.windows = box.results(), box.measured()
        receipts = (box.output / "tables").glob("windows-*/unit-*.json")
        box.largest_unit = max(json.loads(path.read_bytes())["rows"] for path in receipts)
    return box.calm


def duration(box: Box, workers: int) -> float:
    """Seconds of an undisturbed run with so many workers, whose windows are counted as those of one without are."""
    calm(box)
    known = box.__dict__.setdefault("durations", {})
    if workers not in known:
        box.clear()
        ended = box.do(workers=workers)
        assert (ended["status"], box.measured()) == (0, box.windows), ended
        known[workers] = ended["seconds"]
    return known[workers]


def finished_as_ever(box: Box, **how: Any) -> str:
    """Give the same command again; says what differs from the undisturbed run, or what ``verify`` called damaged."""
    ended = box.do("verify and run", **how)
    if ended["status"] != 0:
        return f"the same command failed: {ended}"
    if (found := box.results()) != calm(box):
        return f"other files: {sorted(set(found.items()) ^ set(calm(box).items()))}"
    if (twice := box.measured() - box.windows) > box.largest_unit:
        return f"{twice} windows were measured twice"
    return ""


def interrupted(box: Box, point: tuple[int, str]) -> str:
    """Kill or fail one operation of a first run, then give the same command again."""
    at, how = point
    calm(box)
    box.clear()
    ended = box.do(at=at, how=how)
    if not box.injected():
        return f"do(at={at}, how={how!r}) met no operation"
    expected = {"kill": (-9,), "fail": (0, 1)}[how]
    problem = "" if ended["status"] in expected else f"ended with {ended}"
    problem = problem or finished_as_ever(box)
    return problem and f"do(at={at}, how={how!r}), {box.injected()}: {problem}"


@pytest.mark.parametrize("how", ["kill", "fail"])
def test_every_operation_of_a_run(trials, boxes, how):
    with boxes.one() as box:
        count = len(box.operations())
    points = trials.random().sample(range(1, count + 1), trials.number(count, 5))
    said = both(boxes, interrupted, [(at, how) for at in points])
    what = {"kill": "process killed", "fail": "error"}[how]
    trials.count("R1", f"{what} at an operation (create, write, sync, close, rename, read)", len(said), said.count(""))


@pytest.mark.parametrize("workers", [0, 2])
def test_everything_killed_at_random_moments(trials, boxes, workers):
    chosen = trials.random()

    def trial(box: Box, part: float) -> str:
        seconds = part * duration(box, workers)
        box.clear()
        ended = box.do(workers=workers, seconds=seconds)
        problem = finished_as_ever(box, workers=workers)
        return problem and f"killed after {part:.4f} of a run ({ended}): {problem}"

    said = both(boxes, trial, [chosen.uniform(0.02, 1.0) for _ in range(trials.number(100, 3))])
    trials.count("R1", f"all processes killed, {workers} workers", len(said), said.count(""))


def test_a_run_that_is_killed_again_and_again(trials, boxes):
    """Each attempt dies a little later than the one before; nothing is ever done three times."""

    def trial(box: Box, step: int) -> str:
        calm(box)
        box.clear()
        at = step
        while box.do(at=at, how="kill")["status"] == -9:
            at += step
        problem = finished_as_ever(box)
        return problem and f"killed at every {step}th operation: {problem}"

    steps = trials.random().sample(range(60, 160), trials.number(10, 1))
    said = both(boxes, trial, steps)
    trials.count("R1", "every attempt killed, until one is through", len(said), said.count(""))


def test_a_resume_begins_at_once(trials, tmp_path, monkeypatch):
    """R2: nothing but receipts and footers is read of units that are done."""
    monkeypatch.setattr("os.fsync", lambda handle: None)
    tables = [RunFolder(tmp_path).table(name, {"scorer": name}) for name in ("documents", "windows", "length")]
    units = [f"{number:016x}" for number in range(trials.number(1000, 50))]
    rows = pa.table({"window_id": [f"{number}@0" for number in range(200)], "tokens": list(range(200))})
    for table in tables:
        for unit in units:
            table.commit(unit, rows, {"windows": 200}, {})
    again = [RunFolder(tmp_path).table(table.name, table.settings) for table in tables]
    began = time.process_time()
    done = sum(all(table.receipt(unit) for table in again) for unit in units)
    seconds = time.process_time() - began
    assert done == len(units)
    assert seconds <= 5 * len(units) / 1000
    trials.count("R2", f"finished units looked at in {seconds:.2f} s", len(units), done)


def test_only_what_nobody_writes_any_more_is_swept(tmp_path):
    gone = [tmp_path / ".unit-1.parquet.0123abcd.tmp", tmp_path / ".select-left" / "spilled"]
    for path in gone:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"half")
    kept = [tmp_path / "notes.tmp", tmp_path / ".mine"]
    for path in kept:
        path.write_bytes(b"somebody's own")
    with spilling(tmp_path) as spill, durable(tmp_path / "unit-2.parquet") as file:
        file.write(b"whole")
        assert sweep(tmp_path) == 2
        assert spill.exists()
    assert (tmp_path / "unit-2.parquet").read_bytes() == b"whole"
    assert [path.exists() for path in (*gone, *kept)] == [False, False, True, True]


def test_a_file_swept_before_it_was_locked_is_made_again(tmp_path, monkeypatch):
    from longattn import tables

    hold, removed = tables._hold, []

    def late(handle: int, **how: bool) -> bool:
        if not removed:
            removed.extend(tmp_path.iterdir())
            removed[0].unlink()
        return hold(handle, **how)

    monkeypatch.setattr(tables, "_hold", late)
    with durable(tmp_path / "a") as file:
        file.write(b"whole")
    assert (tmp_path / "a").read_bytes() == b"whole"


def test_a_failed_sync_is_not_tried_again(tmp_path, monkeypatch):
    tried = []

    def fail(handle: int) -> None:
        tried.append(handle)
        raise OSError("no")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="no"), durable(tmp_path / "a") as file:
        file.write(b"lost")
    assert len(tried) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def table(tmp_path):
    """A table with two units."""
    table = RunFolder(tmp_path).table("length", {"scorer": "length"})
    for unit in ("a", "b"):
        table.commit(unit, pa.table({"window_id": [unit]}), {}, {})
    return table


def test_a_unit_of_another_table_is_not_taken_for_this_ones(table):
    other = table.run.table("length", {"scorer": "length", "model": "another"})
    other.commit("a", pa.table({"window_id": ["a"]}), {}, {})
    for name in ("file", "receipt_file"):
        getattr(table, name)("a").write_bytes(getattr(other, name)("a").read_bytes())
    with pytest.raises(DamageError, match=f"it is the receipt of unit a of length-{other.hash}"):
        table.receipt("a")
    assert not table.holds("a")
    table.file("b").write_bytes(table.file("a").read_bytes())
    with pytest.raises(DamageError, match="its footer is not the one that was written"):
        list(table.read(["b"]))


def test_a_damaged_unit_is_written_anew(table):
    table.file("a").unlink()
    with pytest.raises(DamageError, match="it is gone, and its receipt is there"):
        table.receipt("a")
    table.commit("a", pa.table({"window_id": ["a"]}), {}, {})
    assert table.check("a").rows == 1


def test_a_finished_unit_says_in_its_footer_what_it_is(table):
    import pyarrow.parquet as pq

    metadata = pq.read_metadata(table.file("a")).metadata
    found = {key.decode(): value.decode() for key, value in metadata.items() if key.startswith(b"longattn.")}
    seal = found.pop("longattn.seal")
    assert len(seal) == 64
    assert found == {
        "longattn.unit": "a",
        "longattn.table": "length",
        "longattn.settings": table.hash,
        "longattn.rows": "1",
    }
