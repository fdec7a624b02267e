"""Windows as Megatron's IndexedDataset: a pair of ``.bin`` and ``.idx`` for each source."""

import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from longattn.export.base import AddRow, Row, TokenFormat, to_bytes
from longattn.tables import durable

LARGEST_UINT16 = 65_500
"""Vocabularies below this size are held in two bytes, as Megatron's own writer has it."""


@dataclass(frozen=True)
class Megatron(TokenFormat):
    """``SOURCE.bin`` holds the token ids of all windows, ``SOURCE.idx`` where each begins; a window is one document.

    Samples are cut at a stride of ``--seq-length``, so that windows of one token more would drift: ``extra_token`` is
    refused. Layout: ``megatron/core/datasets/indexed_dataset.py`` of Megatron-LM, version 1 of the index.
    """

    takes_extra_token: ClassVar[bool] = False

    @contextmanager
    def writer(self, folder: Path, stem: str, vocab_size: int) -> Iterator[AddRow]:
        """The token ids as they come, the index when they are all there."""
        kind, code = (np.uint16, 8) if vocab_size < LARGEST_UINT16 else (np.int32, 4)
        lengths: list[int] = []
        with durable(folder / f"{stem}.bin") as file:

            def add(row: Row) -> None:
                file.write(to_bytes(row["input_ids"], kind))
                lengths.append(len(row["input_ids"]))

            yield add
        sizes = np.array(lengths, "<i4")
        places = np.concatenate([[0], np.cumsum(sizes[:-1], dtype="<i8")]) * np.dtype(kind).itemsize
        documents = np.arange(len(sizes) + 1, dtype="<i8")
        with durable(folder / f"{stem}.idx") as file:
            file.write(b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, code, len(sizes), len(documents)))
            for part in (sizes, places[: len(sizes)].astype("<i8"), documents):
                file.write(part.tobytes())

    def usage(self, name: str, stems: Mapping[str, str], tokens: Mapping[str, int]) -> str:
        """The line that mixes the sources by the tokens that each has."""
        total = max(1, sum(tokens.values()))
        parts = " ".join(f"{tokens[source] / total:.6f} {name}/data/{stem}" for source, stem in stems.items())
        return (
            f"```\n--data-path {parts}\n```\n\n"
            "A window is one document. Samples begin where windows do as long as every window has `--seq-length` "
            "tokens; the label of a window's last token is then the first one of the next window, one in a window."
        )
