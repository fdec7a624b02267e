"""From a selection to a folder of files for a trainer."""

import hashlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from longattn.errors import RunError
from longattn.export.base import Format, Row
from longattn.export.card import dataset_card
from longattn.export.carrying import carried_name, carried_schema, to_json
from longattn.export.jsonl import JsonLines, ZstdJsonLines
from longattn.export.parquet import Parquet
from longattn.export.rereading import Passage, Rereader, read_selection
from longattn.export.retokenizing import Retokenized, retokenize
from longattn.export.staging import replacing
from longattn.export.summary import FILE_NAME, ExportedFile, ExportSummary
from longattn.records import WorkUnit
from longattn.settings import Corpus, Exporting
from longattn.tables import RunFolder, Table, durable, write_json, write_text
from longattn.tokens import Tokenizer

FORMATS: dict[str, Format] = {"parquet": Parquet(), "jsonl": JsonLines(), "jsonl.zst": ZstdJsonLines()}
"""Trainer formats by the name that ``Exporting.format`` takes."""

COLUMNS = pa.schema(
    [
        ("window_id", pa.string()),
        ("doc_id", pa.string()),
        ("source", pa.string()),
        ("text", pa.string()),
        ("tokens", pa.list_(pa.uint32())),
        ("num_tokens", pa.int32()),
        ("num_tokens_trainee", pa.int32()),
        ("start", pa.int64()),
        ("char_start", pa.int64()),
        ("char_end", pa.int64()),
        ("file", pa.string()),
        ("position", pa.int64()),
        ("doc_tokens", pa.int64()),
        ("ds", pa.float64()),
        ("du", pa.float64()),
        ("score", pa.float64()),
        ("rank", pa.int64()),
        ("parts", pa.list_(pa.struct([("id", pa.string()), ("char_start", pa.int64())]))),
    ]
)
"""Every column of ours that an export can have."""

Progress = Callable[[int, int], None]
"""Told the windows written so far, and all that there are."""


def export(
    run: RunFolder,
    units: Sequence[WorkUnit],
    windows: Table,
    selection: Path,
    corpus: Corpus,
    tokenizer: Tokenizer | None,
    rule: Exporting,
    output: Path,
    retokenizer: Tokenizer | None = None,
    progress: Progress = lambda done, total: None,
) -> ExportSummary:
    """Write the kept windows of ``selection`` as trainer files with a dataset card; replaces ``output``.

    Only units with kept windows are read again. Text and token ids are slices of the document's own: ids are
    never decoded and encoded again. ``tokenizer``, the one that cut the windows, is needed for token ids, and
    ``retokenizer`` where ``rule.retokenize`` names one; ``tokens`` are then the trainee's. Raises
    :class:`RunError` when the input is no longer what was measured; the old export then stays.
    """
    _check(windows, tokenizer, rule, retokenizer)
    reader = Rereader(units, windows, read_selection(selection), corpus, rule.carry)
    own_tokenizer = tokenizer if rule.content != "text" and retokenizer is None else None
    names = _column_names(rule)
    tally = _Tally(names, retokenizer, len(reader.chosen.scores), progress)
    format = FORMATS[rule.format]
    with run.lock("export"), replacing(output, marker=FILE_NAME) as folder:
        schema = _schema(names, reader, format)
        rows = map(tally.row, reader.passages(own_tokenizer))
        files = _write_files(folder, format, schema, rows, rule)
        summary = tally.summary(rule, files)
        write_text(folder / "README.md", dataset_card(summary, rule, run.manifest()))
        write_json(folder / FILE_NAME, summary)
    return summary


def _check(windows: Table, tokenizer: Tokenizer | None, rule: Exporting, retokenizer: Tokenizer | None) -> None:
    if rule.format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {rule.format!r}")
    for name in ("file_bytes", "row_group_bytes"):
        if getattr(rule, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(rule, name)}")
    if rule.retokenize is not None and retokenizer is None:
        raise ValueError(f"retokenize={rule.retokenize!r} needs that tokenizer, got no retokenizer")
    if rule.content != "text" and tokenizer is None and retokenizer is None:
        raise ValueError(f"content={rule.content!r} needs the tokenizer that cut the windows, got None")
    if tokenizer is not None and tokenizer.hash != (cut_by := windows.settings["tokenizer"]):
        raise RunError(f"the windows were cut by the tokenizer {cut_by}, this one is {tokenizer.hash}; give the other")


def _column_names(rule: Exporting) -> list[str]:
    """Our columns that this export has."""
    unwanted = {"text": {"tokens"}, "tokens": {"text"}}.get(rule.content, set())
    if rule.retokenize is None:
        unwanted |= {"num_tokens_trainee"}
    return [name for name in COLUMNS.names if name not in unwanted]


def _schema(names: Sequence[str], reader: Rereader, format: Format) -> pa.Schema:
    """These columns and, for a typed format, the carried fields, whose types take a reading of the input."""
    columns = [COLUMNS.field(name) for name in names]
    if format.typed and reader.fields:
        columns += carried_schema(_carried(document.fields) for document, _ in reader.documents())
    return pa.schema(columns)


def _carried(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {carried_name(name, COLUMNS.names): value for name, value in fields.items()}


class _Tally:
    """Makes the rows, and counts what goes through."""

    def __init__(self, names: Sequence[str], retokenizer: Tokenizer | None, total: int, progress: Progress) -> None:
        self._names, self._retokenizer, self._total, self._progress = names, retokenizer, total, progress
        self._windows: Counter[str] = Counter()
        self._tokens: Counter[str] = Counter()
        self._characters = 0
        self._retokenized = Retokenized(retokenizer.hash) if retokenizer else None

    def row(self, passage: Passage) -> Row:
        """The passage's columns, then its carried fields."""
        window, tokens, num_tokens_trainee = passage.window, passage.tokens, None
        if self._retokenizer is not None and self._retokenized is not None:
            tokens, num_tokens_trainee = retokenize(passage.text, window.num_tokens, self._retokenizer)
            self._retokenized = self._retokenized.adding(window.num_tokens, num_tokens_trainee)
        self._windows[window.source] += 1
        self._tokens[window.source] += window.num_tokens
        self._characters += len(passage.text)
        self._progress(self._windows.total(), self._total)
        known = {
            **asdict(window),
            "text": passage.text,
            "tokens": tokens,
            "num_tokens_trainee": num_tokens_trainee,
            "parts": [asdict(part) for part in passage.parts],
        }
        return {**{name: known[name] for name in self._names}, **_carried(passage.fields)}

    def summary(self, rule: Exporting, files: Sequence[ExportedFile]) -> ExportSummary:
        """What was counted."""
        return ExportSummary(
            format=rule.format,
            content=rule.content,
            num_windows=self._windows.total(),
            num_tokens=self._tokens.total(),
            num_characters=self._characters,
            windows=dict(sorted(self._windows.items())),
            tokens=dict(sorted(self._tokens.items())),
            files=tuple(files),
            retokenized=self._retokenized,
        )


@dataclass(frozen=True, slots=True)
class _Batch:
    rows: list[Row]
    offset: int
    """Bytes of content before this batch."""


def _write_files(
    folder: Path, format: Format, schema: pa.Schema, rows: Iterable[Row], rule: Exporting
) -> list[ExportedFile]:
    """Write ``data/part-00000`` and so on, each with about ``rule.file_bytes`` of content."""
    files = []
    batches = _batches(rows, rule.row_group_bytes)
    by_file = itertools.groupby(batches, key=lambda batch: batch.offset // rule.file_bytes)
    for number, (_, group) in enumerate(by_file):
        path = folder / "data" / f"part-{number:05d}{format.suffix}"
        with durable(path) as file:
            format.write(file, schema, (batch.rows for batch in group))
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        files.append(ExportedFile(f"data/{path.name}", path.stat().st_size, digest))
    return files


def _batches(rows: Iterable[Row], limit: int) -> Iterator[_Batch]:
    """Rows of about ``limit`` bytes together; an empty one if there are none, so that a file has columns."""
    batch: list[Row] = []
    offset = size = 0
    for row in rows:
        batch.append(row)
        size += sum(map(_num_bytes, row.values()))
        if size >= limit:
            yield _Batch(batch, offset)
            batch, offset, size = [], offset + size, 0
    if batch or offset == 0:
        yield _Batch(batch, offset)


def _num_bytes(value: Any) -> int:
    """About what a value takes in a file before compression."""
    if isinstance(value, str):
        return len(value) if value.isascii() else len(value.encode())
    if isinstance(value, np.ndarray):
        return value.nbytes
    return len(to_json(value)) if isinstance(value, (list, dict)) else 8
