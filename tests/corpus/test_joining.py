"""Joining neighbours: boundaries, order, and what cannot be joined."""

import datetime
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longattn.corpus.documents import Keyed
from longattn.corpus.joining import join
from longattn.records import Document, Part, Reject
from longattn.settings import Corpus


def test_neighbours_become_one_document_with_its_boundaries(write, read):
    file = write(
        "a.jsonl",
        {"text": "one", "id": "x", "book": "B"},
        {"text": "z\u00fc", "id": "y", "book": "B"},
        {"text": "three", "book": 7},
    )
    first, second = read(file, join_by="book", join_separator="--")
    assert (first.id, first.text, first.position, first.line) == ("B", "one--z\u00fc", 0, 1)
    assert first.parts == (Part("x", 0), Part("y", 5))
    assert (second.id, second.text, second.line, len(second.parts)) == ("7", "three", 3, 1)


def test_parts_are_put_in_order_within_their_document(write, read):
    rows = [("A", 10), ("A", 9), ("A", None), ("A", 9.5), ("A", "b"), ("A", "a"), ("B", 1), ("B", 1)]
    file = write("a.jsonl", *({"text": f"{n}", "book": book, "page": page} for n, (book, page) in enumerate(rows)))
    documents = read(file, join_by="book", join_order="page", join_separator=" ")
    assert [document.text for document in documents] == ["1 3 0 5 4 2", "6 7"]
    assert documents[0].line == 2


def test_parquet_values_order_parts_too(tmp_path, read):
    days = [datetime.date(2024, 2, 1), datetime.date(2023, 12, 1)]
    columns = {"text": ["b", "a"], "book": [1, 1]}
    for order in (days, [Decimal("2.5"), Decimal(1)], [2.0, 1.0]):
        pq.write_table(pa.table({**columns, "at": order}), tmp_path / "a.parquet")
        (document,) = read(tmp_path / "a.parquet", join_by="book", join_order="at", join_separator="")
        assert document.text == "ab"
        assert document.position == 1


def test_fields_are_kept_where_all_parts_agree(write, read):
    file = write(
        "a.jsonl",
        {"text": "a", "repo": "r", "license": "MIT", "path": "1", "stars": 3},
        {"text": "b", "repo": "r", "license": "MIT", "path": "2"},
    )
    (document,) = read(file, join_by="repo", fields=("*",))
    assert document.fields == {"repo": "r", "license": "MIT"}


def test_a_key_that_comes_again_later_is_refused(write, read):
    file = write("a.jsonl", *({"text": key, "k": key} for key in "AABABC"))
    records = read(file, join_by="k")
    assert [(r.line, getattr(r, "reason", r.id if isinstance(r, Document) else "")) for r in records] == [
        (1, "A"),
        (4, "join_key_not_adjacent"),
        (3, "B"),
        (6, "C"),
    ]
    assert "sort" in records[1].detail


def test_a_bad_record_does_not_end_a_run(write, read):
    file = write("a.jsonl", {"text": "a", "k": 1}, b"broken\n", {"text": "", "k": 1}, {"text": "b", "k": 1})
    *rejects, document = read(file, join_by="k")
    assert [reject.reason for reject in rejects] == ["bad_json", "empty"]
    assert len(document.parts) == 2


@pytest.mark.parametrize("key", [{}, {"k": None}, {"k": ""}, {"k": 1.5}, {"k": ["a"]}, {"k": "x" * 1001}])
def test_a_record_without_a_usable_key_is_refused(write, read, key):
    (reject,) = read(write("a.jsonl", {"text": "a", **key}), join_by="k")
    assert reject.reason == "join_key_missing"


def test_a_part_of_another_source_is_refused(write, read):
    file = write("a.jsonl", *({"text": "t", "k": 1, "source": source} for source in "aaba"))
    reject, document = read(file, join_by="k", source_field="source")
    assert (reject.reason, reject.line) == ("bad_source", 3)
    assert len(document.parts) == 3


def test_a_document_that_joins_too_much_is_refused_part_by_part(write, read):
    file = write("a.jsonl", *({"text": "x" * 40, "k": key} for key in "ABBBBBC"))
    records = read(file, join_by="k", max_doc_bytes=100)
    assert [(r.line, getattr(r, "reason", None)) for r in records] == [
        (1, None),
        *((line, "too_large") for line in range(2, 7)),
        (7, None),
    ]


def test_a_folder_of_texts_is_one_document(write, read, tmp_path):
    for name in ("d/b/2.py", "d/b/10.py", "d/b/x/1.py", "d/a/1.py", "d/top.py", "e/a/1.py"):
        write(name, name)
    empty = write("d/b/0.py", " ")
    d, e = tmp_path / "d", tmp_path / "e"
    reject, *documents = sorted(
        read(d, e, join_by="folder", source_from="folder"), key=lambda r: isinstance(r, Document)
    )
    assert (reject.reason, reject.file) == ("empty", str(empty))
    assert {document.id: document.text for document in documents} == {
        f"{d}/a": "d/a/1.py",
        f"{d}/b": "d/b/10.py\n\nd/b/2.py\n\nd/b/x/1.py",
        f"{d}/top.py": "d/top.py",
        f"{e}/a": "e/a/1.py",
    }
    joined = next(document for document in documents if document.id == f"{d}/b")
    assert [part.id for part in joined.parts] == [f"{d}/b/10.py", f"{d}/b/2.py", f"{d}/b/x/1.py"]
    assert (joined.source, joined.file, joined.position) == ("b", f"{d}/b/10.py", 0)


def test_text_files_have_no_key_but_their_folder(write, read):
    folder = write("a.txt", "text").parent
    write("b.jsonl", {"text": "t", "k": 1})
    assert [document.parts for document in read(folder, join_by="k")] == [
        (Part(f"{folder}/b.jsonl:0", 0),),
        (),
    ]


@given(st.lists(st.tuples(st.sampled_from("ABC"), st.sampled_from("st"), st.text(max_size=5), st.integers(0, 3))))
def test_every_record_is_one_part_or_one_reject(rows):
    corpus = Corpus(join_by="k", join_order="o", max_doc_bytes=12)
    records = [
        Keyed(key, order, Document(f"{n}", source, text, "f", n)) for n, (key, source, text, order) in enumerate(rows)
    ]
    documents, positions = [], []
    for record in join(records, corpus):
        if isinstance(record, Reject):
            positions.append(record.position)
        else:
            documents.append(record)
            positions += [int(part.id) for part in record.parts]
    assert sorted(positions) == list(range(len(rows)))
    assert len({document.id for document in documents}) == len(documents)
    for document in documents:
        for part in document.parts:
            assert document.text.startswith(rows[int(part.id)][2], part.char_start)
