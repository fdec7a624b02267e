"""Runs and inputs in an object store, on a server of S3's protocol that runs here."""

import bz2
import gzip
import hashlib
import io
import json
import pickle
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from longattn import cli, corpus, stores, verbs
from longattn.doctor import check_store
from longattn.engines.progress import State, StatusFile
from longattn.errors import RunError, StoreError
from longattn.recipes import Recipe
from longattn.records import Document, Reject
from longattn.settings import Compute, Corpus, Model, Selecting, Windowing
from longattn.stores import Store
from longattn.tables import RunFolder, write_json

INLINE = Compute(workers=0, devices=("cpu",), threads=1)
OF_THE_MACHINE = ("timings.json", "progress")
"""Objects that hold times."""


def rows(number: int, documents: int = 6) -> list[dict]:
    return [{"id": f"{number}-{d}", "text": f"far and near {number} {d} " * (4 + d)} for d in range(documents)]


def lines(number: int, documents: int = 6) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows(number, documents)).encode()


@pytest.fixture
def recipe(object_store, tiny_model_folder):
    """Three files in the store, a unit each."""
    for number in range(3):
        object_store.put(f"books/part-{number}.jsonl", lines(number))
    return Recipe(
        corpus=Corpus(inputs=(f"books={object_store.address('books/*.jsonl')}",), unit_bytes=1000),
        window=Windowing(length=64),
        model=Model(name=str(tiny_model_folder)),
        scorers=("length", "random"),
        keep=Selecting(share=0.4, weights={"random": 1.0}),
    )


@pytest.fixture
def another_machine(monkeypatch, tmp_path):
    """A call changes to a machine that has never seen any run."""
    numbers = iter(range(100))

    def change() -> None:
        monkeypatch.setenv("LONGATTN_CACHE", str(tmp_path / f"machine-{next(numbers)}"))

    return change


@pytest.fixture
def impatient(monkeypatch):
    """Two attempts for each request."""
    monkeypatch.setattr(stores, "ATTEMPTS", 2)
    stores._file_system.cache_clear()
    yield
    stores._file_system.cache_clear()


def results(object_store, prefix: str = "run/") -> dict[str, bytes]:
    """What must not depend on machine, time and interruptions."""
    return {n: c for n, c in object_store.objects(prefix).items() if not n.startswith(OF_THE_MACHINE)}


def texts(settings: Corpus) -> dict[str, str]:
    """Every document of a corpus, by id."""
    found = {}
    for unit in corpus.list_units(settings):
        for record in corpus.read_unit(unit, settings):
            assert isinstance(record, Document), record
            found[record.id] = record.text
    return found


# Input


def test_files_folders_globs_and_every_format_are_read_as_on_a_disk(object_store, tmp_path):
    parquet = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows(4, 40)), parquet, row_group_size=5)
    contents = {
        "a/plain.jsonl": lines(0, 40),
        "a/deep/er/packed.jsonl.gz": gzip.compress(lines(1)),
        "a/deep/packed.jsonl.bz2": bz2.compress(lines(2)),
        "a/packed.jsonl.zst": pa.compress(lines(3), codec="zstd", asbytes=True),
        "a/table.parquet": parquet.getvalue(),
        "a/essay with a space.txt": b"An essay. " * 9,
        "b/other.jsonl": lines(5),
    }
    for name, content in contents.items():
        object_store.put(f"in/{name}", content)
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    for pattern in ("a/plain.jsonl", "a", "a/*.jsonl*", "*/*.jsonl", "a/**/*.bz2", "*"):
        near = Corpus(inputs=(str(tmp_path / "in" / pattern),), unit_bytes=700)
        far = Corpus(inputs=(object_store.address(f"in/{pattern}"),), unit_bytes=700)
        here, there = corpus.list_units(near), corpus.list_units(far)
        places = [[(p.size, p.start, p.stop) for u in units for p in u.slices] for units in (here, there)]
        assert places[0] == places[1], pattern
        assert len(there) > 2 or pattern in ("a/**/*.bz2", "*/*.jsonl")
        # a text's id is its name, which is an address here
        assert sorted(texts(near).values()) == sorted(texts(far).values()), pattern


def test_an_input_of_10_000_objects_is_listed_in_ten_requests(object_store):
    for number in range(10_000):
        object_store.put(f"many/{number % 7}/{number}.jsonl", b"")
    object_store.count()
    found = corpus.list_files(Corpus(inputs=(object_store.address("many"),)))
    assert len(found.files) == 10_000
    # one more to see that the input is a folder
    assert object_store.count() == {"LIST": 10 + 1, "HEAD": 1}


def test_a_store_that_is_busy_now_and_then_costs_time_only(object_store):
    object_store.put("in/a.jsonl", lines(1))
    asked = iter(range(1000))
    object_store.fault = lambda *_: "503 Slow Down" if next(asked) % 5 == 0 else None
    assert len(texts(Corpus(inputs=(object_store.address("in"),)))) == 6


def test_a_store_that_stays_away_ends_the_run_and_rejects_no_record(object_store, impatient):
    settings = Corpus(inputs=(object_store.address("in"),))
    object_store.put("in/a.jsonl", lines(1))
    object_store.put("in/b.txt", b"text")
    object_store.put("in/c.parquet", b"PAR1, or not")
    units = corpus.list_units(settings)
    object_store.fault = lambda method, *_: "503 Slow Down" if method == "GET" else None
    for unit in units:
        with pytest.raises(StoreError, match=r"s3://.*/in/.* cannot be read: no answer after 2 attempts or fewer"):
            list(corpus.read_unit(unit, settings))
    object_store.fault = lambda *_: None
    # damage is the file's own
    records = [record for unit in units for record in corpus.read_unit(unit, settings)]
    assert [record.reason for record in records if isinstance(record, Reject)] == ["unreadable"]


def test_a_manifest_lists_objects_as_it_lists_files(object_store, impatient, tmp_path):
    for number in range(2):
        object_store.put(f"in/{number}.jsonl", lines(number))
    settings = Corpus(inputs=(object_store.address("in"),), manifest=str(tmp_path / "manifest.jsonl"))
    corpus.write_manifest(tmp_path / "manifest.jsonl", corpus.list_files(settings, compare=False).files)
    assert len(texts(settings)) == 12
    listed = (tmp_path / "manifest.jsonl").read_text()
    (tmp_path / "manifest.jsonl").write_text(listed.replace(hashlib.sha256(lines(1)).hexdigest(), "0" * 64))
    records = [record for unit in corpus.list_units(settings) for record in corpus.read_unit(unit, settings)]
    assert [record.reason for record in records if isinstance(record, Reject)] == ["not_as_listed"]
    assert len(records) == 7


def test_a_store_that_stays_away_while_hashes_are_made_is_no_other_content(object_store, impatient, tmp_path):
    object_store.put("in/a.jsonl", lines(1))
    manifest = tmp_path / "manifest.jsonl"
    settings = Corpus(inputs=(object_store.address("in"),), manifest=str(manifest))
    files = corpus.list_files(settings, compare=False).files
    manifest.write_text(f"{hashlib.sha256(lines(1)).hexdigest()}  {object_store.address('in/a.jsonl')}\n")
    (unit,) = corpus.list_units(settings)
    object_store.fault = lambda method, *_: "503 Slow Down" if method == "GET" else None
    with pytest.raises(StoreError, match="no answer after 2 attempts or fewer"):
        corpus.write_manifest(tmp_path / "other.jsonl", files)
    with pytest.raises(StoreError, match="no answer after 2 attempts or fewer"):
        list(corpus.read_unit(unit, settings))


@pytest.mark.parametrize(
    ("status", "said"),
    [("403 Forbidden", "the store refuses these credentials; set AWS_ACCESS_KEY_ID"), (None, "such")],
)
def test_credentials_that_are_wrong_and_inputs_that_are_not_there_are_one_line(object_store, capsys, status, said):
    object_store.fault = lambda *_: status
    assert cli.launch(["plan", object_store.address("nothing"), "--output", object_store.address("run")]) == 1
    complaint = capsys.readouterr().err
    assert said in complaint
    assert complaint.count("\n") == 1
    assert "Traceback" not in complaint
    assert "secret" not in complaint


def test_a_server_may_be_named_by_the_environment(object_store, monkeypatch):
    object_store.put("in/a.jsonl", lines(1))
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{object_store.options.split(':')[1].split('&')[0]}")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    bucket = f"s3://{object_store.bucket}"
    assert len(texts(Corpus(inputs=(f"{bucket}/in",)))) == 6
    assert RunFolder.at(f"{bucket}/run").place == f"{bucket}/run"


# Runs


def test_a_whole_run_in_a_store_is_the_one_on_a_disk(object_store, recipe, tmp_path, another_machine):
    run = object_store.address("run")
    there = verbs.run(recipe, run, INLINE)
    here = verbs.run(recipe, tmp_path / "run", INLINE)
    assert there.ledger == here.ledger
    assert there.selection.path == object_store.address("run/selection.parquet")
    found = object_store.objects("run/")
    assert not any(name.startswith("locks/") for name in found)
    local = {path.relative_to(tmp_path / "run").as_posix(): path for path in (tmp_path / "run").rglob("[!.]*")}
    assert found.keys() == {name for name, path in local.items() if path.is_file()}
    # the report and the manifest say where the run is
    for name in found.keys() - {"manifest.json", "report.html", "timings.json", "progress.json"}:
        assert found[name] == local[name].read_bytes(), name
    another_machine()
    state = verbs.status(run)
    assert (state.units, set(state.tables.values()), state.selected) == (3, {3}, True)
    assert not verbs.verify(run).damaged


def test_the_command_line_takes_an_address(object_store, recipe, capsys, another_machine):
    run = object_store.address("run")
    model = ["--model.name", recipe.model.name, "--window.length", "64", "--scorers", "random"]
    words = [*recipe.corpus.inputs, "--output", run, *model, "--keep.weights.random", "1"]
    assert cli.launch(["run", *words, "--workers", "1", "--devices", "cpu", "--keep.share", "0.5"]) == 0
    said = capsys.readouterr().out
    assert object_store.address("run/selection.parquet") in said
    before = object_store.objects("run/selection.parquet")
    for verb in ("status", "verify", "select", "export", "report"):
        another_machine()
        assert cli.launch([verb, run]) == 0, verb
    assert "selected: yes" in capsys.readouterr().out
    assert object_store.objects("run/selection.parquet") == before
    another_machine()
    assert cli.launch(["select", run, "--keep.share", "0.1"]) == 0
    assert object_store.objects("run/selection.parquet") != before


def test_windows_and_differences_of_runs_in_a_store_are_looked_at(
    object_store, recipe, capsys, another_machine, tmp_path
):
    run, earlier = object_store.address("run"), tmp_path / "before.parquet"
    with pytest.raises(FileNotFoundError, match=r"run.* has no selection.parquet"):
        verbs.diff(run, run)
    verbs.run(recipe, run, INLINE)
    earlier.write_bytes(object_store.objects("run/")["selection.parquet"])
    another_machine()
    verbs.select(replace(recipe, keep=Selecting(share=0.2, weights={"random": 1.0})), run)
    another_machine()
    assert cli.launch(["diff", str(earlier), run, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {of["change"] for of in found["reasons"]} == {"left"}
    another_machine()
    assert cli.launch(["inspect", run, "--device", "cpu"]) == 0
    (name,) = object_store.objects("run/inspect/")
    assert f"-> {object_store.address('run/inspect/' + name)}" in capsys.readouterr().out
    assert not verbs.verify(run).damaged


def test_a_unit_is_two_requests_for_each_table_and_a_second_run_asks_for_no_table(object_store, recipe):
    run = object_store.address("run")
    verbs.measure(recipe, run, INLINE)
    object_store.put("books/part-9.jsonl", lines(9))
    object_store.count()
    verbs.measure(recipe, run, INLINE)
    asked = [(method, path.rpartition("/")[2]) for method, path, _ in object_store.requests if "/tables/" in path]
    assert [method for method, name in asked if name.startswith("unit-")] == ["PUT"] * 8
    # the rest is the same however many units there are: listings, locks, manifest, timings
    assert len(object_store.requests) < 60
    object_store.count()
    verbs.measure(recipe, run, INLINE)
    assert not [path for _, path, _ in object_store.requests if "/tables/" in path]


def test_nothing_is_measured_again_where_the_cache_is_lost(object_store, recipe, another_machine):
    run = object_store.address("run")
    ledger = verbs.measure(recipe, run, INLINE)
    verbs.select(recipe, run)
    before = results(object_store)
    another_machine()
    object_store.count()
    assert verbs.measure(recipe, run, INLINE) == ledger
    assert not [r for r in object_store.requests if r[0] == "PUT" and "/tables/" in r[1]]
    another_machine()
    object_store.count()
    verbs.select(recipe, run)
    fetched = [path for method, path, _ in object_store.requests if method == "GET" and "/tables/" in path]
    # receipts and rows of what is selected from; of the other scorer's table no unit but the first, for its columns
    assert not [path for path in fetched if "/documents-" in path]
    assert results(object_store) == before


def test_shards_on_two_machines_come_to_the_same_bytes(object_store, recipe, another_machine):
    whole = object_store.address("whole")
    verbs.measure(recipe, whole, INLINE)
    verbs.select(recipe, whole)
    run = object_store.address("run")
    verbs.plan(recipe, run)
    for shard in ("1/2", "0/2"):
        another_machine()
        verbs.measure(recipe, run, replace(INLINE, shard=shard))
    another_machine()
    verbs.select(recipe, run)
    for name in ("selection.parquet", "rejects.jsonl", "plan.parquet"):
        assert object_store.objects("run/")[name] == object_store.objects("whole/")[name]
    assert results(object_store, "run/tables/") == results(object_store, "whole/tables/")
    ledgers = [json.loads(object_store.objects(f"{name}/")["manifest.json"])["ledger"] for name in ("run", "whole")]
    assert ledgers[0] == ledgers[1]


def test_what_was_deleted_from_the_store_is_measured_again(object_store, recipe):
    run = object_store.address("run")
    verbs.measure(recipe, run, INLINE)
    before = results(object_store)
    victim = next(name for name in before if "/unit-" in name and name.endswith(".json") and "random" in name)
    object_store.delete(f"run/{victim}")
    verbs.measure(recipe, run, INLINE)
    assert results(object_store) == before


def test_damage_in_the_store_is_found_by_verify_and_never_selected_from(object_store, recipe, another_machine):
    run = object_store.address("run")
    verbs.measure(recipe, run, INLINE)
    name, content = next((n, c) for n, c in results(object_store).items() if "random" in n and n.endswith(".parquet"))
    object_store.put(f"run/{name}", content[:100] + bytes([content[100] ^ 1]) + content[101:])
    # also with a cache that holds the good one
    assert [one.file for one in verbs.verify(run).damaged] == [name]
    another_machine()
    with pytest.raises(RunError, match=r"s3://.*random.* is damaged: .*; delete it there and measure again"):
        verbs.select(recipe, run)
    object_store.delete(f"run/{name}")
    verbs.measure(recipe, run, INLINE)
    verbs.select(recipe, run)
    assert not verbs.verify(run).damaged


def test_an_export_that_is_cut_off_is_not_finished_and_leaves_other_files_alone(object_store, recipe):
    run = object_store.address("run")
    verbs.run(recipe, run, INLINE)
    before = results(object_store)
    object_store.put("run/export/notes.txt", b"my own")
    object_store.put("run/export/data/part-00077.parquet", b"of an earlier export")
    object_store.fault = lambda method, path, _: "400 Bad" if method == "PUT" and path.endswith("README.md") else None
    with pytest.raises(StoreError, match=r"export/README.md cannot be written"):
        verbs.export_selection(recipe, run)
    assert "export/export.json" not in results(object_store)
    object_store.fault = lambda *_: None
    verbs.export_selection(recipe, run)
    assert results(object_store) == before | {"export/notes.txt": b"my own"}


# The store itself


@pytest.fixture
def store(object_store):
    return Store(object_store.address("run"))


@pytest.fixture
def large(tmp_path):
    """A file of three parts, as pyarrow sends them."""
    path = tmp_path / "large"
    path.write_bytes(bytes(range(256)) * 4 * 2**10 * 25)
    return path


def test_a_large_file_is_sent_in_parts_and_a_small_one_in_one_request(object_store, store, large, tmp_path):
    store.put(large, "large")
    assert object_store.count() == {"POST": 2, "PUT": 3}
    assert object_store.objects("run/")["large"] == large.read_bytes()
    store.put(b"small", "small")
    assert object_store.count() == {"PUT": 1}
    store.get({"large": tmp_path / "back", "small": tmp_path / "deep" / "small"})
    assert (tmp_path / "back").read_bytes() == large.read_bytes()
    assert store.sha256("large") == stores.hashlib.sha256(large.read_bytes()).hexdigest()


@pytest.mark.parametrize("part", [1, 2, 3])
def test_an_upload_that_is_cut_off_leaves_what_was_there(object_store, store, large, part):
    store.put(b"before", "large")
    object_store.fault = lambda method, _, query: "400 Bad" if f"partNumber={part}&" in query else None
    with pytest.raises(StoreError, match=r"large cannot be written: .*HTTP status 400"):
        store.put(large, "large")
    assert object_store.objects("run/") == {"large": b"before"}
    object_store.fault = lambda *_: None
    store.put(large, "large")
    assert object_store.objects("run/") == {"large": large.read_bytes()}


def test_a_file_that_cannot_be_read_here_leaves_no_part_there(object_store, store, large, monkeypatch):
    def breaking(source, target, length):
        target.write(source.read(12 * 2**20))
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(shutil, "copyfileobj", breaking)
    with pytest.raises(OSError, match="Input/output error"):
        store.put(large, "large")
    assert object_store.objects("run/") == {}


def test_ctrl_c_waits_for_the_end_of_an_upload(object_store, store, large, monkeypatch):
    def interrupted(method, path, query):
        if "partNumber=2" in query:
            stores.os.kill(stores.os.getpid(), 2)

    object_store.fault = interrupted
    with pytest.raises(KeyboardInterrupt):
        store.put(large, "large")
    assert object_store.objects("run/") == {"large": large.read_bytes()}


def test_a_file_system_without_whole_puts_gets_a_name_for_what_is_complete(tmp_path, large, monkeypatch):
    store = Store(f"fsspec+file://{tmp_path}/far")
    store.put(large, "deep/file")
    assert store.files() == {"deep/file": (large.stat().st_size, store.files()["deep/file"].modified)}
    assert (tmp_path / "far/deep/file").read_bytes() == large.read_bytes()

    def breaking(source, target, length):
        target.write(b"half")
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(shutil, "copyfileobj", breaking)
    with pytest.raises(OSError, match="Input/output error"):
        store.put(b"other", "deep/file")
    assert list((tmp_path / "far/deep").iterdir()) == [tmp_path / "far/deep/file"]


@pytest.mark.parametrize(
    ("place", "error", "said"),
    [
        (Path("s3://bucket/run"), ValueError, "give it as a text"),
        ("hf://datasets/me/run", StoreError, "use --write.push-to"),
        ("s3://me:password@bucket/run", StoreError, "holds a password"),
        ("s3://bucket/run?region=x&secret_key=hidden", StoreError, r"holds a secret \(secret_key\)"),
        ("ftp://host/run", StoreError, "ftp://host: Unrecognized filesystem type"),
        ("s3://bucket/run?no_such_option=1", StoreError, "no_such_option"),
    ],
)
def test_places_that_can_be_no_run_are_refused(object_store, place, error, said):
    with pytest.raises(error, match=said):
        RunFolder.at(place)


def test_an_address_of_this_machine_is_a_folder(tmp_path):
    assert RunFolder.at(f"file://{tmp_path}/run").root == tmp_path / "run"


# Locks


def test_a_second_machine_is_refused_and_a_dead_one_forgotten(object_store, another_machine, monkeypatch):
    place = object_store.address("run")
    first = RunFolder.at(place)
    another_machine()
    second = RunFolder.at(place)
    in_use = r"/run is in use by process \d+ on .*; wait for it, or 120 s"
    with first.lock(), pytest.raises(RunError, match=in_use), second.lock():
        pass
    with second.lock():
        assert object_store.objects("run/locks/run/")
    # one that was killed leaves its claim
    object_store.put("run/locks/run/dead.txt", b"process 1 on nowhere")
    with pytest.raises(RunError, match="process 1 on nowhere"), second.lock():
        pass
    monkeypatch.setattr(stores, "EXPIRES", -1.0)
    with second.lock():
        pass
    assert not object_store.objects("run/locks/")


def test_who_waits_elsewhere_gets_what_the_first_one_gives_back(object_store, another_machine, monkeypatch):
    place, order = object_store.address("run"), []
    first = RunFolder.at(place)
    another_machine()
    second = RunFolder.at(place)
    slept = threading.Event()

    def sleep(seconds, sleep=time.sleep):
        slept.set()
        sleep(min(seconds, 0.05))

    monkeypatch.setattr(time, "sleep", sleep)

    def wait():
        with second.lock("ledger", wait=True):
            order.append("second")

    waiting = threading.Thread(target=wait)
    with first.lock("ledger"):
        waiting.start()
        assert slept.wait(30)
        order.append("first")
    waiting.join(30)
    assert order == ["first", "second"]
    assert not object_store.objects("run/locks/")


def test_a_table_that_is_discarded_is_gone_from_the_store(object_store):
    run = RunFolder.at(object_store.address("run"))
    kept, gone = run.table("kept", {}), run.table("gone", {})
    for table in (kept, gone):
        table.commit("unit", pa.table({"window_id": ["a"]}), {}, {})
    gone.discard()
    assert not object_store.objects(f"run/tables/{gone.folder.name}")
    assert object_store.objects(f"run/tables/{kept.folder.name}")
    assert not gone.folder.exists()
    gone.commit("unit", pa.table({"window_id": ["b"]}), {}, {})
    assert [rows["window_id"].to_pylist() for rows in gone.read(["unit"])] == [["b"]]


def test_what_is_not_in_a_store_is_none(object_store):
    store = Store(object_store.address("run"))
    assert store.read("nothing.txt") is None
    store.put(b"some", "thing.txt")
    assert store.read("thing.txt") == b"some"


@pytest.mark.parametrize(("first", "second"), [(None, "0/2"), ("1/2", None)])
def test_a_whole_run_and_a_shard_elsewhere_exclude_each_other(first, second, object_store, another_machine):
    place = object_store.address("run")
    here = RunFolder.at(place)
    another_machine()
    elsewhere = RunFolder.at(place)
    with here.lock(first):
        with pytest.raises(RunError, match="is in use by process"), elsewhere.lock(second):
            pass
        # neither two shards, nor a shard and what all write in turn
        with elsewhere.lock("manifest"):
            pass
        if first:
            with elsewhere.lock("0/2"):
                pass
    with elsewhere.lock(second):
        pass
    assert not object_store.objects("run/locks/")


def test_who_looks_at_a_run_takes_no_status_from_its_writer(object_store, monkeypatch):
    """`status` on the same machine clears the working copy of what the store has not got."""
    place = object_store.address("run")
    run, put = RunFolder.at(place), stores.Store.put

    def and_look(store, content, name):
        RunFolder.at(place)
        put(store, content, name)

    monkeypatch.setattr(stores.Store, "put", and_look)
    StatusFile(run.root, "embedded").end(State(1, 1, 1, 1.0), "done", "")
    assert json.loads(object_store.objects("run/")["progress.json"])["phase"] == "done"
    assert RunFolder.at(place).root.joinpath("progress.json").exists()


def test_doctor_looks_at_a_store_and_makes_no_folder_of_its_name(object_store, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    [found] = list(check_store(object_store.address("run")))
    assert found.outcome == "pass"
    assert not object_store.objects("run/")
    assert [one.outcome for one in check_store("hf://datasets/somebody/run")] == ["fail"]
    assert not list(tmp_path.glob("*:*"))


def test_a_claim_is_renewed_while_it_is_held(object_store, monkeypatch):
    run = RunFolder.at(object_store.address("run"))
    monkeypatch.setattr(stores, "RENEWED", 0.01)
    with run.lock():
        while len([r for r in object_store.requests if r[0] == "PUT" and r[1].endswith(".txt")]) < 3:
            pass
    assert not object_store.objects("run/")


def test_of_two_machines_that_write_the_manifest_at_once_none_loses_a_section(object_store, another_machine):
    place = object_store.address("run")
    runs = [RunFolder.at(place)]
    another_machine()
    runs.append(RunFolder.at(place))
    for number in range(6):
        runs[number % 2].update_manifest(**{f"section_{number}": number})
    written = json.loads(object_store.objects("run/")["manifest.json"])
    assert written.keys() - {"seal"} == {f"section_{number}" for number in range(6)}


def test_a_process_elsewhere_has_a_working_copy_of_its_own(object_store, recipe, another_machine):
    run = RunFolder.at(object_store.address("run"))
    sent = pickle.dumps([run, run.below("validity")])
    another_machine()
    received, inner = pickle.loads(sent)
    assert received.place == run.place
    assert received.root != run.root
    received.update_manifest(section=1)
    write_json(inner.root / "facts.json", {})
    assert object_store.objects("run/").keys() == {"manifest.json", "validity/facts.json"}
