"""Bring the columns that a selection reads into one database table, a row per window."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from longattn.errors import RunError
from longattn.expressions import Column
from longattn.records import Reject
from longattn.selection.database import CHUNK_ROWS, Database, quoted
from longattn.tables import Table

IDENTITY = {
    "window_id": "VARCHAR",
    "doc_id": "VARCHAR",
    "source": "VARCHAR",
    "file": "VARCHAR",
    "position": "BIGINT",
    "start": "BIGINT",
    "num_tokens": "INTEGER",
    "char_start": "BIGINT",
    "char_end": "BIGINT",
}
"""What is kept of the windows table, whatever is scored."""


@dataclass(frozen=True)
class Inputs:
    """The tables of a selection by name, ``windows`` first, and the units to read of them."""

    units: Sequence[str]
    tables: Mapping[str, Table | Path]

    def schema(self, name: str) -> pa.Schema:
        """Columns and types of a table, as its first unit has them."""
        table = self.tables[name]
        path = table if isinstance(table, Path) else table.file(self.units[0])
        try:
            return pq.read_schema(path)
        except FileNotFoundError as error:
            raise RunError(f"there is no table {name!r} at {path}; measure it before selecting") from error

    def columns(self) -> list[str]:
        """Every column as ``table.column``."""
        return [f"{name}.{column}" for name in self.tables for column in self.schema(name).names]


def load(database: Database, inputs: Inputs, columns: Sequence[Column], where: str | None) -> None:
    """Fill the table ``loaded``: identity, the referenced columns as ``value_0 ...``, and whether ``where`` holds.

    ``columns`` are named with their tables; one whose type is a list without an index is loaded as a list.
    """
    picks = {name: _picks(inputs, name, columns, where) for name in inputs.tables}
    for name, table in inputs.tables.items():
        if isinstance(table, Path):
            _load_file(database, name, table, picks[name])
    types = ["UINTEGER[]" if _is_signature(inputs, column) else "DOUBLE" for column in columns]
    fields = [f"{name} {kind}" for name, kind in IDENTITY.items()]
    fields += [f"value_{i} {kind}" for i, kind in enumerate(types)]
    database.run(f"CREATE TABLE loaded ({', '.join(fields)}, passes BOOLEAN, duplicate BOOLEAN)")
    insert = _insert_statement(inputs, columns, types, where)
    aligned = {name: table for name, table in inputs.tables.items() if isinstance(table, Table)}
    for chunk in _aligned_chunks(inputs.units, aligned, picks):
        for name, data in chunk.items():
            database.lend(name, data)
        _run_condition(database, insert, where, inputs)


def _is_signature(inputs: Inputs, column: Column) -> bool:
    """Whether the whole of a list column is meant."""
    kind = inputs.schema(column.table or "").field(column.name).type
    return column.index is None and (pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind))


def _picks(inputs: Inputs, name: str, columns: Sequence[Column], where: str | None) -> dict[str, str]:
    """What to read of a table: column by the name that it gets in the database.

    A column that the condition may mention keeps its own name. Where several tables have it, the first one owns the
    plain name, and the others are read only if the condition says ``table.column``.
    """
    picks = {column: column for column in IDENTITY} if name == "windows" else {}
    names = list(inputs.tables)
    earlier = {c for other in names[: names.index(name)] for c in inputs.schema(other).names}
    condition = (where or "").casefold()
    for column in inputs.schema(name).names:
        if column == "window_id":
            continue
        qualified = f"{name}.{column}".casefold() in condition.replace('"', "")
        if qualified or (column.casefold() in condition and column not in earlier):
            picks[column] = column
    return picks | {f"value_{i}": c.name for i, c in enumerate(columns) if c.table == name}


def _load_file(database: Database, name: str, path: Path, picks: Mapping[str, str]) -> None:
    """Load a Parquet file of the user's own, which is joined by window id."""
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        wanted = sorted({"window_id", *picks.values()})
        reader = pa.RecordBatchReader.from_batches(
            pa.schema([file.schema_arrow.field(column) for column in wanted]),
            file.iter_batches(batch_size=CHUNK_ROWS, columns=wanted),
        )
        database.lend("incoming", reader)
        renamed = ", ".join(f"{quoted(column)} AS {quoted(alias)}" for alias, column in picks.items())
        database.run(
            f"CREATE TABLE {quoted(name)} AS SELECT window_id{', ' if renamed else ''}{renamed} FROM incoming"
        )
    repeated = database.rows(f"SELECT window_id FROM {quoted(name)} GROUP BY ALL HAVING count(*) > 1 LIMIT 1")
    if repeated:
        raise ValueError(
            f"{path} has several rows for window {repeated[0][0]!r}; it must have one per window id"
        )


def _insert_statement(
    inputs: Inputs, columns: Sequence[Column], types: Sequence[str], where: str | None
) -> str:
    joined = "windows"
    for name, table in inputs.tables.items():
        if name != "windows":
            by_id = isinstance(table, Path)
            joined += (
                f" LEFT JOIN {quoted(name)} USING (window_id)"
                if by_id
                else f" POSITIONAL JOIN {quoted(name)}"
            )
    values = [
        f"CAST({quoted(column.table or '')}.value_{i}{'' if column.index is None else f'[{column.index + 1}]'} AS {kind})"
        for i, (column, kind) in enumerate(zip(columns, types, strict=True))
    ]
    identity = [f"windows.{name}" for name in IDENTITY]
    # the condition ends on its own line, so that a comment in it cannot swallow what follows
    passes = "true" if where is None else f"coalesce(CAST((\n{where}\n) AS BOOLEAN), false)"
    return f"INSERT INTO loaded SELECT {', '.join([*identity, *values, passes, 'false'])} FROM {joined}"


def _aligned_chunks(
    units: Sequence[str], tables: Mapping[str, Table], picks: Mapping[str, Mapping[str, str]]
) -> Iterator[dict[str, pa.Table]]:
    """Some units at a time, the same windows in the same rows of every table."""
    pending: list[dict[str, pa.Table]] = []
    for unit in units:
        pending.append(_read_unit(unit, tables, picks))
        if sum(part["windows"].num_rows for part in pending) >= CHUNK_ROWS or unit == units[-1]:
            yield {name: pa.concat_tables([part[name] for part in pending]) for name in tables}
            pending = []


def _read_unit(
    unit: str, tables: Mapping[str, Table], picks: Mapping[str, Mapping[str, str]]
) -> dict[str, pa.Table]:
    """The picked columns of one unit, after a check that every table has its windows in the same order."""
    found: dict[str, pa.Table] = {}
    window_ids = None
    for name, table in tables.items():
        if table.receipt(unit) is None:
            raise RunError(
                f"unit {unit} has no table {name!r} at {table.file(unit)}; measure it before selecting"
            )
        data = next(table.read([unit], sorted({"window_id", *picks[name].values()})))
        window_ids = data["window_id"] if window_ids is None else window_ids
        if not data["window_id"].equals(window_ids):
            raise RunError(
                f"unit {unit}: the windows of table {name!r} are not those of the windows table; measure it again"
            )
        aliases = picks[name] or {"window_id": "window_id"}
        found[name] = pa.table({alias: data[column] for alias, column in aliases.items()})
    return found


def _run_condition(database: Database, insert: str, where: str | None, inputs: Inputs) -> None:
    import duckdb

    try:
        database.run(insert)
    except (duckdb.ProgrammingError, duckdb.DataError) as error:
        if where is None:
            raise
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"where must be an SQL condition over {', '.join(inputs.columns())}; {where!r} gave: {reason}"
        ) from error


def mark_duplicates(database: Database) -> list[Reject]:
    """Set ``duplicate`` on every window but those of the first reading of its document, by file and position.

    Returns the readings left out, by file and position.
    """
    # almost no document is a duplicate, so whole-table work is done on hashes and exact work on the suspects alone
    suspects = """
        SELECT hash(doc_id) AS doc FROM loaded
        GROUP BY doc HAVING min(hash(file, position, source)) <> max(hash(file, position, source))
        UNION
        SELECT doc FROM (SELECT hash(doc_id) AS doc, count(*) AS copies FROM loaded GROUP BY doc, start)
        WHERE copies > 1
    """
    database.run(f"""
        CREATE TABLE repeated AS
        SELECT * FROM (
            SELECT rowid AS row, doc_id, file, position,
                first_value(file) OVER readings AS first_file,
                first_value(position) OVER readings AS first_position,
                dense_rank() OVER readings AS reading,
                row_number() OVER (PARTITION BY window_id ORDER BY file, position, source) AS copy
            FROM loaded
            WHERE hash(doc_id) IN ({suspects})
            WINDOW readings AS (PARTITION BY doc_id ORDER BY file, position, source)
        )
        WHERE reading > 1 OR copy > 1
    """)
    database.run("UPDATE loaded SET duplicate = true WHERE rowid IN (SELECT row FROM repeated)")
    return [
        Reject(file, position, None, "duplicate_id", f"document id {doc_id!r} was read before, at {first}:{first_position}")
        for doc_id, file, position, first, first_position in database.rows("""
            SELECT DISTINCT doc_id, file, position, first_file, first_position FROM repeated
            ORDER BY file, position, doc_id
        """)
    ]
