"""Reading tables of ours: what is damaged, and what only cannot be opened now."""

import contextlib
import errno
import fcntl
import os
import pickle
import re
import resource
import secrets
import stat
import tempfile
import threading
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from longattn.errors import DamageError, RunError
from longattn.export.rereading import read_selection
from longattn.records import Slice, WorkUnit
from longattn.report.selections import load_selection, reading
from longattn.stores import Entry
from longattn.tables import (
    RunFolder,
    _excluded_by,
    append_line,
    durable,
    file_sha256,
    read_parquet,
    read_sealed,
    spilling,
    sweep,
    write_chunks,
    write_json,
    write_parquet,
    write_sealed,
    write_text,
)


@pytest.fixture
def table(tmp_path):
    write_parquet(tmp_path / "table.parquet", pa.table({"a": [1, 2, 3]}))
    return tmp_path / "table.parquet"


@contextlib.contextmanager
def no_more_files():
    """This process can open no file meanwhile."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 512), hard))
    taken = []
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        yield
    finally:
        for handle in taken:
            os.close(handle)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("read", [read_parquet, read_selection])
def test_a_file_that_cannot_be_opened_now_is_not_called_damaged(table, read):
    with no_more_files(), pytest.raises(OSError, match="Too many open files"):
        read(table)


def test_a_selection_that_cannot_be_opened_now_is_not_called_damaged(table, tmp_path):
    with reading(tmp_path) as database, no_more_files(), pytest.raises(OSError, match="Too many open files"):
        load_selection(database, table, "chosen")


def test_a_folder_that_cannot_be_synced_is_named(tmp_path, monkeypatch):
    sync = os.fsync

    def fail(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EIO, "Input/output error")
        sync(handle)

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output error") as raised:
        write_text(tmp_path / "a", "text")
    assert raised.value.filename == str(tmp_path)


def test_a_file_that_a_sweep_is_about_to_remove_is_made_again(tmp_path, monkeypatch):
    """Between opening and locking, somebody else's sweep has it locked and not removed it yet."""
    names, sweeps = iter(["0" * 8, "1" * 8]), []

    def opened(path, mode):
        file = open_file(path, mode)
        if not sweeps:
            handle = os.open(path, os.O_RDONLY)
            fcntl.flock(handle, fcntl.LOCK_EX)
            sweeps.append(threading.Timer(0.1, lambda: (path.unlink(), os.close(handle))))
            sweeps[0].start()
        return file

    open_file = Path.open
    monkeypatch.setattr(secrets, "token_hex", lambda _: next(names))
    monkeypatch.setattr(Path, "open", opened)
    with durable(tmp_path / "a") as file:
        sweeps[0].join()
        file.write(b"whole")
    assert (tmp_path / "a").read_bytes() == b"whole"


def test_a_folder_that_a_sweep_is_about_to_remove_is_made_again(tmp_path, monkeypatch):
    make, sweeps = tempfile.mkdtemp, []

    def made(**where):
        folder = make(**where)
        if not sweeps:
            handle = os.open(folder, os.O_RDONLY)
            fcntl.flock(handle, fcntl.LOCK_EX)
            sweeps.append(threading.Timer(0.1, lambda: (Path(folder).rmdir(), os.close(handle))))
            sweeps[0].start()
        return folder

    monkeypatch.setattr(tempfile, "mkdtemp", made)
    with spilling(tmp_path) as folder:
        sweeps[0].join()
        assert folder.is_dir()
        assert sweep(tmp_path) == 0
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def run(tmp_path):
    """A run with a selection and a report of it."""
    run = RunFolder(tmp_path / "run")
    with run.replacing("selection.parquet"):
        write_text(run.root / "selection.parquet", "first")
    with run.replacing("report.html", of="selection.parquet"):
        write_text(run.root / "report.html", "of the first")
    return run


def test_what_was_made_of_a_selection_that_is_replaced_meanwhile_is_listed_as_made_of_it(run):
    before = run.manifest()["files"]["selection.parquet"]["sha256"]
    with run.replacing("report.html", of="selection.parquet"):
        write_text(run.root / "report.html", "of the first again")
        with run.replacing("selection.parquet"):
            write_text(run.root / "selection.parquet", "second")
    files = run.manifest()["files"]
    assert files["report.html"]["of"] == before != files["selection.parquet"]["sha256"]


def test_of_two_that_replace_different_files_neither_forgets_what_the_other_does(run, monkeypatch):
    manifest = RunFolder.manifest
    others = [run.replacing("selection.parquet")]

    def late(self):
        found = manifest(self)
        while others:
            # between the reading and the note
            others.pop().__enter__()
        return found

    monkeypatch.setattr(RunFolder, "manifest", late)
    with run.replacing("report.html"):
        assert manifest(run)["replacing"] == ["report.html", "selection.parquet"]


def test_what_is_half_written_in_quarantine_is_swept_too(run):
    half = run.root / "quarantine" / ".a-cut-1.json.0123abcd.tmp"
    half.parent.mkdir()
    half.write_text("{")
    run.sweep()
    assert not half.exists()


def test_other_bytes_are_damage(table):
    table.write_bytes(b"x" * 100)
    with pytest.raises(DamageError, match="is damaged"):
        read_parquet(table)


def test_a_sweep_takes_what_nobody_holds_and_nothing_else(tmp_path):
    (tmp_path / ".select-abandoned" / "below").mkdir(parents=True)
    (tmp_path / ".a.json.0123abcd.tmp").touch()
    kept = ["a.json", ".a.json.0123abcd.tmp.json", ".a.json.0123abc.tmp", "select-1", ".lock"]
    for name in kept:
        (tmp_path / name).touch()
    with durable(tmp_path / "b"), spilling(tmp_path) as folder:
        assert sweep(tmp_path) == 2
        assert folder.is_dir()
    assert {path.name for path in tmp_path.iterdir()} == {*kept, "b"}
    assert sweep(tmp_path) == 0


def test_a_sweep_of_a_run_says_how_many(run, caplog):
    for folder in (run.root, run.root / "pilots", run.root / "tables" / "windows-1"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".x.0123abcd.tmp").touch()
    with caplog.at_level("INFO"):
        run.sweep()
        run.sweep()
    assert [record.getMessage() for record in caplog.records] == [
        "removed 3 half-written files of a process that was stopped"
    ]
    assert not list(run.root.rglob("*.tmp"))


def fail(file, error):
    file.write(b"half")
    raise error


def test_what_could_not_be_written_leaves_the_file_of_before(tmp_path):
    path = tmp_path / "new" / "folder" / "a"
    write_text(path, "before")
    for error in (OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EIO, "of another", "another")):
        with pytest.raises(OSError, match=error.strerror) as raised, durable(path) as file:
            fail(file, error)
        assert raised.value.filename == (str(path) if error.errno == errno.ENOSPC else "another")
    assert path.read_text() == "before"
    assert [one.name for one in path.parent.iterdir()] == ["a"]


def test_a_line_of_a_killed_process_does_not_swallow_the_next(tmp_path):
    log = tmp_path / "log"
    for line in ("a\n", "", "b\n", "cut off", "c\n", "d\n"):
        append_line(log, line)
    assert log.read_text() == "a\nb\ncut off\nc\nd\n"


def test_json_of_equal_values_has_equal_bytes(tmp_path):
    write_json(tmp_path / "a", {"b": 1, "a": ["é"]})
    assert (tmp_path / "a").read_bytes() == '{\n "a": [\n  "é"\n ],\n "b": 1\n}\n'.encode()


def test_chunks_are_one_file(tmp_path):
    tables = [pa.table({"a": [1, 2]}), pa.table({"a": pa.array([], pa.int64())}), pa.table({"a": [3]})]
    assert write_chunks(tmp_path / "a", tables[0].schema, tables) == 3
    assert read_parquet(tmp_path / "a")["a"].to_pylist() == [1, 2, 3]


def test_row_groups_are_as_long_as_asked_for(tmp_path):
    write_parquet(tmp_path / "a", pa.table({"a": [1, 2, 3], "b": [4, 5, 6]}), row_group_rows=2)
    with pq.ParquetFile(tmp_path / "a") as file:
        assert file.num_row_groups == 2
    assert read_parquet(tmp_path / "a", ["b"]).to_pydict() == {"b": [4, 5, 6]}


UNIT = "0123456789abcdef"


@pytest.fixture
def units(tmp_path):
    """A table of a run, with one unit."""
    table = RunFolder(tmp_path / "run").table("windows", {"length": 64, "distances": (8, 16)})
    table.commit(UNIT, pa.table({"a": [1, 2, 3], "b": ["x", "y", "z"]}), {"windows": 3}, {"longattn": "0"})
    return table


def test_a_unit_that_was_committed_is_read_back(units):
    assert units.settings == {"length": 64, "distances": [8, 16]}
    assert units.folder == units.run.root / "tables" / f"windows-{units.hash}"
    assert read_sealed(units.folder / "settings.json") == units.settings
    receipt = units.receipt(UNIT)
    assert (receipt.unit, receipt.table, receipt.settings, receipt.rows) == (UNIT, "windows", units.hash, 3)
    assert (receipt.counts, receipt.versions) == ({"windows": 3}, {"longattn": "0"})
    assert (receipt.num_bytes, receipt.sha256) == (units.file(UNIT).stat().st_size, file_sha256(units.file(UNIT)))
    assert units.check(UNIT) == receipt
    assert units.has(UNIT)
    assert units.holds(UNIT)
    assert units.schema(UNIT).names == ["a", "b"]
    with pq.ParquetFile(units.file(UNIT)) as file:
        facts = file.metadata.metadata
    assert {name: facts[f"longattn.{name}".encode()].decode() for name in ("unit", "table", "settings", "rows")} == {
        "unit": UNIT,
        "table": "windows",
        "settings": units.hash,
        "rows": "3",
    }


def test_settings_of_a_table_are_written_once(units):
    inode = (units.folder / "settings.json").stat().st_ino
    units.describe()
    assert (units.folder / "settings.json").stat().st_ino == inode


def test_units_are_read_in_the_order_given(units):
    units.commit("other", pa.table({"a": [4], "b": ["v"]}), {}, {})
    assert [table.to_pydict() for table in units.read(["other", UNIT], ["a"])] == [{"a": [4]}, {"a": [1, 2, 3]}]


def test_a_unit_that_is_not_there_is_told_apart_from_a_damaged_one(units):
    assert units.receipt("other") is None
    assert units.check("other") is None
    assert not units.has("other")
    assert not units.holds("other")
    told = f"unit other has no table 'windows' at {units.file('other')}; measure it first"
    with pytest.raises(RunError, match=re.escape(told)):
        list(units.read(["other"]))
    with pytest.raises(RunError, match="unit other has no table"):
        units.schema("other")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda units: units.file(UNIT).unlink(), "it is gone, and its receipt is there"),
        (lambda units: units.file(UNIT).write_bytes(b""), "it has 0 bytes, not"),
        (lambda units: overwrite(units.file(UNIT), -5, b"!"), "its footer is not the one that was written"),
        (lambda units: overwrite(units.receipt_file(UNIT), 20, b"!!"), "seal|JSON"),
        (lambda units: write_sealed(units.receipt_file(UNIT), {"unit": UNIT}), "missing"),
        (lambda units: receive(units, unit="other"), "it is the receipt of unit other of windows-"),
        (lambda units: receive(units, table="documents"), f"it is the receipt of unit {UNIT} of documents-"),
        (lambda units: receive(units, settings="0"), f"it is the receipt of unit {UNIT} of windows-0"),
    ],
)
def test_a_damaged_unit_is_not_in_the_table_until_it_is_committed_again(units, change, problem):
    before = units.receipt(UNIT)
    change(units)
    for look in (units.receipt, units.check, units.has, units.schema, lambda unit: list(units.read([unit]))):
        with pytest.raises(DamageError, match=problem):
            look(UNIT)
    assert not units.holds(UNIT)
    rows = pa.table({"a": [1, 2, 3], "b": ["x", "y", "z"]})
    assert units.commit(UNIT, rows, {"windows": 3}, {"longattn": "0"}) == units.receipt(UNIT) == before


def overwrite(path, place, content):
    with path.open("r+b") as file:
        file.seek(place, os.SEEK_END if place < 0 else os.SEEK_SET)
        file.write(content)


def receive(units, **other):
    write_sealed(units.receipt_file(UNIT), read_sealed(units.receipt_file(UNIT)) | other)


def test_a_file_of_a_store_is_not_fetched_to_see_that_it_has_another_size(units):
    receipt = units.receipt(UNIT)
    units.file(UNIT).unlink()
    name = units.file(UNIT).relative_to(units.run.root).as_posix()
    for size in (receipt.num_bytes, receipt.num_bytes + 1):
        listed = replace(units, run=replace(units.run, listing={name: Entry(size, 0)}))
        if size == receipt.num_bytes:
            assert listed.receipt(UNIT) == receipt
        else:
            with pytest.raises(DamageError, match=f"it has {size} bytes, not {receipt.num_bytes}"):
                listed.receipt(UNIT)


def test_changed_bytes_of_a_page_are_seen_when_they_are_read(units):
    with pq.ParquetFile(units.file(UNIT)) as file:
        chunk = file.metadata.row_group(0).column(0)
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    overwrite(units.file(UNIT), start + chunk.total_compressed_size - 1, b"!")
    assert units.holds(UNIT)
    with pytest.raises(DamageError, match="its content does not fit its SHA-256"):
        units.check(UNIT)
    with pytest.raises(DamageError):
        list(units.read([UNIT]))


def test_a_receipt_does_not_vouch_for_the_file_that_comes_after_its_own(units, monkeypatch):
    def stopped(*_, **__):
        assert not units.receipt_file(UNIT).exists()
        raise KeyboardInterrupt

    monkeypatch.setattr("longattn.tables.write_parquet", stopped)
    with pytest.raises(KeyboardInterrupt):
        units.commit(UNIT, pa.table({"a": [9]}), {}, {})
    assert not units.has(UNIT)


def test_a_table_that_is_discarded_is_gone(units):
    units.discard()
    assert not units.folder.exists()


def test_a_plan_is_read_back_as_it_was_written(tmp_path):
    run = RunFolder(tmp_path / "run")
    assert run.plan() == []
    assert not run.holds("plan.parquet")
    one = Slice("a", 10, "2026", "books", "root", 2, 8, 6, "0" * 64)
    plan = [WorkUnit((one, Slice("b", 3, ""))), WorkUnit((Slice("c", 1, ""),))]
    run.write_plan(plan)
    assert run.holds("plan.parquet")
    assert run.plan() == plan
    assert run.plan()[0].slices[0].covers == 6
    inode = (run.root / "plan.parquet").stat().st_ino
    run.write_plan(plan)
    assert (run.root / "plan.parquet").stat().st_ino == inode
    run.write_plan(plan[1:])
    assert run.plan() == plan[1:]
    overwrite(run.root / "plan.parquet", 10, b"!")
    with pytest.raises(DamageError):
        run.plan()


def test_a_listed_file_is_the_one_that_was_written(run):
    name = "selection.parquet"
    assert run.listed(name, "select again") == run.root / name
    with pytest.raises(RunError, match="other is not there, or whoever wrote it was stopped; select again"):
        run.listed("other", "select again")
    write_text(run.root / name, "another")
    with pytest.raises(DamageError, match="its content does not fit the SHA-256 in manifest"):
        run.listed(name, "select again")
    (run.root / name).unlink()
    with pytest.raises(RunError, match="is not there, or whoever wrote it was stopped; select again"):
        run.listed(name, "select again")


def test_a_file_whose_replacement_was_stopped_is_not_damage(run):
    name = "selection.parquet"
    with contextlib.suppress(KeyboardInterrupt), run.replacing(name, "of-no-list"):
        assert run.manifest()["replacing"] == [name]
        write_text(run.root / name, "second")
        raise KeyboardInterrupt
    with pytest.raises(RunError, match=f"whoever replaced {run.root / name} was stopped; select again"):
        run.listed(name, "select again")
    with run.replacing(name) as sections:
        write_text(run.root / name, "third")
        sections["selection"] = {"kept": 1}
    assert run.listed(name, "").read_text() == "third"
    assert run.manifest()["replacing"] == []
    assert run.manifest()["selection"] == {"kept": 1}
    assert {"selection.parquet", "report.html"} == run.manifest()["files"].keys()


def test_sections_of_a_manifest_are_replaced_one_by_one(run):
    run.update_manifest(a=1, b={"c": 2})
    run.update_manifest(b={"d": 3})
    assert (run.manifest()["a"], run.manifest()["b"]) == (1, {"d": 3})
    overwrite(run.root / "manifest.json", 20, b"!!")
    with pytest.raises(DamageError):
        run.manifest()


def test_a_run_is_where_it_was_said_to_be(tmp_path):
    run = RunFolder.at(f"file://{tmp_path}")
    assert run == RunFolder(tmp_path) == pickle.loads(pickle.dumps(run))
    assert run.place == str(tmp_path)
    assert run.below("second").root == tmp_path / "second"
    assert run.entry(tmp_path / "a") is None
    with pytest.raises(ValueError, match="a Path loses a slash of an address, as in 's3:/bucket/run'"):
        RunFolder.at(Path("s3://bucket/run"))


def test_a_run_and_its_shards_are_not_held_together(run):
    with run.lock("0/2"), run.lock("1/2"):
        assert (run.root / ".lock-0-of-2").exists()
        with pytest.raises(RunError, match=f"{run.root} is in use by"), run.lock():
            pass
    with run.lock(), run.lock("manifest"), pytest.raises(RunError, match="in use by"), run.lock("0/2"):
        pass
    with run.lock(), run.lock("ledger"):
        pass


def test_who_changes_the_manifest_waits_for_who_does_so_already(run):
    waiting = threading.Thread(target=run.update_manifest, kwargs={"a": 1})
    with run.lock("manifest"):
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive()
    waiting.join()
    assert run.manifest()["a"] == 1


@pytest.mark.parametrize(
    ("part", "excluded"),
    [("run", {"0-of-2", "3-of-8"}), ("0-of-2", {"run"}), ("manifest", set()), ("ledger", set())],
)
def test_a_part_of_a_run_in_a_store_excludes_the_whole_and_the_other_way_round(part, excluded):
    others = {"run", "0-of-2", "3-of-8", "manifest", "ledger"} - {part}
    assert set(filter(_excluded_by(part), others)) == excluded
