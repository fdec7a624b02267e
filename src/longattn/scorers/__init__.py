"""The scorers by name; a new one is a file beside these and a line in this list."""

from longattn.scorers.base import (
    Ask,
    Columns,
    Context,
    Excerpt,
    PilotScorer,
    Scorer,
    Seen,
    ShortContext,
    TokenScores,
    WholeWindow,
)
from longattn.scorers.context_dependency import ContextDependency
from longattn.scorers.ladm import LADM
from longattn.scorers.length import Length
from longattn.scorers.longattn import LongAttn
from longattn.scorers.minhash import MinHash
from longattn.scorers.random import Random
from longattn.scorers.token_null import TokenNull

SCORERS: dict[str, type[Scorer]] = {
    scorer.name: scorer
    for scorer in (
        ContextDependency,
        LADM,
        Length,
        LongAttn,
        MinHash,
        Random,
        TokenNull,
    )
}

__all__ = [
    "LADM",
    "SCORERS",
    "Ask",
    "Columns",
    "Context",
    "ContextDependency",
    "Excerpt",
    "Length",
    "LongAttn",
    "MinHash",
    "PilotScorer",
    "Random",
    "Scorer",
    "Seen",
    "ShortContext",
    "TokenNull",
    "TokenScores",
    "WholeWindow",
]
