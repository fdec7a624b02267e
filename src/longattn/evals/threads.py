"""Needle Threading (https://arxiv.org/abs/2411.05000): values of random keys, alone, several at once, or in chains.

The haystack is a JSON object of random UUIDs. Built after the paper's description, in our own wording; lengths are in
tokens here, in characters there.
"""

import json
import random
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar, Literal

from longattn.evals.tasks import Draft, FilledTask, Task

MARK = "*"
"""Takes the place of a character in the keys that a condition is about; no UUID has it."""


@dataclass(frozen=True, kw_only=True)
class Threads(FilledTask):
    """Values of keys of a JSON object."""

    source: ClassVar[str] = "Needle Threading"

    kind: Literal["single", "multiple", "conditional", "thread"] = "single"
    needles: int = 1
    """Keys asked for, keys that meet the condition, or threads followed at once."""
    together: bool = False
    """Whether the keys asked for stand beside each other."""
    steps: int = 1
    """Pairs of a thread: each value is the next one's key."""
    direction: Literal["forward", "backward", "random"] = "forward"
    """Where the next pair of a thread stands."""

    @property
    def least(self) -> int:
        """See :attr:`FilledTask.least`."""
        return self.needles * self.steps

    def smaller(self) -> Iterator["Threads"]:
        """Half as many keys and steps, down to one key and to two steps."""
        form = self
        while form.needles > 1 or form.steps > 2:
            form = replace(
                form, needles=max(1, form.needles // 2), steps=max(2, form.steps // 2) if form.steps > 1 else 1
            )
            yield form

    def draft(self, rng: random.Random, parts: int) -> Draft:
        """A prompt of so many pairs."""
        keys, values = ([_uuid(rng) for _ in range(parts)] for _ in range(2))
        places = self._places(rng, parts)
        if self.kind == "conditional":
            for (place,) in places:
                at = rng.randrange(len(keys[place]))
                keys[place] = keys[place][:at] + MARK + keys[place][at + 1 :]
        for thread in places:
            for here, there in pairwise(thread):
                values[here] = keys[there]
        begin = [keys[thread[0]] for thread in places]
        answers = tuple(values[thread[-1]] for thread in places)
        pairs = json.dumps(dict(zip(keys, values, strict=True)), indent=0)
        question, prefix = self._question(begin)
        text = f"The JSON object below gives a value for every key.\n{pairs}\n{question}"
        depths = [place / max(1, parts - 1) for thread in places for place in thread]
        return Draft(text, prefix, answers, {"depths": [round(depth, 4) for depth in depths]})

    def _places(self, rng: random.Random, parts: int) -> list[list[int]]:
        """The pairs of each thread, or the pair of each key, by their place in the object."""
        if self.together:
            first = rng.randint(0, parts - self.needles)
            return [[first + i] for i in range(self.needles)]
        drawn = rng.sample(range(parts), self.needles * self.steps)
        if self.kind == "conditional":
            drawn.sort()
        threads = [drawn[i :: self.needles] for i in range(self.needles)]
        if self.direction == "random":
            return threads
        return [sorted(thread, reverse=self.direction == "backward") for thread in threads]

    def _question(self, begin: Sequence[str]) -> tuple[str, str]:
        listed = ", ".join(f'"{key}"' for key in begin)
        if self.kind == "conditional":
            return (
                f"Which values belong to keys that contain the character {MARK}? Give these values alone, in order.",
                " The values are:",
            )
        if self.kind == "thread":
            several = "each of the keys" if len(begin) > 1 else "the key"
            return (
                f"A value may be a key of the object itself; then go on with that key's value, and so on. Which value "
                f"that is no key is reached in the end from {several} {listed}? Give what is reached alone.",
                " In the end" + (" these are reached:" if len(begin) > 1 else " this is reached:"),
            )
        if len(begin) > 1:
            return f"Which values do the keys {listed} have? Give the values alone, in this order.", " The values are:"
        return f"Which value does the key {listed} have? Give the value alone.", " The value is:"


def _uuid(rng: random.Random) -> str:
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


THREADS: dict[str, Task] = {
    task.name: task
    for task in (
        Threads(name="threads_single"),
        Threads(name="threads_multiple", kind="multiple", needles=5),
        Threads(name="threads_clustered", kind="multiple", needles=5, together=True),
        Threads(name="threads_conditional", kind="conditional", needles=5),
        Threads(name="threads_forward", kind="thread", steps=5),
        Threads(name="threads_backward", kind="thread", steps=5, direction="backward"),
        Threads(name="threads_random", kind="thread", steps=5, direction="random"),
        Threads(name="threads_several", kind="thread", needles=3, steps=4),
    )
}
"""The paper's kinds of question, each with one number of keys and steps; more are one line each."""
