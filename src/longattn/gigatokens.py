"""Encode byte-level BPE with gigatoken, wherever its tokens can be told to be those of ``tokenizers``.

It gives ids and no offsets. The tokens of byte-level BPE are byte strings that follow each other without a gap, so
spans follow from their lengths. What it does not do, or what the two might do differently, is left to ``tokenizers``,
piece by piece:

* characters that this Python's Unicode tables do not know: the libraries carry tables of different versions, in which
  such a character may be a letter or a sign;
* bytes that the vocabulary lacks, and text that a normalizer would change.

``Digits`` before the split into words, as in SmolLM, is done here: each digit is a text of its own.
"""

import copy
import itertools
import json
import re
import unicodedata
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from longattn.errors import ModelError

Piece = tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32], npt.NDArray[np.uint32]]
"""Ids, first characters, and characters after the last, of a piece's tokens."""

_DIGIT = re.compile("([0-9])")

RENEWED_AFTER = 2**25
"""Characters after which gigatoken is loaded anew. It remembers every word that it has met for good (0.10.0: three
bytes for each of a text of numbered lines), which is what makes it fast, and would fill the memory in a run of days."""


class Gigatokens:
    """One tokenizer.json inside gigatoken."""

    def __init__(self, spec: dict[str, Any]) -> None:
        """``spec`` is the content of tokenizer.json. Raises ``ModelError`` if gigatoken cannot be used for it."""
        try:
            # an extra that need not be installed
            from gigatoken.gigatoken_rs import load_hf_json  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise ModelError("gigatoken is not installed: pip install 'longattn[fast]'") from error
        self._digits, self._nfc, simple = _simplify(spec)
        vocab = simple["model"]["vocab"]
        self._vocab_size = 1 + max(vocab.values())
        # it wants a token for every byte; one of these in a result means that the vocabulary lacks the byte
        missing = (sign for sign in _byte_signs() if sign not in vocab)
        simple["model"]["vocab"] = vocab | {sign: self._vocab_size + i for i, sign in enumerate(missing)}
        self._load = partial(load_hf_json, json.dumps(simple))
        self._left = RENEWED_AFTER
        try:
            self._backend = self._load()
        except Exception as error:  # the library raises RuntimeError and its own kinds for what it does not know
            raise ModelError(f"gigatoken cannot read this tokenizer: {str(error).splitlines()[0]}") from error
        self._lengths = np.zeros(self._backend.vocab_size, np.int64)
        for token, content in self._backend.vocab.items():
            self._lengths[token] = len(content)

    def encode(self, piece: str) -> Piece | None:
        """The tokens of a text, or None if that is better left to ``tokenizers``."""
        if not (piece.isascii() or self._known(piece)):
            return None
        if self._left < 0:
            self._backend, self._left = self._load(), RENEWED_AFTER
        self._left -= len(piece)
        data = piece.encode()
        ids = self._ids(piece)
        ends = np.cumsum(self._lengths[ids])
        if len(ids) and (int(ids.max()) >= self._vocab_size or ends[-1] != len(data)):
            return None
        starts = ends - self._lengths[ids]
        if not piece.isascii():
            # a character begins at each byte that does not continue one
            character = np.cumsum((np.frombuffer(data, np.uint8) & 0xC0) != 0x80) - 1
            starts, ends = character[starts], character[ends - 1] + 1
        return ids, starts.astype(np.uint32), ends.astype(np.uint32)

    def _ids(self, piece: str) -> npt.NDArray[np.uint32]:
        if not self._digits:
            return self._backend.encode(piece)
        texts = [text for text in _DIGIT.split(piece) if text]
        lists = self._backend.encode_batch_list(texts, parallel=False)
        return np.fromiter(itertools.chain.from_iterable(lists), np.uint32)

    def _known(self, piece: str) -> bool:
        """Whether every character is one that all Unicode tables agree on and no step before the split changes."""
        if self._nfc and not unicodedata.is_normalized("NFC", piece):
            return False
        kinds = {unicodedata.category(sign) for sign in set(piece) if not sign.isascii()}
        return "Cn" not in kinds and not (self._digits and any(kind.startswith("N") for kind in kinds))


def _simplify(spec: dict[str, Any]) -> tuple[bool, bool, dict[str, Any]]:
    """Whether digits stand alone, whether text must be in NFC, and the rest of the tokenizer as gigatoken knows it."""
    # special tokens are never looked for in a document
    if any(not token["special"] for token in spec["added_tokens"]):
        raise ModelError("gigatoken is not used for tokenizers with added tokens that are not special")
    normalizer, pre = spec["normalizer"], spec["pre_tokenizer"]
    if normalizer not in (None, {"type": "NFC"}):
        raise ModelError(f"gigatoken is not used with the normalizer {normalizer['type']}")
    steps = pre["pretokenizers"] if pre and pre["type"] == "Sequence" else [pre]
    if spec["model"]["type"] != "BPE" or not any(step and step["type"] == "ByteLevel" for step in steps):
        raise ModelError("gigatoken is used for byte-level BPE only")
    if any(step["type"] == "ByteLevel" and step["add_prefix_space"] for step in steps):
        raise ModelError("gigatoken is not used for tokenizers that put a space before a text")
    digits = steps[0] == {"type": "Digits", "individual_digits": True}
    rest = steps[1:] if digits else steps
    simple = copy.copy(spec) | {"added_tokens": [], "normalizer": None, "post_processor": None}
    simple["model"] = copy.copy(spec["model"])
    simple["pre_tokenizer"] = rest[0] if len(rest) == 1 else {"type": "Sequence", "pretokenizers": rest}
    return digits, normalizer is not None, simple


def _byte_signs() -> list[str]:
    from tokenizers import pre_tokenizers

    return sorted(pre_tokenizers.ByteLevel.alphabet())
