"""Whole runs on a tiny model: the ledger balances, and nothing that must not matter changes a byte."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from longattn import double_ids, engines, ledger, verbs
from longattn.errors import CorpusError, DamageError, RunError
from longattn.ledger import Books, LedgerError, balance
from longattn.recipes import Recipe
from longattn.scorers import ContextDependency
from longattn.settings import Compute, Corpus, Exporting, Model, Selecting, Windowing
from longattn.tables import RunFolder, read_sealed, write_sealed

INLINE = Compute(workers=0, devices=("cpu",), threads=1)
LENGTH = 64


def text(seed: int, characters: int) -> str:
    words = ["the", "far", "key", "of", "a", "row", "in", "this", "window", "and", "other", "words", "that", "come"]
    chosen = random.Random(seed)
    return " ".join(chosen.choice(words) for _ in range(characters))[:characters]


def write_corpus(folder: Path, files: int = 3, documents: int = 8) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for f in range(files):
        lines = [
            orjson.dumps({"id": f"{f}-{d}", "text": text(100 * f + d, 40 + 37 * d), "kind": "ab"[d % 2]})
            for d in range(documents)
        ]
        (folder / f"part-{f}.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    return folder


@pytest.fixture
def recipe(tiny_model_folder, tmp_path):
    return Recipe(
        corpus=Corpus(inputs=(str(write_corpus(tmp_path / "corpus")),), source_field="kind", unit_bytes=1000),
        window=Windowing(length=LENGTH),
        model=Model(name=str(tiny_model_folder)),
        scorers=("longattn", "length", "random"),
        keep=Selecting(share=0.4),
    )


def selected(recipe: Recipe, output: Path, compute: Compute = INLINE) -> bytes:
    verbs.measure(recipe, output, compute)
    verbs.select(recipe, output)
    return (output / "selection.parquet").read_bytes()


def test_a_run_leaves_everything_that_was_promised(recipe, tmp_path):
    out = tmp_path / "run"
    selected(recipe, out)
    summary = verbs.export_selection(recipe, out)
    page = verbs.write_report(recipe, out)
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    table = pq.read_table(out / "selection.parquet")
    assert table.column_names == [
        "window_id", "doc_id", "source", "start", "num_tokens", "char_start", "char_end",
        "ds", "du", "score", "rank", "kept", "reason",
    ]  # fmt: skip
    assert summary.num_windows == sum(table["kept"].to_pylist()) > 0
    manifest = json.loads((out / "manifest.json").read_bytes())
    assert {"recipe", "model", "tables", "versions", "ledger", "selection"} <= set(manifest)
    texts = {
        row["id"]: row["text"]
        for file in sorted((tmp_path / "corpus").iterdir())
        for row in map(orjson.loads, file.read_bytes().splitlines())
    }
    exported = pq.read_table(out / "export" / "data").to_pylist()
    assert exported
    for row in exported:
        # the tiny model's tokens are bytes, so a window of 64 tokens is 64 characters of the document
        assert row["text"] == texts[row["doc_id"]][row["start"] : row["start"] + LENGTH]
    found = verbs.verify(out)
    assert (found.damaged, found.unfinished, found.strangers) == ([], [], [])
    assert found.files == sum(p.is_file() and not p.name.startswith((".lock", "progress")) for p in out.rglob("*"))


def test_the_card_of_an_export_shows_the_run_in_figures(recipe, tmp_path):
    selected(recipe, tmp_path / "run")
    summary = verbs.export_selection(recipe, tmp_path / "run")
    export = tmp_path / "run" / "export"
    card = (export / "README.md").read_text(encoding="utf-8")
    pictures = sorted(path.relative_to(export).as_posix() for path in (export / "figures").iterdir())
    # tokens by source, then score, DS and DU of both sources
    assert len(pictures) == 1 + 2 * 3
    assert re.findall(r"!\[[^]]+\]\((figures/\d+\.svg)\)", card) == pictures
    assert pictures == [file.name for file in summary.figures]
    for name in pictures:
        assert ElementTree.parse(export / name).getroot().tag.endswith("svg")
    assert not verbs.verify(tmp_path / "run").strangers
    damaged = export / pictures[0]
    damaged.write_text(damaged.read_text(encoding="utf-8") + " ", encoding="utf-8")
    assert [one.file for one in verbs.verify(tmp_path / "run").damaged] == [f"export/{pictures[0]}"]


@pytest.mark.parametrize("copied_together", [double_ids.COPIED_TOGETHER, 2])
def test_the_ledger_balances_with_every_kind_of_record(recipe, tmp_path, monkeypatch, copied_together):
    monkeypatch.setattr(double_ids, "COPIED_TOGETHER", copied_together)
    bad = tmp_path / "corpus" / "part-9.jsonl"
    bad.write_bytes(
        b'{"id": "ok", "text": "' + b"x" * 70 + b'"}\n'
        b"not json\n"
        b'{"id": "none"}\n'
        b'{"id": "number", "text": 5}\n'
        b'{"id": "empty", "text": ""}\n'
        b'{"id": "bad utf-8", "text": "\xff"}\n'
        b'{"id": "0-7", "text": "' + b"y" * 70 + b'"}\n'
    )
    recipe = replace(recipe, corpus=replace(recipe.corpus, source="other"))
    counts = verbs.measure(recipe, tmp_path / "run", INLINE)
    rejected = {key: n for key, n in counts.items() if key.startswith("rejected.")}
    assert rejected == {
        "rejected.bad_json": 1,
        "rejected.missing_text": 1,
        "rejected.text_not_string": 1,
        "rejected.empty": 1,
        "rejected.invalid_utf8": 1,
        "rejected.duplicate_id": 1,
    }
    assert counts["documents"] == counts["windowed"] + counts["too_short"] + 6 == 24 + 7
    lines = [json.loads(line) for line in (tmp_path / "run" / "rejects.jsonl").read_text().splitlines()]
    assert [(line["reason"], line["line"]) for line in lines] == [
        ("bad_json", 2), ("missing_text", 3), ("text_not_string", 4), ("empty", 5), ("invalid_utf8", 6),
        ("duplicate_id", 7),
    ]  # fmt: skip
    assert all(line["file"].endswith("part-9.jsonl") for line in lines)


def test_line_numbers_of_rejects_are_the_files_own(recipe, tmp_path):
    """The file is split into byte ranges, each of which counts its own lines."""
    path = tmp_path / "long.jsonl"
    good = orjson.dumps({"text": text(1, 300), "kind": "a"})
    path.write_bytes(b"\n".join([good] * 10 + [b"broken"] + [good] * 10 + [b"broken too"]) + b"\n")
    corpus = replace(recipe.corpus, inputs=(str(path),))
    verbs.measure(replace(recipe, corpus=corpus, scorers=("random",)), tmp_path / "run", INLINE)
    lines = [json.loads(line) for line in (tmp_path / "run" / "rejects.jsonl").read_text().splitlines()]
    assert [line["line"] for line in lines] == [11, 22]


def test_a_line_is_not_named_where_those_before_it_are_not_counted(recipe, tmp_path):
    """Only the second half of a file is measured: how many lines the first has is not known."""
    path = tmp_path / "long.jsonl"
    good = orjson.dumps({"text": text(1, 300), "kind": "a"})
    path.write_bytes(b"\n".join([good] * 10 + [b"broken"] + [good] * 10 + [b"broken too"]) + b"\n")
    corpus = replace(recipe.corpus, inputs=(str(path),), unit_bytes=path.stat().st_size // 2 + 1)
    halves = replace(recipe, corpus=corpus, scorers=("random",))
    verbs.measure(halves, tmp_path / "run", replace(INLINE, shard="1/2"))
    verbs.select(replace(halves, keep=Selecting(weights={"random": 1.0})), tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "rejects.jsonl").read_text().splitlines()]
    assert [line["line"] for line in lines] == [None]
    verbs.measure(halves, tmp_path / "run", INLINE)
    lines = [json.loads(line) for line in (tmp_path / "run" / "rejects.jsonl").read_text().splitlines()]
    assert [line["line"] for line in lines] == [11, 22]


def test_too_many_bad_records_stop_the_run(recipe, tmp_path):
    (tmp_path / "corpus" / "part-0.jsonl").write_bytes(b"{}\n" * 5)
    with pytest.raises(CorpusError, match="5 records were rejected or failed, more than max_errors=4"):
        verbs.measure(recipe, tmp_path / "run", replace(INLINE, max_errors=4))
    assert len((tmp_path / "run" / "rejects.jsonl").read_text().splitlines()) == 5


@pytest.mark.parametrize(
    "compute",
    [
        Compute(workers=1, devices=("cpu",), threads=1),
        Compute(workers=2, devices=("cpu", "cpu"), threads=1),
    ],
    ids=["processes", "two scorers"],
)
def test_how_the_work_is_spread_changes_no_byte(recipe, tmp_path, compute):
    assert selected(recipe, tmp_path / "spread", compute) == selected(recipe, tmp_path / "inline")


def test_the_number_of_threads_changes_no_more_than_rounding(recipe, tmp_path):
    """A matrix product may be added up in another order; what we add up ourselves is not."""
    selected(recipe, tmp_path / "one")
    selected(recipe, tmp_path / "two", replace(INLINE, threads=2))
    one, two = (pq.read_table(tmp_path / name / "selection.parquet") for name in ("one", "two"))
    assert one["window_id"] == two["window_id"]
    assert one["ds"].to_numpy() == pytest.approx(two["ds"].to_numpy(), rel=1e-6)
    assert one["du"].to_numpy() == pytest.approx(two["du"].to_numpy(), rel=1e-5)


def test_shards_units_and_the_order_of_files_change_no_byte(recipe, tmp_path):
    expected = selected(recipe, tmp_path / "whole")
    for shard in ("2/3", "0/3", "1/3"):
        verbs.measure(recipe, tmp_path / "shards", replace(INLINE, shard=shard))
    verbs.select(recipe, tmp_path / "shards")
    assert (tmp_path / "shards" / "selection.parquet").read_bytes() == expected
    files = tuple(map(str, sorted((tmp_path / "corpus").iterdir(), reverse=True)))
    other = replace(recipe, corpus=replace(recipe.corpus, inputs=files, unit_bytes=10**6))
    assert selected(other, tmp_path / "other") == expected


def test_what_shards_add_up_to_is_written_by_select_which_names_missing_ones(recipe, tmp_path):
    (tmp_path / "corpus" / "part-9.jsonl").write_bytes(b'not json\n{"id": "0-7", "text": "' + b"y" * 70 + b'"}\n')
    whole, out = tmp_path / "whole", tmp_path / "shards"
    selected(recipe, whole)
    first = verbs.measure(recipe, out, replace(INLINE, shard="0/2"))
    note = verbs.select(recipe, out).notes[-1]
    assert note.endswith("work units are not measured yet and took no part: those of shards 1/2")
    second = verbs.measure(recipe, out, replace(INLINE, shard="1/2"))
    assert json.loads((out / "manifest.json").read_bytes())["ledger"] == {}
    # no shard sees that two of them read a document with one id
    assert first["rejected.duplicate_id"] + second["rejected.duplicate_id"] == 0
    verbs.select(recipe, out)
    for name in ("rejects.jsonl", "selection.parquet", "plan.parquet", "manifest.json"):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name
    assert len(read_sealed(out / "timings.json")["attempts"]) == 2


def test_what_shards_added_while_somebody_selected_is_added_up_again(recipe, tmp_path, monkeypatch):
    out = tmp_path / "run"
    verbs.measure(recipe, out, replace(INLINE, shard="0/2"))
    measure = engines.measure

    def and_select(*words):
        verbs.select(recipe, out)
        return measure(*words)

    monkeypatch.setattr(engines, "measure", and_select)
    verbs.measure(recipe, out, replace(INLINE, shard="1/2"))
    verbs.select(recipe, out)
    assert RunFolder(out).manifest()["ledger"]["documents"] == 24
    assert not verbs.verify(out).damaged


def test_a_run_that_went_on_and_was_stopped_is_added_up_by_select(recipe, tmp_path, monkeypatch):
    """Stopped after its last unit and before its ledger, it must not keep the ledger of the attempt before."""
    recipe = replace(recipe, scorers=("length",), keep=Selecting(weights={"length": 1.0}))
    out = tmp_path / "run"
    verbs.measure(recipe, out, INLINE)
    (tmp_path / "corpus" / "more.jsonl").write_bytes(b"no json\n" + orjson.dumps({"text": text(7, 500), "kind": "a"}))

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as stopped:
        stopped.setattr(verbs.running, "_close", stop)
        with pytest.raises(KeyboardInterrupt):
            verbs.measure(recipe, out, INLINE)
    verbs.select(recipe, out)
    assert RunFolder(out).manifest()["ledger"]["rejected.bad_json"] == 1
    assert len((out / "rejects.jsonl").read_bytes().splitlines()) == 1
    assert verbs.verify(out).unfinished == [f"there is no {name} yet: run `longattn {verb}`" for name, verb in (
        ("export/README.md", "export"), ("export/export.json", "export"), ("report.html", "report"))
    ]  # fmt: skip


def test_nobody_plans_anew_where_somebody_measures(recipe, tmp_path):
    verbs.plan(recipe, tmp_path / "run")
    for part in (None, "0/2"):
        with RunFolder(tmp_path / "run").lock(part), pytest.raises(RunError, match=f"in use by process {os.getpid()}"):
            verbs.plan(recipe, tmp_path / "run")


@pytest.mark.parametrize(
    ("name", "verb"),
    [("select", verbs.select), ("export", verbs.export_selection), ("report", verbs.write_report)],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_result_is_replaced_by_one_process_at_a_time(recipe, tmp_path, name, verb):
    recipe = replace(recipe, scorers=("length",), keep=Selecting(weights={"length": 1.0}))
    verbs.measure(recipe, tmp_path / "run", INLINE)
    verbs.select(recipe, tmp_path / "run")
    with RunFolder(tmp_path / "run").lock(name), pytest.raises(RunError, match=f"in use by process {os.getpid()}"):
        verb(recipe, tmp_path / "run")
    verb(recipe, tmp_path / "run")


def test_a_whole_run_is_no_shard(recipe, tmp_path):
    with pytest.raises(ValueError, match="measure each shard, then select"):
        verbs.run(recipe, tmp_path / "run", replace(INLINE, shard="0/2"))


def test_files_added_later_are_measured_alone(recipe, tmp_path):
    out = tmp_path / "run"
    selected(recipe, out)
    tables = {path: path.stat().st_mtime_ns for path in out.glob("tables/*/*.parquet")}
    added = tmp_path / "corpus" / "another.jsonl"
    added.write_bytes(orjson.dumps({"text": text(7, 500), "kind": "a"}) + b"\n")
    verbs.measure(recipe, out, INLINE)
    assert {path: path.stat().st_mtime_ns for path in tables} == tables
    assert len(list(out.glob("tables/*/*.parquet"))) > len(tables)
    assert selected(recipe, tmp_path / "at once") == selected(recipe, out)


def test_a_limit_stops_early_and_wastes_nothing(recipe, tmp_path):
    out = tmp_path / "run"
    first = verbs.measure(recipe, out, replace(INLINE, limit=1))
    assert 0 < first["windows"] < verbs.measure(recipe, out, INLINE)["windows"]
    assert selected(recipe, out) == selected(recipe, tmp_path / "at once")


def test_other_settings_never_meet_in_one_table(recipe, tmp_path):
    out = tmp_path / "run"
    selected(recipe, out)
    other = replace(recipe, settings=replace(recipe.settings, longattn=replace(recipe.settings.longattn, skip_first=4)))
    with pytest.raises(RunError, match="skip_first was 0, asked 4"):
        verbs.select(other, out)
    selected(other, out)
    assert len(list(out.glob("tables/longattn-*"))) == 2


def test_damaged_tables_are_told_from_whole_ones(recipe, tmp_path):
    out = tmp_path / "run"
    before = selected(recipe, out)
    table = sorted(out.glob("tables/longattn-*/unit-*.parquet"))[0]
    content = bytearray(table.read_bytes())
    content[len(content) // 3] ^= 1
    table.write_bytes(content)
    assert [out / one.file for one in verbs.verify(out).damaged] == [table]
    table.unlink()
    assert selected(recipe, out) == before


def test_a_damaged_unit_is_no_missing_one_and_is_measured_again(recipe, tmp_path, caplog):
    """A selection without its windows would look like a selection."""
    out = tmp_path / "run"
    before = selected(recipe, out)
    receipt = sorted(out.glob("tables/longattn-*/unit-*.json"))[0]
    receipt.write_bytes(receipt.read_bytes().replace(b'"rows": ', b'"rows":  '))
    with pytest.raises(DamageError, match="its content does not fit its seal"):
        verbs.select(recipe, out)
    assert selected(recipe, out) == before
    assert f"{receipt} is damaged: its content does not fit its seal; unit" in caplog.text


def test_shards_that_end_together_leave_the_whole_ledger(recipe, tmp_path, monkeypatch):
    """What one of them looked at before the other ended must not be what is written down."""
    recipe = replace(recipe, scorers=("length",), keep=Selecting(weights={"length": 1.0}))
    expected = verbs.measure(recipe, tmp_path / "whole", INLINE)
    out, looked = tmp_path / "run", threading.Event()
    verbs.plan(recipe, out)

    def slow(books):
        first, found = not looked.is_set(), balance(books)
        looked.set()
        if first:
            other.start()
            other.join(timeout=2)
        return found

    def measure(shard):
        verbs.measure(recipe, out, replace(INLINE, shard=shard))

    other = threading.Thread(target=measure, args=["1/2"])
    for module in (ledger, verbs.running):
        monkeypatch.setattr(module, "balance", slow)
    measure("0/2")
    other.join()
    verbs.select(recipe, out)
    assert RunFolder(out).manifest()["ledger"] == expected
    assert len(read_sealed(out / "timings.json")["attempts"]) == 2


def test_a_ledger_that_does_not_balance_is_an_error(recipe, tmp_path):
    verbs.measure(recipe, tmp_path / "run", INLINE)
    job = verbs.prepare(recipe, tmp_path / "run")
    receipt = sorted(job.documents.folder.glob("unit-*.json"))[0]
    facts = read_sealed(receipt)
    facts["counts"]["documents"] += 1
    write_sealed(receipt, facts)
    with pytest.raises(LedgerError, match="are accounted for"):
        balance(Books.of(job, job.run.plan()))


def test_two_processes_cannot_work_in_one_folder(recipe, tmp_path):
    with RunFolder(tmp_path / "run").lock(), pytest.raises(RunError, match=f"in use by process {os.getpid()}"):
        verbs.measure(recipe, tmp_path / "run", INLINE)


def test_every_scorer_measures_in_one_run_and_any_of_them_can_choose(recipe, tmp_path):
    out = tmp_path / "run"
    every = replace(recipe, scorers=("longattn", "token_null", "length", "random", "minhash"))
    counts = verbs.measure(every, out, INLINE)
    assert {counts[f"scored.{name}"] for name in every.scorers} == {counts["windows"]}
    kept = {}
    for name in every.scorers:
        verbs.select(replace(every, keep=Selecting(weights={name: 1.0}, share=0.3)), out)
        table = pq.read_table(out / "selection.parquet")
        kept[name] = frozenset(table.filter(table["kept"])["window_id"].to_pylist())
    assert len(set(kept.values())) == len(kept)
    mixed = Selecting(weights={"longattn": 1.0, "length": 0.5, "token_null": -1.0}, near_duplicates=0.9)
    assert verbs.select(replace(every, keep=mixed), out).sources["a"].kept > 0


def test_a_column_of_ones_own_can_be_weighted_and_named_in_a_condition(recipe, tmp_path):
    out = tmp_path / "run"
    selected(recipe, out)
    ids = pq.read_table(out / "selection.parquet")["window_id"].to_pylist()
    quality = pa.table({"window_id": ids, "quality": [float(i % 7) for i in range(len(ids))]})
    pq.write_table(quality, tmp_path / "mine.parquet")
    rule = Selecting(tables=(str(tmp_path / "mine.parquet"),), weights={"column:quality": 1.0}, where="quality < 6")
    verbs.select(replace(recipe, keep=rule), out)
    table = pq.read_table(out / "selection.parquet")
    scores = dict(zip(table["window_id"].to_pylist(), table["score"].to_pylist(), strict=True))
    assert scores == dict(zip(ids, quality["quality"].to_pylist(), strict=True))
    assert {scores[row["window_id"]] for row in table.to_pylist() if row["reason"] == "filtered"} == {6.0}


@pytest.mark.parametrize("names", [("length",), ("windows",), ("mine", "other/mine")])
def test_a_table_of_ones_own_may_not_have_the_name_of_another(names, recipe, tmp_path):
    out = tmp_path / "run"
    by_length = replace(recipe, scorers=("length",), keep=Selecting(weights={"length": 1.0}))
    verbs.measure(by_length, out, INLINE)
    files = [tmp_path / f"{name}.parquet" for name in names]
    for file in files:
        file.parent.mkdir(exist_ok=True)
        pq.write_table(pa.table({"window_id": ["x@0"], "quality": [1.0]}), file)
    keep = replace(by_length.keep, tables=tuple(map(str, files)))
    with pytest.raises(ValueError, match=rf"{names[-1]}\.parquet would be called .* as another table .* rename"):
        verbs.select(replace(by_length, keep=keep), out)
    assert not (out / "selection.parquet").exists()


def test_a_table_that_no_score_uses_takes_no_window_out(recipe, tmp_path):
    """The new file is measured by one scorer only; the tables of the others lack it."""
    out = tmp_path / "run"
    selected(recipe, out)
    added = tmp_path / "corpus" / "another.jsonl"
    added.write_bytes(orjson.dumps({"id": "added", "text": text(7, 500), "kind": "a"}) + b"\n")
    alone = replace(recipe, scorers=("longattn",))
    selected(alone, out)
    assert "added" in pq.read_table(out / "selection.parquet")["doc_id"].to_pylist()
    by_length = verbs.select(replace(recipe, keep=Selecting(weights={"length": 1.0})), out)
    assert any("work units are not measured yet" in note for note in by_length.notes)


def test_a_scorer_measured_on_other_windows_is_not_mixed_in(recipe, tmp_path):
    out = tmp_path / "run"
    verbs.measure(recipe, out, INLINE)
    longer = replace(recipe, window=Windowing(length=80), scorers=("longattn",))
    verbs.measure(longer, out, INLINE)
    assert verbs.select(longer, out).sources["a"].scored > 0
    with pytest.raises(RunError, match="length was measured on other windows"):
        verbs.select(replace(longer, keep=Selecting(weights={"length": 1.0})), out)


def test_the_pilot_of_token_null_is_fitted_once(recipe, tmp_path):
    out = tmp_path / "run"
    with_null = replace(recipe, scorers=("token_null",))
    verbs.measure(with_null, out, INLINE)
    (pilot,) = (out / "pilots").iterdir()
    before = pilot.stat().st_mtime_ns
    verbs.measure(with_null, out, INLINE)
    assert pilot.stat().st_mtime_ns == before
    assert len(list(out.glob("tables/token_null-*"))) == 1


def test_a_copy_of_the_corpus_in_another_place_gives_the_same_pilot(recipe, tmp_path):
    """The pilot is a few of many units, in whose names stand place and time."""
    pilots = []
    for name in ("here", "elsewhere"):
        place = write_corpus(tmp_path / name / "corpus", files=40, documents=4)
        for number, file in enumerate(sorted(place.iterdir())):
            os.utime(file, (number, len(pilots)))
        corpus = replace(recipe.corpus, inputs=(f"all={place}",), unit_bytes=1000)
        out = tmp_path / name / "run"
        verbs.measure(replace(recipe, corpus=corpus, scorers=("token_null",)), out, INLINE)
        assert len(list(out.glob("tables/token_null-*/*.parquet"))) > 10
        pilots.append(next((out / "pilots").iterdir()).read_bytes())
    assert pilots[0] == pilots[1]


def test_cutting_needs_no_scorer_and_measuring_goes_on_from_it(recipe, tmp_path):
    out = tmp_path / "run"
    counts = verbs.cut(recipe, out, INLINE)
    assert {folder.name.split("-")[0] for folder in (out / "tables").iterdir()} == {"documents", "windows"}
    assert verbs.measure(recipe, out, INLINE)["windows"] == counts["windows"] > 0


def test_a_text_by_itself_has_readings(recipe):
    short = verbs.score(text(3, 40), recipe)
    assert (short.num_tokens, len(short.windows)) == (40, 1)
    assert 0 < short.windows[0]["ds"] < 1
    assert len(verbs.score(text(3, 200), recipe).windows) == 4
    with pytest.raises(ValueError, match="at least 8 tokens"):
        verbs.score("tiny", recipe)


def test_an_estimate_measures_nothing(recipe, tmp_path):
    guess = verbs.estimate(replace(recipe, scorers=("longattn", "token_null")), tmp_path / "run", INLINE)
    assert guess.windows > 0
    assert guess.seconds > 0
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["everything", "parent", "worker"])
def test_killed_at_any_moment_the_same_command_finishes_the_same_run(recipe, tmp_path, victim):
    """``kill -9`` at random moments; then the selection equals that of an undisturbed run."""
    flags = [*recipe.corpus.inputs, "--corpus.source-field", "kind", "--corpus.unit-bytes", "300"]
    flags += ["--window.length", str(LENGTH), "--model.name", recipe.model.name, "--keep.share", "0.4"]
    command = [sys.executable, "-m", "longattn", "run", *flags, "--workers", "1", "--devices", "cpu"]
    calm, disturbed = tmp_path / "calm", tmp_path / "disturbed"
    subprocess.run([*command, "--output", str(calm)], check=True, capture_output=True)
    moments = random.Random(victim)
    for _ in range(4):
        process = subprocess.Popen([*command, "--output", str(disturbed)], start_new_session=True, stderr=-3, stdout=-3)
        time.sleep(moments.uniform(1.5, 8))
        if victim == "everything":
            os.killpg(process.pid, signal.SIGKILL)
        elif victim == "parent":
            process.kill()
        else:
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            for child in children[-1:]:
                os.kill(int(child), signal.SIGKILL)
        process.wait(timeout=120)
    subprocess.run([*command, "--output", str(disturbed)], check=True, capture_output=True)
    assert (disturbed / "selection.parquet").read_bytes() == (calm / "selection.parquet").read_bytes()


def test_a_bos_makes_other_tables_of_the_model_and_none_leaves_them_as_they_were(recipe, tmp_path):
    behind_bos = replace(recipe, model=replace(recipe.model, bos=True))
    jobs = [verbs.prepare(one, tmp_path / "run") for one in (recipe, behind_bos)]
    plain, other = (job.table(job.scorers[0]) for job in jobs)
    assert plain.hash != other.hash
    assert other.settings["model"] == {**plain.settings["model"], "bos": True}
    # neither the windows nor what needs no model depends on it
    assert jobs[0].windows.hash == jobs[1].windows.hash
    assert jobs[0].table(jobs[0].scorers[1]).hash == jobs[1].table(jobs[1].scorers[1]).hash
    # settings that are not used leave the names of the tables of older versions
    assert not {"turn_fields", "instruction_last"} & set(jobs[0].windows.settings["corpus"])


def write_samples(file: Path) -> Path:
    lines = []
    for n in range(12):
        said = [("user", text(n, 10 + 3 * n)), ("assistant", text(50 + n, 12))]
        if n == 11:
            said.append(("user", text(n, 200)))
        lines.append({"id": f"s{n}", "messages": [{"role": role, "content": words} for role, words in said]})
    file.write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))
    return file


def test_samples_go_through_every_stage_whole(tmp_path, tiny_model_folder):
    recipe = Recipe(
        corpus=Corpus(inputs=(str(write_samples(tmp_path / "chat.jsonl")),), messages_field="messages"),
        window=Windowing(length=LENGTH),
        model=Model(name=str(tiny_model_folder)),
        scorers=("context_dependency", "length"),
        keep=Selecting(weights={"context_dependency": 1.0}, share=0.5),
    )
    scorers = replace(recipe.settings, context_dependency=ContextDependency(layer=1))
    recipe = replace(recipe, settings=scorers, write=Exporting(format="jsonl", carry=("*",)))
    result = verbs.run(recipe, tmp_path / "run", INLINE)
    assert result.ledger["windows"] == result.ledger["windowed"] == 11
    assert result.ledger["rejected.too_long"] == 1
    [rejected] = (tmp_path / "run" / "rejects.jsonl").read_text().splitlines()
    assert "more than window.length, 64" in rejected
    samples = {f"s{n}": f"{text(n, 10 + 3 * n)}\n\n{text(50 + n, 12)}" for n in range(11)}
    [file] = (tmp_path / "run" / "export" / "data").glob("*.jsonl")
    exported = [json.loads(line) for line in file.read_text().splitlines()]
    assert 0 < len(exported) < 11
    assert all(line["text"] == samples[line["doc_id"]] for line in exported)


@pytest.mark.parametrize(("field", "scorer"), [("messages", "longattn"), (None, "context_dependency")])
def test_scorers_of_windows_measure_no_samples_nor_the_other_way_round(tmp_path, tiny_model_folder, field, scorer):
    corpus = Corpus(inputs=(str(tmp_path),), messages_field=field)
    recipe = Recipe(corpus=corpus, model=Model(name=str(tiny_model_folder)), scorers=(scorer,))
    with pytest.raises(ValueError, match=f"{scorer} does not measure .*; those that do: .*length"):
        verbs.prepare(recipe, tmp_path / "run")
