"""Windows as bare token ids, for trainers that map a file into memory."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from longattn.export.base import AddRow, Row, TokenFormat, to_bytes, token_type
from longattn.tables import durable


@dataclass(frozen=True)
class Raw(TokenFormat):
    """``SOURCE.bin`` holds token ids, ``SOURCE.offsets.npy`` [N+1] (int64) the token at which each window begins."""

    @contextmanager
    def writer(self, folder: Path, stem: str, vocab_size: int) -> Iterator[AddRow]:
        """The token ids as they come, the offsets when they are all there."""
        kind = token_type(vocab_size)
        offsets = [0]
        with durable(folder / f"{stem}.bin") as file:

            def add(row: Row) -> None:
                file.write(to_bytes(row["input_ids"], kind))
                offsets.append(offsets[-1] + len(row["input_ids"]))

            yield add
        with durable(folder / f"{stem}.offsets.npy") as file:
            np.save(file, np.array(offsets, "<i8"), allow_pickle=False)

    def usage(self, name: str, stems: Mapping[str, str], tokens: Mapping[str, int]) -> str:
        """The files of each source."""
        lines = [f"{name}/data/{stem}.bin  {tokens[source]:,} tokens" for source, stem in stems.items()]
        return (
            "```\n" + "\n".join(lines) + "\n```\n\n"
            "Little-endian numbers of 2 bytes where the vocabulary has at most 65,536 tokens, else of 4 (`uint16`, "
            "`uint32`); `offsets.npy` beside each file has the token at which each window begins, and the end."
        )
