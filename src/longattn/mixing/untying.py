"""Untie the Knots: the chunks of a sequence's documents shuffled among each other, so that each has to be followed.

Tian et al. 2024, https://arxiv.org/abs/2409.04774. Each document is cut into a few chunks at random places; the chunks
of all documents are shuffled, those of one document staying in order, and the last chunk of the last document stays
last. With identifiers every chunk of a cut document has a name, and with back-tracing the names of a document's chunks
are to be told, in order, after its last one. Names are ordinary text: no token is added to the vocabulary.
"""

import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
import numpy.typing as npt

from longattn.settings import Untying

Tokens = npt.NDArray[np.uint32]
Encode = Callable[[str], Tokens]
"""The tokens of a text."""


@dataclass(frozen=True, eq=False)
class Untied:
    """A sequence whose documents were untied, before it is cut to its length."""

    tokens: Tokens
    origin: npt.NDArray[np.int64]
    """The document that each token is of; -1 for names of chunks and lists of them."""
    masked: npt.NDArray[np.bool_]
    """Tokens that are not to be learned: names in front of chunks, and the beginning of a list of names."""


def check(rule: Untying) -> None:
    """Raise ``ValueError`` for settings that make no sense."""
    if not 0 <= rule.share <= 1:
        raise ValueError(f"untie.share must be from 0 to 1, got {rule.share}")
    if not rule.chunks or min(rule.chunks) < 0 or not sum(rule.chunks) > 0:
        raise ValueError(f"untie.chunks must be weights of 1, 2, 3, ... chunks, got {rule.chunks}")
    if rule.backtrace and not rule.identifiers:
        raise ValueError("untie.backtrace tells the names of chunks, which untie.identifiers gives them")


def untie(documents: Sequence[Tokens], rule: Untying, random: Random, encode: Encode) -> Untied:
    """The documents' chunks in their new order. Without identifiers every token is there once, and nothing else."""
    chunks = [_cut(document, rule, random) for document in documents]
    names = [[_name(random) for _ in of] for of in chunks]
    # whose turn it is; the last chunk of the last document has none
    turns = [number for number, of in enumerate(chunks) for _ in of][:-1]
    turns.sort(key=lambda _: random.random())
    parts: list[tuple[Tokens, int, bool]] = []
    told = [0] * len(documents)
    for number in [*turns, len(documents) - 1]:
        place, of = told[number], chunks[number]
        told[number] += 1
        if rule.identifiers and len(of) > 1:
            parts.append((encode(f"<D> {names[number][place]} </D>\n"), -1, True))
        parts.append((of[place], number, False))
        if rule.backtrace and len(of) > 1 and told[number] == len(of):
            parts.append((encode("\n<S>"), -1, True))
            parts.append((encode(f" {' <s> '.join(names[number])} </S>\n"), -1, False))
    sizes = [len(tokens) for tokens, _, _ in parts]
    return Untied(
        np.concatenate([tokens for tokens, _, _ in parts]),
        np.repeat([number for _, number, _ in parts], sizes),
        np.repeat([masked for _, _, masked in parts], sizes),
    )


def _cut(document: Tokens, rule: Untying, random: Random) -> list[Tokens]:
    """The document in one or more chunks, none of them empty."""
    # only random() gives the same numbers in every version of Python
    point, number = random.random() * sum(rule.chunks), 0
    while number < len(rule.chunks) - 1 and point >= rule.chunks[number]:
        point -= rule.chunks[number]
        number += 1
    places = {1 + int(random.random() * (len(document) - 1)) for _ in range(number)}
    return np.split(document, sorted(place for place in places if place < len(document)))


def _name(random: Random) -> str:
    return "".join(string.ascii_lowercase[int(random.random() * 26)] for _ in range(6))
