"""Faults between a run and the object store that it reads from and is kept in.

The store is a server on this machine. A run asks it for the same things in the same order every time, so a fault is
placed by the number of the request that it strikes.
"""

import gzip
import json
import multiprocessing
import os
import shutil
import signal
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from longattn import corpus, stores, verbs
from longattn.errors import LongAttnError, StoreError
from longattn.recipes import Recipe
from longattn.records import Document
from longattn.settings import Compute, Corpus, Exporting, Model, Selecting, Windowing

INLINE = Compute(workers=0, devices=("cpu",), threads=1)
OF_THE_MACHINE = ("timings.json", "progress", "locks/")
VARIABLES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_EC2_METADATA_DISABLED", "LONGATTN_CACHE")


def lines(number: int) -> bytes:
    rows = [{"id": f"{number}-{d}", "text": f"far and near {number} {d} " * (4 + d)} for d in range(6)]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.fixture
def recipe(object_store, tiny_model_folder):
    for number in range(3):
        object_store.put(f"books/part-{number}.jsonl.gz", gzip.compress(lines(number), mtime=0))
    return Recipe(
        corpus=Corpus(inputs=(f"books={object_store.address('books')}",), unit_bytes=1000),
        window=Windowing(length=64),
        model=Model(name=str(tiny_model_folder)),
        scorers=("random",),
        keep=Selecting(share=0.4, weights={"random": 1.0}),
        write=Exporting(file_bytes=4000),
    )


def results(object_store) -> dict[str, bytes]:
    """What must not depend on machine, time and interruptions."""
    return {n: c for n, c in object_store.objects("run/").items() if not n.startswith(OF_THE_MACHINE)}


def forget(object_store, caches: Path) -> None:
    """No run in the store and none on any machine."""
    for name in object_store.objects("run/"):
        object_store.delete(f"run/{name}")
    shutil.rmtree(caches, ignore_errors=True)


@pytest.fixture
def undisturbed(object_store, recipe, tmp_path):
    """The objects of a run that nothing happened to, and how many requests it made."""
    object_store.count()
    verbs.run(recipe, object_store.address("run"), INLINE)
    requests = object_store.count().total()
    expected = results(object_store)
    assert len(expected) > 15
    forget(object_store, tmp_path / "cache")
    return expected, requests


@contextmanager
def machine(cache: Path):
    """A process on a machine with a cache folder of its own; gives how to call something there, and its number.

    Claims there are renewed every second and expire after ten: nobody waits two minutes for one that was killed.
    """
    variables = {name: os.environ[name] for name in VARIABLES} | {"LONGATTN_CACHE": str(cache)}
    begin = multiprocessing.get_context("forkserver")
    begin.set_forkserver_preload(["longattn.verbs", "longattn.selection", "longattn.export", "longattn.report"])
    # a function of this file could not be found by the process
    code = f"import os; os.environ.update({variables!r}); from longattn import stores; "
    code += "stores.RENEWED, stores.EXPIRES = 1.0, 10.0"
    with ProcessPoolExecutor(1, begin, exec, (code,)) as pool:
        yield pool, pool.submit(os.getpid).result()


def strike(object_store, number: int, fault, methods: tuple[str, ...] = ("GET", "HEAD", "PUT", "POST", "DELETE")):
    """Call ``fault`` at a request of that number, from 0 and from now on."""
    left = iter(range(number, -1, -1))

    def at(method, path, query):
        return fault() if method in methods and next(left, -1) == 0 else None

    object_store.fault = at


def test_a_run_is_killed_at_a_request(trials, object_store, recipe, undisturbed, tmp_path, monkeypatch):
    """Killed in the middle of what it asks of the store, and run again with its cache or without one."""
    expected, requests = undisturbed
    chosen = trials.random()
    count = trials.number(60, 2)
    run, passed = object_store.address("run"), 0
    # a killed machine's claim holds others off for two minutes
    monkeypatch.setattr(stores, "EXPIRES", -1.0)
    for trial in range(count):
        cache = tmp_path / "machine"
        with suppress(BrokenProcessPool), machine(cache) as (pool, process):
            strike(object_store, chosen.randrange(requests), lambda v=process: os.kill(v, signal.SIGKILL))
            pool.submit(verbs.run, recipe, run, INLINE).result()
        object_store.fault = lambda *_: None
        # every other time the machine comes back with what it knew
        monkeypatch.setenv("LONGATTN_CACHE", str(cache if trial % 2 else tmp_path / "other"))
        verbs.run(recipe, run, INLINE)
        passed += results(object_store) == expected
        forget(object_store, cache)
        shutil.rmtree(tmp_path / "other", ignore_errors=True)
    trials.count("R1", "a run in an object store killed at a request, then run again", count, passed)


def test_a_request_is_refused(trials, object_store, recipe, undisturbed, tmp_path):
    """A request of a run answered once with an error that no second attempt follows; each seed takes every third."""
    expected, requests = undisturbed
    chosen = trials.random()
    numbers = range(chosen.randrange(3), requests, 3) if trials.full_size else chosen.sample(range(requests), 3)
    run, passed = object_store.address("run"), 0
    for number in numbers:
        strike(object_store, number, lambda: "400 Bad Request")
        with suppress(LongAttnError, OSError):
            verbs.run(recipe, run, INLINE)
        object_store.fault = lambda *_: None
        verbs.run(recipe, run, INLINE)
        passed += results(object_store) == expected
        forget(object_store, tmp_path / "cache")
    trials.count("R5", "a request of a run in an object store refused, then run again", len(numbers), passed)


def test_a_store_is_busy(trials, object_store, recipe, undisturbed, tmp_path):
    """Every n-th request is answered by 503, and made again by the client: nobody notices."""
    expected, _ = undisturbed
    steps = (5, 3, 7) if trials.full_size else (40,)
    passed = 0
    for step in steps:
        # a client that has met a hundred refusals makes no request again, and runs are processes of their own otherwise
        stores._file_system.cache_clear()
        asked = iter(range(1, 10_000))
        object_store.fault = lambda *_, asked=asked, step=step: None if next(asked) % step else "503 Slow Down"
        verbs.run(recipe, object_store.address("run"), INLINE)
        object_store.fault = lambda *_: None
        passed += results(object_store) == expected
        forget(object_store, tmp_path / "cache")
    trials.count("R5", "a store that answers every n-th request by 503", len(steps), passed)


def test_a_download_breaks_off(trials, object_store, recipe):
    """The connection is closed in the middle of an object: it is read again, or the unit is not done."""
    units = corpus.list_units(recipe.corpus)
    whole = [record.text for unit in units for record in corpus.read_unit(unit, recipe.corpus)]
    count = trials.number(30, 2)
    passed = 0
    chosen = trials.random()
    for _ in range(count):
        strike(object_store, chosen.randrange(len(units)), lambda: "cut", ("GET",))
        try:
            records = [record for unit in units for record in corpus.read_unit(unit, recipe.corpus)]
            passed += [r.text for r in records if isinstance(r, Document)] == whole and len(records) == len(whole)
        except StoreError:
            passed += 1
        object_store.fault = lambda *_: None
    trials.count("I1", "a download from an object store broken off", count, passed)


def test_shards_on_two_machines_of_which_one_is_killed(
    trials, object_store, recipe, undisturbed, tmp_path, monkeypatch
):
    """Two machines at once, one killed and begun again elsewhere: the run of one machine, to the byte."""
    expected, requests = undisturbed
    expected = {n: content for n, content in expected.items() if n.startswith(("tables/", "selection", "plan"))}
    chosen, count, passed = trials.random(), trials.number(12, 1), 0
    run = object_store.address("run")
    monkeypatch.setattr(stores, "EXPIRES", -1.0)
    for _ in range(count):
        monkeypatch.setenv("LONGATTN_CACHE", str(tmp_path / "cache"))
        verbs.plan(recipe, run)
        with suppress(BrokenProcessPool), machine(tmp_path / "a") as (a, _), machine(tmp_path / "b") as (b, victim):
            strike(object_store, chosen.randrange(requests // 2), lambda v=victim: os.kill(v, signal.SIGKILL))
            shards = [replace(INLINE, shard=f"{k}/2") for k in range(2)]
            works: list[Future] = [
                pool.submit(verbs.measure, recipe, run, shard) for pool, shard in zip((a, b), shards, strict=True)
            ]
            for work in works:
                work.result()
        object_store.fault = lambda *_: None
        monkeypatch.setenv("LONGATTN_CACHE", str(tmp_path / "c"))
        verbs.measure(recipe, run, replace(INLINE, shard="1/2"))
        verbs.select(recipe, run)
        found = results(object_store)
        passed += {name: found.get(name) for name in expected} == expected
        for folder in "abc":
            shutil.rmtree(tmp_path / folder, ignore_errors=True)
        forget(object_store, tmp_path / "cache")
    trials.count("R7", "two machines on one run in an object store, one killed", count, passed)
