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
from longattn.scorers.gateau import Gateau
from longattn.scorers.headmask import HeadMask
from longattn.scorers.ladm import LADM
from longattn.scorers.length import Length
from longattn.scorers.longattn import LongAttn
from longattn.scorers.longce import LongCE
from longattn.scorers.longfilter import LongFilter
from longattn.scorers.longwanjuan import LongWanjuan
from longattn.scorers.minhash import MinHash
from longattn.scorers.prolong import ProLong
from longattn.scorers.random import Random
from longattn.scorers.repetition import Repetition
from longattn.scorers.token_null import TokenNull

SCORERS: dict[str, type[Scorer]] = {
    scorer.name: scorer
    for scorer in (
        ContextDependency,
        Gateau,
        HeadMask,
        LADM,
        Length,
        LongAttn,
        LongCE,
        LongFilter,
        LongWanjuan,
        MinHash,
        ProLong,
        Random,
        Repetition,
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
    "Gateau",
    "HeadMask",
    "Length",
    "LongAttn",
    "LongCE",
    "LongFilter",
    "LongWanjuan",
    "MinHash",
    "PilotScorer",
    "ProLong",
    "Random",
    "Repetition",
    "Scorer",
    "Seen",
    "ShortContext",
    "TokenNull",
    "TokenScores",
    "WholeWindow",
]
