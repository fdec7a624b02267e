"""Work units: small files together, large ones apart, and what was planned before stays."""

import os
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longattn.corpus import list_units
from longattn.records import WorkUnit
from longattn.settings import Corpus


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """The units of the test's folder."""
    monkeypatch.chdir(tmp_path)
    return lambda previous=(), **options: list_units(Corpus(inputs=(".",), **options), previous)


def files(units):
    return [[part.file for part in unit.slices] for unit in units]


def test_small_files_share_a_unit_and_formats_never_do(write, plan):
    for name in ("a.txt", "b.jsonl", "c.txt", "d.jsonl.gz", "e.md"):
        write(name, "x" * 40_000)
    pq.write_table(pa.table({"text": ["a"]}), write("f.parquet"))
    assert files(plan(unit_bytes=80_000)) == [
        ["b.jsonl", "d.jsonl.gz"],
        ["f.parquet"],
        ["a.txt", "c.txt"],
        ["e.md"],
    ]


def test_tiny_files_are_bounded_in_number(write, plan):
    for n in range(20):
        write(f"{n:02}.txt", "x")
    assert [len(names) for names in files(plan(unit_bytes=5 * 2**14))] == [5, 5, 5, 5]


def test_plain_lines_are_split_evenly_and_compressed_files_are_not(write, plan):
    write("a.jsonl", "x" * 1000)
    write("b.jsonl.gz", os.urandom(1000))
    units = plan(unit_bytes=300)
    assert [(part.file, part.start, part.stop) for unit in units for part in unit.slices] == [
        ("a.jsonl", 0, 250),
        ("a.jsonl", 250, 500),
        ("a.jsonl", 500, 750),
        ("a.jsonl", 750, None),
        ("b.jsonl.gz", 0, None),
    ]


def test_nothing_is_split_that_may_have_to_be_joined(write, plan):
    write("a.jsonl", "x" * 1000)
    pq.write_table(pa.table({"text": ["a"] * 100, "book": [1] * 100}), write("b.parquet"), row_group_size=1)
    assert [len(unit.slices) for unit in plan(unit_bytes=300, join_by="book")] == [1, 1]
    assert len(plan(unit_bytes=300)) > 10


def test_a_folder_of_texts_to_join_is_never_split(write, plan):
    for name in ("a/1.py", "a/x/2.py", "b/1.py", "c/1.py", "c/2.py", "top.py"):
        write(name, "x" * 20_000)
    assert files(plan(unit_bytes=60_000, join_by="folder")) == [
        ["a/1.py", "a/x/2.py", "b/1.py"],
        ["c/1.py", "c/2.py", "top.py"],
    ]
    assert files(plan(unit_bytes=1, join_by="folder"))[0] == ["a/1.py", "a/x/2.py"]


def test_parquet_without_a_readable_footer_is_left_whole(write, plan):
    write("a.parquet", b"PAR1" + b"\0" * 1000)
    assert files(plan(unit_bytes=10)) == [["a.parquet"]]


def test_the_same_files_are_the_same_units(write, plan):
    for n in range(5):
        write(f"{n}.txt", "x" * 20_000)
    first = plan(unit_bytes=50_000)
    assert plan(unit_bytes=50_000) == first
    assert plan(first, unit_bytes=30_000) == first


def test_files_added_later_make_new_units_only(write, plan):
    for n in range(1, 4):
        write(f"{n}.txt", "x" * 20_000)
    write("b.jsonl", "x" * 1000)
    before = plan(unit_bytes=50_000)
    write("0.txt", "x")
    write("a.jsonl", "x")
    after = plan(before, unit_bytes=50_000)
    assert after[: len(before)] == before
    assert files(after[len(before) :]) == [["a.jsonl"], ["0.txt"]]


def test_a_changed_or_missing_file_takes_its_unit_along_and_no_other(write, plan, tmp_path):
    for n in range(4):
        write(f"{n}.txt", "x" * 20_000)
    write("a.jsonl", "x" * 100_000)
    before = plan(unit_bytes=40_000)
    assert files(before) == [["a.jsonl"]] * 3 + [["0.txt", "1.txt"], ["2.txt", "3.txt"]]
    write("1.txt", "changed")
    after = plan(before, unit_bytes=40_000)
    assert after[:4] == [*before[:3], before[4]]
    assert files(after[4:]) == [["0.txt", "1.txt"]]
    (tmp_path / "3.txt").unlink()
    write("a.jsonl", "y" * 100_000)
    os.utime(tmp_path / "a.jsonl", ns=(1, 1))
    assert files(plan(before, unit_bytes=40_000)) == [["a.jsonl"]] * 3 + [["0.txt", "1.txt"], ["2.txt"]]


def test_part_of_a_split_file_is_not_enough_to_keep_it(write, plan):
    write("a.jsonl", "x" * 1000)
    before = plan(unit_bytes=300)
    assert plan(before[:2], unit_bytes=300) == before
    assert len(plan(before[:2], unit_bytes=500)) == 2
    assert plan(before, unit_bytes=500) == before


def test_a_folder_to_join_that_got_a_file_is_planned_anew(write, plan):
    for name in ("a/1.py", "a/2.py", "b/1.py"):
        write(name, "x" * 20_000)
    before = plan(unit_bytes=40_000, join_by="folder")
    assert files(before) == [["a/1.py", "a/2.py"], ["b/1.py"]]
    write("a/3.py", "x")
    after = plan(before, unit_bytes=40_000, join_by="folder")
    assert files(after) == [["b/1.py"], ["a/1.py", "a/2.py", "a/3.py"]]


def test_split_units_are_not_kept_once_records_are_joined(write, plan):
    write("a.jsonl", "x" * 1000)
    assert files(plan(plan(unit_bytes=300), unit_bytes=300, join_by="book")) == [["a.jsonl"]]


SIZES = st.lists(st.integers(0, 90_000), min_size=1, max_size=5)


@settings(deadline=None, max_examples=30)
@given(data=st.data(), before=SIZES, after=SIZES, unit_bytes=st.integers(20_000, 60_000))
def test_whatever_was_planned_before_every_byte_is_in_one_unit(data, tmp_path_factory, before, after, unit_bytes):
    folder = tmp_path_factory.mktemp("plan")

    def plan(sizes, unit_bytes, previous=()):
        for n, size in enumerate(sizes):
            suffix = "txt" if n % 2 else "jsonl"
            with (folder / f"{n}.{suffix}").open("wb") as file:
                file.truncate(size)
        return list_units(Corpus(inputs=(str(folder),), unit_bytes=unit_bytes), previous)

    previous = plan(before, 40_000)
    some = data.draw(st.lists(st.sampled_from(previous), unique=True))
    units = plan(after, unit_bytes, some)
    ends: dict[str, int | None] = {}
    for part in sorted((part for unit in units for part in unit.slices), key=lambda part: (part.file, part.start)):
        assert part.start == ends.get(part.file, 0)
        ends[part.file] = part.stop
    assert set(ends.values()) == {None}
    assert set(ends) == {str(file) for file in folder.iterdir()}


def test_a_unit_mixed_with_a_changed_file_does_not_leave_half_of_another(write, plan):
    """Units that we would not make ourselves: a file's second half shares one with a file that changed."""
    write("a.jsonl", "x" * 1000)
    write("b.jsonl", "x")
    a, b = (part for unit in plan() for part in unit.slices)
    previous = [WorkUnit((replace(a, stop=500),)), WorkUnit((replace(a, start=500), replace(b, size=2)))]
    assert files(plan(previous)) == [["a.jsonl", "b.jsonl"]]
