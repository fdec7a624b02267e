"""From a work unit to its tables: read, cut, measure, commit."""

import hashlib
import logging
import platform
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache, cached_property
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from longattn import corpus, settings
from longattn.asking import load_model_for, look_at_all, other_models
from longattn.errors import DamageError, is_fatal
from longattn.logs import printable
from longattn.models import Checkpoint
from longattn.quarantine import Failure, Place, Quarantine, place_of
from longattn.records import Document, Reject, Window, WorkUnit
from longattn.scorers import Ask, Columns, PilotScorer, Scorer, Seen
from longattn.tables import RunFolder, Table
from longattn.tokens import Tokenizer, TooSlowError
from longattn.versions import Writers
from longattn.windows import cut

if TYPE_CHECKING:
    from longattn.models.base import Model

log = logging.getLogger(__name__)

FORMAT = 2
"""Raised when the same settings would measure something else than before; part of every table's settings."""

WINDOWS = pa.schema(
    [
        ("window_id", pa.string()),
        ("doc_id", pa.string()),
        ("source", pa.string()),
        ("file", pa.string()),
        ("position", pa.int64()),
        ("start", pa.int64()),
        ("num_tokens", pa.int32()),
        ("char_start", pa.int64()),
        ("char_end", pa.int64()),
        ("doc_tokens", pa.int64()),
        ("overlap", pa.int32()),
    ]
)

DOCUMENTS = pa.schema(
    [
        ("doc_id", pa.string()),
        ("source", pa.string()),
        ("file", pa.string()),
        ("position", pa.int64()),
        ("line", pa.int64()),
        ("num_chars", pa.int64()),
        ("num_tokens", pa.int64()),
        ("num_windows", pa.int32()),
        ("parts", pa.list_(pa.struct([("id", pa.string()), ("char_start", pa.int64())]))),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)
"""One row per record read: status ``windowed``, ``too_short`` or ``rejected``."""

ROWS_AS_DICTIONARIES = 8192
"""A dictionary takes about a kilobyte; a unit of short records has a hundred thousand rows."""


@dataclass(frozen=True)
class Job:
    """What to measure, with everything that has to be looked up already known; can be sent to another process."""

    run: RunFolder
    corpus: settings.Corpus
    window: settings.Windowing
    model: settings.Model
    checkpoint: Checkpoint
    scorers: tuple[Scorer, ...]
    others: Mapping[settings.Model, Checkpoint] = field(default_factory=dict)
    """Checkpoints of the models that scorers ask beside it."""

    @cached_property
    def cut_settings(self) -> dict[str, Any]:
        """What decides the documents and the windows."""
        free = {"inputs", "manifest", "unit_bytes", "text_suffixes", "private"}
        later = {"turn_fields", "instruction_last"}
        limits = {name: getattr(settings.Corpus(), name) for name in ("max_depth", "max_expansion", "max_doc_seconds")}
        reading = {
            key: value
            for key, value in settings.plain(self.corpus).items()
            # what older versions did not have and is not used leaves the names of their tables as they were
            if key not in free and (value or key not in later) and value != limits.get(key)
        }
        tokenizer = hashlib.sha256(self.checkpoint.tokenizer_file.read_bytes()).hexdigest()[:16]
        return {"format": FORMAT, "corpus": reading, "length": self.window.length, "tokenizer": tokenizer}

    @cached_property
    def documents(self) -> Table:
        """One row per record."""
        return self.run.table("documents", self.cut_settings)

    @cached_property
    def windows(self) -> Table:
        """One row per window."""
        return self.run.table("windows", self.cut_settings)

    def table(self, scorer: Scorer) -> Table:
        """The scorer's columns, a row per window in the order of the windows table."""
        model: dict[str, Any] | None = None
        if ask := scorer.ask():
            model = _model_facts(self.model, self.checkpoint)
            if beside := other_models([ask]):
                model["others"] = [_model_facts(other, self.others[other]) for other in beside]
        facts = {"scorer": scorer.name, **scorer.measurement()}
        return self.run.table(scorer.name, {**self.cut_settings, "measurement": facts, "model": model})

    def tables(self) -> list[Table]:
        """Every table that a measured unit has."""
        return [self.documents, self.windows, *map(self.table, self.scorers)]

    @cached_property
    def _tables(self) -> list[Table]:
        return self.tables()

    @property
    def quarantine(self) -> Quarantine:
        """What is left out of the run."""
        return Quarantine(self.run)

    def left_out(self, unit: str) -> dict[Place, Failure]:
        """Documents of a unit that are rejected unseen, because they could not be cut before."""
        entry = self.quarantine.entry(unit, "cut", (self.documents, self.windows))
        return {failure.place: failure for failure in entry.failures}

    def is_done(self, unit: str, writers: Writers | None = None) -> bool:
        """Whether every table of the unit is there; a damaged one is not, and the log says why.

        ``writers`` is told of each receipt that is read for that.
        """
        try:
            for table in self._tables:
                if table.is_elsewhere(unit):
                    continue
                receipt = table.receipt(unit)
                if receipt is None:
                    return False
                if writers is not None:
                    writers.note(table, receipt)
            return True
        except DamageError as error:
            log.warning("%s is damaged: %s; unit %s is measured again", error.path, error.problem, unit)
            return False

    @property
    def asks(self) -> list[Ask]:
        """What the scorers ask of the model; empty when none is needed."""
        return [ask for scorer in self.scorers if (ask := scorer.ask())]

    def load_model(self, device: str, asks: Sequence[Ask] | None = None) -> "Model | None":
        """The model on a device, able to answer these asks or else those of the scorers; None when there are none."""
        asks = self.asks if asks is None else asks
        if not asks:
            return None
        return load_model_for(asks, self.checkpoint, self.model, self.window.length, device, self.others)


def _model_facts(model: settings.Model, checkpoint: Checkpoint) -> dict[str, Any]:
    """What of a model changes what is measured."""
    facts = {**settings.plain(model), "hash": checkpoint.hash}
    # the name is only a way to find the model; the hash says which one it is
    for free in ("name", "allow_extrapolation", "max_header_bytes", "max_tokenizer_bytes"):
        del facts[free]
    if not model.bos:
        # older versions had none, and their tables keep their names
        del facts["bos"]
    return facts


class Rows:
    """Rows of a table while they become more: a few as dictionaries, the rest as Arrow, which takes a tenth of that."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._pending: list[dict[str, Any]] = []
        self._batches: list[pa.RecordBatch] = []

    def append(self, row: dict[str, Any]) -> None:
        """Add a row; what it lacks is null."""
        self._pending.append(row)
        if len(self._pending) == ROWS_AS_DICTIONARIES:
            self._settle()

    def table(self) -> pa.Table:
        """All of them, in order."""
        self._settle()
        return pa.Table.from_batches(self._batches, self._schema)

    def _settle(self) -> None:
        if self._pending:
            self._batches.append(pa.RecordBatch.from_pylist(self._pending, self._schema))
            self._pending.clear()


@dataclass
class CutUnit:
    """A work unit read and cut: its windows with their tokens, a row per record, and what was counted."""

    unit: str
    files: list[str] = field(default_factory=list)
    """Input files."""
    windows: list[Window] = field(default_factory=list)
    documents: Rows = field(default_factory=lambda: Rows(DOCUMENTS))
    counts: Counter[str] = field(default_factory=Counter)


def cut_unit(
    unit: WorkUnit, job: Job, tokenizer: Tokenizer, on_document: Callable[[Place | None], None] | None = None
) -> CutUnit:
    """Read and cut a unit; every record becomes a row, whatever became of it.

    ``on_document`` is told which document comes next before anything is done with it, and None after it.
    """
    result = CutUnit(unit.id, [part.file for part in unit.slices])
    left_out = job.left_out(unit.id)
    reader = corpus.read_unit(unit, job.corpus)
    for record in reader:
        if isinstance(record, Document):
            place = (record.file, record.position)
            if on_document:
                on_document(place)
            if failure := left_out.get(place):
                record = Reject(*place, record.line, failure.reason, failure.detail)
            else:
                record = _cut_document(record, job, tokenizer, result)
            if on_document:
                on_document(None)
        if isinstance(record, Reject):
            result.documents.append({**asdict(record), "status": "rejected"})
            result.counts[f"rejected.{record.reason}"] += 1
        result.counts["documents"] += 1
    result.counts["lines"] = sum(reader.line_counts.values())
    result.counts["windows"] = len(result.windows)
    result.counts["bytes"] = unit.num_bytes
    return result


def _cut_document(document: Document, job: Job, tokenizer: Tokenizer, result: CutUnit) -> Reject | None:
    """Add a document's windows and row to ``result``; a reject if it cannot be tokenised."""
    try:
        tokenized = tokenizer.encode(document.text, job.corpus.max_doc_seconds)
    except BaseException as error:
        # a panic of a Rust library is no Exception
        if is_fatal(error):
            error.add_note(f"in work unit {result.unit}, {document.file} at position {document.position}")
            raise
        reason = "too_slow" if isinstance(error, TooSlowError) else "untokenizable"
        detail = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        return corpus.reject(document.file, document.position, document.line, reason, detail)
    length = job.window.length
    if document.turns and len(tokenized.ids) > length:
        detail = f"the sample has {len(tokenized.ids)} tokens, more than window.length, {length}"
        return Reject(document.file, document.position, document.line, "too_long", detail)
    windows = cut(document, tokenized, length)
    status = "windowed" if windows else "too_short"
    result.windows += windows
    result.counts[status] += 1
    result.counts["tokens"] += len(tokenized.ids)
    result.documents.append(
        {
            "doc_id": document.id,
            "source": document.source,
            "file": document.file,
            "position": document.position,
            "line": document.line,
            "num_chars": len(document.text),
            "num_tokens": len(tokenized.ids),
            "num_windows": len(windows),
            "parts": [asdict(part) for part in document.parts],
            "status": status,
        }
    )
    return None


def measure_windows(
    scorers: Sequence[Scorer],
    model: "Model | None",
    windows: Sequence[Window],
    on_window: Callable[[int], None] | None = None,
) -> dict[str, Columns]:
    """The columns of each scorer, by scorer name, from one forward pass per window for all of them.

    Windows have no padding and short ones share a forward pass, whose rows do not touch each other; attention is
    measured a window at a time. ``on_window`` is told the tokens of each window when it is done.
    """
    if not windows:
        return {}
    measured = measure_each(scorers, model, windows, on_window)
    return {scorer.name: columns for scorer, columns in zip(scorers, measured, strict=True)}


def measure_each(
    scorers: Sequence[Scorer],
    model: "Model | None",
    windows: Sequence[Window],
    on_window: Callable[[int], None] | None = None,
) -> list[Columns]:
    """The columns of each of the scorers, among which may be several of one name, for at least one window."""
    asks = [(k, ask) for k, scorer in enumerate(scorers) if (ask := scorer.ask())]
    measured: dict[int, list[Columns]] = {k: [] for k, _ in asks}
    for window, seen in look_at_all([ask for _, ask in asks], model, windows):
        for (k, _), one in zip(asks, seen, strict=True):
            columns = scorers[k].measure([window], one)
            measured[k].append(columns if one.is_finite else _without_values(columns))
        if on_window:
            on_window(len(window.tokens))
    return [stack_columns(measured[k]) if k in measured else s.measure(windows, Seen()) for k, s in enumerate(scorers)]


def _without_values(columns: Columns) -> dict[str, npt.NDArray]:
    """The columns with NaN for every number that a NaN or infinity of the model may have gone into, seen or not."""
    return {n: np.full_like(c, np.nan) if c.dtype.kind == "f" else c for n, c in columns.items()}


def stack_columns(parts: Sequence[Columns]) -> dict[str, np.ndarray]:
    """The rows of several groups of windows, one after another."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def commit_unit(
    job: Job, cut: CutUnit, measured: Mapping[str, Columns] | None, failed: Collection[Place] = ()
) -> dict[str, int]:
    """Write the unit's tables that are not there yet, durably; returns what was counted.

    Windows of documents that ``failed`` have no values: NaN, or null where a column holds integers. With ``measured``
    None only documents and windows are written.
    """
    versions = package_versions()
    counts = dict(cut.counts)
    rows = {"documents": cut.documents.table(), "windows": _window_rows(cut.windows)}
    for table in (job.documents, job.windows):
        if not table.holds(cut.unit):
            table.commit(cut.unit, rows[table.name], cut.counts, versions)
    missing = np.array([place_of(window) in failed for window in cut.windows], dtype=bool)
    if measured is None:
        return counts
    for scorer in job.scorers:
        if job.table(scorer).holds(cut.unit):
            continue
        columns = measured.get(scorer.name, {})
        bad = _non_finite(columns, missing)
        if bad.any():
            _warn_of_non_finite(cut, scorer, columns, bad)
        found = {"windows": len(cut.windows), "non_finite": int(bad.sum()), "failed": int(missing.sum())}
        counts["non_finite"] = counts.get("non_finite", 0) + found["non_finite"]
        job.table(scorer).commit(cut.unit, scorer_rows(scorer, cut.windows, columns, missing), found, versions)
    return counts


def _warn_of_non_finite(cut: CutUnit, scorer: Scorer, columns: Columns, bad: npt.NDArray[np.bool_]) -> None:
    """Name the first window whose values are no numbers."""
    first = int(np.flatnonzero(bad)[0])
    names = [n for n, c in columns.items() if c.dtype.kind == "f" and not np.isfinite(c[first]).all()]
    window = cut.windows[first]
    log.warning(
        "unit %s: %d of %d windows have values of %s that are not finite numbers and are never selected; the first is"
        " %s in %s (columns %s)",
        cut.unit, bad.sum(), len(bad), scorer.name, printable(window.id), window.file, ", ".join(names),
    )  # fmt: skip


def _window_rows(windows: Sequence[Window]) -> pa.Table:
    rows = [
        {
            "window_id": window.id,
            "num_tokens": len(window.tokens),
            **{name: getattr(window, name) for name in WINDOWS.names if name not in ("window_id", "num_tokens")},
        }
        for window in windows
    ]
    return pa.Table.from_pylist(rows, WINDOWS)


def scorer_rows(
    scorer: Scorer, windows: Sequence[Window], columns: Columns, missing: npt.NDArray[np.bool_] | None = None
) -> pa.Table:
    """A scorer's columns of some windows as they are stored, with the windows' ids; none where there are no windows.

    Integers of windows that are ``missing`` become null; the other columns of these are NaN already.
    """
    types = {"float64": pa.float64(), "int64": pa.int64(), "int32": pa.int32()}
    types |= {"list<float64>": pa.list_(pa.float64()), "list<uint32>": pa.list_(pa.uint32())}
    schema = pa.schema([("window_id", pa.string()), *((n, types[t]) for n, t in scorer.schema().items())])
    data: dict[str, Any] = {"window_id": [window.id for window in windows]}
    for name in scorer.schema():
        column: Any = columns[name] if windows else []
        if np.ndim(column) == 2:
            column = list(column)
            if missing is not None and columns[name].dtype.kind != "f":
                column = [None if gone else row for row, gone in zip(column, missing, strict=True)]
        elif missing is not None and missing.any() and columns[name].dtype.kind != "f":
            column = pa.array(column, mask=missing)
        data[name] = column
    return pa.Table.from_pydict(data, schema)


def _non_finite(columns: Columns, missing: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Which windows were measured and have a value that is not a finite number."""
    bad = [~np.isfinite(c).reshape(len(c), -1).all(axis=1) for c in columns.values() if c.dtype.kind == "f"]
    return np.logical_or.reduce([np.zeros_like(missing), *bad]) & ~missing


@cache
def package_versions() -> dict[str, str]:
    """Versions of what the numbers depend on, without importing any of it."""
    names = ("longattn", "torch", "tokenizers", "numpy", "transformers")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = version(name)
        except ModuleNotFoundError:
            continue
    return found


@dataclass(frozen=True)
class Estimate:
    """What a run will take, extrapolated from a sample of its own units."""

    units: int
    units_done: int
    num_bytes: int
    windows: int
    tokens: int
    seconds: float


def estimate(job: Job, units: Sequence[WorkUnit], device: str, sample: int = 3) -> Estimate:
    """Read and cut a few units, measure one window of them, and scale up by bytes; a rough answer, quickly."""
    tokenizer = Tokenizer.load(job.checkpoint.tokenizer_file)
    step = max(1, len(units) // sample)
    chosen = units[::step][:sample]
    begin = time.perf_counter()
    cuts = [cut_unit(unit, job, tokenizer) for unit in chosen]
    cutting = time.perf_counter() - begin
    windows = [window for pieces in cuts for window in pieces.windows]
    model, seconds = job.load_model(device), 0.0
    if windows:
        # a scorer that needs a pilot has none yet, and costs little once it has; the first call warms up
        scorers = [s for s in job.scorers if not (isinstance(s, PilotScorer) and s.pilot_windows())]
        measure_windows(scorers, model, windows[:1])
        begin = time.perf_counter()
        measure_windows(scorers, model, windows[:1])
        seconds = time.perf_counter() - begin
    total = sum(unit.num_bytes for unit in units)
    scale = total / max(1, sum(unit.num_bytes for unit in chosen))
    return Estimate(
        units=len(units),
        units_done=sum(job.is_done(unit.id) for unit in units),
        num_bytes=total,
        windows=round(len(windows) * scale),
        tokens=round(sum(pieces.counts["tokens"] for pieces in cuts) * scale),
        seconds=(cutting + seconds * len(windows)) * scale,
    )
