"""One forward pass per window for all scorers: what each of them asks of the model is gathered, run and handed out."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from longattn import settings
from longattn.models import Checkpoint
from longattn.records import Window
from longattn.scorers import Ask, Columns, Context, Seen, TokenScores, WholeWindow

if TYPE_CHECKING:
    import torch

    from longattn.models.base import LayerAttention, Model, Visit

TOKENS_AT_ONCE = 4096
"""Tokens of excerpts that share a batch; they are all of one window."""


def load_model_for(
    asks: Sequence[Ask], checkpoint: Checkpoint, model: settings.Model, window: int, device: str
) -> "Model":
    """A model that can answer what is asked about windows of ``window`` tokens, with no more of it than that takes."""
    from longattn.models import load_model

    predicts = any(ask.contexts for ask in asks)
    named = sorted({layer for ask in asks if ask.layers != "all" for layer in ask.layers})
    layers: Sequence[int] | Literal["all"] = "all" if any(ask.layers == "all" for ask in asks) else named
    return load_model(checkpoint, model, layers=layers, window=window, predicts=predicts, device=device)


def look(asks: Sequence[Ask], model: "Model | None", window: Window) -> list[Seen]:
    """What the model shows of a window to each ask; contexts and layers that several ask for are run once."""
    if not asks:
        return []
    assert model is not None, "a scorer that asks needs a model"
    layers = [_Layers(ask, model.num_layers, window) for ask in asks]
    contexts = dict.fromkeys(context for ask in asks for context in ask.contexts)
    predictions = {context: _predict(context, model, window, []) for context in contexts if context != WholeWindow()}
    if WholeWindow() in contexts:
        predictions[WholeWindow()] = _predict(WholeWindow(), model, window, layers)
    elif any(one.layers for one in layers):
        tokens_BT = _batch([window.tokens], model)
        model.queries_and_keys(tokens_BT, *_visit(layers, model))
    return [
        Seen(one.seen, {context: predictions[context] for context in ask.contexts})
        for ask, one in zip(asks, layers, strict=True)
    ]


class _Layers:
    """The layers and rows that one ask wants to see of a window, and what it has seen."""

    def __init__(self, ask: Ask, num_layers: int, window: Window) -> None:
        self.layers = frozenset(range(num_layers) if ask.layers == "all" else ask.layers)
        self.observe = ask.observe
        self.window = window
        self.rows = ask.rows(window) if ask.rows else None
        self.seen: dict[int, Columns] = {}

    def show(self, attention: "LayerAttention", shown: npt.NDArray[np.int64] | None) -> None:
        """Let the ask observe its own rows among those ``shown`` (sorted; None for all)."""
        import torch

        if attention.layer not in self.layers or self.observe is None:
            return
        if self.rows is not None:
            place = self.rows if shown is None else np.searchsorted(shown, self.rows)
            chosen = torch.from_numpy(place).to(attention.q.device)
            attention = attention._replace(q=attention.q[:, chosen], positions=attention.positions[chosen])
        self.seen[attention.layer] = self.observe(attention._replace(window=self.window))


def _visit(asked: Sequence[_Layers], model: "Model") -> "tuple[list[int], Visit, torch.Tensor | None]":
    """Layers, visitor and rows of one forward pass that shows each ask what it wants."""
    import torch

    layers = sorted(frozenset().union(*(one.layers for one in asked)))
    asking = [one.rows for one in asked if one.layers]
    some = [rows for rows in asking if rows is not None]
    shown = np.unique(np.concatenate(some)) if some and len(some) == len(asking) else None

    def visit(attention: "LayerAttention") -> None:
        for one in asked:
            one.show(attention, shown)

    return layers, visit, None if shown is None else torch.from_numpy(shown).to(model.device)


def _batch(tokens: Sequence[npt.NDArray[np.uint32]], model: "Model") -> "torch.Tensor":
    import torch

    return torch.from_numpy(np.stack(tokens).astype(np.int64)).to(model.device)


def _predict(context: Context, model: "Model", window: Window, layers: Sequence[_Layers]) -> list[TokenScores]:
    """Predictions for each excerpt of a context; ``layers`` are shown on the way, if there is but one excerpt."""
    excerpts = context.excerpts(window)
    shapes: dict[tuple[int, int], list[int]] = {}
    for i, excerpt in enumerate(excerpts):
        shapes.setdefault((len(excerpt.tokens), excerpt.first), []).append(i)
    found: dict[int, TokenScores] = {}
    for (length, first), members in shapes.items():
        at_once = max(1, TOKENS_AT_ONCE // length)
        for start in range(0, len(members), at_once):
            batch = members[start : start + at_once]
            tokens_BT = _batch([excerpts[i].tokens for i in batch], model)
            asked, visit, rows = _visit(layers, model) if layers else ([], None, None)
            log_probs_BS, hits_BS = model.predictions(
                tokens_BT, first, masked_heads=context.masked_heads, layers=asked, visit=visit, rows=rows
            )
            for row, i in enumerate(batch):
                found[i] = TokenScores(log_probs_BS[row].cpu().numpy(), hits_BS[row].cpu().numpy())
    return [found[i] for i in range(len(excerpts))]
