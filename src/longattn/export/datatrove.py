"""Windows as datatrove's tokenized files, which nanotron reads: a folder with a ``.ds`` file for each source."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from longattn.export.base import AddRow, Row, TokenFormat, to_bytes, token_type
from longattn.tables import durable, write_text


@dataclass(frozen=True)
class Datatrove(TokenFormat):
    """``SOURCE/00000_windows.ds``: token ids; ``.ds.index``: where each window ends; ``.ds.metadata``: their size.

    Layout: ``TokenizedFile`` in ``datatrove/pipeline/tokens/tokenizer.py``.
    """

    @contextmanager
    def writer(self, folder: Path, stem: str, vocab_size: int) -> Iterator[AddRow]:
        """The token ids as they come, index and metadata when they are all there."""
        kind = token_type(vocab_size)
        ends: list[int] = []
        path = folder / stem / "00000_windows.ds"
        with durable(path) as file:

            def add(row: Row) -> None:
                file.write(to_bytes(row["input_ids"], kind))
                ends.append(len(row["input_ids"]) + (ends[-1] if ends else 0))

            yield add
        with durable(path.with_suffix(".ds.index")) as file:
            file.write(np.array(ends, "<u8").tobytes())
        count = ends[-1] if ends else 0
        write_text(path.with_suffix(".ds.metadata"), f"longattn|{np.dtype(kind).itemsize}\n{count}\n{count:,} tokens\n")

    def usage(self, name: str, stems: Mapping[str, str], tokens: Mapping[str, int]) -> str:
        """What a reader has to know of ``seq_len``."""
        folders = "\n".join(f'    "{name}/data/{stem}",  # {tokens[source]:,} tokens' for source, stem in stems.items())
        return (
            "```python\nfrom datatrove.utils.dataset import DatatroveFolderDataset\n\n"
            f"folders = [\n{folders}\n]\n"
            "windows = [DatatroveFolderDataset(folder, seq_len=WINDOW_TOKENS - 1) for folder in folders]\n```\n\n"
            "Its items have `seq_len + 1` tokens. Give one less than the tokens of a window, and each item is a window "
            "(to train on L tokens with their labels, export with `--write.extra-token` and give L)."
        )
