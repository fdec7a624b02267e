"""Needles in a haystack: values under keys, hidden in text, among lines that say nothing, or among other needles."""

import random
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from longattn.evals.haystacks import Haystack, sentences
from longattn.evals.tasks import SHORT, Draft, Materials, NeedsMaterialError, Sample, Task, fitted, largest

Kind = Literal["words", "numbers", "uuids"]

DEPTHS = tuple(round(100 * i / 39) for i in range(40))
"""Percent of a text's sentences before a needle."""


@dataclass(frozen=True, kw_only=True)
class Niah(Task):
    """Values that a text gives for keys, asked for at its end."""

    max_new_tokens: int = 128
    haystack: Literal["noise", "essay", "needle"] = "essay"
    keys: int = 1
    values: int = 1
    """Of each key."""
    queries: int = 1
    """Keys that are asked for."""
    type_needle_k: Kind = "words"
    type_needle_v: Kind = "numbers"

    def smaller(self) -> Iterator["Niah"]:
        """Half as many needles, down to one."""
        form = self
        while max(form.keys, form.values, form.queries) > 1:
            form = replace(
                form, keys=max(1, form.keys // 2), values=max(1, form.values // 2), queries=max(1, form.queries // 2)
            )
            yield form

    def samples(self, materials: Materials, length: int, count: int, seed: int) -> tuple[list[Sample], int, int]:
        """See :meth:`Task.samples`."""
        text = None
        if self.haystack == "essay":
            text = materials.haystack
            if text is None:
                raise NeedsMaterialError(
                    f"{self.name} hides needles in running text: name a folder of essays (--essays) or of other texts "
                    "(--haystack); --haystack python takes the language reference that Python brings along"
                )
        writer = _Writer(self, materials, text, random.Random(seed), seed)
        # 500 words at 1,024 tokens, as RULER has it, would leave prompts of half the length
        steps = (500, 50) if self.haystack == "essay" else (25, 5)
        step = steps[length < SHORT]
        probe = _Writer(self, materials, text, random.Random(seed), seed).draft(self.least)
        reserved = self.reserve(length, materials, probe.answers)
        free = length - reserved
        per_unit = writer.size(step) / step
        size = largest(writer.size, free, step=step, estimate=int(length / per_unit * 3), least=self.least)
        samples = []
        for index in range(count):
            draft, tokens = fitted(writer.draft, materials, size, free, step=step, least=self.least)
            before = draft.prompt[: draft.prompt.find(draft.answers[0])]
            facts = {**draft.facts, "answer_at": materials.count_tokens(before)}
            samples.append(draft.sample(index, tokens + reserved, facts))
        return samples, reserved, 0

    @property
    def num_keys(self) -> int:
        """Keys that are hidden: as many as are asked for, at least."""
        return max(self.keys, self.queries)

    @property
    def least(self) -> int:
        """The smallest haystack: among lines each needle takes the place before another one."""
        return 1 if self.haystack == "essay" else self.num_keys * self.values


@dataclass(frozen=True)
class _Writer:
    """Draws prompts of a task, one after another."""

    task: Niah
    materials: Materials
    text: Haystack | None
    rng: random.Random
    seed: int

    def size(self, haystack: int) -> int:
        """Tokens of a prompt with a haystack of so many words or lines."""
        return self.materials.size(self.draft(haystack))

    def draft(self, haystack: int) -> Draft:
        """A prompt with a haystack of so many words or lines."""
        task, wording = self.task, self.materials.wording
        keys: list[str] = []
        values: list[list[str]] = []
        needles: list[str] = []
        for _ in range(task.num_keys):
            keys.append(self._draw(task.type_needle_k))
            values.append([])
            for _ in range(task.values):
                values[-1].append(self._draw(task.type_needle_v))
                needles.append(self._needle(keys[-1], values[-1][-1]))
        # the same permutation for every sample
        random.Random(self.seed).shuffle(needles)
        context = self._in_text(haystack, needles) if self.text else self._in_lines(haystack, needles)
        asked = self.rng.sample(range(task.num_keys), task.queries)
        names = [keys[i] for i in asked]
        one = task.queries * task.values == 1
        template = wording.niah_one if one else wording.niah
        fields = {
            "type_needle_v": task.type_needle_v[:-1] if one else task.type_needle_v,
            "query": ", and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names),
        }
        return Draft(
            template.task.format(context=context, **fields),
            template.prefix.format(context=context, **fields),
            tuple(value for i in asked for value in values[i]),
            {"keys": names},
        )

    def _needle(self, key: str, value: str) -> str:
        return self.materials.wording.needle.format(type_needle_v=self.task.type_needle_v, key=key, value=value)

    def _draw(self, kind: Kind) -> str:
        if kind == "numbers":
            return str(self.rng.randint(10**6, 10**7 - 1))
        if kind == "words":
            return self.rng.choice(self.materials.words.pairs)
        return str(uuid.UUID(int=self.rng.getrandbits(128), version=4))

    def _in_text(self, num_words: int, needles: Sequence[str]) -> str:
        """Needles between sentences, at depths drawn without replacement."""
        assert self.text is not None, "samples() looks for it"
        parts = sentences(self.text.first(num_words))
        places = sorted(int(len(parts) * (depth / 100)) for depth in self.rng.sample(DEPTHS, len(needles)))
        pieces = []
        for start, stop, needle in zip([0, *places], [*places, len(parts)], [*needles, None], strict=True):
            pieces.append(" ".join(parts[start:stop]))
            if needle is not None:
                pieces.append(needle)
        return " ".join(pieces)

    def _in_lines(self, num_lines: int, needles: Sequence[str]) -> str:
        """Needles before lines drawn without replacement."""
        if self.task.haystack == "noise":
            lines = [self.materials.wording.noise] * num_lines
        else:
            kinds = self.task.type_needle_k, self.task.type_needle_v
            lines = [self._needle(*map(self._draw, kinds)) for _ in range(num_lines)]
        places = sorted(self.rng.sample(range(num_lines), len(needles)), reverse=True)
        for place, needle in zip(places, needles, strict=True):
            lines.insert(place, needle)
        return "\n".join(lines)
