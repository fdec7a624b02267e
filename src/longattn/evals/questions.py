"""Questions on documents: files in SQuAD's and HotpotQA's formats, and made-up ones for trials without them."""

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longattn.errors import CorpusError


@dataclass(frozen=True)
class Question:
    """A question, its answers, and the documents that it is asked of."""

    query: str
    answers: tuple[str, ...]
    """Any of them will do."""
    documents: tuple[int, ...]
    """Places of the documents that come with it; the answer is in them."""
    more: tuple[int, ...] = ()
    """Places of others of the same article."""
    needed: tuple[int, ...] = ()
    """Those of ``documents`` that are enough; empty where that is not known."""


@dataclass(frozen=True)
class Questions:
    """A file of questions."""

    name: str
    sha256: str
    """Of the file, 16 hexadecimal digits."""
    documents: tuple[str, ...]
    questions: tuple[Question, ...]

    def facts(self) -> dict[str, str]:
        """What a result says of it."""
        return {"name": self.name, "sha256": self.sha256}


def read_squad(path: Path) -> Questions:
    """Questions of a file in the format of SQuAD 2.0 that have an answer. Raises :class:`CorpusError`."""
    content = path.read_bytes()
    try:
        return squad(json.loads(content), path.name, content)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise CorpusError(f"{path} is not in the format of SQuAD 2.0 (dev-v2.0.json): {error!r}") from error


def squad(parsed: Mapping[str, Any], name: str, content: bytes) -> Questions:
    """Questions in the format of SQuAD 2.0."""
    documents = sorted({p["context"] for article in parsed["data"] for p in article["paragraphs"]})
    place = {document: i for i, document in enumerate(documents)}
    questions = []
    for article in parsed["data"]:
        of_article = [place[p["context"]] for p in article["paragraphs"]]
        for paragraph in article["paragraphs"]:
            own = place[paragraph["context"]]
            others = tuple(i for i in of_article if i != own)
            questions += [
                Question(one["question"], tuple(a["text"] for a in one["answers"]), (own,), others, (own,))
                for one in paragraph["qas"]
                if not one["is_impossible"]
            ]
    return _questions(name, content, documents, questions)


def read_hotpot(path: Path) -> Questions:
    """Questions of a file in the format of HotpotQA's distractor setting. Raises :class:`CorpusError`."""
    content = path.read_bytes()
    try:
        return hotpot(json.loads(content), path.name, content)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise CorpusError(
            f"{path} is not in the format of HotpotQA (hotpot_dev_distractor_v1.json): {error!r}"
        ) from error


def hotpot(parsed: Sequence[Mapping[str, Any]], name: str, content: bytes) -> Questions:
    """Questions in the format of HotpotQA."""
    texts = {(t, tuple(p)): f"{t}\n{''.join(p)}" for one in parsed for t, p in one["context"]}
    documents = sorted(set(texts.values()))
    place = {document: i for i, document in enumerate(documents)}
    questions = []
    for one in parsed:
        own = [(t, place[texts[t, tuple(p)]]) for t, p in one["context"]]
        named = {title for title, _ in one.get("supporting_facts", ())}
        needed = tuple(i for title, i in own if title in named)
        questions.append(Question(one["question"], (one["answer"],), tuple(i for _, i in own), needed=needed))
    return _questions(name, content, documents, questions)


def _questions(name: str, content: bytes, documents: Sequence[str], questions: Sequence[Question]) -> Questions:
    if not questions:
        raise ValueError("it holds no question that has an answer")
    return Questions(name, hashlib.sha256(content).hexdigest()[:16], tuple(documents), tuple(questions))


_PLACES = ("Arvenholt", "Brissaley", "Cormund", "Dunvarrow", "Eskeby", "Fallowmere", "Garrick Sound", "Hestervik")
_TRADES = ("glassblower", "cartographer", "clockmaker", "botanist", "shipwright", "printer", "astronomer", "weaver")
_THINGS = ("a bell tower", "a tidal mill", "a lending library", "an orchard", "a ferry line", "an observatory")
_FIRST = ("Mira", "Tobin", "Ilse", "Corvan", "Petra", "Anselm", "Yrsa", "Lucan", "Odile", "Ferris")
_LAST = (
    "Hallowell",
    "Brandt",
    "Sorensby",
    "Vance",
    "Quillfeather",
    "Marsh",
    "Tolliver",
    "Okonjo",
    "Reyes",
    "Lindqvist",
)
_FILLING = (
    "Letters from that time speak of long winters and little money.",
    "Most of what is known comes from the parish books.",
    "Later writers doubted some of it, without giving reasons.",
    "A small exhibition recalls it every second summer.",
    "The building still stands, though its roof was replaced twice.",
)


@dataclass(frozen=True)
class _Person:
    name: str
    trade: str
    place: str
    thing: str
    year: int


def _people(count: int, seed: int) -> tuple[list[_Person], random.Random]:
    """People that never lived, no two of one name, and the random numbers to go on with."""
    rng = random.Random(seed)
    names = [f"{first} {last}" for first in _FIRST for last in _LAST]
    if count > len(names):
        raise ValueError(f"at most {len(names)} people can be made up, {count} were asked for")
    people = [
        _Person(name, rng.choice(_TRADES), rng.choice(_PLACES), rng.choice(_THINGS), rng.randint(1650, 1899))
        for name in rng.sample(names, count)
    ]
    return people, rng


def _lines(person: _Person, rng: random.Random) -> list[str]:
    said = f"{person.name} was a {person.trade} who settled in {person.place} in {person.year}."
    built = f" There, {person.name} founded {person.thing}."
    filling = "".join(f" {line}" for line in rng.sample(_FILLING, rng.randint(1, len(_FILLING))))
    return [said, built + filling]


def made_up_squad(people: int = 60, seed: int = 0) -> dict[str, Any]:
    """A file in SQuAD's format about people that never lived: an article for every four of them."""
    found, rng = _people(people, seed)
    paragraphs = []
    for person in found:
        context = "".join(_lines(person, rng))
        asked = {
            f"When did {person.name} settle in {person.place}?": [str(person.year), f"in {person.year}"],
            f"What was the trade of {person.name}?": [person.trade, f"a {person.trade}"],
        }
        qas = [
            {
                "question": question,
                "id": f"{person.name}-{i}",
                "is_impossible": False,
                "answers": [{"text": text, "answer_start": context.find(text)} for text in answers],
            }
            for i, (question, answers) in enumerate(asked.items())
        ]
        nothing = {"question": f"Whom did {person.name} marry?", "id": f"{person.name}-none", "answers": []}
        paragraphs.append({"context": context, "qas": [*qas, {**nothing, "is_impossible": True}]})
    articles = [
        {"title": f"People {i}", "paragraphs": paragraphs[start : start + 4]}
        for i, start in enumerate(range(0, len(paragraphs), 4))
    ]
    return {"version": "made up", "data": articles}


def made_up_hotpot(questions: int = 40, people: int = 60, seed: int = 0) -> list[dict[str, Any]]:
    """A file in HotpotQA's format: each question takes a document on a person and one on the place they settled in."""
    found, rng = _people(people, seed)
    by_person = {person.name: [person.name, _lines(person, rng)] for person in found}
    rivers = {place: f"the {rng.choice(_LAST)} river" for place in _PLACES}
    by_place = {
        place: [place, [f"{place} is a market town on {river}.", f" {rng.choice(_FILLING)}"]]
        for place, river in rivers.items()
    }
    asked = []
    for i in range(questions):
        person = found[i % len(found)]
        others = [one.name for one in found if one is not person]
        context = [by_person[person.name], by_place[person.place], *(by_person[name] for name in rng.sample(others, 8))]
        rng.shuffle(context)
        asked.append(
            {
                "_id": str(i),
                "question": f"On which river is the town where {person.name} settled?",
                "answer": rivers[person.place],
                "supporting_facts": [[person.name, 0], [person.place, 0]],
                "context": context,
                "type": "bridge",
                "level": "easy",
            }
        )
    return asked


def made_up(kind: str) -> Questions:
    """Made-up questions under a name that says so; ``kind`` is ``squad`` or ``hotpot``."""
    parsed = made_up_squad() if kind == "squad" else made_up_hotpot()
    content = json.dumps(parsed, sort_keys=True).encode()
    name = f"made up, in the format of {'SQuAD' if kind == 'squad' else 'HotpotQA'}"
    return squad(parsed, name, content) if isinstance(parsed, dict) else hotpot(parsed, name, content)
