"""Turn a text of any length into token ids with their character spans, without torch.

Encoding takes about 400 bytes per token while it runs, so a long document is encoded in pieces and only 9
bytes per token are kept. A piece ends where the tokenizer itself always ends a token, whatever stands on
either side, so that the tokens are those of the whole document. Where that place is depends on the
tokenizer's structure, and a structure that is not known here is never cut:

* **Byte-level BPE** (GPT-2, Llama 3, Qwen, SmolLM): merges stay inside the pieces of the pre-tokenizer, whose
  patterns scan from left to right and never match a letter or digit together with a blank that follows it, nor a
  line break with a letter that follows it. A document can be cut before such a blank, and between such a line break
  and letter, which is where text without blanks can be cut.
* **SentencePiece BPE** (Llama 2, Mistral 7B): a blank is written as ``▁`` and the whole text is one word. If
  no token has a letter or digit before ``▁``, no merge crosses that place. Only the first piece gets the
  ``▁`` put before a text.
"""

import contextlib
import copy
import hashlib
import importlib.util
import itertools
import json
import logging
import math
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tokenizers

from longattn.errors import ModelError, is_fatal
from longattn.gigatokens import Gigatokens, Piece
from longattn.settings import TokenizerBackend

log = logging.getLogger(__name__)

PIECE_CHARS = 2**16
"""A piece is cut at the first border after this many characters."""
WHOLE_CHARS = 2**23
"""The longest text without a place to cut, in characters: a document of a tokenizer that allows no cuts, or a stretch
without borders. Takes about 1 GB for prose, 3 GB where each character is a token."""
GATE_CHARS = 2**20
"""Another backend is compared with ``tokenizers`` on the first this many characters that it encodes in a process."""
_BATCH = 8
_CHARS_PER_TOKEN = 4

GPT2_SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2_SPLIT = LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")
_CASED_SPLIT = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+%(contraction)s"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*%(contraction)s"
    r"|%(number)s| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEKKEN_SPLIT = _CASED_SPLIT % {"contraction": "", "number": r"\p{N}"}
GPT4O_SPLIT = _CASED_SPLIT % {"contraction": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?", "number": r"\p{N}{1,3}"}

# patterns that always end a match between a letter or digit and a blank
_WORD_PATTERNS = {GPT2_SPLIT, LLAMA3_SPLIT, QWEN2_SPLIT, TEKKEN_SPLIT, GPT4O_SPLIT}
# patterns of which no match holds a blank, used before one of the above
_BLANKLESS_PATTERNS = {r"\p{N}", r"\p{N}{1,3}", r"\p{N}+", "[0-9]", "[0-9][0-9][0-9]"}

# letters and digits that every Unicode version and every regular expression engine agrees on
_WORD = (
    r"0-9A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u017f\u03b1-\u03c9\u0410-\u044f\u0621-\u063a\u0641-\u064a"
    r"\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fa5\uac00-\ud7a3"
)
_BEFORE_SPACE = re.compile(rf"(?<=[{_WORD}])(?= [{_WORD}])")
# what ends a line of prose or code, in writing with and without blanks
_LINE_END = _WORD + r".,:;!?)}\]\"'>" + "。，、；：！？」』）…"
_BEFORE_BLANK = re.compile(rf"(?<=[{_WORD}])(?=[ \n][{_WORD}])|(?<=[{_LINE_END}]\n)(?=[{_WORD}])")


class TooSlowError(ValueError):
    """Encoding a text took longer than it may."""


class Tokenized(NamedTuple):
    """The tokens of one text, in order.

    Spans are in characters of the text as given; a character that is split between two tokens belongs to
    both.
    """

    ids: npt.NDArray[np.uint32]
    char_starts: npt.NDArray[np.uint32]
    char_widths: npt.NDArray[np.uint8] | npt.NDArray[np.uint32]
    """Characters in each token; a byte each, unless one of the text's tokens is longer than 255."""

    @classmethod
    def of(cls, piece: Piece) -> "Tokenized":
        """Tokens by ids, first characters, and characters after the last."""
        columns = _Columns(len(piece[0]))
        columns.append(piece)
        return columns.finished()

    @property
    def char_ends(self) -> npt.NDArray[np.uint32]:
        """The character after each token, computed anew at each use: :meth:`char_end` for that of one token."""
        return self.char_starts + self.char_widths

    def char_end(self, token: int) -> int:
        """The character after one token."""
        return int(self.char_starts[token]) + int(self.char_widths[token])


class Tokenizer:
    """The tokenizer of one ``tokenizer.json``, applied to plain text only.

    Special tokens are never recognised in the text nor added to it: a document that contains
    ``<|endoftext|>`` holds these characters, not the token. Truncation, padding and post-processing that the
    file asks for are ignored.
    """

    def __init__(
        self,
        content: bytes,
        backend: TokenizerBackend = "tokenizers",
        *,
        piece_chars: int = PIECE_CHARS,
        whole_chars: int = WHOLE_CHARS,
    ) -> None:
        """``backend`` is what encodes; see :attr:`longattn.settings.Compute.tokenizer`.

        Raises ``ModelError`` for ``gigatoken`` by name where that cannot be used.
        """
        spec = _complete(json.loads(content)) | {"truncation": None, "padding": None, "post_processor": None}
        self.hash = hashlib.sha256(content).hexdigest()[:16]
        """Content hash of the file, 16 hexadecimal digits."""
        self.vocab_size = _vocab_size(spec)
        """One more than the highest id that :meth:`encode` can return."""
        self._piece_chars = piece_chars
        self._whole_chars = whole_chars
        self._cut = _cut(spec)
        self._first = _backend(spec)
        inner = self._cut.inner if isinstance(self._cut, _Cut) else None
        self._inner = self._first if inner is None else _backend(inner)
        self._backend = backend
        self._fast = _fast(spec, backend)
        self._unproven = GATE_CHARS

    @classmethod
    def load(cls, path: str | Path, backend: TokenizerBackend = "tokenizers") -> "Tokenizer":
        """Read a ``tokenizer.json``. Raises ``ModelError`` for a file that is none."""
        with _told_as_model_error(path):
            return cls(Path(path).read_bytes(), backend)

    def encode(self, text: str, max_seconds: float = math.inf) -> Tokenized:
        """The tokens of a text, the same as if it had been encoded in one call.

        Raises ``ValueError`` for a text with lone surrogates, for one that is too long where it cannot be cut, and for
        one that the library fails on; :class:`TooSlowError` for one that is not done after ``max_seconds``.
        """
        pieces = self._pieces(text)
        columns = _Columns(len(text) // _CHARS_PER_TOKEN)
        began = time.monotonic()
        while batch := list(itertools.islice(pieces, _BATCH)):
            if time.monotonic() - began > max_seconds:
                at = f"at character {batch[0][0]} of {len(text)}"
                raise TooSlowError(f"not done after {max_seconds:g} seconds, {at}; max_doc_seconds allows more")
            for part in self._encode_batch(text, batch) if self._fast is None else self._encode_fast(text, batch):
                columns.append(part)
        return columns.finished()

    def decode(self, ids: Sequence[int] | npt.NDArray[np.integer[Any]]) -> str:
        """The text of some tokens, special ones included."""
        return self._first.decode(np.asarray(ids).tolist(), skip_special_tokens=False)

    def _pieces(self, text: str) -> Iterator[tuple[int, int]]:
        """Where to cut, as (start, end). A stretch without a border stays in one piece, however long."""
        if isinstance(self._cut, str) and len(text) > self._whole_chars:
            raise ValueError(
                f"text has {len(text)} characters; with {self._cut} a document cannot be encoded in pieces, "
                f"and as a whole only up to {self._whole_chars}"
            )
        start = 0
        while start < len(text):
            border = self._cut.border.search(text, start + self._piece_chars) if isinstance(self._cut, _Cut) else None
            end = border.start() if border else len(text)
            if isinstance(self._cut, _Cut) and end - start > self._whole_chars:
                raise ValueError(
                    f"text has no place to cut between its characters {start} and {end}, and at most "
                    f"{self._whole_chars} can be encoded at once"
                )
            yield start, end
            start = end

    def _encode_fast(self, text: str, batch: Sequence[tuple[int, int]]) -> list[Piece]:
        """The same tokens by way of gigatoken, compared with ``tokenizers`` until ``GATE_CHARS`` agreed."""
        assert self._fast is not None
        if self._unproven <= 0:
            return [self._encode_piece(text, piece) for piece in batch]
        expected = self._encode_batch(text, batch)
        for (start, end), part in zip(batch, expected, strict=True):
            found = self._fast.encode(text[start:end])
            if found is None:
                # left to tokenizers: nothing was compared
                continue
            if not all(map(np.array_equal, _shifted(found, start), part)):
                message = f"gigatoken gives other tokens than tokenizers at character {start} of a document"
                if self._backend == "gigatoken":
                    raise ModelError(f"{message}; --compute.tokenizer tokenizers does without it")
                log.warning("%s and is not used", message)
                self._fast = None
                return expected
            self._unproven -= end - start
        return expected

    def _encode_piece(self, text: str, piece: tuple[int, int]) -> Piece:
        assert self._fast is not None
        start, end = piece
        _check_surrogates(text[start:end], start)
        found = self._fast.encode(text[start:end])
        return self._encode_batch(text, [piece])[0] if found is None else _shifted(found, start)

    def _encode_batch(self, text: str, batch: Sequence[tuple[int, int]]) -> list[Piece]:
        pieces = [text[start:end] for start, end in batch]
        for piece, (start, _) in zip(pieces, batch, strict=True):
            _check_surrogates(piece, start)
        # the first piece of a text may get a blank put before it, the others never
        head = 1 if batch[0][0] == 0 else 0
        try:
            encodings = self._first.encode_batch(pieces[:head], add_special_tokens=False)
            encodings += self._inner.encode_batch(pieces[head:], add_special_tokens=False)
        # what the library cannot do is a bare Exception, and a panic, such as of a pattern that backtracks without
        # end, not even that
        except BaseException as error:
            if is_fatal(error):
                raise
            raise ValueError(f"the tokenizer fails after character {batch[0][0]}: {error}") from error
        return [_piece(encoding, start) for encoding, (start, _) in zip(encodings, batch, strict=True)]


def _fast(spec: dict[str, Any], backend: TokenizerBackend) -> Gigatokens | None:
    if backend == "tokenizers" or (backend == "auto" and importlib.util.find_spec("gigatoken") is None):
        return None
    try:
        return Gigatokens(spec)
    except ModelError as error:
        if backend == "gigatoken":
            raise
        log.warning("%s; tokenizers is used, which is slower", error)
        return None


def _shifted(piece: Piece, start: int) -> Piece:
    ids, starts, ends = piece
    return ids, starts + np.uint32(start), ends + np.uint32(start)


class _Columns:
    """A text's tokens while they become more, each column appended to in place."""

    def __init__(self, capacity: int) -> None:
        self._ids, self._starts = _Growing(capacity, np.uint32), _Growing(capacity, np.uint32)
        self._widths = _Growing(capacity, np.uint8)

    def append(self, piece: Piece) -> None:
        ids, starts, ends = piece
        self._ids.append(ids)
        self._starts.append(starts)
        self._widths.append(ends - starts)

    def finished(self) -> Tokenized:
        return Tokenized(self._ids.finished(), self._starts.finished(), self._widths.finished())


class _Growing:
    """An array that is appended to in place: joining pieces at the end would hold a long document's tokens twice."""

    def __init__(self, capacity: int, dtype: type[np.unsignedinteger[Any]]) -> None:
        self._array = np.empty(capacity, dtype)
        self._length = 0

    def append(self, part: npt.NDArray[np.uint32]) -> None:
        end = self._length + len(part)
        if self._array.dtype == np.uint8 and part.max(initial=0) > 255:
            self._array = self._array.astype(np.uint32)
        if end > len(self._array):
            # the system moves a large array by its page table, and memory that is not written is not taken
            self._array.resize(end + end // 8, refcheck=False)
        self._array[self._length : end] = part
        self._length = end

    def finished(self) -> npt.NDArray[Any]:
        self._array.resize(self._length, refcheck=False)
        return self._array


def check_vocabulary(tokenizer: Tokenizer, vocab_size: int) -> None:
    """Raise ``ModelError`` if the tokenizer has ids that a model of ``vocab_size`` tokens does not embed."""
    if tokenizer.vocab_size > vocab_size:
        raise ModelError(
            f"the tokenizer has ids up to {tokenizer.vocab_size - 1}, but the model embeds only {vocab_size} tokens; "
            "use the tokenizer.json that belongs to the model"
        )


def encoding_hash(file: Path) -> str:
    """16 hexadecimal digits of all in a ``tokenizer.json`` that decides a text's ids: equal ones make equal tokens.

    Special tokens and what is put around a text are no part of it, nor is how a version of the library writes the same
    facts (merges as strings or as pairs, options left out). Raises ``ModelError`` for a file that is none.
    """
    with _told_as_model_error(file):
        spec = json.loads(tokenizers.Tokenizer.from_str(file.read_text(encoding="utf-8")).to_str())
    added = [token for token in spec.get("added_tokens", ()) if not token["special"]]
    facts = [spec[name] for name in ("normalizer", "pre_tokenizer", "model")] + [added]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


@contextlib.contextmanager
def _told_as_model_error(path: str | Path) -> Iterator[None]:
    try:
        yield
    # the library raises bare Exception for what it cannot parse, and panics, which are not even that
    except BaseException as error:
        if is_fatal(error):
            raise
        raise ModelError(f"{path} is not a tokenizer.json that can be read: {error}") from error


def _complete(spec: dict[str, Any]) -> dict[str, Any]:
    """The same tokenizer with what older files leave to the reader written out: options that have a default."""
    bare = spec | {"model": {"type": "BPE", "vocab": {}, "merges": []}, "added_tokens": []}
    full = json.loads(tokenizers.Tokenizer.from_str(json.dumps(bare)).to_str())
    return spec | {name: full[name] for name in ("normalizer", "pre_tokenizer")}


def _backend(spec: dict[str, Any]) -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer.from_str(json.dumps(spec))
    backend.encode_special_tokens = True
    return backend


def _piece(encoding: tokenizers.Encoding, start: int) -> Piece:
    spans = np.array(encoding.offsets, np.uint32).reshape(-1, 2) + np.uint32(start)
    return np.array(encoding.ids, np.uint32), spans[:, 0], spans[:, 1]


def _check_surrogates(piece: str, start: int) -> None:
    try:
        piece.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"text has a lone surrogate at character {start + error.start}") from error


def _vocab_size(spec: dict[str, Any]) -> int:
    """One more than the highest id of the vocabulary and of the added tokens that plain text can match."""
    vocab = spec["model"]["vocab"]
    ids: Iterable[int] = vocab.values() if isinstance(vocab, dict) else range(len(vocab))
    added = (token["id"] for token in spec["added_tokens"] if not token["special"])
    return 1 + max(itertools.chain(ids, added), default=-1)


class _Cut(NamedTuple):
    border: re.Pattern[str]
    """Matches the empty place before which a piece may end."""
    inner: dict[str, Any] | None = None
    """The tokenizer of all pieces but the first, where it is another."""


def _cut(spec: dict[str, Any]) -> _Cut | str:
    """How documents can be cut under this tokenizer, or the reason why they cannot, as a noun."""
    model = spec["model"]
    if model["type"] != "BPE":
        return f"a {model['type']} tokenizer"
    if model.get("dropout") or model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        return "BPE with dropout or word affixes"
    for token in spec["added_tokens"]:
        if not token["special"] and (token["lstrip"] or token["rstrip"]):
            return "added tokens that take in the blanks around them"
        if re.search(rf"[{_WORD}][ \n]|\n[{_WORD}]", token["content"]):
            return "added tokens that contain blanks"
    if any(step["type"] == "ByteLevel" for step in _steps(spec["pre_tokenizer"], "pretokenizers")):
        return _cut_byte_level(spec)
    return _cut_sentencepiece(spec)


def _cut_byte_level(spec: dict[str, Any]) -> _Cut | str:
    normalizers = [step["type"] for step in _steps(spec["normalizer"], "normalizers")]
    if any(name != "NFC" for name in normalizers):
        return f"the normalizer {' + '.join(normalizers)}"
    ends_words = False
    border = _BEFORE_BLANK
    for step in _steps(spec["pre_tokenizer"], "pretokenizers"):
        match step:
            case {"type": "ByteLevel", "use_regex": use_regex, "add_prefix_space": add_prefix_space}:
                ends_words |= use_regex
                # a piece that begins with a space gets no other one put before it
                border = _BEFORE_SPACE if add_prefix_space else border
            case {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}:
                if pattern not in _WORD_PATTERNS | _BLANKLESS_PATTERNS:
                    return f"the unknown split pattern {pattern!r}"
                ends_words |= pattern in _WORD_PATTERNS
            case {"type": "Digits"} | {"type": "Punctuation", "behavior": "Isolated" | "Contiguous"}:
                pass
            case _:
                return f"the pre-tokenizer {step['type']}"
    return _Cut(border) if ends_words else "a pre-tokenizer that does not end words"


def _cut_sentencepiece(spec: dict[str, Any]) -> _Cut | str:
    if spec["model"].get("ignore_merges"):
        return "SentencePiece BPE that ignores merges"
    if any(not token["special"] for token in spec["added_tokens"]):
        return "SentencePiece BPE with added tokens"
    if "▁" not in spec["model"]["vocab"]:
        return "BPE that is neither byte-level nor SentencePiece"
    # a character that is not in the vocabulary becomes <unk> or bytes such as <0xE4>
    crossing = re.compile(rf"[{_WORD}>]▁")
    if any(crossing.search(token) for token in spec["model"]["vocab"]):
        return "SentencePiece tokens that go across words"
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    match (_steps(spec["normalizer"], "normalizers"), _steps(spec["pre_tokenizer"], "pretokenizers")):
        case ([], [{"type": "Metaspace", "replacement": "▁"}]):
            return _Cut(_BEFORE_SPACE)
        case ([step], []) if step == replace:
            return _Cut(_BEFORE_SPACE)
        case ([{"type": "Prepend", "prepend": "▁"}, step], []) if step == replace:
            return _Cut(_BEFORE_SPACE, inner=copy.copy(spec) | {"normalizer": replace})
        case _:
            return "an unknown normalizer or pre-tokenizer"


def _steps(part: dict[str, Any] | None, name: str) -> list[dict[str, Any]]:
    """The parts of a ``Sequence``, or the one part there is."""
    if part is None:
        return []
    return [inner for step in part[name] for inner in _steps(step, name)] if part["type"] == "Sequence" else [part]
