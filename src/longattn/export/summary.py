"""What an export holds, in numbers."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from longattn.export.retokenizing import Retokenized

FILE_NAME = "export.json"
"""Where an export holds its :class:`ExportSummary`; a folder with it is an export."""


@dataclass(frozen=True)
class ExportedFile:
    """One file of the export."""

    name: str
    num_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class ExportSummary:
    """Counts and files of one export; written beside them."""

    format: str
    content: str
    num_windows: int
    num_tokens: int
    """In the scoring model's tokenizer."""
    num_characters: int
    windows: Mapping[str, int]
    """Windows by source."""
    tokens: Mapping[str, int]
    """Tokens by source."""
    files: tuple[ExportedFile, ...]
    """What a trainer reads."""
    figures: tuple[ExportedFile, ...] = ()
    """What the dataset card shows."""
    stems: Mapping[str, str] = field(default_factory=dict)
    """By source, what the names of its files begin with, where sources have files of their own."""
    extra_token: bool = False
    """Whether each window has one token more: the next of its document, or the end token."""
    tokenizer: str | None = None
    """Content hash of the tokenizer whose ids the rows have; None where they hold text alone."""
    retokenized: Retokenized | None = None
    """What the trainee's tokenizer changed, where one was asked for."""
