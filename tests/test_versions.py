"""Units written by several versions: refused unless that is allowed, and named wherever a run is looked at."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from longattn import cli, engines, measuring, refining, trials, verbs
from longattn.errors import RunError
from longattn.measuring import package_versions
from longattn.recipes import Recipe
from longattn.scorers import LongAttn
from longattn.settings import Calibrating, Compute, Corpus, Model, Refining, Selecting, Validating, Windowing
from longattn.tables import RunFolder, read_sealed
from longattn.validity import blocks

INLINE = Compute(workers=0, devices=("cpu",), threads=1)
ALLOWED = replace(INLINE, allow_version_change=True)
EARLIER = {"python": "3.11.1", "longattn": "0.1", "tokenizers": "0.23.0", "numpy": "2.0.1", "torch": "2.6.0+cpu"}
LATER = {**EARLIER, "torch": "2.7.0+cpu"}


@pytest.fixture
def recipe(tiny_model_folder, tmp_path):
    """Twelve units, measured with the model and without."""
    chosen = random.Random(7)
    folder = tmp_path / "in"
    folder.mkdir()
    for f in range(6):
        texts = [" ".join(chosen.choice(["far", "near", "key", "row"]) for _ in range(50)) for _ in range(2)]
        records = [{"id": f"{f}-{d}", "text": text} for d, text in enumerate(texts)]
        (folder / f"{f}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return Recipe(
        corpus=Corpus(inputs=(str(folder),), source="all", unit_bytes=300),
        window=Windowing(length=64),
        model=Model(name=str(tiny_model_folder)),
        scorers=("longattn", "length"),
        keep=Selecting(share=0.5),
    )


@pytest.fixture
def installed(monkeypatch):
    """Have other versions installed."""

    def install(versions: dict[str, str]) -> None:
        for module in (measuring, refining, blocks):
            monkeypatch.setattr(module, "package_versions", lambda: versions)

    return install


def manifest(folder: Path) -> dict:
    return read_sealed(folder / "manifest.json")


def files(folder: Path) -> dict[str, bytes]:
    """What a refusal must leave as it was."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("[!.]*") if p.is_file()}


def begun(recipe: Recipe, folder: Path) -> None:
    """Measure one unit, and stop."""
    verbs.measure(recipe, folder, replace(INLINE, limit=1))
    assert len(list(folder.glob("tables/longattn-*/unit-*.json"))) == 1


def test_another_version_does_not_go_on_unless_that_is_allowed(recipe, tmp_path, installed, caplog, capsys):
    run = tmp_path / "run"
    installed(EARLIER)
    begun(recipe, run)
    before = files(run)
    installed(LATER)
    with pytest.raises(RunError, match=r"torch 2\.6\.0\+cpu, and this is torch 2\.7\.0\+cpu.*--allow-version-change"):
        verbs.measure(recipe, run, INLINE)
    assert files(run) == before

    flags = [*recipe.corpus.inputs, "--corpus.source", "all", "--corpus.unit-bytes", "300", "--output", str(run)]
    flags += ["--model.name", recipe.model.name, "--window.length", "64"]
    flags += ["--scorers", "longattn", "--scorers", "length"]
    flags += ["--workers", "0", "--devices", "cpu", "--threads", "1"]
    assert cli.launch(["measure", *flags]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("found ")]
    assert "torch 2.6.0+cpu" in line
    assert files(run) == before
    assert cli.launch(["measure", *flags, "--allow-version-change"]) == 0
    assert "torch 2.7.0+cpu goes on with them" in caplog.text

    found = manifest(run)
    assert found["versions"]["torch"] == "2.6.0+cpu, 2.7.0+cpu"
    assert found["versions"]["numpy"] == "2.0.1"
    # no number of these hangs on torch
    assert not any("torch" in found["tables"][name]["versions"] for name in ("documents", "windows", "length"))
    (note,) = verbs.select(recipe, run).notes
    assert note.endswith("several versions, whose numbers may differ: torch 2.6.0+cpu, 2.7.0+cpu")
    verbs.export_selection(recipe, run)
    verbs.write_report(recipe, run)
    for page in ("report.html", "export/README.md"):
        assert "2.6.0+cpu, 2.7.0+cpu" in (run / page).read_text(encoding="utf-8").replace("&#43;", "+"), page
    assert not verbs.verify(run).damaged


def test_a_finished_run_names_who_measured_it_whoever_looks_at_it(recipe, tmp_path, installed):
    installed(EARLIER)
    run = tmp_path / "run"
    verbs.measure(recipe, run, INLINE)
    verbs.select(recipe, run)
    before = (run / "manifest.json").read_bytes()
    assert manifest(run)["versions"] == EARLIER
    installed(LATER)
    verbs.measure(recipe, run, INLINE)
    assert not verbs.select(recipe, run).notes
    assert (run / "manifest.json").read_bytes() == before


@pytest.mark.parametrize(
    "present",
    [
        {**EARLIER, "python": "3.12.4"},
        {**EARLIER, "torch": "2.6.0+cu124"},
        {**EARLIER, "transformers": "5.23.0"},
        {name: version for name, version in EARLIER.items() if name != "torch"},
    ],
    ids=["Python", "a build for GPUs", "installed later", "not installed"],
)
def test_what_decides_no_number_is_no_other_version(recipe, tmp_path, installed, present):
    installed(EARLIER)
    begun(recipe, tmp_path / "run")
    installed(present)
    verbs.measure(recipe, tmp_path / "run", INLINE)
    assert not verbs.select(recipe, tmp_path / "run").notes


@pytest.mark.parametrize(
    ("scorers", "name", "refused"),
    [((), "torch", False), ((), "numpy", False), ((), "tokenizers", True), ((), "longattn", True),
     (("length",), "torch", False), (("length",), "numpy", True)],
)  # fmt: skip
def test_a_package_matters_to_the_tables_that_it_takes_part_in(recipe, tmp_path, installed, scorers, name, refused):
    recipe = replace(recipe, scorers=scorers)
    installed(EARLIER)
    verbs.measure(recipe, tmp_path / "run", replace(INLINE, limit=1))
    installed({**EARLIER, name: "9.9"})
    if refused:
        with pytest.raises(RunError, match=rf"written by {name} .* and this is {name} 9\.9"):
            verbs.measure(recipe, tmp_path / "run", INLINE)
    else:
        verbs.measure(recipe, tmp_path / "run", INLINE)


def test_a_scorer_that_comes_later_is_measured_by_the_torch_of_its_day(recipe, tmp_path, installed):
    """No unit of its table is there, and what was cut does not hang on torch."""
    installed(EARLIER)
    verbs.measure(replace(recipe, scorers=("length",)), tmp_path / "run", INLINE)
    installed(LATER)
    verbs.measure(recipe, tmp_path / "run", INLINE)
    assert manifest(tmp_path / "run")["versions"]["torch"] == "2.7.0+cpu"


def test_shards_of_two_versions_are_refused_and_named_by_select_where_they_were_allowed(recipe, tmp_path, installed):
    manifests = []
    for folder, order in (("run", (0, 1)), ("other way round", (1, 0))):
        run = tmp_path / folder
        for shard in order:
            installed((EARLIER, LATER)[shard])
            mine = replace(INLINE, shard=f"{shard}/2")
            if shard != order[0]:
                # no unit of this shard is there, and those of the others are not looked at
                with pytest.raises(RunError, match=r"torch 2\.[67]\.0\+cpu, and this is torch 2\.[67]"):
                    verbs.measure(recipe, run, mine)
            verbs.measure(recipe, run, replace(mine, allow_version_change=shard != order[0]))
            assert manifest(run)["ledger"] == {}
        (note,) = verbs.select(recipe, run).notes
        assert note.endswith(": torch 2.6.0+cpu, 2.7.0+cpu")
        manifests.append((run / "manifest.json").read_bytes())
    assert manifests[0] == manifests[1]
    assert manifest(run)["versions"]["torch"] == "2.6.0+cpu, 2.7.0+cpu"


def test_who_measured_nothing_is_in_nobodys_way_and_named_nowhere(recipe, tmp_path, installed, monkeypatch):
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    run, shard = tmp_path / "run", replace(INLINE, shard="0/2")
    installed(EARLIER)
    with monkeypatch.context() as patch:
        patch.setattr(engines, "measure", stop)
        with pytest.raises(KeyboardInterrupt):
            verbs.measure(recipe, run, shard)
    assert manifest(run)["versions"]["torch"] == EARLIER["torch"]
    installed(LATER)
    verbs.measure(recipe, run, shard)
    verbs.select(recipe, run)
    assert manifest(run)["versions"] == LATER

    # somebody who was allowed to go on, and was stopped before the first unit
    installed(EARLIER)
    with monkeypatch.context() as patch:
        patch.setattr(engines, "measure", stop)
        with pytest.raises(KeyboardInterrupt):
            verbs.measure(recipe, run, replace(ALLOWED, shard="1/2"))
    assert manifest(run)["versions"]["torch"] == "2.6.0+cpu, 2.7.0+cpu"
    verbs.select(recipe, run)
    assert manifest(run)["versions"] == LATER


def test_a_resume_reads_no_receipt_twice(recipe, tmp_path, installed, monkeypatch):
    """Looking at versions costs what looking whether a unit is done has cost."""
    from longattn import tables

    installed(EARLIER)
    verbs.measure(recipe, tmp_path / "run", INLINE)
    read, real = [], tables.read_sealed
    monkeypatch.setattr(tables, "read_sealed", lambda path: read.append(path) or real(path))
    job = verbs.prepare(recipe, tmp_path / "run")
    units = job.run.plan()
    found = engines.survey(job, units, INLINE)
    assert found.done == units
    assert found.writers.tables() == {
        facts["folder"]: facts["versions"] for facts in manifest(tmp_path / "run")["tables"].values()
    }
    receipts = [path for path in read if path.name.startswith("unit-")]
    assert len(receipts) == len(set(receipts)) == len(units) * len(job.tables())


def test_a_resume_from_a_store_knows_by_the_manifest(object_store, recipe, installed, monkeypatch, tmp_path):
    run = object_store.address("run")
    installed(EARLIER)
    monkeypatch.setenv("LONGATTN_CACHE", str(tmp_path / "a machine"))
    verbs.measure(recipe, run, replace(INLINE, limit=1))
    monkeypatch.setenv("LONGATTN_CACHE", str(tmp_path / "another machine"))
    installed(LATER)
    object_store.count()
    with pytest.raises(RunError, match=r"torch 2\.6\.0\+cpu, and this is torch 2\.7\.0\+cpu"):
        verbs.measure(recipe, run, INLINE)
    assert not [path for method, path, _ in object_store.requests if method == "GET" and "/unit-" in path]
    verbs.measure(recipe, run, ALLOWED)
    assert RunFolder.at(run).manifest()["versions"]["torch"] == "2.6.0+cpu, 2.7.0+cpu"


def test_rows_are_not_drawn_again_by_another_version(recipe, tmp_path, installed):
    run = tmp_path / "run"
    scorer = LongAttn(rows=0.3, pilot_sample=0, distances=(16,))
    recipe = replace(
        recipe,
        scorers=("longattn",),
        settings=replace(recipe.settings, longattn=scorer),
        refine=Refining(confidence=0.9, max_rounds=1),
    )
    installed(EARLIER)
    verbs.measure(recipe, run, INLINE)
    before = files(run)
    installed(LATER)
    with pytest.raises(RunError, match=r"and this is torch 2\.7\.0"):
        verbs.refine(recipe, run, INLINE)
    assert files(run) == before
    found, selection = verbs.refine(recipe, run, ALLOWED)
    assert found.rounds == 1
    assert selection.notes[-1].endswith(": torch 2.6.0+cpu, 2.7.0+cpu")
    assert manifest(run)["versions"]["torch"] == "2.6.0+cpu, 2.7.0+cpu"


def test_what_is_installed_here_is_what_receipts_say(recipe, tmp_path):
    verbs.measure(recipe, tmp_path / "run", INLINE)
    assert manifest(tmp_path / "run")["versions"] == package_versions()


class Stop(engines.Progress):
    """Ends the work, as Ctrl-C does, after some windows."""

    def update(self, state):
        if state.windows > 8:
            raise KeyboardInterrupt


def judge(verb: str, recipe: Recipe, folder: Path, **more):
    if verb == "validate":
        rule = Validating(pairs=16, controls=("spliced-2",), resamples=20)
        return trials.validate(recipe, folder, rule, "cpu", **more).versions
    rule = Calibrating(share=1.0, targets=("spliced-2",), others=(), pairs=16, folds=2, rows=8, skips=(0, 2))
    return trials.calibrate(recipe, folder, folder / "preset.json", rule, "cpu", **more).evidence["versions"]


@pytest.mark.parametrize("verb", ["validate", "calibrate"])
def test_a_judgement_is_of_one_version_unless_a_change_is_allowed(recipe, tmp_path, installed, caplog, verb):
    recipe = replace(recipe, window=Windowing(length=16))
    installed(EARLIER)
    with pytest.raises(KeyboardInterrupt):
        judge(verb, recipe, tmp_path, progress=Stop())
    before = files(tmp_path)
    assert any(name.endswith(".parquet") for name in before)
    installed(LATER)
    with pytest.raises(RunError, match=r"torch 2\.6\.0\+cpu, and this is torch 2\.7\.0\+cpu.*--allow-version-change"):
        judge(verb, recipe, tmp_path)
    assert files(tmp_path) == before
    assert judge(verb, recipe, tmp_path, allow_version_change=True) == {**LATER, "torch": "2.6.0+cpu, 2.7.0+cpu"}
    assert "torch 2.7.0+cpu goes on with them" in caplog.text
    # with nothing left to measure, whoever looks at it
    assert judge(verb, recipe, tmp_path)["torch"] == "2.6.0+cpu, 2.7.0+cpu"
