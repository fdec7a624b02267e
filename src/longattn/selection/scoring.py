"""Turn the columns of every window into its score and rank."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import pyarrow as pa

from longattn.expressions import (
    Binary,
    Column,
    Constant,
    Expression,
    Standardised,
    columns_of,
    in_table,
    origin_and_unit,
    to_sql,
    walk,
    zscore,
)
from longattn.selection.database import Database, text
from longattn.selection.loading import Inputs, suggestion
from longattn.selection.moments import is_number, moments_by, number

REASONS = ("kept", "below_cut", "overlap", "near_duplicate", "duplicate_id", "filtered", "non_finite")
"""What can become of a window, in the words of the selection file."""


WINDOW_ID = "doc_id || '@' || start"
"""SQL for a window's id."""

SORTED_TOGETHER = 2**20
"""Windows that are sorted at a time, about: some sources, or some of the best of one that is left.

About 250 bytes each; DuckDB was seen to run out of memory over sorts as large as its limit instead of spilling them.
"""


def combined_score(weights: Mapping[str, float], scores: Mapping[str, Expression], inputs: Inputs) -> Expression:
    """One scorer's own score, or the weighted sum of the z-scores of several."""
    if not weights:
        raise ValueError(f"weights must name at least one scorer of {', '.join(scores)} or a column:NAME")
    for name, weight in weights.items():
        if not math.isfinite(weight) or weight == 0:
            raise ValueError(f"the weight of {name} must be a number other than 0, got {weight}")
    parts = {name: _part(name, scores, inputs) for name in weights}
    if len(parts) == 1:
        ((name, part),) = parts.items()
        return part if weights[name] > 0 else -part
    total, *others = [Binary("*", Constant(float(weights[name])), zscore(part)) for name, part in parts.items()]
    for other in others:
        total = total + other
    return total


def _part(name: str, scores: Mapping[str, Expression], inputs: Inputs) -> Expression:
    if name.startswith("column:"):
        return _column(name.removeprefix("column:"), inputs)
    if name in scores:
        return in_table(scores[name], name)
    raise ValueError(f"weights name {name!r}, which was not measured{suggestion(name, list(scores))}")


def _column(name: str, inputs: Inputs) -> Column:
    """The column that ``NAME`` or ``TABLE.NAME`` means."""
    known = inputs.columns()
    matches = [full for full in known if name in (full, full.partition(".")[2])]
    if not matches:
        raise ValueError(f"column {name!r} is in no table{suggestion(name, known)}")
    if len(matches) > 1:
        raise ValueError(f"column {name!r} is in {' and '.join(matches)}; write column:{matches[0]}")
    table, _, column = matches[0].partition(".")
    return Column(column, None, table)


def score_windows(
    database: Database,
    score: Expression,
    readings: Mapping[str, Expression],
    columns: Sequence[Column],
    normalise_over: str,
) -> list[str]:
    """Make the table ``ranked``: every window with its score and readings, the best of each source first.

    Readings are columns ``reading_0 ...``. A row's ``rowid`` is its place in the selection file; its ``reason`` is the
    one that holds unless a later step finds another. Returns remarks on scales that a reader should know of.
    """
    known = " AND ".join([is_number(f"value_{columns.index(c)}") for c in columns_of(score)] or ["true"])
    peers = "source" if normalise_over == "source" else "''"
    # sources as numbers in their own order take a third off the time of the sort below
    database.run("CREATE TYPE source AS ENUM (SELECT DISTINCT source FROM loaded ORDER BY source)")
    database.run(f"""
        CREATE VIEW scorable AS
        SELECT * REPLACE (CAST(source AS source) AS source), rowid AS row,
            source AS source_name, {peers} AS peers, NOT duplicate AND {known} AS usable
        FROM loaded
    """)
    to_text, remarks = _standardise(database, [score, *readings.values()], columns)
    shown = "".join(f", {number(to_text(reading))} AS reading_{i}" for i, reading in enumerate(readings.values()))
    # one byte a row, because marking a tenth of the rows with a string takes longer than sorting them all
    database.run(f"CREATE TYPE reason AS ENUM ({', '.join(map(text, REASONS))})")
    score_or_null = f"CASE WHEN usable THEN {number(to_text(score))} END"
    ranked = f"""
        SELECT doc_id, doc, shared, source, start, num_tokens, char_start, char_end, row{shown},
            {score_or_null} AS score,
            CAST(CASE
                WHEN duplicate THEN 'duplicate_id'
                WHEN score IS NULL THEN 'non_finite'
                WHEN NOT passes THEN 'filtered'
                ELSE 'below_cut'
            END AS reason) AS reason
        FROM scorable LEFT JOIN scales USING (peers)
            LEFT JOIN (SELECT row, hash(file, position) AS copy FROM repeated) USING (row)
    """
    database.run(f"CREATE TABLE ranked AS {ranked} LIMIT 0")
    for some in _together(database, score_or_null):
        order = f"ORDER BY source, score DESC NULLS LAST, {WINDOW_ID}, copy"
        database.put("ranked", f"{ranked} WHERE {some} {order}")
    return remarks


def _together(database: Database, score: str) -> Iterator[str]:
    """Conditions on ``scorable``, each for windows that are sorted together, in the order of their results.

    A sort then takes no more room than one such group does.
    """
    first = last = ""
    total = 0
    for source, rows in database.rows("SELECT source, count(*) FROM loaded GROUP BY source ORDER BY source"):
        if total and total + rows > SORTED_TOGETHER:
            yield from _by_score(database, score, f"source_name BETWEEN {text(first)} AND {text(last)}", total)
            total = 0
        first, last, total = first if total else source, source, total + rows
    yield from _by_score(database, score, f"source_name BETWEEN {text(first)} AND {text(last)}", total)


def _by_score(database: Database, score: str, sources: str, rows: int) -> Iterator[str]:
    """The condition ``sources`` or, for one source of too many rows, several from the best scores to none."""
    parts = -(-rows // SORTED_TOGETHER)
    if parts < 2:
        yield sources
        return
    shares = [1 - part / parts for part in range(1, parts)]
    # where they are cut is left to an estimate; the order that results is the same wherever that is
    ((cuts,),) = database.rows(f"""
        SELECT approx_quantile({score}, {shares}) FROM scorable LEFT JOIN scales USING (peers) WHERE {sources}
    """)
    above: float | None = None
    for cut in sorted(set(cuts or ()), reverse=True):
        yield f"{sources} AND {score} >= {cut!r}::DOUBLE" + (
            f" AND {score} < {above!r}::DOUBLE" if above is not None else ""
        )
        above = cut
    yield sources if above is None else f"{sources} AND coalesce({score} < {above!r}::DOUBLE, true)"


def tabulate_sources(database: Database) -> dict[str, int]:
    """Make the table ``sources`` with the place at which each begins; returns their scored tokens."""
    database.run("""
        CREATE TABLE sources AS
        SELECT source, min(rowid) AS first, coalesce(sum(num_tokens) FILTER (score IS NOT NULL), 0) AS scored_tokens
        FROM ranked GROUP BY source
    """)
    return dict(database.rows("SELECT source, scored_tokens FROM sources ORDER BY source"))


def _standardise(
    database: Database, expressions: Sequence[Expression], columns: Sequence[Column]
) -> tuple[Callable[[Expression], str], list[str]]:
    """Measure the scale of every standardised part, innermost first, into the table ``scales``.

    Returns how to write an expression as SQL over ``scorable LEFT JOIN scales USING (peers)``, and remarks.
    """
    nodes = [node for expression in expressions for node in walk(expression) if isinstance(node, Standardised)]
    nodes = list(dict.fromkeys(nodes))

    def to_text(expression: Expression) -> str:
        return to_sql(expression, lambda column: f"value_{columns.index(column)}", standardised, unit)

    def standardised(node: Standardised) -> str:
        i, inner = nodes.index(node), number(to_text(node.inner))
        return f"(CASE WHEN unit_{i} > 0 THEN ({inner} - origin_{i}) / unit_{i} ELSE {inner} - {inner} END)"

    def unit(node: Standardised) -> str:
        return f"unit_{nodes.index(node)}"

    remarks: list[str] = []
    scales = pa.table({"peers": [peers for (peers,) in database.rows("SELECT DISTINCT peers FROM scorable")]})
    scales = scales.cast(pa.schema([("peers", pa.string())]))
    database.lend("scales", scales)
    for i, node in enumerate(nodes):
        inner, relation = number(to_text(node.inner)), "scorable LEFT JOIN scales USING (peers) WHERE usable"
        found = moments_by(database, relation, "peers", inner)
        pairs = {peers: origin_and_unit(node.rule, of) for peers, of in found.items()}
        for k, name in enumerate((f"origin_{i}", f"unit_{i}")):
            values = [pairs[peers][k] if peers in pairs else None for peers in scales["peers"].to_pylist()]
            scales = scales.append_column(name, pa.array(values, pa.float64()))
        database.lend("scales", scales)
        if node.rule == "minmax":
            remarks += _lone_ends(database, relation, inner)
    return to_text, remarks


def _lone_ends(database: Database, relation: str, value: str) -> list[str]:
    """A remark for each group whose min-max scale would shrink by half or more without a single window."""
    groups = database.rows(f"""
        SELECT peers, low[1], low[2], high[2], high[1]
        FROM (SELECT peers, min({value}, 2) AS low, max({value}, 2) AS high FROM {relation} GROUP BY peers)
        WHERE len(low) = 2 AND least(high[2] - low[1], high[1] - low[2]) <= (high[1] - low[1]) / 2
            AND low[1] < high[1]
        ORDER BY peers
    """)
    return [
        f"{f'source {peers}' if peers else 'all sources'}: one window sets half or more of the min-max scale from "
        f"{lowest:g} to {highest:g} (the next values are {low:g} and {high:g}); zscore is not so easily moved"
        for peers, lowest, low, high, highest in groups
    ]
