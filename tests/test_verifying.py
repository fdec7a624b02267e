"""What ``verify`` says of a finished run that was changed: the file, what shows it, what to do."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from longattn import verbs
from longattn.recipes import Recipe
from longattn.settings import Compute, Corpus, Model, Selecting, Windowing
from longattn.tables import RunFolder, write_parquet, write_sealed
from longattn.verifying import Finding, verify

UNITS = 3


@pytest.fixture(scope="module")
def recipe(tiny_model_folder, tmp_path_factory):
    inputs = tmp_path_factory.mktemp("inputs")
    for unit in range(UNITS):
        records = [{"id": f"{unit}-{i}", "text": f"file {unit} document {i} " * (3 + i)} for i in range(4)]
        (inputs / f"{unit}.jsonl").write_text("\n".join(map(json.dumps, records)) + "\n")
    return Recipe(
        corpus=Corpus(inputs=(str(inputs),), source="all", unit_bytes=1000),
        window=Windowing(length=64),
        model=Model(name=str(tiny_model_folder)),
        scorers=("length",),
        keep=Selecting(share=0.5, weights={"length": 1.0}),
    )


@pytest.fixture(scope="module")
def whole(recipe, tmp_path_factory):
    """A finished run."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    verbs.measure(recipe, folder, Compute(workers=0, devices=("cpu",)))
    verbs.select(recipe, folder)
    verbs.export_selection(recipe, folder)
    verbs.write_report(recipe, folder)
    return folder


@pytest.fixture
def run(whole, tmp_path):
    """A copy of it that a test may change."""
    return RunFolder(Path(shutil.copytree(whole, tmp_path / "run")))


def one(run: RunFolder, pattern: str) -> Path:
    """The first file of that kind."""
    return sorted(run.root.glob(pattern))[0]


def name_of(run: RunFolder, path: Path) -> str:
    return str(path.relative_to(run.root))


def overwrite(path: Path) -> None:
    """Change a byte in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def change_manifest(run: RunFolder, **sections: object) -> None:
    write_sealed(run.root / "manifest.json", {**run.manifest(), **sections})


def test_a_finished_run_is_whole_and_every_byte_of_it_was_looked_at(run):
    found = verify(run.root)
    assert (found.damaged, found.unfinished, found.strangers) == ([], [], [])
    looked_at = [path for path in run.root.rglob("*") if path.is_file() and not path.name.startswith((".lock", "prog"))]
    assert found.files == len(looked_at)
    assert found.num_bytes == sum(path.stat().st_size for path in looked_at)


@pytest.mark.parametrize(
    ("pattern", "remedy"),
    [
        ("plan.parquet", "delete it and give the measuring command again: the input is listed anew"),
        ("manifest.json", "delete it and give the measuring command again, then select, export and report"),
        ("timings.json", "delete it: no result depends on it"),
        ("tables/*/settings.json", "delete it and give the measuring command again: it is written anew"),
        ("tables/*/unit-*.json", "delete it and give the measuring command again: unit {unit} is measured anew"),
        ("tables/*/unit-*.parquet", "delete it and give the measuring command again: unit {unit} is measured anew"),
        ("rejects.jsonl", "delete it and run `longattn measure` again"),
        ("selection.parquet", "delete it and run `longattn select` again"),
        ("export/export.json", "delete it and run `longattn export` again"),
        ("export/README.md", "delete it and run `longattn export` again"),
        ("export/data/*", "run `longattn export` again"),
        ("report.html", "delete it and run `longattn report` again"),
    ],
)
def test_a_changed_file_is_named_with_what_to_do(run, pattern, remedy):
    path = one(run, pattern)
    if not path.stat().st_size:
        path.write_text("something")
    overwrite(path)
    [found] = verify(run.root).damaged
    unit = path.stem.removeprefix("unit-")
    assert (found.file, found.remedy) == (name_of(run, path), remedy.format(unit=unit))
    assert found.problem


@pytest.mark.parametrize(
    "pattern", ["report.html", "rejects.jsonl", "selection.parquet", "export/data/*", "tables/length-*/unit-*.parquet"]
)
def test_what_is_gone_is_named(run, pattern):
    path = one(run, pattern)
    path.unlink()
    [found] = verify(run.root).damaged
    assert found.file == name_of(run, path)
    assert "gone" in found.problem or "is missing" in found.problem


def test_what_stands_in_an_export_is_compared_with_its_own_list(run):
    overwrite(path := one(run, "export/data/*"))
    problem = "its content does not fit its SHA-256 in export.json"
    assert verify(run.root).damaged == [Finding(name_of(run, path), problem, "run `longattn export` again")]


def test_damage_in_several_files_is_all_named(run):
    paths = [one(run, "tables/length-*/unit-*.json"), one(run, "tables/windows-*/unit-*.parquet")]
    for path in paths:
        overwrite(path)
    assert {found.file for found in verify(run.root).damaged} == {name_of(run, path) for path in paths}


def test_a_folder_without_a_plan_is_no_run(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is no run folder: it has no plan\.parquet"):
        verify(tmp_path)


def test_a_run_that_was_only_planned_is_unfinished(recipe, tmp_path):
    verbs.plan(recipe, tmp_path / "run")
    found = verify(tmp_path / "run")
    assert found.damaged == []
    assert found.unfinished == ["nothing was measured to the end: there is no manifest.json"]
    assert found.files == 1


def test_without_a_manifest_tables_are_checked_all_the_same(run):
    (run.root / "manifest.json").unlink()
    overwrite(path := one(run, "tables/length-*/unit-*.parquet"))
    found = verify(run.root)
    assert [finding.file for finding in found.damaged] == [name_of(run, path)]
    assert found.unfinished == ["nothing was measured to the end: there is no manifest.json"]


def test_a_stopped_run_is_unfinished_and_not_damaged(run):
    receipts = sorted(run.root.glob("tables/length-*/unit-*.json"))
    assert len(receipts) == UNITS
    receipts[0].unlink()
    (run.root / ".plan.parquet.0123abcd.tmp").write_text("half")
    (run.root / "tables" / "length-0123456789abcdef").mkdir()
    found = verify(run.root)
    assert found.damaged == []
    about = f"1 of {UNITS} work units are not in {receipts[0].parent.name} yet: give the measuring command again"
    assert found.unfinished[0] == about
    assert found.strangers == [".plan.parquet.0123abcd.tmp"]


def test_of_a_table_that_is_not_listed_nothing_is_missing(run):
    """Such as that of a scorer that another command measured."""
    other = run.table("other", {"layer": 7})
    unit = run.plan()[0].id
    other.commit(unit, pa.table({"window_id": ["a"]}), {}, {})
    found = verify(run.root)
    assert (found.damaged, found.unfinished, found.strangers) == ([], [], [])
    overwrite(other.file(unit))
    assert [finding.file for finding in verify(run.root).damaged] == [name_of(run, other.file(unit))]


@pytest.mark.parametrize("listed", [True, False])
def test_settings_that_are_gone_are_damage_and_units_are_looked_at_where_the_manifest_says_how(run, listed):
    folder = one(run, "tables/length-*")
    (folder / "settings.json").unlink()
    overwrite(path := one(run, "tables/length-*/unit-*.parquet"))
    if not listed:
        tables = {name: facts for name, facts in run.manifest()["tables"].items() if name != "length"}
        change_manifest(run, tables=tables)
    found = verify(run.root)
    of = {finding.file: finding.problem for finding in found.damaged}
    assert of.pop(name_of(run, folder / "settings.json")) == "it is gone"
    assert list(of) == ([name_of(run, path)] if listed else [])


def test_settings_of_another_table_are_damage(run):
    folder = one(run, "tables/length-*")
    write_sealed(folder / "settings.json", {"format": 1})
    [found] = verify(run.root).damaged
    assert found.problem == "these are not the settings that the folder is named after"


def test_who_was_stopped_while_replacing_a_file_left_no_damage(run):
    def stopped() -> None:
        with run.replacing("report.html"):
            (run.root / "report.html").write_text("another")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    found = verify(run.root)
    assert found.damaged == []
    assert found.unfinished == ["whoever wrote report.html was stopped: run `longattn report` again"]


def test_a_file_that_was_written_and_not_listed_is_unfinished(run):
    files = {name: entry for name, entry in run.manifest()["files"].items() if name != "selection.parquet"}
    for name in ("report.html", "export/README.md", "export/export.json"):
        del files[name]
        (run.root / name).unlink()
    change_manifest(run, files=files)
    found = verify(run.root)
    assert found.damaged == []
    assert found.unfinished == [
        "whoever wrote selection.parquet was stopped: run `longattn select` again",
        "there is no export/README.md yet: run `longattn export`",
        "there is no export/export.json yet: run `longattn export`",
        "there is no report.html yet: run `longattn report`",
    ]


def test_what_was_made_from_an_earlier_selection_is_named(run):
    with run.replacing("selection.parquet"):
        (run.root / "selection.parquet").write_bytes((run.root / "selection.parquet").read_bytes())
    assert verify(run.root).unfinished == []
    facts = run.manifest()
    facts["files"]["report.html"]["of"] = "0" * 64
    write_sealed(run.root / "manifest.json", facts)
    [sentence] = verify(run.root).unfinished
    assert sentence == "report.html was made from an earlier selection: run `longattn report` again"


def test_a_selection_of_other_windows_than_are_measured_is_named(run):
    path = run.root / "selection.parquet"
    rows = pq.read_table(path)
    with run.replacing("selection.parquet"):
        write_parquet(path, rows.slice(1))
    sentences = verify(run.root).unfinished
    about = f"selection.parquet lists {len(rows) - 1} windows, and {len(rows)} are measured"
    assert sentences[0] == f"{about}: run `longattn select` again"
    assert all("from an earlier selection" in sentence for sentence in sentences[1:])


def test_a_ledger_that_is_not_that_of_the_tables_is_named(run):
    ledger = run.manifest()["ledger"]
    change_manifest(run, ledger={**ledger, "documents": ledger["documents"] + 1})
    about = "manifest.json has a ledger of other tables than there are: give the measuring command again"
    assert verify(run.root).unfinished == [about]
    change_manifest(run, ledger={})
    [sentence, *_] = verify(run.root).unfinished
    assert sentence.startswith("what shards measured is not added up yet, or a run was stopped: run `longattn select`")


def test_tables_that_do_not_add_up_must_not_be_used(run):
    """Whole files, whose receipts say of each other what is not true."""
    facts = next(facts for name, facts in run.manifest()["tables"].items() if name == "length")
    table = run.table("length", facts["settings"])
    unit = run.plan()[0].id
    receipt = table.receipt(unit)
    [rows] = table.read([unit])
    table.commit(unit, rows.slice(1), receipt.counts, receipt.versions)
    [found] = verify(run.root).damaged
    assert (found.file, found.remedy) == ("tables", "measure into a new folder: this one must not be used")
    assert "windows" in found.problem


def test_of_what_others_keep_below_a_run_nothing_is_said(run):
    """What validate, calibrate, compare and inspect leave, progress and locks; anything else is a stranger."""
    for name in ("validity/tables/x.json", "inspect/page.html", "progress-1-of-2.json", ".lock-left", "notes.txt"):
        path = run.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("anything")
    found = verify(run.root)
    assert (found.damaged, found.unfinished, found.strangers) == ([], [], ["notes.txt"])


def test_the_quarantine_is_looked_at(recipe, run):
    job = verbs.prepare(recipe, run.root)
    entry = job.quarantine.entry(run.plan()[0].id, "measure", [job.tables()[-1]])
    job.quarantine.put(replace(entry, whole="crashed twice"))
    assert verify(run.root).damaged == []
    overwrite(path := one(run, "quarantine/*.json"))
    [found] = verify(run.root).damaged
    assert (found.file, found.remedy) == (name_of(run, path), "delete it and give the measuring command again")
