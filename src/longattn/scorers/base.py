"""What a scorer is: a measurement that needs the model, kept for good, and a score that needs only the table.

``measure`` runs once per window, the expensive step. ``score`` is a formula over its columns and over what their
group looks like (see :mod:`longattn.expressions`), so that weights, distances or conventions are changed in seconds.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy.typing as npt

from longattn.expressions import Expression
from longattn.records import Window

if TYPE_CHECKING:
    from longattn.models.base import LayerAttention

Columns = Mapping[str, npt.NDArray]
"""Measured values by column name: arrays [N] or, for list columns, [N, M], a row per window."""

ColumnType = Literal["float64", "int64", "int32", "list<float64>", "list<uint32>"]
Schema = Mapping[str, ColumnType]
"""Names and types of measured columns."""


@dataclass(frozen=True)
class AttentionAsk:
    """What a scorer asks of a model: to see the rotated queries and keys of some layers, inside the forward pass."""

    layers: tuple[int, ...]
    observe: Callable[["LayerAttention"], Columns]
    """Called once per layer with a batch of windows; what it returns is all that is kept of the layer."""


class Scorer(ABC):
    """A measure of windows; subclasses are frozen dataclasses of settings and hold no model and no data.

    Fields that change the measured columns are returned by :meth:`measurement`; all others may be changed after
    measuring.
    """

    name: ClassVar[str]
    """Key in ``SCORERS``, name of the table and of the command line's settings."""

    def for_length(self, length: int) -> "Scorer":
        """The scorer with settings that depend on the window length in tokens filled in."""
        return self

    @abstractmethod
    def measurement(self) -> Mapping[str, Any]:
        """Settings that change what is measured, as JSON types; they name the table."""

    def ask(self) -> AttentionAsk | None:
        """What the model must show; None for a scorer that needs no model."""
        return None

    @abstractmethod
    def schema(self) -> Schema:
        """Names and types of the measured columns."""

    @abstractmethod
    def measure(self, windows: Sequence[Window], layers: Mapping[int, Columns]) -> Columns:
        """The measured columns of some windows.

        ``layers`` holds what the ask's ``observe`` returned for these windows, by layer; empty without an ask.
        """

    @abstractmethod
    def score(self) -> Expression:
        """One number per window from the measured columns; higher means more worth keeping."""

    def readings(self) -> Mapping[str, Expression]:
        """Named quantities a person wants to see beside the score, such as ``ds`` and ``du``."""
        return {}

    def null(self) -> Mapping[str, float]:
        """What each reading would be under uniform attention, where that is known."""
        return {}


class PilotScorer(Scorer):
    """A scorer whose measurement needs tables fitted to a sample of the corpus first, the pilot.

    The tables are fitted once per run, written to a file, and named by their content in the measurement's settings.
    """

    @abstractmethod
    def pilot_windows(self) -> int:
        """How many windows to sample."""

    @abstractmethod
    def pilot_ask(self) -> AttentionAsk:
        """What the model must show of the sample."""

    @abstractmethod
    def fit(self, windows: Sequence[Window], layers: Sequence[Mapping[int, Columns]]) -> dict[str, npt.NDArray]:
        """The tables, by name; ``layers`` holds what was observed of each window, by layer."""

    @abstractmethod
    def with_pilot(self, file: str, content_hash: str) -> "PilotScorer":
        """The scorer that reads its tables from ``file`` (safetensors), and names them by their hash."""
