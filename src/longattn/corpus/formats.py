"""The records of one file: JSON lines, Parquet, plain text."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from longattn.corpus import files
from longattn.corpus.documents import Interpreter, Record, is_deeper
from longattn.corpus.lines import Line, Lines
from longattn.corpus.reasons import reject, sample
from longattn.corpus.streams import TRUNCATED
from longattn.records import Document, Reject, Slice
from longattn.settings import Corpus

_BOM = b"\xef\xbb\xbf"
_BLOCK_BYTES = 128 * 2**10
FREE_BYTES = 4 * 2**20
"""What any packed file may grow to, and how many rows any Parquet file may have: each is kept, if only as a reject."""
_WHOLE_BYTES = 16 * 2**20
_BATCH_BYTES = 8 * 2**20
_MAX_BATCH_ROWS = 1024
_STRINGS = (pa.string(), pa.large_string(), pa.string_view())
_BINARIES = (pa.binary(), pa.large_binary(), pa.binary_view())


def json_records(rules: Interpreter, line_counts: dict[str, int]) -> Iterator[Record | Reject]:
    """The objects of a JSON lines slice; blank lines are counted but are no records.

    Of a key that an object holds twice, the last value counts. ``line_counts`` gets the number of the slice's
    lines when the iteration ends.
    """
    part = rules.part
    lines = None
    try:
        with _open_lines(rules) as stream:
            lines = Lines(stream, part.start, part.stop, rules.corpus.max_doc_bytes)
            # map and filter, unlike a loop, keep no record alive while the caller works on its document
            yield from filter(None, map(partial(_json_record, part.file, rules.corpus), lines))
    except OSError as error:
        files.pass_on(part.file, error)
        position, line = (lines.position, lines.count + 1) if lines else (part.start, 1)
        yield reject(part.file, position, line, files.reason_of(error), str(error))
    line_counts[part.file] = lines.count if lines else 0


def _open_lines(rules: Interpreter) -> pa.NativeFile:
    if rules.kind.compression:
        return _open_compressed(rules)
    return files.open_at(rules.part.file, max(rules.part.start - 1, 0))


def _open_compressed(rules: Interpreter) -> pa.NativeFile:
    packed = rules.kind.compression
    if packed and rules.part.size == 0:
        raise OSError(f"{TRUNCATED}: the file is empty")
    max_bytes = _most(rules) if packed else None
    return files.open_stream(rules.part.file, packed, max_bytes)


def _most(rules: Interpreter) -> int:
    """Bytes that a packed file may grow to, and rows that a Parquet file may have."""
    return max(FREE_BYTES, rules.part.size * rules.corpus.max_expansion)


def _json_record(file: str, corpus: Corpus, line: Line) -> Record | Reject | None:
    bad, data = partial(reject, file, line.position, line.number), line.data
    if data is None:
        return bad("too_large", f"the line has {line.num_bytes} bytes, more than max_doc_bytes {corpus.max_doc_bytes}")
    if line.position == 0 and data.startswith(_BOM):
        del data[: len(_BOM)]
    if not data or data.isspace():
        return None
    try:
        values = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        if "memory" in error.msg:
            # nothing is known of the record
            raise MemoryError(f"{file} at position {line.position}: {error.msg}") from error
        return bad(*_why_not_json(data, f"{error.msg}{_of_one_list(line.position, data)}"))
    if not isinstance(values, dict):
        return bad(
            "not_an_object",
            f"the line is a JSON {type(values).__name__}{_of_one_list(line.position, data)}: {_beginning(data)}",
        )
    # a line with few brackets needs no walk
    if data.count(b"[") + data.count(b"{") > corpus.max_depth and is_deeper(values, corpus.max_depth):
        return bad("too_deep", f"lists and objects are nested more than max_depth {corpus.max_depth} deep")
    return Record(line.position, line.number, values)


def _why_not_json(data: bytearray, message: str) -> tuple[str, str]:
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return "invalid_utf8", f"byte {error.start} of the line is {data[error.start]:#x}: {_beginning(data)}"
    return "bad_json", f"{message}: {_beginning(data)}"


def _of_one_list(position: int, data: bytearray) -> str:
    """What to do with a file that seems to be one JSON list, on its first line."""
    seems = position == 0 and data[:80].lstrip().startswith(b"[")
    return "; of a file that is one list make one object a line (jq -c '.[]')" if seems else ""


def _beginning(data: bytearray) -> str:
    return sample(data[:80].decode(errors="replace"))


def parquet_records(rules: Interpreter) -> Iterator[Record | Reject]:
    """The rows of a Parquet slice; memory is bounded by a batch of about 8 MiB, or one row."""
    part, columns, row = rules.part, rules.columns(), 0
    try:
        with files.open_seekable(part.file) as stream:
            meta = pq.read_metadata(stream)
            row = sum(meta.row_group(group).num_rows for group in range(part.start))
            if meta.num_rows > _most(rules):
                claim = f"a file of {part.size} bytes has {meta.num_rows} rows; if that is meant, raise max_expansion"
                yield reject(part.file, row, None, "expands_too_much", claim)
                return
            groups = range(part.start, meta.num_row_groups if part.stop is None else part.stop)
            file = pq.ParquetFile(
                stream,
                metadata=meta,
                **_fetching(stream),
                page_checksum_verification=True,
                read_dictionary=_dictionary_columns(stream, meta, groups, columns),
            )
            problem = text_column_problem(file.schema_arrow, rules.corpus)
            if problem:
                yield reject(part.file, row, None, *problem)
                return
            for group in groups:
                batches = file.iter_batches(
                    batch_size=_batch_rows(meta.row_group(group)),
                    row_groups=[group],
                    columns=None if columns is None else sorted(columns),
                    use_threads=False,
                )
                for batch in batches:
                    for index in range(batch.num_rows):
                        yield _parquet_record(part, batch, index, row)
                        row += 1
    # a name in the footer that is no UTF-8 shows when it is looked at
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        files.pass_on(part.file, error)
        yield reject(part.file, row, None, "unreadable", str(error))


def text_column_problem(schema: pa.Schema, corpus: Corpus) -> tuple[str, str] | None:
    """Reason and detail if neither text nor messages can come from the column that the settings name."""
    if len(set(schema.names)) < len(schema.names):
        return "unreadable", f"two columns have the same name; there are: {', '.join(schema.names)}"
    problems = (_column_problem(schema, name, corpus) for name in corpus.content_fields)
    return next((problem for problem in problems if problem), None)


def _column_problem(schema: pa.Schema, name: str, corpus: Corpus) -> tuple[str, str] | None:
    type = _column_type(schema, name)
    if type is None:
        return "missing_text", f"no column {name!r}; there are: {', '.join(schema.names)}"
    if corpus.messages_field:
        listed = pa.types.is_list(type) or pa.types.is_large_list(type)
        return None if listed else ("bad_messages", f"the column {name!r} is of type {type}")
    if pa.types.is_dictionary(type):
        type = type.value_type
    if type not in (*_STRINGS, *_BINARIES, pa.null()):
        return "text_not_string", f"the column {name!r} is of type {type}"
    return None


def _column_type(schema: pa.Schema, name: str) -> pa.DataType | None:
    if name in schema.names:
        return schema.field(name).type
    type: pa.DataType = pa.struct(list(schema))
    for step in name.split("."):
        if not pa.types.is_struct(type) or type.get_field_index(step) < 0:
            return None
        type = type.field(step).type
    return type


def _dictionary_columns(
    stream: pa.NativeFile, meta: pq.FileMetaData, groups: range, wanted: set[str] | None
) -> list[str]:
    """Wanted columns of strings in which a value may be stored once for many rows, and must not be copied for each."""
    leaves = {index: meta.schema.column(index) for index in range(len(meta.schema.names))}
    flat = {index: leaf.path for index, leaf in leaves.items() if leaf.physical_type == "BYTE_ARRAY"}
    flat = {index: path for index, path in flat.items() if "." not in path and (wanted is None or path in wanted)}
    file = pq.ParquetFile(stream, metadata=meta, **_fetching(stream))
    found, names = set(), sorted(flat.values())
    for group in groups:
        # looking at a chunk's metadata ends the process where they are damaged (pyarrow 26.0.1), reading says so
        try:
            next(file.iter_batches(batch_size=1, row_groups=[group], columns=names, use_threads=False), None)
        except (OSError, pa.ArrowException, UnicodeDecodeError):
            break
        chunks = meta.row_group(group)
        found |= {path for index, path in flat.items() if chunks.column(index).has_dictionary_page}
    return sorted(found)


def _fetching(stream: pa.NativeFile) -> dict[str, Any]:
    """How pyarrow gets at a column of a row group; its defaults would fetch all columns at once.

    From a buffered stream it takes as much memory as the header of a page claims, up to 2 GB, before it looks whether
    that is there. A whole column of a small file is no larger than the file, and what is beyond its end is not taken.
    """
    return {"buffer_size": files.FETCH_BYTES if stream.size() > _WHOLE_BYTES else 0, "pre_buffer": False}


def _batch_rows(group: pq.RowGroupMetaData) -> int:
    row_bytes = group.total_byte_size // max(group.num_rows, 1)
    return max(1, min(_BATCH_BYTES // max(row_bytes, 1), _MAX_BATCH_ROWS))


def _parquet_record(part: Slice, batch: pa.RecordBatch, index: int, row: int) -> Record | Reject:
    bad = partial(reject, part.file, row, None)
    values: dict[str, Any] = {}
    # one cell at a time: a bad cell costs its own row, not the batch
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            values[name] = column[index].as_py()
        except UnicodeDecodeError as error:
            return bad("invalid_utf8", f"the column {name!r} is not UTF-8 at its byte {error.start}")
        except (ValueError, OverflowError) as error:
            return bad("unreadable", f"the column {name!r}: {error}")
    return Record(row, None, values)


def text_document(rules: Interpreter) -> Document | Reject:
    """A text file as one document."""
    bad = partial(reject, rules.part.file, 0, None)
    try:
        data = _whole(rules)
    except OSError as error:
        files.pass_on(rules.part.file, error)
        return bad(files.reason_of(error), str(error))
    if data is None:
        return bad("too_large", f"the file has more than max_doc_bytes {rules.corpus.max_doc_bytes}")
    try:
        return rules.text_file(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        return bad("invalid_utf8", f"byte {error.start} of the file is {data[error.start]:#x}")


def _whole(rules: Interpreter) -> bytearray | None:
    """The bytes of the file, None if there are too many."""
    data = bytearray()
    with _open_compressed(rules) as stream:
        while block := stream.read_buffer(_BLOCK_BYTES):
            data += block
            if len(data) > rules.corpus.max_doc_bytes:
                return None
    return data
