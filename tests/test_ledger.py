"""The ledger of hand-made tables: every sum, every line of rejects, every way not to add up."""

import json
from collections import Counter

import pyarrow as pa
import pytest

from longattn.ledger import Books, LedgerError, add_up, balance, rejects
from longattn.measuring import DOCUMENTS
from longattn.quarantine import Entry, Failure
from longattn.records import Slice, WorkUnit
from longattn.tables import RunFolder


def unit_of(file, start=0, stop=None):
    return WorkUnit((Slice(file, size=100, modified="", start=start, stop=stop),))


def document(unit, position, status="windowed", doc_id=None, line=None, reason=None, detail=None):
    file = unit.slices[0].file
    given = {"doc_id": doc_id or f"{file}:{position}", "file": file, "position": position, "line": line}
    return given | {"status": status, "reason": reason, "detail": detail}


def enter(books, unit, rows, windows=0, scored=None, **counts):
    """Put a unit into the tables: its documents, so many windows, and per scorer what became of them."""
    stati = Counter(f"rejected.{row['reason']}" if row["status"] == "rejected" else row["status"] for row in rows)
    counted = {**stati, "documents": len(rows), "windows": windows, **counts}
    books.documents.commit(unit.id, pa.Table.from_pylist(rows, DOCUMENTS), counted, {})
    books.windows.commit(unit.id, pa.table({"window_id": [f"{unit.id}@{i}" for i in range(windows)]}), {}, {})
    for name, became in (scored or {}).items():
        values = pa.table({"value": [0.0] * became.pop("rows", windows)})
        books.scorers[name].commit(unit.id, values, {"non_finite": 0} | became, {})


@pytest.fixture
def make(tmp_path):
    run = RunFolder(tmp_path / "run")
    given = {"length": 64}

    def made(*units):
        scorers = {name: run.table(name, {**given, "name": name}) for name in ("first", "second")}
        return Books(run.table("documents", given), run.table("windows", given), scorers, units)

    return made


def test_counts_are_summed_over_units_and_scorers(make):
    a, b, absent = unit_of("a"), unit_of("b"), unit_of("c")
    books = make(a, b, absent)
    rows = [document(a, 0), document(a, 1, "too_short"), document(a, 2, "rejected", reason="empty")]
    enter(books, a, rows, windows=5, scored={"first": {"non_finite": 2, "failed": 1}, "second": {}})
    enter(books, b, [document(b, 0), document(b, 1)], windows=3, scored={"first": {"non_finite": 1}})
    assert +balance(books) == {
        "documents": 5,
        "windowed": 3,
        "too_short": 1,
        "rejected.empty": 1,
        "windows": 8,
        "scored.first": 4,
        "non_finite.first": 3,
        "failed.first": 1,
        "scored.second": 5,
    }


@pytest.mark.parametrize("status", ["windowed", "too_short", "rejected.empty"])
@pytest.mark.parametrize("error", [1, -1])
def test_a_document_too_many_or_too_few_is_an_error(make, status, error):
    unit = unit_of("a")
    books = make(unit)
    rows = [document(unit, 0), document(unit, 1, "too_short"), document(unit, 2, "rejected", reason="empty")]
    enter(books, unit, rows, **{status: 1 + error})
    with pytest.raises(LedgerError, match=f"^3 documents were read but {3 + error} are accounted for: .*'{status}'"):
        balance(books)


@pytest.mark.parametrize("rows", [1, 3])
def test_other_windows_than_were_cut_are_an_error(make, rows):
    unit = unit_of("a")
    books = make(unit)
    enter(books, unit, [document(unit, 0)], windows=2, scored={"first": {"rows": rows}})
    with pytest.raises(LedgerError, match=f"^first holds {rows} rows for unit {unit.id}, not its windows$"):
        balance(books)


def test_values_without_windows_are_an_error(make):
    unit = unit_of("a")
    books = make(unit)
    books.scorers["first"].commit(unit.id, pa.table({"value": [0.0]}), {"non_finite": 0}, {})
    with pytest.raises(LedgerError, match="first holds 1 rows for unit"):
        balance(books)


def test_units_that_are_left_out_have_failed_once_however_many_entries_they_have(make):
    a, b, c = units = unit_of("a"), unit_of("b"), unit_of("c")
    books = make(*units)
    enter(books, a, [document(a, 0)], windows=4, scored={"first": {}})
    enter(books, b, [document(b, 0)], windows=2, scored={"first": {}, "second": {}})
    folders = {name: table.folder.name for name, table in books.scorers.items()}
    for unit, tables, whole in (
        (a, (folders["second"],), "crashed twice"),
        (a, ("other-1", folders["second"]), "crashed twice"),
        (b, ("other-1",), "under other settings"),
        (c, tuple(folders.values()), "no windows were ever cut"),
    ):
        books.quarantine.put(Entry(unit.id, "measure", tables, (), whole=whole))
    books.quarantine.put(Entry(b.id, "measure", (folders["first"],), ("b",), (Failure("b", 0, "failed", "why"),)))
    found = balance(books)
    assert {name: found[name] for name in ("units_failed", "failed.first", "failed.second")} == {
        "units_failed": 2,
        "failed.first": 0,
        "failed.second": 4,
    }
    assert (found["scored.first"], found["scored.second"]) == (6, 2)


def test_of_documents_with_one_id_the_first_by_file_and_position_counts(make):
    b, a = units = unit_of("b"), unit_of("a")
    books = make(*units)
    again = {"doc_id": "same"}
    rows = [document(b, 3, **again, line=1), document(b, 20, "too_short", **again), document(b, 30)]
    enter(books, b, rows, windows=1)
    enter(books, a, [document(a, 7, **again), document(a, 9, "rejected", **again, reason="empty")], windows=1)
    found = balance(books)
    assert +found == {
        "documents": 5,
        "windowed": 2,
        "rejected.duplicate_id": 2,
        "rejected.empty": 1,
        "windows": 2,
    }
    told = [line for line in rejects(books) if line["reason"] == "duplicate_id"]
    detail = "id 'same' was read before at a:7"
    assert told == [
        {"file": "b", "line": 1, "position": 3, "reason": "duplicate_id", "detail": detail},
        {"file": "b", "line": None, "position": 20, "reason": "duplicate_id", "detail": detail},
    ]


def test_lines_are_counted_from_the_start_of_a_file(make):
    first, second, third, other = units = unit_of("a", 0, 10), unit_of("a", 10, 20), unit_of("a", 20), unit_of("b")
    books = make(*units)

    def broken(unit, line):
        return document(unit, 5, "rejected", line=line, reason="bad_json", detail="cut off")

    enter(books, first, [document(first, 0, line=1), broken(first, 4)], lines=4)
    enter(books, second, [broken(second, 2), document(second, 8, "rejected", reason="empty")], lines=3)
    enter(books, third, [broken(third, 1)], lines=1)
    enter(books, other, [broken(other, 6)], lines=6)
    told = list(rejects(books))
    assert [(line["file"], line["line"]) for line in told] == [("a", 4), ("a", 6), ("a", None), ("a", 8), ("b", 6)]
    assert told[0] == {"file": "a", "line": 4, "position": 5, "reason": "bad_json", "detail": "cut off"}
    # nobody knows how many lines are in what was not read
    books.documents.receipt_file(second.id).unlink()
    fewer = make(*units)
    assert [(line["file"], line["line"]) for line in rejects(fewer)] == [("a", 4), ("a", None), ("b", 6)]


def test_a_failure_to_measure_is_told_to_those_who_measure_it(make):
    unit = unit_of("a")
    books = make(unit)
    enter(books, unit, [document(unit, 0)], windows=1)
    mine, failures = books.scorers["first"].folder.name, (Failure("a", 12, "crashed", "exit code -9"),)
    books.quarantine.put(Entry(unit.id, "measure", (mine, "other-1"), ("a",), failures))
    books.quarantine.put(Entry(unit.id, "measure", ("other-1",), ("a",), failures))
    cut = tuple(table.folder.name for table in (books.documents, books.windows))
    books.quarantine.put(Entry(unit.id, "cut", cut, ("a",), failures))
    detail = f"not measured ({mine}, other-1): exit code -9"
    assert list(rejects(books)) == [
        {"file": "a", "line": None, "position": 12, "reason": "crashed", "detail": detail},
    ]


def test_what_adds_up_is_written_down(make):
    unit = unit_of("ä")
    books = make(unit)
    enter(
        books, unit, [document(unit, 0), document(unit, 1, "rejected", line=2, reason="empty", detail="é")], windows=1
    )
    run = books.documents.run
    assert add_up(run, books) == balance(books)
    assert run.manifest()["ledger"] == dict(balance(books))
    text = run.listed("rejects.jsonl", "").read_text("utf-8")
    assert "é" in text
    assert [json.loads(line) for line in text.splitlines()] == list(rejects(books))


def test_what_does_not_add_up_leaves_no_ledger(make):
    unit = unit_of("a")
    books = make(unit)
    enter(books, unit, [document(unit, 0)], windowed=2)
    with pytest.raises(LedgerError):
        add_up(books.documents.run, books)
    assert not (books.documents.run.root / "rejects.jsonl").exists()
    assert "ledger" not in books.documents.run.manifest()
