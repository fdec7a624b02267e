"""What other choices would keep: one load of the tables, scored and cut again by each choice."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property

from longattn.expressions import Column, Expression, columns_of
from longattn.selection.database import Database
from longattn.selection.keeping import check_rule, keep_best, source_limits
from longattn.selection.scoring import score_windows, tabulate_sources
from longattn.settings import Selecting

WORD = 62
"""Choices whose kept sets are the bits of one 64-bit number."""


@dataclass(frozen=True)
class Choice:
    """A score and a rule to cut by."""

    score: Expression
    """Columns name their table."""
    rule: Selecting
    correlate: bool = False
    """Whether its ranks are to be correlated with those of the others."""


@dataclass(frozen=True)
class Share:
    """Windows of one source that the same choices keep."""

    source: str
    keepers: frozenset[str]
    windows: int
    tokens: int


@dataclass(frozen=True)
class Correlation:
    """Two choices on the windows of one source that every correlated choice has scored."""

    source: str
    first: str
    second: str
    windows: int
    spearman: float | None
    """None where all windows of one of the two are equal."""


@dataclass(frozen=True)
class Outcome:
    """What the choices keep, and how their ranks agree."""

    shares: Sequence[Share] = field(default=())
    """Every window that some choice keeps is in exactly one of them."""
    correlations: Sequence[Correlation] = field(default=())

    @cached_property
    def _sets(self) -> dict[str | None, dict[frozenset[str], tuple[int, int]]]:
        """Windows and tokens by keepers, by source and (None) over all."""
        found: dict[str | None, dict[frozenset[str], tuple[int, int]]] = {None: {}}
        for share in self.shares:
            for group in (found[None], found.setdefault(share.source, {})):
                windows, tokens = group.get(share.keepers, (0, 0))
                group[share.keepers] = (windows + share.windows, tokens + share.tokens)
        return found

    def tokens(self, *names: str, source: str | None = None) -> int:
        """Tokens that all of these choices keep, in one source or in all."""
        return self._sum(frozenset(names), source, 1)

    def windows(self, *names: str, source: str | None = None) -> int:
        """Windows that all of these choices keep, in one source or in all."""
        return self._sum(frozenset(names), source, 0)

    def _sum(self, names: frozenset[str], source: str | None, part: int) -> int:
        return sum(of[part] for keepers, of in self._sets.get(source, {}).items() if names <= keepers)


def try_choices(
    database: Database, choices: Mapping[str, Choice], columns: Sequence[Column], *, given: str | None = None
) -> Outcome:
    """Select from the table ``loaded`` by each choice, exactly as :func:`longattn.selection.select` would.

    ``columns`` are those that ``loaded`` holds as ``value_0 ...``. ``given`` names a kept set that is there already, as
    a table ``given`` with a column ``row`` of rowids of ``loaded``. Bounded by the database's memory limit.
    """
    names = [*([given] if given is not None else []), *choices]
    database.run("CREATE TABLE keepers (row BIGINT, word INTEGER, bit BIGINT)")
    if given is not None:
        database.run("INSERT INTO keepers SELECT row, 0, 1 FROM given")
    correlated = [name for name, choice in choices.items() if choice.correlate]
    for name, choice in choices.items():
        check_rule(choice.rule)
        with _apart(database):
            _keep(database, choice, columns)
            word, place = divmod(names.index(name), WORD)
            database.run(f"""
                INSERT INTO main.keepers SELECT row, {word}, {1 << place} FROM ranked WHERE reason = 'kept'
            """)
            if choice.correlate:
                database.run(f"""
                    CREATE TABLE main.score_{correlated.index(name)} AS
                    SELECT row, CAST(source AS VARCHAR) AS source, score FROM ranked WHERE score IS NOT NULL
                """)
    return Outcome(list(_shares(database, names)), list(_correlations(database, correlated)))


@contextmanager
def _apart(database: Database) -> Iterator[None]:
    """A schema for the tables of one selection, which is gone with them afterwards."""
    database.run("CREATE SCHEMA choice")
    database.run("SET schema = 'choice'")
    try:
        yield
    finally:
        database.run("SET schema = 'main'")
        database.run("DROP SCHEMA choice CASCADE")


def _keep(database: Database, choice: Choice, columns: Sequence[Column]) -> None:
    """Make the table ``ranked`` with every window's fate."""
    score_windows(database, choice.score, {}, columns, choice.rule.normalise_over)
    limits = source_limits(choice.rule, tabulate_sources(database))
    keep_best(database, choice.rule, limits)


def _shares(database: Database, names: Sequence[str]) -> Iterator[Share]:
    words = range(-(-len(names) // WORD))
    sums = ", ".join(f"CAST(coalesce(sum(bit) FILTER (word = {w}), 0) AS BIGINT) AS bits_{w}" for w in words)
    bits = ", ".join(f"bits_{w}" for w in words)
    for source, *kept, windows, tokens in database.rows(f"""
        SELECT source, {bits}, count(*), sum(num_tokens)
        FROM (SELECT row, {sums} FROM keepers GROUP BY row) AS kept
        JOIN loaded ON loaded.rowid = kept.row
        GROUP BY source, {bits} ORDER BY source, {bits}
    """):
        keepers = frozenset(name for i, name in enumerate(names) if kept[i // WORD] >> i % WORD & 1)
        yield Share(source, keepers, windows, int(tokens))


def _correlations(database: Database, names: Sequence[str]) -> Iterator[Correlation]:
    """Spearman's correlation of every two, from whole numbers: twice the mid-ranks, added up exactly."""
    if len(names) < 2:
        return
    scores = ", ".join(f"score_{i}.score AS s{i}" for i in range(len(names)))
    joined = " ".join(f"JOIN score_{i} USING (row)" for i in range(1, len(names)))
    # ties share the mean of their places: rank + (number of ties - 1) / 2
    places = ", ".join(
        f"2 * rank() OVER (PARTITION BY source ORDER BY s{i}) + count(*) OVER (PARTITION BY source, s{i}) - 1 AS p{i}"
        for i in range(len(names))
    )
    pairs = list(itertools.combinations_with_replacement(range(len(names)), 2))
    products = ", ".join(f"sum(p{i} * p{j})" for i, j in pairs)
    for source, count, *sums in database.rows(f"""
        WITH common AS (SELECT score_0.source AS source, {scores} FROM score_0 {joined}),
            placed AS (SELECT source, {places} FROM common)
        SELECT source, count(*), {products} FROM placed GROUP BY source ORDER BY source
    """):
        # what is left of a sum of products when the means, count + 1, are taken off
        spread = {pair: int(total) - count * (count + 1) ** 2 for pair, total in zip(pairs, sums, strict=True)}
        for i, j in itertools.combinations(range(len(names)), 2):
            scale = spread[i, i] * spread[j, j]
            value = spread[i, j] / math.sqrt(scale) if scale else None
            yield Correlation(source, names[i], names[j], count, value)


def columns_of_all(choices: Mapping[str, Choice]) -> list[Column]:
    """The distinct columns that the choices read."""
    return list(dict.fromkeys(column for choice in choices.values() for column in columns_of(choice.score)))
