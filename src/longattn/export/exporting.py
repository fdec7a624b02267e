"""From a selection to a folder of files for a trainer."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from longattn.errors import RunError
from longattn.export.base import Batch, Format, Row
from longattn.export.card import dataset_card
from longattn.export.carrying import carried_name, carried_schema, to_json
from longattn.export.datatrove import Datatrove
from longattn.export.huggingface import HuggingFace
from longattn.export.jsonl import JsonLines, ZstdJsonLines
from longattn.export.mds import Mds
from longattn.export.megatron import Megatron
from longattn.export.parquet import Parquet
from longattn.export.raw import Raw
from longattn.export.rereading import Passage, Rereader, read_selection, tokens_at
from longattn.export.retokenizing import Retokenized
from longattn.export.staging import replacing
from longattn.export.summary import FILE_NAME, ExportedFile, ExportSummary
from longattn.records import WorkUnit
from longattn.settings import Corpus, Exporting
from longattn.tables import RunFolder, Table, file_sha256, write_json, write_text
from longattn.tokens import Tokenizer

FORMATS: dict[str, Format] = {
    "parquet": Parquet(),
    "jsonl": JsonLines(),
    "jsonl.zst": ZstdJsonLines(),
    "hf": HuggingFace(),
    "megatron": Megatron(),
    "mds": Mds(),
    "datatrove": Datatrove(),
    "raw": Raw(),
}
"""Trainer formats by the name that ``Exporting.format`` takes."""

COLUMNS = pa.schema(
    [
        ("window_id", pa.string()),
        ("doc_id", pa.string()),
        ("source", pa.string()),
        ("text", pa.string()),
        ("input_ids", pa.list_(pa.int32())),
        ("labels", pa.list_(pa.int32())),
        ("attention_mask", pa.list_(pa.int8())),
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
    end_token: int | None = None,
    progress: Progress = lambda done, total: None,
    figures: Mapping[str, str] | None = None,
) -> ExportSummary:
    """Write the kept windows of ``selection`` as trainer files with a dataset card; replaces ``output``.

    Only units with kept windows are read again. Text and token ids are slices of the document's own: ids are
    never decoded and encoded again. ``tokenizer``, the one that cut the windows, is needed for token ids, and
    ``retokenizer`` where ``rule.retokenize`` names one; the ids are then the trainee's. ``end_token`` is needed where
    ``rule.extra_token`` asks for one token more than a window has, and stands behind a document's last. ``figures``,
    SVG by caption, are shown in the card. Raises
    :class:`RunError` when the input is no longer what was measured; the old export then stays.
    """
    _check(windows, tokenizer, rule, retokenizer, end_token)
    reader = Rereader(units, windows, read_selection(selection), corpus, rule.carry)
    own_tokenizer = tokenizer if has_tokens(rule) and retokenizer is None else None
    names = _column_names(rule)
    extra = end_token if rule.extra_token else None
    tally = _Tally(names, retokenizer, len(reader.chosen.scores), progress, extra)
    format = FORMATS[rule.format]
    used = (retokenizer or own_tokenizer) if has_tokens(rule) else None
    vocab_size = used.vocab_size if used else 0
    with run.lock("export"), replacing(output, marker=FILE_NAME) as folder:
        schema = _schema(names, reader, format)
        rows = map(tally.row, reader.passages(own_tokenizer, extra))
        written = format.write(folder, schema, batches(rows, rule.row_group_bytes), rule, vocab_size)
        pictures = _write_figures(folder, figures or {})
        summary = replace(
            tally.summary(rule, _listed(folder, written.files), written.stems, used.hash if used else None),
            figures=_listed(folder, pictures.values()),
        )
        name = rule.push_to or "path/to/this/folder"
        usage = format.usage(name, summary.stems, summary.tokens)
        shown = {caption: path.relative_to(folder).as_posix() for caption, path in pictures.items()}
        write_text(folder / "README.md", dataset_card(summary, rule, run.manifest(), usage, shown))
        write_json(folder / FILE_NAME, summary)
    return summary


def _write_figures(folder: Path, figures: Mapping[str, str]) -> dict[str, Path]:
    """The files of SVG figures, by caption; their names say nothing of what the corpus calls its sources."""
    paths = {caption: folder / "figures" / f"{number:02d}.svg" for number, caption in enumerate(figures)}
    for caption, path in paths.items():
        write_text(path, figures[caption])
    return paths


def has_tokens(rule: Exporting) -> bool:
    """Whether such an export holds token ids; some formats hold nothing else."""
    return rule.content != "text" or (rule.format in FORMATS and FORMATS[rule.format].tokens_only)


def _check(
    windows: Table,
    tokenizer: Tokenizer | None,
    rule: Exporting,
    retokenizer: Tokenizer | None,
    end_token: int | None,
) -> None:
    if rule.format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {rule.format!r}")
    for name in ("file_bytes", "row_group_bytes"):
        if getattr(rule, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(rule, name)}")
    if rule.retokenize is not None and retokenizer is None:
        raise ValueError(f"retokenize={rule.retokenize!r} needs that tokenizer, got no retokenizer")
    asked = f"content={rule.content!r}" if rule.content != "text" else f"format={rule.format!r}"
    if has_tokens(rule) and tokenizer is None and retokenizer is None:
        raise ValueError(f"{asked} needs the tokenizer that cut the windows, got None")
    for name in ("labels", "extra_token"):
        if getattr(rule, name) and not has_tokens(rule):
            raise ValueError(f"{name} is of token ids, and this export has none; ask for content='tokens' or 'both'")
    if FORMATS[rule.format].tokens_only and (rule.carry or rule.labels):
        raise ValueError(f"format={rule.format!r} holds token ids alone; carry and labels need parquet, jsonl or hf")
    if rule.extra_token and not FORMATS[rule.format].takes_extra_token:
        raise ValueError(f"format={rule.format!r} cannot be written with extra_token: its samples would drift")
    if rule.extra_token and end_token is None:
        raise ValueError("extra_token needs an end token for windows at the end of a document, and the model has none")
    if tokenizer is not None and tokenizer.hash != (cut_by := windows.settings["tokenizer"]):
        raise RunError(f"the windows were cut by the tokenizer {cut_by}, this one is {tokenizer.hash}; give the other")


def _column_names(rule: Exporting) -> list[str]:
    """Our columns that this export has."""
    unwanted = set() if rule.labels else {"labels", "attention_mask"}
    if rule.content == "tokens" or FORMATS[rule.format].tokens_only:
        unwanted |= {"text"}
    if not has_tokens(rule):
        unwanted |= {"input_ids"}
    if rule.retokenize is None:
        unwanted |= {"num_tokens_trainee"}
    names = [name for name in COLUMNS.names if name not in unwanted]
    return [*names, "part_tokens"] if FORMATS[rule.format].tokens_only else names


def _schema(names: Sequence[str], reader: Rereader, format: Format) -> pa.Schema:
    """These columns and, for a typed format, the carried fields, whose types take a reading of the input."""
    columns = [COLUMNS.field(name) for name in names if name in COLUMNS.names]
    if format.typed and reader.fields:
        columns += carried_schema(_carried(document.fields) for document, _ in reader.documents())
    return pa.schema(columns)


def _carried(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {carried_name(name, COLUMNS.names): value for name, value in fields.items()}


class _Tally:
    """Makes the rows, and counts what goes through."""

    def __init__(
        self,
        names: Sequence[str],
        retokenizer: Tokenizer | None,
        total: int,
        progress: Progress,
        extra: int | None,
    ) -> None:
        self._names, self._retokenizer, self._total, self._progress = names, retokenizer, total, progress
        self._extra = extra
        self._windows: Counter[str] = Counter()
        self._tokens: Counter[str] = Counter()
        self._characters = 0
        self._retokenized = Retokenized(retokenizer.hash) if retokenizer else None

    def row(self, passage: Passage) -> Row:
        """The passage's columns, then its carried fields."""
        window, tokens, part_tokens, num_tokens_trainee = passage.window, passage.tokens, passage.part_tokens, None
        if self._retokenizer is not None and self._retokenized is not None:
            encoded = self._retokenizer.encode(passage.text)
            tokens, part_tokens = (
                self._cut(encoded.ids, window.num_tokens),
                tokens_at(encoded.char_starts, passage.parts),
            )
            num_tokens_trainee = len(encoded.ids)
            self._retokenized = self._retokenized.adding(window.num_tokens, num_tokens_trainee)
        self._windows[window.source] += 1
        self._tokens[window.source] += window.num_tokens
        self._characters += len(passage.text)
        self._progress(self._windows.total(), self._total)
        known = {
            **asdict(window),
            "text": passage.text,
            "input_ids": tokens,
            "labels": tokens,
            "attention_mask": None if tokens is None else np.ones(len(tokens), np.int8),
            "part_tokens": part_tokens,
            "num_tokens_trainee": num_tokens_trainee,
            "parts": [asdict(part) for part in passage.parts],
        }
        return {**{name: known[name] for name in self._names}, **_carried(passage.fields)}

    def _cut(self, ids: npt.NDArray[np.uint32], length: int) -> npt.NDArray[np.uint32]:
        """At most a window's tokens; with one token more where that was asked for."""
        if self._extra is None:
            return ids[:length]
        return np.append(ids, np.uint32(self._extra))[: length + 1]

    def summary(
        self, rule: Exporting, files: tuple[ExportedFile, ...], stems: Mapping[str, str], tokenizer: str | None
    ) -> ExportSummary:
        """What was counted."""
        return ExportSummary(
            format=rule.format,
            content=rule.content if not FORMATS[rule.format].tokens_only else "tokens",
            extra_token=rule.extra_token,
            num_windows=self._windows.total(),
            num_tokens=self._tokens.total(),
            num_characters=self._characters,
            windows=dict(sorted(self._windows.items())),
            tokens=dict(sorted(self._tokens.items())),
            files=files,
            stems=dict(stems),
            tokenizer=tokenizer,
            retokenized=self._retokenized,
        )


def _listed(folder: Path, paths: Iterable[Path]) -> tuple[ExportedFile, ...]:
    return tuple(listed(folder, path) for path in paths)


def listed(folder: Path, path: Path) -> ExportedFile:
    """A file of an export, with size and SHA-256."""
    return ExportedFile(path.relative_to(folder).as_posix(), path.stat().st_size, file_sha256(path))


def batches(rows: Iterable[Row], limit: int) -> Iterator[Batch]:
    """Rows of about ``limit`` bytes together; an empty one if there are none, so that a file has columns."""
    batch: list[Row] = []
    offset = size = 0
    for row in rows:
        batch.append(row)
        size += sum(map(_num_bytes, row.values()))
        if size >= limit:
            yield Batch(batch, offset)
            batch, offset, size = [], offset + size, 0
    if batch or offset == 0:
        yield Batch(batch, offset)


def _num_bytes(value: Any) -> int:
    """About what a value takes in a file before compression."""
    if isinstance(value, str):
        return len(value) if value.isascii() else len(value.encode())
    if isinstance(value, np.ndarray):
        return value.nbytes
    return len(to_json(value)) if isinstance(value, (list, dict)) else 8
