"""Units on a Ray of this machine: the same run as without it, whatever becomes of workers."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec

import pytest

from longattn import cli, engines, verbs
from longattn.attempts import left_out
from longattn.errors import CorpusError, ModelError, RunError
from longattn.recipes import Recipe
from longattn.scorers import Gateau
from longattn.settings import Compute, Corpus, Model, Windowing
from longattn.testing import tiny_checkpoint

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="needs longattn[ray]")

INLINE = Compute(workers=0, devices=("cpu",), threads=1)
ON_RAY = Compute(engine="ray", ray_workers=2, workers=0, threads=1)


@pytest.fixture
def recipe(tiny_model_folder, tmp_path):
    """Six files of a document each, a unit each."""
    for i in range(6):
        record = {"id": "poison" if i == 3 else str(i), "text": f"file {i} " * 30}
        (tmp_path / f"{i}.jsonl").write_text(json.dumps(record))
    return Recipe(
        corpus=Corpus(inputs=(str(tmp_path / "*.jsonl"),), unit_bytes=1000),
        window=Windowing(length=64),
        model=Model(name=str(tiny_model_folder)),
        scorers=("length", "random"),
    )


def contents(folder):
    """The tables of a run, by name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.glob("tables/*/*")}


@pytest.mark.skipif(shutil.which("ss") is None, reason="needs ss")
def test_a_ray_that_we_start_can_be_reached_from_this_machine_only(ray):
    import ray as library

    assert {node["NodeManagerAddress"] for node in library.nodes()} == {"127.0.0.1"}
    assert os.environ["RAY_AUTH_MODE"] == "token"
    # SIGTERM is still ours to handle
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    sockets = subprocess.run(["ss", "-Hltnp"], capture_output=True, text=True, check=True).stdout.splitlines()
    of_ray = [line.split()[3] for line in sockets if any(word in line for word in ("ray::", "raylet", "gcs_server"))]
    assert of_ray
    assert all("127.0.0.1" in place for place in of_ray), of_ray


@pytest.mark.parametrize(
    "workers", [0, pytest.param(1, marks=pytest.mark.slow)], ids=["in the worker", "in processes of its own"]
)
def test_a_run_on_ray_is_the_run_without_it(ray, recipe, tmp_path, workers):
    recipe = replace(recipe, scorers=("longattn", "length")) if workers else recipe
    expected = verbs.measure(recipe, tmp_path / "calm", INLINE)
    assert verbs.measure(recipe, tmp_path / "run", replace(ON_RAY, workers=workers)) == expected
    assert contents(tmp_path / "run") == contents(tmp_path / "calm")
    # once it is imported, whatever reads Parquet builds the Arrow types that a file names
    assert "ray.data" not in sys.modules
    state = json.loads((tmp_path / "run" / "progress.json").read_bytes())
    assert (state["engine"], state["phase"], state["units_done"]) == ("ray", "done", 6)
    assert state["windows"] == expected["windows"]
    assert sum(worker["windows"] for worker in state["workers"]) == expected["windows"]


def test_a_scorer_of_two_models_on_ray_is_the_one_without_it(ray, recipe, tmp_path):
    """Each worker finds both models by itself; the tables' names say which they were."""
    short = tiny_checkpoint(tmp_path / "short", seed=7)
    for i in range(4):
        words = " ".join(str(i * k * 7919 % 97) for k in range(30))
        record = {"id": str(i), "context": words, "question": "Which?", "answer": words[i : i + 12]}
        (tmp_path / f"sample-{i}.jsonl").write_text(json.dumps(record))
    fields = ("context=user", "question=user", "answer=assistant")
    scorer = Gateau(short_model=Model(name=str(short)), segment=16)
    recipe = replace(
        recipe,
        corpus=Corpus(inputs=(str(tmp_path / "sample-*.jsonl"),), turn_fields=fields, unit_bytes=1000),
        window=Windowing(length=256),
        scorers=("gateau",),
        settings=replace(recipe.settings, gateau=scorer),
    )
    expected = verbs.measure(recipe, tmp_path / "calm", INLINE)
    assert expected["scored.gateau"] == 4
    assert verbs.measure(recipe, tmp_path / "run", ON_RAY) == expected
    assert contents(tmp_path / "run") == contents(tmp_path / "calm")


@pytest.mark.parametrize(
    "workers", [0, pytest.param(1, marks=pytest.mark.slow)], ids=["in the worker", "in processes of its own"]
)
def test_a_unit_that_kills_its_workers_is_left_out_and_the_others_are_measured(ray, recipe, tmp_path, workers):
    from killer import Killer

    job = replace(verbs.prepare(recipe, tmp_path / "run"), scorers=(Killer(),))
    units = verbs.plan(recipe, tmp_path / "run")
    engines.measure(job, units, replace(ON_RAY, workers=workers))
    assert [job.is_done(unit.id) for unit in units] == [True, True, True, False, True, True]
    assert left_out(job) == {units[3].id}
    state = json.loads((tmp_path / "run" / "progress.json").read_bytes())
    assert (state["units_done"], state["units_failed"]) == (5, 1)


@pytest.mark.slow
def test_too_many_bad_records_stop_the_run_on_ray(ray, recipe, tmp_path):
    (tmp_path / "9.jsonl").write_bytes(b"{}\n" * 5)
    with pytest.raises(CorpusError, match="5 records were rejected or failed, more than max_errors=4"):
        verbs.measure(recipe, tmp_path / "run", replace(ON_RAY, max_errors=4))


@pytest.mark.slow
def test_what_is_wrong_with_a_model_is_said_by_the_driver(ray, recipe, tmp_path):
    scorers = replace(recipe.settings, longattn=replace(recipe.settings.longattn, layers=(7,)))
    with pytest.raises(ModelError, match="7"):
        verbs.measure(replace(recipe, scorers=("longattn",), settings=scorers), tmp_path / "run", ON_RAY)


def test_a_worker_with_another_version_or_model_is_refused(ray, recipe, tmp_path, monkeypatch):
    versions = {**ray.package_versions(), "numpy": "1.0"}
    monkeypatch.setattr(ray, "package_versions", lambda: versions)
    with pytest.raises(RunError, match=r"differs from the driver: numpy is \S+ there, 1\.0 here$"):
        verbs.measure(recipe, tmp_path / "run", ON_RAY)
    assert not list(tmp_path.glob("run/tables/*/unit-*"))


@pytest.mark.slow
def test_a_build_of_a_version_is_the_same_version(ray, recipe, tmp_path, monkeypatch):
    versions = {name: f"{version}+there" for name, version in ray.package_versions().items()}
    monkeypatch.setattr(ray, "package_versions", lambda: versions)
    assert verbs.measure(recipe, tmp_path / "run", ON_RAY)["documents"] == 6


def test_ray_hands_out_the_devices(recipe, tmp_path):
    with pytest.raises(ValueError, match="devices must be auto or cpu, got cuda:1"):
        verbs.measure(recipe, tmp_path / "run", replace(ON_RAY, devices=("cuda:1",)))


@pytest.mark.parametrize("address", [None, "127.0.0.1:1"])
def test_a_ray_that_does_not_start_is_one_line(monkeypatch, address):
    import ray as library

    from longattn.engines import ray as engine

    def init(**options):
        raise Exception("The current node timed out during startup.\nIts logs: ...")

    monkeypatch.setattr(library, "init", init)
    monkeypatch.setattr(library, "is_initialized", lambda: False)
    monkeypatch.setattr(library, "shutdown", lambda: None)
    about = r"there is no Ray cluster at 127\.0\.0\.1:1" if address else "Ray does not start on this machine"
    starting = engine.connection(Compute(engine="ray", ray_address=address))
    with pytest.raises(RunError, match=f"^{about}: The current node timed out during startup\\.$"):
        starting.__enter__()


def test_a_run_in_a_store_is_for_shards(object_store, recipe):
    with pytest.raises(ValueError, match="measure it as shards"):
        verbs.measure(recipe, object_store.address("run"), ON_RAY)


def test_without_ray_nothing_of_it_is_imported():
    code = "import sys, longattn.verbs, longattn.cli; print([m for m in sys.modules if m.split('.')[0] == 'ray'])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.slow
def test_the_command_line_runs_on_ray(ray, recipe, tmp_path, capsys):
    flags = ["--window.length", "64", "--model.name", recipe.model.name, "--scorers", "length"]
    flags += ["--engine", "ray", "--ray-workers", "1", "--workers", "0"]
    assert cli.launch(["measure", *recipe.corpus.inputs, "--output", str(tmp_path / "run"), *flags]) == 0
    assert "6 documents = 6 cut into" in capsys.readouterr().out
