"""What a scorer is: a measurement that needs the model, kept for good, and a score that needs only the table.

``measure`` runs once per window, the expensive step. ``score`` is a formula over its columns and over what their
group looks like (see :mod:`longattn.expressions`), so that weights, distances or conventions are changed in seconds.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from longattn import settings
from longattn.expressions import Expression
from longattn.records import Window

if TYPE_CHECKING:
    from longattn.models.base import LayerAttention

Columns = Mapping[str, npt.NDArray]
"""Measured values by column name: arrays [N] or, for list columns, [N, M], a row per window."""

ColumnType = Literal["float64", "int64", "int32", "list<float64>", "list<uint32>"]
Schema = Mapping[str, ColumnType]
"""Names and types of measured columns."""


class Excerpt(NamedTuple):
    """Tokens to be predicted, and those that they are predicted from."""

    tokens: npt.NDArray[np.uint32]
    """Shape [T]."""
    first: int
    """The first token that is predicted, from 1 to T - 1; each is predicted from all before it."""
    shared: int = 0
    """Tokens at the beginning, fewer than ``first``, that other excerpts of the window begin with as well: they go
    through the model once for all of these."""


class TokenScores(NamedTuple):
    """How well the model predicted the tokens of an excerpt, from its ``first`` on; shapes [T - first]."""

    log_probs: npt.NDArray[np.float32]
    """Natural logarithm of the probability that each token had."""
    hits: npt.NDArray[np.bool_]
    """Whether it was the most probable token."""


class Context(ABC):
    """What a window's tokens are predicted from; subclasses are frozen dataclasses, and equal ones are run once."""

    masked_heads: frozenset[tuple[int, int]] = frozenset()
    """Heads (layer, head) that attend to all their keys alike meanwhile."""
    model: settings.Model | None = None
    """The model that predicts them; None is the run's own, any other is loaded beside it."""

    @abstractmethod
    def excerpts(self, window: Window) -> Sequence[Excerpt]:
        """The parts of the window that go through the model; those of one shape may share a batch."""


@dataclass(frozen=True)
class WholeWindow(Context):
    """Every token but the first from all before it."""

    masked_heads: frozenset[tuple[int, int]] = frozenset()
    model: settings.Model | None = None

    def excerpts(self, window: Window) -> Sequence[Excerpt]:
        """The window itself; none if there is no token but the first."""
        return [Excerpt(window.tokens, 1)] if len(window.tokens) > 1 else []


@dataclass(frozen=True)
class ShortContext(Context):
    """Tokens from number ``length`` on, each from at least ``length`` and fewer than ``length + step`` before it."""

    length: int
    step: int

    @classmethod
    def within(cls, window: int, length: int | None = None, step: int | None = None) -> "ShortContext":
        """The short context of windows of ``window`` tokens; what is None is filled in so that it is cheap.

        Excerpts are then a quarter of the window long and overlap by a quarter of themselves: L/16 tokens of context
        at least, L/4 at most, for 5/4 of the window's tokens through the model. This is the stride of Helm et al.
        (arXiv 2503.09202, 8,192 and 6,144 tokens in windows of 32,768). Raises ``ValueError`` for a context that leaves
        no token to predict.

        >>> ShortContext.within(32768)
        ShortContext(length=2048, step=6144)
        """
        length = max(1, window // 16) if length is None else length
        if not 1 <= length < window:
            raise ValueError(f"context must be from 1 to {window - 1} for windows of {window} tokens, got {length}")
        step = max(1, window // 4 - length) if step is None else step
        if step < 1:
            raise ValueError(f"step must be at least 1, got {step}")
        return cls(length, step)

    def excerpts(self, window: Window) -> Sequence[Excerpt]:
        """One excerpt per ``step`` tokens; none if the window is no longer than the context."""
        starts = range(self.length, len(window.tokens), self.step)
        return [Excerpt(window.tokens[start - self.length : start + self.step], self.length) for start in starts]


@dataclass(frozen=True, kw_only=True)
class Ask:
    """What a scorer asks of a model; one forward pass answers for all scorers that ask alike."""

    layers: tuple[int, ...] | Literal["all"] = ()
    """Decoder layers whose rotated queries and keys are shown to ``observe``."""
    observe: Callable[["LayerAttention"], Columns] | None = None
    """Called inside the forward pass, once per layer with a batch of one window; what it returns is all that is
    kept of the layer."""
    rows: Callable[[Window], npt.NDArray[np.int64]] | None = None
    """Positions of the queries that ``observe`` is shown; None for all."""
    contexts: tuple[Context, ...] = ()
    """Contexts that the window's tokens are predicted from."""


@dataclass(frozen=True)
class Seen:
    """What the model showed of one window; empty for a scorer that asked for nothing."""

    layers: Mapping[int, Columns] = field(default_factory=dict)
    """What ``observe`` returned, by layer."""
    predictions: Mapping[Context, Sequence[TokenScores]] = field(default_factory=dict)
    """By context, for each of its excerpts."""
    is_finite: bool = True
    """Whether all that it was made of are finite numbers: a NaN or infinity among queries, keys or log-probabilities
    need not leave a trace in a sum, but makes it wrong."""


def long_and_short(seen: Seen, short: ShortContext) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Log-probabilities of the tokens from number ``short.length`` on, from all before them and from the short context.

    Both in nats, shape [T - short.length]; the ask has to name :class:`WholeWindow` and ``short`` among its contexts.
    """
    whole = seen.predictions[WholeWindow()][0].log_probs[short.length - 1 :]
    parts = [scores.log_probs for scores in seen.predictions[short]]
    return whole.astype(np.float64), np.concatenate(parts).astype(np.float64)


class Scorer(ABC):
    """A measure of windows; subclasses are frozen dataclasses of settings and hold no model and no data.

    Fields that change the measured columns are returned by :meth:`measurement`; all others may be changed after
    measuring.
    """

    name: ClassVar[str]
    """Key in ``SCORERS``, name of the table and of the command line's settings."""

    measures: ClassVar[tuple[Literal["windows", "samples"], ...]] = ("windows",)
    """Whether it is of windows of one length, cut from documents, of samples of messages, or of both."""

    def for_length(self, length: int) -> "Scorer":
        """The scorer with settings that depend on the window length in tokens filled in."""
        return self

    @abstractmethod
    def measurement(self) -> Mapping[str, Any]:
        """Settings that change what is measured, as JSON types; they name the table."""

    def ask(self) -> Ask | None:
        """What the model must show; None for a scorer that needs no model."""
        return None

    @abstractmethod
    def schema(self) -> Schema:
        """Names and types of the measured columns."""

    @abstractmethod
    def measure(self, windows: Sequence[Window], seen: Seen) -> Columns:
        """The measured columns of some windows; of one window, the one that ``seen`` speaks of, if there is an ask."""

    @abstractmethod
    def score(self) -> Expression:
        """One number per window from the measured columns; higher means more worth keeping."""

    def variance_of_score(self) -> Expression | None:
        """Variance of the score's error where columns are estimates; None where they are exact."""
        return None

    def readings(self) -> Mapping[str, Expression]:
        """Named quantities a person wants to see beside the score, such as ``ds`` and ``du``."""
        return {}

    def null(self, prefix: int = 0) -> Mapping[str, float]:
        """What each reading would be under uniform attention with ``prefix`` tokens before the window (a BOS), where
        that is known.
        """
        return {}


class PilotScorer(Scorer):
    """A scorer whose measurement needs tables fitted to a sample of the corpus first, the pilot.

    The tables are fitted once per run, written to a file, and named by their content in the measurement's settings.
    """

    @abstractmethod
    def pilot_windows(self) -> int:
        """How many windows to sample; 0 where these settings need no pilot."""

    @abstractmethod
    def pilot_ask(self) -> Ask:
        """What the model must show of the sample."""

    @abstractmethod
    def fit(self, windows: Sequence[Window], seen: Sequence[Seen]) -> dict[str, npt.NDArray]:
        """The tables, by name; ``seen`` holds what the model showed of each window."""

    @abstractmethod
    def with_pilot(self, file: str, content_hash: str) -> "PilotScorer":
        """The scorer that reads its tables from ``file`` (safetensors), and names them by their hash."""
