"""The numbers behind an inspect page: which tokens of one window look back, how far, and at what."""

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from longattn.expressions import evaluate
from longattn.records import Dependency, Inspection, Quote, Window
from longattn.scorers import LongAttn, Seen
from longattn.scorers.longattn import uniform_moments
from longattn.settings import Inspecting

if TYPE_CHECKING:
    from longattn.models.base import LayerAttention, Model

SINK_SHARE = 0.05
"""A key that gets more than this of the far attention of the rows that see it is an attention sink."""
SINK_ROWS = 256
"""Rows, evenly spread, that sinks are found with; a key has to be far for an eighth of them."""
CONTEXT_CHARS = 60
"""Characters of a quote's line that are kept on each side."""
WORD_CHARS = 40
"""Characters that a quote is widened by on each side, at most, to reach the end of a word."""
CHAIN = 12
"""Tokens that a dependency is followed for on each side, at most."""
SAME_KEY = 3
"""Dependencies with the same words looked at, at most."""
CANDIDATES = 4096
"""Strongest pairs of tokens that dependencies are made of."""

_WORD = re.compile(r"\w+")
_DULL = set(string.punctuation) | set("“”‘’«»…–—·•、。，：；！？（）「」")


@dataclass(frozen=True)
class Cut:
    """A window with the text of its tokens, and what else is known of it."""

    window: Window
    pieces: Sequence[str]
    """The text of each token; joined they are the window's text, and of tokens that share a character one has it."""
    facts: Mapping[str, str | int | float | None] = field(default_factory=dict)
    """Score, rank and what became of the window, for a window of a run."""


def pieces_of(text: str, char_starts: npt.NDArray[np.uint32], char_end: int) -> list[str]:
    """The text of each token, from where it starts to where the next one does.

    >>> pieces_of("far, far", np.array([0, 3, 4], np.uint32), 8)
    ['far', ',', ' far']
    """
    return [text[a:b] for a, b in pairwise([*char_starts.tolist(), char_end])]


def inspect(model: "Model", cut: Cut, scorer: LongAttn, rule: Inspecting) -> Inspection:
    """Look at a window with the layers, heads, distance and skipped keys of ``scorer``, made for its length.

    The model must have been loaded for the layers; their queries and keys are held until the end. Raises ``ValueError``
    for a head that a layer does not have, and for settings below 1.
    """
    length, distance, skip_first = len(cut.pieces), scorer.distance, scorer.skip_first
    assert distance is not None, "for_length() comes first"
    for name in ("top", "dependencies", "cells"):
        if getattr(rule, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(rule, name)}")
    doublings = (2**i for i in range(length.bit_length()))
    distances = tuple(sorted({distance, *(d for d in doublings if d < max(2, length - skip_first))}))
    scorer = replace(scorer, rows=None, per_head=True, distances=distances)
    layers, seen = _run(model, cut.window, scorer)
    heads = tuple((of.layer, head) for of in layers for head in range(of.q.shape[2]))
    if unknown := [place for place in scorer.heads or () if place not in heads]:
        raise ValueError(f"layer {unknown[0][0]} has heads 0 to {layers[0].q.shape[2] - 1}, got {unknown[0][1]}")
    chosen = tuple(scorer.heads is None or place in scorer.heads for place in heads)
    columns = scorer.measure([cut.window], seen)
    by_head = {d: np.concatenate([columns[f"heads_s1_l{of.layer}_d{d}"][0] for of in layers]) for d in distances}
    beyond = [by_head[d][np.array(chosen)].mean() / length for d in distances]
    prefix = layers[0].prefix
    beyond_null = [uniform_moments(length, d, skip_first, prefix)[0] / length for d in distances]

    edges = np.linspace(0, length, min(rule.cells, length) + 1).round().astype(np.int64)
    looking = _Looking(layers, [place for place, is_in in zip(heads, chosen, strict=True) if is_in], scorer, edges)
    noise = looking.sinks() | _unread(cut.pieces) if rule.leave_out_noise else np.zeros(length, bool)
    view = looking.look(np.arange(length), ~noise, rule.top)
    return Inspection(
        window_id=cut.window.id,
        doc_id=cut.window.doc_id,
        source=cut.window.source,
        start=cut.window.start,
        doc_tokens=cut.window.doc_tokens,
        model=model.name,
        layers=tuple(of.layer for of in layers),
        distance=distance,
        skip_first=skip_first,
        pieces=tuple(cut.pieces),
        readings={name: float(evaluate(reading, columns)[0]) for name, reading in scorer.readings().items()},
        null=dict(scorer.null(prefix)),
        far=view.mass,
        far_null=far_null(length, distance, skip_first, prefix),
        received_null=received_null(length, distance, skip_first, prefix),
        received=view.received,
        edges=edges,
        pooled=view.pooled,
        pooled_null=pooled_null(edges, distance, skip_first, prefix),
        reach=(0, *distances, length),
        # what is nearer than any distance is the token itself, and the keys that are skipped
        by_reach=-np.diff([1.0, *beyond, 0.0]),
        by_reach_null=-np.diff([1.0, *beyond_null, 0.0]),
        heads=heads,
        chosen=chosen,
        head_ds=by_head[distance] / length,
        keys=view.keys,
        weights=view.weights,
        noise=noise,
        dependencies=tuple(
            dependencies(cut.pieces, view.keys, np.where(noise[:, None], 0, view.weights), rule.dependencies)
        ),
        facts=cut.facts,
    )


def _run(model: "Model", window: Window, scorer: LongAttn) -> "tuple[list[LayerAttention], Seen]":
    """The layers' queries and keys, and what the scorer saw of them."""
    import torch

    layers: list[LayerAttention] = []
    tokens_1T = torch.from_numpy(window.tokens.astype(np.int64))[None].to(model.device)
    model.queries_and_keys(tokens_1T, sorted(set(scorer.layers)), layers.append)
    return layers, Seen({of.layer: scorer.observe(of) for of in layers})


class _View(NamedTuple):
    """A :class:`longattn.attention.FarView` in the window's own tokens, as arrays."""

    mass: npt.NDArray[np.float64]
    received: npt.NDArray[np.float64]
    pooled: npt.NDArray[np.float64]
    keys: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float32]


class _Looking:
    """Far attention of one window, averaged over the chosen heads."""

    def __init__(
        self,
        layers: "Sequence[LayerAttention]",
        chosen: Sequence[tuple[int, int]],
        scorer: LongAttn,
        edges: npt.NDArray[np.int64],
    ) -> None:
        heads = [(of, [head for layer, head in chosen if layer == of.layer]) for of in layers]
        self.layers = [(of, mine) for of, mine in heads if mine]
        self.length = int(edges[-1])
        self.distance = scorer.distance or 1
        self.skip_first = scorer.skip_first
        self.edges = edges.tolist()

    def look(self, rows: npt.NDArray[np.int64], candidates: npt.NDArray[np.bool_], top: int) -> _View:
        """What these rows, ascending, look at; only candidates can be among a row's top keys."""
        import torch

        from longattn.attention import HeadSet, far_view

        # keys count from before the window
        prefix = self.layers[0][0].prefix
        all_rows, rows_R = len(rows) == self.length, torch.from_numpy(rows)
        view = far_view(
            [HeadSet(of.q[0] if all_rows else of.q[0, rows_R], of.k[0], of.scale, mine) for of, mine in self.layers],
            positions=rows_R + prefix,
            distance=self.distance,
            skip_first=self.skip_first + prefix,
            edges=[edge + prefix for edge in self.edges],
            candidates=torch.from_numpy(np.append(np.zeros(prefix, bool), candidates)),
            top=top,
        )
        keys = view.keys.numpy()
        keys = np.where(keys < 0, keys, keys - prefix)
        return _View(view.mass.numpy(), view.received.numpy()[prefix:], view.pooled.numpy(), keys, view.weights.numpy())

    def sinks(self) -> npt.NDArray[np.bool_]:
        """Keys that get so much from whoever sees them, by a sample of rows, that it cannot be for what they say."""
        first = min(self.length - 1, self.distance + self.skip_first)
        rows = np.unique(np.linspace(first, self.length - 1, SINK_ROWS).astype(np.int64))
        view = self.look(rows, np.ones(self.length, bool), 1)
        # rows that a key is far for are the last ones
        seen_from = np.searchsorted(rows, np.arange(self.length) + self.distance)
        given = np.append(np.cumsum(view.mass[::-1])[::-1], 0.0)[seen_from]
        return (view.received > SINK_SHARE * given) & (len(rows) - seen_from >= len(rows) / 8)


def far_null(length: int, distance: int, skip_first: int = 0, prefix: int = 0) -> npt.NDArray[np.float64]:
    """Far attention of each token where all keys, ``prefix`` of which stand before the window, get alike.

    >>> far_null(4, 2).round(2).tolist()
    [0.0, 0.0, 0.33, 0.5]
    """
    row = np.arange(length)
    return np.maximum(0, row - distance - skip_first + 1) / (row + 1 + prefix)


def received_null(length: int, distance: int, skip_first: int = 0, prefix: int = 0) -> npt.NDArray[np.float64]:
    """Far attention that each token gets from later ones where all keys get alike.

    >>> received_null(4, 2).round(2).tolist()
    [0.58, 0.25, 0.0, 0.0]
    """
    # the token at j is far for those from j + distance on
    later = np.cumsum(1 / np.arange(length + prefix, prefix, -1))[::-1]
    received = np.append(later[distance:], np.zeros(min(distance, length)))
    received[:skip_first] = 0
    return received


def pooled_null(
    edges: npt.NDArray[np.int64], distance: int, skip_first: int = 0, prefix: int = 0
) -> npt.NDArray[np.float64]:
    """Far attention between blocks of tokens where all keys get alike; sums as in ``Inspection.pooled``.

    >>> pooled_null(np.array([0, 2, 4]), 2).round(2).tolist()
    [[0.0, 0.0], [0.83, 0.0]]
    """
    row = np.arange(edges[-1])[:, None]
    far = np.minimum(edges[1:], row - distance + 1) - np.maximum(edges[:-1], skip_first)
    return np.add.reduceat(np.maximum(0, far) / (row + 1 + prefix), edges[:-1], axis=0)


def _unread(pieces: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Tokens that are blanks, punctuation or control characters alone."""
    unread = []
    whole = ""
    for piece in reversed(pieces):
        # of tokens that share a character the last has it
        whole = piece or whole
        unread.append(all(char in _DULL or char.isspace() or not char.isprintable() for char in whole))
    return np.array(unread[::-1])


def dependencies(
    pieces: Sequence[str], keys: npt.NDArray[np.int64], weights: npt.NDArray[np.float32], count: int
) -> list[Dependency]:
    """The strongest pairs of words, from each token's top keys [T, C] and what they get.

    Made of the strongest 4,096 pairs of tokens. Pairs whose tokens follow each other on both sides, none of them under
    a quarter of the strongest, are one phrase; a quote ends with whole words; of pairs of the same words the strongest
    is kept and stands for the others. At most three have the same words looked at.
    """
    pairs = _strongest(keys, weights)
    text = _Text(pieces)
    used: set[tuple[int, int]] = set()
    found: dict[tuple[str, str], tuple[Dependency, set[tuple[int, int]]]] = {}
    for (n, j), weight in pairs.items():
        if (n, j) in used:
            continue
        left, right = (_chain(pairs, n, j, weight, step) for step in (-1, 1))
        used |= {(n + i, j + i) for i in range(-left, right + 1)}
        query, key = (text.quote(at - left, at + right + 1) for at in (n, j))
        words = query.text.casefold(), key.text.casefold()
        if words not in found:
            found[words] = Dependency(query, key, n - j, weight, 1), set()
        found[words][1].add((query.first, key.first))
    listed: Counter[str] = Counter()
    kept = []
    for (_, looked_at), (best, places) in found.items():
        listed[looked_at] += 1
        if listed[looked_at] <= SAME_KEY:
            kept.append(replace(best, times=len(places)))
    return kept[:count]


def _strongest(keys: npt.NDArray[np.int64], weights: npt.NDArray[np.float32]) -> dict[tuple[int, int], float]:
    """The strongest pairs of a token and a key with their weights, strongest first; equal ones in reading order."""
    flat = np.where(keys >= 0, weights, 0).ravel()
    order = np.argsort(-flat, kind="stable")[:CANDIDATES]
    order = order[flat[order] > 0]
    rows = order // keys.shape[1]
    return {
        (n, j): weight
        for n, j, weight in zip(rows.tolist(), keys.ravel()[order].tolist(), flat[order].tolist(), strict=True)
    }


def _chain(pairs: Mapping[tuple[int, int], float], n: int, j: int, weight: float, step: int) -> int:
    """How many tokens on, one step at a time, the pair goes on as strong pairs."""
    length = 0
    while length < CHAIN and pairs.get((n + step * (length + 1), j + step * (length + 1)), 0) >= weight / 4:
        length += 1
    return length


class _Text:
    """A window's text, to quote from."""

    def __init__(self, pieces: Sequence[str]) -> None:
        self.text = "".join(pieces)
        self.starts = [*accumulate(map(len, pieces), initial=0)]

    def quote(self, first: int, stop: int) -> Quote:
        """Tokens from ``first`` up to ``stop``, widened to whole words, with the rest of their line."""
        a, b = self.starts[first], self.starts[stop]
        while a < b and self.text[a].isspace():
            a += 1
        while a < b and self.text[b - 1].isspace():
            b -= 1
        a -= len(_tail_of_word(self.text[max(0, a - WORD_CHARS) : a])) if _WORD.match(self.text, a) else 0
        if b and _WORD.match(self.text, b - 1) and (rest := _WORD.match(self.text, b, b + WORD_CHARS)):
            b = rest.end()
        before = self.text[max(0, a - CONTEXT_CHARS) : a].rpartition("\n")[2].lstrip()
        after = self.text[b : b + CONTEXT_CHARS].partition("\n")[0].rstrip()
        return Quote(first, stop, before, self.text[a:b], after)


def _tail_of_word(text: str) -> str:
    """The word that the text ends in, as far as it is there."""
    return next((word[0] for word in _WORD.finditer(text) if word.end() == len(text)), "")
