"""What the stored statistics say about a selection: other choices, other scorers, lengths, repeated text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from longattn.expressions import Column, Expression, columns_of
from longattn.report.selections import load_selection, reading
from longattn.selection.choices import Choice, Outcome, columns_of_all, try_choices
from longattn.selection.database import Database
from longattn.selection.loading import Inputs, load, mark_duplicates
from longattn.selection.moments import moments_by
from longattn.selection.scoring import combined_score
from longattn.settings import Selecting
from longattn.tables import Table

SELECTED = "as selected"
"""The kept set of the selection file."""
SCORE = "the score"
"""The score of the selection, computed again."""

PERCENTS = (5, 25, 50, 75, 95)
DOC_TOKENS = Column("doc_tokens", None, "windows")


@dataclass(frozen=True)
class Effect:
    """A setting that could have been chosen instead, without measuring again."""

    name: str
    """In words, such as ``alpha 1``; also the name of its choice in the outcome."""
    flags: str
    """What ``longattn select`` takes to choose it."""
    scores: Mapping[str, Expression]
    """The scores that it changes, by scorer."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a run has measured, the rule that it was selected by, and what else could have been chosen."""

    units: Sequence[str]
    """Work units that every table has."""
    windows: Table
    tables: Mapping[str, Table | Path]
    """By scorer, and files of the user's own by name."""
    rule: Selecting
    scores: Mapping[str, Expression]
    """Every scorer's score, by name."""
    effects: Sequence[Effect] = ()
    noise: Mapping[str, float] = field(default_factory=dict)
    """By source, what rounding may change a score by; no entry where no bound is known."""
    token_null: Column | None = None
    """Where DS is as a bag of tokens predicts it, if that is of the same attention as the selection's DS."""
    repetition: Mapping[str, Column] = field(default_factory=dict)
    """Where readings of repetition are, by name."""


@dataclass(frozen=True)
class Lengths:
    """How long the documents are that windows come from, counted by window."""

    quantiles: Mapping[int, int]
    """Tokens, by percent of all windows."""
    kept_quantiles: Mapping[int, int]
    """Tokens, by percent of kept windows; empty where none is kept."""
    histogram: Mapping[int, tuple[int, int]]
    """All and kept windows by class: in class c a document is 2^(c/2) windows long or longer, but not 2^((c+1)/2)."""


@dataclass(frozen=True)
class Documents:
    """How the kept tokens of a source are spread over its documents."""

    documents: int
    half: int
    """The fewest documents that hold half of the kept tokens."""
    largest: str
    """The document with most kept tokens."""
    largest_share: float
    """Its share of them."""
    repeated: int
    """Kept tokens that another kept window has as well."""
    tokens: int


@dataclass(frozen=True)
class Evidence:
    """What was found, by source where a source is named."""

    outcome: Outcome
    effects: Sequence[Effect] = ()
    scorers: Sequence[str] = ()
    """Choices that are one scorer's own, besides :data:`SCORE`."""
    same: bool = True
    """Whether selecting again by the recorded settings keeps the windows of the selection file."""
    token_null: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """Scored windows by the bins of DS, placed by what a bag of tokens predicts of it."""
    lengths: Mapping[str, Lengths] = field(default_factory=dict)
    documents: Mapping[str, Documents] = field(default_factory=dict)
    repetition: Mapping[str, Mapping[str, tuple[float, float | None]]] = field(default_factory=dict)
    """By source and reading of the repetition scorer: its mean over all windows and over kept ones."""


def weigh(measured: Measured, selection: Path, sources: Mapping[str, Mapping[str, Any]]) -> Evidence:
    """Read the tables once and hold the selection against every other choice that they allow; needs no model.

    ``sources`` are the selection's summaries, as in the manifest. Memory is DuckDB's, bounded.
    """
    inputs = Inputs(measured.units, {"windows": measured.windows, **measured.tables})
    choices = _choices(measured, inputs, {name: float(of["kept_tokens"]) for name, of in sources.items()})
    null, shown = measured.token_null, measured.repetition
    edges = {name: of["quantities"]["ds"]["edges"] for name, of in sources.items() if "ds" in of["quantities"]}
    extra = [DOC_TOKENS, *shown.values(), *([null] if null else [])]
    columns = list(dict.fromkeys([*columns_of_all(choices), *extra]))
    with reading(selection.parent) as database:
        load(database, inputs, columns, measured.rule.near_duplicates is not None, measured.rule.where)
        mark_duplicates(database)
        load_selection(database, selection, "chosen")
        database.run("""
            CREATE TABLE given AS
            SELECT loaded.rowid AS row
            FROM chosen JOIN loaded ON chosen.window_id = loaded.doc_id || '@' || loaded.start
            WHERE reason = 'kept' AND NOT duplicate
        """)
        outcome = try_choices(database, choices, columns, given=SELECTED)
        database.run("""
            CREATE VIEW looked AS
            SELECT loaded.*, given.row IS NOT NULL AS kept
            FROM loaded LEFT JOIN given ON given.row = loaded.rowid WHERE NOT duplicate
        """)
        scorers = [name for name, choice in choices.items() if choice.correlate and name != SCORE]
        return Evidence(
            outcome=outcome,
            effects=measured.effects,
            scorers=scorers,
            same=outcome.windows(SELECTED) == outcome.windows(SELECTED, SCORE) == outcome.windows(SCORE),
            token_null=_binned(database, f"value_{columns.index(null)}", edges) if null else {},
            lengths=_lengths(database, f"value_{columns.index(DOC_TOKENS)}"),
            documents=_documents(database),
            repetition=_means(database, {name: f"value_{columns.index(of)}" for name, of in shown.items()}),
        )


def _choices(measured: Measured, inputs: Inputs, kept_tokens: Mapping[str, float]) -> dict[str, Choice]:
    """The score as it was chosen, with one setting changed at a time, and every scorer by itself."""
    rule = measured.rule
    # a lowest score means nothing to another scorer, so that one keeps as many tokens of each source
    same_size = replace(rule, threshold=None, share=None, tokens=0, quotas=dict(kept_tokens))
    choices = {SCORE: Choice(combined_score(rule.weights, measured.scores, inputs), rule, correlate=True)}
    for effect in measured.effects:
        changed = combined_score(rule.weights, {**measured.scores, **effect.scores}, inputs)
        choices[effect.name] = Choice(changed, rule)
    alone = next(iter(rule.weights)) if len(rule.weights) == 1 else None
    for name, score in sorted(measured.scores.items()):
        # a score that reads no column is the same for every window
        if name != alone and columns_of(score):
            limits = rule if rule.threshold is None else same_size
            choices[name] = Choice(combined_score({name: 1.0}, measured.scores, inputs), limits, correlate=True)
    return choices


def _binned(database: Database, value: str, edges: Mapping[str, Sequence[float]]) -> dict[str, list[int]]:
    """Windows of each source by bin; those outside are in the first or last bin."""
    if not edges:
        return {}
    bounds = {"source": list(edges), "low": [e[0] for e in edges.values()], "high": [e[-1] for e in edges.values()]}
    bounds["bins"] = [len(e) - 1 for e in edges.values()]
    database.lend("bounds", pa.table(bounds))
    counts = {source: [0] * (len(e) - 1) for source, e in edges.items()}
    for source, place, count in database.rows(f"""
        SELECT source, CAST(least(greatest(floor(({value} - low) / (high - low) * bins), 0), bins - 1) AS INTEGER),
            count(*)
        FROM looked JOIN bounds USING (source) WHERE {value} IS NOT NULL AND NOT isnan({value}) GROUP BY ALL
    """):
        counts[source][place] = count
    return counts


def _lengths(database: Database, value: str) -> dict[str, Lengths]:
    probabilities = [percent / 100 for percent in PERCENTS]
    histograms: dict[str, dict[int, tuple[int, int]]] = {}
    # a window is at most as long as its document, whatever the table says of a sample's tokens
    for source, place, windows, kept in database.rows(f"""
        SELECT source, CAST(floor(2 * log2(greatest({value} / num_tokens, 1))) AS INTEGER) AS place,
            count(*), count_if(kept)
        FROM looked WHERE num_tokens > 0 GROUP BY source, place ORDER BY source, place
    """):
        histograms.setdefault(source, {})[place] = (windows, kept)
    found: dict[str, Lengths] = {}
    for source, every, kept in database.rows(f"""
        SELECT source, quantile_disc({value}, {probabilities}), quantile_disc({value}, {probabilities}) FILTER (kept)
        FROM looked GROUP BY source ORDER BY source
    """):
        quantiles, of_kept = (
            {percent: int(tokens) for percent, tokens in zip(PERCENTS, values or (), strict=False)}
            for values in (every, kept)
        )
        found[source] = Lengths(quantiles, of_kept, histograms.get(source, {}))
    return found


def _documents(database: Database) -> dict[str, Documents]:
    repeated = dict(
        database.rows("""
        SELECT source, CAST(sum(least(num_tokens, greatest(0, coalesce(reach, start) - start))) AS BIGINT)
        FROM (
            SELECT source, start, num_tokens, max(start + num_tokens) OVER (
                PARTITION BY source, doc_id ORDER BY start ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
            ) AS reach
            FROM looked WHERE kept
        ) GROUP BY source
    """)
    )
    return {
        source: Documents(documents, half, largest, tokens / total, repeated[source], int(total))
        for source, documents, half, largest, tokens, total in database.rows("""
            WITH documents AS (
                SELECT source, doc_id, sum(num_tokens) AS tokens FROM looked WHERE kept GROUP BY source, doc_id
            ), ordered AS (
                SELECT *, sum(tokens) OVER (PARTITION BY source) AS total,
                    row_number() OVER by_size AS place, sum(tokens) OVER by_size AS so_far
                FROM documents WINDOW by_size AS (PARTITION BY source ORDER BY tokens DESC, doc_id)
            )
            SELECT source, count(*), min(place) FILTER (2 * so_far >= total), min_by(doc_id, place),
                max(tokens), max(total)
            FROM ordered GROUP BY source ORDER BY source
        """)
    }


def _means(database: Database, values: Mapping[str, str]) -> dict[str, dict[str, tuple[float, float | None]]]:
    found: dict[str, dict[str, tuple[float, float | None]]] = {}
    for name, value in values.items():
        every = moments_by(database, "looked", "source", value)
        kept = moments_by(database, "looked WHERE kept", "source", value)
        for source, of in every.items():
            mean = kept[source].mean if source in kept else None
            found.setdefault(source, {})[name] = (of.mean, mean)
    return dict(sorted(found.items()))
