"""Collections of short notices, and questions on one, some or all of them, after M4LE (https://arxiv.org/abs/2310.19240).

M4LE joins many instances of a short data set, each with an id, until a length is reached, and asks for one of them by
its id (explicit) or by what it says (semantic), for several, or for something that takes all of them (global). Here the
instances are made up as well, in our own wording, so that no data set is needed and answers are exact.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from longattn.evals.tasks import Draft, FilledTask, Task

_KINDS = {
    "sale": "For sale: {thing}, {colour}, used for {years} years. The price is {number} crowns.",
    "loss": "Lost near the canal: {thing}, {colour}. Whoever finds it after {years} days gets {number} crowns.",
    "wish": "Wanted: {thing}, {colour} if possible, at most {years} years old. Up to {number} crowns are paid.",
    "hire": "For hire by the week: {thing}, {colour}, {years} of them in all. A week comes to {number} crowns.",
}
_NAMES = {"sale": "sales", "loss": "losses", "wish": "wishes", "hire": "hires"}
_SIZES = (
    *("a small", "a large", "an old", "a new", "a folding", "a painted", "a borrowed", "an odd"),
    *("a heavy", "a light", "a wooden", "a plain", "a foreign", "a carved", "a lacquered", "a mended"),
)
_THINGS = (
    *("accordion", "bicycle", "canoe", "desk", "easel", "flute", "globe", "hammock", "inkstand", "jigsaw", "kettle"),
    *("ladder", "loom", "mirror", "net", "oboe", "parasol", "quilt", "rucksack", "sledge", "telescope", "umbrella"),
    *("violin", "wardrobe"),
)
_COLOURS = (
    *("amber", "black", "crimson", "dark green", "grey", "ivory", "light blue", "ochre", "silver", "violet"),
    *("white", "brown"),
)
MOST = len(_SIZES) * len(_THINGS) * len(_COLOURS)
"""Notices that can be told apart by what they say."""


@dataclass(frozen=True)
class _Notice:
    id: str
    kind: str
    thing: str
    colour: str
    years: int
    number: int

    @property
    def text(self) -> str:
        facts = {"thing": self.thing, "colour": self.colour, "years": self.years, "number": self.number}
        return f"Notice {self.id}\n{_KINDS[self.kind].format(**facts)}"


@dataclass(frozen=True, kw_only=True)
class Collection(FilledTask):
    """Questions on notices."""

    source: ClassVar[str] = "M4LE"

    kind: Literal["explicit", "semantic", "global"] = "explicit"
    asked: int = 1
    """Notices that are asked for; where they are found by what they say, all that say it."""

    @property
    def least(self) -> int:
        """See :attr:`FilledTask.least`."""
        return max(5, self.asked + 1)

    def draft(self, rng: random.Random, parts: int) -> Draft:
        """A prompt of so many notices."""
        notices = _notices(rng, parts)
        if self.kind == "semantic" and self.asked > 1:
            notices = _with_few(rng, notices, self.asked)
        question, prefix, answers = self._question(rng, notices)
        context = "\n\n".join(notice.text for notice in notices)
        return Draft(f"A board is full of notices.\n\n{context}\n\nQuestion: {question}", f" Answer: {prefix}", answers)

    def _question(self, rng: random.Random, notices: Sequence[_Notice]) -> tuple[str, str, tuple[str, ...]]:
        if self.kind == "global":
            (kind, _), *_ = Counter(notice.kind for notice in notices).most_common()
            kinds = ", ".join(_NAMES.values())
            return f"Of which kind are most notices: {kinds}? Give the kind alone.", "Most of them are", (_NAMES[kind],)
        if self.kind == "semantic" and self.asked > 1:
            ids = tuple(notice.id for notice in notices if notice.kind == "wish")
            return "Which notices are about something that is wanted? Give their ids alone.", "Notices", ids
        chosen = sorted(rng.sample(range(len(notices)), self.asked))
        found = [notices[i] for i in chosen]
        answers = tuple(str(notice.number) for notice in found)
        if self.kind == "semantic":
            one = found[0]
            question = f"How many crowns does the notice name that is about {one.thing}, {one.colour}?"
            return f"{question} Give the number alone.", "The number of crowns is", answers
        ids = ", ".join(notice.id for notice in found)
        several = "notices" if len(found) > 1 else "notice"
        question = f"How many crowns are named in the {several} {ids}? Give only the numbers, in this order."
        return question, "The numbers of crowns are" if len(found) > 1 else "The number of crowns is", answers


def _notices(rng: random.Random, count: int) -> list[_Notice]:
    """So many notices with ids and numbers of their own, no two about the same thing, one kind more than any other."""
    if count > MOST:
        raise ValueError(f"at most {MOST:,} notices can be told apart, a prompt so long takes {count:,}")
    ids, numbers = (rng.sample(range(10**4, 10**5), count) for _ in range(2))
    about = [divmod(place, len(_COLOURS)) for place in rng.sample(range(MOST), count)]
    most = rng.choice(list(_KINDS))
    kinds: list[str] = []
    while not _stands_out(kinds):
        kinds = rng.choices(list(_KINDS), weights=[2 if kind == most else 1 for kind in _KINDS], k=count)
    return [
        _Notice(
            f"N{ids[i]}",
            kinds[i],
            f"{_SIZES[what % len(_SIZES)]} {_THINGS[what // len(_SIZES)]}",
            _COLOURS[colour],
            rng.randint(2, 9),
            numbers[i],
        )
        for i, (what, colour) in enumerate(about)
    ]


def _stands_out(kinds: Sequence[str]) -> bool:
    """Whether one kind is more frequent than each other one."""
    (first, *others) = [n for _, n in Counter(kinds).most_common()] or [0]
    return first > max(others, default=0)


def _with_few(rng: random.Random, notices: Sequence[_Notice], wishes: int) -> list[_Notice]:
    """The same notices with exactly so many wishes among them."""
    others = [kind for kind in _KINDS if kind != "wish"]
    chosen = set(rng.sample(range(len(notices)), wishes))
    return [
        _Notice(
            one.id,
            "wish" if i in chosen else one.kind if one.kind != "wish" else rng.choice(others),
            one.thing,
            one.colour,
            one.years,
            one.number,
        )
        for i, one in enumerate(notices)
    ]


COLLECTIONS: dict[str, Task] = {
    task.name: task
    for task in (
        Collection(name="collections_explicit"),
        Collection(name="collections_semantic", kind="semantic"),
        Collection(name="collections_explicit_several", asked=3),
        Collection(name="collections_semantic_several", kind="semantic", asked=3),
        Collection(name="collections_global", kind="global"),
    )
}
"""M4LE's five abilities."""
