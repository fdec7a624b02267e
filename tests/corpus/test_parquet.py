"""Parquet: columns of every kind that can hold text, bad rows, bad files, splits by row group."""

import contextlib
import pickle
import random
import re
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from longattn.corpus import REASONS, list_units, read_unit
from longattn.records import Document, Reject
from longattn.settings import Corpus


@pytest.fixture
def write_table(tmp_path):
    def write(name="a.parquet", *, row_group_size=None, write_batch_size=None, use_dictionary=True, **columns):
        pq.write_table(
            pa.table(columns),
            tmp_path / name,
            row_group_size=row_group_size,
            write_batch_size=write_batch_size,
            use_dictionary=use_dictionary,
            write_page_checksum=True,
        )
        return tmp_path / name

    return write


@contextlib.contextmanager
def counted():
    """A pool of memory that pyarrow uses meanwhile, and that knows the most it had to give."""
    default = pa.default_memory_pool()
    counting = pa.proxy_memory_pool(default)
    pa.set_memory_pool(counting)
    try:
        yield counting
    finally:
        pa.set_memory_pool(default)


TEXT_TYPES = [
    pa.string(),
    pa.large_string(),
    pa.string_view(),
    pa.binary(),
    pa.large_binary(),
    pa.dictionary(pa.int32(), pa.string()),
]


@pytest.mark.parametrize("type", TEXT_TYPES, ids=str)
def test_text_may_be_any_string_or_bytes(write_table, read, type):
    file = write_table(text=pa.array(["a", None, "\u00fc"], pa.string()).cast(type), id=pa.array([1, 2, 3]))
    first, null, third = read(file)
    assert first == Document("1", "all", "a", str(file), position=0)
    assert (null.reason, null.position, null.line) == ("missing_text", 1, None)
    assert (third.text, third.position) == ("\u00fc", 2)


def test_an_id_that_is_missing_is_file_and_row(write_table, read):
    file = write_table(text=["a", "b"])
    assert [document.id for document in read(file)] == [f"{file}:0", f"{file}:1"]


def test_bad_rows_cost_only_themselves(write_table, read):
    bad = pa.array([b"a", b"\xff", b"b"], pa.binary())
    not_utf8 = pa.StringArray.from_buffers(3, bad.buffers()[1], bad.buffers()[2])
    for text in (bad, not_utf8):
        records = read(write_table(text=text))
        assert [getattr(record, "reason", None) for record in records] == [None, "invalid_utf8", None]
    records = read(write_table(text=["a", "", " \n", "b"], id=[0.5, 1, 2, 3]))
    assert [getattr(record, "reason", None) for record in records] == ["bad_id", "empty", "empty", "bad_id"]


def test_a_text_beyond_the_limit_is_rejected(write_table, read):
    records = read(write_table(text=["\u00fc" * 60, "\u00fc" * 50]), max_doc_bytes=100)
    assert [getattr(record, "reason", None) for record in records] == ["too_large", None]


@pytest.mark.parametrize(
    ("columns", "reason", "said"),
    [
        ({"body": ["a"] * 99, "id": range(99)}, "missing_text", "body, id"),
        ({"text": range(99)}, "text_not_string", "int64"),
        ({"text": [["a"]] * 99}, "text_not_string", "list"),
    ],
)
def test_a_file_without_a_text_column_is_one_reject(write_table, read, columns, reason, said):
    file = write_table(row_group_size=10, **{name: list(column) for name, column in columns.items()})
    (reject,) = read(file, unit_bytes=100)
    assert (reject.reason, reject.position) == (reason, 0)
    assert said in reject.detail


class Payload:
    """Unpickled, it leaves a file."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return (open, (str(self.file), "w"))


@pytest.mark.parametrize(
    ("name", "facts", "storage", "found"),
    [
        # pyarrow before 14.0.1 unpickled what came with this one: CVE-2023-47248
        ("arrow.py_extension_type", None, pa.string(), ["7", "8"]),
        ("somebody.text", b"\xff", pa.string(), ["7", "8"]),
        ("arrow.json", b"", pa.string(), ["7", "8"]),
        ("arrow.bool8", b"", pa.int8(), ["text_not_string"]),
        ("arrow.json", b"", pa.int8(), ["unreadable"]),
    ],
)
def test_an_extension_type_is_text_if_its_storage_is_and_runs_nothing(tmp_path, read, name, facts, storage, found):
    """A footer may say of a column that it is a type of somebody's own, with bytes to make it from."""
    if facts is None:
        facts = pickle.dumps(Payload(tmp_path / "was here"))
    claims = {"ARROW:extension:name": name, "ARROW:extension:metadata": facts}
    schema = pa.schema([pa.field("text", storage, metadata=claims)])
    pq.write_table(pa.Table.from_arrays([pa.array([7, 8]).cast(storage)], schema=schema), tmp_path / "a.parquet")
    records = read(tmp_path / "a.parquet")
    assert [r.text if isinstance(r, Document) else r.reason for r in records] == found
    assert not (tmp_path / "was here").exists()


def test_two_columns_of_one_name_are_refused(tmp_path, read):
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    pq.write_table(table, tmp_path / "a.parquet")
    (reject,) = read(tmp_path / "a.parquet")
    assert reject.reason == "unreadable"
    assert "text, text" in reject.detail


def test_a_column_of_nulls_is_a_reject_per_row(write_table, read):
    assert [record.reason for record in read(write_table(text=pa.nulls(3)))] == ["missing_text"] * 3


def test_structs_are_reached_by_dotted_names(write_table, read):
    file = write_table(
        doc=[{"text": "a", "more": 1}, None],
        meta=[{"id": 7, "kind": "k"}] * 2,
        **{"meta.id": ["whole", "name"]},
    )
    names = {"text_field": "doc.text", "id_field": "meta.id", "source_field": "meta.kind"}
    first, second = read(file, fields=("doc.more",), **names)
    assert (first.text, first.id, first.source, first.fields) == ("a", "whole", "k", {"doc.more": 1})
    assert second.reason == "missing_text"
    (first, _) = read(file, fields=("*",), **names)
    assert first.fields == {"doc": {"more": 1}, "meta": {"id": 7}}


def test_only_the_needed_columns_are_read(write_table, read, monkeypatch):
    seen = []
    iter_batches = pq.ParquetFile.iter_batches
    monkeypatch.setattr(
        pq.ParquetFile,
        "iter_batches",
        lambda self, **options: seen.append(options["columns"]) or iter_batches(self, **options),
    )
    file = write_table(text=["a"], id=["x"], huge=["y"], kind=["z"])
    read(file, fields=("kind",))
    # one row to see whether the file is damaged, then all
    assert seen == [["id", "kind", "text"]] * 2


@pytest.mark.parametrize("unit_bytes", [1, 3000, 10**9])
def test_row_groups_are_split_into_units_and_rows_keep_their_numbers(write_table, read, unit_bytes):
    texts = [f"{n} " + "x" * (n % 700) for n in range(200)]
    file = write_table(text=texts, row_group_size=7)
    documents = read(file, unit_bytes=unit_bytes)
    assert [document.text for document in documents] == texts
    assert [document.position for document in documents] == list(range(200))
    units = list_units(Corpus(inputs=(str(file),), unit_bytes=unit_bytes))
    assert (len(units) == 29) if unit_bytes == 1 else (len(units) == 1) == (unit_bytes == 10**9)


def test_no_rows_are_no_documents(write_table, read):
    assert read(write_table(text=pa.array([], pa.string()))) == []


def test_a_batch_holds_few_long_rows(write_table, read, monkeypatch):
    sizes = []
    iter_batches = pq.ParquetFile.iter_batches
    monkeypatch.setattr(
        pq.ParquetFile,
        "iter_batches",
        lambda self, **options: sizes.append(options["batch_size"]) or iter_batches(self, **options),
    )
    read(write_table(text=["a"] * 5000))
    read(write_table("b.parquet", text=[str(n) * 3_000_000 for n in range(4)]))
    # one row to see whether the file is damaged comes first
    assert sizes[:3] == [1, 1024, 1]
    assert sizes[3] <= 3


def test_memory_does_not_grow_with_the_row_group(write_table, read):
    texts = [random.Random(n).randbytes(30_000).hex() for n in range(2000)]
    # a page is the smallest piece that can be read; ours shall be small
    file = write_table(text=texts, write_batch_size=8, use_dictionary=False)
    with counted() as memory:
        assert len(read(file)) == 2000
    assert file.stat().st_size > 60_000_000
    assert memory.max_memory() < 32_000_000


PEAK = """
import re, sys
from pathlib import Path
from longattn.corpus import list_units, read_unit
from longattn.settings import Corpus
def peak():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
corpus = Corpus(inputs=(sys.argv[1],))
(unit,) = list_units(corpus)
before = peak()
for reject in read_unit(unit, corpus):
    print(reject.reason, re.search(r"expected \\(.*\\)", reject.detail)[0])
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads what Linux says of its processes")
@pytest.mark.parametrize("claimed", [1_455_248_618, 2**31 - 1])
def test_memory_is_not_what_the_header_of_a_page_claims(write_table, claimed):
    """A file of some hundred bytes, changed so that one page says that it is so long; found by fuzzing."""
    file = write_table(text=["a text of a page", "another"], use_dictionary=False)
    start = pq.read_metadata(file).row_group(0).column(0).data_page_offset
    size = varint(2 * claimed)
    # in Thrift's compact protocol: a data page, one byte unpacked, so many packed, and nothing more is said of it
    header = bytes([0x15, 0, 0x15, 2, 0x15, *size, 0])
    data = bytearray(file.read_bytes())
    data[start : start + len(header)] = header
    file.write_bytes(data)
    # what a buffered stream takes is counted by no pool
    child = subprocess.run([sys.executable, "-c", PEAK, str(file)], capture_output=True, text=True, check=True)
    assert f"unreadable expected ({claimed})" in child.stdout
    assert int(child.stdout.split()[-1]) < 32_000


def varint(number):
    """Seven bits a byte, the lowest first."""
    found = []
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    return [*found, number]


def test_mutated_files_end_in_rejects_and_never_in_an_exception(write_table, read):
    """With page checksums, no changed page passes for a good one."""
    rng = random.Random(20260722)
    texts = [f"{n} {n**5 % 9973} text" for n in range(300)]
    file = write_table(text=texts, id=list(map(str, range(300))), row_group_size=100)
    data = file.read_bytes()
    for _ in range(150):
        mutated = bytearray(data)
        where = rng.randrange(len(data))
        kind = rng.randrange(3)
        if kind == 0:
            mutated[where] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del mutated[where:]
        else:
            mutated[where : where + 64] = bytes(len(mutated[where : where + 64]))
        file.write_bytes(mutated)
        records = read(file)
        assert all(record.text == texts[record.position] for record in records if isinstance(record, Document))
        assert all(record.reason in REASONS for record in records if isinstance(record, Reject))
        assert len(records) == 300 or isinstance(records[-1], Reject), (kind, where)


@pytest.mark.parametrize("name", [b"text", b"other"])
def test_a_column_name_that_is_not_utf8_is_no_exception(write_table, read, name):
    """In the footer's list of chunks, not in its schema, which counts; found by fuzzing."""
    path = write_table(text=["a"], other=["b"])
    data = path.read_bytes()
    # the last place of a name is in the list of chunks
    at = data.rindex(name)
    path.write_bytes(data[:at] + b"\x8d" + data[at + 1 :])
    [found] = read(path)
    assert isinstance(found, Document)
    assert found.text == "a"


def test_a_name_that_differs_between_schema_and_row_group_is_no_exception(write_table, read):
    """Found by changed files: pyarrow takes it for a mistake of the caller. What the schema says counts."""
    path = write_table(text=["one text"] * 40)
    content = bytearray(path.read_bytes())
    found = [match.start() for match in re.finditer(rb"(?<!one )text", content)]
    assert len(found) == 2
    for place, reasons in ((0, {"missing_text"}), (1, set())):
        changed = content.copy()
        changed[found[place]] = ord("v")
        path.write_bytes(changed)
        records = read(path)
        assert {record.reason for record in records if isinstance(record, Reject)} == reasons
        assert len(records) == (1 if reasons else 40)


def test_a_page_that_fails_leaves_the_rows_before_it(write_table):
    file = write_table(text=[f"{n} {n**5 % 9973} text" for n in range(300)], row_group_size=100)
    start = pq.read_metadata(file).row_group(2).column(0).dictionary_page_offset
    data = bytearray(file.read_bytes())
    data[start + 60] ^= 1
    file.write_bytes(data)
    corpus = Corpus(inputs=(str(file),))
    (unit,) = list_units(corpus)
    *documents, reject = read_unit(unit, corpus)
    assert len(documents) == 200
    assert (reject.reason, reject.position) == ("unreadable", 200)


def test_a_long_text_stored_once_for_many_rows_is_not_copied_for_each_of_them(write_table, read):
    """300 rows of 4 MB are 1.2 GB, in a file of some kilobytes."""
    rows = pa.DictionaryArray.from_arrays(pa.array([0] * 300, pa.int32()), pa.array(["text " * 800_000]))
    file = write_table(text=rows)
    with counted() as memory:
        corpus = Corpus(inputs=(str(file),))
        lengths = [len(document.text) for unit in list_units(corpus) for document in read_unit(unit, corpus)]
    assert lengths == [4_000_000] * 300
    assert file.stat().st_size < 10_000_000
    assert memory.max_memory() < 100_000_000


EVERY_BYTE = """
import sys
from pathlib import Path
from longattn.corpus import list_units, read_unit
from longattn.settings import Corpus
good, place = Path(sys.argv[1]).read_bytes(), Path(sys.argv[2])
footer = len(good) - 8 - int.from_bytes(good[-8:-4], "little")
corpus = Corpus(inputs=(str(place),), unit_bytes=1)
for at in range(footer, len(good) - 8):
    for value in (0, *(good[at] ^ 1 << bit for bit in range(8))):
        data = bytearray(good)
        data[at] = value
        place.write_bytes(data)
        print(at, value, flush=True)
        for unit in list_units(corpus):
            for record in read_unit(unit, corpus, ("*",)):
                pass
"""


def test_no_byte_of_a_footer_ends_the_process(write_table, tmp_path):
    """pyarrow 26.0.1 does not catch what its C++ throws at the metadata of a column: found by changed files."""
    file = write_table("good", text=["a text", "another"], turns=[[{"role": "user"}], []])
    command = [sys.executable, "-c", EVERY_BYTE, str(file), str(tmp_path / "changed.parquet")]
    child = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert child.returncode == 0, (child.stdout.splitlines()[-1:], child.stderr[-2000:])


def test_a_small_file_that_claims_many_rows_is_rejected_whole(write_table, read, monkeypatch):
    """Ten million rows without a text take 20 kB and could take less; each would be a reject with its reason."""
    file = write_table(text=pa.nulls(10_000_000, pa.string()))
    assert 200 * file.stat().st_size < 10_000_000
    [reject] = read(file)
    assert (reject.reason, reject.position) == ("expands_too_much", 0)
    assert "has 10000000 rows; if that is meant, raise max_expansion" in reject.detail
    monkeypatch.setattr("longattn.corpus.formats.FREE_BYTES", 10)
    few = write_table(text=["a"] * 400)
    assert [record.reason for record in read(few, max_expansion=0)] == ["expands_too_much"]
    assert len(read(few, max_expansion=1)) == 400
