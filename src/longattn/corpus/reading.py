"""Read a work unit: its records as documents and rejects, streamed."""

from collections.abc import Iterator, Sequence

from longattn.corpus import files
from longattn.corpus.documents import Interpreter, Keyed
from longattn.corpus.formats import json_records, parquet_records, text_document
from longattn.corpus.joining import join
from longattn.corpus.reasons import reject
from longattn.corpus.units import joined_folder
from longattn.errors import CorpusError
from longattn.records import Document, Reject, Slice, WorkUnit
from longattn.settings import Corpus


class UnitReader(Iterator[Document | Reject]):
    """The documents and rejects of one work unit, in the order of the input; made by :func:`read_unit`."""

    def __init__(self, unit: WorkUnit, corpus: Corpus, fields: Sequence[str] = ()) -> None:
        """Nothing is opened before the first record is asked for."""
        self.line_counts: dict[str, int] = {}
        """Lines of this unit's slice of each JSON lines file, with blank ones; known once the slice is read.

        A record's ``line`` counts from the start of its slice; its line in the file is that plus the counts
        of the units with the file's earlier slices.
        """
        self._corpus, self._fields = corpus, fields
        self._records = self._read(unit)

    def __next__(self) -> Document | Reject:
        """The next document or reject."""
        return next(self._records)

    def _read(self, unit: WorkUnit) -> Iterator[Document | Reject]:
        all_rules = [self._rules(part) for part in unit.slices]
        if self._corpus.join_by == "folder" and all(rules.kind.format == "text" for rules in all_rules):
            yield from join(map(_keyed_text, all_rules), self._corpus)
            return
        for rules in all_rules:
            yield from self._read_slice(rules)

    def _rules(self, part: Slice) -> Interpreter:
        kind = files.kind_of(part.file, self._corpus.text_suffixes)
        if kind is None:
            raise CorpusError(f"{part.file}: the settings no longer say how this file is read; plan again")
        return Interpreter(part, kind, self._corpus, self._fields)

    def _read_slice(self, rules: Interpreter) -> Iterator[Document | Reject]:
        if rules.kind.format == "text":
            yield _text(rules)
            return
        if changed := _change(rules):
            yield changed
            return
        records = json_records(rules, self.line_counts) if rules.kind.format == "jsonl" else parquet_records(rules)
        if self._corpus.join_by:
            yield from join(map(rules.keyed, records), self._corpus)
        else:
            # map, unlike a loop, keeps no document alive while the caller reads the next one
            yield from map(rules.document, records)
        # bytes that are taken away behind a reader's back look like the end of the file
        if changed := _change(rules):
            yield changed


def read_unit(unit: WorkUnit, corpus: Corpus, fields: Sequence[str] = ()) -> UnitReader:
    """The documents of a work unit, and a reject for every record that is none.

    Every record of the input is in exactly one document, or is one reject; where a file breaks off, one
    reject stands for the rest of it. ``fields`` names the input fields to carry along, ``*`` all of them.
    """
    return UnitReader(unit, corpus, fields)


def _text(rules: Interpreter) -> Document | Reject:
    # bytes that are taken away while it is read look like its end, so that it is compared afterwards
    document = text_document(rules)
    return _change(rules) or document


def _keyed_text(rules: Interpreter) -> Keyed | Reject:
    document = _text(rules)
    return document if isinstance(document, Reject) else Keyed(joined_folder(rules.part), None, document)


def _change(rules: Interpreter) -> Reject | None:
    part = rules.part
    try:
        files.check_unchanged(part)
    except OSError as error:
        files.pass_on(part.file, error)
        position = part.start if rules.kind.format == "jsonl" else 0
        return reject(part.file, position, None, files.reason_of(error), str(error))
    return None
