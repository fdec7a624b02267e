"""One forward pass per window for all scorers: what each of them asks of the model is gathered, run and handed out."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from longattn import settings
from longattn.errors import ModelError
from longattn.models import Checkpoint, resolve
from longattn.records import Window
from longattn.scorers import Ask, Columns, Context, Seen, TokenScores, WholeWindow
from longattn.tokens import encoding_hash

if TYPE_CHECKING:
    import torch

    from longattn.models.base import LayerAttention, Model, Visit

log = logging.getLogger(__name__)

TOKENS_AT_ONCE = 4096
"""Tokens of short windows, or of excerpts, that go through the model together; halved where memory runs out."""
EVEN = 16
"""Windows share a forward pass if their length is a multiple of this. Vectorised functions take the numbers at the end
of a thread's part one by one, and round these otherwise: without it a score would depend on the place in the batch."""


def other_models(asks: Sequence[Ask]) -> list[settings.Model]:
    """The models beside the run's own that are asked, in the order of first use."""
    return list(dict.fromkeys(context.model for ask in asks for context in ask.contexts if context.model))


def resolve_others(asks: Sequence[Ask], checkpoint: Checkpoint) -> dict[settings.Model, Checkpoint]:
    """The checkpoints of these models.

    Raises ``ModelError`` for one whose tokenizer is not that of ``checkpoint``, the run's own model.
    """
    found = {model: resolve(model) for model in other_models(asks)}
    for other in found.values():
        hashes = [encoding_hash(one.tokenizer_file) for one in (checkpoint, other)]
        if hashes[0] != hashes[1]:
            raise ModelError(
                f"{checkpoint.name} and {other.name} have different tokenizers ({hashes[0]}, {hashes[1]}), and only "
                "models that read the same tokens can be compared; take two of one family, such as a base model and "
                "the same model after it was trained on longer texts"
            )
    return found


def load_model_for(
    asks: Sequence[Ask],
    checkpoint: Checkpoint,
    model: settings.Model,
    window: int,
    device: str,
    others: Mapping[settings.Model, Checkpoint] | None = None,
) -> "Model":
    """A model that can answer what is asked about windows of ``window`` tokens, with no more of it than that takes.

    Models that are asked beside it are loaded from ``others`` and stay on the same device.
    """
    from longattn.models import load_model

    predicts = any(context.model is None for ask in asks for context in ask.contexts)
    named = sorted({layer for ask in asks if ask.layers != "all" for layer in ask.layers})
    layers: Sequence[int] | Literal["all"] = "all" if any(ask.layers == "all" for ask in asks) else named
    loaded = load_model(checkpoint, model, layers=layers, window=window, predicts=predicts, device=device)
    beside = {
        other: load_model((others or {})[other], other, layers=(), window=window, predicts=True, device=device)
        for other in other_models(asks)
    }
    return replace(loaded, others=beside) if beside else loaded


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
    predictions = {
        context: _predict(context, model if context.model is None else model.others[context.model], windows)
        for context in contexts
        if context != WholeWindow()
    }
    # a token by itself is not predicted, but may be looked at
    if WholeWindow() in contexts and len(windows[0].tokens) > 1:
        predictions[WholeWindow()] = _predict(WholeWindow(), model, windows, layers)
    elif any(one.layers for one in layers[0]):
        model.queries_and_keys(_batch([window.tokens for window in windows], model), *_visit(layers, model))
    predictions.setdefault(WholeWindow(), [[] for _ in windows])
    return [
        [
            _seen(one, {context: predictions[context][w] for context in ask.contexts})
            for ask, one in zip(asks, mine, strict=True)
        ]
        for w, mine in enumerate(layers)
    ]


def look_at_all(
    asks: Sequence[Ask], model: "Model | None", windows: Sequence[Window]
) -> Iterator[tuple[Window, list[Seen]]]:
    """Every window with what the model shows of it to each ask, in batches.

    Where memory runs out the batches of this process become half as large, and are tried again: windows that share a
    forward pass do not touch each other. Raises what the device raised once a batch is a single window and excerpt.
    """
    global TOKENS_AT_ONCE
    begin = 0
    while begin < len(windows):
        batch = batch_at(begin, windows, model.prefix if model else 0)
        try:
            seen = look_together(asks, model, batch)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error) or not _can_halve(asks, batch):
                raise
            seen = None
        if seen is None:
            # not in the handler above, which keeps alive what the error holds
            TOKENS_AT_ONCE = max(1, min(TOKENS_AT_ONCE, len(batch) * len(batch[0].tokens)) // 2)
            where = "the CPU" if model is None else model.device
            log.warning("out of memory on %s: at most %d tokens go through it together now", where, TOKENS_AT_ONCE)
            _free(model)
            continue
        yield from zip(batch, seen, strict=True)
        begin += len(batch)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that host or device memory ran out; torch has no one class for it."""
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(word in str(error).casefold() for word in words)
    )


def _can_halve(asks: Sequence[Ask], batch: Sequence[Window]) -> bool:
    """Whether fewer tokens can go through the model at once than did."""
    if len(batch) > 1:
        return True
    excerpts = [len(e.tokens) for ask in asks for context in ask.contexts for e in context.excerpts(batch[0])]
    return any(excerpts.count(length) > 1 and 2 * length <= TOKENS_AT_ONCE for length in set(excerpts))


def _free(model: "Model | None") -> None:
    """Give back what the device keeps for later."""
    if model is not None and model.device.type == "cuda":
        import torch

        torch.cuda.empty_cache()


def batch_at(begin: int, windows: Sequence[Window], prefix: int = 0) -> Sequence[Window]:
    """A window and its neighbours behind it of one length, as many as share a forward pass; long ones go alone.

    ``prefix`` is the number of tokens that the model puts before each.
    """
    length = len(windows[begin].tokens)
    at_once = 1 if (length + prefix) % EVEN else max(1, TOKENS_AT_ONCE // length)
    return list(takewhile(lambda window: len(window.tokens) == length, windows[begin : begin + at_once]))


class _Layers:
    """The layers, rows and spans that one ask wants to see of a window, and what it has seen."""

    def __init__(self, ask: Ask, num_layers: int, window: Window) -> None:
        self.layers = frozenset(range(num_layers) if ask.layers == "all" else ask.layers)
        self.observe = ask.observe
        self.window = window
        self.rows = ask.rows(window) if ask.rows else None
        self.seen: dict[int, Columns] = {}
        self.is_finite = True

    def show(self, attention: "LayerAttention", shown: npt.NDArray[np.int64] | None) -> None:
        """Let the ask observe its own rows among those ``shown`` (sorted; None for all)."""
        import torch

        if attention.layer not in self.layers or self.observe is None:
            return
        if self.rows is not None:
            place = self.rows if shown is None else np.searchsorted(shown, self.rows)
            chosen = torch.from_numpy(place).to(attention.q.device)
            attention = attention.at(chosen)
        self.is_finite &= bool(torch.isfinite(attention.q).all()) and bool(torch.isfinite(attention.k).all())
        self.seen[attention.layer] = self.observe(attention._replace(window=self.window))


def _seen(layers: _Layers, predictions: dict[Context, list[TokenScores]]) -> Seen:
    numbers = (scores.log_probs for excerpts in predictions.values() for scores in excerpts)
    return Seen(layers.seen, predictions, layers.is_finite and all(np.isfinite(part).all() for part in numbers))


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
    alike: dict[tuple[int, int, int, bytes], list[int]] = {}
    for i, (w, excerpt) in enumerate(excerpts):
        length, beginning = len(excerpt.tokens), excerpt.tokens[: excerpt.shared].tobytes()
        # those of one window have the same place whatever the window is measured beside
        alone = w if excerpt.shared or (length + model.prefix) % EVEN else -1
        alike.setdefault((length, excerpt.first, alone, beginning), []).append(i)
    scores: dict[int, TokenScores] = {}
    for (length, first, _, _), members in alike.items():
        shared = excerpts[members[0]][1].shared if len(members) > 1 else 0
        at_once = max(1, (TOKENS_AT_ONCE - shared) // (length - shared))
        for start in range(0, len(members), at_once):
            batch = members[start : start + at_once]
            tokens_BT = _batch([excerpts[i][1].tokens for i in batch], model)
            asked, visit, rows = _visit(layers, model) if layers else ([], None, None)
            log_probs_BS, hits_BS = model.predictions(
                tokens_BT, first, shared=shared, masked_heads=context.masked_heads, layers=asked, visit=visit, rows=rows
            )
            for row, i in enumerate(batch):
                scores[i] = TokenScores(log_probs_BS[row].cpu().numpy(), hits_BS[row].cpu().numpy())
    found: list[list[TokenScores]] = [[] for _ in windows]
    for i, (w, _) in enumerate(excerpts):
        found[w].append(scores[i])
    return found
