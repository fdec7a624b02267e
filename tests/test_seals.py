"""What a sealed file says of itself holds for the file as it was written, and for no other."""

import hashlib
import tempfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from longattn.seals import BLANK, SealError, Written, check_parquet, parquet_writer, seal_json, unseal_json

VALUE = {"rows": 3, "name": 'a\n  "seal": "b', "inner": {"seal": BLANK, 5: None}}


def test_json_comes_back_without_its_seal_and_equal_values_give_equal_bytes():
    content = seal_json(VALUE)
    assert unseal_json(content) == {**VALUE, "inner": {"seal": BLANK, "5": None}}
    assert content == seal_json(dict(reversed(VALUE.items())))
    assert content.endswith(b"\n}\n")


def test_the_seal_is_the_hash_of_the_content_with_zeros_in_its_place():
    content = seal_json({"rows": 3})
    digits = content[content.index(b'"seal": "') + 9 :][:64]
    assert hashlib.sha256(content.replace(digits, b"0" * 64)).hexdigest().encode() == digits


def test_every_changed_bit_of_json_is_seen():
    content = seal_json(VALUE)
    for place in range(8 * len(content)):
        changed = bytearray(content)
        changed[place // 8] ^= 1 << place % 8
        with pytest.raises(SealError):
            unseal_json(bytes(changed))


def test_json_without_a_seal_is_said_to_have_none():
    with pytest.raises(SealError, match="it has no seal"):
        unseal_json(b'{\n  "rows": 3\n}\n')
    with pytest.raises(SealError, match="does not fit its seal"):
        unseal_json(seal_json({"rows": 3}).replace(b"3", b"4", 1))


def parquet(table, **facts):
    """The bytes of a sealed file, and what is known of it."""
    with tempfile.TemporaryFile() as file:
        written = Written()
        with parquet_writer(file, table.schema, facts, written) as writer:
            writer.write_table(table)
        file.seek(0)
        return file.read(), written


def check(data):
    """Raise what a file of these bytes raises."""
    with tempfile.TemporaryFile() as file:
        file.write(data)
        check_parquet(file)


SMALL = pa.table({"source": ["a"] * 3, "x": [0.0, 1.0, 2.0]})


def test_a_table_comes_back_with_its_facts_and_what_is_known_of_it_is_true():
    data, written = parquet(SMALL, unit="u", rows="3")
    assert pq.read_table(pa.BufferReader(data), page_checksum_verification=True).equals(SMALL)
    metadata = pq.read_metadata(pa.BufferReader(data)).metadata
    assert (metadata[b"longattn.unit"], metadata[b"longattn.rows"]) == (b"u", b"3")
    assert (written.num_bytes, written.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    length = int.from_bytes(data[-8:-4], "little")
    # the footer, its length and PAR1
    assert written.footer_bytes == length + 8
    assert written.footer_sha256 == hashlib.sha256(data[-written.footer_bytes :]).hexdigest()
    check(data)


def test_every_changed_byte_of_a_table_is_seen():
    data, _ = parquet(SMALL)
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 1 << place % 8
        with pytest.raises(SealError):
            check(bytes(changed))


def test_a_table_that_is_cut_off_or_longer_is_seen():
    data, _ = parquet(SMALL)
    for other in (b"", data[:7], data[:-1], data[: len(data) // 2], data + b"\0"):
        with pytest.raises(SealError, match=r"does not end as a Parquet file does|no seal"):
            check(other)


def test_a_table_of_somebody_else_has_no_seal():
    sink = pa.BufferOutputStream()
    pq.write_table(SMALL, sink)
    with pytest.raises(SealError, match="it has no seal"):
        check(sink.getvalue().to_pybytes())


def test_a_table_of_more_than_a_block_is_read_to_its_end():
    hashes = [hashlib.sha256(n.to_bytes(4, "little")).digest() for n in range(80_000)]
    data, written = parquet(pa.table({"hash": hashes}))
    assert written.num_bytes == len(data) > 2 * 2**20
    check(data)
    changed = bytearray(data)
    changed[2**21] ^= 1
    with pytest.raises(SealError, match="does not fit its seal"):
        check(bytes(changed))
