"""Files that tell by themselves whether they are whole: each holds its own SHA-256, whose 64 digits count as zeros.

In JSON it is the key ``seal``, in Parquet the key ``longattn.seal`` of the footer's metadata. One flipped bit anywhere,
a missing end or other bytes in the middle, and the digits no longer fit.
"""

import contextlib
import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from longattn.settings import plain

BLANK = "0" * 64

PARQUET_KEY = "longattn.seal"

_CHUNK_BYTES = 1 << 20


class SealError(ValueError):
    """A file is not as it was written; says in a few words what shows it."""


def seal_json(value: Mapping[str, Any]) -> bytes:
    """JSON with sorted keys and a seal; equal values give equal bytes.

    >>> print(seal_json({"rows": 3}).decode().replace("8b", ".."), end="")  # doctest: +ELLIPSIS
    {
      "rows": 3,
      "seal": "..."
    }
    """
    options = orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS | orjson.OPT_APPEND_NEWLINE
    content = orjson.dumps({**plain(value), "seal": BLANK}, option=options)
    return content.replace(_entry(BLANK), _entry(hashlib.sha256(content).hexdigest()))


def unseal_json(content: bytes) -> dict[str, Any]:
    """What :func:`seal_json` was given. Raises :class:`SealError` for bytes that it did not write."""
    # only a key of the outermost level follows a line break and two spaces, and a string holds no line break
    found = re.search(_entry("([0-9a-f]{64})"), content)
    if found is None:
        raise SealError("it has no seal")
    digits = found[1].decode()
    if hashlib.sha256(content.replace(_entry(digits), _entry(BLANK))).hexdigest() != digits:
        raise SealError("its content does not fit its seal")
    value = orjson.loads(content)
    del value["seal"]
    return value


def _entry(digits: str) -> bytes:
    return b'\n  "seal": "' + digits.encode() + b'"'


@dataclass
class Written:
    """What is known of a file once it is written, from the bytes in memory and not from those on disk."""

    num_bytes: int = 0
    sha256: str = ""
    """Of the whole file, as ``sha256sum`` gives it."""
    footer_bytes: int = 0
    """From the end of the last column to the end of the file."""
    footer_sha256: str = ""


class _Sink:
    """Where a Parquet writer writes: passes columns on, keeps the footer back until its seal is known."""

    closed = False

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._columns = hashlib.sha256()
        self._footer: bytearray | None = None
        self._num_bytes = 0

    def write(self, data: Any) -> int:
        """Write or, once the footer has begun, keep."""
        self._num_bytes += len(data)
        if self._footer is not None:
            self._footer += data
        else:
            self._columns.update(data)
            self._file.write(data)
        return len(data)

    def flush(self) -> None:
        """Nothing: the file is flushed and synced by who opened it."""

    def close(self) -> None:
        """Nothing: the file is closed by who opened it."""

    def begin_footer(self) -> None:
        """All that is written from now on is the footer."""
        self._footer = bytearray()

    def seal(self, written: Written) -> None:
        """Write the footer with the seal in it, and fill ``written`` in."""
        footer = self._footer
        assert footer is not None, "the footer has begun"
        whole, blank = self._columns.copy(), self._columns
        blank.update(footer)
        place = _seal_place(footer)
        footer[place : place + len(BLANK)] = blank.hexdigest().encode()
        whole.update(footer)
        self._file.write(footer)
        written.num_bytes, written.sha256 = self._num_bytes, whole.hexdigest()
        written.footer_bytes, written.footer_sha256 = len(footer), hashlib.sha256(footer).hexdigest()


def _seal_place(footer: bytes | bytearray) -> int:
    """Where the digits are: the value follows its key and two bytes of its type and length."""
    key = footer.rfind(PARQUET_KEY.encode())
    if key < 0:
        raise SealError("it has no seal")
    return key + len(PARQUET_KEY) + 2


@contextlib.contextmanager
def parquet_writer(
    file: BinaryIO, schema: pa.Schema, facts: Mapping[str, str], written: Written
) -> Iterator[pq.ParquetWriter]:
    """A writer of Parquet as every table of a run has it: zstd, a checksum for each page, ``facts`` and a seal.

    ``written`` is filled in when the block ends.
    """
    sink = _Sink(file)
    # a dictionary costs time, and pays only for columns of few values
    few: Any = [name for name in ("source", "file", "num_tokens", "status", "reason") if name in schema.names]
    with pq.ParquetWriter(sink, schema, compression="zstd", write_page_checksum=True, use_dictionary=few) as writer:
        yield writer
        writer.add_key_value_metadata(
            {**{f"longattn.{key}": value for key, value in facts.items()}, PARQUET_KEY: BLANK}
        )
        sink.begin_footer()
    sink.seal(written)


def check_parquet(file: BinaryIO) -> None:
    """Read a Parquet file of ours and compare it with its seal. Raises :class:`SealError`."""
    end = file.seek(0, 2)
    file.seek(max(0, end - 8))
    tail = file.read(8)
    start = end - 8 - int.from_bytes(tail[:4], "little")
    if tail[4:] != b"PAR1" or start < 0:
        raise SealError("it does not end as a Parquet file does")
    file.seek(start)
    footer = bytearray(file.read())
    place = _seal_place(footer)
    digits = footer[place : place + len(BLANK)]
    footer[place : place + len(BLANK)] = BLANK.encode()
    found = hashlib.sha256()
    file.seek(0)
    while start:
        data = file.read(min(start, _CHUNK_BYTES))
        found.update(data)
        start -= len(data)
    found.update(footer)
    if found.hexdigest().encode() != digits:
        raise SealError("its content does not fit its seal")
