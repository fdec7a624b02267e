"""One work unit in this process: what becomes of each record, what is written of each window, what a run will take."""

import json
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError
from typing import ClassVar

import numpy as np
import pytest

from longattn import measuring, verbs
from longattn.errors import ModelError
from longattn.expressions import column
from longattn.measuring import commit_unit, cut_unit, estimate, measure_windows, package_versions
from longattn.quarantine import Entry, Failure
from longattn.recipes import Recipe
from longattn.scorers import Scorer
from longattn.settings import Corpus, Model, Windowing
from longattn.tables import DamageError
from longattn.tokens import Tokenizer
from longattn.versions import Writers

TEXTS = {"a": "far and near. " * 12, "b": "short", "c": "near and far. " * 12}


@dataclass(frozen=True)
class Places(Scorer):
    """Where windows begin, as each type that a column may have; no number for those of a document."""

    name: ClassVar[str] = "places"
    no_number: ClassVar[str] = ""

    def measurement(self):
        return {}

    def schema(self):
        return {"value": "float64", "both": "list<float64>", "number": "int64", "words": "list<uint32>"}

    def measure(self, windows, layers):
        starts = np.array([window.start for window in windows])
        values = np.array([np.inf if w.doc_id == self.no_number else w.start for w in windows], np.float64)
        both = np.stack([values, values], axis=1)
        return {"value": values, "both": both, "number": starts, "words": np.stack([starts] * 2, 1).astype(np.uint32)}

    def score(self):
        return column("value")


@pytest.fixture
def unit_and_job(tiny_model_folder, tmp_path):
    lines = [json.dumps({"id": id, "text": text}) for id, text in TEXTS.items()]
    (tmp_path / "in.jsonl").write_text("\n".join([lines[0], "no json", *lines[1:]]) + "\n")
    recipe = Recipe(
        corpus=Corpus(inputs=(str(tmp_path / "in.jsonl"),), source="all"),
        window=Windowing(length=64),
        model=Model(name=str(tiny_model_folder)),
        scorers=("length",),
    )
    [unit] = verbs.plan(recipe, tmp_path / "run")
    return unit, replace(verbs.prepare(recipe, tmp_path / "run"), scorers=(Places(),))


@pytest.fixture
def tokenizer(unit_and_job):
    return Tokenizer.load(unit_and_job[1].checkpoint.tokenizer_file)


def status_of(cut):
    return {(row.get("doc_id"), row["status"], row.get("reason")) for row in cut.documents.table().to_pylist()}


def test_every_record_is_a_row_and_every_document_is_announced(unit_and_job, tokenizer):
    unit, job = unit_and_job
    announced = []
    cut = cut_unit(unit, job, tokenizer, announced.append)
    rows = {("a", "windowed", None), ("b", "too_short", None), ("c", "windowed", None), (None, "rejected", "bad_json")}
    assert status_of(cut) == rows
    counts = {"windowed": 2, "too_short": 1, "rejected.bad_json": 1, "documents": 4, "lines": 4, "windows": 6}
    assert {name: cut.counts[name] for name in counts} == counts
    assert cut.counts["tokens"] == sum(map(len, TEXTS.values()))
    places = [row["position"] for row in cut.documents.table().to_pylist() if row["status"] != "rejected"]
    assert announced == [of for position in places for of in ((unit.slices[0].file, position), None)]
    assert cut_unit(unit, job, tokenizer).documents.table() == cut.documents.table()


@pytest.mark.parametrize("at_once", [1, 2, 3, 4])
def test_rows_are_the_same_however_many_wait(unit_and_job, tokenizer, monkeypatch, at_once):
    unit, job = unit_and_job
    expected = cut_unit(unit, job, tokenizer).documents.table().to_pylist()
    monkeypatch.setattr(measuring, "ROWS_AS_DICTIONARIES", at_once)
    rows = cut_unit(unit, job, tokenizer).documents
    assert rows.table().to_pylist() == expected
    assert rows.table().schema == measuring.DOCUMENTS
    assert measuring.Rows(measuring.DOCUMENTS).table().num_rows == 0


def test_a_document_that_could_not_be_cut_before_is_rejected_unseen(unit_and_job, tokenizer, monkeypatch):
    unit, job = unit_and_job
    place = (unit.slices[0].file, 0)
    failure = Failure(*place, "crashed", "its process was killed twice")
    tables = (job.documents.folder.name, job.windows.folder.name)
    job.quarantine.put(Entry(unit.id, "cut", tables, (), (failure,)))
    encoded = []
    monkeypatch.setattr(
        tokenizer, "encode", lambda text, *rest, encode=tokenizer.encode: encoded.append(text) or encode(text, *rest)
    )
    cut = cut_unit(unit, job, tokenizer)
    assert (None, "rejected", "crashed") in status_of(cut)
    assert encoded == [TEXTS["b"], TEXTS["c"]]


class Panic(BaseException):
    """What a Rust library raises when it gives up is no ``Exception``."""


@pytest.mark.parametrize(
    ("error", "reason", "detail"),
    [
        (ValueError("text has a lone surrogate"), "untokenizable", "text has a lone surrogate"),
        (Panic("a pattern without end"), "untokenizable", "Panic: a pattern without end"),
        (None, "too_slow", "not done after -1 seconds"),
    ],
)
def test_a_text_that_cannot_be_tokenised_is_a_reject_and_the_others_go_on(
    unit_and_job, tokenizer, monkeypatch, error, reason, detail
):
    unit, job = unit_and_job

    def failing(text, seconds, encode=tokenizer.encode):
        if text != TEXTS["a"]:
            return encode(text)
        if error is None:
            return encode(text, -1.0 if seconds == 0 else seconds)
        raise error

    monkeypatch.setattr(tokenizer, "encode", failing)
    job = replace(job, corpus=replace(job.corpus, max_doc_seconds=0.0))
    cut = cut_unit(unit, job, tokenizer)
    first = cut.documents.table().to_pylist()[0]
    assert (first["status"], first["reason"], first["line"]) == ("rejected", reason, 1)
    assert first["detail"].startswith(detail)
    assert {window.doc_id for window in cut.windows} == {"c"}


def test_an_error_that_says_nothing_of_a_document_ends_the_run_and_names_where(unit_and_job, tokenizer, monkeypatch):
    unit, job = unit_and_job

    def failing(text, seconds):
        raise ModelError("the tokenizer's file is gone")

    monkeypatch.setattr(tokenizer, "encode", failing)
    with pytest.raises(ModelError, match="the tokenizer's file is gone") as caught:
        cut_unit(unit, job, tokenizer)
    assert caught.value.__notes__ == [f"in work unit {unit.id}, {unit.slices[0].file} at position 0"]


def test_windows_without_numbers_are_counted_named_and_kept_apart_from_those_that_failed(
    unit_and_job, tokenizer, monkeypatch, caplog
):
    unit, job = unit_and_job
    monkeypatch.setattr(Places, "no_number", "c")
    cut = cut_unit(unit, job, tokenizer)
    columns = measure_windows([Places()], None, cut.windows)
    gone = [window.doc_id == "a" for window in cut.windows]
    for name in ("value", "both"):
        columns["places"][name][gone] = np.nan
    counts = commit_unit(job, cut, columns, failed={(unit.slices[0].file, 0)})
    assert counts["non_finite"] == 3
    [receipt] = [job.table(Places()).receipt(unit.id)]
    assert (receipt.counts["windows"], receipt.counts["non_finite"], receipt.counts["failed"]) == (6, 3, 3)
    said = "3 of 6 windows have values of places that are not finite numbers and are never selected; the first is c@0"
    assert said in caplog.text
    assert "(columns value, both)" in caplog.text
    [rows] = job.table(Places()).read([unit.id])
    found = rows.to_pydict()
    assert found["number"] == [None, None, None, 0, 52, 104]
    assert found["words"] == [None, None, None, [0, 0], [52, 52], [104, 104]]
    assert np.isnan(found["value"][:3]).all()
    assert np.isinf(found["value"][3:]).all()


def test_what_is_there_is_not_written_again(unit_and_job, tokenizer):
    unit, job = unit_and_job
    cut = cut_unit(unit, job, tokenizer)
    commit_unit(job, cut, None)
    assert not job.is_done(unit.id)
    columns = measure_windows([Places()], None, cut.windows)
    commit_unit(job, cut, columns)
    writers = Writers()
    assert job.is_done(unit.id, writers)
    assert set(writers.tables()) == {table.folder.name for table in job.tables()}
    paths = [table.file(unit.id) for table in job.tables()]
    before = [path.stat().st_mtime_ns for path in paths]
    assert commit_unit(job, cut, columns)["windows"] == 6
    assert [path.stat().st_mtime_ns for path in paths] == before


def test_a_damaged_table_is_not_done_and_said(unit_and_job, tokenizer, monkeypatch, caplog):
    unit, job = unit_and_job
    cut = cut_unit(unit, job, tokenizer)
    commit_unit(job, cut, measure_windows([Places()], None, cut.windows))

    def damaged(table, unit):
        raise DamageError(table.folder / "unit.parquet", "the footer is cut off")

    monkeypatch.setattr(measuring.Table, "receipt", damaged)
    assert not job.is_done(unit.id)
    assert f"the footer is cut off; unit {unit.id} is measured again" in caplog.text


def test_no_windows_take_no_measuring(unit_and_job):
    assert measure_windows([Places()], None, []) == {}


@pytest.mark.parametrize("length", [64, 4096])
def test_an_estimate_counts_what_a_sample_has(unit_and_job, length):
    unit, job = unit_and_job
    found = estimate(replace(job, window=Windowing(length=length)), [unit], "cpu")
    assert (found.units, found.units_done, found.num_bytes) == (1, 0, unit.num_bytes)
    assert found.windows == (6 if length == 64 else 0)
    assert found.tokens == sum(map(len, TEXTS.values()))
    assert found.seconds > 0


def test_versions_are_of_what_is_installed(monkeypatch):
    installed = {"longattn": "1.0", "numpy": "2.0"}

    def version(name):
        if name not in installed:
            raise PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(measuring, "version", version)
    package_versions.cache_clear()
    try:
        assert {name: of for name, of in package_versions().items() if name != "python"} == installed
    finally:
        package_versions.cache_clear()
