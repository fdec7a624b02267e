"""Plain text files: one document each, exactly as it stands in the file."""

import os

import pytest

from longattn.corpus import files
from longattn.records import Document

SUFFIXES = ["", ".gz", ".bz2", ".zst"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_is_a_document_as_it_stands(write, read, suffix):
    file = write(f"a.txt{suffix}", "\ufeffone\r\n\0zw\u00f6lf \u2028\n")
    assert read(file) == [Document(str(file), "all", "one\r\n\0zw\u00f6lf \u2028\n", str(file), position=0)]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"a\xffb", "invalid_utf8"), (b"", "empty"), (b" \n", "empty"), (b"x" * 101, "too_large")],
)
def test_a_bad_file_is_one_reject(write, read, content, reason, suffix):
    (reject,) = read(write(f"a.txt{suffix}", content), max_doc_bytes=100)
    assert (reject.reason, reject.position, reject.line) == (reason, 0, None)


@pytest.mark.parametrize("suffix", SUFFIXES[1:])
def test_a_cut_file_is_truncated(write, read, suffix):
    file = write(f"a.txt{suffix}", "some text" * 50)
    data = file.read_bytes()
    for cut in range(len(data)):
        file.write_bytes(data[:cut])
        assert [record.reason for record in read(file)] == ["truncated"]


def test_source_comes_from_the_place(write, read):
    folder = write("books/shelf/a.b.txt.gz", "t").parent.parent.parent
    for rules, source in {
        ("folder", None): "books",
        ("file", None): "a.b",
        (None, "given"): "given",
        (None, None): "all",
    }.items():
        (document,) = read(folder, source_field="kind", source_from=rules[0], source=rules[1])
        assert document.source == source


def test_suffixes_can_be_chosen(write, read):
    folder = write("a.log", "t").parent
    write("README", "r")
    write("b.txt", "b")
    assert [document.text for document in read(folder, text_suffixes=(".LOG",))] == ["t"]
    assert [document.text for document in read(folder, text_suffixes=("",))] == ["r", "t", "b"]


def test_a_file_that_shrinks_while_it_is_read_is_noticed(write, read, monkeypatch):
    file = write("a.txt", "x" * 1000)
    original = files.open_stream

    def cut_off(name, *arguments):
        os.truncate(name, 500)
        return original(name, *arguments)

    monkeypatch.setattr(files, "open_stream", cut_off)
    (reject,) = read(file)
    assert reject.reason == "unreadable"
    assert "plan again" in reject.detail
