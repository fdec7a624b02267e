"""A selection is a function of the set of rows: their order, the units they came in and the shards change no byte."""

import random
from typing import Any

import pyarrow as pa

from longattn.expressions import column, zscore
from longattn.selection import Formula, select
from longattn.settings import Selecting
from longattn.tables import RunFolder

WINDOWS = pa.schema(
    [
        ("window_id", pa.string()),
        ("doc_id", pa.string()),
        ("source", pa.string()),
        ("file", pa.string()),
        ("position", pa.int64()),
        ("start", pa.int64()),
        ("num_tokens", pa.int32()),
        ("char_start", pa.int64()),
        ("char_end", pa.int64()),
        ("doc_tokens", pa.int64()),
        ("overlap", pa.int32()),
    ]
)
MEASURED = pa.schema([("window_id", pa.string()), ("ds", pa.float64()), ("du", pa.float64())])


def hard_windows(chosen: random.Random) -> list[dict[str, Any]]:
    """Windows with ties, values that are no numbers, overlaps, a document read twice and a source of one window."""
    rows = []
    for number in range(60):
        doc, start = f"doc-{number // 3}", 24 * (number % 3)
        ds = chosen.choice([chosen.uniform(-1, 1), chosen.uniform(-1e9, 1e-9), 0.25, 0.25, float("nan"), float("inf")])
        rows.append(
            {
                "window_id": f"{doc}@{start}",
                "doc_id": doc,
                "source": "alone" if number == 59 else "abc"[number // 3 % 3],
                "file": "file",
                "position": number // 3,
                "start": start,
                "num_tokens": 32,
                "char_start": start,
                "char_end": start + 32,
                "doc_tokens": 100,
                "overlap": 8,
                "ds": ds,
                "du": chosen.uniform(-1e-3, 0),
            }
        )
    return [*rows, *({**row, "file": "another"} for row in rows[:3])]


def test_no_order_and_no_sharding_changes_a_byte(trials, tmp_path, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda handle: None)
    chosen = trials.random()
    rows = hard_windows(chosen)
    score = zscore(column("ds")) + 0.5 * zscore(column("du"))
    rule = Selecting(share=0.4, max_overlap=0.2)

    def selected(number: int) -> bytes:
        run = RunFolder(tmp_path / str(number))
        windows, measured = run.table("windows", {}), run.table("longattn", {})
        mixed = rows if number == 0 else chosen.sample(rows, len(rows))
        borders = sorted(chosen.choices(range(len(rows) + 1), k=chosen.randrange(6)))
        parts = [mixed[begin:end] for begin, end in zip([0, *borders], [*borders, len(rows)], strict=True)]
        units = [f"{chosen.getrandbits(64):016x}" for _ in parts]
        for unit, part in zip(units, parts, strict=True):
            for table, schema in ((windows, WINDOWS), (measured, MEASURED)):
                table.commit(unit, pa.Table.from_pylist(part, schema), {}, {})
        formula = Formula(measured, score, {"ds": column("ds"), "du": column("du")})
        threads = chosen.choice([1, 2, 3])
        output = tmp_path / f"{number}.parquet"
        select(chosen.sample(units, len(units)), windows, {"longattn": formula}, rule, output, threads=threads)
        return output.read_bytes()

    first = selected(0)
    same = [selected(number + 1) == first for number in range(trials.number(1000, 10))]
    trials.count("N5", "rows and units in another order, other units, other threads", len(same), sum(same))
