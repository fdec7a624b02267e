"""Decide which windows to keep: tables of measurements and a rule in, one selection out.

Nothing here needs a model. Every choice of :class:`longattn.settings.Selecting` can be changed and selected again in
seconds. The same rows give the same bytes, whatever units, order, threads and memory they came with.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from longattn.expressions import Expression, columns_of, in_table
from longattn.selection.database import Database, open_database
from longattn.selection.keeping import check_rule, keep_best, source_limits
from longattn.selection.loading import SIGNATURE, Inputs, load, mark_duplicates
from longattn.selection.scoring import WINDOW_ID, combined_score, score_windows, tabulate_sources
from longattn.selection.summary import Distribution, Quantity, Selection, SourceSummary, summarise
from longattn.settings import Selecting
from longattn.tables import Table, write_chunks

__all__ = ["Distribution", "Formula", "Quantity", "Selection", "SourceSummary", "check_rule", "select"]

SELECTION_SCHEMA = pa.schema(
    [
        ("window_id", pa.string()),
        ("doc_id", pa.string()),
        ("source", pa.string()),
        ("start", pa.int64()),
        ("num_tokens", pa.int32()),
        ("char_start", pa.int64()),
        ("char_end", pa.int64()),
        ("ds", pa.float64()),
        ("du", pa.float64()),
        ("score", pa.float64()),
        ("rank", pa.int64()),
        ("kept", pa.bool_()),
        ("reason", pa.string()),
    ]
)

VARIANCE = "variance of score"

NO_WINDOW = "there is no window to select from"

NAMED_SOURCES = 5
"""A note names no more sources than this."""


@dataclass(frozen=True)
class Formula:
    """One scorer's part of a selection: its table and how a window's score is read from it."""

    table: Table | Path
    """A table of the run, or any Parquet file with a ``window_id`` column."""
    score: Expression
    readings: Mapping[str, Expression] = field(default_factory=dict)
    """Quantities to be shown beside the score; ``ds`` and ``du`` become columns of the selection."""
    variance: Expression | None = None
    """Variance of the score's error, where columns are estimates."""


def select(
    units: Sequence[str],
    windows: Table,
    formulas: Mapping[str, Formula],
    rule: Selecting,
    output: Path,
    *,
    memory_limit: str = "1GB",
    threads: int | None = None,
) -> Selection:
    """Score, rank and cut the windows of ``units``; write every one of them to ``output`` with the reason for its fate.

    Windows that are not scored (duplicates of a document id, values that are no numbers) are no part of what scores
    are standardised over; windows that fail ``rule.where`` are. Where a single scorer's columns are estimates, a last
    column ``score_se`` is the standard error of the score, its scales taken as known. ``memory_limit`` bounds DuckDB
    alone: it spills to a folder beside ``output``, which is removed.
    """
    check_rule(rule)
    if not units:
        write_chunks(output, SELECTION_SCHEMA, [])
        return Selection(str(output), {}, notes=[NO_WINDOW])
    inputs = Inputs(units, {"windows": windows} | {name: formula.table for name, formula in formulas.items()})
    score = combined_score(rule.weights, {name: formula.score for name, formula in formulas.items()}, inputs)
    readings = _readings(formulas)
    variance = _variance(rule.weights, formulas)
    shown = readings if variance is None else {**readings, VARIANCE: variance}
    columns = list(dict.fromkeys(column for part in (score, *shown.values()) for column in columns_of(part)))
    signatures = rule.near_duplicates is not None
    if signatures and ("minhash" not in inputs.tables or SIGNATURE.name not in inputs.schema("minhash").names):
        raise ValueError("near_duplicates needs the column minhash.minhash; measure with the scorer minhash first")
    with open_database(output.parent, memory_limit, threads) as database:
        load(database, inputs, columns, signatures, rule.where)
        duplicates = mark_duplicates(database)
        remarks = score_windows(database, score, shown, columns, rule.normalise_over)
        if not signatures:
            # what was sorted is all that is needed from here on, and room for it twice may not be there
            database.run("DROP VIEW scorable; DROP TABLE loaded")
        scored_tokens = tabulate_sources(database)
        keep_best(database, rule, source_limits(rule, scored_tokens))
        sources = summarise(database, list(readings))
        schema = SELECTION_SCHEMA if variance is None else SELECTION_SCHEMA.append(pa.field("score_se", pa.float64()))
        write_chunks(output, schema, _selection_rows(database, list(shown), schema))
    notes = [*remarks, *_notes(sources, len(duplicates))]
    return Selection(str(output), sources, duplicates, notes)


def _readings(formulas: Mapping[str, Formula]) -> dict[str, Expression]:
    """Every reading by its name; one whose name an earlier scorer has taken gets its scorer's in front."""
    readings: dict[str, Expression] = {}
    for scorer, formula in formulas.items():
        for name, reading in formula.readings.items():
            readings[f"{scorer}.{name}" if name in readings else name] = in_table(reading, scorer)
    return readings


def _variance(weights: Mapping[str, float], formulas: Mapping[str, Formula]) -> Expression | None:
    """Variance of the score's error, for a score that is one scorer's own."""
    if len(weights) != 1 or (name := next(iter(weights))) not in formulas:
        return None
    variance = formulas[name].variance
    return None if variance is None else in_table(variance, name)


def _selection_rows(database: Database, readings: Sequence[str], schema: pa.Schema) -> Iterator[pa.Table]:
    """The rows of the selection file, in its order."""
    ds, du = (f"reading_{readings.index(name)}" if name in readings else "NULL" for name in ("ds", "du"))
    # a scan without a join: that is what DuckDB returns in the order in which the rows were put in
    first = [place for (place,) in database.rows("SELECT first FROM sources ORDER BY source")]
    error = ""
    if VARIANCE in readings:
        variance = f"reading_{readings.index(VARIANCE)}"
        # an estimate may be a little below 0; one that is not known stays so
        error = f", sqrt(CASE WHEN {variance} < 0 THEN 0 ELSE {variance} END) AS score_se"
    query = f"""
        SELECT {WINDOW_ID} AS window_id, doc_id, source, start, num_tokens, char_start, char_end,
            {ds} AS ds, {du} AS du, score,
            CASE WHEN score IS NOT NULL THEN rowid - {first}[enum_code(source) + 1] + 1 END AS rank,
            reason = 'kept' AS kept, reason{error}, rowid AS place
        FROM ranked
    """
    written = 0
    for chunk in database.stream(query):
        places = chunk["place"].to_numpy()
        assert np.array_equal(places, np.arange(written, written + len(chunk))), "DuckDB changed the order of the rows"
        written += len(chunk)
        yield chunk.drop(["place"]).cast(schema)


def _notes(sources: Mapping[str, SourceSummary], num_duplicates: int) -> Iterator[str]:
    """What a person should know before trusting the selection."""
    if not sources:
        yield NO_WINDOW
    if num_duplicates:
        yield f"documents with an id that was read before, left out: {num_duplicates}"
    scores = {name: of.quantities["score"].scored for name, of in sources.items() if of.scored}
    flat = [name for name, of in scores.items() if of and of.count > 1 and of.low == of.high]
    yield from _about("no window has a score", [name for name, of in sources.items() if not of.scored])
    yield from _about("no window is kept", [name for name, of in sources.items() if of.scored and not of.kept])
    yield from _about("all scores are equal, so windows are ranked by id alone", flat)


def _about(fact: str, sources: Sequence[str]) -> Iterator[str]:
    """One sentence, however many sources it is true of."""
    if sources:
        more = f" and {len(sources) - NAMED_SOURCES} more" if len(sources) > NAMED_SOURCES else ""
        yield f"{fact} in {', '.join(sources[:NAMED_SOURCES])}{more}"
