"""Variables that get their value from each other, in lines spread among others that say nothing."""

import random
import string
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np

from longattn.evals.tasks import SHORT, Draft, Materials, Sample, Task, fitted, largest

EXAMPLE_TOKENS = 500
"""The solved example before the question is at most so long."""


@dataclass(frozen=True, kw_only=True)
class VariableTracking(Task):
    """All variables of a chain that begins with a value, after one solved example."""

    max_new_tokens: int = 30
    hops: int = 4
    example: bool = True
    """Whether a solved one comes first."""

    def smaller(self) -> Iterator["VariableTracking"]:
        """Without the example, then with half of the hops."""
        yield replace(self, example=False)
        yield replace(self, example=False, hops=max(1, self.hops // 2))

    def samples(self, materials: Materials, length: int, count: int, seed: int) -> tuple[list[Sample], int, int]:
        """See :meth:`Task.samples`."""
        writer = _Writer(self, materials, random.Random(seed), np.random.RandomState(seed))
        example = writer.example(EXAMPLE_TOKENS) if self.example else ""
        probe = _Writer(self, materials, random.Random(seed), np.random.RandomState(seed)).draft(self.hops + 1)
        reserved = self.reserve(length, materials, probe.answers)
        step = 10 if length >= SHORT else 5
        per_line = writer.size(step) / step
        beside = materials.count_tokens(example) + reserved if example else reserved
        size = largest(
            writer.size, length - beside, step=step, estimate=int(length / per_line * 3), least=self.hops + 1
        )

        def draw(lines: int) -> Draft:
            draft = writer.draft(lines)
            solved = writer.renamed(example) + "\n" if example else ""
            return replace(draft, prompt=solved + draft.prompt)

        samples = []
        for index in range(count):
            draft, tokens = fitted(draw, materials, size, length - reserved, step=step, least=self.hops + 1)
            samples.append(draft.sample(index, tokens + reserved))
        return samples, reserved, 0


@dataclass(frozen=True)
class _Writer:
    task: VariableTracking
    materials: Materials
    rng: random.Random
    values: np.random.RandomState = field(repr=False)
    """RULER draws values, and only these, from numpy."""

    def size(self, lines: int) -> int:
        return self.materials.size(self.draft(lines))

    def draft(self, lines: int, *, solved: bool = False) -> Draft:
        """A question among so many lines; the one to be ``solved`` has shorter names and a fixed value."""
        wording, hops = self.materials.wording, self.task.hops
        names = self._names(hops + 1, 3 if solved else 5)
        value = "12345" if solved else self._value()
        chain = [wording.assign_value.format(name=names[0], value=value)]
        chain += [wording.assign_name.format(name=name, other=other) for other, name in pairwise(names)]
        text = [wording.noise] * lines
        for j, place in enumerate(sorted(self.rng.sample(range(lines), len(chain)))):
            text.insert(place + j, chain[j])
        context = "\n".join(text).replace(". \n", ".\n")
        fields = {"context": context, "query": value, "num_v": hops + 1}
        template = wording.variable_tracking
        return Draft(template.task.format(**fields), template.prefix.format(**fields), tuple(names))

    def example(self, limit: int) -> str:
        """A solved question of at most so many tokens, sized as RULER sizes it."""

        def draw(lines: int) -> Draft:
            return self.draft(lines, solved=True)

        def size(lines: int) -> int:
            return self.materials.size(draw(lines))

        step = 5
        per_line = size(step) / step
        least = self.task.hops + 1
        lines = largest(size, limit, step=step, estimate=int(limit / per_line * 3), least=least)
        draft, _ = fitted(draw, self.materials, lines, limit, step=step, least=least)
        return f"{draft.prompt}{draft.answer_prefix} {' '.join(draft.answers)}\n"

    def renamed(self, example: str) -> str:
        """The example with other names and another value."""
        for name in example.split()[-self.task.hops - 1 :]:
            example = example.replace(name, self._name(len(name)))
        return example.replace("12345", self._value())

    def _names(self, count: int, letters: int) -> list[str]:
        names = [self._name(letters) for _ in range(count)]
        # RULER goes on with a name twice, and fails or repeats itself
        while len(set(names)) < count:
            names.append(self._name(letters))
            names = list(dict.fromkeys(names))
        return names

    def _name(self, letters: int) -> str:
        return "".join(self.rng.choices(string.ascii_uppercase, k=letters))

    def _value(self) -> str:
        return str(self.values.randint(10000, 99999))
