"""The words that a numbered list repeats more often than all others."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from longattn.evals.tasks import SHORT, DoesNotFitError, Draft, Materials, Sample, Task, fitted, largest

STEP = 10
"""Different words that RULER begins with, and takes away at a time."""


@dataclass(frozen=True, kw_only=True)
class CommonWords(Task):
    """All words that occur most often, after one solved example."""

    max_new_tokens: int = 120
    common: int = 10
    """Words to be found."""
    repeats: int = 30
    """How often each of them occurs; 6 times below :data:`longattn.evals.tasks.SHORT`."""
    others: int = 3
    """How often each other word occurs; once below it."""
    example: bool = True
    """Whether a solved one comes first."""

    def smaller(self) -> Iterator["CommonWords"]:
        """Without the example, then with half of the words."""
        yield replace(self, example=False)
        yield replace(self, example=False, common=max(1, self.common // 2))
        yield replace(self, example=False, common=max(1, self.common // 5))

    def samples(self, materials: Materials, length: int, count: int, seed: int) -> tuple[list[Sample], int, int]:
        """See :meth:`Task.samples`."""
        words = list(materials.words.all)
        random.Random(seed).shuffle(words)
        writer = _Writer(self, materials, words, random.Random(seed), seed, short=length < SHORT)
        probe = _Writer(self, materials, words, random.Random(seed), seed, short=True).draft(20)
        reserved = self.reserve(length, materials, [f"{i}. {word}" for i, word in enumerate(probe.answers, start=1)])
        per_word = writer.size(4096) / 4096
        # at least one word that is not asked for
        least = self.common + 1
        free = length - reserved
        size = largest(writer.size, free, step=STEP, estimate=int(length // per_word) * 2, least=least)
        if size < least:
            raise DoesNotFitError(f"with a word beside the {self.common} common ones it is too long for {free} tokens")
        samples = []
        for index in range(count):
            draft, tokens = fitted(writer.draft, materials, size, free, step=STEP, least=least)
            samples.append(draft.sample(index, tokens + reserved))
        return samples, reserved, 0


@dataclass(frozen=True)
class _Writer:
    task: CommonWords
    materials: Materials
    words: list[str]
    rng: random.Random
    seed: int
    short: bool

    def size(self, num_words: int) -> int:
        return self.materials.size(self.draft(num_words))

    def draft(self, num_words: int) -> Draft:
        """A question on a list of so many different words."""
        template, task = self.materials.wording.common_words, self.task
        solved = ""
        if task.example:
            context, common = self._list(20, 3, 1) if self.short else self._list(40, 10, 3)
            solved = (template.task + template.prefix).format(context=context, query="", num_cw=task.common)
            solved += f" {_numbered(common)}\n"
        context, common = self._list(num_words, *((6, 1) if self.short else (task.repeats, task.others)))
        fields = {"context": context, "query": "", "num_cw": task.common}
        return Draft(solved + template.task.format(**fields), template.prefix.format(**fields), tuple(common))

    def _list(self, num_words: int, repeats: int, others: int) -> tuple[str, list[str]]:
        """A list of so many words, and those of them that it repeats most often."""
        drawn = self.rng.sample(self._population(num_words), num_words)
        common, rest = drawn[: self.task.common], drawn[self.task.common :]
        listed = common * repeats + rest * others
        random.Random(self.seed).shuffle(listed)
        return _numbered(listed), common

    def _population(self, num_words: int) -> Sequence[str]:
        if num_words <= len(self.words):
            return self.words
        more = self.materials.wording.more_words
        return more if num_words <= len(more) else self.materials.words.pairs


def _numbered(words: Sequence[str]) -> str:
    return " ".join(f"{i}. {word}" for i, word in enumerate(words, start=1))
