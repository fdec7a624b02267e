"""Which checkpoint is whole: the one with a seal, written when everything else of it is on disk.

The training loop writes a checkpoint's files into their place one after another, so a folder by itself says nothing.
``whole.json`` lists them with size and SHA-256. A folder without it, or that does not fit it, is never used.
"""

import logging
import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from longattn.errors import DamageError
from longattn.tables import file_sha256, read_sealed, sync_folder, write_sealed

log = logging.getLogger(__name__)

SEAL = "whole.json"
_NAME = re.compile(r"checkpoint-\d+")


def all_in(folder: Path) -> dict[int, Path]:
    """All checkpoints in a folder, whole or not, by the step that they were written after."""
    found = folder.iterdir() if folder.is_dir() else ()
    return dict(sorted((step_of(path), path) for path in found if _NAME.fullmatch(path.name)))


def step_of(checkpoint: Path) -> int:
    """The step that a checkpoint was written after."""
    return int(checkpoint.name.removeprefix("checkpoint-"))


def seal(checkpoint: Path) -> None:
    """Put a checkpoint's files on disk and then say that they are all there."""
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != SEAL)
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())
    for place in {path.parent for path in files}:
        sync_folder(place)
    facts = {path.relative_to(checkpoint).as_posix(): path.stat().st_size for path in files}
    write_sealed(checkpoint / SEAL, {"bytes": facts, "sha256": dict(zip(facts, _digests(files), strict=True))})
    sync_folder(checkpoint.parent)


def _digests(files: list[Path]) -> list[str]:
    # the shards of a large model are read at the same time, while all devices wait
    with ThreadPoolExecutor() as pool:
        return list(pool.map(file_sha256, files))


def problem(checkpoint: Path) -> str | None:
    """What shows that a checkpoint is not whole, in a few words; None for one that is."""
    try:
        facts = read_sealed(checkpoint / SEAL)
    except FileNotFoundError:
        return "it was not finished"
    except DamageError as error:
        return f"{SEAL}: {error.problem}"
    for name, size in facts["bytes"].items():
        if not (checkpoint / name).is_file() or (checkpoint / name).stat().st_size != size:
            return f"{name} does not have {size} bytes"
    paths = [checkpoint / name for name in facts["sha256"]]
    wrong = [
        name for name, digest in zip(facts["sha256"], _digests(paths), strict=True) if facts["sha256"][name] != digest
    ]
    return f"the content of {wrong[0]} does not fit its SHA-256" if wrong else None


def last_whole(folder: Path) -> Path | None:
    """The newest checkpoint that is whole, None where there is none; those after it are removed."""
    for step, path in reversed(all_in(folder).items()):
        if (found := problem(path)) is None:
            return path
        log.warning("the checkpoint after step %d is not used: %s", step, found)
        remove(path)
    return None


def thin(folder: Path, keep: int) -> None:
    """Remove all but the newest ``keep`` checkpoints, once those are whole."""
    for path in list(all_in(folder).values())[:-keep]:
        remove(path)


def remove(checkpoint: Path) -> None:
    """Remove a checkpoint, its seal first: half of one must not count as whole."""
    (checkpoint / SEAL).unlink(missing_ok=True)
    sync_folder(checkpoint)
    shutil.rmtree(checkpoint)
