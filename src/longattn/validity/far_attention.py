"""Far attention of every head at several distances and numbers of skipped keys, measured once to try them all."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from longattn.expressions import Constant, Expression
from longattn.records import Window
from longattn.scorers import Ask, Columns, Scorer, Seen
from longattn.scorers.base import Schema

if TYPE_CHECKING:
    from longattn.models.base import LayerAttention


@dataclass(frozen=True, kw_only=True)
class FarAttention(Scorer):
    """S1 and S2 as :class:`LongAttn` measures them, of each head, from an even sample of the rows.

    With R of L rows the sums are those of the sampled rows times L/R. It is no score of its own: it is what a
    calibration chooses from.
    """

    name: ClassVar[str] = "far_attention"

    layers: tuple[int, ...]
    """Decoder layers, 0-based."""
    distances: tuple[int, ...]
    """Minimum distances in tokens."""
    skips: tuple[int, ...] = (0,)
    """Numbers of first keys that are left out of the far sums."""
    num_rows: int | None = None
    """Query rows of a window, each in the middle of its share of the window; None for all."""

    def measurement(self) -> Mapping[str, Any]:
        """Everything."""
        return asdict(self)

    def ask(self) -> Ask:
        """Queries of the sampled rows, and keys."""
        return Ask(layers=self.layers, observe=self.observe, rows=self._rows if self.num_rows else None)

    def _rows(self, window: Window) -> npt.NDArray[np.int64]:
        assert self.num_rows is not None
        number = min(self.num_rows, len(window.tokens))
        return ((2 * np.arange(number, dtype=np.int64) + 1) * len(window.tokens)) // (2 * number)

    def observe(self, layer: "LayerAttention") -> Columns:
        """S1 and S2, each [1, H, skips, distances], scaled up to all rows."""
        scale = layer.num_tokens / layer.q.shape[1]
        s1, s2 = [], []
        for skip in self.skips:
            moments = layer.row_moments(self.distances, skip_first=skip)
            s1.append(moments.mass.cpu().numpy().sum(axis=2) * scale)
            s2.append(moments.square.cpu().numpy().sum(axis=2) * scale)
        return {"s1": np.stack(s1, axis=2), "s2": np.stack(s2, axis=2)}

    def schema(self) -> Schema:
        """``s1`` and ``s2``, each a list over layers, heads, skips and distances, the last changing fastest."""
        return {"num_tokens": "int32", "s1": "list<float64>", "s2": "list<float64>"}

    def measure(self, windows: Sequence[Window], seen: Seen) -> Columns:
        """The columns of :meth:`schema`."""
        lengths = np.array([len(window.tokens) for window in windows], dtype=np.int32)
        sums = {
            kind: np.stack([seen.layers[layer][kind] for layer in self.layers], axis=1).reshape(len(windows), -1)
            for kind in ("s1", "s2")
        }
        return {"num_tokens": lengths, **sums}

    def score(self) -> Expression:
        """Nothing: a score is what a calibration finds."""
        return Constant(0.0)
