"""Running text to hide things in: a user's essays, any held-out text, or what every Python has.

No text comes with this package and none is downloaded. Scores on another haystack than RULER's essays are not
comparable with published ones, so its name and hash stand in every result.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from longattn.errors import CorpusError

PYTHON = "python"
"""Stands for the language reference that Python's help shows: a haystack for whoever has none."""

_SENTENCE_END = re.compile(r"""(?<=[.!?])(?:["'”’)\]]*)\s+(?=["'“‘(\[]*[A-Z0-9])""")


@dataclass(frozen=True)
class Haystack:
    """Words of a running text."""

    kind: Literal["essays", "texts", "python"]
    """``essays``: named by the user as the essays of RULER; ``texts``: any others; ``python``: see :data:`PYTHON`."""
    name: str
    text: str

    @cached_property
    def words(self) -> list[str]:
        """The text, split at blanks."""
        return re.sub(r"\s+", " ", self.text).split(" ")

    @cached_property
    def sha256(self) -> str:
        """Of the text, 16 hexadecimal digits."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]

    def facts(self) -> dict[str, str]:
        """What a result says of it."""
        return {"kind": self.kind, "name": self.name, "sha256": self.sha256}

    def first(self, num_words: int) -> str:
        """So many words from the beginning; the text begins again where it ends."""
        words = self.words
        return " ".join(words[:num_words] if num_words <= len(words) else _repeated(words, num_words)).strip()


def _repeated(words: Sequence[str], count: int) -> list[str]:
    return [words[i % len(words)] for i in range(count)]


def sentences(text: str) -> list[str]:
    """The sentences of a text with one blank between words.

    A rule instead of RULER's trained splitter (Punkt), whose data a fresh machine lacks: a sentence ends with ., ! or ?
    before a capital or a digit. The two differ at abbreviations, so that a needle may stand a few words elsewhere.

    >>> sentences('One. "Two!" Three? no. 4')
    ['One.', '"Two!"', 'Three? no.', '4']
    """
    found, start = [], 0
    for end in _SENTENCE_END.finditer(text):
        stop = start + len(text[start : end.end()].rstrip())
        found.append(text[start:stop])
        start = end.end()
    return [*found, text[start:]] if text[start:] else found


def read_haystack(path: str | Path, kind: Literal["essays", "texts"] = "texts") -> Haystack:
    """The texts of a folder (``.txt``, by name, subfolders after files), a text file, or RULER's JSON of its essays.

    ``python`` is :data:`PYTHON`. Raises :class:`CorpusError` for what holds no text.
    """
    if str(path) == PYTHON:
        return python_haystack()
    path = Path(path).expanduser()
    if path.is_dir():
        # as RULER joins its essays
        text = "".join(file.read_text(encoding="utf-8") for file in sorted(path.rglob("*.txt")))
    elif path.suffix == ".json":
        try:
            text = json.loads(path.read_bytes())["text"]
        except (ValueError, KeyError, TypeError) as error:
            raise CorpusError(f"{path} is not RULER's file of essays, which is an object with a text") from error
    else:
        text = path.read_text(encoding="utf-8")
    if not isinstance(text, str) or not text.strip():
        raise CorpusError(f"{path} holds no text; a haystack is a folder of .txt files, one text file, or {PYTHON!r}")
    return Haystack(kind, path.name, text)


def python_haystack() -> Haystack:
    """The language reference that comes with Python, its topics by name."""
    from pydoc_data.topics import topics

    return Haystack("python", "Python's language reference", "\n\n".join(text for _, text in sorted(topics.items())))
