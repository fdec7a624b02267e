"""Measure what a checkpoint makes of long contexts in held-out text, without any task: see :mod:`.by_position`."""

import dataclasses
import json
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from longattn import corpus, settings
from longattn.asking import load_model_for, look_at_all
from longattn.errors import CorpusError, ModelError
from longattn.evals import by_position
from longattn.evals.by_position import Bucket, Mean
from longattn.evals.settings import Measuring
from longattn.export.summary import FILE_NAME
from longattn.models import Checkpoint, resolve
from longattn.models.cache import file_digest
from longattn.records import Document, Window
from longattn.scorers import Ask, ShortContext, WholeWindow
from longattn.scorers.base import long_and_short
from longattn.settings import fingerprint, plain
from longattn.tables import make_folder, write_sealed
from longattn.tokens import Tokenizer, encoding_hash
from longattn.windows import cut


@dataclass(frozen=True)
class HeldOut:
    """What the log-probabilities of some windows tell; losses in nats per token."""

    loss_by_position: tuple[Bucket, ...]
    late_loss: Mean
    truncation_gain: Mean
    """Late loss with a short context less that with all; above 0 where the model uses what only the long one holds."""
    far_repeat_loss: Mean
    far_repeat_gain: Mean
    long_ppl: Mean
    settings: Mapping[str, Any]
    """What was measured, of which text, with which model."""


@dataclass(frozen=True)
class LogProbs:
    """Natural logarithms of the probabilities of the tokens of some windows."""

    long: npt.NDArray[np.float64]
    """[N, T - 1], given all before a token."""
    short: npt.NDArray[np.float64]
    """[N, T - context], given a short context."""


def measure(
    output: Path,
    model: settings.Model,
    inputs: settings.Corpus,
    rule: Measuring,
    evaluator: settings.Model | None = None,
    device: str = "cpu",
    on_window: Callable[[int], None] | None = None,
) -> HeldOut:
    """Measure a checkpoint on held-out text and write ``held-out-<settings>.json``.

    ``evaluator`` chooses LongPPL's key tokens; None is the model itself, whose figures are then not comparable with
    other models'. Raises :class:`CorpusError` for inputs that hold no window, ``ModelError`` for an evaluator or an
    export with another tokenizer, and ``ValueError`` for settings that make no sense.
    """
    for name in ("windows", "resamples"):
        if getattr(rule, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(rule, name)}")
    late = rule.length // 2 if rule.late is None else rule.late
    distance = rule.length // 4 if rule.distance is None else rule.distance
    short = ShortContext.within(rule.length, rule.context)
    if not short.length <= late < rule.length:
        raise ValueError(f"late must be from {short.length}, the context, to {rule.length - 1}, got {late}")
    checkpoint = resolve(model)
    judge = checkpoint if evaluator is None else _same_tokens(checkpoint, resolve(evaluator))
    windows = draw(inputs, checkpoint, rule)
    mine = log_probs(checkpoint, model, windows, short, device, on_window)
    theirs = mine if evaluator is None else log_probs(judge, evaluator, windows, short, device, on_window)
    tokens = np.stack([window.tokens for window in windows]).astype(np.int64)
    documents = [window.doc_id for window in windows]
    again = {"resamples": rule.resamples, "seed": rule.seed}
    facts = {
        "measuring": {**plain(rule), "context": short.length, "step": short.step, "late": late, "distance": distance},
        "model": {"name": checkpoint.name, "hash": checkpoint.hash, "rope_theta": model.rope_theta, "bos": model.bos},
        "dtype": model.dtype,
        "evaluator": {"name": judge.name, "hash": judge.hash, "is_the_model": evaluator is None},
        "tokenizer": encoding_hash(checkpoint.tokenizer_file),
        "text": {
            "inputs": list(inputs.inputs),
            "windows": len(windows),
            "documents": len(set(documents)),
            "sha256": fingerprint([window.id for window in windows] + [int(tokens.sum())]),
        },
    }
    found = HeldOut(
        loss_by_position=tuple(
            by_position.loss_by_position(mine.long, by_position.doubling_edges(rule.length), documents, **again)
        ),
        late_loss=by_position.late_loss(mine.long, late, documents, **again),
        truncation_gain=by_position.truncation_gain(mine.long, mine.short, late, documents, **again),
        far_repeat_loss=by_position.far_repeat_loss(mine.long, tokens, distance, documents, **again),
        far_repeat_gain=by_position.far_repeat_gain(mine.long, mine.short, tokens, distance, documents, **again),
        long_ppl=by_position.long_ppl(
            mine.long, theirs.long, theirs.short, documents, alpha=rule.alpha, beta=rule.beta, **again
        ),
        settings=facts,
    )
    make_folder(output)
    write_sealed(output / f"held-out-{fingerprint(facts)}.json", plain(found))
    return found


def log_probs(
    checkpoint: Checkpoint,
    model: settings.Model,
    windows: Sequence[Window],
    short: ShortContext,
    device: str = "cpu",
    on_window: Callable[[int], None] | None = None,
) -> LogProbs:
    """The log-probabilities of windows of one length, with all and with a short context.

    Raises ``ModelError`` for numbers that are not finite.
    """
    ask = Ask(contexts=(WholeWindow(), short))
    loaded = load_model_for([ask], checkpoint, model, len(windows[0].tokens), device)
    long, with_short = [], []
    for _, (seen,) in look_at_all([ask], loaded, windows):
        if not seen.is_finite:
            raise ModelError(f"{checkpoint.name} gives log-probabilities that are no finite numbers as {model.dtype}")
        long.append(seen.predictions[WholeWindow()][0].log_probs.astype(np.float64))
        with_short.append(long_and_short(seen, short)[1])
        if on_window:
            on_window(1)
    return LogProbs(np.stack(long), np.stack(with_short))


def draw(inputs: settings.Corpus, checkpoint: Checkpoint, rule: Measuring) -> list[Window]:
    """Up to ``rule.windows`` windows of the inputs, every window as likely as any other, in the order of the input.

    Exported windows (a run folder, an export, Parquet files with ``input_ids``) are taken as they are, texts are cut
    as for measuring. Raises :class:`CorpusError` where there is none of the length, and ``ModelError`` for an export
    with another tokenizer's ids.
    """
    kept: list[tuple[int, Window]] = []
    generator = random.Random(rule.seed)
    number = -1
    for number, window in enumerate(_windows(inputs, checkpoint, rule.length)):
        if len(kept) < rule.windows:
            kept.append((number, window))
        elif (place := generator.randint(0, number)) < rule.windows:
            kept[place] = (number, window)
    if not kept:
        raise CorpusError(
            f"{', '.join(inputs.inputs)} hold no window of {rule.length} tokens; --length takes shorter ones"
        )
    return [window for _, window in sorted(kept, key=lambda one: one[0])]


def _windows(inputs: settings.Corpus, checkpoint: Checkpoint, length: int) -> Iterator[Window]:
    texts = []
    for place in inputs.inputs:
        if files := _exported(Path(place)):
            _check_tokenizer(Path(place), checkpoint)
            yield from _exported_windows(files, length)
        else:
            texts.append(place)
    if not texts:
        return
    tokenizer = Tokenizer.load(checkpoint.tokenizer_file)
    inputs = replace(inputs, inputs=tuple(texts))
    for unit in corpus.list_units(inputs):
        for record in corpus.read_unit(unit, inputs):
            if isinstance(record, Document):
                for window in cut(record, tokenizer.encode(record.text), length):
                    # a view would keep the whole document in memory
                    yield dataclasses.replace(window, tokens=window.tokens.copy())


def _exported(place: Path) -> list[Path]:
    """The Parquet files of an export, a run's export or a file, that hold token ids."""
    folders = [place / "export" / "data", place / "data", place]
    candidates = [place] if place.is_file() else next((sorted(f.glob("*.parquet")) for f in folders if f.is_dir()), [])
    return [file for file in candidates if file.suffix == ".parquet" and "input_ids" in pq.read_schema(file).names]


def _check_tokenizer(place: Path, checkpoint: Checkpoint) -> None:
    """Raise ``ModelError`` for an export that says that its token ids are another tokenizer's."""
    own = file_digest(checkpoint.tokenizer_file)[:16]
    folders = [place / "export", place, place.parent, place.parent.parent]
    summary = next((folder / FILE_NAME for folder in folders if (folder / FILE_NAME).is_file()), None)
    if summary is not None and (made_by := json.loads(summary.read_bytes()).get("tokenizer")) not in (None, own):
        raise ModelError(
            f"{place} has token ids of the tokenizer {made_by}, {checkpoint.name} has {own}; export with "
            f"--write.retokenize {checkpoint.name}, or give the text itself"
        )


def _exported_windows(files: Iterable[Path], length: int) -> Iterator[Window]:
    for file in files:
        with pq.ParquetFile(file) as opened:
            names = opened.schema_arrow.names
            columns = [name for name in ("input_ids", "doc_id", "source", "start", "doc_tokens") if name in names]
            number = 0
            for batch in opened.iter_batches(batch_size=16, columns=columns):
                for row in batch.to_pylist():
                    number += 1
                    ids = np.array(row["input_ids"], dtype=np.uint32)
                    if len(ids) < length:
                        continue
                    yield Window(
                        doc_id=str(row.get("doc_id", f"{file.name}:{number}")),
                        source=str(row.get("source", "default")),
                        start=int(row.get("start") or 0),
                        tokens=ids[:length],
                        char_start=0,
                        char_end=0,
                        doc_tokens=int(row.get("doc_tokens") or len(ids)),
                    )


def _same_tokens(checkpoint: Checkpoint, other: Checkpoint) -> Checkpoint:
    mine, theirs = (encoding_hash(one.tokenizer_file) for one in (checkpoint, other))
    if mine != theirs:
        raise ModelError(
            f"{checkpoint.name} and the evaluator {other.name} have different tokenizers ({mine}, {theirs}); key "
            "tokens can be chosen only by a model that reads the same tokens"
        )
    return other
