"""Every choice about training; a field's docstring is its help text."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from longattn.settings import plain


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a model is trained on windows. Defaults are the LongAttn paper's (Table 6), or ours where it says nothing."""

    tokens: int | None = None
    """Train on about this many tokens; None on every window once. More than there are: again, in another order."""
    batch_tokens: int = 64 * 32768
    """Tokens per step over all devices; the paper's 64 windows of 32,768. How many windows a device goes through before
    a step follows from it."""
    device_windows: int = 1
    """Windows that a device computes at once; more of them take more memory and change nothing but rounding."""
    order: Literal["shuffled", "given"] = "shuffled"
    """The order of windows: drawn from ``seed``, another one in each pass, or as the files have them."""
    documents: Literal["together", "apart"] = "together"
    """``apart``: a token sees those of its own document alone, positions begin anew with each, and the first token of
    none is predicted; for sequences of a mixture, whose column ``boundaries`` says where documents begin."""
    seed: int = 0
    """Decides the order of windows and everything that is drawn."""
    learning_rate: float = 1e-5
    """Highest learning rate (paper); it falls to 0 along half a cosine wave."""
    warmup: float = 0.02
    """Share of the steps in which the learning rate rises from 0 (ours: the paper states none)."""
    weight_decay: float = 0.1
    """Of AdamW, for matrices alone (ours)."""
    beta1: float = 0.9
    """Of AdamW (ours)."""
    beta2: float = 0.95
    """Of AdamW (ours)."""
    clip: float = 1.0
    """Longest gradient; a longer one is shortened to it (ours)."""
    dropout: float = 0.0
    """Of attention weights. The paper's 0.1 is its framework's default and concerns hidden states too, where models of
    the Llama family have none."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of products; weights and optimizer are float32 in either case, since a learning rate of 1e-5 is lost in rounding
    otherwise. ``auto`` takes bfloat16 on GPUs that have it."""
    attention: Literal["full", "shifted"] = "full"
    """``shifted``: train with attention within groups of neighbours, shifted in half of the heads (LongLoRA); losses on
    held-out windows, and the model afterwards, are with full attention."""
    groups: int = 4
    """Groups of a window in shifted attention (LongLoRA's four)."""
    lora_rank: int | None = None
    """Train low-rank additions of this rank to the attention's projections in place of all weights, and the embeddings
    and norms as they are (LongLoRA); the result is merged."""
    lora_alpha: int = 16
    """The additions are multiplied by this and divided by the rank."""
    lora_whole: bool = True
    """Train embeddings and norms beside the additions; without them they do not learn a longer window (LongLoRA)."""
    chunk_tokens: int | None = None
    """Go through a window in chunks of this many tokens, forth without gradients and back with them, so that only a
    chunk's activations are in memory (SeCO); the gradient is exact. In place of activation checkpointing."""
    chunk_share: float = 1.0
    """Go back through this share of the chunks alone, drawn anew for every window (SpaCO)."""
    chunk_draw: Literal["bernoulli", "paper"] = "bernoulli"
    """``bernoulli``: each chunk by itself, weighted so that the gradient is right on average; ``paper``: a fixed number
    of them and the paper's weights, which are biased."""
    activation_checkpointing: bool = True
    """Keep of each layer its input and what its attention gave, and compute the rest again in the backward pass: more
    time, and memory for one layer's activations in place of all."""
    held_out: str | None = None
    """Another export, of windows that are not trained on: their loss is measured before the first step, every
    ``evaluate_every`` steps and after the last."""
    evaluate_every: int = 100
    """Steps between two measurements of the held-out loss."""
    save_every: int = 100
    """Steps between two checkpoints; one is written at the end and when the process is told to stop, too."""
    keep: int = 2
    """Newest checkpoints to keep."""

    WITHOUT_EFFECT: ClassVar[frozenset[str]] = frozenset(
        {"activation_checkpointing", "device_windows", "keep", "save_every"}
    )
    """Fields that change nothing but rounding, time and memory: an attempt may go on with others."""

    def check(self) -> None:
        """Raise ``ValueError`` for a value that no training can have."""
        for name in ("batch_tokens", "device_windows", "evaluate_every", "save_every", "keep"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("warmup", "dropout", "beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        if self.groups < 1:
            raise ValueError(f"groups must be at least 1, got {self.groups}")
        if self.lora_rank is not None and self.lora_rank < 1:
            raise ValueError(f"lora_rank must be at least 1, got {self.lora_rank}")
        if not 0 < self.chunk_share <= 1:
            raise ValueError(f"chunk_share must be in (0, 1], got {self.chunk_share}")
        if self.chunk_tokens is None and self.chunk_share < 1:
            raise ValueError("chunk_share is of chunks, and there are none without chunk_tokens")
        if self.documents == "apart" and (self.chunk_tokens is not None or self.attention != "full"):
            raise ValueError(
                "documents apart need full attention, and no chunk_tokens: they are a mask of whole windows"
            )
        if self.chunk_tokens is not None:
            if self.chunk_tokens < 1:
                raise ValueError(f"chunk_tokens must be at least 1, got {self.chunk_tokens}")
            if self.dropout or self.attention != "full":
                raise ValueError("chunk_tokens needs dropout 0 and full attention: a chunk is made twice, and sees all")
        for name in ("learning_rate", "clip", "lora_alpha"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        if self.tokens is not None and self.tokens < self.batch_tokens:
            raise ValueError(f"tokens must be at least batch_tokens, {self.batch_tokens}, got {self.tokens}")

    def warmup_steps(self, steps: int) -> int:
        """Of so many steps, those in which the learning rate rises from 0; never all, or nothing would be learned.

        >>> [Training().warmup_steps(steps) for steps in (2384, 2, 1)]
        [48, 1, 0]
        """
        return min(math.ceil(self.warmup * steps), steps - 1)

    def decisive(self) -> dict[str, Any]:
        """The settings that decide the result, as JSON types."""
        return {
            f.name: plain(getattr(self, f.name)) for f in dataclasses.fields(self) if f.name not in self.WITHOUT_EFFECT
        }
