"""Input manifests: what was listed once with sizes and hashes is compared ever after."""

import hashlib
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from longattn import verbs
from longattn.corpus import list_files, list_units, read_unit, write_manifest
from longattn.errors import CorpusError
from longattn.recipes import Recipe
from longattn.settings import Corpus

GOOD = {"text": "a good text"}


@pytest.fixture
def listed(write):
    """Two files in a folder, and a corpus with a manifest of them."""
    folder = write("data/a.jsonl.gz", GOOD, GOOD).parent
    write("data/b.txt", "text")
    corpus = Corpus(inputs=(str(folder),), manifest=str(folder / "manifest.jsonl"))
    write_manifest(folder / "manifest.jsonl", list_files(corpus, compare=False).files)
    return corpus


def records(corpus: Corpus) -> list:
    return [record for unit in list_units(corpus) for record in read_unit(unit, corpus)]


def test_files_as_listed_are_read_and_their_hashes_are_in_the_plan(listed):
    units = list_units(listed)
    for part in (part for unit in units for part in unit.slices):
        assert part.sha256 == hashlib.sha256(Path(part.file).read_bytes()).hexdigest()
    assert [record.text for record in records(listed)] == ["a good text", "a good text", "text"]
    assert {unit.id for unit in units}.isdisjoint(unit.id for unit in list_units(replace(listed, manifest=None)))


def test_the_manifest_is_no_input(listed):
    listing = list_files(listed)
    assert [Path(part.file).name for part in listing.files] == ["a.jsonl.gz", "b.txt"]
    assert listing.skipped == {"input manifest": 1}


def test_a_folder_can_be_moved_with_its_manifest(listed, tmp_path):
    shutil.move(tmp_path / "data", tmp_path / "elsewhere")
    moved = tmp_path / "elsewhere"
    assert len(records(Corpus(inputs=(str(moved),), manifest=str(moved / "manifest.jsonl")))) == 3


def test_a_name_that_begins_with_a_tilde_is_nobodys_home(write, monkeypatch):
    """As editors name their copies; found by fuzzing."""
    folder = write("data/~.jsonl", GOOD).parent
    monkeypatch.chdir(folder)
    for inputs in ("~.jsonl", str(folder)):
        corpus = Corpus(inputs=(inputs,), manifest=str(folder / "manifest"))
        write_manifest(folder / "manifest", list_files(corpus, compare=False).files)
        assert [record.text for record in records(corpus)] == ["a good text"]


def test_a_list_of_sha256sum_will_do(listed, tmp_path):
    lines = [f"{hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()}  {name}" for name in _names(tmp_path)]
    (tmp_path / "SHA256SUMS").write_text("\n".join(lines))
    corpus = replace(listed, manifest=str(tmp_path / "SHA256SUMS"), inputs=tuple(_names(tmp_path, str(tmp_path) + "/")))
    assert len(records(corpus)) == 3


def _names(folder: Path, before: str = "") -> list[str]:
    return [f"{before}data/{name}" for name in ("a.jsonl.gz", "b.txt")]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "b.txt").unlink(), r"b\.txt is missing"),
        (lambda folder: (folder / "c.txt").write_text("more"), r"c\.txt is not listed"),
        (lambda folder: (folder / "b.txt").write_text("longer text"), r"b\.txt has 11 bytes, listed with 4"),
    ],
)
def test_other_files_than_listed_stop_the_run_before_it_begins(listed, change, message):
    change(Path(listed.inputs[0]))
    with pytest.raises(CorpusError, match=message):
        list_units(listed)


def test_other_bytes_in_a_file_of_the_same_size_and_time_reject_it_whole(listed):
    file = Path(listed.inputs[0], "a.jsonl.gz")
    before, stat = file.read_bytes(), file.stat()
    file.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    rejected, text = records(listed)
    assert (rejected.reason, rejected.position, rejected.line) == ("not_as_listed", 0, None)
    assert text.text == "text"


def test_every_unit_of_a_file_with_another_hash_is_rejected(write):
    file = write("a.jsonl", *[GOOD] * 100)
    corpus = Corpus(inputs=(str(file),), manifest=str(file.with_name("m.jsonl")), unit_bytes=300)
    write_manifest(file.with_name("m.jsonl"), list_files(corpus, compare=False).files)
    file.write_bytes(file.read_bytes().replace(b"good", b"evil", 1))
    units = list_units(corpus)
    assert len(units) > 5
    assert [record.reason for record in records(corpus)] == ["not_as_listed"] * len(units)


@pytest.mark.parametrize(
    "line",
    [
        "{}",
        "[]",
        "no hash  a.jsonl",
        '{"file": "a", "size": 1, "sha256": "ab"}',
        '{"file": 1, "size": 1, "sha256": "' + "a" * 64 + '"}',
        '{"file": "a", "size": "1", "sha256": "' + "a" * 64 + '"}',
    ],
)
def test_a_line_that_is_no_entry_is_named(listed, line):
    manifest = Path(listed.manifest)
    manifest.write_text("\n" + line)
    with pytest.raises(CorpusError, match=r"manifest\.jsonl, line 2: expected"):
        list_units(listed)


def test_two_hashes_for_one_file_are_refused(listed):
    manifest = Path(listed.manifest)
    lines = manifest.read_text() + "0" * 64 + "  b.txt\n"
    manifest.write_text(lines)
    with pytest.raises(CorpusError, match="listed before with another hash"):
        list_units(listed)


def test_a_manifest_that_is_not_there_is_named(listed):
    with pytest.raises(CorpusError, match=r"the manifest /no/such\.jsonl cannot be read"):
        list_units(replace(listed, manifest="/no/such.jsonl"))


def test_plan_writes_a_manifest_and_uses_it(listed, tmp_path):
    recipe = Recipe(corpus=replace(listed, manifest=None))
    units = verbs.plan(recipe, tmp_path / "run", tmp_path / "sums.jsonl")
    assert all(part.sha256 for unit in units for part in unit.slices)
    corpus = replace(listed, manifest=str(tmp_path / "sums.jsonl"))
    # the folder's old manifest is a JSON lines file like any other now
    assert verbs.plan(Recipe(corpus=corpus), tmp_path / "run") == units
    assert '"file":"data/a.jsonl.gz"' in (tmp_path / "sums.jsonl").read_text()


def test_a_file_that_shrinks_while_it_is_read_is_noticed(write):
    file = write("a.jsonl", *[{"text": "x" * 2000}] * 3000)
    corpus = Corpus(inputs=(str(file),), unit_bytes=2**30)
    (unit,) = list_units(corpus)
    reader = read_unit(unit, corpus)
    next(reader)
    # a place between two lines that is not buffered yet
    os.truncate(file, 2500 * len(b'{"text": ""}\n') + 2500 * 2000)
    *_, last = reader
    assert (last.reason, last.line) == ("unreadable", None)
    assert "plan again" in last.detail
