"""A source's sequences, one after another, with what became of its documents."""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt

from longattn.export.base import Row
from longattn.mixing.drawing import Drawn, place_of
from longattn.mixing.packing import Slice, pack
from longattn.mixing.reading import Supply, Vocabulary
from longattn.mixing.untying import untie
from longattn.settings import Mixture

NOT_LEARNED = -100
"""The label that losses leave out."""


@dataclass(frozen=True, kw_only=True)
class Portion:
    """What a source gave to the mixture."""

    kind: str
    """``windows`` of runs, or ``documents``."""
    share_asked: float
    share: float
    """The part that it has, in whole sequences."""
    sequences: int
    tokens: int
    passes: float
    """How often the tokens that were drawn are used, in the mean."""
    num_read: int
    """Windows or documents read: as many as were used and left over, and those rejected for their text."""
    used: int
    """Those of which the mixture has a part at least."""
    left_over: int
    """Those that were not drawn, have the text of one that was, or found no place."""
    rejected: dict[str, int]
    """By reason: records that are no document, and documents that cannot be encoded."""
    tokens_drawn: int
    tokens_left_over: int
    """Of all passes over what was drawn, those that found no place, or that names of chunks pushed out."""
    cuts: int
    """Places where a document goes on in another sequence."""
    untied: int
    """Sequences whose documents' chunks were shuffled."""
    alone: int
    """Sequences that were to be untied, and are of one document."""
    tokens_added: int
    """Tokens of names of chunks."""
    of: dict[str, Any]
    """Where it comes from."""


class Filler:
    """Makes the rows of one source, and counts."""

    def __init__(self, name: str, supply: Supply, count: int, mixture: Mixture, vocabulary: Vocabulary) -> None:
        """``count`` sequences are to be made; there must be enough tokens for them."""
        self._name, self._supply, self._count = name, supply, count
        self._mixture, self._vocabulary = mixture, vocabulary
        self._used = np.zeros(len(supply.drawn.keys), bool)
        self._cuts = self._untied = self._alone = self._added = self._made = 0
        self._passes = num_passes(supply.drawn, count * mixture.length)

    def rows(self) -> Iterator[Row]:
        """The sequences in order."""
        drawn, length = self._supply.drawn, self._mixture.length
        order = list(drawn.passes(self._passes))
        sequences = pack((int(drawn.lengths[i]) for i in order), length, self._mixture.lookahead)
        for number, slices in zip(range(self._count), sequences, strict=False):
            yield self._row(number, [part._replace(document=order[part.document]) for part in slices])
            self._made += 1
        assert self._made == self._count, f"{self._name} has {self._made} sequences, {self._count} were to be made"

    def _row(self, number: int, slices: list[Slice]) -> Row:
        """The columns of a sequence."""
        mixture, drawn, length = self._mixture, self._supply.drawn, self._mixture.length
        self._cuts += sum(part.stop < drawn.lengths[part.document] for part in slices)
        parts = [drawn.tokens(*part) for part in slices]
        last = slices[-1]
        following = drawn.tokens(last.document, last.stop, last.stop + 1)
        tokens, starts = (
            np.concatenate([*parts, following]),
            [0, *np.cumsum([len(part) for part in parts[:-1]]).tolist()],
        )
        masked = np.zeros(len(tokens), bool)
        documents = np.array([part.document for part in slices])
        random = Random(place_of(mixture.seed, f"untie {self._name}", number))
        untying = random.random() < mixture.untie.share
        untied = untying and len(parts) > 1
        if untied:
            done = untie(parts, mixture.untie, random, lambda text: self._vocabulary.tokenizer.encode(text).ids)
            tokens, masked = np.append(done.tokens, following), np.append(done.masked, False)
            origin = done.origin[:length]
            documents = documents[np.unique(origin[origin >= 0])]
            self._added += int((origin < 0).sum())
            # a document may be anywhere now, so all of the sequence is to be seen from all of it
            starts = [0]
        self._used[documents] = True
        self._untied += untied
        self._alone += untying and not untied
        size = length + mixture.write.extra_token
        tokens, masked = tokens[:size], masked[:size]
        return {
            "sequence": number,
            "source": self._name,
            "documents": [drawn.ids[i] for i in documents],
            "input_ids": tokens,
            "labels": np.where(masked, NOT_LEARNED, tokens.astype(np.int32)).astype(np.int32),
            "attention_mask": np.ones(size, np.int8),
            "position_ids": positions(starts, size),
            "num_tokens": length,
            "boundaries": starts,
            "part_tokens": tuple(starts),
            "untied": untied,
        }

    def portion(self, share_asked: float, total: int) -> Portion:
        """What was counted, once all rows are made; ``total`` are the mixture's sequences."""
        supply, tokens = self._supply, self._count * self._mixture.length
        encodable = supply.num_read - sum(supply.rejected.get(reason, 0) for reason in ("too_slow", "untokenizable"))
        used = int(self._used.sum())
        return Portion(
            kind=supply.kind,
            share_asked=share_asked,
            share=self._count / total,
            sequences=self._count,
            tokens=tokens,
            passes=(tokens - self._added) / max(1, supply.drawn.num_tokens),
            num_read=supply.num_read,
            used=used,
            left_over=encodable - used,
            rejected=dict(supply.rejected),
            tokens_drawn=supply.drawn.num_tokens,
            tokens_left_over=self._passes * supply.drawn.num_tokens - tokens + self._added,
            cuts=int(self._cuts),
            untied=int(self._untied),
            alone=int(self._alone),
            tokens_added=int(self._added),
            of=dict(supply.of),
        )


def num_passes(drawn: Drawn, tokens: int) -> int:
    """Passes over what was drawn that so many tokens take; something must have been drawn for any."""
    return -(-tokens // drawn.num_tokens) if tokens else 0


def positions(starts: list[int], size: int) -> npt.NDArray[np.int32]:
    """Positions that begin anew at each start, [size], int32.

    >>> positions([0, 3], 5).tolist()
    [0, 1, 2, 0, 1]
    """
    places = np.arange(size, dtype=np.int32)
    return places - np.repeat(np.array(starts, np.int32), np.diff([*starts, size]))
