"""The run folder: the one place that writes durably, and the tables, receipts and manifest it writes.

``tables/<name>-<settings hash>/unit-<unit id>.parquet`` holds one table's rows of one work unit. Beside it a receipt,
``unit-<unit id>.json``, states rows, bytes and SHA-256; a unit's table exists when its receipt does and the file
fits it. Nothing is ever written in place: temporary name, write, fsync, rename, fsync of the folder.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from longattn.errors import RunError
from longattn.records import Slice, WorkUnit
from longattn.settings import fingerprint, plain


@contextlib.contextmanager
def durable(path: Path) -> Iterator[BinaryIO]:
    """A binary file that appears under ``path`` whole and on disk, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Put a folder's names on disk, so that a rename survives a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, value: Any) -> None:
    """Write JSON with sorted keys, durably; equal values give equal bytes."""
    with durable(path) as file:
        file.write(json.dumps(plain(value), indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n")


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, durably."""
    with durable(path) as file:
        file.write(text.encode())


def write_parquet(path: Path, table: pa.Table, *, row_group_rows: int = 122_880) -> None:
    """Write a table with page checksums, durably."""
    with durable(path) as file, parquet_writer(file, table.schema) as writer:
        writer.write_table(table, row_group_size=row_group_rows)


def parquet_writer(file: BinaryIO, schema: pa.Schema) -> pq.ParquetWriter:
    """A Parquet writer with the settings that every file of a run has: zstd and a checksum for each page."""
    # a dictionary costs time, and pays only for columns of few values
    few: Any = [name for name in ("source", "file", "num_tokens", "status", "reason") if name in schema.names]
    return pq.ParquetWriter(file, schema, compression="zstd", write_page_checksum=True, use_dictionary=few)


def read_parquet(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a table of ours, with its page checksums verified; a damaged file raises :class:`RunError`."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            return file.read(columns)
    except (OSError, pa.ArrowInvalid) as error:
        raise RunError(f"{path} is damaged ({error}); delete it and run the same command to make it again") from error


@dataclass(frozen=True)
class Receipt:
    """What is known of one unit's file in one table."""

    unit: str
    rows: int
    num_bytes: int
    sha256: str
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

    @property
    def hash(self) -> str:
        """The settings' fingerprint."""
        return fingerprint(self.settings)

    @property
    def folder(self) -> Path:
        """``tables/<name>-<settings hash>`` of the run."""
        return self.run.root / "tables" / f"{self.name}-{self.hash}"

    def file(self, unit: str) -> Path:
        """Where the unit's rows are, or will be."""
        return self.folder / f"unit-{unit}.parquet"

    def receipt(self, unit: str) -> Receipt | None:
        """The unit's receipt if its file is there in the stated size, else None; :meth:`verify` checks contents."""
        try:
            receipt = Receipt(**json.loads((self.folder / f"unit-{unit}.json").read_bytes()))
            size = self.file(unit).stat().st_size
        except (FileNotFoundError, ValueError, TypeError):
            return None
        return receipt if size == receipt.num_bytes else None

    def commit(self, unit: str, rows: pa.Table, counts: Mapping[str, int], versions: Mapping[str, str]) -> Receipt:
        """Write a unit's rows, then its receipt; after this the unit counts as done, before it as not begun."""
        if not (self.folder / "settings.json").exists():
            write_json(self.folder / "settings.json", self.settings)
        path = self.file(unit)
        write_parquet(path, rows)
        receipt = Receipt(unit, rows.num_rows, path.stat().st_size, _sha256(path), dict(counts), dict(versions))
        write_json(self.folder / f"unit-{unit}.json", asdict(receipt))
        return receipt

    def read(self, units: Iterable[str], columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The rows of these units, one table each, in the order given."""
        for unit in units:
            yield read_parquet(self.file(unit), columns)

    def verify(self, units: Iterable[str]) -> list[str]:
        """Units whose file is missing or differs from the SHA-256 of its receipt."""
        return [u for u in units if (receipt := self.receipt(u)) is None or _sha256(self.file(u)) != receipt.sha256]


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
    ]
)


@dataclass(frozen=True)
class RunFolder:
    """A run on disk: plan, tables, selection, export, report and the manifest that ties them together."""

    root: Path

    def table(self, name: str, settings: Mapping[str, Any]) -> Table:
        """The table of this name made with exactly these settings, whether or not any unit of it exists yet."""
        return Table(self, name, plain(settings))

    def write_plan(self, units: Sequence[WorkUnit]) -> None:
        """Write ``plan.parquet``: a row per slice, in plan order."""
        rows = [{"unit": unit.id, **asdict(part)} for unit in units for part in unit.slices]
        write_parquet(self.root / "plan.parquet", pa.Table.from_pylist(rows, schema=PLAN_SCHEMA))

    def plan(self) -> list[WorkUnit]:
        """The planned units in order; empty when nothing was planned yet."""
        path = self.root / "plan.parquet"
        if not path.exists():
            return []
        slices: dict[str, list[Slice]] = {}
        for row in read_parquet(path).to_pylist():
            slices.setdefault(row.pop("unit"), []).append(Slice(**row))
        return [WorkUnit(tuple(parts)) for parts in slices.values()]

    def manifest(self) -> dict[str, Any]:
        """What ``manifest.json`` holds: settings, hashes, versions, ledger; empty before the first measurement."""
        path = self.root / "manifest.json"
        return json.loads(path.read_bytes()) if path.exists() else {}

    def update_manifest(self, **sections: Any) -> None:
        """Replace these sections of ``manifest.json`` and leave the others as they are."""
        with self.lock("manifest", wait=True):
            write_json(self.root / "manifest.json", {**self.manifest(), **plain(sections)})

    @contextlib.contextmanager
    def lock(self, name: str | None = None, *, wait: bool = False) -> Iterator[None]:
        """Hold the folder, or a part of it such as a shard, for this process.

        A second process waits, or gets a :class:`RunError` that names the first.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        path = self.root / (".lock" if name is None else f".lock-{name.replace('/', '-of-')}")
        with path.open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                file.seek(0)
                owner = file.read().strip() or "another process"
                raise RunError(f"{self.root} is in use by {owner}; wait for it or choose another folder") from error
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            file.flush()
            yield


def write_chunks(path: Path, schema: pa.Schema, tables: Iterable[pa.Table]) -> int:
    """Write tables one after another into one Parquet file, durably; returns the number of rows."""
    rows = 0
    with durable(path) as file, parquet_writer(file, schema) as writer:
        for table in tables:
            writer.write_table(table)
            rows += table.num_rows
    return rows


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
