"""Documents whose id was read before, found among any number of them in memory that does not grow with it."""

import itertools
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from longattn.selection.database import Database, open_database
from longattn.tables import Table

ROWS_AT_ONCE = 131_072
"""Documents whose ids are looked at by one query, at least."""

COPIED_TOGETHER = 512
"""So many tables wait apart: each takes kilobytes, however few its rows."""

HASHES_AT_ONCE = 2**20
"""Hashes in memory, 8 MiB; more of them go to disk, sorted."""

PARTS = 256
"""Ranges of equal width that the hashes on disk are looked at in, one after another."""

_MEMORY = "1GB"
_SCHEMA = pa.schema(
    {"doc_id": pa.string(), "file": pa.string(), "line": pa.int64(), "position": pa.int64()}
    | {"status": pa.string(), "first": pa.string()}
)


def double_ids(documents: Table, units: Sequence[str]) -> pa.Table:
    """The documents of these units whose id an earlier one has, earlier by file and position, in that order.

    Columns ``doc_id, file, line, position, status`` and ``first``, the place of the earlier one. Almost no id is
    double: one reading keeps hashes, 8 bytes a document, on disk where they are many, and another what may be double.
    """
    root = documents.run.root
    # a run that may only be read can be verified
    folder = root if os.access(root, os.W_OK) else Path(tempfile.gettempdir())
    with Hashes(folder) as hashes:
        _add_all(hashes, documents, units)
        doubled = filter(len, hashes.doubled())
        first = next(doubled, None)
        if first is None:
            return _SCHEMA.empty_table()
        with open_database(folder, _MEMORY, None) as database:
            return _look_closer(database, documents, units, itertools.chain([first], doubled))


def _add_all(hashes: "Hashes", documents: Table, units: Sequence[str]) -> None:
    # an import that --help can do without
    import duckdb

    with duckdb.connect() as connection:
        for rows in _accepted(documents, units, ["doc_id"]):
            connection.register("accepted", rows)
            found = connection.execute("SELECT hash(doc_id) AS hash FROM accepted").fetchnumpy()
            hashes.add(np.asarray(found["hash"], np.uint64))


def _look_closer(
    database: Database, documents: Table, units: Sequence[str], doubled: Iterable[npt.NDArray[np.uint64]]
) -> pa.Table:
    """Those among the documents with these hashes whose ids are equal, too."""
    database.run("CREATE TABLE doubled (hash UBIGINT)")
    for hashes in doubled:
        database.lend("found", pa.table({"hash": hashes}))
        database.change("INSERT INTO doubled SELECT hash FROM found")
    database.run("CREATE TABLE documents (doc_id VARCHAR, file VARCHAR, line BIGINT, position BIGINT, status VARCHAR)")
    for rows in _accepted(documents, units, ["doc_id", "file", "line", "position"]):
        database.lend("accepted", rows)
        database.change("""
            INSERT INTO documents BY NAME SELECT * FROM accepted WHERE hash(doc_id) IN (SELECT hash FROM doubled)
        """)
    found = database.stream("""
        WITH firsts AS (
            SELECT doc_id, min({'file': file, 'position': position}) AS place FROM documents GROUP BY doc_id
        )
        SELECT documents.*, place.file || ':' || place.position AS first
        FROM documents JOIN firsts USING (doc_id)
        WHERE {'file': file, 'position': position} <> place
        ORDER BY file, position
    """)
    return pa.concat_tables([_SCHEMA.empty_table(), *(piece.cast(_SCHEMA) for piece in found)])


class Hashes:
    """Hashes of which equal ones are looked for; many of them are on disk, in sorted runs."""

    def __init__(self, folder: Path) -> None:
        """``folder`` holds a file without a name where the hashes are more than :data:`HASHES_AT_ONCE`."""
        self._folder = folder
        self._file: IO[bytes] | None = None
        # memory that is not written is not taken
        self._pending = np.empty(HASHES_AT_ONCE, np.uint64)
        self._count = 0
        self._runs: list[list[int]] = []
        """Where each part of each run begins in the file, and its end."""

    def __enter__(self) -> "Hashes":
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, hashes: npt.NDArray[np.uint64]) -> None:
        """Take some more. Raises ``OSError`` where the disk does not take them."""
        while len(hashes):
            now, hashes = np.split(hashes, [len(self._pending) - self._count])
            self._pending[self._count : self._count + len(now)] = now
            self._count += len(now)
            if self._count == len(self._pending):
                self._put_away()

    def doubled(self) -> Iterator[npt.NDArray[np.uint64]]:
        """Those that were added more than once, each once, in ascending order and in parts."""
        if self._file is None:
            yield _doubled(self._pending[: self._count])
            return
        self._put_away()
        for part in range(PARTS):
            yield _doubled(np.concatenate([_read(self._file, run[part], run[part + 1]) for run in self._runs]))

    def _put_away(self) -> None:
        run = self._pending[: self._count]
        run.sort()
        borders = np.arange(PARTS, dtype=np.uint64) * np.uint64(2**64 // PARTS)
        begin = self._runs[-1][-1] if self._runs else 0
        self._runs.append([begin + at for at in (*np.searchsorted(run, borders).tolist(), len(run))])
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115, closed by __exit__
            self._file.write(run.data)
        except OSError as error:
            # which disk it was, a write does not say
            raise OSError(error.errno, error.strerror or "cannot be written to", str(self._folder)) from error
        self._count = 0


def _read(file: IO[bytes], begin: int, end: int) -> npt.NDArray[np.uint64]:
    file.seek(8 * begin)
    return np.frombuffer(file.read(8 * (end - begin)), np.uint64)


def _doubled(hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    hashes.sort()
    return np.unique(hashes[1:][hashes[1:] == hashes[:-1]])


def _accepted(documents: Table, units: Sequence[str], columns: Iterable[str]) -> Iterator[pa.Table]:
    """The rows that became documents, those of small units in one table: a query takes a millisecond or two, whatever
    it reads.
    """
    for rows in _together(documents.read(units, list(dict.fromkeys([*columns, "status"])))):
        yield rows.filter(pc.field("status") != "rejected")


def _together(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    pending: list[pa.Table] = []
    rows = 0
    for table in tables:
        pending.append(table)
        rows += table.num_rows
        if rows >= ROWS_AT_ONCE:
            yield pa.concat_tables(pending)
            pending, rows = [], 0
        elif len(pending) == COPIED_TOGETHER:
            pending = [pa.concat_tables(pending).combine_chunks()]
    if pending:
        yield pa.concat_tables(pending)
