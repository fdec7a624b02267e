"""From a record, as its file holds it, to a document: its text, id, source, join key and carried fields."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from longattn.corpus.files import Kind, relative_name
from longattn.corpus.reasons import reject, sample
from longattn.records import Document, Reject, Slice, Turn
from longattn.settings import Corpus

_MAX_NAME = 1000
MOST_NAMES = 12
_MISSING = object()
_BLANK_LINE = "\n\n"


@dataclass(frozen=True, slots=True)
class Record:
    """One record of a JSON lines or Parquet file."""

    position: int
    line: int | None
    values: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Keyed:
    """A document that is to be joined with its neighbours of the same key."""

    key: str
    order: Any
    document: Document


class _Refused(Exception):
    """The record cannot become a document; carries the reason's word and the detail."""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """What the settings make of the records of one file."""

    part: Slice
    kind: Kind
    corpus: Corpus
    fields: Sequence[str]
    """Names of the fields to carry along; ``*`` for all."""

    def columns(self) -> set[str] | None:
        """Fields that are looked at; None for all of them."""
        if "*" in self.fields:
            return None
        corpus = self.corpus
        roles = {*corpus.content_fields, corpus.id_field, corpus.source_field, corpus.join_by, corpus.join_order}
        return {name for name in roles if name} | set(self.fields)

    def document(self, record: Record | Reject) -> Document | Reject:
        """The record as a document; rejects pass through."""
        if isinstance(record, Reject):
            return record
        try:
            return self._document(record)
        except _Refused as refusal:
            return reject(self.part.file, record.position, record.line, *refusal.args)

    def keyed(self, record: Record | Reject) -> Keyed | Reject:
        """The record as a part of a joined document; rejects pass through."""
        if isinstance(record, Reject):
            return record
        assert self.corpus.join_by is not None
        try:
            key = _name(look_up(record.values, self.corpus.join_by), self.corpus.join_by, "join_key_missing")
            if key is None:
                raise _Refused("join_key_missing", f"the record has no {self.corpus.join_by!r}")
            order = look_up(record.values, self.corpus.join_order) if self.corpus.join_order else None
            return Keyed(key, None if order is _MISSING else order, self._document(record))
        except _Refused as refusal:
            return reject(self.part.file, record.position, record.line, *refusal.args)

    def text_file(self, text: str) -> Document | Reject:
        """A plain text file as a document; its id is its name."""
        file = self.part.file
        try:
            if self.corpus.holds_samples:
                raise _Refused("bad_messages", "a text file has no messages")
            return Document(file, self._source({}), _not_empty(text), file, position=0)
        except _Refused as refusal:
            return reject(file, 0, None, *refusal.args)

    def _document(self, record: Record) -> Document:
        values, corpus = record.values, self.corpus
        text, turns = _content(values, corpus)
        id = _name(look_up(values, corpus.id_field), corpus.id_field, "bad_id")
        return Document(
            id=id if id is not None else f"{self.part.file}:{record.position}",
            source=self._source(values),
            text=text,
            file=self.part.file,
            position=record.position,
            line=record.line,
            turns=turns,
            fields=self._carried(values),
        )

    def _source(self, values: Mapping[str, Any]) -> str:
        """The source of the input; else, where a field is named, the record's or the settings'; else the place's."""
        corpus = self.corpus
        if self.part.source is not None:
            return self.part.source
        # a text file has no fields, so that the next rule decides
        if corpus.source_field and self.kind.format != "text":
            name = _name(look_up(values, corpus.source_field), corpus.source_field, "bad_source") or corpus.source
            if name is None:
                detail = f"the record has no {corpus.source_field!r}{_there_are(values)}"
                raise _Refused("bad_source", f"{detail}; set source to give such records one")
            return name
        folder, _, name = relative_name(self.part).rpartition("/")
        if corpus.source_from == "folder" and folder:
            return folder.partition("/")[0]
        if corpus.source_from == "file":
            return name[: -len(self.kind.suffix)] or name
        return corpus.source or "all"

    def _carried(self, values: dict[str, Any]) -> dict[str, Any]:
        if not self.fields:
            return {}
        corpus = self.corpus
        roles = [name for name in (*corpus.content_fields, corpus.id_field, corpus.source_field) if name]
        if "*" in self.fields:
            for name in roles:
                _remove(values, name)
            return values
        named = {name: look_up(values, name) for name in self.fields if name not in roles}
        return {name: value for name, value in named.items() if value is not _MISSING}


def look_up(values: Mapping[str, Any], name: str) -> Any:
    """The value of a field; ``a.b`` is ``b`` in the object ``a``, unless a field has that very name."""
    if name in values:
        return values[name]
    value: Any = values
    for step in name.split("."):
        if not isinstance(value, Mapping) or step not in value:
            return _MISSING
        value = value[step]
    return value


def is_deeper(value: Any, depth: int) -> bool:
    """Whether lists and objects are nested more than ``depth`` levels deep.

    >>> is_deeper({"a": [1]}, 1), is_deeper({"a": [1]}, 2)
    (True, False)
    """
    level = [value]
    for _ in range(depth):
        inner = [item for outer in level if isinstance(outer, dict | list) for item in _items(outer)]
        level = [item for item in inner if isinstance(item, dict | list)]
        if not level:
            return False
    return True


def _items(outer: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return outer.values() if isinstance(outer, dict) else outer


def _remove(values: dict[str, Any], name: str) -> None:
    if name in values:
        del values[name]
        return
    first, _, rest = name.partition(".")
    if rest and isinstance(values.get(first), dict):
        _remove(values[first], rest)


def _content(values: Mapping[str, Any], corpus: Corpus) -> tuple[str, tuple[Turn, ...]]:
    """The record's text; of a sample, its messages' contents one after another, and where each of them is."""
    if corpus.turn_fields:
        messages = [(role, _message(look_up(values, field), field)) for field, role in corpus.turn_roles]
    elif corpus.messages_field is not None:
        messages = _messages(look_up(values, corpus.messages_field), corpus.messages_field)
    else:
        return _text(look_up(values, corpus.text_field), corpus, values), ()
    turns, start = [], 0
    for role, content in messages:
        turns.append(Turn(role, start, start + len(content)))
        start += len(content) + len(corpus.join_separator)
    if corpus.instruction_last:
        turns = _instruction_apart(turns, messages)
    return _text(corpus.join_separator.join(content for _, content in messages), corpus, values), tuple(turns)


def _instruction_apart(turns: Sequence[Turn], messages: Sequence[tuple[str, str]]) -> list[Turn]:
    """The turns with the first message of the user in two, at its last blank line; the text stays as it is."""
    first = next((i for i, turn in enumerate(turns) if turn.role == "user"), None)
    above, blank, _ = messages[first][1].rpartition(_BLANK_LINE) if first is not None else ("", "", "")
    if first is None or not blank:
        return list(turns)
    role, start, stop = turns[first].role, turns[first].start, turns[first].stop
    parts = [Turn(role, start, start + len(above)), Turn(role, start + len(above) + len(blank), stop)]
    return [*turns[:first], *parts, *turns[first + 1 :]]


def _there_are(values: Mapping[str, Any]) -> str:
    """The names of a record's fields, those inside of objects too, for whom has misspelt one."""
    names = [
        inner
        for name, value in values.items()
        for inner in ([f"{name}.{key}" for key in value] if isinstance(value, Mapping) and value else [name])
    ]
    shown = ", ".join(sample(name) for name in names[:MOST_NAMES])
    return f"; there are: {shown}{', ...' if len(names) > MOST_NAMES else ''}" if names else ""


def _message(value: Any, field: str) -> str:
    """The message that a field holds."""
    if not isinstance(value, str):
        found = "missing" if value is _MISSING or value is None else f"of type {type(value).__name__}"
        raise _Refused("bad_messages", f"the field {field!r} is {found}")
    return value


def _messages(value: Any, field: str) -> list[tuple[str, str]]:
    """Role and content of each message."""
    if value is _MISSING or not isinstance(value, list) or not value:
        found = "missing" if value is _MISSING else f"no list of messages: {sample(str(value))}"
        raise _Refused("bad_messages", f"the field {field!r} is {found}")
    for number, message in enumerate(value):
        said = message if isinstance(message, Mapping) else {}
        if not isinstance(said.get("role"), str) or not isinstance(said.get("content"), str):
            raise _Refused("bad_messages", f"message {number} has no role and content: {sample(str(message))}")
    return [(message["role"], message["content"]) for message in value]


def _text(value: Any, corpus: Corpus, values: Mapping[str, Any]) -> str:
    if value is _MISSING or value is None:
        state = f"missing{_there_are(values)}" if value is _MISSING else "null"
        raise _Refused("missing_text", f"the field {corpus.text_field!r} is {state}")
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError as error:
            raise _Refused("invalid_utf8", f"the text is not UTF-8 at its byte {error.start}") from error
    if not isinstance(value, str):
        raise _Refused("text_not_string", f"the field {corpus.text_field!r} is of type {type(value).__name__}")
    if 4 * len(value) > corpus.max_doc_bytes and utf8_bytes(value) > corpus.max_doc_bytes:
        raise _Refused("too_large", f"the text has more bytes than max_doc_bytes {corpus.max_doc_bytes}")
    return _not_empty(value)


def _not_empty(text: str) -> str:
    if not text or text.isspace():
        raise _Refused("empty", f"the text has {len(text)} characters, all of them white space")
    return text


def _name(value: Any, field: str, reason: str) -> str | None:
    """An id, source or key as a string; None where the record has none."""
    if value is _MISSING or value is None or value == "":
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        hint = "; integers beyond 64 bits must be written as strings" if isinstance(value, float) else ""
        raise _Refused(reason, f"the field {field!r} is of type {type(value).__name__}: {sample(str(value))}{hint}")
    if len(value) > _MAX_NAME:
        raise _Refused(reason, f"the field {field!r} has {len(value)} characters, more than {_MAX_NAME}")
    return value


def utf8_bytes(text: str) -> int:
    """Length of the text in UTF-8."""
    return len(text) if text.isascii() else len(text.encode())
