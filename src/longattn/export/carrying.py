"""How fields of the input travel into the export: their names, and one column type for all files.

A field that is a scalar of one kind in every record keeps its type; integers among floats become floats. Any
other field becomes a column of JSON texts, marked so in the Parquet schema: strings in it are quoted, so that
``"5"`` and ``5`` stay apart. JSON lines need none of this and keep every value as it was.
"""

import base64
from collections.abc import Iterable, Mapping
from typing import Any

import orjson
import pyarrow as pa

PREFIX = "input_"
JSON_TEXT = {b"encoding": b"json"}
"""Metadata of a column that holds JSON texts."""

_EXACT_FLOAT = 2**53
_INT64 = range(-(2**63), 2**63)
_TYPES = {
    frozenset({"bool"}): pa.bool_(),
    frozenset({"integer"}): pa.int64(),
    frozenset({"long integer"}): pa.int64(),
    frozenset({"integer", "long integer"}): pa.int64(),
    frozenset({"float"}): pa.float64(),
    frozenset({"integer", "float"}): pa.float64(),
    frozenset({"string"}): pa.string(),
    frozenset(): pa.string(),
}
"""Column type by the kinds of value seen, nulls aside; other mixtures are JSON texts."""


def carried_name(name: str, taken: Iterable[str]) -> str:
    """The column of an input field: its own name, or ``input_NAME`` where the export has such a column.

    Names that begin with ``input_`` get another one too, so that no two fields can meet.

    >>> [carried_name(name, ["score"]) for name in ("year", "score", "input_score")]
    ['year', 'input_score', 'input_input_score']
    """
    return PREFIX + name if name in taken or name.startswith(PREFIX) else name


def carried_schema(records: Iterable[Mapping[str, Any]]) -> list[pa.Field]:
    """A Parquet column for every field of these records, sorted by name; their order is of no consequence."""
    kinds: dict[str, set[str]] = {}
    for record in records:
        for name, value in record.items():
            seen = kinds.setdefault(name, set())
            if value is not None:
                seen.add(_kind(value))
    return [_field(name, frozenset(seen)) for name, seen in sorted(kinds.items())]


def column_value(value: Any, field: pa.Field) -> Any:
    """The value as its column holds it."""
    if value is None:
        return None
    if field.metadata == JSON_TEXT:
        return to_json(value).decode()
    return _scalar(value) if field.type == pa.string() else value


def to_json(value: Any) -> bytes:
    """The value as JSON: dates as ISO 8601, bytes as base64, infinities as null, others as their text."""
    return orjson.dumps(value, default=_other, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS)


def _field(name: str, kinds: frozenset[str]) -> pa.Field:
    if kinds in _TYPES:
        return pa.field(name, _TYPES[kinds])
    return pa.field(name, pa.string(), metadata=JSON_TEXT)


def _kind(value: Any) -> str:
    match _scalar(value):
        case bool():
            return "bool"
        case int(number):
            if abs(number) <= _EXACT_FLOAT:
                return "integer"
            return "long integer" if number in _INT64 else "huge integer"
        case float():
            return "float"
        case str():
            return "string"
        case _:
            return "structure"


def _scalar(value: Any) -> Any:
    """Bytes, dates, decimals and the like as text; JSON's own types as they are."""
    if isinstance(value, (bool, int, float, str, dict, list, tuple)):
        return value
    return orjson.loads(to_json(value))


def _other(value: Any) -> str:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)
