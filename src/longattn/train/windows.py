"""The windows of an export as token ids, mapped into memory and never read as a whole."""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import json as arrow_json

from longattn.errors import RunError
from longattn.export.summary import FILE_NAME
from longattn.models.cache import cached_folder, file_digest
from longattn.settings import fingerprint
from longattn.tables import durable

Row = dict[str, npt.NDArray[np.int32]]
"""``input_ids`` and, where the export has them, ``labels``, -100 where nothing is learned, and ``boundaries``: the
first token of each document. Files of one's own may have ``position_ids`` in their place."""

_COLUMNS = ("input_ids", "labels", "boundaries", "position_ids")
_MAPPED, _CONVERTED = ".arrow", (".parquet", ".jsonl", ".jsonl.zst")
_KIND = pa.list_(pa.int32())
_ROWS = 64
_BLOCK_BYTES = 64 * 2**20
_VERSION = 2
"""Part of the name in the cache; a change of what is written needs a new number."""


@dataclass(frozen=True, eq=False)
class Windows(Sequence[Row]):
    """Rows of token ids in memory-mapped files."""

    name: str
    """Where they were read from."""
    table: pa.Table = field(repr=False)
    hash: str
    """Content hash of the files, 16 hexadecimal digits."""
    tokenizer: str | None
    """Content hash of the tokenizer that made the ids; None where the export does not say."""
    lengths: npt.NDArray[np.int64] = field(repr=False)
    """Tokens of each window."""

    @property
    def has_documents(self) -> bool:
        """Whether rows say where their documents begin."""
        return not {"boundaries", "position_ids"}.isdisjoint(self.table.column_names)

    def __len__(self) -> int:
        return len(self.lengths)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> "Sequence[Row]": ...
    def __getitem__(self, index: int | slice) -> "Row | Sequence[Row]":
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"window {index} of {len(self)}")
        columns = zip(self.table.column_names, self.table.columns, strict=True)
        return {name: column[index % len(self)].values.to_numpy() for name, column in columns}

    def highest_id(self) -> int:
        """The highest token id of all windows, which takes a reading of all of them."""
        return max(int(chunk.values.to_numpy().max()) for chunk in self.table["input_ids"].chunks if len(chunk))


def read_windows(place: str | Path) -> Windows:
    """The windows of an export, of the run that it is part of, or of Parquet or JSONL files with ``input_ids``.

    An export of the format ``hf`` is mapped into memory where it lies; others are written once, as such a file, into
    the cache. Raises ``FileNotFoundError``, and :class:`RunError` for an export that was changed since it was written
    or has no token ids.
    """
    folder = Path(place).expanduser()
    if not folder.exists():
        raise FileNotFoundError(f"there is no export {place}")
    if (folder / "export" / FILE_NAME).exists():
        folder = folder / "export"
    summary = json.loads((folder / FILE_NAME).read_text()) if (folder / FILE_NAME).exists() else {}
    paths = _paths(folder, summary)
    digests = {path: file_digest(path) for path in paths}
    listed = {folder / file["name"]: file["sha256"] for file in summary.get("files", ())}
    if changed := [path for path in paths if digests[path] != listed.get(path, digests[path])]:
        raise RunError(f"{changed[0]} is no longer the file that {folder / FILE_NAME} lists; export again")
    hash = fingerprint(list(digests.values()))
    if paths[0].suffix != _MAPPED:
        paths = [cached_folder(f"windows/{hash}-{_VERSION}", partial(_convert, paths)) / "windows.arrow"]
    table = pa.concat_tables(_map(path) for path in paths)
    # a row that is null has as many tokens as an empty one
    lengths = np.concatenate([np.diff(chunk.offsets.to_numpy()) for chunk in table["input_ids"].chunks])
    if not len(lengths) or lengths.min() < 2:
        raise RunError(f"{folder} has {len(lengths)} windows, and each must have two tokens or more")
    return Windows(str(place), table, hash, summary.get("tokenizer"), lengths.astype(np.int64))


def document_starts(row: Mapping[str, npt.NDArray[np.integer[Any]]]) -> list[int]:
    """The first token of each document of a row, from ``boundaries`` or from where ``position_ids`` begin anew.

    Raises :class:`RunError` for a row that has neither, or in which they are none.

    >>> document_starts({"input_ids": np.arange(5), "position_ids": np.array([0, 1, 2, 0, 1])})
    [0, 3]
    """
    if "boundaries" in row:
        starts = row["boundaries"].astype(np.int64)
    elif "position_ids" in row:
        places = row["position_ids"].astype(np.int64)
        starts = np.flatnonzero(np.diff(places, prepend=places[0]) != 1)
    else:
        raise RunError("documents are to be kept apart, and a window has neither boundaries nor position_ids")
    if not len(starts) or starts[0] != 0 or (np.diff(starts) < 1).any() or starts[-1] >= len(row["input_ids"]):
        raise RunError(
            f"boundaries must rise from 0 and stay below the window's {len(row['input_ids'])} tokens, got {starts}"
        )
    return starts.tolist()


def _paths(folder: Path, summary: dict[str, Any]) -> list[Path]:
    """The files that hold rows, all of one kind."""
    if summary and summary["format"] not in ("parquet", "jsonl", "jsonl.zst", "hf"):
        raise RunError(f"{folder} has the format {summary['format']!r}, which train does not read; {_advice('tokens')}")
    named = [folder / file["name"] for file in summary.get("files", ())]
    found = named or ([folder] if folder.is_file() else sorted([*folder.glob("*"), *folder.glob("data/*")]))
    paths = [path for path in found if path.name.endswith((_MAPPED, *_CONVERTED))]
    if not paths or len({path.suffix for path in paths}) > 1:
        raise RunError(f"{folder} must hold files of one kind, {', '.join(_CONVERTED)} or {_MAPPED}; has {len(paths)}")
    return paths


def _advice(content: str) -> str:
    return f"write one with: longattn export RUN --write.content {content}"


def _chosen(path: Path, schema: pa.Schema) -> list[str]:
    """The columns to read. Raises :class:`RunError` where there are no ids, or where ids are no integers."""
    if "input_ids" not in schema.names:
        raise RunError(f"{path} has no input_ids, it holds text alone; {_advice('tokens')}")
    names = [name for name in _COLUMNS if name in schema.names]
    if "boundaries" in names and "position_ids" in names:
        # they say the same, in more bytes
        names.remove("position_ids")
    for name in names:
        kind = schema.field(name).type
        if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)) or not pa.types.is_integer(kind.value_type):
            raise RunError(f"{name} of {path} must be lists of integers, it is {kind}")
    return names


def _map(path: Path) -> pa.Table:
    table = pa.ipc.open_stream(pa.memory_map(str(path))).read_all()
    names = _chosen(path, table.schema)
    return table.select(names).cast(_schema(names))


def _schema(names: Sequence[str]) -> pa.Schema:
    return pa.schema([(name, _KIND) for name in names])


def _convert(paths: Sequence[Path], folder: Path) -> None:
    """Write the rows of these files as one Arrow stream."""
    with durable(folder / "windows.arrow") as file:
        _write(paths, file)


def _write(paths: Sequence[Path], output: BinaryIO) -> None:
    with contextlib.ExitStack() as stack:
        writer = schema = None
        for path, batch in ((each, batch) for each in paths for batch in _batches(each)):
            wanted = _schema(_chosen(path, batch.schema))
            if writer is None:
                schema = wanted
                writer = stack.enter_context(pa.ipc.new_stream(output, schema))
            if wanted != schema:
                raise RunError(f"{path} has {', '.join(wanted.names)}, {paths[0]} other columns")
            writer.write_batch(batch.select(wanted.names).cast(wanted))
        if writer is None:
            raise RunError(f"{paths[0]} has 0 windows")


def _batches(path: Path) -> Iterator[pa.RecordBatch]:
    if path.suffix == ".parquet":
        with pq.ParquetFile(path) as file:
            yield from file.iter_batches(_ROWS, columns=_chosen(path, file.schema_arrow))
        return
    explicit = arrow_json.ParseOptions(explicit_schema=_schema(_COLUMNS), unexpected_field_behavior="ignore")
    block = arrow_json.ReadOptions(block_size=_BLOCK_BYTES)
    with pa.input_stream(str(path), compression="detect") as stream:
        for batch in arrow_json.open_json(stream, block, explicit):
            whole = [name for name in _COLUMNS if batch[name].null_count == 0]
            yield batch.select(whole)
