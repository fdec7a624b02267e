"""Where a file is, what format it has and how its bytes are opened, local or remote."""

import errno
import hashlib
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Literal

import pyarrow as pa
from pyarrow.fs import FileInfo, FileSystem, FileType, LocalFileSystem

from longattn import stores
from longattn.addresses import is_uri, without_options
from longattn.corpus.streams import TRUNCATED, BoundedStream, ExpandsTooMuchError, XzStream
from longattn.errors import StoreError
from longattn.records import Slice, WorkUnit

Format = Literal["jsonl", "parquet", "text"]

_FORMATS: dict[str, Format] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".parquet": "parquet"}
_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2", ".xz": "xz"}

FETCH_BYTES = 4 * 2**20
"""Bytes asked of a file system at a time; object stores answer each request with a delay."""


@dataclass(frozen=True, slots=True)
class Kind:
    """How a file is read, as its name says."""

    format: Format
    compression: str | None
    """pyarrow's name of the compression, or ``xz``, which it does not read."""
    suffix: str
    """The part of the name that says so, such as ``.jsonl.gz``."""


def kind_of(file: str, text_suffixes: tuple[str, ...]) -> Kind | None:
    """How the file is read; None where the name does not tell."""
    name = without_options(file).rpartition("/")[2].lower()
    packed = next((suffix for suffix in _COMPRESSIONS if name.endswith(suffix)), "")
    stem = name.removesuffix(packed)
    for suffix, format in _FORMATS.items():
        if stem.endswith(suffix) and not (packed and format == "parquet"):
            return Kind(format, _COMPRESSIONS.get(packed), suffix + packed)
    for suffix in text_suffixes:
        if stem.endswith(suffix.lower()):
            return Kind("text", _COMPRESSIONS.get(packed), suffix + packed)
    return None


def relative_name(part: Slice) -> str:
    """The file's name below the input that it was found under, with ``/`` between folders."""
    return without_options(part.file).removeprefix(part.root).lstrip("/")


def place(unit: WorkUnit) -> str:
    """What a unit covers, without where the corpus is and since when: the units of a copy have the same places."""
    return "\0".join(f"{relative_name(part)}\0{part.start}\0{part.stop}" for part in unit.slices)


def resolve(file: str) -> tuple[FileSystem, str]:
    """The file system that holds a path or URI, and the path within it."""
    return stores.resolve(file) if is_uri(file) else (LocalFileSystem(), file)


def pass_on(file: str, error: BaseException) -> None:
    """Raise :class:`StoreError` or ``OSError`` for an error of the store or system, which tells nothing of the file.

    A file that is damaged is rejected, and the run goes on. One that cannot be reached now (no permission, a disk's
    error, a file system that is gone) may be read later: the run ends, and the same command goes on.
    """
    if is_uri(file):
        if stores.is_of_store(error):
            raise StoreError(f"{without_options(file)} cannot be read: {stores.why(error)}") from error
    # decoders give no number, and what a damaged file sends its reader to is an invalid argument
    elif isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
        told = OSError(error.errno, os.strerror(error.errno), file)
        told.add_note("once the file can be read, the same command goes on")
        raise told from error


def facts(info: FileInfo) -> tuple[int, str]:
    """Size and modification time of a file, as a :class:`~longattn.records.Slice` records them."""
    if info.mtime_ns is None:
        return info.size, ""
    seconds, nanoseconds = divmod(info.mtime_ns, 10**9)
    return info.size, f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{nanoseconds:09d}Z"


class NotAsListedError(OSError):
    """The file's content is not the one that the input manifest states."""


def reason_of(error: OSError) -> str:
    """The word for what keeps a file from being read."""
    if isinstance(error, NotAsListedError):
        return "not_as_listed"
    if isinstance(error, ExpandsTooMuchError):
        return "expands_too_much"
    return "truncated" if str(error).startswith(TRUNCATED) else "unreadable"


def check_unchanged(part: Slice) -> None:
    """Raise OSError if the file is not the one that was listed, :class:`NotAsListedError` if its hash is known.

    A number (``errno``) is given for a local file that is gone, with which its whole file system may be.
    """
    file_system, path = resolve(part.file)
    info = file_system.get_file_info(path)
    if info.type == FileType.NotFound and not is_uri(part.file):
        raise FileNotFoundError(errno.ENOENT, "the file is no longer there", part.file)
    if info.type != FileType.File:
        raise FileNotFoundError("the file is no longer there; plan again")
    size, modified = facts(info)
    if size != part.size:
        raise OSError(f"the file had {part.size} bytes when it was listed and has {size} now; plan again")
    if modified != part.modified:
        raise OSError(f"the file was modified at {modified}, after it was listed; plan again")
    if part.sha256 and (found := _known_digest(part.file, part.size, part.modified)) != part.sha256:
        raise NotAsListedError(f"the file's SHA-256 is {found[:16]}..., the manifest says {part.sha256[:16]}...")


# a large file is read by many units of one process and need not be hashed for each
@lru_cache(maxsize=4096)
def _known_digest(file: str, size: int, modified: str) -> str:
    return digest(file)


def digest(file: str) -> str:
    """SHA-256 of the file's bytes as they are stored, 64 hexadecimal digits."""
    sha256 = hashlib.sha256()
    with open_seekable(file) as stream:
        while block := stream.read_buffer(FETCH_BYTES):
            sha256.update(block)
    return sha256.hexdigest()


def open_stream(file: str, compression: str | None, max_bytes: int | None = None) -> pa.NativeFile:
    """The file's bytes from the start, uncompressed.

    Reading raises OSError where a compressed file ends early, and :class:`ExpandsTooMuchError` after ``max_bytes``.
    """
    file_system, path = resolve(file)
    packed = compression if compression != "xz" else None
    stream = file_system.open_input_stream(path, compression=packed, buffer_size=FETCH_BYTES)
    if compression == "xz":
        stream = pa.PythonFile(XzStream(stream), "r")
    return stream if max_bytes is None else pa.PythonFile(BoundedStream(stream, max_bytes), "r")


def open_at(file: str, position: int) -> pa.NativeFile:
    """The file's bytes from a position on."""
    stream = open_seekable(file)
    stream.seek(position)
    return pa.BufferedInputStream(stream, FETCH_BYTES)


def open_seekable(file: str) -> pa.NativeFile:
    """The file for reading in any order."""
    file_system, path = resolve(file)
    return file_system.open_input_file(path)
