"""What a window is compared with: windows of the same length and text from which some far dependency is taken away.

Every control is made of token ids that are in the corpus, in windows of exactly the length of the intact one, and is
never decoded and encoded again. It says what it was made of (:class:`Piece`). With L tokens in a window:

``spliced-n``
    n pieces of L/n tokens from windows of n different documents of the source, each from the same place of its window
    as it has in the control; the first is the intact window's own.
``shuffled-c``
    The window's chunks of c tokens in another order, in which no chunk follows the one that it followed.
``swapped``
    The window's halves in the wrong order: far order is broken, and all local context but one seam is kept.
``repeated``
    The window's first L/8 tokens, over and over: everything can be predicted from far tokens, and nothing is far.
``boilerplate``
    The window's first 64 tokens over and over, eight of them other ones each time: a list, a log, a table.
``planted``
    The window with its own phrases replaced wherever they stand in its first half: they are used in the second half as
    before, but are no longer introduced. A phrase is 3 tokens that stand in both halves and in no other document of the
    pool; those used most often in the second half are taken, 16 at most, each replaced by a phrase of another
    document's that its window holds equally often, or as nearly so as there is one.
``twin``
    The window with its first half replaced by the first half of another document's window.

Over all controls of ``spliced`` and ``twin`` each place of a window holds almost the tokens that it holds over all
intact windows, so that a bag of tokens cannot tell the two apart.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from longattn.records import Window

Tokens = npt.NDArray[np.uint32]
Codes = npt.NDArray[np.int64]

CONTROLS = (
    "spliced-2",
    "spliced-4",
    "spliced-8",
    "spliced-16",
    "shuffled-32",
    "shuffled-128",
    "shuffled-512",
    "swapped",
    "repeated",
    "boilerplate",
    "planted",
    "twin",
)
"""The usual ones; ``spliced`` and ``shuffled`` take any number of pieces or tokens."""

LINE, CHANGING = 64, 8
"""Tokens of a line of boilerplate, and how many of them are others in each line."""
PHRASE, PHRASES = 3, 16
"""Tokens of a planted phrase, and how many different ones are replaced at most."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens that stand together in a window of the corpus and in a control."""

    window: str
    """Id of the window that they are from."""
    start: int
    """Place of the first one in that window."""
    length: int


@dataclass(frozen=True, eq=False)
class Control:
    """A window that was made, and of what."""

    window: Window
    pieces: tuple[Piece, ...]
    """In the order in which they stand in the control; ``repeated`` and ``boilerplate`` name what is repeated, and
    ``planted`` what was put in, the rest being the intact window."""


def parse(name: str) -> tuple[str, int]:
    """A control's kind and its number, 0 where it has none. Raises ``ValueError`` for a name that is none.

    >>> parse("spliced-8"), parse("twin")
    (('spliced', 8), ('twin', 0))
    """
    kind, dash, number = name.partition("-")
    numbered = kind in ("spliced", "shuffled")
    # one name for each control: no zeros in front, and no digits of other scripts
    known = number.isdecimal() and number == str(int(number)) and int(number) > 1
    if (name in CONTROLS and not dash) or (numbered and known):
        return kind, int(number or 0)
    raise ValueError(f"control must be one of {', '.join(CONTROLS)} (or another number above 1), got {name!r}")


@dataclass(frozen=True, eq=False)
class Pool:
    """The intact windows of one source and one part of the corpus; controls are made of nothing else."""

    windows: Sequence[Window]
    """In an order that has nothing to do with their text; all of one length."""
    seed: int = 0

    @cached_property
    def num_documents(self) -> int:
        """Different documents."""
        return len({window.doc_id for window in self.windows})

    def make(self, name: str, i: int) -> Control | None:
        """The control ``name`` of intact window ``i``; None if the window or the pool does not allow one.

        The same windows and seed give the same control.
        """
        kind, number = parse(name)
        digits = hashlib.sha256(f"{self.seed}\0{name}\0{self.windows[i].id}".encode()).digest()
        generator = np.random.default_rng(int.from_bytes(digits[:8], "big"))
        made: tuple[Tokens, list[Piece]] | None
        match kind:
            case "spliced":
                made = self._spliced(i, number, own=0)
            case "twin":
                made = self._spliced(i, 2, own=1)
            case "shuffled":
                made = self._shuffled(i, number, generator)
            case "swapped":
                made = self._ordered(i, -(-len(self.windows[i].tokens) // 2), [1, 0])
            case "repeated":
                made = self._repeated(i)
            case "boilerplate":
                made = self._boilerplate(i, generator)
            case _:
                made = self._planted(i, generator)
        if made is None:
            return None
        tokens, pieces = made
        digest = hashlib.sha256(f"{self.windows[i].id}\0".encode() + tokens.astype("<u4").tobytes()).hexdigest()[:16]
        facts = {"doc_id": f"{name}:{digest}", "start": 0, "char_start": 0, "char_end": 0, "overlap": 0}
        return Control(replace(self.windows[i], **facts, tokens=tokens, file="", position=0), tuple(pieces))

    def _spliced(self, i: int, number: int, own: int) -> tuple[Tokens, list[Piece]] | None:
        """Pieces of ``number`` documents; piece ``own`` is of window ``i``, the others of those that come after it."""
        length = len(self.windows[i].tokens)
        if number > min(length, self.num_documents):
            return None
        others = self._strangers(i)
        order = [next(others) for _ in range(number - 1)]
        order.insert(own, i)
        edges = [length * k // number for k in range(number + 1)]
        spans = list(zip(order, edges, edges[1:], strict=False))
        tokens = np.concatenate([self.windows[w].tokens[start:stop] for w, start, stop in spans])
        return tokens, [Piece(self.windows[w].id, start, stop - start) for w, start, stop in spans]

    def _strangers(self, i: int) -> Iterator[int]:
        """The first window of every other document after ``i``, the last window being followed by the first."""
        seen = {self.windows[i].doc_id}
        for step in range(1, len(self.windows)):
            place = (i + step) % len(self.windows)
            if self.windows[place].doc_id not in seen:
                seen.add(self.windows[place].doc_id)
                yield place

    def _shuffled(self, i: int, size: int, generator: np.random.Generator) -> tuple[Tokens, list[Piece]] | None:
        number = -(-len(self.windows[i].tokens) // size)
        if number < 2:
            return None
        # about one order in e passes
        while True:
            order = generator.permutation(number)
            if not (np.diff(order) == 1).any():
                return self._ordered(i, size, order.tolist())

    def _ordered(self, i: int, size: int, order: Sequence[int]) -> tuple[Tokens, list[Piece]]:
        """The window's chunks of ``size`` tokens in this order; the last of the window may be shorter."""
        tokens = self.windows[i].tokens
        chunks = [(chunk * size, min((chunk + 1) * size, len(tokens))) for chunk in order]
        pieces = [Piece(self.windows[i].id, start, stop - start) for start, stop in chunks]
        return np.concatenate([tokens[start:stop] for start, stop in chunks]), pieces

    def _repeated(self, i: int) -> tuple[Tokens, list[Piece]]:
        tokens = self.windows[i].tokens
        size = max(1, len(tokens) // 8)
        return np.resize(tokens[:size], len(tokens)), [Piece(self.windows[i].id, 0, size)]

    def _boilerplate(self, i: int, generator: np.random.Generator) -> tuple[Tokens, list[Piece]]:
        tokens = self.windows[i].tokens
        line = min(LINE, len(tokens))
        made, place = np.resize(tokens[:line], len(tokens)), np.arange(len(tokens))
        slots = generator.choice(line, min(CHANGING, line), replace=False)
        changing = np.isin(place % line, slots) & (place >= line)
        made[changing] = generator.choice(tokens, int(changing.sum()))
        return made, [Piece(self.windows[i].id, 0, line)]

    def _planted(self, i: int, generator: np.random.Generator) -> tuple[Tokens, list[Piece]] | None:
        planted, other = self._recurring(i), next(self._strangers(i), None)
        if not planted or other is None:
            return None
        made, pieces = self.windows[i].tokens.copy(), []
        codes, half = _codes(made), len(made) // 2
        free = np.ones(len(made), dtype=bool)
        donors = self._donors(other, generator)
        for phrase in planted:
            places = [place for place in np.flatnonzero(codes == phrase) if place + PHRASE <= half]
            if not donors or not all(free[place : place + PHRASE].all() for place in places):
                continue
            count = int((codes == phrase).sum())
            start = donors.pop(min(range(len(donors)), key=lambda k: abs(donors[k][0] - count)))[1]
            for place in places:
                free[place : place + PHRASE] = False
                made[place : place + PHRASE] = self.windows[other].tokens[start : start + PHRASE]
            pieces.append(Piece(self.windows[other].id, start, PHRASE))
            if len(pieces) == PHRASES:
                break
        return (made, pieces) if pieces else None

    def _recurring(self, i: int) -> list[int]:
        """Phrases of window ``i`` alone that stand in both of its halves, most used in the second half first."""
        codes, half = _codes(self.windows[i].tokens), len(self.windows[i].tokens) // 2
        early = codes[: max(0, half - PHRASE + 1)]
        late, uses = np.unique(codes[half:], return_counts=True)
        chosen = np.isin(late, early) & np.isin(late, self._of_one_document)
        first = {code: place for place, code in reversed(list(enumerate(codes.tolist())))}
        ordered = sorted(
            zip(uses[chosen].tolist(), late[chosen].tolist(), strict=True), key=lambda u: (-u[0], first[u[1]])
        )
        return [code for _, code in ordered]

    def _donors(self, i: int, generator: np.random.Generator) -> list[tuple[int, int]]:
        """Phrases of window ``i`` that no other document has: how often they stand there, and where first."""
        found, first, counts = np.unique(_codes(self.windows[i].tokens), return_index=True, return_counts=True)
        chosen = np.flatnonzero(np.isin(found, self._of_one_document))
        generator.shuffle(chosen)
        return [(int(counts[k]), int(first[k])) for k in chosen]

    @cached_property
    def _of_one_document(self) -> Codes:
        """Phrases that stand in one document of the pool only."""
        documents: dict[str, list[Codes]] = {}
        for window in self.windows:
            documents.setdefault(window.doc_id, []).append(_codes(window.tokens))
        found, counts = np.unique(
            np.concatenate([np.unique(np.concatenate(parts)) for parts in documents.values()]), return_counts=True
        )
        return found[counts == 1]


def _codes(tokens: Tokens) -> Codes:
    """One number for every :data:`PHRASE` tokens that follow one another, shape [T - 2]; ids are below 2²¹."""
    wide = tokens.astype(np.int64)
    return (wide[:-2] << 42) | (wide[1:-1] << 21) | wide[2:]
