"""Read kept windows again: from the selection back to the texts and the documents' own token ids."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from longattn import corpus
from longattn.errors import RunError
from longattn.records import Document, Part, Reject, WorkUnit
from longattn.settings import Corpus
from longattn.tables import Table, damage_told
from longattn.tokens import Tokenized, Tokenizer

SCORES = ("ds", "du", "score", "rank")
"""Columns that come from the selection."""
PLACE = (
    "doc_id",
    "source",
    "file",
    "position",
    "start",
    "num_tokens",
    "char_start",
    "char_end",
    "doc_tokens",
)
"""Columns that come from the windows table."""

REMEDY = "restore the file, or measure and select again"

Reading = tuple[str, int, str]
"""File, position and source: where a document was read, should its id occur more than once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A row of the selection with what the windows table knows of its place."""

    window_id: str
    doc_id: str
    source: str
    file: str
    position: int
    start: int
    num_tokens: int
    char_start: int
    char_end: int
    doc_tokens: int
    ds: float | None
    du: float | None
    score: float | None
    rank: int | None


@dataclass(frozen=True)
class Chosen:
    """What a selection says of the windows to keep."""

    scores: dict[str, tuple[Any, ...]]
    """Values of ``SCORES`` by window id."""
    repeated: frozenset[str]
    """Those of them that a second document of the same id has too, which was dropped as a duplicate."""


def read_selection(path: Path) -> Chosen:
    """The kept windows of a ``selection.parquet``. Raises :class:`RunError` for one that is not there or damaged."""
    if not path.exists():
        raise RunError(f"{path} is not there; select before exporting")
    scores: dict[str, tuple[Any, ...]] = {}
    duplicates: set[str] = set()
    with damage_told(path), pq.ParquetFile(path, page_checksum_verification=True) as file:
        for batch in file.iter_batches(columns=["window_id", "kept", "reason", *SCORES]):
            kept = batch.filter(batch["kept"])
            values = zip(*(kept[name].to_pylist() for name in SCORES), strict=True)
            scores.update(zip(kept["window_id"].to_pylist(), values, strict=True))
            duplicate = batch.filter(pc.field("reason") == "duplicate_id")
            duplicates.update(duplicate["window_id"].to_pylist())
    return Chosen(scores, frozenset(duplicates & scores.keys()))


@dataclass(frozen=True)
class Rereader:
    """The kept windows of a run with their documents: in plan order, then in the order of the input."""

    units: Sequence[WorkUnit]
    windows: Table
    chosen: Chosen
    corpus: Corpus
    fields: Sequence[str] = ()
    """Input fields to carry along; ``*`` for all."""

    def documents(self) -> Iterator[tuple[Document, list[Kept]]]:
        """Every document that has kept windows, once.

        Raises :class:`RunError` for one that is no longer there, and for kept windows that no unit has.
        """
        found = 0
        first = self._first_readings() if self.chosen.repeated else {}
        for unit in self.units:
            wanted: dict[tuple[str, int], list[Kept]] = {}
            for window in self._kept_in(unit):
                reading = (window.file, window.position, window.source)
                if first.get(window.window_id, reading) == reading:
                    wanted.setdefault((window.file, window.position), []).append(window)
                    found += 1
            if wanted:
                yield from self._documents_of(unit, wanted)
        if found != len(self.chosen.scores):
            raise RunError(
                f"the selection keeps {len(self.chosen.scores)} windows, but the measured units hold {found} "
                "of them; select again"
            )

    def passages(self, tokenizer: Tokenizer | None, end_token: int | None = None) -> Iterator["Passage"]:
        """The content of every kept window; with the tokenizer that cut it, its token ids as well.

        With ``end_token`` each window has one token more, the next of its document, or ``end_token`` at its end.
        """
        for document, windows in self.documents():
            yield from _passages(document, windows, tokenizer, end_token)
            del document

    def _first_readings(self) -> dict[str, Reading]:
        """Which of several documents of the same id was kept: the first by file and position."""
        first: dict[str, Reading] = {}
        for unit in self.units:
            for window in self._kept_in(unit):
                if (id := window.window_id) in self.chosen.repeated:
                    reading = (window.file, window.position, window.source)
                    first[id] = min(reading, first.get(id, reading))
        return first

    def _kept_in(self, unit: WorkUnit) -> Iterator[Kept]:
        """The unit's kept windows; none for a unit that is not measured yet."""
        scores = self.chosen.scores
        if self.windows.receipt(unit.id) is None:
            return
        for rows in self.windows.read([unit.id], ["window_id", *PLACE]):
            kept = pa.array([id in scores for id in rows["window_id"].to_pylist()], pa.bool_())
            for row in rows.filter(kept).to_pylist():
                yield Kept(**row, **dict(zip(SCORES, scores[row["window_id"]], strict=True)))

    def _documents_of(
        self, unit: WorkUnit, wanted: dict[tuple[str, int], list[Kept]]
    ) -> Iterator[tuple[Document, list[Kept]]]:
        """The unit's documents with kept windows; ``wanted`` are these by file and position."""
        problems: dict[str, str] = {}
        for record in corpus.read_unit(unit, self.corpus, self.fields):
            if isinstance(record, Reject):
                problems[record.file] = record.detail
            elif windows := wanted.pop((record.file, record.position), None):
                yield _checked(record, windows), sorted(windows, key=lambda window: window.start)
            if not wanted:
                return
            # a document may take most of the memory, so this one has to be gone when the next is read
            del record
        (file, position), windows = next(iter(wanted.items()))
        raise RunError(
            f"{file}: the document {windows[0].doc_id!r} at {position} cannot be read again "
            f"({problems.get(file, 'no document begins there')}); {REMEDY}"
        )


def read_texts(units: Sequence[WorkUnit], windows: Table, window_ids: Iterable[str], corpus: Corpus) -> dict[str, str]:
    """The texts of some windows by id, read again from the input; kept or not.

    Raises :class:`RunError` for a window that cannot be read again.
    """
    chosen = dict.fromkeys(window_ids, (None,) * len(SCORES))
    reader = Rereader(units, windows, Chosen(chosen, frozenset(chosen)), corpus)
    return {
        window.window_id: document.text[window.char_start : window.char_end]
        for document, found in reader.documents()
        for window in found
    }


def read_tokenized(
    units: Sequence[WorkUnit], windows: Table, window_ids: Iterable[str], corpus: Corpus, tokenizer: Tokenizer
) -> Iterator[tuple[Document, Tokenized, Kept]]:
    """Some windows by id, kept or not, each with its document and all of that document's tokens, read again.

    Raises :class:`RunError` for an id that no measured window has, and for a window that cannot be read again.
    """
    chosen = dict.fromkeys(window_ids, (None,) * len(SCORES))
    reader = Rereader(units, windows, Chosen(chosen, frozenset(chosen)), corpus)
    known = {window.window_id for unit in units for window in reader._kept_in(unit)}
    if missing := [id for id in chosen if id not in known]:
        raise RunError(f"{windows.run.root} has no window {missing[0]!r}; selection.parquet and the report name them")
    for document, found in reader.documents():
        tokenized = tokenizer.encode(document.text)
        for window in found:
            _check_tokens(tokenized, window)
            yield document, tokenized, window


def _checked(document: Document, windows: Sequence[Kept]) -> Document:
    """The document, if it can be the one that was measured."""
    needed = max(window.char_end for window in windows)
    if document.id != windows[0].doc_id or len(document.text) < needed:
        raise RunError(
            f"{document.file}: the document at {document.position} is no longer the one that was measured "
            f"(id {document.id!r} with {len(document.text)} characters, was {windows[0].doc_id!r} with "
            f"{needed} or more); {REMEDY}"
        )
    return document


@dataclass(frozen=True, slots=True, eq=False)
class Passage:
    """A kept window's content."""

    window: Kept
    text: str
    tokens: npt.NDArray[np.uint32] | None = None
    """The document's own ids; None when no tokenizer was given."""
    parts: tuple[Part, ...] = ()
    """Records joined into the document that reach into the window; ``char_start`` counts from its start."""
    part_tokens: tuple[int, ...] = ()
    """The token of the window at which each of them begins, where there are tokens."""
    fields: dict[str, Any] = field(default_factory=dict)


def _passages(
    document: Document, windows: Sequence[Kept], tokenizer: Tokenizer | None, end_token: int | None
) -> Iterator[Passage]:
    """The windows' texts and, with a tokenizer, token ids, cut from one document.

    Raises :class:`RunError` where the tokens are not those that were measured.
    """
    tokenized = tokenizer.encode(document.text) if tokenizer else None
    for window in windows:
        tokens, begins = None, ()
        parts = parts_within(document.parts, window.char_start, window.char_end)
        if tokenized is not None:
            _check_tokens(tokenized, window)
            # a copy, since a view would keep the ids of the whole document
            tokens = tokenized.ids[window.start : window.start + window.num_tokens + (end_token is not None)].copy()
            if end_token is not None and len(tokens) == window.num_tokens:
                tokens = np.append(tokens, np.uint32(end_token))
            begins = tokens_at(tokenized.char_starts[window.start :] - window.char_start, parts)
        text = document.text[window.char_start : window.char_end]
        yield Passage(window, text, tokens, parts, begins, dict(document.fields))


def tokens_at(char_starts: npt.NDArray[Any], parts: Sequence[Part]) -> tuple[int, ...]:
    """The first token of each part, by the character at which each token of the window begins.

    >>> tokens_at(np.array([0, 4, 9, 12]), [Part("a", 0), Part("b", 9), Part("c", 10)])
    (0, 2, 3)
    """
    return tuple(np.searchsorted(char_starts, [part.char_start for part in parts]).tolist())


def _check_tokens(tokenized: Tokenized, window: Kept) -> None:
    """Raise :class:`RunError` unless the document has as many tokens as were measured, the window's ends in place."""
    same = (
        len(tokenized.ids) == window.doc_tokens
        and int(tokenized.char_starts[window.start]) == window.char_start
        and tokenized.char_end(window.start + window.num_tokens - 1) == window.char_end
    )
    if not same:
        raise RunError(
            f"{window.file}: the document {window.doc_id!r} has {len(tokenized.ids)} tokens, where "
            f"{window.doc_tokens} were measured, or other ones; {REMEDY}"
        )


def parts_within(parts: Sequence[Part], start: int, end: int) -> tuple[Part, ...]:
    """The parts of a joined document that reach into the characters [start, end), counted from ``start``.

    >>> parts_within([Part("a", 0), Part("b", 10), Part("c", 90)], 5, 50)
    (Part(id='a', char_start=0), Part(id='b', char_start=5))
    """
    ends = [part.char_start for part in parts[1:]] + [end]
    return tuple(
        Part(part.id, max(0, part.char_start - start))
        for part, part_end in zip(parts, ends, strict=False)
        if part.char_start < end and part_end > start
    )
