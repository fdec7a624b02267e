"""The cache folder: what is derived from a model once and kept, addressed by content.

``$LONGATTN_CACHE``, else ``$XDG_CACHE_HOME/longattn``, else ``~/.cache/longattn``. Everything in it can be
deleted at any time, and is written under a temporary name and renamed when it is complete and on disk: a
reader never sees a part, and of two processes that build the same thing at once one wins and the other uses
it.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from longattn.errors import ModelError
from longattn.stores import cache_folder
from longattn.tables import sync_folder, write_text

_RACY_NS = 2_000_000_000
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextlib.contextmanager
def _naming_the_cache() -> Iterator[None]:
    """Say which folder may not be written, and how to choose another."""
    try:
        yield
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
        problem = f"the cache folder {cache_folder()} cannot be written ({error.strerror})"
        raise ModelError(f"{problem}; set LONGATTN_CACHE to one that can") from error


def cached_folder(name: str, build: Callable[[Path], None]) -> Path:
    """The folder ``name`` of the cache, filled by ``build`` if it is not there yet.

    Raises :class:`ModelError` for a cache that this user may not write.
    """
    folder = cache_folder() / name
    if folder.is_dir():
        return folder
    partial = folder.with_name(f".{folder.name}-{uuid.uuid4().hex}")
    with _naming_the_cache():
        partial.mkdir(parents=True)
    try:
        build(partial)
        for file in partial.iterdir():
            with file.open("rb") as written:
                os.fsync(written.fileno())
        sync_folder(partial)
        try:
            partial.rename(folder)
        except OSError:
            # another process may have put the same content there meanwhile
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    sync_folder(folder.parent)
    return folder


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content, 64 hexadecimal digits.

    Reading the weights of a large model takes minutes, so the digest is remembered for as long as the file's
    size and its times of modification and of status change stay the same. Raises :class:`ModelError` for a cache that
    this user may not write.
    """
    path = path.resolve()
    stat = path.stat()
    facts = [str(path), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
    note = cache_folder() / "digests" / f"{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]}.txt"
    if note.is_file():
        return note.read_text()
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    # a file changed a moment ago can change again within the resolution of its times
    if time.time_ns() - max(stat.st_mtime_ns, stat.st_ctime_ns) > _RACY_NS:
        with _naming_the_cache():
            write_text(note, digest)
    return digest
