"""Compressed streams: xz as the format allows it, and an end to what a small file may grow to."""

import lzma
import random
import tracemalloc
import zlib

import pyarrow as pa
import pytest

from longattn.corpus.formats import FREE_BYTES
from longattn.corpus.streams import XzStream
from longattn.records import Reject

LINE = b'{"text": "a line of text that is read"}\n'
PACKED = [".gz", ".bz2", ".xz", ".zst"]


def packed(*contents: bytes) -> bytes:
    return b"".join(map(lzma.compress, contents))


@pytest.mark.parametrize("size", [1, 7, 2**17])
def test_xz_streams_follow_one_another_with_padding_between_and_after(size):
    data = packed(LINE) + b"\0" * 8 + packed(LINE * 9000, b"", LINE) + b"\0" * 400_000
    stream = XzStream(pa.BufferReader(data))
    read = b"".join(iter(lambda: stream.read(size if size > 7 else 4096 * size), b""))
    assert read == LINE * 9002


def test_xz_that_needs_much_memory_is_refused(write, read):
    """A header that asks for a dictionary of 1.5 GiB costs the one who wrote it nothing."""
    file = write("a.jsonl.xz")
    data = bytearray(lzma.compress(LINE, check=lzma.CHECK_NONE))
    size, filter_flags = (data[12] + 1) * 4, data.index(b"\x21\x01", 12)
    data[filter_flags + 2] = 37
    data[8 + size : 12 + size] = zlib.crc32(data[12 : 8 + size]).to_bytes(4, "little")
    file.write_bytes(data)
    (reject,) = read(file)
    assert (reject.reason, reject.detail) == ("unreadable", "xz: Memory usage limit exceeded")


@pytest.mark.parametrize(
    ("window", "found"),
    [
        (27, ["a line of text that is read"]),
        (28, [("unreadable", "ZSTD decompress failed: Frame requires too much memory for decoding")]),
    ],
    ids=["128 MiB", "256 MiB"],
)
def test_zstd_may_ask_for_a_window_of_128_mebibytes_and_no_more(write, read, window, found):
    """A frame by hand: magic number, no flags, the window's exponent, one last block that is not packed."""
    block = (len(LINE) << 3 | 1).to_bytes(3, "little") + LINE
    file = write("a.jsonl.zst")
    file.write_bytes(b"\x28\xb5\x2f\xfd\0" + bytes([(window - 10) << 3]) + block)
    assert [(r.reason, r.detail) if isinstance(r, Reject) else r.text for r in read(file)] == found


@pytest.mark.parametrize("suffix", [*PACKED, "damaged later.gz"])
def test_a_damaged_file_costs_no_memory(write, read, suffix):
    """A corpus may have a hundred thousand of them."""
    if suffix in PACKED:
        file = write(f"a.jsonl{suffix}")
        file.write_bytes(b"damaged")
    else:
        file = write("a.jsonl.gz", *[{"text": random.Random(n).randbytes(4000).hex()} for n in range(60)])
        file.write_bytes(file.read_bytes()[:-5000] + bytes(5000))
    tracemalloc.start()
    try:
        read(file)
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(4):
            assert read(file)[-1].reason in ("unreadable", "truncated")
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 100_000


@pytest.mark.parametrize("suffix", PACKED)
def test_a_file_that_grows_too_much_is_rejected_from_there_on(write, read, monkeypatch, suffix):
    """Short lines, which no limit on a line's size stops; the first of them are read."""
    monkeypatch.setattr("longattn.corpus.formats.FREE_BYTES", 2**20)
    lines = b'{"text": "' + b"a line " * 1000 + b'"}\n'
    file = write(f"bomb.jsonl{suffix}", lines * 200)
    *documents, last = read(file, max_expansion=2)
    assert last.reason == "expands_too_much"
    assert "raise max_expansion" in last.detail
    assert 2**19 < len(documents) * len(lines) <= 2**20
    assert last.line == len(documents) + 1
    assert len(read(file, max_expansion=10_000)) == 200


def test_a_text_file_that_grows_too_much_is_rejected(write, read):
    file = write("bomb.txt.gz", b"x" * 70_000_000)
    assert [record.reason for record in read(file)] == ["expands_too_much"]
    (document,) = read(file, max_expansion=2000)
    assert len(document.text) == 70_000_000


@pytest.mark.parametrize("suffix", PACKED)
@pytest.mark.parametrize("line", [b"\n", b"x\n"])
def test_a_few_bytes_are_no_millions_of_lines(write, read, monkeypatch, suffix, line):
    """Fuzzing found 135 bytes of bzip2 that took seconds: each line is looked at, blank or a reject."""
    assert FREE_BYTES == 2**22
    monkeypatch.setattr("longattn.corpus.formats.FREE_BYTES", 2**17)
    file = write(f"lines.jsonl{suffix}", line * (2**20 // len(line)))
    assert file.stat().st_size < 2**13
    *rejects, last = read(file, max_expansion=1)
    assert last.reason == "expands_too_much"
    assert len(rejects) == (0 if line == b"\n" else 2**16)
    assert last.line == 2**17 // len(line) + 1
