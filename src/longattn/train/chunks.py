"""Gradients of a long window a chunk at a time, with the activations of one chunk in memory (SeCO, SpaCO).

With the window cut into chunks 1..k, m_i the keys and values of chunk i in all layers, and J_i its loss
(arXiv 2505.16710)::

    m_i = f(chunk i, m_1 .. m_{i-1})              a first pass without gradients keeps all m_i
    g_i = sum over j > i of d(J_j + g_j m_j)/d m_i     a second pass from the last chunk to the first makes chunk i
                                                       again and takes the gradient of J_i + g_i m_i

The sum of these is the gradient of J_1 + ... + J_k (**SeCO**, exact). **SpaCO** takes the second pass through some
chunks alone. Where each is drawn with probability p by itself, and both J_i and g_i of those drawn are divided by p,
the expectation is the gradient (``bernoulli``): the draw of chunk j is independent of g_j. The paper draws t of k
chunks and multiplies g_i by k / t, at most by 2.3, and J_i by nothing (``paper``), which is biased.
"""

import contextlib
import itertools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers.cache_utils import Cache, DynamicLayer

from longattn.train.settings import Training

HIGHEST = 2.3
"""What the paper multiplies gradients by at most."""


class Weight(NamedTuple):
    """What a chunk's part of the gradient is multiplied by."""

    loss: float
    later: float
    """For what later chunks' losses say of its keys and values."""


Weights = Sequence[Weight | None]
"""A weight for each chunk; None for one that is left out of the second pass."""

EXACT = Weight(1.0, 1.0)


def draw_weights(num_chunks: int, training: Training, random: np.random.Generator) -> list[Weight | None]:
    """Which chunks the second pass goes through, and with which weights; all of them where the share is 1."""
    share = training.chunk_share
    if share == 1:
        return [EXACT] * num_chunks
    if training.chunk_draw == "bernoulli":
        weight = Weight(1 / share, 1 / share)
        return [weight if drawn else None for drawn in random.random(num_chunks) < share]
    chosen = random.choice(num_chunks, max(1, round(share * num_chunks)), replace=False)
    weight = Weight(1.0, min(num_chunks / len(chosen), HIGHEST))
    return [weight if i in chosen else None for i in range(num_chunks)]


def backward_by_chunks(
    model: nn.Module,
    tokens: Int[Tensor, "B T"],
    labels: Int[Tensor, "B T"],
    *,
    chunk: int,
    weights: Weights,
    items: int | float,
    unsynced: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext,
) -> Float[Tensor, ""]:
    """Add the gradient of the mean loss to the parameters' ``grad``; returns that loss, of all chunks.

    ``labels`` are those of the tokens themselves, -100 where nothing is learned; the loss is their sum of
    log-probabilities, each from all tokens before it, divided by ``items``. ``weights`` has one for every ``chunk``
    tokens; :func:`draw_weights` makes them. All backward passes but the last are made within ``unsynced()``.
    """
    targets = torch.cat([labels[:, 1:], torch.full_like(labels[:, :1], -100)], dim=1)
    borders = [*range(0, tokens.shape[1], chunk), tokens.shape[1]]
    chunks = [slice(*pair) for pair in itertools.pairwise(borders)]
    if len(weights) != len(chunks):
        raise ValueError(f"weights must be {len(chunks)}, one for each {chunk} of {tokens.shape[1]} tokens")
    layers = [_Layer(tokens.shape[1]) for _ in range(_depth(model))]
    loss = torch.zeros((), device=tokens.device)
    # where every chunk comes again its loss is known then, and the last one's keys are of no use to any other
    exact = all(weight == EXACT for weight in weights)
    with torch.no_grad():
        for part in chunks[: -1 if exact else None]:
            logits = _forward(model, tokens, part, layers, logits_to_keep=1 if exact else 0)
            loss += 0 if exact else _loss(logits, targets[:, part]) / items
    # processes that share gradients must all make a last backward pass, also where no chunk is drawn
    chosen = [i for i, weight in enumerate(weights) if weight] or [0]
    for i in reversed(chosen):
        weight = weights[i] or Weight(0.0, 0.0)
        with contextlib.nullcontext() if i == chosen[0] else unsynced():
            logits = _forward(model, tokens, chunks[i], layers)
            part_loss = _loss(logits, targets[:, chunks[i]]) / items
            made = [tensor for layer in layers for tensor in layer.made]
            later = [grad[:, :, chunks[i]] * weight.later for layer in layers for grad in layer.gradients]
            torch.autograd.backward([part_loss, *made], [torch.full_like(part_loss, weight.loss), *later])
        loss += part_loss.detach() if exact else 0
    return loss


def _depth(model: nn.Module) -> int:
    # a wrapper of several processes has no config of its own
    inner: Any = getattr(model, "module", model)
    return inner.config.num_hidden_layers


def _forward(
    model: nn.Module, tokens: Int[Tensor, "B T"], part: slice, layers: Sequence["_Layer"], **options: Any
) -> Float[Tensor, "B C V"]:
    for layer in layers:
        layer.start = part.start
    return model(
        input_ids=tokens[:, part], past_key_values=Cache(layers=list(layers)), use_cache=True, **options
    ).logits


def _loss(logits: Float[Tensor, "B C V"], targets: Int[Tensor, "B C"]) -> Float[Tensor, ""]:
    return cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="sum")


class _Layer(DynamicLayer):
    """Keys and values of a layer for the whole window, and the losses' gradients with respect to them.

    Without gradients, a chunk's are kept. With them, those before a chunk are leaves, of which a backward pass adds
    what it finds to ``gradients``, a layer at a time.
    """

    def __init__(self, length: int) -> None:
        super().__init__()
        self._length = length
        self.start = 0
        self.made: tuple[Tensor, ...] = ()
        """Keys and values of the last chunk that was made with gradients."""

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Make room for the window."""
        self.kept = tuple(
            each.new_zeros(*each.shape[:2], self._length, each.shape[3]) for each in (key_states, value_states)
        )
        self.gradients = tuple(map(torch.zeros_like, self.kept))
        self.is_initialized = True

    def get_seq_length(self) -> int:
        """Tokens before the chunk."""
        return self.start

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Keys and values up to the end of the chunk."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        made = (key_states, value_states)
        if torch.is_grad_enabled():
            self.made = made
            keys, values = map(self._behind_leaves, self.kept, self.gradients, made)
            return keys, values
        end = self.start + key_states.shape[2]
        for kept, each in zip(self.kept, made, strict=True):
            kept[:, :, self.start : end] = each
        return self.kept[0][:, :, :end], self.kept[1][:, :, :end]

    def _behind_leaves(self, kept: Tensor, gradient: Tensor, made: Tensor) -> Tensor:
        if not self.start:
            return made
        leaf = kept[:, :, : self.start].detach().requires_grad_()
        so_far = gradient[:, :, : self.start]

        def add(leaf: Tensor) -> None:
            assert leaf.grad is not None, "it was just made"
            so_far.add_(leaf.grad)
            leaf.grad = None

        leaf.register_post_accumulate_grad_hook(add)
        return torch.cat([leaf, made], dim=2)
