"""Find the files of an input: a file, a folder or a glob, local or remote."""

import logging
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from pyarrow.fs import FileInfo, FileSelector, FileType

from longattn.corpus import files
from longattn.corpus.manifests import listed_name, with_hashes
from longattn.errors import CorpusError, StoreError
from longattn.records import Slice
from longattn.settings import Corpus
from longattn.stores import uri_like, why

logger = logging.getLogger(__name__)

OF_ARROW_FOLDERS = ("state.json", "dataset_info.json", "dataset_dict.json")
"""What ``Dataset.save_to_disk`` puts beside its Arrow files; JSON, but no records."""


@dataclass(frozen=True)
class Listing:
    """The files to read, each as one whole slice, and what else was found."""

    files: tuple[Slice, ...]
    """In the order of the inputs, and by name within an input."""
    skipped: Mapping[str, int]
    """How many files were passed over, by suffix or by ``hidden``, ``not a file``, ``name not UTF-8``."""
    repeated: tuple[str, ...]
    """Files that more than one input names; they are read once, with the source of the first."""


def list_files(corpus: Corpus, *, compare: bool = True) -> Listing:
    """The files that the inputs name.

    A glob takes the files that match, and everything below the folders that match. In folders and globs,
    names that begin with a dot are hidden. So are JSONL and Parquet files whose own or folder's name begins
    with an underscore (``_delta_log``, ``_temporary``), but not text files (``__init__.py``). The input manifest
    is no input. Raises :class:`CorpusError` for an input that matches nothing and, if ``compare``, where the files are
    not those of the manifest.
    """
    if not corpus.inputs or "" in corpus.inputs:
        raise CorpusError("no input is given; name at least one file, folder or glob")
    found: dict[str, Slice] = {}
    skipped: Counter[str] = Counter()
    repeated: list[str] = []
    for text in corpus.inputs:
        before = skipped.copy()
        parts = list(_files_of(text, corpus, skipped))
        if not parts:
            passed = skipped - before
            raise CorpusError(f"{text}: no JSONL, Parquet or text file there{_counts(passed)}{_hint(*passed)}")
        for part in parts:
            if found.setdefault(_identity(part.file), part) is not part:
                repeated.append(part.file)
    logger.info("found %d file%s%s", len(found), "s" if len(found) != 1 else "", _counts(skipped))
    if repeated:
        logger.info("%d files are named by several inputs, such as %s; read once", len(repeated), repeated[0])
    parts = list(found.values())
    if corpus.manifest is not None and compare:
        parts = with_hashes(parts, Path(corpus.manifest))
    return Listing(tuple(parts), dict(+skipped), tuple(repeated))


def _counts(skipped: Counter[str]) -> str:
    counts = ", ".join(f"{count} {what}" for what, count in sorted((+skipped).items()))
    return f"; passed over: {counts}" if counts else ""


def _hint(*names: str) -> str:
    """What to do with files that are not read."""
    arrow = any(name.endswith(".arrow") for name in names)
    return '; of Arrow, datasets makes Parquet: load_from_disk(FOLDER).to_parquet("data.parquet")' if arrow else ""


def _identity(file: str) -> str:
    return files.without_options(file) if files.is_uri(file) else os.path.realpath(file)


def _files_of(text: str, corpus: Corpus, skipped: Counter[str]) -> Iterator[Slice]:
    """The files of one input, by name; counts the others in ``skipped``."""
    source, location = _split_source(text)
    folder, pattern = _split_glob(location)
    if not pattern:
        info = _info(location)
        if info.type == FileType.File:
            if files.kind_of(location, corpus.text_suffixes) is None:
                raise CorpusError(
                    f"{location}: the name does not tell the format; known are .jsonl, .json, .ndjson, "
                    f".parquet and the text_suffixes {' '.join(corpus.text_suffixes)}{_hint(location)}"
                )
            yield Slice(location, *files.facts(info), source, root=files.without_options(folder))
            return
        if info.type != FileType.Directory:
            raise CorpusError(f"{text}: no such file or folder")
        folder = location
    root = files.without_options(folder)
    walked = sorted(_walk(folder, skipped), key=lambda found: found[0])
    has_arrow = any(file.endswith(".arrow") for file, _ in walked)
    for file, info in walked:
        name = files.without_options(file).removeprefix(root).lstrip("/")
        if not _matches(name.split("/"), pattern):
            continue
        if has_arrow and PurePosixPath(name).name in OF_ARROW_FOLDERS:
            skipped["of an Arrow data set"] += 1
        elif corpus.manifest is not None and listed_name(Path(), file) == listed_name(Path(), corpus.manifest):
            skipped["input manifest"] += 1
        elif reason := _why_not(name, info, corpus):
            skipped[reason] += 1
        else:
            yield Slice(file, *files.facts(info), source, root=root)


def _split_source(text: str) -> tuple[str | None, str]:
    """``books=path`` as ``books`` and the path, unless a file or folder has this very name."""
    match = re.fullmatch(r"([^=/]+)=(.+)", text, re.DOTALL)
    folder, _ = _split_glob(text)
    if not match or Path(text).exists() or (folder and Path(folder).is_dir()):
        return None, _normal(text)
    return match[1], _normal(match[2])


def _normal(location: str) -> str:
    """The location without ``file://``, ``~``, ``./`` and final slash; empty for the current folder."""
    if files.is_uri(location) and not location.startswith("file://"):
        return location.rstrip("/")
    # a file may well be called ~1.jsonl
    path = str(Path(re.sub(r"^~(?=/|$)", lambda _: str(Path.home()), location.removeprefix("file://"))))
    return "" if path == "." else path


def _split_glob(location: str) -> tuple[str, list[str]]:
    """The folder to look into and, unless the location is one file or folder, the names to match below it."""
    plain = files.without_options(location)
    options = location[len(plain) :]
    magic = re.search(r"[*?[]", plain)
    if not magic or (not files.is_uri(location) and Path(location).exists()):
        return _parent(plain) + options, []
    folder = _parent(plain[: magic.start()])
    return folder + options, [name for name in plain[len(folder) :].split("/") if name]


def _parent(path: str) -> str:
    folder, slash, _ = path.rpartition("/")
    return folder or slash


def _matches(name: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether the pattern fits the path or a folder above it; ``**`` stands for any number of folders."""
    if not pattern:
        return True
    if pattern[0] == "**":
        return any(_matches(name[start:], pattern[1:]) for start in range(len(name) + 1))
    return bool(name) and fnmatchcase(name[0], pattern[0]) and _matches(name[1:], pattern[1:])


def _why_not(name: str, info: FileInfo, corpus: Corpus) -> str | None:
    """What a file is counted as when it is not read; None for one to read."""
    if re.search(r"(^|/)\.", name):
        return "hidden"
    kind = files.kind_of(name, corpus.text_suffixes)
    if kind is None:
        return PurePosixPath(name).suffix or "without suffix"
    if kind.format != "text" and re.search(r"(^|/)_", name):
        return "hidden"
    return None if info.type == FileType.File else "not a file"


def _info(location: str) -> FileInfo:
    with _told_as_corpus_error(location):
        file_system, path = files.resolve(location or ".")
        return file_system.get_file_info(path)


def _walk(folder: str, skipped: Counter[str]) -> list[tuple[str, FileInfo]]:
    """Every file below a folder, at any depth."""
    with _told_as_corpus_error(folder):
        file_system, path = files.resolve(folder)
        if not files.is_uri(folder):
            names = list(_walk_local(folder, skipped))
            return list(zip(names, file_system.get_file_info(names), strict=True))
        infos = file_system.get_file_info(FileSelector(path, recursive=True))
        return [(uri_like(folder, info.path), info) for info in infos if info.type != FileType.Directory]


@contextmanager
def _told_as_corpus_error(location: str) -> Iterator[None]:
    try:
        yield
    except CorpusError:
        raise
    except StoreError as error:
        raise CorpusError(str(error)) from error
    # remote file systems raise errors of the library beneath them, whichever it is
    except Exception as error:
        raise CorpusError(f"{files.without_options(location) or '.'}: cannot be listed: {why(error)}") from error


def _walk_local(folder: str, skipped: Counter[str]) -> Iterator[str]:
    """Every file below a local folder; hidden folders are not entered, links are, but no folder twice.

    pyarrow's own walk fails at a name that is not UTF-8, drops broken links and follows links in circles.
    """
    entered: set[str] = set()
    for where, folders, names in os.walk(folder or ".", onerror=_raise, followlinks=True):
        real = os.path.realpath(where)
        if real in entered:
            folders.clear()
            continue
        entered.add(real)
        skipped["hidden"] += sum(name.startswith(".") for name in folders)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            file = str(Path(where, name))
            if _is_utf8(file):
                yield file
            else:
                skipped["name not UTF-8"] += 1


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _raise(error: OSError) -> None:
    raise error
