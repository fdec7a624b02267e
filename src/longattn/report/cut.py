"""How sure the cut of a selection is: what lies within rounding, or within sampling error, of it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

from longattn.selection.database import Database

STEPS = 64
"""Classes per standard error that margins are counted in."""
REACH = 6
"""Standard errors beyond which no window is expected on the wrong side."""


@dataclass(frozen=True)
class Cut:
    """Where the windows of one source were parted, and how close others lie."""

    lowest_kept: float
    """Score of the worst kept window."""
    next_best: float | None
    """Score of the best window that was left out for its score alone; None where there is none."""
    ties: int
    """Windows left out whose score is that of the worst kept one; the id decided."""
    noise: float | None
    """What rounding may add to or take from a score; None where no bound is known."""
    near: int | None
    """Windows that rounding may put on the other side."""
    uncertain: int | None
    """Windows within two standard errors of the cut; None where all rows were measured."""
    wrong: float | None
    """Windows expected on the wrong side, from their standard errors."""

    @property
    def margin(self) -> float | None:
        """Between the worst kept window and the best left out."""
        return None if self.next_best is None else self.lowest_kept - self.next_best


def find_cuts(database: Database, noise: Mapping[str, float]) -> dict[str, Cut]:
    """The cut of each source that keeps some window, from a selection in the table ``chosen``."""
    found = {
        source: (lowest, best)
        for source, lowest, best in database.rows("""
            SELECT source, min(score) FILTER (reason = 'kept') AS lowest, max(score) FILTER (reason = 'below_cut')
            FROM chosen GROUP BY source HAVING lowest IS NOT NULL ORDER BY source
        """)
    }
    bounds = {
        "source": list(found),
        "lowest": [lowest for lowest, _ in found.values()],
        "best": [best for _, best in found.values()],
        "reach": [2 * reach if (reach := noise.get(source)) is not None else None for source in found],
    }
    kinds = [pa.string(), pa.float64(), pa.float64(), pa.float64()]
    database.lend("bounds", pa.table(bounds, pa.schema(list(zip(bounds, kinds, strict=True)))))
    near = {
        source: (ties, close, sampled)
        for source, ties, close, sampled in database.rows("""
            SELECT source, count_if(reason = 'below_cut' AND score = lowest),
                count_if(if(reason = 'kept', score < best + reach, score > lowest - reach)), count(score_se) > 0
            FROM chosen JOIN bounds USING (source) WHERE reason IN ('kept', 'below_cut') GROUP BY source
        """)
    }
    wrong, uncertain = _on_the_wrong_side(database)
    return {
        source: Cut(
            lowest,
            best,
            near[source][0],
            noise.get(source),
            near[source][1] if noise.get(source) is not None and best is not None else None,
            uncertain.get(source, 0) if near[source][2] else None,
            wrong.get(source, 0.0) if near[source][2] else None,
        )
        for source, (lowest, best) in found.items()
    }


def _on_the_wrong_side(database: Database) -> tuple[dict[str, float], dict[str, int]]:
    """By source: the sum of each window's probability to be on the other side, and windows within two errors."""
    wrong: dict[str, float] = {}
    uncertain: dict[str, int] = {}
    for source, step, count in database.rows(f"""
        SELECT source, CAST(floor({STEPS} * abs(score - (lowest + best) / 2) / score_se) AS INTEGER) AS step, count(*)
        FROM chosen JOIN bounds USING (source)
        WHERE reason IN ('kept', 'below_cut') AND score_se > 0 AND abs(score - (lowest + best) / 2) < {REACH} * score_se
        GROUP BY source, step ORDER BY source, step
    """):
        margin = (step + 0.5) / STEPS
        wrong[source] = wrong.get(source, 0.0) + count * 0.5 * math.erfc(margin / math.sqrt(2))
        uncertain[source] = uncertain.get(source, 0) + (count if step < 2 * STEPS else 0)
    return wrong, uncertain
