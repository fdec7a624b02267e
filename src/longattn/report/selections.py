"""A selection file as a database table: what the report and the comparison of two selections ask of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from longattn.errors import RunError
from longattn.selection import SELECTION_SCHEMA
from longattn.selection.database import CHUNK_ROWS, Database, open_database
from longattn.tables import damage_told

MEMORY_LIMIT = "1GB"
"""What DuckDB may use before it spills to disk."""


@contextmanager
def reading(folder: Path) -> Iterator[Database]:
    """An empty database that spills into ``folder`` and leaves nothing there."""
    with open_database(folder, MEMORY_LIMIT, None) as database:
        yield database


def load_selection(database: Database, path: Path, name: str) -> None:
    """Fill the table ``name`` with a selection file's rows; ``score_se`` is NULL where nothing was sampled.

    Raises :class:`DamageError`, or :class:`RunError` for a file that lacks columns of a selection.
    """
    needed = [field for field in SELECTION_SCHEMA if field.name != "kept"]
    with damage_told(path), pq.ParquetFile(path, page_checksum_verification=True) as file:
        there = file.schema_arrow.names
        if missing := [field.name for field in needed if field.name not in there]:
            raise RunError(f"{path} is no selection: it has no column {', '.join(missing)}")
        schema = pa.schema(needed)
        error = "NULL::DOUBLE"
        if "score_se" in there:
            schema, error = schema.append(pa.field("score_se", pa.float64())), "score_se"
        batches = (
            pa.RecordBatch.from_arrays([batch[column] for column in schema.names], schema=schema)
            for batch in file.iter_batches(batch_size=CHUNK_ROWS, columns=schema.names)
        )
        database.lend("incoming", pa.RecordBatchReader.from_batches(schema, batches))
        columns = ", ".join(field.name for field in needed)
        database.run(f"CREATE TABLE {name} AS SELECT {columns}, {error} AS score_se FROM incoming")
