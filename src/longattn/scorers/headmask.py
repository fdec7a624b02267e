"""HeadMask: how much worse a window's tokens are predicted once the model's retrieval heads are masked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np

from longattn.expressions import Expression, column
from longattn.presets import Heads, read_heads
from longattn.records import Window
from longattn.scorers.base import Ask, Columns, Schema, Scorer, Seen, WholeWindow


@dataclass(frozen=True, kw_only=True)
class HeadMask(Scorer):
    """AttentionInfluence: the relative change of the loss when some heads attend to all their keys alike.

    Paper: https://arxiv.org/abs/2505.07293, Eq. 5, with L the mean loss of the window's tokens, each predicted from all
    before it, and L' the same from the model with its retrieval heads masked::

        score = (L' - L) / L

    Figure 3 of the paper has L' in the denominator, which changes the numbers but not their order. No code has been
    released. The paper masks the 5 % of heads with the highest retrieval scores, and compares windows of one domain.

    The heads are measured; the denominator may be changed afterwards.
    """

    name: ClassVar[str] = "headmask"

    heads: Heads = ()
    """Heads to mask, as pairs of a layer and a head, both 0-based."""
    preset: str | None = None
    """Take the heads from this file of ``longattn heads`` instead, or from the preset of this name that comes with the
    package."""
    top: float | int | None = None
    """Mask this many heads, those with the preset's highest scores: from 1 on a number of those that it lists, below 1
    a share of all heads of the model (0.05, as in the paper). None masks all that it lists."""

    relative_to: Literal["base", "masked", "nothing"] = "base"
    """Divide the change of the loss by the loss of the whole model (Eq. 5), by that of the masked one (Figure 3), or by
    nothing."""

    def for_length(self, length: int) -> "HeadMask":
        """The scorer with its preset's heads.

        Raises ``PresetError`` for a preset that is not one of heads, ``ValueError`` for heads from two places, or for
        the best ones of none.
        """
        if self.preset is None:
            if self.top is not None:
                raise ValueError(f"top is of a preset's heads, and none is named (headmask.preset); got top {self.top}")
            return self
        if self.heads:
            raise ValueError(f"heads must come from settings or from a preset, got both: {self.heads}, {self.preset}")
        return replace(self, heads=read_heads(self.preset, self.top), preset=None, top=None)

    def measurement(self) -> Mapping[str, Any]:
        """The heads, in ascending order."""
        return {"heads": sorted(set(self.heads))}

    def ask(self) -> Ask:
        """Predictions of the whole model and of the masked one. Raises ``ValueError`` if no head is named."""
        return Ask(contexts=(WholeWindow(), self._masked))

    def schema(self) -> Schema:
        """Mean loss in nats of the whole model and of the masked one."""
        return {"loss": "float64", "masked_loss": "float64"}

    def measure(self, windows: Sequence[Window], seen: Seen) -> Columns:
        """The columns of :meth:`schema`, of one window."""
        contexts = {"loss": WholeWindow(), "masked_loss": self._masked}
        means = {
            name: -seen.predictions[context][0].log_probs.mean(dtype=np.float64) for name, context in contexts.items()
        }
        return {name: np.array([mean]) for name, mean in means.items()}

    def score(self) -> Expression:
        """The change of the loss, relative to what was chosen."""
        change = column("masked_loss") - column("loss")
        if self.relative_to == "nothing":
            return change
        return change / column("loss" if self.relative_to == "base" else "masked_loss")

    def readings(self) -> Mapping[str, Expression]:
        """``loss`` and ``masked_loss``."""
        return {"loss": column("loss"), "masked_loss": column("masked_loss")}

    @property
    def _masked(self) -> WholeWindow:
        if not self.heads:
            raise ValueError("headmask has no heads to mask; name them (heads), or a file of `longattn heads` (preset)")
        return WholeWindow(frozenset(self.heads))
