"""What it changes to encode selected windows again for the model that will be trained on them."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Retokenized:
    """What another tokenizer made of the windows."""

    tokenizer: str
    """Content hash of the trainee's tokenizer."""
    windows: int = 0
    tokens_before: int = 0
    tokens_after: int = 0
    """Tokens of the windows' whole texts in the trainee's tokenizer, before anything is cut off."""
    shortest: int = 0
    longest: int = 0
    longer: int = 0
    """Windows with more tokens than before; ``tokens`` is cut at the window's length, ``text`` left whole."""
    shorter: int = 0
    """Windows with fewer tokens than before; they are not filled up."""
    tokens_cut: int = 0

    def adding(self, before: int, after: int) -> "Retokenized":
        """The sums with one more window."""
        return replace(
            self,
            windows=self.windows + 1,
            tokens_before=self.tokens_before + before,
            tokens_after=self.tokens_after + after,
            shortest=min(after, self.shortest or after),
            longest=max(after, self.longest),
            longer=self.longer + (after > before),
            shorter=self.shorter + (after < before),
            tokens_cut=self.tokens_cut + max(0, after - before),
        )

    @property
    def ratio(self) -> float:
        """Trainee tokens per token of the scoring model; below 1 where its vocabulary fits better."""
        return self.tokens_after / self.tokens_before if self.tokens_before else 1.0

    @property
    def mean(self) -> float:
        """Mean tokens of a window after."""
        return self.tokens_after / self.windows if self.windows else 0.0
