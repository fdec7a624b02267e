"""Which attention heads fetch from far back: retrieval-head scores from needles in a text."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from longattn.errors import ModelError
from longattn.settings import Needles
from longattn.tokens import Tokenizer

if TYPE_CHECKING:
    from longattn.models.base import LayerAttention, Model

RETRIEVES = 0.1
"""A head with a score above this is called a retrieval head (section 2 of the paper)."""
TOP = 10
"""Heads that are compared between the two halves of the prompts."""

_PLACES = (
    *("Marlow", "Tarn Hall", "Elmfield", "Port Vesper", "Quillon", "Ashgrove", "North Pier", "Calder", "Rook Bay"),
    *("Saltmarsh", "Hollin", "Greywater", "Fenwick", "Larkhill", "Ostrava Gate", "Pell Mill", "Dunmore", "Wexcombe"),
)
_WORDS = (
    *("copper", "violin", "meadow", "lantern", "harbor", "pepper", "window", "falcon", "marble", "ribbon", "candle"),
    *("forest", "silver", "orange", "bridge", "thunder", "garden", "mirror", "pocket", "winter", "basket", "island"),
)

Tokens = npt.NDArray[np.uint32]
Heads = npt.NDArray[np.float64]
"""A number per layer and head, shape [layers, heads]."""


class Prompt(NamedTuple):
    """A text with a needle in it that ends with the needle's first half again, and the answer to that."""

    tokens: Tokens
    needle: int
    """Where the answer's tokens begin within the needle."""
    answer: int
    """Where they begin at the end: what the model has to say."""


class Needle(NamedTuple):
    """A sentence whose second half cannot be known without it."""

    tokens: Tokens
    first: int
    """First token of its second half, the answer."""
    stop: int
    """One past the answer's last token; a full stop follows."""


@dataclass(frozen=True)
class Cell:
    """How often the model answered right at one length and depth."""

    length: int
    depth: float
    prompts: int
    right: int


@dataclass(frozen=True, eq=False)
class HeadScores:
    """Retrieval scores of every head, and what they rest on."""

    scores: Heads
    """Mean over the prompts answered right of the share of answer tokens that the head copied."""
    cells: tuple[Cell, ...]
    agreement: int
    """Of the prompts answered right, how many of the ten best heads of every other one are among the ten best of the
    rest."""

    def best(self) -> list[tuple[int, int, float]]:
        """All heads as (layer, head, score), best first; equal ones in order of layer and head."""
        ranked = sorted(np.ndindex(self.scores.shape), key=lambda place: (-self.scores[place], place))
        return [(layer, head, float(self.scores[layer, head])) for layer, head in ranked]

    def preset(self, model_hash: str, evidence: Mapping[str, Any]) -> dict[str, Any]:
        """A preset that scorers can name: the retrieval heads, best first, and the score of every head beside it."""
        heads = [place for place in self.best() if place[2] > RETRIEVES]
        cells = [asdict(cell) for cell in self.cells]
        found = {"cells": cells, "agreement": self.agreement, "scores": self.scores.tolist()}
        return {"model": model_hash, "heads": heads, "evidence": {**evidence, **found}}


def retrieval_heads(
    model: "Model",
    tokenizer: Tokenizer,
    haystack: Tokens,
    needles: Needles,
    on_prompt: Callable[[int], None] | None = None,
) -> HeadScores:
    """Retrieval score of every head (https://arxiv.org/abs/2404.15574, section 2).

    A head copies an answer token when, at the step that generates it, the key it attends to most is in the needle and
    is that very token. Its score on a prompt is the share of the needle's answer that it copies; the score is the mean
    over the prompts that the model answers right, all of the answer being its most probable continuation. Where that is
    so, one pass over prompt and answer is the same as decoding greedily.

    ``haystack`` [N] is the text that prompts take their filling from; the model must have been loaded to predict, with
    windows of the longest prompt. ``on_prompt`` is told the tokens of each prompt done. Raises ``ValueError`` for a
    haystack shorter than the longest prompt, and ``ModelError`` if the model answers no prompt right.
    """
    if len(haystack) < max(needles.lengths):
        raise ValueError(f"prompts of {max(needles.lengths)} tokens need a longer text than {len(haystack)} tokens")
    copied: list[Heads] = []
    cells = []
    for length in needles.lengths:
        for d, depth in enumerate(np.linspace(0, 1, needles.depths).tolist()):
            # a prompt of one text is the same whatever else is asked for
            draws = [np.random.default_rng((needles.seed, length, d, n)) for n in range(needles.prompts)]
            shares = [copied_share(model, make_prompt(draw, tokenizer, haystack, length, depth)) for draw in draws]
            right = [share for share in shares if share is not None]
            copied += right
            cells.append(Cell(length, depth, len(shares), len(right)))
            if on_prompt:
                on_prompt(length * len(shares))
    if not copied:
        raise ModelError(
            f"{model.name} answered none of {sum(cell.prompts for cell in cells)} prompts, so no head can be scored; "
            "try shorter ones (--needles.lengths 256) or a larger model"
        )
    halves = [_top(np.mean(half, axis=0)) for half in (copied[::2], copied[1::2]) if half]
    return HeadScores(np.mean(copied, axis=0), tuple(cells), len(set.intersection(*halves)) if len(halves) == 2 else 0)


def make_prompt(draw: np.random.Generator, tokenizer: Tokenizer, haystack: Tokens, length: int, depth: float) -> Prompt:
    """A prompt of ``length`` tokens with a random needle, ``depth`` (0 to 1) of the filling before it.

    Raises ``ValueError`` for a length that has no room for anything but the needle.
    """
    needle = make_needle(draw, tokenizer)
    filling = length - len(needle.tokens) - needle.stop
    if filling < 1:
        raise ValueError(f"lengths must be over {len(needle.tokens) + needle.stop} tokens, the needle's; got {length}")
    offset = int(draw.integers(0, len(haystack) - filling + 1))
    straw, before = haystack[offset : offset + filling], round(depth * filling)
    parts = (straw[:before], needle.tokens, straw[before:], needle.tokens[: needle.stop])
    num_asked = needle.stop - needle.first
    return Prompt(np.concatenate(parts), before + needle.first, length - num_asked)


def make_needle(draw: np.random.Generator, tokenizer: Tokenizer) -> Needle:
    """A random fact as a paragraph: the code of a place, of five different digits or of three words.

    No digit or word comes twice in an answer, so that a copied token has one place in it to come from.
    """
    place = draw.choice(_PLACES)
    if draw.random() < 0.5:
        stem, answer = f"\n\nThe secret code of {place} is", " " + "".join(map(str, draw.permutation(10)[:5]))
    else:
        stem, answer = f"\n\nThe password of {place} is", " " + " ".join(draw.permutation(_WORDS)[:3])
    tokenized = tokenizer.encode(f"{stem}{answer}.\n\n")
    of_answer = (tokenized.char_starts >= len(stem)) & (tokenized.char_ends <= len(stem) + len(answer))
    [places] = np.nonzero(of_answer)
    if not len(places):
        raise ValueError(f"the tokenizer makes no token of its own of {answer!r} in {stem + answer!r}")
    return Needle(tokenized.ids, int(places[0]), int(places[-1]) + 1)


def copied_share(model: "Model", prompt: Prompt) -> Heads | None:
    """The share of the answer's tokens that each head copies from the needle; None if the answer is not the model's."""
    import torch

    num_tokens = len(prompt.tokens)
    tokens_1T = torch.from_numpy(prompt.tokens.astype(np.int64))[None].to(model.device)
    # the query that generates a token stands at the one before it
    rows_R = torch.arange(prompt.answer - 1, num_tokens - 1, device=model.device)
    shares: dict[int, Heads] = {}

    def visit(attention: "LayerAttention") -> None:
        top_HR = attention.top_keys()[0]
        in_needle_HR = (top_HR >= prompt.needle) & (top_HR < prompt.needle + num_tokens - prompt.answer)
        same_HR = tokens_1T[0, top_HR] == tokens_1T[0, attention.positions + 1]
        shares[attention.layer] = (in_needle_HR & same_HR).double().mean(1).cpu().numpy()

    found = model.predictions(tokens_1T, prompt.answer, layers=range(model.num_layers), visit=visit, rows=rows_R)
    if not bool(found.hits.all()):
        return None
    return np.stack([shares[layer] for layer in range(model.num_layers)])


def haystack_hash(haystack: Tokens) -> str:
    """16 hexadecimal digits that name the filling."""
    return hashlib.sha256(haystack.astype("<u4").tobytes()).hexdigest()[:16]


def _top(scores: Heads) -> set[int]:
    return set(np.argsort(-scores, axis=None, kind="stable")[:TOP].tolist())
