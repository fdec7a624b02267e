"""Windows as MosaicML's MDS shards, which llm-foundry and princeton-nlp's ProLong trainer read."""

import hashlib
import json
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from longattn.export.base import AddRow, Row, TokenFormat
from longattn.tables import durable, write_text

SHARD_BYTES = 64 * 2**20
"""Size of a shard, which the writer of ``streaming`` also keeps to; places in a shard are 32-bit numbers."""
COLUMNS = {"domain": "str", "indices": "ndarray:int32", "input_ids": "ndarray:uint32", "length": "int32"}
"""Columns and their encodings, sorted by name as the format wants them."""
SIZES = [None, None, None, 4]
"""Bytes of each column's values, None where they differ."""


@dataclass(frozen=True)
class Mds(TokenFormat):
    """A folder for each source with ``shard.00000.mds`` and so on and ``index.json``.

    Layout: ``streaming/base/format/mds`` of mosaicml-streaming, version 2. ``indices`` [D, 2] are the spans of the
    records that a window was joined of, in tokens; a window of one document has one.
    """

    @contextmanager
    def writer(self, folder: Path, stem: str, vocab_size: int) -> Iterator[AddRow]:
        """Samples are held until a shard is full; the index is written when all shards are there."""
        shards = _Shards(folder / stem)
        yield shards.add
        shards.finish()

    def usage(self, name: str, stems: Mapping[str, str], tokens: Mapping[str, int]) -> str:
        """Folders with their shares."""
        total = max(1, sum(tokens.values()))
        lines = [f"{name}/data/{stem}@{tokens[source] / total:.6f}" for source, stem in stems.items()]
        return (
            "```\n" + "\n".join(lines) + "\n```\n\n"
            "A folder and its share of all tokens for each source, as ProLong's trainer takes them; "
            '`streaming.StreamingDataset(local=FOLDER)` reads one. `item["input_ids"]` is a window.'
        )


class _Shards:
    """Fills shards one after another."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._samples: list[bytes] = []
        self._size = 0
        self._shards: list[dict[str, Any]] = []

    def add(self, row: Row) -> None:
        """Take a window; write the shard that it does not fit into any more."""
        sample = encode_sample(row)
        if self._samples and self._size + len(sample) > SHARD_BYTES:
            self._write()
        self._samples.append(sample)
        self._size += len(sample)

    def finish(self) -> None:
        """Write what is left, and the index."""
        if self._samples:
            self._write()
        write_text(self._folder / "index.json", json.dumps({"version": 2, "shards": self._shards}))

    def _write(self) -> None:
        path = self._folder / f"shard.{len(self._shards):05d}.mds"
        facts = {
            "column_encodings": list(COLUMNS.values()),
            "column_names": list(COLUMNS),
            "column_sizes": SIZES,
            "compression": None,
            "format": "mds",
            "hashes": ["sha1"],
            "size_limit": SHARD_BYTES,
            "version": 2,
        }
        config = json.dumps(facts, sort_keys=True).encode()
        count = len(self._samples)
        begin = 4 + 4 * (count + 1) + len(config)
        ends = begin + np.cumsum([0, *map(len, self._samples)])
        content = b"".join([struct.pack("<I", count), ends.astype("<u4").tobytes(), config, *self._samples])
        with durable(path) as file:
            file.write(content)
        whole = {
            "basename": path.name,
            "bytes": len(content),
            "hashes": {"sha1": hashlib.sha1(content, usedforsecurity=False).hexdigest()},
        }
        self._shards.append({**facts, "raw_data": whole, "samples": count, "zip_data": None})
        self._samples, self._size = [], 0


def encode_sample(row: Row) -> bytes:
    """A window's columns: the sizes of those whose size differs, then all values."""
    tokens: npt.NDArray[Any] = row["input_ids"]
    values = [
        row["source"].encode(),
        _array(spans(row), np.int32),
        _array(tokens, np.uint32),
        struct.pack("<i", len(tokens)),
    ]
    lengths = [len(value) for value, size in zip(values, SIZES, strict=True) if size is None]
    return struct.pack(f"<{len(lengths)}I", *lengths) + b"".join(values)


def spans(row: Row) -> npt.NDArray[np.int64]:
    """[D, 2]: first token and end of each record in the window, which cover it."""
    length = len(row["input_ids"])
    # in another tokenizer's longer ids, cut at the window's length, a record may begin behind the cut
    starts = [start for start in sorted({0, *row["part_tokens"]}) if start < length]
    return np.array(list(zip(starts, [*starts[1:], length], strict=False)), np.int64).reshape(-1, 2)


def _array(values: npt.NDArray[Any], kind: type[np.generic]) -> bytes:
    """Number of axes and the type of their sizes (32 bits, code 2) in a byte, the sizes, the values."""
    header = struct.pack(f"<B{values.ndim}I", values.ndim << 2 | 2, *values.shape)
    return header + values.astype(np.dtype(kind).newbyteorder("<")).tobytes()
