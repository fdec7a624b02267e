"""The records that pass between stages: plain frozen data, no behaviour beyond names derived from their own fields."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Slice:
    """A part of one input file, in the unit that its format is split by."""

    file: str
    """Path or URI as listed; also the file's name in ids, tables and messages."""
    size: int
    """Bytes of the whole file when it was listed (compressed size for a compressed file)."""
    modified: str
    """Modification time when it was listed, ISO 8601 with nanoseconds, empty where the file system has none."""
    source: str | None = None
    """Source given with the input (``books=path``); None leaves it to the corpus settings."""
    root: str = ""
    """The input that the file was found under; folders of a source or a join key are named relative to it."""
    start: int = 0
    """First byte (JSON lines: a record belongs to the slice in which its line starts) or first row group (Parquet)."""
    stop: int | None = None
    """One past the last byte or row group; None means the end of the file."""
    covers: int | None = field(default=None, compare=False)
    """About how many of the file's bytes the slice holds, for estimates; None means all of them."""
    sha256: str | None = None
    """Of the whole file, from the input manifest; None where none was given."""


@dataclass(frozen=True, slots=True)
class WorkUnit:
    """What is read, cut and measured as one piece: one unit in, one file per table out."""

    slices: tuple[Slice, ...]

    @property
    def id(self) -> str:
        """Content-addressed name: changes when a file, its size, its times, its hash or the split changes."""
        facts = [
            # a unit without hashes keeps the name it has always had
            [s.file, s.size, s.modified, s.source, s.root, s.start, s.stop, *([s.sha256] if s.sha256 else [])]
            for s in self.slices
        ]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]

    @property
    def num_bytes(self) -> int:
        """About how many bytes on disk the unit covers."""
        return sum(part.size if part.covers is None else part.covers for part in self.slices)


@dataclass(frozen=True, slots=True)
class Part:
    """Where one of several joined records begins in the document made of them."""

    id: str
    char_start: int


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a sample: who speaks, and from where to where."""

    role: str
    """As read: ``user``, ``assistant``, ``system``, ``tool``, ..."""
    start: int
    """First character in a document's text, first token in a window."""
    stop: int


@dataclass(frozen=True, slots=True)
class Document:
    """One text to cut, or one sample of messages to keep whole, with where it came from."""

    id: str
    """The id field of the record, or ``file:position`` (a text file: its name)."""
    source: str
    """The category it competes in: windows are standardised and selected per source."""
    text: str
    file: str
    position: int
    """Byte offset of the line (JSON lines, uncompressed), row number (Parquet), 0 (a text file)."""
    line: int | None = None
    """1-based line number counted from the start of the slice; None where the format has no lines."""
    parts: tuple[Part, ...] = ()
    """Boundaries of joined records, empty for a document that was not joined."""
    turns: tuple[Turn, ...] = ()
    """Messages of a sample, in characters; empty for a text, which is cut into windows."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """The record's other fields, as read."""


@dataclass(frozen=True, slots=True)
class Reject:
    """One input record, or the rest of one file, that could not be read, and why."""

    file: str
    position: int
    line: int | None
    reason: str
    """One word of ``longattn.corpus.REASONS``."""
    detail: str


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """A slice of a document's own tokens: what is scored is exactly what is exported."""

    doc_id: str
    source: str
    start: int
    """Index of the first token within the document."""
    tokens: npt.NDArray[np.uint32]
    """Token ids, shape [T]."""
    char_start: int
    char_end: int
    """Span in the document's text, in characters; a character split between two tokens belongs to both."""
    doc_tokens: int
    """Tokens of the whole document."""
    overlap: int = 0
    """Tokens shared with the window before it in the same document."""
    file: str = ""
    position: int = 0
    turns: tuple[Turn, ...] = ()
    """Messages of a sample, in tokens; a token that reaches beyond a message is in none."""

    @property
    def id(self) -> str:
        """Depends on the document and the position alone, never on the run."""
        return f"{self.doc_id}@{self.start}"


@dataclass(frozen=True, slots=True)
class Quote:
    """Some tokens of a window with the text around them on their line."""

    first: int
    """First token within the window."""
    stop: int
    """One past the last."""
    before: str
    text: str
    after: str


@dataclass(frozen=True, slots=True)
class Dependency:
    """Words of a window that attend to earlier ones far back."""

    query: Quote
    key: Quote
    distance: int
    """Tokens from the key back to the query, at the pair of tokens that is strongest."""
    weight: float
    """Share of the query token's attention that the key token gets, at that pair."""
    times: int
    """Pairs with the same words that this one stands for."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Inspection:
    """One window looked at closely: attention p averaged over chosen heads, far where it reaches ``distance`` back."""

    window_id: str
    doc_id: str
    source: str
    start: int
    """Index of the window's first token within the document."""
    doc_tokens: int
    model: str
    layers: tuple[int, ...]
    distance: int
    skip_first: int
    """First keys that are not counted as far."""
    pieces: tuple[str, ...]
    """The text of each token, [T]; joined they are the window's text."""
    readings: Mapping[str, float]
    """``ds``, ``du`` and ``ds@k`` as LongAttn reads them."""
    null: Mapping[str, float]
    """The same under uniform attention."""
    far: npt.NDArray[np.float64]
    """Far attention of each token, [T]; its mean is DS."""
    far_null: npt.NDArray[np.float64]
    """The same under uniform attention, [T]."""
    received: npt.NDArray[np.float64]
    """Far attention that each token gets, summed over the others, [T]."""
    received_null: npt.NDArray[np.float64]
    """The same under uniform attention, [T]."""
    edges: npt.NDArray[np.int64]
    """Borders of the blocks of tokens that the map is pooled over, [M + 1]."""
    pooled: npt.NDArray[np.float64]
    """Far attention of the tokens of each block (first axis) on those of each block (second), summed, [M, M]."""
    pooled_null: npt.NDArray[np.float64]
    """The same under uniform attention, [M, M]."""
    reach: tuple[int, ...]
    """Distances that attention is summed between: from ``reach[i]`` up to ``reach[i + 1]``; the last is T."""
    by_reach: npt.NDArray[np.float64]
    """Share of all attention at each of these distances, [len(reach) - 1]."""
    by_reach_null: npt.NDArray[np.float64]
    heads: tuple[tuple[int, int], ...]
    """All heads of the layers, as (layer, head)."""
    chosen: tuple[bool, ...]
    """Which of them are averaged."""
    head_ds: npt.NDArray[np.float64]
    """DS of each head."""
    keys: npt.NDArray[np.int64]
    """Far keys that get most of each token, strongest first, [T, C]; -1 where there are no more."""
    weights: npt.NDArray[np.float32]
    """What they get, [T, C]."""
    noise: npt.NDArray[np.bool_]
    """Keys that are left out of ``keys``, [T]: attention sinks, blanks and punctuation."""
    dependencies: tuple[Dependency, ...]
    """Strongest first."""
    facts: Mapping[str, str | int | float | None] = field(default_factory=dict)
    """What else is known of the window: its score, rank and what became of it."""
