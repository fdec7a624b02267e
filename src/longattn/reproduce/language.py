"""A language of which it is known what depends on what: names that keep their value for the length of a document.

A document is a walk through a fixed chain of background words, into which names are put, each followed by its value.
Which value a name has is drawn anew for each document, so a value can be predicted only by who remembers where the name
stood before: near by, or far back.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[np.int64]
Distances = npt.NDArray[np.int64]

NEW, NO_VALUE = 0, -1
"""In place of a distance: the name has not stood in the document before; the token is no value."""


@dataclass(frozen=True)
class Language:
    """Background words, names and values; equal seeds give equal chains."""

    seed: int
    background: int = 32
    names: int = 16
    values: int = 32

    @property
    def words(self) -> tuple[str, ...]:
        """Every word, in the order of the token ids: background, names, values."""
        parts = (("w", self.background), ("name", self.names), ("value", self.values))
        return tuple(f"{part}{i}" for part, count in parts for i in range(count))

    @cached_property
    def _chain(self) -> npt.NDArray[np.float64]:
        """[background, background]: probabilities, summed up along each row, of the next background word."""
        generator = np.random.default_rng((self.seed, 0))
        return generator.dirichlet(np.full(self.background, 0.1), size=self.background).cumsum(axis=1)

    def documents(
        self, number: int, length: int, *, in_use: int, rate: float, generator: np.random.Generator
    ) -> tuple[Tokens, Distances]:
        """Documents [number, length] and, for each token that is a value, how far back its name's last value stands.

        Each uses ``in_use`` of the names, in a share ``rate`` of the places where a word may begin. Distances are
        :data:`NEW` where a document's name first stands, and :data:`NO_VALUE` for tokens that are no values.
        """
        tokens = np.empty((number, length), dtype=np.int64)
        distances = np.full((number, length), NO_VALUE)
        rows = np.arange(number)
        value_of = generator.integers(self.values, size=(number, self.names))
        used = generator.random((number, self.names)).argsort(axis=1)[:, :in_use]
        last_seen = np.full((number, self.names), -1)
        word = generator.integers(self.background, size=number)
        named = np.full(number, -1)
        for place in range(length):
            is_value = named >= 0
            # a document does not end on a name without a value
            is_name = ~is_value & (generator.random(number) < rate) & (place < length - 1)
            name = used[rows, generator.integers(in_use, size=number)]
            following = (self._chain[word] < generator.random(number)[:, None]).sum(axis=1)
            following = np.minimum(following, self.background - 1)
            value = self.background + self.names + value_of[rows, named]
            tokens[:, place] = np.select([is_value, is_name], [value, self.background + name], following)
            seen = last_seen[rows, named]
            distances[is_value, place] = np.where(seen >= 0, place - seen, NEW)[is_value]
            last_seen[rows[is_value], named[is_value]] = place
            word = np.where(is_value | is_name, word, following)
            named = np.where(is_name, name, -1)
        return tokens, distances

    def joined(
        self, number: int, parts: int, length: int, *, in_use: int, rate: float, generator: np.random.Generator
    ) -> Tokens:
        """Windows [number, parts · length], each of ``parts`` documents that have nothing to do with each other."""
        tokens, _ = self.documents(number * parts, length, in_use=in_use, rate=rate, generator=generator)
        return tokens.reshape(number, parts * length)

    def text(self, tokens: Sequence[int]) -> str:
        """The words, with blanks between them."""
        return " ".join(self.words[token] for token in tokens)

    def tokenizer(self) -> str:
        """A ``tokenizer.json`` with a token for each word."""
        from tokenizers import Tokenizer, models, pre_tokenizers

        vocabulary = {word: i for i, word in enumerate(self.words)}
        tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=self.words[0]))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        return tokenizer.to_str()
