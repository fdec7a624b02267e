"""Where a source's documents come from: selected windows of runs, read again, or files."""

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from longattn import corpus
from longattn.errors import RunError, is_fatal
from longattn.export.rereading import Chosen, Rereader, read_selection
from longattn.mixing.drawing import Draw, Drawn, Tokens, key_of
from longattn.mixing.shares import Ingredient
from longattn.records import Reject
from longattn.settings import Corpus
from longattn.tables import RunFolder, file_sha256
from longattn.tokens import Tokenizer, TooSlowError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Vocabulary:
    """What texts are encoded with."""

    tokenizer: Tokenizer
    end_token: int
    """Put behind each document; what follows a window at the end of its document."""

    @property
    def size(self) -> int:
        """One more than the highest id that can occur."""
        return max(self.tokenizer.vocab_size, self.end_token + 1)

    def document(self, tokens: Tokens) -> Tokens:
        """A document's tokens with the end token behind them."""
        return np.append(tokens, np.uint32(self.end_token))


@dataclass(frozen=True)
class Supply:
    """What there is of a source."""

    drawn: Drawn
    num_read: int
    """Windows or documents that were looked at."""
    rejected: Mapping[str, int]
    """Records that are no documents, and documents that cannot be encoded, by reason."""
    of: Mapping[str, Any]
    """Where they come from: hashes of selections, sizes and times of files."""
    kind: str
    """``windows`` or ``documents``."""


@dataclass
class _Tally:
    """Counts while a source is read."""

    num_read: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    failed: list[tuple[int, str]] = field(default_factory=list)
    """Key and reason of documents that cannot be encoded; they count where they would have been drawn."""


def draw_windows(
    name: str, ingredient: Ingredient, length: int, seed: int, vocabulary: Vocabulary, draw: Draw
) -> Supply:
    """Draw among the selected windows of runs.

    A window of ``length`` tokens is a sequence as it is: the very ids that were scored. Others are packed as documents,
    and windows that were cut by another tokenizer are encoded anew from their text. Raises :class:`RunError` for a run
    that was not selected, and for a source that it does not have.
    """
    tally, facts = _Tally(), {}
    source = ingredient.source
    for place in ingredient.runs:
        run = RunFolder.at(place)
        reader, selection = _reread(run, None if source == "*" else source)
        own = reader.windows.settings["tokenizer"] == vocabulary.tokenizer.hash
        facts[place] = {"selection": file_sha256(selection), "source": source, "encoded_anew": not own}
        for passage in reader.passages(vocabulary.tokenizer if own else None, vocabulary.end_token if own else None):
            tally.num_read += 1
            key = key_of(seed, passage.text)
            if not draw.wants(key):
                continue
            if passage.tokens is None:
                _encode(passage.window.window_id, passage.text, key, vocabulary, draw, tally, float("inf"))
            elif passage.window.num_tokens == length:
                draw.add(key, passage.window.window_id, passage.tokens[:-1], int(passage.tokens[-1]))
            else:
                tokens = vocabulary.document(passage.tokens[:-1])
                draw.add(key, passage.window.window_id, tokens, vocabulary.end_token)
    return _supply(name, draw, tally, facts, "windows")


def draw_documents(
    name: str, ingredient: Ingredient, rule: Corpus, seed: int, vocabulary: Vocabulary, draw: Draw
) -> Supply:
    """Draw among the documents of files; those that are not drawn are not encoded. Raises :class:`CorpusError`."""
    tally = _Tally()
    rule = replace(rule, inputs=ingredient.inputs)
    units = corpus.list_units(rule)
    for unit in units:
        for record in corpus.read_unit(unit, rule):
            if isinstance(record, Reject):
                tally.rejected[record.reason] += 1
                continue
            tally.num_read += 1
            key = key_of(seed, record.text)
            if draw.wants(key):
                _encode(record.id, record.text, key, vocabulary, draw, tally, rule.max_doc_seconds)
    files = {part.file: {"bytes": part.size, "modified": part.modified} for unit in units for part in unit.slices}
    return _supply(name, draw, tally, files, "documents")


def _encode(
    id: str, text: str, key: int, vocabulary: Vocabulary, draw: Draw, tally: _Tally, max_seconds: float
) -> None:
    """Encode a document for the draw, or note that it cannot be."""
    try:
        tokens = vocabulary.tokenizer.encode(text, max_seconds).ids
    except BaseException as error:
        # a panic of a Rust library is no Exception
        if is_fatal(error):
            raise
        tally.failed.append((key, "too_slow" if isinstance(error, TooSlowError) else "untokenizable"))
        return
    draw.add(key, id, vocabulary.document(tokens), vocabulary.end_token)


def _supply(name: str, draw: Draw, tally: _Tally, of: Mapping[str, Any], kind: str) -> Supply:
    drawn = draw.drawn()
    for key, reason in tally.failed:
        # which of the others were tried hangs on the order in which they came
        if draw.wants(key):
            tally.rejected[reason] += 1
    log.info("%s: %d %s read, %d drawn with %d tokens", name, tally.num_read, kind, len(drawn.keys), drawn.num_tokens)
    return Supply(drawn, tally.num_read, dict(sorted(tally.rejected.items())), dict(of), kind)


def recorded_model(place: str) -> str:
    """The model whose tokenizer cut a run's windows. Raises :class:`RunError`."""
    recipe = RunFolder.at(place).manifest().get("recipe")
    if recipe is None:
        raise RunError(f"{place} is no measured run: it has no manifest.json; run `longattn measure` first")
    return recipe["model"]["name"]


def _reread(run: RunFolder, source: str | None) -> tuple[Rereader, Path]:
    """What reads the kept windows of one source, or of all, again, and the selection that names them."""
    manifest = run.manifest()
    if "windows" not in manifest.get("tables", {}):
        raise RunError(f"{run.place} is no measured run: it has no table of windows; run `longattn measure` first")
    windows = run.table("windows", manifest["tables"]["windows"]["settings"])
    units = run.plan()
    windows.bring(unit.id for unit in units)
    path = run.listed("selection.parquet", "select first")
    chosen = read_selection(path)
    if source is not None:
        chosen = _of_source(chosen, path, source, run.place)
    return Rereader(units, windows, chosen, _corpus(manifest["recipe"]["corpus"])), path


def _of_source(chosen: Chosen, path: Path, source: str, place: str) -> Chosen:
    rows = pq.read_table(path, columns=["window_id", "source"], filters=[("kept", "=", True)])
    sources = rows["source"].to_pylist()
    ids = {id for id, of in zip(rows["window_id"].to_pylist(), sources, strict=True) if of == source}
    if not ids:
        there = ", ".join(sorted(set(sources))) or "none"
        raise RunError(
            f"{place} keeps no windows of the source {source!r}; it has {there}; --sources.NAME says which is meant"
        )
    return Chosen({id: scores for id, scores in chosen.scores.items() if id in ids}, chosen.repeated & ids)


def _corpus(recorded: Mapping[str, Any]) -> Corpus:
    """A run's reading settings, from its manifest."""
    settings: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in recorded.items()
    }
    return Corpus(**settings)
