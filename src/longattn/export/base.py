"""What a trainer's file format is: a name ending, and a way to write rows into a file."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, ClassVar

import pyarrow as pa

Row = Mapping[str, Any]
"""An exported window: its columns in order, carried fields last, as the input held them."""


@dataclass(frozen=True)
class Format(ABC):
    """One trainer format; a new one is a subclass in a file of its own and a line in ``FORMATS``."""

    suffix: ClassVar[str]
    """What the files' names end with, dot included."""
    typed: ClassVar[bool]
    """Whether every row must have the same columns of the same types."""

    @abstractmethod
    def write(self, file: BinaryIO, schema: pa.Schema, batches: Iterable[Sequence[Row]]) -> None:
        """Write all rows; a batch is what may be held in memory at once.

        ``schema`` names the columns of every row; carried fields are in it only for a typed format.
        """
