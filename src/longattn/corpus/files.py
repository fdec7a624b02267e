"""Where a file is, what format it has and how its bytes are opened, local or remote."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Literal

import pyarrow as pa
from pyarrow.fs import FileInfo, FileSystem, FileType, LocalFileSystem

from longattn.errors import CorpusError
from longattn.records import Slice

Format = Literal["jsonl", "parquet", "text"]

_FORMATS: dict[str, Format] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".parquet": "parquet"}
_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}

# Options are told from a file name's own question mark, or a glob's, by the ``name=`` that follows.
_URI = re.compile(r"(?P<root>[A-Za-z][A-Za-z0-9+.-]+://[^/?]*)(?P<path>.*?)(?P<options>\?[A-Za-z_]+=.*)?", re.DOTALL)

FETCH_BYTES = 4 * 2**20
"""Bytes asked of a file system at a time; object stores answer each request with a delay."""


@dataclass(frozen=True, slots=True)
class Kind:
    """How a file is read, as its name says."""

    format: Format
    compression: str | None
    """pyarrow's name of the compression."""
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


def is_uri(file: str) -> bool:
    """Whether this is the address of a remote file rather than a local path."""
    return _URI.fullmatch(file) is not None


def without_options(file: str) -> str:
    """The file without the ``?region=...`` that a URI may end with."""
    match = _URI.fullmatch(file)
    return match["root"] + match["path"] if match else file


def relative_name(part: Slice) -> str:
    """The file's name below the input that it was found under, with ``/`` between folders."""
    return without_options(part.file).removeprefix(part.root).lstrip("/")


def resolve(file: str) -> tuple[FileSystem, str]:
    """The file system that holds a path or URI, and the path within it.

    Names in a URI are taken as they are, without percent-encoding: ``s3://bucket/a b.jsonl``.
    """
    match = _URI.fullmatch(file)
    if match is None:
        return LocalFileSystem(), file
    file_system, base = _file_system(match["root"], match["options"] or "")
    return file_system, base + match["path"]


def uri_like(uri: str, path: str) -> str:
    """The URI of another path in the same file system, with the same options."""
    match = _URI.fullmatch(uri)
    assert match, uri
    options = match["options"] or ""
    _, base = _file_system(match["root"], options)
    return match["root"] + "/" + path.removeprefix(base).lstrip("/") + options


# A file system of an object store holds connections; a unit may have a thousand files in one bucket.
@lru_cache(maxsize=16)
def _file_system(root: str, options: str) -> tuple[FileSystem, str]:
    if re.search(r"://[^@]*:[^@]*@", root):
        address = root.rpartition("@")[2]
        raise CorpusError(
            f"the URI of {address} holds a password, which every table would then show; "
            "give it in the environment instead"
        )
    try:
        file_system, base = FileSystem.from_uri(f"{root}/{options}")
    except (OSError, pa.ArrowException) as error:
        raise CorpusError(f"{root}: {error}") from error
    return file_system, base.rstrip("/")


def facts(info: FileInfo) -> tuple[int, str]:
    """Size and modification time of a file, as a :class:`~longattn.records.Slice` records them."""
    if info.mtime_ns is None:
        return info.size, ""
    seconds, nanoseconds = divmod(info.mtime_ns, 10**9)
    return info.size, f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{nanoseconds:09d}Z"


def check_unchanged(part: Slice) -> None:
    """Raise OSError if the file is not the one that was listed."""
    file_system, path = resolve(part.file)
    info = file_system.get_file_info(path)
    if info.type != FileType.File:
        raise FileNotFoundError("the file is no longer there; plan again")
    size, modified = facts(info)
    if size != part.size:
        raise OSError(f"the file had {part.size} bytes when it was listed and has {size} now; plan again")
    if modified != part.modified:
        raise OSError(f"the file was modified at {modified}, after it was listed; plan again")


def open_stream(file: str, compression: str | None) -> pa.NativeFile:
    """The file's bytes from the start, uncompressed; raises OSError where a compressed file ends early."""
    file_system, path = resolve(file)
    return file_system.open_input_stream(path, compression=compression, buffer_size=FETCH_BYTES)


def open_at(file: str, position: int) -> pa.NativeFile:
    """The file's bytes from a position on."""
    stream = open_seekable(file)
    stream.seek(position)
    return pa.BufferedInputStream(stream, FETCH_BYTES)


def open_seekable(file: str) -> pa.NativeFile:
    """The file for reading in any order."""
    file_system, path = resolve(file)
    return file_system.open_input_file(path)
