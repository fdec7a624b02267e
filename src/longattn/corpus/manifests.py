"""Input manifests: what the input consists of, listed once with sizes and hashes, and compared ever after."""

import os
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import orjson

from longattn.corpus import files
from longattn.errors import CorpusError
from longattn.records import Slice
from longattn.tables import write_text

# hashing releases the interpreter, and object stores answer several requests at once
_THREADS = 8
_MAX_NAMED = 3


@dataclass(frozen=True, slots=True)
class Entry:
    """What a manifest says of one file."""

    sha256: str
    """64 hexadecimal digits."""
    size: int | None = None
    """Bytes; None in a list of ``sha256sum``, which has hashes alone."""


def write_manifest(path: Path, parts: Sequence[Slice]) -> None:
    """Write a line of JSON for each file: ``file``, ``size``, ``sha256``. Reads every file once.

    Files below the manifest's folder are named relative to it, so that both can be moved together. Raises
    :class:`CorpusError` for a file that cannot be read, ``OSError`` for one that cannot be reached, and
    :class:`StoreError` where its store stays away.
    """

    def line(part: Slice) -> str:
        try:
            facts = {"file": _name(path.parent, part.file), "size": part.size, "sha256": files.digest(part.file)}
        except OSError as error:
            files.pass_on(part.file, error)
            raise CorpusError(f"{files.without_options(part.file)}: cannot be hashed: {error}") from error
        return orjson.dumps(facts).decode() + "\n"

    with ThreadPoolExecutor(_THREADS) as pool:
        write_text(path, "".join(pool.map(line, parts)))


def read_manifest(path: Path) -> dict[str, Entry]:
    """The entries by file, named as :func:`listed_name` names it.

    Understands the lines that :func:`write_manifest` writes and those of ``sha256sum``. Raises :class:`CorpusError` for
    other lines.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"the manifest {path} cannot be read: {error}") from error
    entries: dict[str, Entry] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        file, entry = _parse(f"{path}, line {number}", line)
        if entries.setdefault(listed_name(path.parent, file), entry) != entry:
            raise CorpusError(f"{path}, line {number}: {file!r} was listed before with another hash")
    return entries


def with_hashes(parts: Iterable[Slice], path: Path) -> list[Slice]:
    """The files with their hashes from the manifest.

    Raises :class:`CorpusError` unless the files are exactly those of the manifest, in the same sizes.
    """
    entries = read_manifest(path)
    hashed: list[Slice] = []
    wrong: list[str] = []
    for part in parts:
        entry = entries.pop(listed_name(Path(), part.file), None)
        if entry is None:
            wrong.append(f"{part.file} is not listed")
        elif entry.size not in (None, part.size):
            wrong.append(f"{part.file} has {part.size} bytes, listed with {entry.size}")
        else:
            hashed.append(replace(part, sha256=entry.sha256))
    wrong += [f"{file} is missing" for file in entries]
    if wrong:
        named = "; ".join(wrong[:_MAX_NAMED]) + (f"; and {len(wrong) - _MAX_NAMED} more" if wrong[_MAX_NAMED:] else "")
        raise CorpusError(f"the input is not what {path} lists: {named}. If it is now right, write the manifest anew")
    return hashed


def listed_name(folder: Path, file: str) -> str:
    """One name for a file however it is written: absolute for a local one, without options for a remote one."""
    if files.is_uri(file):
        return files.without_options(file)
    return os.path.normpath(folder.absolute() / file)


def _name(folder: Path, file: str) -> str:
    """How the manifest in ``folder`` names a file: relative to the folder if it is below it."""
    name = listed_name(Path(), file)
    beside = f"{folder.absolute()}/"
    return name.removeprefix(beside)


def _parse(where: str, line: str) -> tuple[str, Entry]:
    if summed := re.fullmatch(r"([0-9a-fA-F]{64}) [ *](.+)", line):
        return summed[2], Entry(summed[1].lower())
    try:
        facts = orjson.loads(line)
        file, size, sha256 = facts["file"], facts.get("size"), facts["sha256"]
        if isinstance(file, str) and isinstance(size, int | None) and re.fullmatch(r"[0-9a-f]{64}", sha256):
            return file, Entry(sha256, size)
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        pass
    raise CorpusError(
        f'{where}: expected {{"file": ..., "size": ..., "sha256": ...}} or a line of sha256sum, got {line[:80]!r}'
    )
