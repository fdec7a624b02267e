"""Small corpora on disk, and what is read from them."""

import bz2
import gzip
import json
import lzma

import pyarrow as pa
import pytest

from longattn.corpus import list_units, read_unit
from longattn.settings import Corpus

COMPRESS = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: pa.compress(data, "zstd", asbytes=True),
}


@pytest.fixture
def write(tmp_path):
    """Write a file below the test's folder: text and bytes as they are, anything else as a JSON line."""

    def as_bytes(content):
        if isinstance(content, str):
            return content.encode()
        return content if isinstance(content, bytes) else json.dumps(content).encode() + b"\n"

    def write(name, *contents):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(COMPRESS.get(file.suffix, bytes)(b"".join(map(as_bytes, contents))))
        return file

    return write


@pytest.fixture(scope="session")
def read():
    """List the inputs and read all their units."""

    def read(*inputs, fields=(), **settings):
        corpus = Corpus(inputs=tuple(map(str, inputs)), **settings)
        return [record for unit in list_units(corpus) for record in read_unit(unit, corpus, fields)]

    return read
