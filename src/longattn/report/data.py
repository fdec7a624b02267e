"""What a report shows, as plain data, and how it is gathered from a run folder."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from longattn.errors import RunError
from longattn.records import Reject
from longattn.tables import RunFolder

HEAD_CHARS, TAIL_CHARS = 700, 400
"""Characters of a window that are shown."""


MAX_SOURCES = 24
"""Sources with charts and windows of their own; the tables have all."""


@dataclass(frozen=True, slots=True)
class Excerpt:
    """The beginning and the end of a text."""

    head: str
    tail: str = ""
    left_out: int = 0
    """Characters between the two."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A window to look at."""

    window_id: str
    doc_id: str
    source: str
    start: int
    num_tokens: int
    ds: float | None
    du: float | None
    score: float
    rank: int | None
    reason: str
    """``kept``, or why not."""
    excerpt: Excerpt | None = None


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """Everything that a report says; times and facts of the machine are no part of it."""

    manifest: Mapping[str, Any]
    """The run's: recipe, model, tables, versions, ledger, selection."""
    null: Mapping[str, float] = field(default_factory=dict)
    """Readings under uniform attention, by name."""
    best: Mapping[str, Sequence[Example]] = field(default_factory=dict)
    """By source, best first."""
    worst: Mapping[str, Sequence[Example]] = field(default_factory=dict)
    """By source, worst first."""
    rejects: Sequence[Reject] = ()
    """The first rejected records; the ledger has the counts."""
    command: str = ""
    """What a person types to get this run again."""


def gather(
    run: RunFolder,
    *,
    null: Mapping[str, float],
    command: str,
    texts: Callable[[Sequence[str]], Mapping[str, str]] | None = None,
    per_source: int = 3,
    max_rejects: int = 50,
) -> ReportData:
    """Collect a report's data from a run that has been selected.

    ``texts`` returns the texts of windows by id; None leaves them out, for a corpus that is not to be shown.
    """
    if not (run.root / "selection.parquet").exists():
        raise RunError(f"{run.root} has no selection.parquet; select before reporting")
    manifest = run.manifest()
    best, worst = best_and_worst(run.root / "selection.parquet", per_source)
    shown = largest_sources(manifest)
    best, worst = ({source: of[source] for source in of if source in shown} for of in (best, worst))
    if texts is not None:
        examples = [example for group in (*best.values(), *worst.values()) for example in group]
        found = texts([example.window_id for example in examples])
        best, worst = _with_excerpts(best, found), _with_excerpts(worst, found)
    return ReportData(
        manifest=manifest,
        null=null,
        best=best,
        worst=worst,
        rejects=_first_rejects(run.root / "rejects.jsonl", max_rejects),
        command=command,
    )


def largest_sources(manifest: Mapping[str, Any], count: int = MAX_SOURCES) -> set[str]:
    """The sources with most tokens."""
    sources = manifest.get("selection", {}).get("sources", {})
    return set(sorted(sources, key=lambda name: (-sources[name]["tokens"], name))[:count])


def best_and_worst(selection: Path, count: int) -> tuple[dict[str, list[Example]], dict[str, list[Example]]]:
    """The windows of highest and of lowest score in each source, in one pass; no window is in both."""
    names = [name for name in Example.__dataclass_fields__ if name != "excerpt"]
    best: dict[str, list[Example]] = {}
    worst: dict[str, list[Example]] = {}
    with pq.ParquetFile(selection, page_checksum_verification=True) as file:
        for batch in file.iter_batches(columns=names):
            for source, rows in _by_source(batch):
                scores = rows["score"].to_numpy(zero_copy_only=False)
                order = np.argsort(-scores, kind="stable")
                best[source] = _first([*best.get(source, ()), *_examples(rows, order[:count].tolist())], count)
                last = [*worst.get(source, ()), *_examples(rows, order[-count:].tolist())]
                worst[source] = _first(last, count, lowest=True)
    shown = {example.window_id for group in best.values() for example in group}
    worst = {source: [e for e in group if e.window_id not in shown] for source, group in worst.items()}
    return dict(sorted(best.items())), dict(sorted(worst.items()))


def _by_source(batch: pa.RecordBatch) -> Iterable[tuple[str, pa.RecordBatch]]:
    """The scored rows of each source."""
    scored = batch.filter(pc.field("score").is_valid())
    for source in scored["source"].unique().to_pylist():
        yield source, scored.filter(pc.field("source") == source)


def _examples(rows: pa.RecordBatch, places: list[int]) -> list[Example]:
    return [Example(**row) for row in rows.take(pa.array(places, pa.int64())).to_pylist()]


def _first(examples: Sequence[Example], count: int, *, lowest: bool = False) -> list[Example]:
    """The best by score, ties by id; with ``lowest`` the worst, worst first."""
    ranked = sorted(examples, key=lambda example: (-example.score, example.window_id))
    return ranked[::-1][:count] if lowest else ranked[:count]


def excerpt(text: str, head: int = HEAD_CHARS, tail: int = TAIL_CHARS) -> Excerpt:
    """The text's beginning and end, or all of it if it is short."""
    if len(text) <= head + tail:
        return Excerpt(text)
    return Excerpt(text[:head], text[-tail:], len(text) - head - tail)


def _with_excerpts(groups: Mapping[str, list[Example]], texts: Mapping[str, str]) -> dict[str, list[Example]]:
    return {
        source: [replace(e, excerpt=excerpt(texts[e.window_id])) if e.window_id in texts else e for e in group]
        for source, group in groups.items()
    }


def _first_rejects(path: Path, count: int) -> list[Reject]:
    if not path.exists():
        return []
    with path.open("rb") as lines:
        return [Reject(**json.loads(line)) for line, _ in zip(lines, range(count), strict=False)]
