"""Bring the columns that a selection reads into one database table, a row per window."""

import contextlib
import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from longattn.errors import RunError
from longattn.expressions import Column, check_index
from longattn.records import Reject
from longattn.selection.database import CHUNK_ROWS, Database, quoted, text
from longattn.tables import Table

IDENTITY = {
    "doc_id": "VARCHAR",
    "source": "VARCHAR",
    "position": "BIGINT",
    "start": "BIGINT",
    "num_tokens": "INTEGER",
    "char_start": "BIGINT",
    "char_end": "BIGINT",
}
"""What is kept of the windows table as it is, whatever is scored; a window's id is made of ``doc_id`` and ``start``."""

DOCUMENT = "hash(doc_id)"
"""SQL for the 64-bit number of a document."""

SIGNATURE = Column("minhash", None, "minhash")
"""Where the MinHash signatures are."""

COPIED_TOGETHER = 512
"""So many units wait apart: each takes kilobytes in every table, however few its rows."""

Picks = Mapping[str, Mapping[str, str]]
"""By table, what is read of it: the name that a column gets in the database, and the column."""


@dataclass(frozen=True)
class Inputs:
    """The tables of a selection by name, ``windows`` first, and the units to read of them."""

    units: Sequence[str]
    tables: Mapping[str, Table | Path]

    def schema(self, name: str) -> pa.Schema:
        """Columns and types of a table, as its first unit has them."""
        table = self.tables[name]
        if isinstance(table, Table):
            return table.schema(self.units[0])
        try:
            schema = pq.read_schema(table)
        except FileNotFoundError as error:
            raise RunError(f"there is no table {name!r} at {table}; keep.tables must name Parquet files") from error
        except pa.ArrowInvalid as error:
            raise RunError(f"{table} is no Parquet file, and keep.tables must name such files: {error}") from error
        if "window_id" not in schema.names:
            raise RunError(
                f"{table} has no column 'window_id' to join its rows by; its columns are {', '.join(schema.names)}"
            )
        return schema

    def columns(self) -> list[str]:
        """Every column as ``table.column``."""
        return [f"{name}.{column}" for name in self.tables for column in self.schema(name).names]

    def check(self, column: Column) -> None:
        """Raise ``ValueError`` unless the column is there and holds numbers."""
        schema = self.schema(column.table or "")
        if column.name not in schema.names:
            raise ValueError(
                f"table {column.table!r} has no column {column.name!r}{suggestion(column.name, schema.names)}"
            )
        kind = schema.field(column.name).type
        if column.index is not None and (pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind)):
            kind = kind.value_type
        if not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
            raise ValueError(f"column {column.name!r} of table {column.table!r} holds {kind}; a score needs numbers")


def suggestion(name: str, known: Sequence[str]) -> str:
    """How an error message about an unknown name ends."""
    close = difflib.get_close_matches(name, known, 1)
    return f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(known)}"


def load(database: Database, inputs: Inputs, columns: Sequence[Column], signatures: bool, where: str | None) -> None:
    """Fill the table ``loaded``: identity, the columns as ``value_0 ...``, ``signature``, whether ``where`` holds.

    ``doc`` is the number of the row's document, ``file`` that of its file in the table ``files``. With a window whose
    ``shared`` is not above a limit, none of its document shares more than that part of the shorter one's tokens.
    The table ``suspects`` has documents that may have come twice. Raises ``ValueError`` for a column, or an element of
    a list column, that is not there.
    """
    for column in columns:
        inputs.check(column)
    if where:
        _check_condition(database, where)
    picks = _picks(inputs, columns, signatures, where)
    aligned = {name: table for name in picks if isinstance(table := inputs.tables[name], Table)}
    joined = " POSITIONAL JOIN ".join(map(quoted, aligned))
    for name in picks:
        if isinstance(path := inputs.tables[name], Path):
            _load_file(database, name, path, picks[name])
            joined += f" LEFT JOIN {quoted(name)} USING (window_id)"

    fields = {
        **IDENTITY,
        "doc": "UBIGINT",
        "file": "INTEGER",
        "shared": "FLOAT",
        **{f"value_{i}": "DOUBLE" for i in range(len(columns))},
    }
    fields |= {"signature": "UINTEGER[]"} if signatures else {}
    fields |= {"passes": "BOOLEAN", "duplicate": "BOOLEAN"}
    database.run(f"CREATE TABLE loaded ({', '.join(f'{name} {kind}' for name, kind in fields.items())})")
    values = [
        *(f"windows.{name}" for name in IDENTITY),
        DOCUMENT.replace("doc_id", "windows.doc_id"),
        FILE_NUMBER,
        SHARED,
        *(f"value_{i}{'' if c.index is None else f'[{c.index + 1}]'}" for i, c in enumerate(columns)),
        *(["signature"] if signatures else []),
        # a line break, so that a comment at the end of the condition cannot swallow what follows
        f"coalesce(CAST(({where}\n) AS BOOLEAN), false)" if where else "true",
        "false",
    ]
    readings, files = _Readings(), dict[str, int]()
    elements = [(c, c.table, f"value_{i}") for i, c in enumerate(columns) if c.index is not None and c.table in aligned]
    for chunk in _aligned_chunks(inputs.units, aligned, picks):
        chunk["windows"] = _with_file_numbers(chunk["windows"], files)
        for element, table, name in elements:
            counts = pc.call_function("list_value_length", [chunk[table][name]])
            if (count := pc.call_function("max", [counts]).as_py()) is not None:
                check_index(element, count)
        database.lend("windows", chunk["windows"])
        chunk["windows"] = chunk["windows"].append_column(SHARED, pa.array(readings.add(database)))
        for name, data in chunk.items():
            database.lend(name, data)
        with _condition_errors(where, inputs):
            if where:
                # only here does SQL refuse aggregates and window functions, which would see a chunk and not the table
                database.run(f"EXPLAIN SELECT 1 FROM {joined} WHERE ({where}\n)")
            database.change(f"INSERT INTO loaded SELECT {', '.join(values)} FROM {joined}")
    database.lend(
        "files", pa.table({"file": pa.array(files.values(), pa.int32()), "name": pa.array(files, pa.string())})
    )
    database.lend("suspects", pa.table({"doc": readings.suspects()}))


FILE_NUMBER = "_file"
"""How the column of numbers of files is called beside the columns that a condition may name."""

SHARED = "_shared"
"""The same of the column that :meth:`_Readings.add` returns."""


def _with_file_numbers(windows: pa.Table, files: dict[str, int]) -> pa.Table:
    """The rows with the number of their file, which is counted on in ``files``."""
    names = windows["file"].combine_chunks().dictionary_encode()
    numbers = [files.setdefault(name, len(files)) for name in names.dictionary.to_pylist()]
    return windows.append_column(FILE_NUMBER, pa.array(np.array(numbers, np.int32)[names.indices.to_numpy()]))


class _Readings:
    """Finds the documents that may have come twice: 4 bytes for each stretch of rows of one document.

    The rows of a document come one after another, by start. Where they do not, it is a suspect; so are, of a hundred
    million documents, two that have the same 32 bits, which concerns one in fifty.
    """

    def __init__(self) -> None:
        self._parts: list[npt.NDArray[np.uint32]] = []

    def add(self, database: Database) -> npt.NDArray[np.float32]:
        """Take in the rows that are lent as ``windows``; returns what each may share with others of its stretch."""
        rows = database.arrays(
            f"SELECT {DOCUMENT} AS doc, hash(file, position, source) AS reading, start, num_tokens FROM windows"
        )
        doc, reading, start = rows["doc"], rows["reading"], rows["start"]
        same = (doc[1:] == doc[:-1]) & (reading[1:] == reading[:-1]) & (start[1:] > start[:-1])
        begins = np.concatenate([np.ones(min(1, len(doc)), bool), ~same])
        self._parts.append((doc[begins] >> 32).astype(np.uint32))
        return _shared(begins, start, rows["num_tokens"].astype(np.int64))

    def suspects(self) -> npt.NDArray[np.uint32]:
        """The upper halves of the numbers of documents that came in several stretches."""
        seen = np.empty(sum(map(len, self._parts)), np.uint32)
        while self._parts:
            # from the end, so that a part is gone before the next one is copied
            part, rest = self._parts.pop(), sum(map(len, self._parts))
            seen[rest : rest + len(part)] = part
        seen.sort()
        return np.unique(seen[1:][seen[1:] == seen[:-1]])


def _picks(inputs: Inputs, columns: Sequence[Column], signatures: bool, where: str | None) -> Picks:
    """What to read of each table that is needed.

    A column that the condition may mention keeps its own name. Where several tables have it, the first one owns the
    plain name, and the others are read only if the condition says ``table.column``.
    """
    condition = (where or "").casefold().replace('"', "")
    owned = {"window_id"}
    picks: dict[str, dict[str, str]] = {}
    for name in inputs.tables:
        names = inputs.schema(name).names
        plain = {column: column for column in names if column.casefold() in condition and column not in owned}
        full = {column: column for column in names if f"{name}.{column}".casefold() in condition}
        full.pop("window_id", None)
        values = {f"value_{i}": column.name for i, column in enumerate(columns) if column.table == name}
        picks[name] = plain | full | values
        owned.update(names)
    picks["windows"] |= {column: column for column in ("window_id", "file", *IDENTITY)}
    if signatures:
        picks["minhash"]["signature"] = SIGNATURE.name
    return {name: picked for name, picked in picks.items() if picked}


def _load_file(database: Database, name: str, path: Path, picked: Mapping[str, str]) -> None:
    """Load a Parquet file of the user's own, which is joined by window id."""
    wanted = sorted({"window_id", *picked.values()})
    renamed = ", ".join(["window_id", *(f"{quoted(column)} AS {quoted(alias)}" for alias, column in picked.items())])
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        schema = pa.schema([file.schema_arrow.field(column) for column in wanted])
        batches = file.iter_batches(batch_size=CHUNK_ROWS, columns=wanted)
        database.lend("incoming", pa.RecordBatchReader.from_batches(schema, batches))
        database.run(f"CREATE TABLE {quoted(name)} AS SELECT {renamed} FROM incoming")
    repeated = database.rows(f"SELECT window_id FROM {quoted(name)} GROUP BY window_id HAVING count(*) > 1 LIMIT 1")
    if repeated:
        raise ValueError(f"{path} has several rows for window {repeated[0][0]!r}; it must have one per window id")


def _aligned_chunks(units: Sequence[str], tables: Mapping[str, Table], picks: Picks) -> Iterator[dict[str, pa.Table]]:
    """Some units at a time, the same windows in the same rows of every table."""
    pending: list[dict[str, pa.Table]] = []
    rows = 0
    for unit in units:
        pending.append(_read_unit(unit, tables, picks))
        rows += pending[-1]["windows"].num_rows
        if rows >= CHUNK_ROWS or unit == units[-1]:
            yield {name: pa.concat_tables([part[name] for part in pending]) for name in tables}
            pending, rows = [], 0
        elif len(pending) == COPIED_TOGETHER:
            pending = [{name: pa.concat_tables([part[name] for part in pending]).combine_chunks() for name in tables}]


def _read_unit(unit: str, tables: Mapping[str, Table], picks: Picks) -> dict[str, pa.Table]:
    """The picked columns of one unit, after a check that every table has its windows in the same order."""
    picked: dict[str, pa.Table] = {}
    window_ids = None
    for name, table in tables.items():
        data = next(table.read([unit], sorted({"window_id", *picks[name].values()})))
        if window_ids is None:
            window_ids = data["window_id"]
        if not data["window_id"].equals(window_ids):
            raise RunError(f"unit {unit}: {table.file(unit)} does not hold the windows of the unit; measure it again")
        if name == "windows" and not _made_of_document_and_start(data):
            raise RunError(
                f"unit {unit}: the ids in {table.file(unit)} are not made of document and start; measure it again"
            )
        picked[name] = pa.table({alias: data[column] for alias, column in picks[name].items()})
    return picked


def _shared(
    begins: npt.NDArray[np.bool_], start: npt.NDArray[np.int64], num_tokens: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32]:
    """At least the largest part of a window's tokens that it shares with another one of its stretch.

    What a window shares with an earlier one is no more than how far the earlier ones reach beyond its start, and what
    it shares with a later one no more than how far it reaches beyond the start of the next.
    """
    if not len(start):
        return np.empty(0, np.float32)
    stretch, firsts = np.cumsum(begins) - 1, np.flatnonzero(begins)
    stop = start + num_tokens
    # starts grow within a stretch; so that they grow over all of them as well, each begins where none before it reaches
    shift = np.concatenate([[0], np.cumsum(np.maximum.reduceat(stop, firsts) - start[firsts])])[:-1] - start[firsts]
    at = shift[stretch]
    furthest = np.maximum.accumulate(stop + at)
    into = np.zeros(len(start), np.int64)
    into[1:] = furthest[:-1] - (start + at)[1:]
    into[:-1] = np.maximum(into[:-1], (stop + at)[:-1] - (start + at)[1:])
    shortest = np.minimum.reduceat(num_tokens, firsts)[stretch]
    part = np.where(into > 0, into / np.maximum(shortest, 1), 0.0)
    # rounded to 32 bits and up
    return np.nextafter(part.astype(np.float32), np.float32(np.inf))


def _made_of_document_and_start(windows: pa.Table) -> bool:
    """Whether the windows have the ids that :class:`longattn.records.Window` gives them."""
    start = windows["start"].cast(pa.string())
    parts = [windows["doc_id"], start, pa.scalar("@")]
    return windows["window_id"].equals(pc.call_function("binary_join_element_wise", parts))


def _check_condition(database: Database, where: str) -> None:
    """Raise ``ValueError`` for a subquery, which would see the windows of one chunk and not the table."""
    ((syntax,),) = database.rows(f"SELECT json_serialize_sql({text(f'SELECT 1 WHERE ({where}{chr(10)})')})")
    if '"class":"SUBQUERY"' in syntax:
        raise ValueError(f"where must be a condition on one window's own columns, got a subquery in {where!r}")


@contextlib.contextmanager
def _condition_errors(where: str | None, inputs: Inputs) -> Iterator[None]:
    """Say what the user's condition could have been made of, where DuckDB refuses it."""
    import duckdb

    try:
        yield
    except (duckdb.ProgrammingError, duckdb.DataError, duckdb.PermissionException) as error:
        if where is None:
            raise
        reason = str(error).partition("\n")[0]
        columns = ", ".join(inputs.columns())
        raise ValueError(f"where must be an SQL condition on a window's {columns}; {where!r} gave: {reason}") from error


def mark_duplicates(database: Database) -> list[Reject]:
    """Set ``duplicate`` on every window but those of the first reading of its document, by file and position.

    Returns the readings left out, by file and position.
    """
    # almost no document is a duplicate, so whole-table work is done on numbers and exact work on the suspects alone
    suspects = "loaded.doc >> 32 IN (SELECT CAST(doc AS UBIGINT) FROM suspects)"
    database.run(f"""
        CREATE TABLE repeated AS
        SELECT * FROM (
            SELECT loaded.rowid AS row, doc_id, name AS file, position,
                first_value(name) OVER readings AS first_file,
                first_value(position) OVER readings AS first_position,
                dense_rank() OVER readings AS reading,
                row_number() OVER (PARTITION BY doc_id, start ORDER BY name, position, source) AS copy
            FROM loaded JOIN files USING (file)
            WHERE {suspects}
            WINDOW readings AS (PARTITION BY doc_id ORDER BY name, position, source)
        )
        WHERE reading > 1 OR copy > 1
    """)
    # what the rows of several stretches share was not looked at; and two ids of one number become two numbers
    database.change(f"UPDATE loaded SET shared = 'infinity' WHERE {suspects}")
    database.change(f"""
        UPDATE loaded SET doc = hash(doc_id, 'again') WHERE doc IN (
            SELECT doc FROM loaded WHERE {suspects} GROUP BY doc HAVING count(DISTINCT doc_id) > 1
        )
    """)
    database.change("UPDATE loaded SET duplicate = true WHERE rowid IN (SELECT row FROM repeated)")
    return [
        Reject(
            file, position, None, "duplicate_id", f"document id {doc_id!r} was read before, at {first}:{first_position}"
        )
        for doc_id, file, position, first, first_position in database.rows("""
            SELECT DISTINCT doc_id, file, position, first_file, first_position FROM repeated
            ORDER BY file, position, doc_id
        """)
    ]
