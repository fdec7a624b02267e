"""Two selections side by side: what entered, what left, and what moved it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import pyarrow as pa

from longattn.addresses import is_uri
from longattn.expressions import Moments
from longattn.report.selections import load_selection, reading
from longattn.selection.database import Database
from longattn.selection.moments import moments_by
from longattn.tables import RunFolder, file_sha256, write_chunks

PER_SOURCE = 25
"""Windows that entered a source, and as many that left it, which are listed; a file has all of them."""
MAX_LISTED = 1000
"""Windows that are listed at most, which leaves room for 20 sources."""

SAME_SCORE = 1e-6
"""A score that differs from a formula by less is that formula's."""

Cause = Literal["rank", "budget", "overlap", "near_duplicate", "filtered", "non_finite", "absent"]
"""Why a window is kept on one side only: its rank; how much is kept; what happened to it, or that it is not there, on
the other side."""
Mover = Literal["DS", "DU", "weight of DU", "score"]
"""What changed a window's rank most; ``score`` where DS and DU do not explain it."""

CHANGES_SCHEMA = pa.schema(
    [
        ("change", pa.string()),
        ("source", pa.string()),
        ("window_id", pa.string()),
        ("doc_id", pa.string()),
        ("start", pa.int64()),
        ("num_tokens", pa.int32()),
        ("cause", pa.string()),
        ("mover", pa.string()),
        *((f"{name}_{side}", kind) for side in "ab" for name, kind in (("reason", pa.string()), ("rank", pa.int64()))),
        *((f"{name}_{side}", pa.float64()) for side in "ab" for name in ("score", "z_ds", "z_du")),
    ]
)


@dataclass(frozen=True)
class Side:
    """One of two selections."""

    name: str
    """As it was named."""
    selection: Path
    manifest: Mapping[str, Any]
    """The run's; empty for a selection without one."""

    @property
    def peers(self) -> str:
        """What windows are standardised within, as SQL."""
        over = self.manifest.get("recipe", {}).get("keep", {}).get("normalise_over", "source")
        return "source" if over == "source" else "''"


@dataclass(frozen=True)
class SourceChange:
    """What changed in one source; the second of each pair is of the second selection."""

    source: str
    windows: tuple[int, int]
    kept: tuple[int, int]
    tokens: tuple[int, int]
    """Of kept windows."""
    both: int
    """Windows that both keep."""
    both_tokens: int
    entered: int
    left: int
    characters: tuple[int, int]
    """Of the documents, in kept windows, each counted once."""
    both_characters: int
    """In kept windows of both, however these are cut."""


@dataclass(frozen=True)
class Move:
    """Windows with one fate here and one fate there; None where there is no such window."""

    first: str | None
    second: str | None
    windows: int
    tokens: int


@dataclass(frozen=True)
class Reasons:
    """How many windows entered or left for one cause."""

    change: Literal["entered", "left"]
    cause: str
    mover: str | None
    """For a changed rank, what changed it most."""
    windows: int
    tokens: int


@dataclass(frozen=True)
class Difference:
    """How two selections differ; names ending in ``_a`` and ``_b`` are of the first and the second."""

    names: tuple[str, str]
    same_windows: bool
    """Whether both chose among the same windows of the same text."""
    only: tuple[int, int]
    """Windows that only one of them has."""
    sources: Sequence[SourceChange]
    moves: Sequence[Move]
    reasons: Sequence[Reasons]
    settings: Sequence[tuple[str, Any, Any]]
    """Settings and facts that differ, by name."""
    remarks: Sequence[str]
    """What a reader has to know before comparing."""
    windows: Sequence[Mapping[str, Any]] = field(default=())
    """The best of those that entered, and of those that left, by source, in the sources that changed most: columns of
    ``CHANGES_SCHEMA``."""

    def total(self, name: str) -> Any:
        """The sum over sources of a number, or of a pair of numbers."""
        values = [getattr(source, name) for source in self.sources]
        if values and isinstance(values[0], tuple):
            return tuple(sum(pair) for pair in zip(*values, strict=True))
        return sum(values)

    @property
    def overlap(self) -> float | None:
        """Tokens that both keep, as a part of those that either does; None where nothing is kept."""
        first, second = self.total("tokens") or (0, 0)
        both = self.total("both_tokens")
        return both / (first + second - both) if first + second else None


def open_side(place: str | Path) -> Side:
    """A run folder, the address of one in a store, or a selection file, with the manifest that lists it, if any.

    Raises ``FileNotFoundError`` for what is none of these, :class:`RunError` for a run whose selection is not whole.
    """
    path = Path(place)
    if is_uri(str(place)) or path.is_dir():
        run = RunFolder.at(place)
        if not run.holds("selection.parquet"):
            raise FileNotFoundError(
                f"{place} is a run that was not selected yet, or no run: it has no selection.parquet"
            )
        return Side(str(place), run.listed("selection.parquet", "select again"), run.manifest())
    if not path.is_file():
        raise FileNotFoundError(f"{path} is neither a run folder nor a selection file")
    manifest = RunFolder(path.parent).manifest()
    # a copy that was kept beside the run is of an earlier selection
    listed = manifest.get("files", {}).get("selection.parquet", {}).get("sha256")
    return Side(str(path), path, manifest if listed == file_sha256(path) else {})


def compare_selections(first: str | Path, second: str | Path, changes: Path | None = None) -> Difference:
    """Compare two selections, each a run folder, the address of one in a store, or a selection file.

    A window is the same on both sides if its id and its span of characters are. ``changes`` is a Parquet file to
    write every window to that entered or left (``CHANGES_SCHEMA``). Joins are DuckDB's, in bounded memory.
    """
    sides = open_side(first), open_side(second)
    with TemporaryDirectory(prefix="longattn-diff-") as folder, reading(Path(folder)) as database:
        weights: list[float | None] = []
        for name, side in zip("ab", sides, strict=True):
            load_selection(database, side.selection, name)
            _standardise(database, name, side)
            weights.append(_du_weight(database, name))
        _join(database, weights)
        if changes is not None:
            columns = ", ".join(CHANGES_SCHEMA.names)
            rows = database.stream(f"SELECT {columns} FROM changes ORDER BY source, change, place, window_id")
            write_chunks(changes, CHANGES_SCHEMA, (chunk.cast(CHANGES_SCHEMA) for chunk in rows))
        ((only_a, only_b, recut),) = database.rows("""
            SELECT count_if(b_id IS NULL), count_if(a_id IS NULL),
                count_if(a_id IS NULL AND id IN (SELECT window_id FROM a))
            FROM pairs
        """)
        return Difference(
            names=(sides[0].name, sides[1].name),
            same_windows=not only_a and not only_b,
            only=(only_a, only_b),
            sources=_sources(database),
            moves=[Move(*row) for row in database.rows(MOVES)],
            reasons=[Reasons(*row) for row in database.rows(REASONS)],
            settings=list(_settings(sides[0].manifest, sides[1].manifest)),
            remarks=list(_remarks(sides, recut, only_a, only_b)),
            windows=_listed(database),
        )


def _standardise(database: Database, name: str, side: Side) -> None:
    """Make the table ``z_<name>``: the rows of a selection, with z-scores of DS and DU over its scored windows."""
    found: dict[str, dict[str, Moments]] = {
        column: moments_by(database, f"{name} WHERE score IS NOT NULL AND {column} IS NOT NULL", side.peers, column)
        for column in ("ds", "du")
    }
    peers = sorted({peer for of in found.values() for peer in of})
    scales = {"peers": pa.array(peers, pa.string())}
    for column, of in found.items():
        scales[f"{column}_mean"] = pa.array([of[p].mean if p in of else None for p in peers], pa.float64())
        # where all are equal there is nothing to be standardised by
        units = [of[p].deviation if p in of and of[p].deviation else None for p in peers]
        scales[f"{column}_unit"] = pa.array(units, pa.float64())
    database.lend("scales", pa.table(scales))
    database.run(f"""
        CREATE TABLE z_{name} AS
        SELECT {name}.*, (ds - ds_mean) / ds_unit AS z_ds, (du - du_mean) / du_unit AS z_du
        FROM {name} LEFT JOIN scales ON scales.peers = {side.peers} WHERE reason <> 'duplicate_id'
    """)
    database.run(f"""
        CREATE TABLE reach_{name} AS
        SELECT source, max(rank) AS last FROM {name} WHERE reason = 'kept' GROUP BY source
    """)


def _du_weight(database: Database, name: str) -> float | None:
    """What z(DU) is multiplied by in the score, as the scores themselves show it.

    None where they are not z(DS) plus a multiple of z(DU): another scorer's, several, or on another scale.
    """
    scored = f"FROM z_{name} WHERE score IS NOT NULL"
    ((weight,),) = database.rows(f"SELECT sum((score - z_ds) * z_du) / sum(z_du * z_du) {scored}")
    if weight is None:
        return None
    # rounded, so that the order in which rows were added leaves no trace
    weight = round(weight, 9)
    ((error,),) = database.rows(f"SELECT max(abs(score - z_ds - {weight!r}::DOUBLE * z_du)) {scored}")
    return weight if error is not None and error < SAME_SCORE else None


def _join(database: Database, weights: Sequence[float | None]) -> None:
    """Make the tables ``pairs``, every window of either side, and ``changes``, those that one side keeps."""
    of = ("rank", "reason", "score", "z_ds", "z_du")
    columns = ", ".join(f"{side}.{name} AS {name}_{side}" for name in of for side in "ab")
    either = ("source", "doc_id", "start", "num_tokens")
    common = ", ".join(f"coalesce(b.{name}, a.{name}) AS {name}" for name in either)
    database.run(f"""
        CREATE TABLE pairs AS
        SELECT coalesce(b.window_id, a.window_id) AS id, a.window_id AS a_id, b.window_id AS b_id,
            a.source AS source_a, b.source AS source_b, {common}, {columns}
        FROM z_a AS a FULL JOIN z_b AS b
            ON a.window_id = b.window_id AND a.char_start = b.char_start AND a.char_end = b.char_end
    """)
    # without the weights, z-scores are compared as they are
    known = None not in weights
    first, second = (f"CAST('{weight!r}' AS DOUBLE)" if known else "1.0::DOUBLE" for weight in weights)
    database.run(f"""
        CREATE TABLE changes AS
        WITH different AS (
            SELECT *, id AS window_id, if(coalesce(reason_b = 'kept', false), 'entered', 'left') AS change
            FROM pairs WHERE coalesce(reason_a = 'kept', false) <> coalesce(reason_b = 'kept', false)
        ), explained AS (
            SELECT different.*,
                if(change = 'entered', coalesce(reason_a, 'absent'), coalesce(reason_b, 'absent')) AS other,
                if(change = 'entered', rank_a <= reach_b.last, rank_b <= reach_a.last) AS within_reach,
                if(change = 'entered', rank_b, rank_a) AS place,
                if(change = 'entered', 1, -1) AS up,
                z_ds_b - z_ds_a AS by_ds, {second} * (z_du_b - z_du_a) AS by_du,
                ({second} - {first}) * z_du_a AS by_weight
            FROM different
            LEFT JOIN reach_a ON reach_a.source = different.source_a
            LEFT JOIN reach_b ON reach_b.source = different.source_b
        ), caused AS (
            SELECT *,
                CASE WHEN other <> 'below_cut' THEN other WHEN within_reach THEN 'budget' ELSE 'rank' END AS cause,
                greatest(up * by_ds, up * by_du, up * by_weight) AS most
            FROM explained
        )
        SELECT *, CASE
            WHEN cause <> 'rank' THEN NULL
            WHEN most IS NULL OR most <= 0 THEN 'score'
            WHEN most = up * by_ds THEN 'DS'
            WHEN most = up * by_weight THEN 'weight of DU'
            ELSE 'DU'
        END AS mover
        FROM caused
    """)


MOVES = """
    SELECT reason_a, reason_b, count(*), CAST(sum(num_tokens) AS BIGINT) FROM pairs
    GROUP BY ALL ORDER BY reason_a NULLS LAST, reason_b NULLS LAST
"""
REASONS = """
    SELECT change, cause, mover, count(*) AS windows, CAST(sum(num_tokens) AS BIGINT) FROM changes
    GROUP BY ALL ORDER BY change, windows DESC, cause, mover
"""


def _sources(database: Database) -> list[SourceChange]:
    characters = {source: of for source, *of in database.rows(CHARACTERS)}
    return [
        SourceChange(
            source,
            (windows_a, windows_b),
            (kept_a, kept_b),
            (int(tokens_a), int(tokens_b)),
            both,
            int(both_tokens),
            entered=kept_b - both,
            left=kept_a - both,
            characters=(int(characters[source][0]), int(characters[source][1])) if source in characters else (0, 0),
            both_characters=int(characters[source][2]) if source in characters else 0,
        )
        for source, windows_a, windows_b, kept_a, kept_b, tokens_a, tokens_b, both, both_tokens in database.rows("""
            WITH fates AS (
                SELECT *, coalesce(reason_a = 'kept', false) AS a, coalesce(reason_b = 'kept', false) AS b FROM pairs
            )
            SELECT source, count(a_id), count(b_id), count_if(a), count_if(b),
                sum(if(a, num_tokens, 0)), sum(if(b, num_tokens, 0)), count_if(a AND b), sum(if(a AND b, num_tokens, 0))
            FROM fates GROUP BY source ORDER BY source
        """)
    ]


# at each place where a kept window begins or ends, how many of each side's windows hold what follows; a document that
# the two sides have in different sources is in the second one's
CHARACTERS = """
    WITH events AS (
        SELECT doc_id, unnest([char_start, char_end]) AS place, unnest([1, -1]) AS a, 0 AS b
        FROM z_a WHERE reason = 'kept'
        UNION ALL
        SELECT doc_id, unnest([char_start, char_end]), 0, unnest([1, -1]) FROM z_b WHERE reason = 'kept'
    ), places AS (
        SELECT doc_id, place, sum(a) AS a, sum(b) AS b FROM events GROUP BY ALL
    ), spans AS (
        SELECT doc_id, lead(place, 1, place) OVER reading_order - place AS length,
            sum(a) OVER reading_order > 0 AS a, sum(b) OVER reading_order > 0 AS b
        FROM places WINDOW reading_order AS (PARTITION BY doc_id ORDER BY place)
    ), documents AS (
        SELECT doc_id, coalesce(max(source_b), max(source_a)) AS source
        FROM pairs WHERE reason_a = 'kept' OR reason_b = 'kept' GROUP BY doc_id
    )
    SELECT source, sum(if(a, length, 0)), sum(if(b, length, 0)), sum(if(a AND b, length, 0))
    FROM spans JOIN documents USING (doc_id) GROUP BY source ORDER BY source
"""


def _listed(database: Database) -> list[dict[str, Any]]:
    """The best windows that entered and that left each source, of the sources with most changes."""
    rows = database.rows(f"""
        WITH busy AS (
            SELECT source FROM changes GROUP BY source ORDER BY count(*) DESC, source
            LIMIT {MAX_LISTED // (2 * PER_SOURCE)}
        )
        SELECT {", ".join(CHANGES_SCHEMA.names)} FROM changes WHERE source IN (SELECT source FROM busy)
        QUALIFY row_number() OVER (PARTITION BY source, change ORDER BY place, window_id) <= {PER_SOURCE}
        ORDER BY source, change, place, window_id
    """)
    return [dict(zip(CHANGES_SCHEMA.names, row, strict=True)) for row in rows]


def _settings(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Settings, model, hashes and versions that differ."""
    if not first or not second:
        return
    facts = [{**_flat("", of.get("recipe", {})), **_made_with(of)} for of in (first, second)]
    for name in sorted(facts[0].keys() | facts[1].keys()):
        here, there = (of.get(name) for of in facts)
        if here != there:
            yield name, here, there


def _made_with(manifest: Mapping[str, Any]) -> dict[str, Any]:
    tables = manifest.get("tables", {})
    tokenizer = tables.get("windows", {}).get("settings", {}).get("tokenizer")
    folders = {f"table {name}": of["folder"] for name, of in tables.items()}
    versions = {f"{name} version": value for name, value in manifest.get("versions", {}).items()}
    return {"model hash": manifest.get("model", {}).get("hash"), "tokenizer hash": tokenizer, **folders, **versions}


def _flat(prefix: str, value: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, item in value.items():
        name = key if prefix in ("", "settings.") else f"{prefix}{key}"
        found |= _flat(f"{name}.", item) if isinstance(item, Mapping) and item else {name: item}
    return found


def _remarks(sides: tuple[Side, Side], recut: int, only_a: int, only_b: int) -> Iterator[str]:
    for side in sides:
        if not side.manifest:
            yield f"{side.name} has no manifest beside it: its settings are not known"
    first, second = ([_made_with(s.manifest), s.manifest.get("recipe", {}).get("window", {})] for s in sides)
    if all(side.manifest for side in sides):
        if first[1] != second[1]:
            yield (
                f"windows have {first[1].get('length'):,} tokens here and {second[1].get('length'):,} there: no window "
                "is the same; compare what is kept by characters"
            )
        if first[0]["tokenizer hash"] != second[0]["tokenizer hash"]:
            yield "the tokenizers differ, so windows are cut elsewhere; compare what is kept by characters"
    if recut:
        yield f"{recut:,} windows have the same id on both sides but another span of text, and are counted as different"
    elif only_a or only_b:
        yield f"{only_a:,} windows are only in {sides[0].name}, {only_b:,} only in {sides[1].name}"
