"""One forward pass per window for all scorers: what each of them asks of the model is gathered, run and handed out."""

from collections.abc import Iterator, Sequence
from itertools import groupby
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
"""Tokens of short windows, or of excerpts, that go through the model together."""


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
    return look_together(asks, model, [window])[0]


def look_together(asks: Sequence[Ask], model: "Model | None", windows: Sequence[Window]) -> list[list[Seen]]:
    """What the model shows of each of some windows of one length, which share their forward passes."""
    if not asks:
        return [[] for _ in windows]
    assert model is not None, "a scorer that asks needs a model"
    layers = [[_Layers(ask, model.num_layers, window) for ask in asks] for window in windows]
    contexts = dict.fromkeys(context for ask in asks for context in ask.contexts)
    predictions = {context: _predict(context, model, windows) for context in contexts if context != WholeWindow()}
    if WholeWindow() in contexts:
        predictions[WholeWindow()] = _predict(WholeWindow(), model, windows, layers)
    elif any(one.layers for one in layers[0]):
        model.queries_and_keys(_batch([window.tokens for window in windows], model), *_visit(layers, model))
    return [
        [
            Seen(one.seen, {context: predictions[context][w] for context in ask.contexts})
            for ask, one in zip(asks, mine, strict=True)
        ]
        for w, mine in enumerate(layers)
    ]


def batches(windows: Sequence[Window]) -> Iterator[Sequence[Window]]:
    """Neighbouring windows of one length, as many as share a forward pass; long ones go alone."""
    for length, neighbours in groupby(windows, key=lambda window: len(window.tokens)):
        same = list(neighbours)
        at_once = max(1, TOKENS_AT_ONCE // length)
        yield from (same[start : start + at_once] for start in range(0, len(same), at_once))


class _Layers:
    """The layers, rows and spans that one ask wants to see of a window, and what it has seen."""

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
            attention = attention.at(chosen)
        self.seen[attention.layer] = self.observe(attention._replace(window=self.window))


def _visit(asked: Sequence[Sequence[_Layers]], model: "Model") -> "tuple[list[int], Visit, torch.Tensor | None]":
    """Layers, visitor and rows of one forward pass that shows each ask what it wants of each window."""
    import torch

    layers = sorted(frozenset().union(*(one.layers for one in asked[0])))
    asking = [one.rows for one in asked[0] if one.layers]
    some = [rows for rows in asking if rows is not None]
    # windows have rows of their own, a batch has not
    few = len(asked) == 1 and some and len(some) == len(asking)
    shown = np.unique(np.concatenate(some)) if few else None

    def visit(attention: "LayerAttention") -> None:
        # every window by itself, so that the kernel's work cannot depend on the batch
        for b, mine in enumerate(asked):
            window = attention._replace(q=attention.q[b : b + 1], k=attention.k[b : b + 1])
            for one in mine:
                one.show(window, shown)

    return layers, visit, None if shown is None else torch.from_numpy(shown).to(model.device)


def _batch(tokens: Sequence[npt.NDArray[np.uint32]], model: "Model") -> "torch.Tensor":
    import torch

    return torch.from_numpy(np.stack(tokens).astype(np.int64)).to(model.device)


def _predict(
    context: Context, model: "Model", windows: Sequence[Window], layers: Sequence[Sequence[_Layers]] = ()
) -> list[list[TokenScores]]:
    """Predictions for each excerpt of each window; ``layers`` are shown on the way, if the excerpts are the windows."""
    excerpts = [(w, excerpt) for w, window in enumerate(windows) for excerpt in context.excerpts(window)]
    shapes: dict[tuple[int, int], list[int]] = {}
    for i, (_, excerpt) in enumerate(excerpts):
        shapes.setdefault((len(excerpt.tokens), excerpt.first), []).append(i)
    scores: dict[int, TokenScores] = {}
    for (length, first), members in shapes.items():
        at_once = max(1, TOKENS_AT_ONCE // length)
        for start in range(0, len(members), at_once):
            batch = members[start : start + at_once]
            tokens_BT = _batch([excerpts[i][1].tokens for i in batch], model)
            asked, visit, rows = _visit(layers, model) if layers else ([], None, None)
            log_probs_BS, hits_BS = model.predictions(
                tokens_BT, first, masked_heads=context.masked_heads, layers=asked, visit=visit, rows=rows
            )
            for row, i in enumerate(batch):
                scores[i] = TokenScores(log_probs_BS[row].cpu().numpy(), hits_BS[row].cpu().numpy())
    found: list[list[TokenScores]] = [[] for _ in windows]
    for i, (w, _) in enumerate(excerpts):
        found[w].append(scores[i])
    return found
