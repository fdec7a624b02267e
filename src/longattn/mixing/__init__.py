"""A training mixture: selected windows and short documents in declared shares, as one shuffled set for a trainer."""

from longattn.mixing.mixing import MixSummary, mix
from longattn.mixing.shares import PUBLISHED

__all__ = ["PUBLISHED", "MixSummary", "mix"]
