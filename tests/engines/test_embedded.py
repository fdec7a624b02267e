"""Processes that die, documents that fail, models that cannot be loaded, shards."""

import errno
import importlib
import json
import os
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from longattn import engines, verbs
from longattn.engines.progress import State, StatusFile
from longattn.engines.tally import Allowed
from longattn.errors import CorpusError, ModelError, RunError
from longattn.ledger import Books, balance, rejects
from longattn.quarantine import Entry
from longattn.recipes import Recipe
from longattn.settings import Compute, Corpus, Model, Windowing

PROCESSES = Compute(workers=1, devices=("cpu",))
INLINE = Compute(workers=0, devices=("cpu",))

# in a file, so that the processes can import it
FAULTY = """
import os
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from longattn.expressions import column
from longattn.scorers import Scorer


@dataclass(frozen=True)
class Faulty(Scorer):
    name: ClassVar[str] = "faulty"

    poison: tuple[str, ...] = ()
    kills: bool = False
    weights: str = ""

    def measurement(self):
        return {}

    def schema(self):
        return {"value": "float64", "several": "list<float64>", "number": "int64", "words": "list<uint32>"}

    def measure(self, windows, layers):
        for window in windows:
            if any(word in window.doc_id for word in self.poison):
                if self.weights:
                    np.zeros(2**18, np.float32).tofile(self.weights)
                    mapped = np.memmap(self.weights, np.float32, "r")
                    os.truncate(self.weights, 0)
                    mapped.sum()
                if self.kills:
                    os._exit(1)
                raise ArithmeticError(f"no number for {window.doc_id}")
        values = np.array([float(window.start + len(window.doc_id)) for window in windows])
        several = np.stack([values, -values], axis=1)
        return {
            "value": values, "several": several,
            "number": values.astype(np.int64), "words": several.astype(np.int64).astype(np.uint32),
        }

    def score(self):
        return column("value") + column("number")
"""


@pytest.fixture
def faulty(tmp_path, monkeypatch):
    """A scorer that fails, or kills its process, at documents whose id holds certain words."""
    (tmp_path / "faulty_scorer.py").write_text(FAULTY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    importlib.invalidate_caches()
    return importlib.import_module("faulty_scorer").Faulty


@pytest.fixture
def recipe(tiny_model_folder, tmp_path):
    """Three files of four documents each, two windows a document, a unit each file."""
    (tmp_path / "in").mkdir()
    for i in range(3):
        records = [{"id": f"{i}-{d}", "text": f"file {i} document {d} " * 6} for d in range(4)]
        (tmp_path / "in" / f"{i}.jsonl").write_text("\n".join(map(json.dumps, records)) + "\n")
    return Recipe(
        corpus=Corpus(inputs=(str(tmp_path / "in"),), source="all", unit_bytes=1000),
        window=Windowing(length=64),
        model=Model(name=str(tiny_model_folder)),
    )


def job_of(recipe, folder, *scorers):
    units = verbs.plan(recipe, folder)
    return replace(verbs.prepare(recipe, folder), scorers=scorers), units


def columns_of(job, units):
    """The rows of a job's scorers, but those of documents that failed."""
    return {
        scorer.name: [row for table in job.table(scorer).read([u.id for u in units]) for row in table.to_pylist()]
        for scorer in job.scorers
    }


@pytest.mark.parametrize("compute", [INLINE, PROCESSES], ids=["inline", "processes"])
def test_a_document_that_raises_is_left_out_with_its_reason_and_the_rest_is_measured(
    recipe, faulty, tmp_path, compute, caplog
):
    calm, units = job_of(recipe, tmp_path / "calm", faulty())
    engines.measure(calm, units, compute)
    job, units = job_of(recipe, tmp_path / "run", faulty(poison=("1-2",)))
    counts = engines.measure(job, units, compute)
    assert counts["documents_failed"] == 1
    assert all(job.is_done(unit.id) for unit in units)
    for expected, row in zip(columns_of(calm, units)["faulty"], columns_of(job, units)["faulty"], strict=True):
        if row["window_id"].startswith("1-2@"):
            assert row["value"] != row["value"]
            assert row["number"] is row["words"] is None
        else:
            assert row == expected
    [entry] = job.quarantine.entries()
    [failure] = entry.failures
    assert (failure.doc_id, failure.reason, failure.windows) == ("1-2", "failed", 2)
    assert failure.detail == "ArithmeticError: no number for 1-2"
    ledger = balance(Books.of(job, units))
    assert ledger["windows"] == ledger["scored.faulty"] + ledger["failed.faulty"] == 24
    assert ledger["failed.faulty"] == 2
    [line] = rejects(Books.of(job, units))
    assert (line["reason"], line["position"]) == ("failed", failure.position)
    if compute is INLINE:
        [message] = [record.getMessage() for record in caplog.records if "the document in" in record.getMessage()]
        assert entry.unit in message
        assert "1.jsonl at" in message
        assert "ArithmeticError" in message


def test_a_document_that_kills_its_process_is_found_and_left_out(recipe, faulty, tmp_path):
    job, units = job_of(recipe, tmp_path / "run", faulty(poison=("1-2", "2-0"), kills=True))
    counts = engines.measure(job, units, PROCESSES)
    assert all(job.is_done(unit.id) for unit in units)
    failures = {f.doc_id: f for entry in job.quarantine.entries() for f in entry.failures}
    assert failures.keys() == {"1-2", "2-0"}
    assert {failure.reason for failure in failures.values()} == {"crashed"}
    assert failures["1-2"].detail == "its process ended with exit code 1"
    ledger = balance(Books.of(job, units))
    assert (ledger["scored.faulty"], ledger["failed.faulty"]) == (20, 4)
    assert counts["documents_failed"] == 2
    progress = json.loads((tmp_path / "run" / "progress.json").read_bytes())
    assert (progress["phase"], progress["documents_failed"]) == ("done", 2)
    assert progress["deaths"] >= 4


def test_a_mapped_file_that_is_cut_off_meanwhile_is_named_as_the_cause(recipe, faulty, tmp_path, caplog):
    """As weights and a vocabulary's table are mapped: reading what is gone ends the process with SIGBUS."""
    job, units = job_of(recipe, tmp_path / "run", faulty(poison=("1-2",), weights=str(tmp_path / "weights")))
    counts = engines.measure(job, units, PROCESSES)
    assert counts["documents_failed"] == 1
    [failure] = [failure for entry in job.quarantine.entries() for failure in entry.failures]
    how = "ended by SIGBUS (a file that was mapped into memory, such as the model, was changed meanwhile)"
    assert (failure.doc_id, failure.reason, failure.detail) == ("1-2", "crashed", f"its process was {how}")
    assert how in caplog.text


def test_what_is_in_quarantine_is_left_alone_until_it_is_asked_for(recipe, faulty, tmp_path):
    job, units = job_of(recipe, tmp_path / "run", faulty(poison=("1-2",)))
    engines.measure(job, units, INLINE)
    healed = replace(job, scorers=(faulty(),))
    assert not engines.measure(healed, units, INLINE)
    assert list(healed.quarantine.entries())
    engines.measure(healed, units, replace(INLINE, retry=True))
    assert not list(healed.quarantine.entries())
    calm, units = job_of(recipe, tmp_path / "calm", faulty())
    engines.measure(calm, units, INLINE)
    assert columns_of(healed, units) == columns_of(calm, units)


def test_a_shard_tries_what_is_its_own_again_and_leaves_the_rest(recipe, faulty, tmp_path):
    """Whoever begins later does not take away what another has tried again meanwhile."""
    job, units = job_of(recipe, tmp_path / "run", faulty(poison=("0-1", "1-2", "2-0")))
    engines.measure(job, units, INLINE)
    assert all(job.is_done(unit.id) for unit in units)
    assert len(list(job.quarantine.entries())) == 3
    healed = replace(job, scorers=(faulty(),))
    for shard, left in (("0/2", 1), ("1/2", 0)):
        engines.measure(healed, units, replace(INLINE, retry=True, shard=shard))
        assert all(healed.is_done(unit.id) for unit in units)
        assert len(list(healed.quarantine.entries())) == left
    assert balance(Books.of(healed, units))["failed.faulty"] == 0


def test_looking_at_what_waits_takes_nothing_out_of_quarantine(recipe, faulty, tmp_path):
    job, units = job_of(recipe, tmp_path / "run", faulty(poison=("1-",)))
    engines.measure(job, units, INLINE)
    before = list(job.quarantine.entries())
    found = engines.survey(job, units, replace(INLINE, retry=True))
    assert [unit.id for unit in found.waiting] == sorted(found.again) == [units[1].id]
    assert not found.failed
    assert list(job.quarantine.entries()) == before


def test_a_document_that_cannot_be_cut_is_rejected_and_comes_back_on_request(recipe, faulty, tmp_path, monkeypatch):
    """The tokenizer that runs in the process ends it at one text."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os\n"
        "from longattn.tokens import Tokenizer\n"
        "encode = Tokenizer.encode\n"
        "def poisoned(self, text, *more):\n"
        "    if 'file 1 document 2' in text and os.environ.get('POISON'):\n"
        "        os._exit(1)\n"
        "    return encode(self, text, *more)\n"
        "Tokenizer.encode = poisoned\n"
    )
    monkeypatch.setenv("POISON", "1")
    job, units = job_of(recipe, tmp_path / "run", faulty())
    engines.measure(job, units, PROCESSES)
    ledger = balance(Books.of(job, units))
    assert ledger["rejected.crashed"] == 1
    assert (ledger["documents"], ledger["windows"]) == (12, 22)
    assert [line["reason"] for line in rejects(Books.of(job, units))] == ["crashed"]
    monkeypatch.delenv("POISON")
    engines.measure(job, units, replace(PROCESSES, retry=True))
    ledger = balance(Books.of(job, units))
    assert ledger["rejected.crashed"] == 0
    assert ledger["windows"] == ledger["scored.faulty"] == 24


def test_a_unit_of_which_nothing_can_be_measured_is_left_out_and_counted(recipe, faulty, tmp_path):
    job, units = job_of(recipe, tmp_path / "run", faulty(poison=("1-",)))
    engines.measure(job, units, INLINE)
    assert [job.is_done(unit.id) for unit in units] == [True, False, True]
    ledger = balance(Books.of(job, units))
    assert ledger["windows"] == ledger["scored.faulty"] + ledger["failed.faulty"] == 24
    assert ledger["units_failed"] == 1
    assert not engines.measure(job, units, INLINE)


def test_a_unit_left_out_with_several_sets_of_scorers_is_counted_for_each(recipe, faulty, tmp_path):
    job, units = job_of(recipe, tmp_path / "run", faulty(poison=("1-",)))
    engines.measure(job, units, INLINE)
    before = balance(Books.of(job, units))
    assert before["units_failed"] == 1
    [entry] = job.quarantine.entries()
    # of another measurement; names sort before and after
    for n in range(4):
        job.quarantine.put(replace(entry, tables=(f"other-{n}",)))
    assert balance(Books.of(job, units)) == before


def test_what_stopped_a_run_is_told_where_the_last_word_cannot_be_written(recipe, faulty, tmp_path, monkeypatch):
    job, units = job_of(recipe, tmp_path / "run", faulty())
    write = StatusFile._write

    def full(self, state, phase, message):
        if phase != "running":
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, state, phase, message)

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(StatusFile, "_write", full)
    monkeypatch.setattr(engines.embedded, "pipeline", stop)
    with pytest.raises(KeyboardInterrupt):
        engines.measure(job, units, INLINE)


def test_a_status_file_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("longattn.engines.progress.Path.write_text", full)
    with pytest.raises(OSError, match="No space left") as raised:
        StatusFile(tmp_path, "embedded").update(State(1, 0, 1, 0.0))
    assert raised.value.filename == str(tmp_path / "progress.json")


def test_what_is_tried_again_is_gone_from_its_tables_before_it_is_forgotten(recipe, faulty, tmp_path, monkeypatch):
    """After a power cut in between, a document must not be in no quarantine and without values for ever."""
    job, units = job_of(recipe, tmp_path / "run", faulty(poison=("1-2",)))
    engines.measure(job, units, INLINE)
    unlink, sync, done = Path.unlink, os.fsync, []

    def unlinked(path, **how):
        unlink(path, **how)
        done.append(path.parent)

    def synced(handle):
        done.append(f"sync {Path(f'/proc/self/fd/{handle}').readlink()}")
        sync(handle)

    monkeypatch.setattr(Path, "unlink", unlinked)
    monkeypatch.setattr(os, "fsync", synced)
    job.quarantine.release(job.tables(), {unit.id for unit in units})
    [table] = [job.table(scorer).folder for scorer in job.scorers]
    assert done == [table, f"sync {table}", job.quarantine.folder, f"sync {job.quarantine.folder}"]


def test_units_without_failures_cost_a_store_nothing(recipe, faulty, tmp_path, monkeypatch):
    job, units = job_of(recipe, tmp_path / "run", faulty())
    asked = []
    monkeypatch.setattr("longattn.stores.delete", asked.append)
    engines.measure(job, units, INLINE)
    assert not asked


def test_a_damaged_entry_of_the_quarantine_is_named_by_verify(recipe, faulty, tmp_path):
    run = tmp_path / "run"
    job, units = job_of(replace(recipe, scorers=("length",)), run)
    verbs.measure(replace(recipe, scorers=("length",)), run, INLINE)
    [unit] = [unit for unit in units if unit.slices[0].file.endswith("1.jsonl")]
    job.quarantine.put(Entry(unit.id, "measure", ("other-1",), (), whole="it failed"))
    whole = verbs.verify(run)
    assert (whole.damaged, whole.strangers) == ([], [])
    [path] = (run / "quarantine").iterdir()
    path.write_bytes(path.read_bytes().replace(b"failed", b"fainted"))
    [found] = verbs.verify(run).damaged
    assert found.file == f"quarantine/{path.name}"


def test_failures_of_every_document_are_no_documents_fault(recipe, faulty, tmp_path, monkeypatch):
    job, units = job_of(recipe, tmp_path / "few", faulty(poison=("-",)))
    with pytest.raises(RunError, match="nothing could be measured"):
        engines.measure(job, units, INLINE)
    records = [{"id": f"more-{d}", "text": f"document {d} " * 10} for d in range(40)]
    (tmp_path / "in" / "more.jsonl").write_text("\n".join(map(json.dumps, records)) + "\n")
    more = replace(recipe, corpus=replace(recipe.corpus, unit_bytes=10**6))
    for compute, kills in ((INLINE, False), (PROCESSES, True)):
        job, units = job_of(more, tmp_path / f"many {kills}", faulty(poison=("more-",), kills=kills))
        # each death takes a second
        monkeypatch.setattr("longattn.engines.tally.IN_A_ROW", 2 if kills else 10)
        with pytest.raises(RunError, match=r"document after document failed, the last in .*more\.jsonl at position"):
            engines.measure(job, units, compute)


def test_the_user_may_say_how_many_may_fail(recipe, faulty, tmp_path):
    job, units = job_of(recipe, tmp_path / "run", faulty(poison=("1-", "2-")))
    with pytest.raises(CorpusError, match="8 records were rejected or failed, more than max_errors=7"):
        engines.measure(job, units, replace(INLINE, max_errors=7))
    job, units = job_of(recipe, tmp_path / "other", faulty(poison=("1-", "2-")))
    assert engines.measure(job, units, replace(INLINE, max_errors=8))["documents_failed"] == 8


@pytest.mark.parametrize(
    ("text", "errors", "documents", "too_many"),
    [(5, 5, 10, False), ("5", 6, 10, True), ("0.1%", 1, 1000, False), ("0.1%", 2, 1000, True), (None, 9, 9, False)],
)
def test_errors_are_allowed_by_number_or_by_share(text, errors, documents, too_many):
    assert Allowed.read(text).broken_by(errors, documents) == too_many


@pytest.mark.parametrize("text", ["many", "-1", "200%", "%", "0.5"])
def test_a_limit_of_errors_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match=r"max_errors must be a number such as 20 or a share such as 0.1%, got"):
        Allowed.read(text)


def test_a_window_without_values_is_never_selected(recipe, faulty, tmp_path, monkeypatch):
    from longattn.scorers import SCORERS

    monkeypatch.setitem(SCORERS, "faulty", faulty)
    job, units = job_of(recipe, tmp_path / "run", faulty(poison=("1-2",)))
    engines.measure(job, units, INLINE)
    from longattn.selection import Formula, select

    formulas = {"faulty": Formula(job.table(job.scorers[0]), job.scorers[0].score())}
    rule = replace(recipe.keep, weights={"faulty": 1.0}, share=1.0, max_overlap=1.0)
    select([unit.id for unit in units], job.windows, formulas, rule, tmp_path / "selection.parquet")
    rows = pq.read_table(tmp_path / "selection.parquet").to_pylist()
    assert {row["doc_id"] for row in rows if row["reason"] != "kept"} == {"1-2"}
    assert {row["reason"] for row in rows} == {"kept", "non_finite"}


def test_what_is_wrong_with_a_model_is_said_before_anything_is_measured(recipe, tmp_path):
    other = replace(recipe, settings=replace(recipe.settings, longattn=replace(recipe.settings.longattn, layers=(7,))))
    with pytest.raises(ModelError, match="7"):
        verbs.measure(other, tmp_path / "run", PROCESSES)
    assert not list((tmp_path / "run").glob("tables/longattn-*/unit-*"))
