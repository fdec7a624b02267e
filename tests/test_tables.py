"""Reading tables of ours: what is damaged, and what only cannot be opened now."""

import contextlib
import os
import resource

import pyarrow as pa
import pytest

from longattn.errors import DamageError
from longattn.export.rereading import read_selection
from longattn.report.selections import load_selection, reading
from longattn.tables import read_parquet, write_parquet


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


def test_other_bytes_are_damage(table):
    table.write_bytes(b"x" * 100)
    with pytest.raises(DamageError, match="is damaged"):
        read_parquet(table)
