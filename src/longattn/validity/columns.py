"""Measured columns as arrays, for formulas that run in memory."""

from collections.abc import Sequence

import numpy.typing as npt
import pyarrow as pa

from longattn.expressions import Expression, columns_of
from longattn.tables import Table


def read_columns(table: Table, units: Sequence[str], expression: Expression) -> dict[str, npt.NDArray]:
    """What an expression reads of some units of a table, in their order: [N], or [N, M] for a list column.

    An expression that reads nothing still has a value per row, so that it gets the ids.
    """
    names = list(dict.fromkeys(column.name for column in columns_of(expression))) or ["window_id"]
    rows = pa.concat_tables(list(table.read(units, names)))
    return {name: _array(rows[name].combine_chunks()) for name in names}


def _array(column: pa.Array) -> npt.NDArray:
    if not pa.types.is_list(column.type):
        return column.to_numpy(zero_copy_only=False)
    return column.flatten().to_numpy().reshape(len(column), -1)
