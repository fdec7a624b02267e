"""Put a BOS before every window that a model is given, without a window's rows, distances or predictions moving."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from longattn.errors import ModelError
from longattn.models.base import Heads, LayerAttention, Model, Predictions, Visit, check_tokens
from longattn.models.checkpoint import Checkpoint


@dataclass(frozen=True, kw_only=True, eq=False)
class WithBos(Model):
    """A model that reads a BOS before each window: it is in every softmax, and neither shown as a row nor predicted."""

    prefix: ClassVar[int] = 1

    inner: Model = field(repr=False)
    """The model itself, loaded for windows of one token more."""
    bos: int
    """Id of the token."""

    def queries_and_keys(
        self,
        tokens: Int[Tensor, "B T"],
        layers: Sequence[int],
        visit: Visit,
        rows: Int[Tensor, " R"] | None = None,
    ) -> None:
        """As the model itself, for rows of the window."""
        self.inner.queries_and_keys(self._behind_bos(tokens), layers, _in_the_window(visit, rows), _behind(rows))

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
        """As the model itself; masked heads attend to the BOS like to any other token before theirs."""
        if not 1 <= first < tokens.shape[1]:
            raise ValueError(f"first must be from 1 to {tokens.shape[1] - 1}, the last token, got {first}")
        return self.inner.predictions(
            self._behind_bos(tokens),
            first + 1,
            shared=shared and shared + 1,
            masked_heads=masked_heads,
            layers=layers,
            visit=None if visit is None else _in_the_window(visit, rows),
            rows=_behind(rows),
        )

    def _behind_bos(self, tokens: Int[Tensor, "B T"]) -> Int[Tensor, "B S"]:
        check_tokens(self, tokens)
        return torch.nn.functional.pad(tokens, (1, 0), value=self.bos)


def with_bos(inner: Model, checkpoint: Checkpoint) -> WithBos:
    """The model with its own BOS before each window, for windows of one token less.

    Raises ``ModelError`` for a model whose config names none, or one that it does not embed.
    """
    bos = checkpoint.config.get("bos_token_id")
    if not isinstance(bos, int) or not 0 <= bos < inner.vocab_size:
        raise ModelError(
            f"{inner.name} has no BOS to put before a window (bos_token_id in its config.json: {bos}); leave model.bos "
            "off, or name the token in a local copy"
        )
    return WithBos(
        name=inner.name,
        hash=inner.hash,
        num_layers=inner.num_layers,
        vocab_size=inner.vocab_size,
        max_positions=inner.max_positions,
        window=inner.window - 1,
        device=inner.device,
        dtype=inner.dtype,
        inner=inner,
        bos=bos,
    )


def _behind(rows: Int[Tensor, " R"] | None) -> Int[Tensor, " R"] | None:
    """Rows of a window among those of the BOS and the window."""
    return None if rows is None else rows + 1


def _in_the_window(visit: Visit, rows: Int[Tensor, " R"] | None) -> Visit:
    """The same visitor, shown the window's own rows, at their places in the window."""

    def show(layer: LayerAttention) -> None:
        # where all rows are shown, the BOS' own comes first
        own = layer.at(slice(1, None)) if rows is None else layer
        visit(own._replace(positions=own.positions - 1, prefix=1))

    return show
