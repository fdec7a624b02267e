"""What all units together add up to: every record read is accounted for, and every one that was rejected is named."""

import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from longattn.double_ids import double_ids
from longattn.errors import LongAttnError
from longattn.measuring import Job
from longattn.quarantine import Quarantine
from longattn.records import WorkUnit
from longattn.tables import Receipt, RunFolder, Table, durable
from longattn.versions import Writers, recorded


class LedgerError(LongAttnError):
    """What was read and what became of it do not add up: the tables must not be used."""


@dataclass(frozen=True)
class Books:
    """What the ledger is made of: the tables of a run as they are on disk, without the settings that made them."""

    documents: Table
    windows: Table
    scorers: Mapping[str, Table]
    units: Sequence[WorkUnit]
    writers: Writers = field(default_factory=Writers)
    """Versions that wrote what was looked at so far."""

    @classmethod
    def of(cls, job: Job, units: Sequence[WorkUnit]) -> "Books":
        """The tables that this job measures."""
        return cls(job.documents, job.windows, {scorer.name: job.table(scorer) for scorer in job.scorers}, units)

    @property
    def quarantine(self) -> Quarantine:
        """What is left out of the run."""
        return Quarantine(self.documents.run)

    @property
    def folders(self) -> set[str]:
        """Names of the tables' folders."""
        return {table.folder.name for table in (self.documents, self.windows, *self.scorers.values())}

    @cached_property
    def receipts(self) -> dict[str, Receipt]:
        """Those of the documents table, by unit, in plan order."""
        self.documents.bring((unit.id for unit in self.units), rows=False)
        self.writers.note(self.documents)
        found = {unit.id: receipt for unit in self.units if (receipt := self.documents.receipt(unit.id))}
        for receipt in found.values():
            self.writers.note(self.documents, receipt)
        return found

    @cached_property
    def duplicates(self) -> pa.Table:
        """Documents whose id an earlier one has, as :func:`double_ids` finds them."""
        return double_ids(self.documents, list(self.receipts))


def balance(books: Books) -> Counter[str]:
    """What was read and what became of it, summed over the units that are on disk.

    ``documents = windowed + too_short + rejected.*`` and, per scorer, ``windows = scored + non_finite + failed`` of
    the units that it has measured or that are left out. Raises :class:`LedgerError` if that does not hold.
    """
    total: Counter[str] = Counter()
    for receipt in books.receipts.values():
        total.update(receipt.counts)
    for status in books.duplicates["status"].value_counts().to_pylist():
        total[status["values"]] -= status["counts"]
        total["rejected.duplicate_id"] += status["counts"]
    became = total["windowed"] + total["too_short"] + sum(_rejected(total).values())
    if became != total["documents"]:
        raise LedgerError(f"{total['documents']} documents were read but {became} are accounted for: {dict(total)}")
    books.windows.bring((unit.id for unit in books.units), rows=False)
    # a unit has an entry for each set of scorers that it was left out with
    left_out: defaultdict[str, set[str]] = defaultdict(set)
    for entry in books.quarantine.entries():
        if entry.whole:
            left_out[entry.unit].update(entry.tables)
    for name, table in books.scorers.items():
        books.writers.note(table)
        table.bring((unit.id for unit in books.units), rows=False)
        for unit in books.units:
            windows = books.windows.receipt(unit.id)
            books.writers.note(books.windows, windows)
            if (receipt := table.receipt(unit.id)) is None:
                if windows is not None and table.folder.name in left_out[unit.id]:
                    total[f"failed.{name}"] += windows.rows
                continue
            books.writers.note(table, receipt)
            if windows is None or windows.rows != receipt.rows:
                raise LedgerError(f"{name} holds {receipt.rows} rows for unit {unit.id}, not its windows")
            bad, failed = receipt.counts["non_finite"], receipt.counts.get("failed", 0)
            total[f"scored.{name}"] += receipt.rows - bad - failed
            total[f"non_finite.{name}"] += bad
            total[f"failed.{name}"] += failed
    total["units_failed"] = sum(bool(left_out[unit.id] & books.folders) for unit in books.units)
    return total


def _rejected(counts: Mapping[str, int]) -> dict[str, int]:
    return {key: number for key, number in counts.items() if key.startswith("rejected.")}


def rejects(books: Books) -> Iterator[dict[str, Any]]:
    """The lines of ``rejects.jsonl``: records that became no document, in plan order, duplicate ids, failures."""
    columns = ["file", "line", "position", "reason", "detail"]
    # lines are counted from the start of a slice; those of the slices before it come first, where all were read
    lines_before: dict[str, int | None] = {}
    for unit in books.units:
        receipt, part = books.receipts.get(unit.id), unit.slices[0]
        before = lines_before.get(part.file, 0) if part.start else 0
        if receipt is None:
            lines_before[part.file] = None
            continue
        if _rejected(receipt.counts):
            table = next(books.documents.read([unit.id], [*columns, "status"]))
            for row in table.filter(pc.field("status") == "rejected").select(columns).to_pylist():
                if row["line"] is not None:
                    row["line"] = None if before is None else before + row["line"]
                yield row
        lines_before[part.file] = None if before is None else before + receipt.counts.get("lines", 0)
    for row in itertools.chain.from_iterable(map(pa.RecordBatch.to_pylist, books.duplicates.to_batches())):
        detail = f"id {row['doc_id']!r} was read before at {row['first']}"
        yield {name: row.get(name) for name in columns} | {"reason": "duplicate_id", "detail": detail}
    for entry in books.quarantine.entries():
        # those that could not be cut are rows of the documents table
        if entry.stage == "measure" and books.folders & set(entry.tables):
            for one in entry.failures:
                detail = f"not measured ({', '.join(entry.tables)}): {one.detail}"
                yield {"file": one.file, "line": None, "position": one.position, "reason": one.reason, "detail": detail}


def add_up(run: RunFolder, books: Books) -> Counter[str]:
    """Write ``rejects.jsonl``, the ledger of all units that are on disk, and the versions that wrote them."""
    # of two processes, the last one to write must be the last to look as well
    with run.lock("ledger", wait=True), run.replacing("rejects.jsonl") as sections:
        ledger = balance(books)
        note_versions(run, books.writers)
        with durable(run.root / "rejects.jsonl") as file:
            for line in rejects(books):
                file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
        sections.update(ledger=ledger)
    return ledger


def note_versions(run: RunFolder, writers: Writers) -> None:
    """Have the manifest name the versions that wrote these tables, if it does not."""
    manifest, found = run.manifest(), writers.tables()
    if recorded(manifest, found) != manifest:
        run.change_manifest(lambda now: recorded(now, found))
