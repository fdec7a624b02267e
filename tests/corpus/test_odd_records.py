"""Odd records: one answer each, written down in docs/inputs.md, and the same from every kind of file."""

import bz2
import gzip
import lzma
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from longattn.corpus import list_units, read_unit
from longattn.records import Document
from longattn.settings import Corpus

PAGE = Path(__file__).parents[2] / "docs" / "inputs.md"
PACK = {
    ".jsonl": bytes,
    ".jsonl.gz": gzip.compress,
    ".jsonl.bz2": bz2.compress,
    ".jsonl.xz": lzma.compress,
    ".jsonl.zst": lambda data: pa.compress(data, "zstd", asbytes=True),
}


@dataclass(frozen=True)
class Case:
    """What stands in a file, and what is read from it."""

    data: bytes
    answers: tuple[str, ...]
    """Per record: a reject's reason, or ``text`` or ``text (id)`` of a document."""
    parquet: dict[str, Any] | None = None
    """The same as columns; None where Parquet cannot express it."""


def text(value: bytes) -> bytes:
    return b'{"text": ' + value + b"}\n"


def with_id(value: bytes) -> bytes:
    return b'{"text": "t", "id": ' + value + b"}\n"


NOT_UTF8 = pa.StringArray.from_buffers(1, pa.array([0, 1], pa.int32()).buffers()[1], pa.py_buffer(b"\xff"))
GOOD = b'{"text": "good"}\n'

CASES = {
    "`NaN`": Case(text(b"NaN"), ("bad_json",)),
    "`Infinity`": Case(text(b"-Infinity"), ("bad_json",)),
    "a number beyond float64 (`1e999`)": Case(text(b"1e999"), ("bad_json",)),
    "a key given twice": Case(b'{"text": "first", "text": "last"}\n', ("last",)),
    "a lone surrogate (`\\ud800`)": Case(text(b'"\\ud800"'), ("bad_json",)),
    "bytes that are not UTF-8": Case(text(b'"\xff"'), ("invalid_utf8",), {"text": NOT_UTF8}),
    "a surrogate in UTF-8 (`ED A0 80`)": Case(
        text(b'"\xed\xa0\x80"'), ("invalid_utf8",), {"text": pa.array([b"\xed\xa0\x80"])}
    ),
    "a byte order mark at the beginning of the file": Case(b"\xef\xbb\xbf" + GOOD, ("good",)),
    "a byte order mark elsewhere": Case(GOOD + b"\xef\xbb\xbf" + GOOD, ("good", "bad_json")),
    "a raw NUL in a string": Case(text(b'"a\0b"'), ("bad_json",)),
    "an escaped NUL": Case(text(b'"a\\u0000b"'), ("a\0b",), {"text": pa.array(["a\0b"])}),
    "U+2028 in a string": Case(text('"a\u2028b"'.encode()), ("a\u2028b",), {"text": pa.array(["a\u2028b"])}),
    "lines that end in CR LF": Case(GOOD[:-1] + b"\r\n" + GOOD[:-1] + b"\r\n", ("good", "good")),
    "no line break at the end": Case(GOOD + GOOD[:-1], ("good", "good")),
    "a last line that is cut off": Case(GOOD + GOOD[:-4], ("good", "bad_json")),
    "two objects on a line": Case(GOOD[:-1] + b" " + GOOD, ("bad_json",)),
    "blank lines": Case(b"\n \r\n" + GOOD + b"\n", ("good",)),
    "a list, a number, `null` instead of an object": Case(b"[1]\n3\nnull\n", ("not_an_object",) * 3),
    "a text that is `null`": Case(text(b"null"), ("missing_text",), {"text": pa.array([None], pa.string())}),
    "no text": Case(b'{"other": 1}\n', ("missing_text",), {"other": pa.array([1])}),
    "a text that is a number": Case(text(b"7"), ("text_not_string",), {"text": pa.array([7])}),
    "a text that is empty or white space": Case(
        text(b'""') + text(b'" \\n\\u2003"'), ("empty", "empty"), {"text": pa.array(["", " \n\u2003"])}
    ),
    "nested more than 100 deep": Case(
        b'{"text": "t", "deep": ' + b"[" * 101 + b"]" * 101 + b"}\n" + GOOD, ("too_deep", "good")
    ),
    "nested 1,500, 20,000 and 200,000 deep": Case(
        b"".join(b"[" * depth + b"]" * depth + b"\n" for depth in (1500, 20_000, 200_000)), ("bad_json",) * 3
    ),
    "an id that is a 64-bit integer": Case(
        with_id(b"18446744073709551615"),
        ("t (18446744073709551615)",),
        {"text": pa.array(["t"]), "id": pa.array([2**64 - 1], pa.uint64())},
    ),
    "an id beyond 64 bits, or with a fraction": Case(
        with_id(b"18446744073709551617") + with_id(b"1.0"),
        ("bad_id", "bad_id"),
        {"text": pa.array(["t", "t"]), "id": pa.array([2.0**64, 1.0])},
    ),
    "an id that is `true`, a list or an object": Case(
        with_id(b"true") + with_id(b"[]"), ("bad_id", "bad_id"), {"text": pa.array(["t"] * 2), "id": [[], []]}
    ),
    "an id that is missing, `null` or empty": Case(
        b'{"text": "t"}\n' + with_id(b"null") + with_id(b'""'),
        ("t (FILE:0)", "t (FILE:14)", "t (FILE:40)"),
    ),
    "an id of more than 1,000 characters": Case(
        with_id(b'"' + b"x" * 1001 + b'"'), ("bad_id",), {"text": pa.array(["t"]), "id": pa.array(["x" * 1001])}
    ),
}


def answers(file: Path) -> tuple[str, ...]:
    corpus = Corpus(inputs=(str(file),))
    found = []
    for record in (record for unit in list_units(corpus) for record in read_unit(unit, corpus)):
        if isinstance(record, Document):
            named = record.text == "t"
            found.append(f"t ({record.id.replace(str(file), 'FILE')})" if named else record.text)
        else:
            found.append(record.reason)
    return tuple(found)


@pytest.mark.parametrize("case", CASES)
def test_an_odd_record_has_one_answer(tmp_path, case):
    expected = CASES[case]
    for suffix, pack in PACK.items():
        file = tmp_path / f"a{suffix}"
        file.write_bytes(pack(expected.data))
        assert answers(file) == expected.answers, suffix
    if expected.parquet is not None:
        pq.write_table(pa.table(expected.parquet), tmp_path / "a.parquet")
        assert answers(tmp_path / "a.parquet") == expected.answers


def test_the_page_tells_the_answer_of_every_case():
    told = dict(re.findall(r"^\| (.+?) \| (.+?) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
    for case, expected in CASES.items():
        reasons = {answer for answer in expected.answers if re.fullmatch("[a-z]+_[a-z_0-9]+|empty", answer)}
        assert reasons == set(re.findall(r"`([a-z]+_[a-z_0-9]+|empty)`", told[case])), case
