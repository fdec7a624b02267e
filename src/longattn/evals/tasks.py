"""What a made-up task is, and how its prompts are filled up to a length in tokens.

A task makes prompts of at most ``length`` tokens, those of the answer included, from :class:`Materials`. Sizes are
found as in RULER (https://arxiv.org/abs/2404.06654): a binary search for the haystack of the first prompt, then a step
less for each later one that comes out too long. Below the least haystack that RULER tries it would go round for ever;
there the search goes on, tasks that have smaller forms of themselves take these, and what still does not fit is an
error.
"""

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from longattn.errors import LongAttnError

if TYPE_CHECKING:
    from longattn.evals.haystacks import Haystack
    from longattn.evals.questions import Questions
    from longattn.evals.wording import Wording
    from longattn.evals.words import Words

SHORTEST = 128
"""The least length that prompts are made for."""
SHORT = 4096
"""RULER's least length. It makes shorter prompts with smaller steps where haystacks are lines; here all tasks do."""
STEP = 10
"""Parts that the search begins with for a task that is not RULER's."""
TRIES = 20
"""Draws of a prompt with the least haystack before it counts as too long: names and numbers vary in length."""


class NeedsMaterialError(LongAttnError):
    """A task needs a file that was not given."""


class DoesNotFitError(LongAttnError):
    """A task's prompt is longer than asked for, however little is put into it."""


@dataclass(frozen=True, kw_only=True)
class Materials:
    """What prompts are made of, and what their length is counted with."""

    count_tokens: Callable[[str], int]
    """Tokens of a text under the model's own tokenizer, without a BOS."""
    wording: "Wording"
    words: "Words"
    haystack: "Haystack | None" = None
    """Running text, for tasks that hide something in it."""
    squad: "Questions | None" = None
    """Questions on single documents."""
    hotpot: "Questions | None" = None
    """Questions that take two documents."""

    def size(self, draft: "Draft") -> int:
        """Tokens of a prompt and of what its answer begins with."""
        return self.count_tokens(draft.prompt + draft.answer_prefix)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One prompt and what would answer it."""

    index: int
    prompt: str
    answer_prefix: str
    """Begins the answer and is given to the model behind the prompt."""
    answers: tuple[str, ...]
    length: int
    """Tokens of prompt, prefix and of the answer that is reserved for."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What else is known of it, such as where in the prompt the answer stands."""

    @property
    def text(self) -> str:
        """All that the model is given."""
        return self.prompt + self.answer_prefix


@dataclass(frozen=True)
class Generated:
    """Samples of a task at a length, and the form of the task that they were made by."""

    task: "Task"
    length: int
    samples: tuple[Sample, ...]
    max_new_tokens: int
    """Tokens that are reserved for an answer, and generated."""
    reduced: dict[str, Any]
    """What is less than in RULER for want of room; empty from 1,024 tokens or so on."""
    skipped: int = 0
    """Questions passed over because even alone they are too long."""


@dataclass(frozen=True)
class Draft:
    """A prompt that may still be too long."""

    prompt: str
    answer_prefix: str
    answers: tuple[str, ...]
    facts: dict[str, Any] = field(default_factory=dict)

    def sample(self, index: int, length: int, facts: dict[str, Any] | None = None) -> Sample:
        """As a sample, whose ``length`` counts what is reserved for the answer; ``facts`` are its own unless given."""
        return Sample(
            index=index,
            prompt=self.prompt,
            answer_prefix=self.answer_prefix,
            answers=self.answers,
            length=length,
            facts=self.facts if facts is None else facts,
        )


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """A way to make prompts; subclasses are frozen dataclasses of what makes them hard."""

    metric: ClassVar[Literal["all", "part", "every"]] = "all"
    """How an answer is scored; see :mod:`longattn.evals.metrics`."""
    source: ClassVar[str] = "RULER"
    """Whose construction it is."""

    name: str
    max_new_tokens: int
    """Tokens to generate from 1,024 tokens on; shorter prompts keep an eighth of themselves or what answers need."""

    @abstractmethod
    def samples(self, materials: Materials, length: int, count: int, seed: int) -> tuple[list[Sample], int, int]:
        """Some samples, the tokens reserved for an answer, and how many questions had to be passed over.

        Raises :class:`DoesNotFitError` where the task needs more than ``length`` tokens, and
        :class:`NeedsMaterialError`.
        """

    def smaller(self) -> Iterator["Task"]:
        """Forms of the task that need less room, the nearest to it first."""
        return iter(())

    def reserve(self, length: int, materials: Materials, answers: Sequence[str]) -> int:
        """Tokens to keep for an answer like ``answers``."""
        need = materials.count_tokens(", ".join(answers))
        return min(self.max_new_tokens, max(length // 8, need + need // 4 + 2))


@dataclass(frozen=True, kw_only=True)
class FilledTask(Task):
    """A task whose context is a number of parts of one kind (pairs, people, notices), drawn for each sample anew."""

    max_new_tokens: int = 512

    @property
    @abstractmethod
    def least(self) -> int:
        """Parts that the question cannot do without."""

    @abstractmethod
    def draft(self, rng: random.Random, parts: int) -> Draft:
        """A prompt of so many parts."""

    def samples(self, materials: Materials, length: int, count: int, seed: int) -> tuple[list[Sample], int, int]:
        """See :meth:`Task.samples`."""

        def drawer(index: int) -> Callable[[int], Draft]:
            return lambda parts: self.draft(random.Random(f"{self.name} {seed} {index}"), parts)

        def size(parts: int) -> int:
            return materials.size(drawer(0)(parts))

        reserved = self.reserve(length, materials, drawer(0)(self.least).answers)
        free = length - reserved
        step = max(STEP, self.least)
        parts = largest(size, free, step=step, estimate=int(length / size(step) * step * 3), least=self.least)
        samples = []
        for index in range(count):
            draft, tokens = fitted(drawer(index), materials, parts, free, step=1, least=self.least)
            samples.append(draft.sample(index, tokens + reserved))
        return samples, reserved, 0

    def reserve(self, length: int, materials: Materials, answers: Sequence[str]) -> int:
        """What answers need, and a few words around them."""
        need = materials.count_tokens(", ".join(answers))
        return min(self.max_new_tokens, need + need // 4 + 16)


def generate(task: Task, materials: Materials, length: int, count: int, seed: int = 42) -> Generated:
    """``count`` samples of a task, or as many as there are questions; the same for the same arguments.

    Raises ``ValueError`` for numbers that make no sense, :class:`NeedsMaterialError` where a file is missing, and
    :class:`DoesNotFitError` for a task that no form of itself fits into ``length`` tokens.
    """
    if length < SHORTEST:
        raise ValueError(f"length must be at least {SHORTEST} tokens, got {length}")
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    too_long = None
    for form in (task, *task.smaller()):
        try:
            samples, reserved, skipped = form.samples(materials, length, count, seed)
        except DoesNotFitError as error:
            too_long = error
            continue
        reduced = {key: value for key, value in asdict(form).items() if value != asdict(task)[key]}
        if reserved < task.max_new_tokens and not isinstance(task, FilledTask):
            reduced["max_new_tokens"] = reserved
        return Generated(form, length, tuple(samples), reserved, reduced, skipped)
    raise DoesNotFitError(f"{task.name} does not fit into {length} tokens with this tokenizer: {too_long}")


def largest(size: Callable[[int], int], limit: int, *, step: int, estimate: int, least: int) -> int:
    """The largest haystack whose prompt has at most ``limit`` tokens.

    ``size`` draws a prompt and counts it. First as in RULER, between ``step`` and ``estimate`` (or twice the step); if
    nothing fits there, between ``least`` and ``step``. Raises :class:`DoesNotFitError`.
    """
    for lower, upper in ((step, max(estimate, 2 * step)), (least, step - 1)):
        found = None
        while lower <= upper:
            middle = (lower + upper) // 2
            if size(middle) <= limit:
                found, lower = middle, middle + 1
            else:
                upper = middle - 1
        if found is not None:
            return found
    raise DoesNotFitError(f"with a haystack of {least} it is about {size(least)} tokens long")


def fitted(
    draw: Callable[[int], Draft], materials: Materials, haystack: int, limit: int, *, step: int, least: int
) -> tuple[Draft, int]:
    """A draft of at most ``limit`` tokens, and its length: a step less of ``haystack`` each time it comes out too long.

    Raises :class:`DoesNotFitError` where the least haystack is too much for :data:`TRIES` draws.
    """
    tries = TRIES
    while True:
        draft = draw(haystack)
        length = materials.size(draft)
        if length <= limit:
            return draft, length
        if haystack == least:
            tries -= 1
        if not tries:
            raise DoesNotFitError(f"with a haystack of {least} it is {length} tokens long, {limit} are free")
        haystack = max(least, haystack - step if haystack > step else haystack // 2)
