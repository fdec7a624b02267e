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
from longattn.errors import DamageError
from longattn.seals import SealError, seal_json, unseal_json
from longattn.tables import RunFolder

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
