"""Join neighbouring records of one key into one document: a repository's files, a book's parts."""

from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Any

from longattn.corpus.documents import Keyed, utf8_bytes
from longattn.corpus.reasons import reject, sample
from longattn.records import Document, Part, Reject
from longattn.settings import Corpus


def join(records: Iterable[Keyed | Reject], corpus: Corpus) -> Iterator[Document | Reject]:
    """One document per run of neighbours with the same key; every record becomes a part of one, or a reject.

    A rejected record does not end a run. Held in memory are one joined document and the keys seen so far.
    """
    run = _Run(corpus)
    ended: set[str] = set()
    for record in records:
        if isinstance(record, Reject):
            yield record
            continue
        if record.key in ended:
            yield _refuse(record, "join_key_not_adjacent", "was seen before another key; sort the file by the key")
            continue
        if record.key != run.key:
            if run.key is not None:
                ended.add(run.key)
            yield from run.end()
            run = _Run(corpus, record.key, record.document.source)
        yield from run.add(record)
    yield from run.end()


class _Run:
    """Neighbours of one key, as far as they have been read."""

    def __init__(self, corpus: Corpus, key: str | None = None, source: str = "") -> None:
        self.key = key
        self._corpus, self._source = corpus, source
        self._parts: list[Keyed] = []
        self._num_bytes = 0

    def add(self, record: Keyed) -> Iterator[Reject]:
        """Take one more part, or refuse it; a run that grows too large is refused as a whole."""
        source, max_bytes = record.document.source, self._corpus.max_doc_bytes
        if source != self._source:
            yield _refuse(record, "bad_source", f"began in another source, {sample(self._source)}")
            return
        self._num_bytes += utf8_bytes(record.document.text)
        self._parts.append(record)
        if self._num_bytes > max_bytes:
            refused, self._parts = self._parts, []
            for part in refused:
                yield _refuse(part, "too_large", f"joins more bytes than max_doc_bytes {max_bytes}")

    def end(self) -> Iterator[Document]:
        """The joined document, unless nothing is left to join."""
        if self._parts:
            yield self._joined()

    def _joined(self) -> Document:
        assert self.key is not None
        parts = [part.document for part in sorted(self._parts, key=lambda part: _rank(part.order))]
        self._parts.clear()
        first, starts = parts[0], [0]
        for part in parts[:-1]:
            starts.append(starts[-1] + len(part.text) + len(self._corpus.join_separator))
        return Document(
            id=self.key,
            source=first.source,
            text=self._corpus.join_separator.join(part.text for part in parts),
            file=first.file,
            position=first.position,
            line=first.line,
            parts=tuple(Part(part.id, start) for part, start in zip(parts, starts, strict=True)),
            fields={
                name: value
                for name, value in first.fields.items()
                if all(name in part.fields and part.fields[name] == value for part in parts)
            },
        )


def _rank(order: Any) -> tuple[int, Any]:
    """Numbers by value, then all else by its text, then what has no order; ties stay as they were."""
    if order is None or order != order:
        return 2, 0
    return (0, order) if isinstance(order, int | float | Decimal) else (1, str(order))


def _refuse(record: Keyed, reason: str, what: str) -> Reject:
    document = record.document
    detail = f"the key {sample(record.key)} {what}"
    return reject(document.file, document.position, document.line, reason, detail)
