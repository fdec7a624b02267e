"""Why a record cannot be read: the words, and how a reject is worded."""

from longattn.logs import printable
from longattn.records import Reject

REASONS: dict[str, str] = {
    "bad_id": "The id is neither a string nor a 64-bit integer, or is longer than 1,000 characters.",
    "bad_json": "The line is not JSON: cut off, not escaped, a lone surrogate, NaN, or nested too deeply.",
    "bad_messages": "The messages, or a field that holds one, are missing or of another form than asked for.",
    "bad_source": "The source field is missing or no string, or the records to join have several sources.",
    "crashed": "The process that cut or measured the document died, again and again; see quarantine/.",
    "duplicate_id": "Another document has the same id.",
    "empty": "The text has no character other than white space.",
    "expands_too_much": "The file grows to more bytes, or has more rows, than max_expansion for each of its own.",
    "failed": "Cutting or measuring the document raised an error each time; see quarantine/.",
    "invalid_utf8": "The text is not valid UTF-8.",
    "join_key_missing": "The field to join by is missing, or neither a string nor an integer.",
    "join_key_not_adjacent": "Another key stands between this record and others of its key; sort the file.",
    "missing_text": "The record has no text field, or its value is null.",
    "not_as_listed": "The file's SHA-256 is not the one in corpus.manifest.",
    "not_an_object": "The line is JSON but not an object.",
    "text_not_string": "The text field holds something other than a string.",
    "too_deep": "Lists and objects of the record are nested more deeply than corpus.max_depth.",
    "too_large": "The record, or the document joined from several, has more than corpus.max_doc_bytes bytes.",
    "too_long": "The sample has more tokens than window.length.",
    "too_slow": "The document took longer to tokenise than corpus.max_doc_seconds.",
    "truncated": "The compressed file ends too early; what follows this position is lost.",
    "unreadable": "The file or its rest cannot be read: damaged, or changed since listed.",
    "untokenizable": "The tokenizer failed on the text.",
}
"""Each word that a :class:`~longattn.records.Reject` may give as its reason, with a sentence for people."""

_MAX_DETAIL = 200
_MAX_SAMPLE = 80


def reject(file: str, position: int, line: int | None, reason: str, detail: str) -> Reject:
    """A reject with one of the known reasons and a detail that is safe to print."""
    assert reason in REASONS, reason
    return Reject(file, position, line, reason, printable(detail)[:_MAX_DETAIL])


def sample(text: str) -> str:
    """The beginning of a corpus text, short enough for a log."""
    return repr(printable(text[:_MAX_SAMPLE]))[: _MAX_SAMPLE + 2]
