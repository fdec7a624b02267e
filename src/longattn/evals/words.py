"""The English words that keys and lists are made of: those of the package wonderwords, which RULER takes as well."""

import importlib.util
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.metadata import version
from itertools import accumulate
from pathlib import Path

from longattn.errors import ModelError


class Pairs(Sequence[str]):
    """Every ``adjective-noun``, sorted and each once, as if it were a list of millions.

    An adjective's pairs are neighbours unless it begins another one that goes on with a hyphen (``self``,
    ``self-made``); those are sorted together when one of them is asked for.
    """

    def __init__(self, adjectives: Sequence[str], nouns: Sequence[str]) -> None:
        self._nouns = sorted(set(nouns))
        groups: list[list[str]] = []
        for start in sorted({f"{adjective}-" for adjective in adjectives}):
            if groups and start.startswith(groups[-1][0]):
                groups[-1].append(start)
            else:
                groups.append([start])
        self._groups = groups
        self._ends = list(accumulate(len(self._nouns) if len(g) == 1 else len(self._sorted(g)) for g in groups))

    def _sorted(self, group: list[str]) -> list[str]:
        return sorted({start + noun for start in group for noun in self._nouns})

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index):
        if not isinstance(index, int):
            raise TypeError(f"pairs are asked for by number, got {index!r}")
        if not 0 <= index < len(self):
            raise IndexError(index)
        place = bisect_right(self._ends, index)
        group = self._groups[place]
        rest = index - (self._ends[place - 1] if place else 0)
        return group[0] + self._nouns[rest] if len(group) == 1 else self._sorted(group)[rest]


@dataclass(frozen=True)
class Words:
    """Lists of words by kind."""

    name: str
    """Package and version."""
    nouns: tuple[str, ...]
    adjectives: tuple[str, ...]
    verbs: tuple[str, ...]

    @cached_property
    def pairs(self) -> Pairs:
        """Every adjective with every noun."""
        return Pairs(self.adjectives, self.nouns)

    @cached_property
    def all(self) -> tuple[str, ...]:
        """All words, sorted and each once."""
        return tuple(sorted({*self.nouns, *self.adjectives, *self.verbs}))


@cache
def load_words() -> Words:
    """The lists of the installed wonderwords, read as files: importing it takes longer and adds nothing.

    Raises ``ModelError`` where it is not installed.
    """
    spec = importlib.util.find_spec("wonderwords")
    if spec is None or spec.origin is None:
        raise ModelError("made-up tasks take their words from wonderwords: pip install 'longattn[eval]'")
    folder = Path(spec.origin).parent / "assets"
    nouns, adjectives, verbs = (
        tuple(line.rstrip() for line in (folder / f"{kind}list.txt").read_text(encoding="utf-8").splitlines())
        for kind in ("noun", "adjective", "verb")
    )
    return Words(f"wonderwords {version('wonderwords')}", nouns, adjectives, verbs)
