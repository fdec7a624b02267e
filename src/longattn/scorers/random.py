"""Random choice, the baseline that every measure has to beat."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from longattn.expressions import Expression, column
from longattn.records import Window
from longattn.scorers.base import Columns, Schema, Scorer, Seen


@dataclass(frozen=True, kw_only=True)
class Random(Scorer):
    """A uniform number in [0, 1) that depends on the seed and the window's id alone, never on order or machine."""

    name: ClassVar[str] = "random"
    measures = ("windows", "samples")

    seed: int = 0
    """Another seed is another draw."""

    def measurement(self) -> Mapping[str, Any]:
        """The seed."""
        return {"seed": self.seed}

    def schema(self) -> Schema:
        """``random``."""
        return {"random": "float64"}

    def measure(self, windows: Sequence[Window], seen: Seen) -> Columns:
        """One draw per window: the first 53 bits of SHA-256 over seed and id."""
        digests = [hashlib.sha256(f"{self.seed}\0{window.id}".encode()).digest() for window in windows]
        return {"random": np.array([(int.from_bytes(d[:8], "big") >> 11) / 2**53 for d in digests])}

    def score(self) -> Expression:
        """The draw."""
        return column("random")
