"""JSON lines, plain and compressed: what becomes a document, what a reject, and where."""

import errno
import os
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longattn.corpus import REASONS, list_units, read_unit
from longattn.records import Document, Reject, Slice, WorkUnit
from longattn.settings import Corpus

PACKED = [".gz", ".bz2", ".xz", ".zst"]
SUFFIXES = ["", *PACKED]
GOOD = {"text": "a good text"}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_record_knows_its_place(write, read, suffix):
    file = write(f"a.jsonl{suffix}", b'{"text": "one", "id": "x"}\n', b"\n \r\n", {"text": "zwei \u00fc"})
    first, second = read(file)
    assert first == Document("x", "all", "one", str(file), position=0, line=1)
    assert second == Document(f"{file}:31", "all", "zwei \u00fc", str(file), position=31, line=4)


BAD_LINES = {
    "bad_json": [
        b'{"text": "cut o\n',
        b'{"text": NaN}\n',
        b'{"text": 1e999}\n',
        b'{"text": "a\x00b"}\n',
        b'{"text": "a"} {"text": "b"}\n',
        b'{"text": "\\ud800"}\n',
        b"[" * 2000 + b"\n",
        b"\xef\xbb\xbf" + b'{"text": "a mark that is not at the beginning of the file"}\n',
    ],
    "not_an_object": [b"[1]\n", b"3\n", b'"text"\n', b"null\n"],
    "missing_text": [b"{}\n", b'{"text": null}\n'],
    "text_not_string": [b'{"text": 3}\n', b'{"text": ["a"]}\n', b'{"text": {"a": 1}}\n', b'{"text": true}\n'],
    "invalid_utf8": [b'{"text": "\xff"}\n', b'{"text": "\xed\xa0\x80"}\n'],
    "empty": [b'{"text": ""}\n', b'{"text": " \\n\\u2003"}\n'],
    "bad_id": [
        b'{"text": "a", "id": 18446744073709551617}\n',
        b'{"text": "a", "id": 1.0}\n',
        b'{"text": "a", "id": true}\n',
        b'{"text": "a", "id": {}}\n',
        b'{"text": "a", "id": "' + b"x" * 1001 + b'"}\n',
    ],
    "bad_source": [b'{"text": "a", "source": 0.5}\n', b'{"text": "a"}\n', b'{"text": "a", "source": ""}\n'],
    "too_large": [b'{"text": "' + b"x" * 5000 + b'"}\n'],
}


@pytest.mark.parametrize(
    ("lines", "reason"), [((b'[{"text": "a"}]\n',), "not_an_object"), ((b"[\n", b"]\n"), "bad_json")]
)
def test_a_file_that_is_one_list_is_answered_with_what_would_be_read(write, read, lines, reason):
    first, *others = read(write("a.json", *lines))
    assert first.reason == reason
    assert "one object a line" in first.detail
    assert all("one object a line" not in other.detail for other in others)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("reason", BAD_LINES)
def test_a_bad_line_is_one_reject_and_costs_nothing_else(write, read, reason, suffix):
    good = b'{"text": "good", "source": "s"}\n'
    lines = [part for bad in BAD_LINES[reason] for part in (good, bad)] + [good]
    file = write(f"a.jsonl{suffix}", *lines)
    records = read(file, source_field="source" if reason == "bad_source" else None, max_doc_bytes=4000)
    assert [type(record) for record in records] == [Document, Reject] * len(BAD_LINES[reason]) + [Document]
    positions = [sum(map(len, lines[:i])) for i in range(len(lines))]
    assert [(record.position, record.line) for record in records] == [(p, i + 1) for i, p in enumerate(positions)]
    for record in records[1::2]:
        assert record.reason == reason
        assert record.reason in REASONS
        assert record.detail
        assert record.detail.isprintable()
        assert len(record.detail) <= 200


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_lenient_where_nothing_is_lost(write, read, suffix):
    """A byte order mark, carriage returns, no last line break, U+2028, an escaped NUL, a key given twice."""
    lines = (
        b'\xef\xbb\xbf{"text": "a"}\r\n',
        b'{"text": "b\xe2\x80\xa8c"}\n',
        b'{"text": "\\u0000"}\n',
        b'{"text": 1, "text": "d"}',
    )
    documents = read(write(f"a.jsonl{suffix}", *lines))
    assert [document.text for document in documents] == ["a", "b\u2028c", "\0", "d"]
    assert [document.line for document in documents] == [1, 2, 3, 4]


def test_a_detail_shows_little_of_the_text_and_nothing_that_acts_on_a_terminal(write, read):
    text = "\x1b[31m\u202e\u0007<script>alert(1)</script>" + "secret " * 50
    (reject,) = read(write("a.jsonl", text + "\n"))
    assert reject.detail.isprintable()
    assert "<script>" in reject.detail
    assert reject.detail.count("secret") < 10


@pytest.mark.parametrize(
    ("given_id", "id"), [("a", "a"), (-7, "-7"), (2**63, str(2**63)), ("../../etc/x", "../../etc/x")]
)
def test_ids_are_strings_as_given(write, read, given_id, id):
    (document,) = read(write("a.jsonl", {"text": "t", "id": given_id}))
    assert document.id == id


@pytest.mark.parametrize("given_id", [None, ""])
def test_an_empty_id_is_replaced_by_the_position(write, read, given_id):
    file = write("a.jsonl", {"text": "t", "id": given_id})
    assert read(file)[0].id == f"{file}:0"


def test_dotted_names_reach_into_objects_unless_a_field_has_that_very_name(write, read):
    record = {
        "doc": {"text": "t", "n": 3},
        "meta": {"id": 5},
        "meta.id": "whole",
        "keep": {"me": [1]},
        "no": 1,
    }
    names = {"text_field": "doc.text", "id_field": "meta.id", "source_field": "doc.n"}
    file = write("a.jsonl", record)
    (document,) = read(file, fields=("keep.me", "absent", "doc.text"), **names)
    assert (document.text, document.id, document.source) == ("t", "whole", "3")
    assert document.fields == {"keep.me": [1]}
    (document,) = read(file, fields=("*",), **names)
    assert document.fields == {"doc": {}, "meta": {"id": 5}, "keep": {"me": [1]}, "no": 1}


def test_without_fields_nothing_is_carried(write, read):
    assert read(write("a.jsonl", {"text": "t", "a": 1}))[0].fields == {}


@pytest.mark.parametrize(
    ("prefix", "rules", "source"),
    [
        ("", {}, "all"),
        ("", {"source": "given"}, "given"),
        ("", {"source": "given", "source_from": "folder"}, "books"),
        ("", {"source": "given", "source_from": "file"}, "part.1"),
        ("", {"source_field": "kind", "source_from": "file"}, "record"),
        ("", {"source_field": "absent", "source_from": "file", "source": "given"}, "given"),
        ("input=", {"source_field": "kind", "source_from": "file"}, "input"),
    ],
)
def test_source_is_taken_from_the_most_particular_rule(write, read, prefix, rules, source):
    write("books/shelf/part.1.jsonl.gz", {"text": "t", "kind": "record"})
    folder = write("top.jsonl", {"text": "t", "kind": "record"}).parent
    documents = read(f"{prefix}{folder}", **rules)
    assert {Path(document.file).name: document.source for document in documents}["part.1.jsonl.gz"] == source


def test_a_file_in_no_folder_has_the_general_source(write, read):
    folder = write("top.jsonl", GOOD).parent
    assert read(folder, source_from="folder", source="rest")[0].source == "rest"


@pytest.mark.parametrize("suffix", PACKED)
def test_truncation_is_seen_at_every_cut(write, read, suffix):
    file = write(f"a.jsonl{suffix}", *({"text": f"{n} {n * n} {n**5 % 977}"} for n in range(500)))
    whole, data = read(file), file.read_bytes()
    positions = [record.position for record in whole] + [whole[-1].position + len('{"text": "') + len('"}\n')]
    positions[-1] += len(whole[-1].text)
    for cut in sorted({len(data) * i // 20 for i in range(20)} | {len(data) - 1, len(data) - 8}):
        file.write_bytes(data[:cut])
        *before, last = read(file)
        assert before == whole[: len(before)]
        assert (last.reason, last.line) == ("truncated", len(before) + 1)
        # xz keeps an index after the last of them
        assert last.position == positions[len(before)]


def test_records_before_the_cut_are_read(write, read):
    file = write("a.jsonl.gz", *({"text": f"{n} {n**5 % 977} {n**7 % 9973}" * 20} for n in range(3000)))
    file.write_bytes(file.read_bytes()[:-20])
    *before, last = read(file)
    assert len(before) > 1500
    assert last.reason == "truncated"


@pytest.mark.parametrize("suffix", PACKED)
def test_damage_and_trailing_bytes_are_unreadable_and_joined_files_are_not(write, read, suffix):
    file = write(f"a.jsonl{suffix}", GOOD)
    data = file.read_bytes()
    file.write_bytes(data + data)
    assert [record.line for record in read(file)] == [1, 2]
    file.write_bytes(data + b"yyyyyyyy\n")
    assert read(file)[-1].reason == "unreadable"
    file.write_bytes(b"this is no compressed file at all")
    assert [record.reason for record in read(file)] == ["unreadable"]


def test_a_plain_file_that_is_cut_has_one_torn_line(write, read):
    file = write("a.jsonl", GOOD, b'{"text": "tor')
    assert [getattr(record, "reason", None) for record in read(file)] == [None, "bad_json"]


def test_a_line_beyond_the_limit_is_passed_over_without_being_held(write, read):
    """64 MB of one letter take 64 kB on disk."""
    bomb = write("bomb.jsonl.gz", b'{"text": "' + b"x" * 64_000_000 + b'"}\n', {"text": "next"})
    tracemalloc.start()
    large, next_record = read(bomb, max_doc_bytes=1_000_000, max_expansion=2000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (large.reason, large.line) == ("too_large", 1)
    assert (next_record.text, next_record.position) == ("next", 64_000_013)
    assert peak < 4_000_000


WITHOUT_MEMORY = """
import re, resource, sys
from longattn.corpus import list_units, read_unit
from longattn.settings import Corpus

corpus = Corpus(inputs=(sys.argv[1],), unit_bytes=10**9)
[unit] = list_units(corpus)
used = int(re.search(r"VmSize:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (used + 400_000_000,) * 2)
try:
    print([getattr(record, "reason", "read") for record in read_unit(unit, corpus)])
except MemoryError as error:
    print("MemoryError", error)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks the system how much is in use")
def test_a_line_that_memory_does_not_suffice_for_is_no_bad_json(write):
    """The parser calls it an error of the text; as a reject it would be lost for ever."""
    file = write("a.jsonl", {"text": "x" * 80_000_000})
    child = subprocess.run(
        [sys.executable, "-c", WITHOUT_MEMORY, str(file)], capture_output=True, text=True, check=True
    )
    assert child.stdout.startswith("MemoryError"), child.stdout
    assert "a.jsonl" in child.stdout
    assert "memory" in child.stdout


LINES = st.lists(
    st.sampled_from([b'{"text": "a"}', b'{"text": "\xc3\xbc"}', b"", b"broken", b" "]), max_size=6
).flatmap(
    lambda lines: st.sampled_from([b"\n", b"\r\n"]).flatmap(
        lambda end: st.sampled_from([end.join(lines), end.join([*lines, b""])])
    )
)


@settings(deadline=None, max_examples=40)
@given(LINES)
def test_two_slices_hold_what_the_file_holds_wherever_it_is_cut(tmp_path_factory, data):
    file = tmp_path_factory.mktemp("split") / "a.jsonl"
    file.write_bytes(data)
    corpus = Corpus(inputs=(str(file),))
    (unit,) = list_units(corpus)
    (whole,) = unit.slices
    expected, lines = _read_slices([whole], corpus)
    for border in range(1, len(data)):
        slices = [replace(whole, stop=border), replace(whole, start=border)]
        assert _read_slices(slices, corpus) == (expected, lines)
    one_byte_each = [replace(whole, start=i, stop=i + 1) for i in range(len(data))]
    assert _read_slices(one_byte_each, corpus) == (expected, lines)


def _read_slices(slices: list[Slice], corpus: Corpus) -> tuple[list[Document | Reject], int]:
    """The records with their lines counted from the beginning of the file, and the number of lines."""
    records, lines = [], 0
    for part in slices:
        reader = read_unit(WorkUnit((part,)), corpus)
        records += [replace(record, line=lines + record.line) for record in reader]
        lines += reader.line_counts[part.file]
    return records, lines


def test_large_files_are_split_and_read_whole(write, read):
    file = write("a.jsonl", *({"text": "x" * (n % 50) + "."} for n in range(500)))
    units = list_units(Corpus(inputs=(str(file),), unit_bytes=1000))
    assert len(units) == -(-file.stat().st_size // 1000)
    assert all(len(unit.slices) == 1 for unit in units)
    documents = read(file, unit_bytes=1000)
    assert [d.text for d in documents] == [d.text for d in read(file)]
    assert [d.position for d in documents] == [d.position for d in read(file)]


def test_a_line_longer_than_a_unit_belongs_to_one_of_them(write, read):
    file = write("a.jsonl", {"text": "x" * 5000}, {"text": "y"})
    assert [len(document.text) for document in read(file, unit_bytes=100)] == [5000, 1]


@pytest.mark.parametrize("change", ["grown", "touched", "folder"])
def test_a_file_that_is_not_as_listed_is_rejected(write, change):
    file = write("a.jsonl", GOOD)
    corpus = Corpus(inputs=(str(file),))
    (unit,) = list_units(corpus)
    if change == "grown":
        file.write_bytes(file.read_bytes() * 2)
    elif change == "touched":
        os.utime(file, ns=(1, 1))
    else:
        file.unlink()
        file.mkdir()
    (reject,) = read_unit(unit, corpus)
    assert (reject.reason, reject.position, reject.line) == ("unreadable", 0, None)
    assert "plan again" in reject.detail


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".parquet", ".txt"])
@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE])
def test_a_fault_of_the_system_is_no_reject(write, read, monkeypatch, suffix, number):
    """The file may be read tomorrow; a reject would be the end of it, as its unit would be done."""
    file = write(f"a{suffix}", GOOD)

    def refuse(*_):
        raise OSError(number, "what pyarrow makes of it")

    for opener in ("open_at", "open_stream", "open_seekable"):
        monkeypatch.setattr(f"longattn.corpus.files.{opener}", refuse)
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        read(file)
    assert (caught.value.errno, caught.value.filename) == (number, str(file))


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".parquet", ".txt"])
def test_a_file_that_is_gone_ends_the_run(write, suffix):
    """Its disk may be gone with it, and all other files."""
    file = write(f"a{suffix}", GOOD)
    corpus = Corpus(inputs=(str(file),))
    (unit,) = list_units(corpus)
    file.unlink()
    with pytest.raises(FileNotFoundError) as caught:
        list(read_unit(unit, corpus))
    assert caught.value.filename == str(file)


MEASURE = """
import sys
from pathlib import Path
from longattn.corpus import list_units, read_unit
from longattn.settings import Corpus

def peak_kilobytes():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])

corpus = Corpus(inputs=(sys.argv[1],), unit_bytes=2**30)
(unit,) = list_units(corpus)
before, num_chars = peak_kilobytes(), 0
for document in read_unit(unit, corpus):
    num_chars += len(document.text)
    del document
print(num_chars, peak_kilobytes() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of a process is read from /proc")
def test_a_line_takes_three_times_its_size_and_is_forgotten_before_the_next(tmp_path):
    """Line, the parser's copy and the text are there at once; the caller keeps nothing, and nor do we."""
    file = tmp_path / "a.jsonl"
    file.write_bytes((b'{"text": "' + b"long " * 8_000_000 + b'"}\n') * 2)
    command = [sys.executable, "-c", MEASURE, str(file)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    num_chars, kilobytes = map(int, run.stdout.split())
    assert num_chars == 80_000_000
    assert kilobytes < 3.5 * 40_000
