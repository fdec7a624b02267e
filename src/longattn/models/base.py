"""The questions that a scorer may ask of a model."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from longattn import attention, settings
from longattn.attention import RowMoments
from longattn.errors import ModelError
from longattn.records import Window
from longattn.settings import Backend


class LayerAttention(NamedTuple):
    """A layer's attention map, causal softmax over the keys of ``scale * q @ k``, and the questions to ask of it.

    Rows, distances, spans and skipped keys are those of the window's own tokens, whatever the model was given before
    them: its methods count, and whoever reads ``k`` has to count the ``prefix``.
    """

    layer: int
    q: Float[Tensor, "B R H K"]
    """Queries of the asked rows, after the rotary embedding."""
    k: Float[Tensor, "B S G K"]
    """Keys after the rotary embedding: those of ``prefix`` tokens, then the window's; ``H / G`` neighbouring heads
    share one."""
    scale: float
    positions: Int[Tensor, " R"]
    """Places of the query rows in the window."""
    window: Window | None = None
    """The window that is looked at; known to those who asked (:func:`longattn.asking.look`)."""
    prefix: int = 0
    """Tokens before the window (a BOS): they are in every softmax, and in no row, span or far sum."""

    @property
    def num_tokens(self) -> int:
        """Tokens of the window."""
        return self.k.shape[1] - self.prefix

    def at(self, rows: slice | Int[Tensor, " N"]) -> "LayerAttention":
        """The same map with some of its rows, by their place among them."""
        return self._replace(q=self.q[:, rows], positions=self.positions[rows])

    def row_moments(self, distances: Sequence[int], *, skip_first: int = 0, backend: Backend = "auto") -> RowMoments:
        """Far attention of each row: :func:`longattn.attention.row_moments` of the window's tokens."""
        return attention.row_moments(
            self.q,
            self.k,
            positions=self.positions + self.prefix,
            distances=distances,
            skip_first=skip_first + self.prefix,
            scale=self.scale,
            backend=backend,
        )

    def span_mass(self, edges: Sequence[int], *, limits: Int[Tensor, " R"] | None = None) -> Float[Tensor, "B H R S"]:
        """Attention mass of each row on spans of the window: :func:`longattn.attention.span_mass`.

        ``limits`` are the numbers of tokens of the window that rows attend to; None is all up to the row.
        """
        seen = self.positions + 1 if limits is None else limits
        return attention.span_mass(
            self.q,
            self.k,
            limits=seen + self.prefix,
            edges=[edge + self.prefix for edge in edges],
            scale=self.scale,
        )

    def top_keys(self) -> Int[Tensor, "B H R"]:
        """The token that gets most of each row's attention; below 0 one before the window."""
        return attention.top_keys(self.q, self.k, positions=self.positions + self.prefix) - self.prefix


class Predictions(NamedTuple):
    """How well a model predicts the tokens that are there."""

    log_probs: Float[Tensor, "B S"]
    """Natural logarithm of each token's probability, given those before it; float32."""
    hits: Bool[Tensor, "B S"]
    """Whether the token was the most probable one."""


Visit = Callable[[LayerAttention], None]
Heads = frozenset[tuple[int, int]]
"""Attention heads as (layer, head), both 0-based."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Model(ABC):
    """A model loaded for windows of up to one length, on one device."""

    prefix: ClassVar[int] = 0
    """Tokens that it puts before each window."""

    name: str
    hash: str
    """Content hash of the checkpoint; settings such as ``rope_theta`` and ``dtype`` are not part of it."""
    num_layers: int
    """Layers of the whole model, loaded or not."""
    vocab_size: int
    max_positions: int
    """Positions that the model was made for."""
    window: int
    """Tokens per window that the model was loaded for."""
    device: torch.device
    dtype: torch.dtype
    others: Mapping[settings.Model, "Model"] = field(default_factory=dict, repr=False)
    """Models loaded beside this one, for those who asked for them by their settings."""

    @abstractmethod
    def queries_and_keys(
        self,
        tokens: Int[Tensor, "B T"],
        layers: Sequence[int],
        visit: Visit,
        rows: Int[Tensor, " R"] | None = None,
    ) -> None:
        """Call ``visit`` once per asked layer, in ascending order, inside the forward pass; nothing is kept.

        ``rows`` are the positions whose queries are wanted, in any order; without it all are. Windows of a
        batch have the same length: there is no padding. Raises ``ValueError`` for tokens or layers that the
        model was not loaded for.
        """

    @abstractmethod
    def predictions(
        self,
        tokens: Int[Tensor, "B T"],
        first: int = 1,
        *,
        shared: int = 0,
        masked_heads: Heads = frozenset(),
        layers: Sequence[int] = (),
        visit: Visit | None = None,
        rows: Int[Tensor, " R"] | None = None,
    ) -> Predictions:
        """Predictions of the tokens from ``first`` on, each from all before it, in one forward pass.

        The first ``shared`` tokens are the same in all rows, and go through the model once where it can do that; no
        layers can be visited then. ``masked_heads`` attend to all their keys alike, so that they tell nothing of the
        content. ``visit`` is called for ``layers`` as in :meth:`queries_and_keys`. Raises ``ValueError`` for a model
        that was loaded without its head, for ``first`` outside [1, T), for ``shared`` outside [0, first), for tokens
        that are not shared, and for heads that the model does not have.
        """


def check_finite(name: str, tensors: Mapping[str, Tensor]) -> None:
    """Raise ``ModelError`` for weights that hold a NaN or an infinity: what they touch would be wrong, seen or not."""
    for key, tensor in tensors.items():
        # a piece at a time: the answer for a whole embedding would be half as large as the embedding
        pieces = tensor.detach().flatten().split(2**24)
        if bad := sum(int(torch.isfinite(piece).logical_not().sum()) for piece in pieces):
            raise ModelError(f"{name}: {key} holds {bad} values that are not finite numbers as {tensor.dtype}")


def check_tokens(model: Model, tokens: Int[Tensor, "B T"]) -> None:
    """Raise ``ValueError`` for a window that is empty or too long, or for a token that has no embedding."""
    length = tokens.shape[1]
    if not 0 < length <= model.window:
        raise ValueError(f"windows have {length} tokens; the model was loaded for 1 to {model.window}")
    if tokens.numel() and not 0 <= int(tokens.min()) <= int(tokens.max()) < model.vocab_size:
        raise ValueError(f"token ids must be from 0 to {model.vocab_size - 1}")
