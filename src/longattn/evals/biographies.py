"""Biographies of people that never lived, and questions on them, after LongBioBench (https://arxiv.org/abs/2506.02921).

A haystack that is coherent, has an exact answer to every question, and is made offline. Built after the benchmark's
description, in our own wording; its task of two people with a given difference in age is not among ours, as it has
more than one right answer.
"""

import datetime
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from longattn.evals.tasks import Draft, FilledTask, Task

Kind = Literal["standard", "multi", "paraphrase", "pronoun", "calculation", "rank", "multihop", "citation", "unknown"]

TODAY = datetime.date(2025, 1, 1)
"""The day that ages are told for."""
UNKNOWN = "unknown"
"""What to say where the text does not tell."""

_MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July"),
    *("August", "September", "October", "November", "December"),
)
_SYLLABLES = ("ba", "den", "fi", "gor", "hal", "ken", "lo", "mar", "nu", "pel", "ris", "so", "tam", "vel", "wi", "zan")
_HOBBIES = (
    *("beekeeping", "bookbinding", "calligraphy", "fencing", "geocaching", "juggling", "kayaking", "origami"),
    *("pottery", "quilting", "rowing", "stargazing", "topiary", "whittling", "archery", "falconry"),
)
_MAJORS = (
    *("acoustics", "botany", "cartography", "demography", "epigraphy", "forestry", "geodesy", "hydrology"),
    *("linguistics", "metallurgy", "numismatics", "optics", "philology", "statistics", "toxicology", "volcanology"),
)
_TELL: Mapping[str, tuple[str, str]] = {
    "birthday": ("{who} was born on {value}.", "{value} is the day on which {who} came into the world."),
    "birthplace": ("{who} was born in {value}.", "{value} is where {whose} life began."),
    "hobby": ("{whose} hobby is {value}.", "In free hours, nothing pleases {whom} more than {value}."),
    "major": ("{who} studied {value}.", "{whose} degree is in {value}."),
    "university": ("{who} graduated from {value}.", "{value} is {whose} alma mater."),
    "city": ("{who} works in {value}.", "{whose} place of work is {value}."),
}
_ASK = {
    "birthday": "On which day was {name} born?",
    "birthplace": "In which town was {name} born?",
    "hobby": "What is the hobby of {name}?",
    "major": "What did {name} study?",
    "university": "From which university did {name} graduate?",
    "city": "In which town does {name} work?",
}


@dataclass(frozen=True)
class Person:
    """A person that never lived."""

    name: str
    born: datetime.date
    facts: Mapping[str, str]

    @property
    def age(self) -> int:
        """Full years on :data:`TODAY`."""
        return TODAY.year - self.born.year - ((TODAY.month, TODAY.day) < (self.born.month, self.born.day))


@dataclass(frozen=True, kw_only=True)
class Biographies(FilledTask):
    """Questions on some of many people."""

    source: ClassVar[str] = "LongBioBench"
    metric: ClassVar[Literal["all", "part", "every"]] = "every"

    kind: Kind = "standard"
    people: int = 1
    """Asked about at once."""

    @property
    def least(self) -> int:
        """See :attr:`FilledTask.least`."""
        return max(3, self.people + 1)

    def draft(self, rng: random.Random, parts: int) -> Draft:
        """A prompt on so many people."""
        people = _people(rng, parts)
        chosen = rng.sample(range(parts), self.people)
        asked = [people[i] for i in chosen]
        attribute = rng.choice(sorted(_TELL))
        question, answers, left_out = _QUESTIONS[self.kind](rng, asked, attribute)
        if self.kind == "citation":
            answers = tuple(part for i, answer in zip(chosen, answers, strict=True) for part in (answer, f"[{i + 1}]"))
        told = [self._tell(rng, person, left_out if i in chosen else ()) for i, person in enumerate(people)]
        if self.kind == "citation":
            told = [f"[{i}] {text}" for i, text in enumerate(told, start=1)]
        rule = f"If they do not say it, answer: {UNKNOWN}." if self.kind == "unknown" else "Give the answer alone."
        prompt = "\n\n".join([f"Below are biographies. Today is {_day(TODAY)}.", *told, f"Question: {question} {rule}"])
        depths = [round(i / max(1, parts - 1), 4) for i in chosen]
        return Draft(prompt, " Answer:", answers, {"attribute": attribute, "depths": depths})

    def _tell(self, rng: random.Random, person: Person, left_out: Sequence[str]) -> str:
        names = [name for name in _TELL if name not in left_out]
        rng.shuffle(names)
        lines = []
        for place, name in enumerate(names):
            form = rng.randrange(2) if self.kind == "paraphrase" else 0
            lines.append(_TELL[name][form].format(value=person.facts[name], **_reference(self.kind, person, place)))
        text = " ".join(line[0].upper() + line[1:] for line in lines)
        return f"{person.name} tells: {text}" if self.kind == "pronoun" else text


def _reference(kind: Kind, person: Person, place: int) -> dict[str, str]:
    """How a sentence speaks of its person: by name, or as the person itself does."""
    if kind == "pronoun":
        return {"who": "I", "whose": "my", "whom": "me"}
    return {"who": person.name, "whose": f"{person.name}'s", "whom": person.name}


def _day(date: datetime.date) -> str:
    # strftime's months are those of the machine's language
    return f"{date.day} {_MONTHS[date.month - 1]} {date.year}"


def _name(rng: random.Random, syllables: int) -> str:
    return "".join(rng.choices(_SYLLABLES, k=syllables)).capitalize()


def _people(rng: random.Random, count: int) -> list[Person]:
    """So many people, no two of one name, birthplace or university."""
    people: dict[str, Person] = {}
    places = _places(rng, 2 * count)
    while len(people) < count:
        name = f"{_name(rng, 2)} {_name(rng, 3)}"
        if name in people:
            continue
        born = datetime.date(rng.randint(1940, 2004), rng.randint(1, 12), rng.randint(1, 28))
        facts = {
            "birthday": _day(born),
            "birthplace": places[len(people)],
            "hobby": rng.choice(_HOBBIES),
            "major": rng.choice(_MAJORS),
            "university": f"the University of {places[count + len(people)]}",
            "city": _name(rng, 3),
        }
        people[name] = Person(name, born, facts)
    return list(people.values())


def _places(rng: random.Random, count: int) -> list[str]:
    """So many different names of places."""
    found: dict[str, None] = {}
    while len(found) < count:
        found.setdefault(_name(rng, 4))
    return list(found)


_Question = tuple[str, tuple[str, ...], tuple[str, ...]]
"""A question, its answers, and what must not be told of the people it is about."""


def _standard(_: random.Random, asked: Sequence[Person], attribute: str) -> _Question:
    questions = " ".join(_ASK[attribute].format(name=person.name) for person in asked)
    return questions, tuple(person.facts[attribute] for person in asked), ()


def _unknown(_: random.Random, asked: Sequence[Person], attribute: str) -> _Question:
    return _ASK[attribute].format(name=asked[0].name), (UNKNOWN,), (attribute,)


def _calculation(_: random.Random, asked: Sequence[Person], __: str) -> _Question:
    first, second = asked
    question = f"By how many years do the ages of {first.name} and {second.name} differ today?"
    return question, (str(abs(first.age - second.age)),), ()


def _rank(_: random.Random, asked: Sequence[Person], __: str) -> _Question:
    names = ", ".join(person.name for person in asked)
    oldest = min(asked, key=lambda person: person.born)
    return f"Who of these was born first: {names}?", (oldest.name,), ()


def _multihop(_: random.Random, asked: Sequence[Person], attribute: str) -> _Question:
    person = asked[0]
    other = "university" if attribute != "university" else "birthplace"
    question = _ASK[attribute].format(name=f"the person whose {other} is {person.facts[other]}")
    return question, (person.facts[attribute],), ()


_QUESTIONS: Mapping[Kind, Callable[[random.Random, Sequence[Person], str], _Question]] = {
    "standard": _standard,
    "multi": _standard,
    "paraphrase": _standard,
    "pronoun": _standard,
    "citation": _standard,
    "unknown": _unknown,
    "calculation": _calculation,
    "rank": _rank,
    "multihop": _multihop,
}

BIOGRAPHIES: dict[str, Task] = {
    task.name: task
    for task in (
        Biographies(name="biographies_standard"),
        Biographies(name="biographies_multi", kind="multi", people=3),
        Biographies(name="biographies_paraphrase", kind="paraphrase"),
        Biographies(name="biographies_pronoun", kind="pronoun"),
        Biographies(name="biographies_calculation", kind="calculation", people=2),
        Biographies(name="biographies_rank", kind="rank", people=3),
        Biographies(name="biographies_multihop", kind="multihop"),
        Biographies(name="biographies_citation", kind="citation"),
        Biographies(name="biographies_unknown", kind="unknown"),
    )
}
"""The benchmark's kinds of question."""
