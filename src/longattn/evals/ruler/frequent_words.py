"""The three most frequent words of a coded text whose words are distributed as in language."""

import math
import random
import string
from dataclasses import dataclass

from longattn.evals.tasks import DoesNotFitError, Draft, Materials, Sample, Task

NOISE = "..."
"""Takes the place of the most frequent word."""
LEAST = 27
"""The shortest text in which the three words can be told from the next one: once against never."""
_ZETA_2 = math.pi**2 / 6


@dataclass(frozen=True, kw_only=True)
class FrequentWords(Task):
    """Three words that occur more often than all others; ranks are Zipf's with an exponent of 2."""

    max_new_tokens: int = 50
    letters: int = 6

    def samples(self, materials: Materials, length: int, count: int, seed: int) -> tuple[list[Sample], int, int]:
        """See :meth:`Task.samples`."""
        rng = random.Random(seed)
        template = materials.wording.frequent_words
        reserved = self.reserve(length, materials, ["".join(random.Random(seed).sample(string.ascii_lowercase, 6))] * 3)
        free = length - reserved
        # below 250 tokens RULER has not even the words to ask for
        vocabulary = max(5, free // 50)
        step = max(1, free // 32)

        def write(words: list[str], size: int) -> tuple[Draft, int]:
            text = [word for rank, word in enumerate(words, start=1) for _ in range(occurrences(size, rank))]
            random.Random(seed).shuffle(text)
            fields = {"context": " ".join(text), "query": ""}
            draft = Draft(template.task.format(**fields), template.prefix.format(**fields), tuple(words[1:4]))
            return draft, materials.size(draft)

        words = self._vocabulary(rng, vocabulary, seed)
        size = free // self.letters
        while write(words, size)[1] < free:
            size += step
        size -= step

        samples = []
        for index in range(count):
            words, used = self._vocabulary(rng, vocabulary, seed), max(LEAST, size)
            draft, tokens = write(words, used)
            while tokens > free or not _is_clear(used):
                if used <= LEAST:
                    raise DoesNotFitError(f"its least text makes it {tokens} tokens long, {free} are free")
                # in a short text a few words decide whether the fifth one comes to as many as the fourth
                used = max(LEAST, used - (step if tokens > free else 1))
                draft, tokens = write(words, used)
            samples.append(
                draft.sample(index, tokens + reserved, {"counts": [occurrences(used, rank) for rank in range(1, 6)]})
            )
        return samples, reserved, 0

    def _vocabulary(self, rng: random.Random, size: int, seed: int) -> list[str]:
        words = ["".join(rng.choices(string.ascii_lowercase, k=self.letters)) for _ in range(size)]
        while len(set(words)) < size:
            words.append("".join(rng.choices(string.ascii_lowercase, k=self.letters)))
        words = sorted(set(words))
        random.Random(seed).shuffle(words)
        words[0] = NOISE
        return words


def occurrences(size: int, rank: int) -> int:
    """How often the word of a rank, from 1 on, occurs in a text of about ``size`` words.

    >>> [occurrences(100, rank) for rank in (1, 2, 3, 4, 5)]
    [60, 15, 6, 3, 2]
    """
    return int(size * float(rank) ** -2.0 / _ZETA_2)


def _is_clear(size: int) -> bool:
    """Whether the three words stand out: each occurs, and more often than the next rank."""
    return occurrences(size, 4) > occurrences(size, 5)
