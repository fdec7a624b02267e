"""Which part of which document stands where: documents packed into sequences of one length, none of it empty.

Bare token formats have no place for padding, so every sequence is full and documents are cut where they must be. A
sequence begins with the oldest document that is left. Then it takes the longest one that fits, of those looked at
(best fit, Ding et al. 2024, https://arxiv.org/abs/2404.10830); when none does, the longest is cut, which costs least of
what its tokens could see, and its rest waits for its turn. A document of just this length is a sequence by itself;
with nothing to look at but the next, documents are put one behind the other all the same.
"""

from collections.abc import Iterator
from typing import NamedTuple


class Slice(NamedTuple):
    """A part of a document."""

    document: int
    """Its number in the order in which documents came."""
    start: int
    stop: int

    @property
    def num_tokens(self) -> int:
        """Tokens of the part."""
        return self.stop - self.start


def pack(lengths: Iterator[int], length: int, lookahead: int) -> Iterator[list[Slice]]:
    """Sequences of exactly ``length`` tokens, each as the slices it is made of, until no more can be filled.

    ``lengths`` are those of the documents in order, each above 0; ``lookahead`` of them are looked at. Every token is
    in one sequence at most, and the slices of a document come in order.
    """
    waiting: list[Slice] = []
    numbered = enumerate(lengths)

    def look_ahead() -> None:
        while len(waiting) < lookahead and (one := next(numbered, None)) is not None:
            waiting.append(Slice(one[0], 0, one[1]))

    while True:
        sequence: list[Slice] = []
        room = length
        while room:
            look_ahead()
            if not waiting:
                return
            free = [i for i, part in enumerate(waiting) if part.num_tokens != length or lookahead == 1]
            if sequence and not free:
                # only such as fill a sequence are in sight, which need not be cut
                yield from ([part] for part in waiting)
                waiting.clear()
                continue
            fitting = [i for i in free if waiting[i].num_tokens <= room]
            # the first of the longest: where all are alike their order stays
            candidates = (fitting or free) if sequence else [0]
            chosen = max(candidates, key=lambda i: (waiting[i].num_tokens, -i))
            part = waiting[chosen]
            if part.num_tokens > room:
                waiting[chosen] = part._replace(start=part.start + room)
                part = part._replace(stop=part.start + room)
            else:
                del waiting[chosen]
            sequence.append(part)
            room -= part.num_tokens
        yield sequence
