"""Documents with one id, among few and among more than memory is to hold the hashes of."""

import errno
import itertools
import random
import re
import tempfile
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from longattn import double_ids
from longattn.double_ids import Hashes
from longattn.measuring import DOCUMENTS
from longattn.selection.database import open_database
from longattn.tables import RunFolder


@pytest.fixture
def documents(tmp_path):
    return RunFolder(tmp_path / "run").table("documents", {"length": 64})


def enter(documents, *units):
    """Units by number, each of rows ``(doc_id, status)``."""
    for number, rows in enumerate(units):
        given = [
            {"doc_id": doc_id, "file": f"file-{number}", "position": position, "line": position, "status": status}
            for position, (doc_id, status) in enumerate(rows)
        ]
        documents.commit(f"unit-{number}", pa.Table.from_pylist(given, DOCUMENTS), {}, {})
    return [f"unit-{number}" for number in range(len(units))]


def expected(*units):
    """The same by going through all rows, as a dictionary tells it."""
    seen, found = {}, []
    for number, rows in enumerate(units):
        for position, (doc_id, status) in enumerate(rows):
            place = f"file-{number}:{position}"
            if status != "rejected" and seen.setdefault(doc_id, place) != place:
                row = {"doc_id": doc_id, "file": f"file-{number}", "line": position, "position": position}
                found.append(row | {"status": status, "first": seen[doc_id]})
    return found


@pytest.mark.parametrize("at_once", [1, 7, 64, 2**22])
def test_the_first_of_an_id_stays_however_few_hashes_memory_takes(documents, monkeypatch, at_once):
    monkeypatch.setattr(double_ids, "HASHES_AT_ONCE", at_once)
    rng = random.Random(at_once)
    units = [
        [
            (f"id {rng.randrange(90)}", rng.choice(["windowed", "too_short", "rejected"]))
            for _ in range(rng.randrange(20))
        ]
        for _ in range(9)
    ]
    assert double_ids.double_ids(documents, enter(documents, *units)).to_pylist() == expected(*units)
    assert len(expected(*units)) > 5


def test_no_id_is_double_and_every_id_is_the_same(documents):
    apart = [[(f"{number}-{place}", "windowed") for place in range(5)] for number in range(3)]
    found = double_ids.double_ids(documents, enter(documents, *apart))
    assert (found.num_rows, found.schema) == (0, double_ids._SCHEMA)
    same = [[("same", "windowed")] * 50 for _ in range(3)]
    found = double_ids.double_ids(documents, enter(documents, *same))
    assert found.to_pylist() == expected(*same)
    assert found.schema == double_ids._SCHEMA
    assert list(documents.run.root.glob("*.tmp*")) == []


@pytest.mark.parametrize(("rows_at_once", "copied_together"), [(131_072, 512), (131_072, 2), (3, 512), (4, 2), (1, 2)])
def test_tables_are_read_together(documents, monkeypatch, rows_at_once, copied_together):
    monkeypatch.setattr(double_ids, "ROWS_AT_ONCE", rows_at_once)
    monkeypatch.setattr(double_ids, "COPIED_TOGETHER", copied_together)
    rows = [[(f"only {number}", "windowed"), (f"id {number % 3}", "windowed")] for number in range(7)]
    units = enter(documents, *rows)
    assert double_ids.double_ids(documents, units)["file"].to_pylist() == ["file-3", "file-4", "file-5", "file-6"]
    tables = list(double_ids._together(documents.read(units, ["doc_id"])))
    assert sum(table.num_rows for table in tables) == 14
    assert all(table.num_rows >= rows_at_once for table in tables[:-1])
    assert all(table.num_rows < rows_at_once + 2 for table in tables)


@pytest.mark.parametrize("at_once", [3, 16, 1000])
@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 32, 400])
def test_double_hashes_are_those_that_a_counter_finds(tmp_path, monkeypatch, at_once, count):
    """Also the smallest and the largest, and those beside the borders of parts."""
    monkeypatch.setattr(double_ids, "HASHES_AT_ONCE", at_once)
    rng = np.random.default_rng(count)
    width = 2**64 // double_ids.PARTS
    some = [0, 1, width - 1, width, width + 1, 2**64 - 1, *rng.integers(2**64, size=100, dtype=np.uint64).tolist()]
    given = np.array([some[i] for i in rng.integers(len(some), size=count)], np.uint64)
    with Hashes(tmp_path) as hashes:
        for part in np.array_split(given, 5):
            hashes.add(part)
        found = list(itertools.chain.from_iterable(part.tolist() for part in hashes.doubled()))
    assert found == sorted(value for value, times in Counter(given.tolist()).items() if times > 1)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    class Full:
        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self):
            pass

    monkeypatch.setattr(tempfile, "TemporaryFile", lambda dir: Full())
    monkeypatch.setattr(double_ids, "HASHES_AT_ONCE", 2)
    with Hashes(tmp_path) as hashes, pytest.raises(OSError, match=re.escape(str(tmp_path))) as caught:
        hashes.add(np.arange(3, dtype=np.uint64))
    assert caught.value.errno == errno.ENOSPC


def test_a_run_that_may_only_be_read_takes_the_systems_folder(documents, tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(elsewhere))
    monkeypatch.setattr("os.access", lambda path, mode: False)
    used = []

    def opened(folder, *rest):
        used.append(folder)
        return open_database(folder, *rest)

    monkeypatch.setattr(double_ids, "open_database", opened)
    same = [("a", "windowed"), ("a", "windowed")]
    assert double_ids.double_ids(documents, enter(documents, same)).to_pylist() == expected(same)
    assert used == [elsewhere]
    assert list(elsewhere.iterdir()) == []
