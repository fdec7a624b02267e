"""What is left out of a run is written down, found again, and taken back in when asked for."""

import pyarrow as pa
import pytest

from longattn.errors import DamageError
from longattn.quarantine import Entry, Failure, Quarantine
from longattn.tables import RunFolder


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path / "run")


@pytest.fixture
def quarantine(run):
    return Quarantine(run)


@pytest.fixture
def tables(run):
    """Of two ways to cut, documents and windows; of the first one's windows, the values of a scorer."""
    cuts = {length: {"length": length} for length in (64, 80)}
    named = {f"{name}-{n}": run.table(name, cut) for n, cut in cuts.items() for name in ("documents", "windows")}
    named["scorer"] = run.table("scorer", {**cuts[64], "layer": 0})
    for table in named.values():
        for unit in ("a", "b"):
            table.commit(unit, pa.table({"x": [1]}), {}, {})
    return named


ONE = Failure("file", 7, "crashed", "exit code -9", doc_id="one", windows=3)
OTHER = Failure("file", 2, "failed", "ValueError")


def test_failures_of_a_unit_are_kept_by_place_the_newest_reason_each(quarantine, tables):
    entry = quarantine.entry("a", "measure", [tables["scorer"]], ["file", "other", "file"])
    assert entry == Entry("a", "measure", (tables["scorer"].folder.name,), ("file", "other"))
    newer = Failure("file", 7, "failed", "MemoryError")
    entry = entry.with_failure(ONE).with_failure(OTHER).with_failure(newer)
    assert entry.failures == (OTHER, newer)
    quarantine.put(entry)
    assert quarantine.entry("a", "measure", [tables["scorer"]]) == entry
    assert list(quarantine.entries()) == [entry]
    assert (ONE.doc_id, ONE.windows, OTHER.doc_id, OTHER.windows) == ("one", 3, "", 0)


def test_a_unit_that_is_left_out_as_a_whole_is_kept_and_an_empty_entry_is_not(quarantine, tables):
    empty = quarantine.entry("a", "cut", [tables["documents-64"], tables["windows-64"]])
    quarantine.put(empty)
    assert list(quarantine.entries()) == []
    whole = Entry("a", "cut", empty.tables, (), whole="crashed twice")
    quarantine.put(whole)
    assert list(quarantine.entries()) == [whole]
    quarantine.put(empty)
    assert list(quarantine.folder.iterdir()) == []


def test_entries_of_other_tables_and_stages_are_others(quarantine, tables):
    documents, windows = tables["documents-64"], tables["windows-64"]
    entries = [
        quarantine.entry(unit, stage, some).with_failure(ONE)
        for unit, stage, some in [
            ("a", "cut", [documents, windows]),
            ("a", "measure", [documents, windows]),
            ("a", "measure", [windows]),
            ("b", "cut", [documents, windows]),
        ]
    ]
    for entry in entries:
        quarantine.put(entry)
    found = list(quarantine.entries())
    assert [entry.unit for entry in found] == ["a", "a", "a", "b"]
    assert set(found) == set(entries)
    assert quarantine.entry("a", "cut", [windows, documents]).failures == (ONE,)


def test_values_that_are_tried_again_cost_no_other_table_anything(quarantine, tables):
    scorer = tables["scorer"]
    quarantine.put(quarantine.entry("a", "measure", [scorer]).with_failure(ONE))
    quarantine.put(quarantine.entry("b", "cut", [tables["documents-64"]]).with_failure(ONE))
    for others in ([tables["windows-80"]], ["a"]), ([scorer], ["b"]):
        quarantine.release(*others)
        assert [entry.unit for entry in quarantine.entries()] == ["a", "b"]
        assert all(table.has("a") for table in tables.values())
    quarantine.release([scorer], ["a", "b"])
    assert [entry.unit for entry in quarantine.entries()] == ["b"]
    assert [unit for unit in ("a", "b") if scorer.has(unit)] == ["b"]
    assert all(table.has("a") for name, table in tables.items() if name != "scorer")


def test_a_unit_that_is_cut_again_is_measured_again(quarantine, tables):
    quarantine.put(quarantine.entry("a", "cut", [tables["documents-64"], tables["windows-64"]]).with_failure(ONE))
    quarantine.release([tables["windows-64"]], ["a", "b"])
    assert list(quarantine.entries()) == []
    gone = {name for name, table in tables.items() if not table.has("a")}
    assert gone == {"documents-64", "windows-64", "scorer"}
    assert all(table.has("b") for table in tables.values())


def test_what_was_never_cut_is_taken_back_in(run, quarantine):
    documents = run.table("documents", {"length": 64})
    quarantine.put(Entry("a", "cut", (documents.folder.name,), (), whole="crashed twice"))
    quarantine.release([documents], ["a"])
    assert list(quarantine.entries()) == []


def test_a_damaged_entry_is_damage(quarantine, tables):
    quarantine.put(quarantine.entry("a", "measure", [tables["scorer"]]).with_failure(ONE))
    (path,) = quarantine.folder.iterdir()
    path.write_bytes(path.read_bytes().replace(b"crashed", b"smashed"))
    with pytest.raises(DamageError):
        list(quarantine.entries())
    with pytest.raises(DamageError):
        quarantine.entry("a", "measure", [tables["scorer"]])
