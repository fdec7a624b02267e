"""One work unit of which something fails: what is tried again, who is blamed, and what is written down."""

import json
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest

from longattn import attempts, verbs
from longattn.attempts import blame, entry_of, left_out, measure_unit
from longattn.errors import ModelError, RunError
from longattn.expressions import column
from longattn.measuring import cut_unit
from longattn.quarantine import Entry, Failure
from longattn.recipes import Recipe
from longattn.scorers import Scorer
from longattn.settings import Corpus, Model, Windowing
from longattn.tokens import Tokenizer

DOCUMENTS, WINDOWS = 12, 2
"""Documents of the unit and windows of each."""


@dataclass(frozen=True)
class Troubled(Scorer):
    """Raises what the test chose for a document, and notes of which documents a window was asked for."""

    name: ClassVar[str] = "troubled"
    raises: ClassVar[dict[str, BaseException]] = {}
    asked: ClassVar[list[list[str]]] = []

    def measurement(self):
        return {}

    def schema(self):
        return {"value": "float64", "several": "list<float64>", "number": "int64", "words": "list<uint32>"}

    def measure(self, windows, layers):
        self.asked.append([window.doc_id for window in windows])
        for window in windows:
            if window.doc_id in self.raises:
                raise self.raises[window.doc_id]
        values = np.array([float(window.start) for window in windows])
        several = np.stack([values, values], axis=1)
        numbers = values.astype(np.int64)
        return {"value": values, "several": several, "number": numbers, "words": several.astype(np.uint32)}

    def score(self):
        return column("value")


@pytest.fixture
def raises(monkeypatch):
    """What the scorer raises, by document."""
    monkeypatch.setattr(Troubled, "raises", {})
    monkeypatch.setattr(Troubled, "asked", [])
    return Troubled.raises


@pytest.fixture
def unit_and_job(raises, tiny_model_folder, tmp_path):
    records = [{"id": f"d{i}", "text": f"document {i:2}. " * 8} for i in range(DOCUMENTS)]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, records)) + "\n")
    recipe = Recipe(
        corpus=Corpus(inputs=(str(tmp_path / "in.jsonl"),), source="all"),
        window=Windowing(length=64),
        model=Model(name=str(tiny_model_folder)),
    )
    [unit] = verbs.plan(recipe, tmp_path / "run")
    return unit, replace(verbs.prepare(recipe, tmp_path / "run"), scorers=(Troubled(),))


@pytest.fixture
def job(unit_and_job):
    return unit_and_job[1]


@pytest.fixture
def cut(unit_and_job):
    unit, job = unit_and_job
    found = cut_unit(unit, job, Tokenizer.load(job.checkpoint.tokenizer_file))
    assert [window.doc_id for window in found.windows] == [f"d{i}" for i in range(DOCUMENTS) for _ in range(WINDOWS)]
    return found


def rows_of(job, unit):
    [rows] = job.table(Troubled()).read([unit])
    return rows.to_pylist()


def test_a_calm_unit_is_measured_at_once(job, cut):
    seen = []
    counts = measure_unit(job, None, cut, seen.append)
    assert seen == [64] * len(cut.windows)
    assert len(Troubled.asked) == 1
    assert (counts["documents_failed"], counts["measured"]) == (0, len(cut.windows))
    assert list(job.quarantine.entries()) == []
    assert job.is_done(cut.unit)


@pytest.mark.parametrize("error", [ArithmeticError("no number"), MemoryError(), AssertionError()])
def test_a_guilty_document_is_found_and_its_windows_have_no_values(job, cut, raises, error, caplog):
    raises["d3"] = error
    counts = measure_unit(job, None, cut)
    assert [asked[0] for asked in Troubled.asked] == ["d0", *(f"d{i}" for i in range(DOCUMENTS))]
    [entry] = job.quarantine.entries()
    [failure] = entry.failures
    place = next((window.file, window.position) for window in cut.windows if window.doc_id == "d3")
    detail = f"{type(error).__name__}: {error}"
    assert failure == Failure(*place, "failed", detail, doc_id="d3", windows=WINDOWS)
    assert (entry.unit, entry.stage, entry.files, entry.whole) == (cut.unit, "measure", (place[0],), "")
    assert (counts["documents_failed"], counts["measured"]) == (1, len(cut.windows) - WINDOWS)
    for window, row in zip(cut.windows, rows_of(job, cut.unit), strict=True):
        if window.doc_id == "d3":
            assert np.isnan(row["value"])
            assert np.isnan(row["several"]).all()
            assert row["number"] is row["words"] is None
        else:
            assert (row["value"], row["several"], row["number"]) == (window.start, [window.start] * 2, window.start)
            assert row["words"] == [window.start] * 2
    assert f"unit {cut.unit}: {detail}; its documents are tried one by one" in caplog.text
    assert f"unit {cut.unit}: the document in {place[0]} at {place[1]} failed: {detail}" in caplog.text


def test_a_window_is_told_once_however_often_it_is_measured(job, cut, raises, monkeypatch):
    """The first attempt, at the whole unit, dies at some window after others were told."""
    told, whole = [], attempts.measure_windows

    def dies_late(scorers, model, windows, on_window):
        if len(windows) == len(cut.windows):
            for window in windows[:7]:
                on_window(len(window.tokens))
            raise ArithmeticError
        return whole(scorers, model, windows, on_window)

    monkeypatch.setattr(attempts, "measure_windows", dies_late)
    measure_unit(job, None, cut, told.append)
    assert told == [64] * len(cut.windows)


@pytest.mark.parametrize("kind", [OSError, ModelError, KeyboardInterrupt])
@pytest.mark.parametrize("one_by_one", [False, True])
def test_what_is_no_documents_fault_ends_it_and_nothing_is_written(job, cut, raises, kind, one_by_one):
    raises["d3"] = error = kind("no disk, no model, no wish to go on")
    with pytest.raises(kind) as caught:
        measure_unit(job, None, cut, on_document=(lambda place: None) if one_by_one else None)
    assert caught.value is error
    asked = [f"d{i}" for i in range(4)] if one_by_one else ["d0"]
    assert [windows[0] for windows in Troubled.asked] == asked
    if one_by_one:
        assert caught.value.__notes__ == [
            f"in work unit {cut.unit}, {cut.windows[6].file} at position {cut.windows[6].position}"
        ]
    assert not any(table.has(cut.unit) for table in job.tables())
    assert list(job.quarantine.entries()) == []


def test_each_document_is_told_before_it_is_tried_and_what_is_in_quarantine_is_not_tried(unit_and_job, cut, raises):
    """Whoever watches knows then which one was in hand when the process died."""
    unit, job = unit_and_job
    places = list(dict.fromkeys((window.file, window.position) for window in cut.windows))
    blame(job, unit, "measure", places[5], "its process ended with exit code 1")
    told = []
    counts = measure_unit(job, None, cut, on_document=lambda place: told.append((place, len(Troubled.asked))))
    tried = [place for place in places if place != places[5]]
    assert told == [*((place, k) for k, place in enumerate(tried)), (None, len(tried))]
    assert counts["documents_failed"] == 1
    [entry] = job.quarantine.entries()
    assert entry.failures == (
        Failure(*places[5], "crashed", "its process ended with exit code 1", doc_id="d5", windows=WINDOWS),
    )


@pytest.mark.parametrize("in_a_row", [3, 4])
def test_failures_one_after_another_are_no_documents_fault(job, cut, raises, in_a_row):
    raises |= {f"d{i}": ArithmeticError(f"no number for {i}") for i in range(2, 2 + in_a_row)}
    raises["d9"] = ArithmeticError("another")
    if in_a_row < 4:
        assert measure_unit(job, None, cut, patience=4)["documents_failed"] == 4
        return
    place = cut.windows[5 * WINDOWS].file, cut.windows[5 * WINDOWS].position
    message = (
        f"document after document failed, the last in {place[0]} at position {place[1]}: "
        "ArithmeticError: no number for 5; this is hardly their fault "
        "(with --max-errors N the run goes on until N have failed)"
    )
    with pytest.raises(RunError) as caught:
        measure_unit(job, None, cut, patience=4)
    assert str(caught.value) == message
    assert len(Troubled.asked) == 1 + 6


def test_a_unit_of_which_nothing_can_be_measured_is_left_out_whole(job, cut, raises):
    raises |= {f"d{i}": ArithmeticError() for i in range(DOCUMENTS)}
    counts = measure_unit(job, None, cut, patience=None)
    assert (counts["documents_failed"], counts["measured"]) == (DOCUMENTS, 0)
    [entry] = job.quarantine.entries()
    assert entry.whole == "none of its documents could be measured"
    assert len(entry.failures) == DOCUMENTS
    assert job.windows.has(cut.unit)
    assert not job.table(Troubled()).has(cut.unit)
    assert left_out(job) == {cut.unit}


def test_what_an_error_says_is_cut_and_has_no_control_characters(job, cut, raises):
    raises["d0"] = ValueError("\x1b[2J" + "x" * 1000)
    measure_unit(job, None, cut)
    [entry] = job.quarantine.entries()
    assert len(entry.failures[0].detail) == attempts.DETAIL
    assert "\x1b" not in entry.failures[0].detail


@pytest.mark.parametrize("stage", ["cut", "measure"])
def test_who_dies_without_a_document_in_hand_costs_the_unit(unit_and_job, stage, caplog):
    unit, job = unit_and_job
    how = "its process ended twice with exit code -9"
    failure = blame(job, unit, stage, None, how)
    path = unit.slices[0].file
    assert failure == Failure(path, 0, "crashed", how)
    tables = (job.documents, job.windows) if stage == "cut" else (job.table(Troubled()),)
    names = tuple(table.folder.name for table in tables)
    assert list(job.quarantine.entries()) == [Entry(unit.id, stage, names, (path,), whole=how)]
    assert left_out(job) == {unit.id}
    assert f"unit {unit.id} ({path}) is put into quarantine: {how}" in caplog.text


@pytest.mark.parametrize("stage", ["cut", "measure"])
def test_who_dies_with_a_document_in_hand_costs_the_document(unit_and_job, stage, caplog):
    unit, job = unit_and_job
    place = (unit.slices[0].file, 77)
    failure = blame(job, unit, stage, place, "exit code 1")
    assert failure == Failure(*place, "crashed", "exit code 1")
    assert entry_of(job, unit, stage).failures == (failure,)
    assert left_out(job) == set()
    assert f"the document in {place[0]} at 77 is put into quarantine: exit code 1" in caplog.text


def test_a_unit_that_other_scorers_left_out_is_not_left_out_here(unit_and_job):
    unit, job = unit_and_job
    other = job.run.table("other", {"of": "another scorer"})
    job.quarantine.put(Entry(unit.id, "measure", (other.folder.name,), (), whole="crashed"))
    assert left_out(job) == set()
