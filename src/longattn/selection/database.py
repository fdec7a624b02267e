"""A DuckDB database that lives as long as one selection, spills to disk and can read no file."""

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt
import pyarrow as pa

from longattn.tables import SPILL_PREFIX, held

CHUNK_ROWS = 131_072
"""Rows that enter or leave the database at a time."""


@dataclass(frozen=True)
class Database:
    """The few things that a selection asks of its database."""

    connection: Any
    """A ``duckdb.DuckDBPyConnection``; DuckDB is imported late, so its type cannot be named here."""

    def run(self, query: str) -> None:
        """Execute one statement."""
        self.connection.execute(query).fetchall()

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
            for piece in self.stream(query):
                writer.register("piece", piece)
                writer.execute(f"INSERT INTO {schema}.{table} SELECT * FROM piece").fetchall()

    def lend(self, name: str, data: pa.Table | pa.RecordBatchReader) -> None:
        """Let queries read Arrow data as a table called ``name``, without a copy."""
        self.connection.register(name, data)


@contextlib.contextmanager
def open_database(folder: Path, memory_limit: str, threads: int | None) -> Iterator[Database]:
    """An empty database that spills into ``folder`` beyond ``memory_limit`` and leaves nothing behind."""
    import duckdb

    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=SPILL_PREFIX) as spill, held(Path(spill)):
        config: dict[str, Any] = {
            "temp_directory": spill,
            "memory_limit": memory_limit,
            "preserve_insertion_order": True,
            # a checkpoint after an update would rewrite whole tables that nobody is to read again
            "checkpoint_threshold": "1000TB",
        }
        if threads is not None:
            config["threads"] = threads
        with duckdb.connect(":memory:", config=config) as connection:
            # spilling goes on, but no query can open a file
            connection.execute("SET enable_external_access = false")
            yield Database(connection)


def quoted(name: str) -> str:
    """The name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def text(value: str) -> str:
    """The value as an SQL string."""
    return "'" + value.replace("'", "''") + "'"
