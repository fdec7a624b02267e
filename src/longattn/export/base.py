"""What a trainer's format is: a way to write windows into files of a folder, and to say how they are read."""

import itertools
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from longattn.settings import Exporting
from longattn.tables import durable

Row = Mapping[str, Any]
"""An exported window: its columns in order, carried fields last, as the input held them."""

MOST_SOURCES = 200
"""Sources that a format with files of their own for each can take: they are open at the same time."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows that may be held in memory at once."""

    rows: Sequence[Row]
    offset: int
    """Bytes of content before this batch."""


@dataclass(frozen=True)
class Written:
    """What a format wrote."""

    files: Sequence[Path]
    stems: Mapping[str, str]
    """By source, what the names of its files or folders begin with; empty where files hold all sources."""


@dataclass(frozen=True)
class Format(ABC):
    """One trainer format; a new one is a subclass in a file of its own and a line in ``FORMATS``."""

    typed: ClassVar[bool] = False
    """Whether every row must have the same columns of the same types."""
    tokens_only: ClassVar[bool] = False
    """Whether it holds token ids and no text, whatever content was asked for."""
    takes_extra_token: ClassVar[bool] = True
    """Whether its trainers can use windows of one token more."""

    @abstractmethod
    def write(
        self, folder: Path, schema: pa.Schema, batches: Iterable[Batch], rule: Exporting, vocab_size: int
    ) -> Written:
        """Write all rows below ``folder``, durably.

        ``schema`` names the columns of every row; carried fields are in it only for a typed format. ``vocab_size`` is
        that of the tokenizer whose ids the rows have, 0 where they have none.
        """

    @abstractmethod
    def usage(self, name: str, stems: Mapping[str, str], tokens: Mapping[str, int]) -> str:
        """Markdown that says how a trainer reads the export ``name``; ``tokens`` are by source."""


@dataclass(frozen=True)
class RowFormat(Format):
    """A format of rows: ``data/part-00000`` and so on, each with about ``rule.file_bytes`` of content."""

    suffix: ClassVar[str]
    """What the files' names end with, dot included."""

    def write(
        self, folder: Path, schema: pa.Schema, batches: Iterable[Batch], rule: Exporting, vocab_size: int
    ) -> Written:
        """Cut the rows into files of all sources."""
        files = []
        by_file = itertools.groupby(batches, key=lambda batch: batch.offset // rule.file_bytes)
        for number, (_, group) in enumerate(by_file):
            path = folder / "data" / f"part-{number:05d}{self.suffix}"
            with durable(path) as file:
                self.write_file(file, schema, (batch.rows for batch in group))
            files.append(path)
        return Written(files, {})

    @abstractmethod
    def write_file(self, file: BinaryIO, schema: pa.Schema, batches: Iterable[Sequence[Row]]) -> None:
        """Write the rows of one file."""

    def usage(self, name: str, stems: Mapping[str, str], tokens: Mapping[str, int]) -> str:
        """Files of rows are what ``datasets`` loads."""
        code = f'from datasets import load_dataset\n\nwindows = load_dataset("{name}", split="train")'
        return f"```python\n{code}\n```"


AddRow = Callable[[Row], None]


@dataclass(frozen=True)
class TokenFormat(Format):
    """A format of token ids in which every source has files of its own, so that a trainer can mix them."""

    tokens_only: ClassVar[bool] = True

    def write(
        self, folder: Path, schema: pa.Schema, batches: Iterable[Batch], rule: Exporting, vocab_size: int
    ) -> Written:
        """Deal the rows out to their sources. Raises ``ValueError`` for more than ``MOST_SOURCES`` of them."""
        stems: dict[str, str] = {}
        writers: dict[str, AddRow] = {}
        with ExitStack() as stack:
            for row in itertools.chain.from_iterable(batch.rows for batch in batches):
                source = row["source"]
                if source not in writers:
                    if len(stems) == MOST_SOURCES:
                        raise ValueError(
                            f"format must be one of rows (parquet, jsonl, hf) for more than {MOST_SOURCES} sources"
                        )
                    stems[source] = stem(source, len(stems))
                    writers[source] = stack.enter_context(self.writer(folder / "data", stems[source], vocab_size))
                writers[source](row)
        return Written(sorted(path for path in folder.rglob("*") if path.is_file()), stems)

    @abstractmethod
    def writer(self, folder: Path, stem: str, vocab_size: int) -> AbstractContextManager[AddRow]:
        """Takes the rows of one source; its files are whole when it ends without an error."""


def stem(source: str, number: int) -> str:
    """A file name for a source, which is text from the corpus: its plain characters behind its number.

    >>> stem("books", 0), stem("../../étc", 12)
    ('000-books', '012-tc')
    """
    return "-".join(filter(None, [f"{number:03d}", re.sub(r"[^A-Za-z0-9_]+", "-", source)[:40].strip("-")]))


def token_type(vocab_size: int) -> type[np.uint16] | type[np.uint32]:
    """The smallest of the two types of token id in use that holds every id."""
    return np.uint16 if vocab_size <= 2**16 else np.uint32


def to_bytes(tokens: npt.NDArray[Any], kind: type[np.generic]) -> bytes:
    """Token ids as little-endian numbers."""
    return tokens.astype(np.dtype(kind).newbyteorder("<")).tobytes()
