"""Where an address leads, and how a run that is kept in an object store appears on this machine.

A run in a store has a *working copy*, a folder of the cache that may be lost at any time. What is written durably below
it is first put into the store and only then gets its name here, so a file with its final name is in the store, in the
order in which it was written; names that begin with a dot are this machine's own. What counts is what the store holds.
"""

import contextlib
import errno
import hashlib
import io
import os
import random
import re
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

import pyarrow as pa
from pyarrow.fs import AwsStandardS3RetryStrategy, FileInfo, FileSelector, FileSystem, FileType, S3FileSystem

from longattn.addresses import PARTS, below, without_options
from longattn.errors import RunError, StoreError

_OBJECT_STORES = ("s3", "gs", "gcs", "abfs", "abfss", "az")
"""Schemes whose objects appear when they are complete; elsewhere a file gets its name when it is complete."""

ATTEMPTS = 6
"""Times that a request to S3 is made, after ever longer pauses (about 20 s in all), before its error is raised."""
SILENCE = 30.0
"""Seconds without a byte after which an attempt counts as failed."""
AT_ONCE = 16
"""Objects that are fetched at the same time."""
_BLOCK_BYTES = 4 * 2**20

EXPIRES = 120.0
"""Seconds after which a claim that was not renewed counts for nothing."""
RENEWED = 20.0
"""Seconds after which a claim is renewed."""

_REWRITTEN_NOWHERE = {"tables", "pilots", "export"}
"""Folders whose files keep their content as long as they keep name and size."""


def cache_folder() -> Path:
    """Where derived files are kept; the folder may not exist yet."""
    if folder := os.environ.get("LONGATTN_CACHE"):
        return Path(folder)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "longattn"


def resolve(uri: str) -> tuple[FileSystem, str]:
    """The file system that holds what a URI names, and the path within it.

    Names in a URI are taken as they are, without percent-encoding: ``s3://bucket/a b.jsonl``. Raises
    :class:`StoreError` for one that no file system answers to, and for one that holds a password or another secret.
    """
    match = PARTS.fullmatch(uri)
    assert match, uri
    file_system, base = _file_system(match["root"], _options(match))
    return file_system, base + match["path"]


def uri_like(uri: str, path: str) -> str:
    """The URI of another path in the same file system, with the same options."""
    match = PARTS.fullmatch(uri)
    assert match, uri
    _, base = _file_system(match["root"], _options(match))
    return match["root"] + "/" + path.removeprefix(base).lstrip("/") + (match["options"] or "")


def _options(match: re.Match[str]) -> str:
    """The options of a URI; for S3 with the server that the environment names, as Amazon's own tools read it."""
    options = match["options"] or ""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if not endpoint or not match["root"].startswith("s3://") or "endpoint_override=" in options:
        return options
    scheme, _, server = endpoint.rstrip("/").rpartition("://")
    return f"{options or '?'}{'&' if options else ''}scheme={scheme or 'https'}&endpoint_override={server}"


# A file system of an object store holds connections; a unit may have a thousand files in one bucket.
@lru_cache(maxsize=16)
def _file_system(root: str, options: str) -> tuple[FileSystem, str]:
    if re.search(r"://[^@]*:[^@]*@", root):
        address = root.rpartition("@")[2]
        raise StoreError(
            f"the URI of {address} holds a password, which every table would then show; "
            "give it in the environment instead"
        )
    if secret := re.search(r"[?&]([^=&]*(?:secret|token|password|key|sig|credential)[^=&]*)=", options, re.IGNORECASE):
        raise StoreError(
            f"the URI {root} holds a secret ({secret[1]}), which every table would then show; "
            "give it in the environment instead"
        )
    try:
        file_system, base = FileSystem.from_uri(f"{root}/{options}")
        if isinstance(file_system, S3FileSystem):
            file_system = _patient(file_system, options)
    except (OSError, ValueError, ImportError) as error:
        raise StoreError(f"{root}: {error}") from error
    return file_system, base.rstrip("/")


def _patient(file_system: S3FileSystem, options: str) -> S3FileSystem:
    """The same S3 with pauses that grow between attempts, and one request for a small object.

    By itself pyarrow asks five times a second for six seconds, which a store that throttles answers with more of it,
    and takes a server that says nothing for three seconds for dead.
    """
    given = {key: value == "true" if value in ("true", "false") else value for key, value in parse_qsl(options[1:])}
    retry = AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS)
    patience: dict[str, Any] = {"connect_timeout": 10.0, "request_timeout": SILENCE, "retry_strategy": retry}
    return S3FileSystem(**{"region": file_system.region, **given, "allow_delayed_open": True, **patience})


def why(error: BaseException) -> str:
    """What a file system's error says, on one line, with what would put it right where that is known."""
    said = " ".join(str(error).split()) or type(error).__name__
    if re.search(
        r"ACCESS_DENIED|INVALID_ACCESS_KEY|INVALID_CLIENT_TOKEN|SIGNATURE|EXPIRED_TOKEN|HTTP status 40[13]", said
    ):
        keys = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        return f"the store refuses these credentials; set {keys} ({said})"
    if re.search(r"NETWORK_CONNECTION|SLOW_DOWN|SERVICE_UNAVAILABLE|INTERNAL_FAILURE|TIMEOUT|HTTP status 5\d\d", said):
        # fewer where the client has met so many refusals that it holds back
        return f"no answer after {ATTEMPTS} attempts or fewer ({said})"
    return said


def is_of_store(error: BaseException) -> bool:
    """Whether an error tells of the store and the way to it, and nothing of the file that was read."""
    return re.search(r"AWS Error|google::cloud::Status|Azure\S*Exception|curlCode", str(error)) is not None


class Entry(NamedTuple):
    """What a listing says of a file."""

    size: int
    modified: int
    """Nanoseconds since 1970 by the store's clock; 0 where it does not say."""


def _entry(info: FileInfo) -> Entry:
    return Entry(info.size or 0, info.mtime_ns or 0)


@dataclass(frozen=True)
class Store:
    """A folder of a remote file system, as a flat set of files whose names are relative to it."""

    uri: str

    def files(self, folder: str = "") -> dict[str, Entry]:
        """Every file below a folder, by name; one request for each thousand."""
        file_system, root = resolve(self.uri)
        root = root.rstrip("/")
        with self.told(f"{folder or 'the folder'} cannot be listed"):
            where = f"{root}/{folder}".rstrip("/")
            infos = file_system.get_file_info(FileSelector(where, recursive=True, allow_not_found=True))
        return {i.path.removeprefix(root).lstrip("/"): _entry(i) for i in infos if i.type == FileType.File}

    def look(self, name: str) -> Entry | None:
        """What the store says of one file; None if there is none."""
        file_system, path = resolve(below(self.uri, name))
        with self.told(f"{name} cannot be looked up"):
            info = file_system.get_file_info(path)
        return _entry(info) if info.type == FileType.File else None

    def put(self, content: Path | bytes, name: str) -> None:
        """Make bytes, or a local file's content, the file ``name``; returns when the store has all of it, or raises.

        Nobody sees a part. Once begun it is brought to its end, also by Ctrl-C: pyarrow's stream can be closed but not
        given up, and closing makes a file of what was sent so far.
        """
        with ThreadPoolExecutor(1) as apart, self.told(f"{name} cannot be written"):
            apart.submit(self._send, content, name).result()

    def _send(self, content: Path | bytes, name: str) -> None:
        file_system, path = resolve(below(self.uri, name))
        atomic = self.uri.partition("://")[0] in _OBJECT_STORES
        target = path if atomic else _hidden_beside(path)
        if not atomic:
            file_system.create_dir(path.rpartition("/")[0], recursive=True)
        try:
            with (
                io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as source,
                file_system.open_output_stream(target) as stream,
            ):
                shutil.copyfileobj(source, stream, _BLOCK_BYTES)
        except OSError as error:
            if _is_local(error):
                # the stream was closed on the way out, and what had been sent is a file now
                file_system.delete_file(target)
            raise
        if not atomic:
            file_system.move(target, path)

    def read(self, name: str) -> bytes | None:
        """A small file's content; None if there is none."""
        file_system, path = resolve(below(self.uri, name))
        with self.told(f"{name} cannot be read"):
            try:
                with file_system.open_input_stream(path) as stream:
                    return stream.readall()
            except FileNotFoundError:
                return None

    def sha256(self, name: str) -> str:
        """The hash of a file's content, read once and not kept; of nothing, if there is no such file."""
        found = hashlib.sha256()
        file_system, path = resolve(below(self.uri, name))
        with (
            self.told(f"{name} cannot be read"),
            contextlib.suppress(FileNotFoundError),
            file_system.open_input_stream(path) as stream,
        ):
            while block := stream.read_buffer(_BLOCK_BYTES):
                found.update(block)
        return found.hexdigest()

    def get(self, wanted: Mapping[str, Path]) -> None:
        """Copy files, by name, to local paths, several at a time; each appears when it is complete."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(self._get, wanted.keys(), wanted.values()))

    def _get(self, name: str, path: Path) -> None:
        file_system, remote = resolve(below(self.uri, name))
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        # before it is read: a change in between is then noticed the next time
        entry = self.look(name) if _may_be_rewritten(name) else None
        try:
            with (
                self.told(f"{name} cannot be read"),
                file_system.open_input_stream(remote) as stream,
                partial.open("wb") as file,
            ):
                shutil.copyfileobj(stream, file, _BLOCK_BYTES)
            _stamp(partial, entry)
            partial.rename(path)
        finally:
            partial.unlink(missing_ok=True)

    def delete(self, names: Iterable[str]) -> None:
        """Delete files; those that are not there are as they should be."""
        for name in names:
            file_system, path = resolve(below(self.uri, name))
            with self.told(f"{name} cannot be deleted"), contextlib.suppress(FileNotFoundError):
                file_system.delete_file(path)

    @contextlib.contextmanager
    def told(self, what: str) -> Iterator[None]:
        """Errors of the remote file system in our own words; those of this machine as they are."""
        try:
            yield
        except (OSError, pa.ArrowException) as error:
            if _is_local(error):
                raise
            raise StoreError(f"{without_options(self.uri)}: {what}: {why(error)}") from error


def _is_local(error: BaseException) -> bool:
    """Whether the operating system raised it: remote file systems give no number, or that of a missing file."""
    return isinstance(error, OSError) and error.errno not in (None, errno.ENOENT)


def _hidden_beside(path: str) -> str:
    folder, slash, name = path.rpartition("/")
    return f"{folder}{slash}.{name}.{secrets.token_hex(4)}.tmp"


def _may_be_rewritten(name: str) -> bool:
    return not _REWRITTEN_NOWHERE.intersection(name.split("/")[:-1])


def _stamp(path: Path, entry: Entry | None) -> None:
    """Give a file the time that the store has for it, by which a later change is noticed."""
    if entry is not None:
        os.utime(path, ns=(entry.modified, entry.modified))


class Home(NamedTuple):
    """Where a path below a working copy is kept."""

    store: Store
    name: str
    copy: str
    """What tells this working copy from all others."""


_COPIES: dict[Path, tuple[str, str]] = {}
"""The working copies that this process knows: their addresses, and what tells each from those of other machines."""


def home(path: Path) -> Home | None:
    """The place of a path in a store; None unless it is below a working copy, and for this machine's own files."""
    root = next((folder for folder in path.parents if folder in _COPIES), None)
    if root is None:
        return None
    parts = path.relative_to(root).parts
    if any(part.startswith(".") for part in parts):
        return None
    uri, copy = _COPIES[root]
    return Home(Store(uri), "/".join(parts), copy)


def publish(file: Path, path: Path) -> None:
    """Put ``file`` into the store under the name of ``path``, if that is below a working copy."""
    if (place := home(path)) is not None:
        place.store.put(file, place.name)
        if _may_be_rewritten(place.name):
            _stamp(file, place.store.look(place.name))


def publish_folder(new: Path, folder: Path, marker: str, parts: str) -> None:
    """Put the files of ``new`` into the store in place of those of ``folder``, if that is below a working copy.

    There is no moment at which all names change at once, so ``marker`` is deleted first and put last: without it the
    folder is not finished. Of files that ``new`` lacks only those are deleted whose names begin with ``parts``.
    """
    place = home(folder / marker)
    if place is None:
        return
    where = place.name.removesuffix(marker)
    before = {name.removeprefix(where) for name in place.store.files(where)}
    files = {path.relative_to(new).as_posix(): path for path in sorted(new.rglob("*")) if path.is_file()}
    if marker in before:
        place.store.delete([place.name])
    for name in files.keys() - {marker}:
        place.store.put(files[name], where + name)
    place.store.delete(where + name for name in sorted(before - files.keys()) if name.startswith(parts))
    place.store.put(files[marker], place.name)


def delete_folder(folder: Path) -> None:
    """Delete from the store all that is below a folder of a working copy; nothing for other folders."""
    if (place := home(folder)) is not None:
        file_system, path = resolve(below(place.store.uri, place.name))
        with place.store.told(f"{place.name} cannot be deleted"):
            file_system.delete_dir(path)


def delete(path: Path) -> None:
    """Delete from the store what a path of a working copy stands for; nothing for other paths."""
    if (place := home(path)) is not None:
        place.store.delete([place.name])


def refresh(path: Path) -> None:
    """Make one file of a working copy what the store has now; nothing for other paths."""
    if (place := home(path)) is None:
        return
    if (entry := place.store.look(place.name)) is None:
        path.unlink(missing_ok=True)
    elif not _is_current(path, place.name, entry):
        place.store.get({place.name: path})


def _is_current(path: Path, name: str, entry: Entry) -> bool:
    try:
        stat = path.stat()
    except FileNotFoundError:
        return False
    return stat.st_size == entry.size and (stat.st_mtime_ns == entry.modified or not _may_be_rewritten(name))


def check_out(uri: str) -> tuple[Path, dict[str, Entry]]:
    """The working copy of a folder of a store, rid of what the store does not hold, and the store's listing.

    Brings ``plan.parquet`` and the JSON files beside it; everything else is fetched when it is needed.
    """
    root = working_copy(uri)
    # before the store is listed: what another process finishes meanwhile must not be taken for a leftover
    local = list(_names_below(root))
    listing = Store(uri).files()
    for name in local:
        if name not in listing or not _is_current(root / name, name, listing[name]):
            (root / name).unlink(missing_ok=True)
    fetch(root / name for name in listing if "/" not in name and name.endswith((".json", "plan.parquet")))
    return root, listing


def _names_below(root: Path) -> Iterator[str]:
    """The files below a folder that are not hidden, by name."""
    for where, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        folder = "" if where == str(root) else f"{Path(where).relative_to(root).as_posix()}/"
        yield from (folder + name for name in names if not name.startswith("."))


def fetch(paths: Iterable[Path]) -> None:
    """Bring those of the paths, all below one working copy, that are not here; its store must hold them."""
    missing = {path: place for path in paths if not path.exists() and (place := home(path))}
    if missing:
        store = next(iter(missing.values())).store
        store.get({place.name: path for path, place in missing.items()})


@contextlib.contextmanager
def downloaded(uri: str) -> Iterator[Path]:
    """A folder, removed afterwards, with all that a folder of a store holds now but its locks."""
    with tempfile.TemporaryDirectory(prefix="longattn-") as folder:
        store = Store(uri)
        store.get({name: Path(folder) / name for name in store.files() if not name.startswith("locks/")})
        yield Path(folder)


def working_copy(uri: str) -> Path:
    """The folder of this machine that stands for a folder of a store; from now on this process knows it."""
    if uri.startswith("hf://"):
        raise StoreError(
            f"{uri}: each file would be a commit of its own; keep the run elsewhere, and use --write.push-to"
        )
    root = (cache_folder() / "runs" / hashlib.sha256(uri.encode()).hexdigest()[:16]).absolute()
    marker = root / ".copy"
    if not marker.exists():
        root.mkdir(parents=True, exist_ok=True)
        partial = Path(_hidden_beside(str(marker)))
        partial.write_text(secrets.token_hex(8))
        # of two processes that begin at once, both take what the first one wrote
        with contextlib.suppress(FileExistsError):
            marker.hardlink_to(partial)
        partial.unlink()
    _COPIES[root] = (uri, marker.read_text())
    return root


@contextlib.contextmanager
def claim(path: Path, owner: str, *, wait: bool, against: Callable[[str], bool] = lambda name: False) -> Iterator[None]:
    """Hold the name of ``path`` against working copies elsewhere; nothing for a path that is below none.

    Nobody has it together with another of that name, nor with one in the same folder whose name is ``against`` it.

    Who claims writes a file of its own beside those of others, and lists them afterwards: in a store that lists what
    was written before, of two that claim at once at least one sees the other, and whoever sees another withdraws. A
    claim is renewed, and counts for nothing when it has not been for two minutes by the store's own clock. Processes
    that share a working copy must already exclude each other. A second claimant waits, or gets a :class:`RunError`.
    """
    place = home(path)
    if place is None:
        yield
        return
    own = f"{place.name}/{place.copy}.txt"
    while other := _rival(place, owner.encode(), own, lambda name: name == path.name or against(name)):
        place.store.delete([own])
        if not wait:
            who = (place.store.read(other) or b"another process").decode(errors="replace")
            raise RunError(
                f"{without_options(place.store.uri)} is in use by {who}; wait for it, or {EXPIRES:.0f} s if it was "
                "killed, or choose another folder"
            )
        time.sleep(random.uniform(0.1, 1.0))
    ended = threading.Event()
    renewing = threading.Thread(target=_renew, args=(place.store, owner.encode(), own, ended), daemon=True)
    renewing.start()
    try:
        yield
    finally:
        ended.set()
        renewing.join()
        # a claim that stays expires by itself
        with contextlib.suppress(StoreError):
            place.store.delete([own])


def _rival(place: Home, note: bytes, own: str, counts: Callable[[str], bool]) -> str | None:
    """Claim, forget what has expired, and name another copy's claim that is alive, to a name that counts."""
    place.store.put(note, own)
    claims = place.store.files(str(PurePosixPath(place.name).parent))
    latest = claims[own].modified
    others = {n: of for n, of in claims.items() if Path(n).stem != place.copy and counts(Path(n).parent.name)}
    expired = {name for name, of in others.items() if latest - of.modified >= EXPIRES * 1e9}
    place.store.delete(expired)
    return min(others.keys() - expired, default=None)


def _renew(store: Store, note: bytes, own: str, ended: threading.Event) -> None:
    while not ended.wait(RENEWED):
        # the next one may succeed
        with contextlib.suppress(StoreError):
            store.put(note, own)
