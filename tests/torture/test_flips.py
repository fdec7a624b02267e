"""Single flipped bits in the files of a finished run: ``verify`` names the file, and nothing is made from it."""

import random
import shutil
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from faulty import Box
from test_crashes import both, calm

from longattn import verbs
from longattn.errors import DamageError, LongAttnError
from longattn.seals import SealError, seal_json, unseal_json
from longattn.tables import RunFolder, write_sealed

UNCHECKED = (".lock", "progress")
"""Files that only say who works and how far."""


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def some_bits(folder: Path, number: int, chosen: random.Random) -> list[tuple[str, int]]:
    """A file and a bit of it, so many times: as many from small files as from large ones."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(UNCHECKED)]
    files = [path for path in files if path.stat().st_size]
    paths = [chosen.choice(files) for _ in range(number)]
    return [(str(path.relative_to(folder)), chosen.randrange(8 * path.stat().st_size)) for path in paths]


def finish(box: Box) -> Path:
    """Make the run of a box a finished one; returns a copy of it."""
    calm(box)
    box.clear()
    assert box.do()["status"] == 0
    shutil.copytree(box.output, box.root / "whole", dirs_exist_ok=True)
    return box.root / "whole"


def test_every_flipped_bit_is_found(trials, boxes):
    with boxes.one() as box:
        whole = finish(box)
        bits = some_bits(whole, trials.number(2000, 25), trials.random())
        assert verbs.verify(box.output).damaged == []
        found = 0
        for name, bit in bits:
            flip(box.output / name, bit)
            named = {one.file for one in verbs.verify(box.output).damaged}
            # a receipt or the manifest may show it in the file that it speaks of
            if named:
                found += 1
            else:
                sys.stdout.write(f"flip({name!r}, {bit}) is not found\n")
            shutil.copy(whole / name, box.output / name)
        trials.count("I4", "flipped bit in a finished run, found by verify", len(bits), found)


def test_nothing_is_made_from_a_flipped_bit(trials, boxes):
    """Select, export and report refuse it, or give the bytes that they give without it."""

    with boxes.one() as box:
        whole = finish(box)
    outputs = ("selection.parquet", "report.html", "export/")

    def trial(box: Box, case: tuple[str, int]) -> str:
        calm(box)
        shutil.rmtree(box.output, ignore_errors=True)
        shutil.copytree(whole, box.output)
        flip(box.output / case[0], case[1])
        ended = box.do("use")
        if ended["status"] == 1:
            return ""
        if ended["status"] != 0:
            return f"flip{case}: {ended}"
        expected = {name: sha256 for name, sha256 in calm(box).items() if name.startswith(outputs)}
        same = expected.items() <= box.results().items()
        return "" if same else f"flip{case} changed what was made"

    said = both(boxes, trial, some_bits(whole, trials.number(200, 6), trials.random()))
    trials.count("I4", "flipped bit, then select, export and report", len(said), said.count(""))


def test_no_bit_of_a_units_file_can_be_read_wrongly(trials, tmp_path):
    """Headers of pages have no checksum of their own: all bits are tried, in every kind of column."""
    rows = pa.table(
        {
            "window_id": [f"a@{number}" for number in range(40)],
            "source": ["code", "books"] * 20,
            "num_tokens": pa.array([32] * 40, pa.int32()),
            "ds": [number / 7 for number in range(40)],
            "heads": [[number / 3, 0.5] for number in range(40)],
            "reason": ["kept", None] * 20,
        }
    )
    table = RunFolder(tmp_path).table("longattn", {"layer": 0})
    table.commit("a", rows, {}, {})
    path = table.file("a")
    whole = path.read_bytes()
    bits = range(8 * len(whole))
    chosen = trials.random().sample(bits, trials.number(len(bits), 200))
    right = 0
    for bit in chosen:
        flip(path, bit)
        try:
            (read,) = table.read(["a"])
        except DamageError:
            right += 1
        else:
            right += read.equals(rows)
        path.write_bytes(whole)
    trials.count("I4", "flipped bit in a unit's file, then read: refused or the same rows", len(chosen), right)


def test_sealed_json_is_refused_after_any_change():
    content = seal_json({"rows": 3, "name": 'a "seal": "0"', "inner": {"seal": "mine"}})
    assert unseal_json(content) == {"rows": 3, "name": 'a "seal": "0"', "inner": {"seal": "mine"}}
    for bit in range(8 * len(content)):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(SealError):
            unseal_json(bytes(changed))
    for length in range(len(content)):
        with pytest.raises(SealError):
            unseal_json(content[:length])


@pytest.fixture
def run(boxes):
    """A finished run that a test may change."""
    with boxes.one() as box:
        finish(box)
        yield box.output


def test_what_is_gone_is_named(run):
    (run / "report.html").unlink()
    (run / "export" / "data" / "part-00000.parquet").unlink()
    unit = next((run / "tables").glob("length-*/unit-*.parquet"))
    unit.unlink()
    found = verbs.verify(run)
    names = {"report.html", "export/data/part-00000.parquet", str(unit.relative_to(run))}
    assert {one.file for one in found.damaged} == names
    assert all(one.remedy for one in found.damaged)


def test_a_stopped_run_is_unfinished_and_not_damaged(run):
    unit = next((run / "tables").glob("length-*/unit-*.json"))
    unit.unlink()
    (run / ".plan.parquet.0123abcd.tmp").write_text("half")
    (run / "tables" / "length-0123456789abcdef").mkdir()
    found = verbs.verify(run)
    assert found.damaged == []
    assert any("1 of 2 work units are not in length-" in sentence for sentence in found.unfinished)
    assert found.strangers == [".plan.parquet.0123abcd.tmp"]


def test_who_was_stopped_while_replacing_a_file_left_no_damage(run):
    def stopped() -> None:
        with RunFolder(run).replacing("report.html"):
            (run / "report.html").write_text("another")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    found = verbs.verify(run)
    assert found.damaged == []
    assert found.unfinished == ["whoever wrote report.html was stopped: run `longattn report` again"]


def test_what_was_made_from_an_earlier_selection_is_named(run):
    with RunFolder(run).replacing("selection.parquet"):
        (run / "selection.parquet").write_bytes((run / "selection.parquet").read_bytes())
    assert verbs.verify(run).unfinished == []
    facts = RunFolder(run).manifest()
    facts["files"]["report.html"]["of"] = "0" * 64
    write_sealed(run / "manifest.json", facts)
    (sentence,) = verbs.verify(run).unfinished
    assert sentence == "report.html was made from an earlier selection: run `longattn report` again"


def test_a_ledger_that_is_not_that_of_the_tables_is_named(run):
    facts = RunFolder(run).manifest()
    facts["ledger"]["documents"] += 1
    write_sealed(run / "manifest.json", facts)
    (sentence,) = verbs.verify(run).unfinished
    assert "a ledger of other tables" in sentence


def test_settings_of_another_table_are_damage(run):
    folder = next((run / "tables").glob("length-*"))
    write_sealed(folder / "settings.json", {"format": 1})
    (one,) = verbs.verify(run).damaged
    assert one.problem == "these are not the settings that the folder is named after"


def test_a_folder_without_a_plan_is_no_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no run folder"):
        verbs.verify(tmp_path)


def test_a_damaged_manifest_is_not_read(run):
    flip(run / "manifest.json", 999)
    with pytest.raises(LongAttnError, match=r"manifest.json is damaged: .*; delete it"):
        RunFolder(run).manifest()
