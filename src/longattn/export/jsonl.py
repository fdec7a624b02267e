"""Windows as JSON lines, plain or in a zstd stream."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import BinaryIO, ClassVar

import pyarrow as pa

from longattn.export.base import Row, RowFormat
from longattn.export.carrying import to_json


@dataclass(frozen=True)
class JsonLines(RowFormat):
    """One JSON object per line; carried fields keep their structure."""

    suffix: ClassVar[str] = ".jsonl"

    def write_file(self, file: BinaryIO, schema: pa.Schema, batches: Iterable[Sequence[Row]]) -> None:
        """Write all rows."""
        for rows in batches:
            for row in rows:
                file.write(to_json(row) + b"\n")


@dataclass(frozen=True)
class ZstdJsonLines(RowFormat):
    """JSON lines in one zstd frame, so that a reader notices a file that was cut off."""

    suffix: ClassVar[str] = ".jsonl.zst"

    def write_file(self, file: BinaryIO, schema: pa.Schema, batches: Iterable[Sequence[Row]]) -> None:
        """Write all rows, compressed."""
        with pa.CompressedOutputStream(pa.PythonFile(_KeptOpen(file), "w"), "zstd") as stream:
            for rows in batches:
                for row in rows:
                    stream.write(to_json(row) + b"\n")


class _KeptOpen:
    """A file that its user cannot close: a compressed stream would, before the file is on disk."""

    closed = False

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, data: bytes) -> int:
        """Pass the bytes on."""
        return self._file.write(data)

    def flush(self) -> None:
        """Pass the wish on."""
        self._file.flush()

    def close(self) -> None:
        """Leave the file to who opened it."""
