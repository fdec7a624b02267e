"""Length: windows of longer documents first, the simplest baseline (Fu et al., arXiv 2402.10171, up-sample by it)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from longattn.expressions import Expression, column
from longattn.records import Window
from longattn.scorers.base import Columns, Schema, Scorer, Seen


@dataclass(frozen=True, kw_only=True)
class Length(Scorer):
    """The number of tokens of the document that a window was cut from."""

    name: ClassVar[str] = "length"
    measures = ("windows", "samples")

    def measurement(self) -> Mapping[str, Any]:
        """Nothing to choose."""
        return {}

    def schema(self) -> Schema:
        """``length`` in tokens."""
        return {"length": "int64"}

    def measure(self, windows: Sequence[Window], seen: Seen) -> Columns:
        """Tokens of each window's document."""
        return {"length": np.array([window.doc_tokens for window in windows], dtype=np.int64)}

    def score(self) -> Expression:
        """Longer is better."""
        return column("length")
