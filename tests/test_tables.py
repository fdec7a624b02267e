"""Reading tables of ours: what is damaged, and what only cannot be opened now."""

import contextlib
import errno
import fcntl
import os
import resource
import secrets
import stat
import tempfile
import threading
from pathlib import Path

import pyarrow as pa
import pytest

from longattn.errors import DamageError
from longattn.export.rereading import read_selection
from longattn.report.selections import load_selection, reading
from longattn.tables import RunFolder, durable, read_parquet, spilling, sweep, write_parquet, write_text


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
