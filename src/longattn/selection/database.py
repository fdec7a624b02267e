"""A DuckDB database that lives as long as one selection, spills to disk and can read no file."""

import contextlib
import errno
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt
import pyarrow as pa

from longattn.errors import RunError
from longattn.tables import spilling

logger = logging.getLogger(__name__)

CHUNK_ROWS = 131_072
"""Rows that enter or leave the database at a time."""

SETTLED_TOGETHER = 2**20
"""Rows whose additions and changes may wait in memory, about."""

NO_ROOM = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT), "failed to offload")
"""What an error of DuckDB's says where a disk is full; the last means that a tenth is left, for others."""

BYTES_OF_A_WINDOW = 150
"""On disk, while a selection works; measured with 100 million (``docs/scale.md``)."""

STORE = "store"
"""The name of the database whose tables are in a file."""


@dataclass
class Database:
    """The few things that a selection asks of its database."""

    connection: Any
    """A ``duckdb.DuckDBPyConnection``; DuckDB is imported late, so its type cannot be named here."""
    unsettled: int = 0
    """Rows added or changed since all was last written to the file."""

    def run(self, query: str) -> None:
        """Execute one statement."""
        self.connection.execute(query).fetchall()

    def change(self, query: str) -> None:
        """Execute an INSERT or UPDATE of rows."""
        ((rows,),) = self.connection.execute(query).fetchall()
        self._settle(rows)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """All rows of a small result."""
        return self.connection.execute(query).fetchall()

    def arrays(self, query: str) -> dict[str, npt.NDArray[Any]]:
        """A result of numbers without NULLs, by column."""
        return self.connection.execute(query).fetchnumpy()

    def stream(self, query: str) -> Iterator[pa.Table]:
        """A large result in pieces of exactly ``CHUNK_ROWS`` rows (the last is shorter), in the query's order."""
        pending: list[pa.RecordBatch] = []
        for batch in self.connection.sql(query).to_arrow_reader(CHUNK_ROWS):
            pending.append(batch)
            while sum(part.num_rows for part in pending) >= CHUNK_ROWS:
                table = pa.Table.from_batches(pending)
                yield table.slice(0, CHUNK_ROWS).combine_chunks()
                pending = table.slice(CHUNK_ROWS).to_batches()
        if pending:
            yield pa.Table.from_batches(pending).combine_chunks()

    def put(self, table: str, query: str) -> None:
        """Insert a large result into a table in the query's order.

        Piece by piece, because an INSERT of a sorted result holds more of it in memory than the limit may allow.
        """
        ((schema,),) = self.rows("SELECT current_schema()")
        with self.connection.cursor() as writer:
            # a cursor begins where the database does
            writer.execute(f"USE {STORE}.{schema}")
            rows = 0
            for piece in self.stream(query):
                writer.register("piece", piece)
                writer.execute(f"INSERT INTO {table} SELECT * FROM piece").fetchall()
                rows += len(piece)
        self._settle(rows)

    def _settle(self, rows: int) -> None:
        """Count rows that were added or changed; where there are many, write to the file what it does not hold yet.

        Until then they are in memory, and some bytes of each (rows that fill no row group, changes) cannot leave it.
        """
        self.unsettled += rows
        if self.unsettled >= SETTLED_TOGETHER:
            self.run("CHECKPOINT")
            self.unsettled = 0

    def lend(self, name: str, data: pa.Table | pa.RecordBatchReader) -> None:
        """Let queries read Arrow data as a table called ``name``, without a copy."""
        self.connection.register(name, data)


@contextlib.contextmanager
def open_database(folder: Path, memory_limit: str, threads: int | None) -> Iterator[Database]:
    """An empty database that spills into ``folder`` beyond ``memory_limit`` and leaves nothing behind.

    Raises :class:`RunError`, also out of the ``with`` block, where there is no room on the disk or in memory.
    """
    import duckdb

    needs = f", which takes about {BYTES_OF_A_WINDOW} bytes a window there"
    with want_of_room_told(folder, memory_limit, needs), spilling(folder) as spill:
        config: dict[str, Any] = {
            "temp_directory": str(spill),
            "memory_limit": memory_limit,
            "preserve_insertion_order": True,
            # changes are written to the file when :class:`Database` says so, and not at the end
            "checkpoint_threshold": "1000TB",
            "checkpoint_on_detach": "DISABLED",
        }
        if threads is not None:
            config["threads"] = threads
        with duckdb.connect(":memory:", config=config) as connection:
            _attach(connection, spill / "rows.duckdb")
            connection.execute(f"USE {STORE}")
            # spilling goes on, but no query can open a file
            connection.execute("SET enable_external_access = false")
            yield Database(connection)


@contextlib.contextmanager
def want_of_room_told(folder: Path, memory_limit: str, needs: str = "") -> Iterator[None]:
    """Raise :class:`RunError`, which says what to do, where DuckDB can write no file or take no more memory.

    ``needs`` says how much room the database takes, where that is known.
    """
    import duckdb

    try:
        yield
    except duckdb.Error as error:
        # the rest of it is advice on settings that nobody can reach
        reason = str(error).partition("\n")[0]
        if any(sign in reason for sign in NO_ROOM):
            about = f"{folder} has no room for the database{needs}"
            raise RunError(f"{about}: {reason}; make room and give the command again") from error
        if isinstance(error, duckdb.IOException):
            raise RunError(f"{folder} cannot hold the database: {reason}") from error
        if isinstance(error, duckdb.OutOfMemoryException):
            about = f"the database may take {memory_limit} of memory and needs more, or less is free"
            raise RunError(f"{about}: {reason}; each core takes a part, so give it fewer, or free some") from error
        raise


def _attach(connection: Any, file: Path) -> None:
    """Give the connection its tables: in a file, because those in memory keep some bytes of each row there, which no
    limit can move. Nobody reads the file after a crash. On a file system without locks they are in memory.
    """
    import duckdb

    try:
        options = f"RECOVERY_MODE 'NO_WAL_WRITES', ROW_GROUP_SIZE {CHUNK_ROWS}"
        connection.execute(f"ATTACH {text(str(file))} AS {STORE} ({options})")
    except duckdb.IOException as error:
        # DuckDB locks every file that it opens, and this one is nobody else's
        if "Could not set lock" not in str(error):
            raise
        logger.warning("%s cannot be locked: some bytes of each row stay in memory, 4 GB of a billion", file.parent)
        connection.execute(f"ATTACH ':memory:' AS {STORE}")


def quoted(name: str) -> str:
    """The name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def text(value: str) -> str:
    """The value as an SQL string."""
    return "'" + value.replace("'", "''") + "'"
