"""Replace a folder as a whole, so that a half-written one is never taken for a finished one."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from longattn import stores
from longattn.errors import RunError
from longattn.tables import sync_folder


@contextlib.contextmanager
def replacing(folder: Path, *, marker: str) -> Iterator[Path]:
    """An empty folder beside ``folder`` that takes its place when the block ends without an error.

    Until then the old one stays as it is, also when the process is killed. ``marker`` is a file that every
    folder made here holds: one without it is somebody's own and is never replaced, :class:`RunError` says so.
    In an object store, which cannot rename, a folder is finished while it holds ``marker``; of somebody's own
    files there only those below ``data/`` are in danger.
    """
    new, old = (folder.with_name(f".{folder.name}.{state}") for state in ("new", "old"))
    if old.exists() and not folder.exists():
        # an earlier process was killed between the two renames below
        old.rename(folder)
    in_store = stores.home(folder) is not None
    if not in_store and folder.exists() and not (folder / marker).exists() and any(folder.iterdir()):
        raise RunError(f"{folder} holds files that were not made here and would be lost; name another folder")
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    new.mkdir(parents=True)
    try:
        yield new
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    sync_folder(new)
    stores.publish_folder(new, folder, marker, "data/")
    try:
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
    except OSError as error:
        # the second may have failed alone, and the old one is better than none
        if old.exists() and not folder.exists():
            with contextlib.suppress(OSError):
                old.rename(folder)
        error.filename = error.filename or str(folder)
        raise
    sync_folder(folder.parent)
    shutil.rmtree(old, ignore_errors=True)
