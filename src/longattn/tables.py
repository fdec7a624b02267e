"""The run folder: the one place that writes durably, and the tables, receipts and manifest it writes.

``tables/<name>-<settings hash>/unit-<unit id>.parquet`` holds one table's rows of one work unit. Beside it a receipt,
``unit-<unit id>.json``, states rows, bytes and SHA-256; a unit's table exists when its receipt does, and a file that
does not fit its receipt is damaged. Nothing is ever written in place: temporary name, write, fsync, rename, fsync of
the folder. Parquet and JSON carry a seal (:mod:`longattn.seals`), and the manifest lists the hashes of all results.
A run in an object store has a working copy here; there each file is one PUT before the rename.
"""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import re
import secrets
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from longattn import stores
from longattn.addresses import below, is_uri
from longattn.errors import DamageError, RunError
from longattn.locks import holder_of_any, locked
from longattn.records import Slice, WorkUnit
from longattn.seals import SealError, Written, check_parquet, parquet_writer, seal_json, unseal_json
from longattn.settings import fingerprint, plain

log = logging.getLogger(__name__)

TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")
SPILL_PREFIX = ".select-"
"""How folders begin in which a selection puts what does not fit into memory."""


@contextlib.contextmanager
def durable(path: Path) -> Iterator[BinaryIO]:
    """A binary file that appears under ``path``, and in its store if it has one, whole and on disk or not at all.

    A write, sync or close that fails gives the temporary file up: what the system then holds of it is unknown, and a
    second sync of the same file could report success for bytes that are lost.
    """
    make_folder(path.parent)
    temporary, opened = _open_temporary(path)
    try:
        with opened as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        stores.publish(temporary, path)
        temporary.rename(path)
    except BaseException as error:
        # what went wrong is what counts, not that the leftover could not be removed: the next start does that
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and error.filename is None:
            # a full disk names no file
            error.filename = str(path)
        raise
    sync_folder(path.parent)


def _open_temporary(path: Path) -> tuple[Path, BinaryIO]:
    """A new file beside ``path`` that is locked for as long as it is open, so that :func:`sweep` leaves it alone."""
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        file = temporary.open("xb")
        # a sweep may have it at this moment, and is about to remove it
        _hold(file.fileno(), wait=True)
        if os.fstat(file.fileno()).st_nlink:
            return temporary, file
        # a sweep came before
        file.close()


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, with their names on disk."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Put a folder's names on disk, so that a rename survives a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        error.filename = error.filename or str(folder)
        raise
    finally:
        os.close(handle)


def _hold(handle: int, *, wait: bool = False) -> bool:
    """Lock an open file or folder until it is closed; False where another process has it or locks do not work."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return False
    return True


@contextlib.contextmanager
def spilling(folder: Path) -> Iterator[Path]:
    """A temporary folder below another, locked for as long as it is there, so that :func:`sweep` leaves it alone."""
    make_folder(folder)
    with contextlib.ExitStack() as stack:
        while True:
            path = Path(tempfile.mkdtemp(dir=folder, prefix=SPILL_PREFIX))
            with contextlib.suppress(FileNotFoundError):
                handle = os.open(path, os.O_RDONLY)
                stack.callback(os.close, handle)
                # a sweep may have it at this moment, or have been there before
                _hold(handle, wait=True)
                if path.exists():
                    break
        # what cannot be removed now is swept by the next who begins
        stack.callback(shutil.rmtree, path, ignore_errors=True)
        yield path


def sweep(folder: Path) -> int:
    """Remove temporary files and folders whose process is gone; returns how many.

    A living process holds a lock on what it writes, also one on another machine where the file system passes locks on;
    what cannot be locked is left alone.
    """
    removed = 0
    for path in folder.iterdir():
        if not (TEMPORARY.fullmatch(path.name) or path.name.startswith(SPILL_PREFIX)):
            continue
        # another process may sweep at the same time
        with contextlib.suppress(OSError):
            handle = os.open(path, os.O_RDONLY)
            try:
                if _hold(handle):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
                    removed += 1
            finally:
                os.close(handle)
    return removed


def write_json(path: Path, value: Any) -> None:
    """Write JSON with sorted keys, durably; equal values give equal bytes."""
    with durable(path) as file:
        file.write(json.dumps(plain(value), indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n")


def write_sealed(path: Path, value: Mapping[str, Any]) -> None:
    """Write JSON that :func:`read_sealed` can tell from a damaged one, durably; equal values give equal bytes."""
    content = seal_json(value)
    with durable(path) as file:
        file.write(content)


def read_sealed(path: Path) -> dict[str, Any]:
    """Read what :func:`write_sealed` wrote. Raises :class:`DamageError`, or ``FileNotFoundError``."""
    content = path.read_bytes()
    try:
        return unseal_json(content)
    except ValueError as error:
        raise DamageError(path, str(error)) from error


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, durably."""
    with durable(path) as file:
        file.write(text.encode())


def append_line(path: Path, line: str) -> None:
    """Add a line to a log at once; who reads it must expect that one was cut off, where a process was killed."""
    with path.open("a+b") as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                # the line of a killed process must not swallow this one
                line = "\n" + line
        file.write(line.encode())


def write_parquet(
    path: Path, table: pa.Table, *, facts: Mapping[str, str] | None = None, row_group_rows: int = 122_880
) -> Written:
    """Write a table with page checksums, ``facts`` for its metadata and a seal, durably."""
    written = Written()
    with durable(path) as file, parquet_writer(file, table.schema, facts or {}, written) as writer:
        writer.write_table(table, row_group_size=row_group_rows)
    return written


def read_parquet(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a table of ours, with its page checksums verified. Raises :class:`DamageError`."""
    with damage_told(path), pq.ParquetFile(path, page_checksum_verification=True) as file:
        return file.read(columns)


@contextlib.contextmanager
def damage_told(path: Path) -> Iterator[None]:
    """Raise :class:`DamageError` where the library cannot read a Parquet file.

    What the system refuses (no such file, no permission, too many open files) says nothing of the file, and passes.
    """
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise DamageError(path, str(error)) from error


@dataclass(frozen=True)
class Receipt:
    """What is known of one unit's file in one table."""

    unit: str
    table: str
    settings: str
    """The fingerprint of the table's settings."""
    rows: int
    num_bytes: int
    sha256: str
    footer_bytes: int
    footer_sha256: str
    """The footer says where every column is and of which type, so this is compared before any reading."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Ledger entries of the unit, such as ``documents`` and ``rejected.bad_json``."""
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """One table of a run: a folder of unit files that were all made with the same settings."""

    run: "RunFolder"
    name: str
    settings: Mapping[str, Any]
    """Everything that changes the measured values; its fingerprint is part of the folder's name."""

    @cached_property
    def hash(self) -> str:
        """The settings' fingerprint."""
        return fingerprint(self.settings)

    @cached_property
    def folder(self) -> Path:
        """``tables/<name>-<settings hash>`` of the run."""
        return self.run.root / "tables" / f"{self.name}-{self.hash}"

    def file(self, unit: str) -> Path:
        """Where the unit's rows are, or will be."""
        return self.folder / f"unit-{unit}.parquet"

    def receipt_file(self, unit: str) -> Path:
        """Where the unit's receipt is, or will be."""
        return self.folder / f"unit-{unit}.json"

    def receipt(self, unit: str) -> Receipt | None:
        """The unit's receipt, or None if it is not in the table yet.

        Raises :class:`DamageError` for a receipt that is not as it was written or belongs elsewhere, and for a file of
        another size or footer than it states. The columns are checked when they are read, by page, and all bytes by
        :meth:`check`.
        """
        path = self.receipt_file(unit)
        self.run.fetch(path)
        try:
            receipt = Receipt(**read_sealed(path))
        except FileNotFoundError:
            return None
        except TypeError as error:
            raise DamageError(path, str(error)) from error
        if (receipt.unit, receipt.table, receipt.settings) != (unit, self.name, self.hash):
            whose = f"unit {receipt.unit} of {receipt.table}-{receipt.settings}"
            raise DamageError(path, f"it is the receipt of {whose}")
        self._check_footer(receipt)
        return receipt

    def has(self, unit: str) -> bool:
        """As :meth:`receipt`, but of a unit that only a store holds nothing is read."""
        return self.is_elsewhere(unit) or self.receipt(unit) is not None

    def is_elsewhere(self, unit: str) -> bool:
        """Whether the unit is in the table and only a store holds its receipt."""
        return self._listed(unit) and not self.receipt_file(unit).exists()

    def _listed(self, unit: str) -> bool:
        """Whether the run is in a store that held the unit's receipt and file when it was listed."""
        return all(self.run.entry(path) is not None for path in (self.receipt_file(unit), self.file(unit)))

    def is_begun(self) -> bool:
        """Whether some unit may be in the table, here or in a store; reads no file."""
        prefix = f"{self.folder.relative_to(self.run.root).as_posix()}/unit-"
        return any(name.startswith(prefix) for name in self.run.listing) or any(self.folder.glob("unit-*.json"))

    def bring(self, units: Iterable[str], *, rows: bool = True) -> None:
        """Have what a store holds of these units, or only their receipts, on this machine, many at a time.

        Each file is checked as it comes. Raises :class:`RunError` for one that is damaged in the store.
        """
        wanted = [unit for unit in units if self._listed(unit)]
        self.run.fetch(*map(self.receipt_file, wanted))
        if rows:
            missing = [unit for unit in wanted if not self.file(unit).exists()]
            self.run.fetch(*map(self.file, missing))
            for unit in missing:
                self._check_fetched(unit)

    def _check_fetched(self, unit: str) -> None:
        try:
            self.check(unit)
        except DamageError as error:
            name = error.path.relative_to(self.run.root).as_posix()
            for path in (self.receipt_file(unit), self.file(unit)):
                path.unlink(missing_ok=True)
            where = below(self.run.place, name)
            raise RunError(f"{where} is damaged: {error.problem}; delete it there and measure again") from error

    def discard(self) -> None:
        """Delete the whole table."""
        stores.delete_folder(self.folder)
        shutil.rmtree(self.folder)

    def holds(self, unit: str) -> bool:
        """Whether the unit is in the table, undamaged as far as :meth:`receipt` can tell."""
        try:
            return self.has(unit)
        except DamageError:
            return False

    def _check_footer(self, receipt: Receipt) -> None:
        path = self.file(receipt.unit)
        try:
            with path.open("rb", buffering=0) as file:
                if (size := file.seek(0, os.SEEK_END)) != receipt.num_bytes:
                    raise DamageError(path, f"it has {size} bytes, not {receipt.num_bytes}")
                file.seek(-receipt.footer_bytes, os.SEEK_END)
                footer = file.read()
        except FileNotFoundError as error:
            if (listed := self.run.entry(path)) is None:
                raise DamageError(path, "it is gone, and its receipt is there") from error
            if listed.size != receipt.num_bytes:
                raise DamageError(path, f"it has {listed.size} bytes, not {receipt.num_bytes}") from error
            # its content is looked at when it is fetched
            return
        if hashlib.sha256(footer).hexdigest() != receipt.footer_sha256:
            raise DamageError(path, "its footer is not the one that was written")

    def check(self, unit: str) -> Receipt | None:
        """As :meth:`receipt`, after reading all of the file and comparing its SHA-256."""
        receipt = self.receipt(unit)
        if receipt is not None and file_sha256(self.file(unit)) != receipt.sha256:
            raise DamageError(self.file(unit), "its content does not fit its SHA-256")
        return receipt

    def commit(self, unit: str, rows: pa.Table, counts: Mapping[str, int], versions: Mapping[str, str]) -> Receipt:
        """Write a unit's rows, then its receipt; after this the unit counts as done, before it as not begun."""
        self.describe()
        if self.receipt_file(unit).exists():
            # of a damaged file; it must not vouch for the next one before that is whole
            stores.delete(self.receipt_file(unit))
            self.receipt_file(unit).unlink()
            sync_folder(self.folder)
        facts = {"unit": unit, "table": self.name, "settings": self.hash, "rows": str(rows.num_rows)}
        written = write_parquet(self.file(unit), rows, facts=facts)
        receipt = Receipt(
            unit, self.name, self.hash, rows.num_rows, **asdict(written), counts=dict(counts), versions=dict(versions)
        )
        write_sealed(self.receipt_file(unit), asdict(receipt))
        return receipt

    def describe(self) -> None:
        """Write ``settings.json`` if it is not there."""
        self.run.fetch(self.folder / "settings.json")
        if not (self.folder / "settings.json").exists():
            write_sealed(self.folder / "settings.json", self.settings)

    def read(self, units: Iterable[str], columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The rows of these units, one table each, in the order given.

        Raises :class:`DamageError` for bytes that are not those that were written, and :class:`RunError` for a unit
        that is not in the table.
        """
        units = list(units)
        self.bring(units)
        for unit in units:
            yield read_parquet(self._checked(unit), columns)

    def schema(self, unit: str) -> pa.Schema:
        """Columns and types, as this unit's file has them; raises what :meth:`read` raises."""
        self.bring([unit])
        return pq.read_schema(self._checked(unit))

    def _checked(self, unit: str) -> Path:
        if self.receipt(unit) is None:
            raise RunError(f"unit {unit} has no table {self.name!r} at {self.file(unit)}; measure it first")
        return self.file(unit)


PLAN_SCHEMA = pa.schema(
    [
        ("unit", pa.string()),
        ("file", pa.string()),
        ("size", pa.int64()),
        ("modified", pa.string()),
        ("source", pa.string()),
        ("root", pa.string()),
        ("start", pa.int64()),
        ("stop", pa.int64()),
        ("covers", pa.int64()),
        ("sha256", pa.string()),
    ]
)


@dataclass(frozen=True)
class RunFolder:
    """A run on disk: plan, tables, selection, export, report and the manifest that ties them together."""

    root: Path
    listing: Mapping[str, stores.Entry] = field(default_factory=dict, compare=False, repr=False)
    """Of a run in a store, what that held when it was listed, by name below the root; empty for others."""

    @classmethod
    def at(cls, place: str | Path) -> "RunFolder":
        """The run of a local folder, or of the address of one in a store: its working copy, brought up to date.

        Raises :class:`StoreError` for a store that cannot be used.
        """
        place = str(place).removeprefix("file://")
        if is_uri(place):
            return cls(*stores.check_out(place))
        if re.match(r"[a-z][a-z0-9+.-]+:/(?!/)", place):
            raise ValueError(f"a Path loses a slash of an address, as in {place!r}; give it as a text")
        return cls(Path(place))

    def __reduce__(self) -> tuple[Any, ...]:
        # another process, on another machine perhaps, has its own working copy; the listing may be long, and who only
        # commits needs none
        found = stores.home(self.root / "plan.parquet")
        return (_elsewhere, (found.store.uri, found.name)) if found else (RunFolder, (self.root,))

    @property
    def place(self) -> str:
        """The folder's path, or the address that it is the working copy of."""
        found = stores.home(self.root / "plan.parquet")
        return found.store.uri if found else str(self.root)

    def below(self, folder: str) -> "RunFolder":
        """A run within this one."""
        inner = {n.removeprefix(f"{folder}/"): e for n, e in self.listing.items() if n.startswith(f"{folder}/")}
        return RunFolder(self.root / folder, inner)

    def entry(self, path: Path) -> stores.Entry | None:
        """What the listing of a store says of a path below the run; None for a local run."""
        return self.listing.get(path.relative_to(self.root).as_posix()) if self.listing else None

    def holds(self, name: str) -> bool:
        """Whether the run has a file of this name, here or in its store."""
        return (self.root / name).exists() or self.entry(self.root / name) is not None

    def fetch(self, *paths: Path) -> None:
        """Have files on this machine that the store held when it was listed; nothing for a local run."""
        stores.fetch(path for path in paths if self.entry(path) is not None)

    def table(self, name: str, settings: Mapping[str, Any]) -> Table:
        """The table of this name made with exactly these settings, whether or not any unit of it exists yet."""
        return Table(self, name, plain(settings))

    def write_plan(self, units: Sequence[WorkUnit]) -> None:
        """Write ``plan.parquet``, a row per slice in plan order, if it is not the plan already."""
        path = self.root / "plan.parquet"
        if path.exists() and self.plan() == list(units):
            return
        rows = [{"unit": unit.id, **asdict(part)} for unit in units for part in unit.slices]
        write_parquet(path, pa.Table.from_pylist(rows, schema=PLAN_SCHEMA))

    def plan(self) -> list[WorkUnit]:
        """The planned units in order; empty when nothing was planned yet. Raises :class:`DamageError`."""
        path = self.root / "plan.parquet"
        if not path.exists():
            return []
        check_seal(path)
        slices: dict[str, list[Slice]] = {}
        for row in read_parquet(path).to_pylist():
            slices.setdefault(row.pop("unit"), []).append(Slice(**row))
        return [WorkUnit(tuple(parts)) for parts in slices.values()]

    def manifest(self) -> dict[str, Any]:
        """What ``manifest.json`` holds: settings, hashes, versions, ledger; empty before the first measurement.

        Raises :class:`DamageError`.
        """
        path = self.root / "manifest.json"
        return read_sealed(path) if path.exists() else {}

    def update_manifest(self, **sections: Any) -> None:
        """Replace these sections of ``manifest.json`` and leave the others as they are."""
        self.change_manifest(lambda manifest: {**manifest, **sections})

    def change_manifest(self, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        """Replace ``manifest.json`` by what is made of it as it is now, whoever else changes it at the same time."""
        with self.lock("manifest", wait=True):
            stores.refresh(self.root / "manifest.json")
            write_sealed(self.root / "manifest.json", change(self.manifest()))

    @contextlib.contextmanager
    def replacing(self, *names: str, of: str | None = None) -> Iterator[dict[str, Any]]:
        """Around the writing of files that cannot carry a seal: the manifest lists them with their SHA-256.

        Before, it notes of those it lists that they are being replaced, so that a process that is stopped in between
        leaves nothing that looks like damage. After, it lists them, in one write with the sections that are put into
        the dictionary given. ``of`` names the listed file that these are made from, as it is listed at the beginning.
        Who calls this holds a lock, so that nobody else replaces the same files.
        """
        manifest = self.manifest()
        source = {} if of is None else {"of": manifest["files"][of]["sha256"]}
        if {*names} & manifest.get("files", {}).keys():
            self.change_manifest(lambda now: {**now, "replacing": _with_replaced(now, names)})
        sections: dict[str, Any] = {}
        yield sections
        hashes = {name: file_sha256(self.root / name) for name in names}

        def finish(manifest: dict[str, Any]) -> dict[str, Any]:
            files = dict(manifest.get("files", {}))
            files |= {name: {"sha256": digest, **source} for name, digest in hashes.items()}
            replacing = sorted(set(manifest.get("replacing", ())) - {*names})
            return {**manifest, **sections, "files": files, "replacing": replacing}

        self.change_manifest(finish)

    def listed(self, name: str, remedy: str) -> Path:
        """A file that the manifest lists, after comparing its SHA-256.

        Raises :class:`RunError` with the remedy if it was never finished, :class:`DamageError` if it is another one.
        """
        manifest, path = self.manifest(), self.root / name
        self.fetch(path)
        entry = manifest.get("files", {}).get(name)
        if entry is None or not path.exists():
            raise RunError(f"{path} is not there, or whoever wrote it was stopped; {remedy}")
        if file_sha256(path) != entry["sha256"]:
            if name in manifest.get("replacing", ()):
                raise RunError(f"whoever replaced {path} was stopped; {remedy}")
            raise DamageError(path, "its content does not fit the SHA-256 in manifest.json")
        return path

    def sweep(self) -> None:
        """Remove what stopped processes left half-written; what living ones write stays."""
        apart = [self.root / name for name in ("pilots", "quarantine")]
        folders = [self.root, *apart, *(self.root / "tables").glob("*-*")]
        removed = sum(sweep(folder) for folder in folders if folder.is_dir())
        if removed:
            log.info("removed %d half-written files of a process that was stopped", removed)

    @contextlib.contextmanager
    def lock(self, name: str | None = None, *, wait: bool = False) -> Iterator[None]:
        """Hold the folder, or a part of it such as a shard, for this process.

        A second process waits, or gets a :class:`RunError` that names the first; so does one that wants the whole
        folder while shards work in it, or the other way round. Raises :class:`RunError` for a folder that cannot be
        written, before anything else is done.
        """
        with contextlib.ExitStack() as stack:
            try:
                make_folder(self.root)
                stack.enter_context(locked(self._lock_file(name), wait=wait))
            except OSError as error:
                raise RunError(f"{self.place} cannot be written: {error.strerror or error}") from error
            if name is None or "/" in name:
                others = self.root.glob(".lock-*-of-*[0-9]") if name is None else [self._lock_file(None)]
                if owner := holder_of_any(list(others)):
                    raise RunError(f"{self.place} is in use by {owner}; wait for it or choose another folder")
            # processes of this machine are kept apart above, others here
            owner = f"process {os.getpid()} on {socket.gethostname()}"
            part = (name or "run").replace("/", "-of-")
            with stores.claim(self.root / "locks" / part, owner, wait=wait, against=_excluded_by(part)):
                yield

    def _lock_file(self, name: str | None) -> Path:
        return self.root / (".lock" if name is None else f".lock-{name.replace('/', '-of-')}")


def _excluded_by(part: str) -> Callable[[str], bool]:
    """Which parts of a run nobody may hold while another has this one: the whole run and its shards."""
    if part == "run":
        return lambda other: "-of-" in other
    return lambda other: other == "run" and "-of-" in part


def _with_replaced(manifest: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    """The files that are being replaced, these among them if they are listed."""
    return sorted(({*names} & manifest["files"].keys()).union(manifest.get("replacing", ())))


def _elsewhere(uri: str, plan: str) -> RunFolder:
    """The run of another process, or the part of one, whose ``plan.parquet`` has this name in a store."""
    return RunFolder((stores.working_copy(uri) / plan).parent)


def write_chunks(path: Path, schema: pa.Schema, tables: Iterable[pa.Table]) -> int:
    """Write tables one after another into one Parquet file, durably; returns the number of rows."""
    rows = 0
    with durable(path) as file, parquet_writer(file, schema, {}, Written()) as writer:
        for table in tables:
            writer.write_table(table)
            rows += table.num_rows
    return rows


def check_seal(path: Path) -> None:
    """Compare a Parquet file of ours with its seal. Raises :class:`DamageError`."""
    try:
        with path.open("rb") as file:
            check_parquet(file)
    except SealError as error:
        raise DamageError(path, str(error)) from error


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
