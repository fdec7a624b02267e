"""Windows as Parquet: row groups by bytes, page index, checksums, and chunks that deduplicate on the hub."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from longattn.export.base import Row, RowFormat
from longattn.export.carrying import column_value


@dataclass(frozen=True)
class Parquet(RowFormat):
    """Parquet with zstd; each batch is one row group.

    Pages are cut by content, so that a second push of a changed selection uploads only what is new.
    """

    suffix: ClassVar[str] = ".parquet"
    typed: ClassVar[bool] = True

    def write_file(self, file: BinaryIO, schema: pa.Schema, batches: Iterable[Sequence[Row]]) -> None:
        """Write all rows; values of carried fields are brought to their column's type."""
        with pq.ParquetWriter(
            file,
            schema,
            compression="zstd",
            write_page_checksum=True,
            write_page_index=True,
            use_content_defined_chunking=True,
        ) as writer:
            for rows in batches:
                writer.write_table(as_table(rows, schema), row_group_size=max(1, len(rows)))


def as_table(rows: Sequence[Row], schema: pa.Schema) -> pa.Table:
    """Rows as columns of these types; a row may lack a carried field."""
    return pa.Table.from_arrays([_column(rows, field) for field in schema], schema=schema)


def _column(rows: Sequence[Row], field: pa.Field) -> pa.Array:
    values: list[Any] = [column_value(row.get(field.name), field) for row in rows]
    return pa.array(values, field.type)
