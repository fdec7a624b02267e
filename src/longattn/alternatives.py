"""What else could have been chosen from what a run has measured: other settings that need no model, other scorers."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from longattn.expressions import Column, in_table
from longattn.report import Effect, Measured
from longattn.scorers import LongAttn, Scorer, TokenNull
from longattn.settings import Selecting
from longattn.tables import Table

ALPHAS = (0.0, 0.5, 1.0)

RELATIVE_ERROR = {"float32": 1e-5, "bfloat16": 1e-3, "float16": 1e-3}
"""What the kernels' tests allow a sum to be wrong by, as a part of it, by precision of queries and keys."""


def measured(
    units: Sequence[str],
    windows: Table,
    tables: Mapping[str, Table],
    scorers: Mapping[str, Scorer],
    rule: Selecting,
    sources: Mapping[str, Mapping[str, Any]],
    dtype: str,
) -> Measured:
    """What a report can try on the tables of a run: ``scorers`` have their tables by the same names.

    ``sources`` are the selection's summaries, as in the manifest; ``dtype`` is the precision of queries and keys.
    """
    longattn = scorers.get("longattn")
    effects: list[Effect] = []
    noise: dict[str, float] = {}
    if isinstance(longattn, LongAttn) and "longattn" in rule.weights:
        effects = list(_effects(longattn))
        if len(rule.weights) == 1:
            found = {name: score_noise(longattn, dtype, of["quantities"]) for name, of in sources.items()}
            noise = {name: value for name, value in found.items() if value is not None}
    return Measured(
        units=units,
        windows=windows,
        tables={**tables, **{Path(file).stem: Path(file) for file in rule.tables}},
        rule=rule,
        scores={name: scorer.score() for name, scorer in scorers.items()},
        effects=effects,
        noise=noise,
        token_null=_token_null(scorers),
        repetition=_repetition(scorers),
    )


def _effects(scorer: LongAttn) -> Iterator[Effect]:
    """The scorer with one setting changed that needs no new measurement."""

    def effect(name: str, flags: str, other: LongAttn) -> Effect:
        return Effect(name, flags, {"longattn": other.score()})

    for alpha in ALPHAS:
        if alpha != scorer.alpha:
            yield effect(f"alpha {alpha:g}", f"--longattn.alpha {alpha:g}", replace(scorer, alpha=alpha))
    for distance in scorer.distances:
        if distance != scorer.distance:
            other = replace(scorer, distance=distance)
            yield effect(f"distance {distance:,}", f"--longattn.distance {distance}", other)
    rule: Literal["zscore", "minmax"] = "minmax" if _rule(scorer) == "zscore" else "zscore"
    name = {"minmax": "min-max scale", "zscore": "z-scores"}[rule]
    yield effect(name, f"--longattn.normalise {rule}", replace(scorer, normalise=rule))


def _rule(scorer: LongAttn) -> str:
    return scorer.normalise or ("zscore" if scorer.convention == "paper" else "minmax")


def score_noise(scorer: LongAttn, dtype: str, quantities: Mapping[str, Any]) -> float | None:
    """About what rounding may change the score of a window of a source by, from the source's distributions.

    A relative error r of S1 and S2 is one of r in DS, and of at most r (DU + 3 S1²/N²) in DU, S1² being taken as
    (L·DS)². Both are divided by their scales, as in the score. None where a scale is 0 or there are no readings.
    """
    if not all(name in quantities and quantities[name]["scored"] for name in ("ds", "du")):
        return None
    ds, du = (quantities[name]["scored"] for name in ("ds", "du"))
    units = [of["deviation"] if _rule(scorer) == "zscore" else of["high"] - of["low"] for of in (ds, du)]
    length, distance = scorer.length, scorer.distance
    if min(units) <= 0 or length is None or distance is None:
        return None
    # the smallest reading of N, the triangle's, makes the bound hold for all of them
    cells = (length - distance) * (length - distance + 1) / 2
    spread = abs(du["mean"]) + 3 * (length * ds["mean"] / cells) ** 2
    return RELATIVE_ERROR[dtype] * (ds["mean"] / units[0] + abs(scorer.weight) * spread / units[1])


def _token_null(scorers: Mapping[str, Scorer]) -> Column | None:
    null, longattn = scorers.get("token_null"), scorers.get("longattn")
    if not isinstance(null, TokenNull) or not isinstance(longattn, LongAttn):
        return None
    alike = (longattn.layers, longattn.distance, longattn.heads, longattn.skip_first)
    return Column("token_null", None, "token_null") if alike == ((null.layer,), null.distance, None, 0) else None


def _repetition(scorers: Mapping[str, Scorer]) -> dict[str, Column]:
    if "repetition" not in scorers:
        return {}
    readings = {name: in_table(of, "repetition") for name, of in scorers["repetition"].readings().items()}
    return {name: of for name, of in readings.items() if isinstance(of, Column)}
