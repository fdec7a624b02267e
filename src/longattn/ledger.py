"""What all units together add up to: every record read is accounted for, and every one that was rejected is named."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow.compute as pc

from longattn.errors import LongAttnError
from longattn.measuring import Job
from longattn.records import WorkUnit
from longattn.tables import Receipt, Table


class LedgerError(LongAttnError):
    """What was read and what became of it do not add up: the tables must not be used."""


def balance(job: Job, units: Sequence[WorkUnit]) -> Counter[str]:
    """What was read and what became of it, summed over the units that are on disk.

    ``documents = windowed + too_short + rejected.*`` and, per scorer, ``windows = scored + non_finite``. Raises
    :class:`LedgerError` if that does not hold.
    """
    total: Counter[str] = Counter()
    for receipt in _receipts(job.documents, units):
        total.update(receipt.counts)
    for row in _duplicates(job, units):
        total[row["status"]] -= 1
        total["rejected.duplicate_id"] += 1
    became = total["windowed"] + total["too_short"] + sum(_rejected(total).values())
    if became != total["documents"]:
        raise LedgerError(f"{total['documents']} documents were read but {became} are accounted for: {dict(total)}")
    for scorer in job.scorers:
        for receipt in _receipts(job.table(scorer), units):
            windows = job.windows.receipt(receipt.unit)
            if windows is None or windows.rows != receipt.rows:
                raise LedgerError(f"{scorer.name} holds {receipt.rows} rows for unit {receipt.unit}, not its windows")
            total[f"scored.{scorer.name}"] += receipt.rows - receipt.counts["non_finite"]
            total[f"non_finite.{scorer.name}"] += receipt.counts["non_finite"]
    return total


def _rejected(counts: Mapping[str, int]) -> dict[str, int]:
    return {key: number for key, number in counts.items() if key.startswith("rejected.")}


def rejects(job: Job, units: Sequence[WorkUnit]) -> Iterator[dict[str, Any]]:
    """The lines of ``rejects.jsonl``: records that became no document, in plan order, then duplicate ids."""
    columns = ["file", "line", "position", "reason", "detail"]
    lines_before: Counter[str] = Counter()
    for unit in units:
        receipt = job.documents.receipt(unit.id)
        if receipt is None:
            continue
        part = unit.slices[0]
        if _rejected(receipt.counts):
            table = next(job.documents.read([unit.id], [*columns, "status"]))
            for row in table.filter(pc.field("status") == "rejected").select(columns).to_pylist():
                if row["line"] is not None and part.start:
                    # lines are counted from the start of a slice; those of the slices before it come first
                    row["line"] += lines_before[part.file]
                yield row
        lines_before[part.file] += receipt.counts.get("lines", 0)
    for row in _duplicates(job, units):
        detail = f"id {row['doc_id']!r} was read before at {row['first']}"
        yield {name: row.get(name) for name in columns} | {"reason": "duplicate_id", "detail": detail}


def _duplicates(job: Job, units: Sequence[WorkUnit]) -> list[dict[str, Any]]:
    """Documents whose id an earlier one has, earlier by file and position."""
    import duckdb

    files = [str(job.documents.file(receipt.unit)) for receipt in _receipts(job.documents, units)]
    if not files:
        return []
    query = """
        WITH documents AS (SELECT * FROM read_parquet($files) WHERE status <> 'rejected'),
        -- only ids that may be double are compared as text, so that memory holds hashes, not names
        doubled AS (SELECT hash(doc_id) AS h FROM documents GROUP BY h HAVING count(*) > 1)
        SELECT doc_id, file, line, position, status,
               first_value(file || ':' || position) OVER same AS first
        FROM documents WHERE hash(doc_id) IN (SELECT h FROM doubled)
        WINDOW same AS (PARTITION BY doc_id ORDER BY file, position)
        QUALIFY row_number() OVER same > 1
        ORDER BY file, position
    """
    with duckdb.connect() as connection:
        found = connection.execute(query, {"files": files})
        names = [column[0] for column in found.description]
        return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


def _receipts(table: Table, units: Sequence[WorkUnit]) -> Iterator[Receipt]:
    """The receipts of the units that are done, in plan order."""
    for unit in units:
        if receipt := table.receipt(unit.id):
            yield receipt
