import copy
import importlib.util
import json
import sys
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Backend

from longattn import gigatokens, tokens
from longattn.errors import ModelError
from longattn.gigatokens import Gigatokens
from longattn.tokens import LLAMA3_SPLIT, QWEN2_SPLIT, TEKKEN_SPLIT, Tokenizer, check_vocabulary, encoding_hash

WORDS = (
    "The cat's 12 hats, don't 3.14 über naïve Straße x=y; <b>été</b> 東京 タワー здравствуй мир 👩‍👩‍👧 １２ ½ ² e\u0301"
)
TRAINING = [
    WORDS,
    WORDS.lower(),
    "  if x:\n\treturn y\n\n\n  # done\r\n",
    "aaaa bbbb  cccc\nab cd",
    "a.\nb.\n1!\n",
] * 3


def byte_level(*steps: pre_tokenizers.PreTokenizer, nfc: bool = False, **model: object) -> Backend:
    # the stubs know no keyword arguments that come as a mapping
    backend = Backend(models.BPE(**model))  # type: ignore[arg-type]
    backend.pre_tokenizer = pre_tokenizers.Sequence(list(steps))
    backend.decoder = decoders.ByteLevel()
    if nfc:
        backend.normalizer = normalizers.NFC()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, initial_alphabet=alphabet, special_tokens=["<|end|>"], show_progress=False
    )
    backend.train_from_iterator(TRAINING, trainer)
    return backend


def split(pattern: str) -> list[pre_tokenizers.PreTokenizer]:
    return [
        pre_tokenizers.Split(Regex(pattern), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]


def sentencepiece(
    normalizer: normalizers.Normalizer | None, pre: pre_tokenizers.PreTokenizer | None, vocab_size: int = 200
) -> Backend:
    backend = Backend(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    # words are learned apart, as SentencePiece does, so that no token goes across two of them
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=256 + vocab_size, special_tokens=["<unk>", "</s>", *byte_tokens], show_progress=False
    )
    backend.train_from_iterator([text.replace("東", "") for text in TRAINING], trainer)
    state = json.loads(backend.to_str())
    # only <unk> and </s> are special, bytes are plain tokens of the vocabulary
    state["added_tokens"] = state["added_tokens"][:2]
    backend = Backend.from_str(json.dumps(state))
    backend.normalizer = normalizer
    backend.pre_tokenizer = pre
    return backend


BLANKS = normalizers.Replace(" ", "▁")
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False)
FAMILIES: dict[str, Callable[[], Backend]] = {
    "gpt2": lambda: byte_level(BYTES),
    "gpt2 with a prefix": lambda: byte_level(pre_tokenizers.ByteLevel(add_prefix_space=True)),
    "smollm": lambda: byte_level(pre_tokenizers.Digits(individual_digits=True), BYTES),
    "starcoder with a prefix": lambda: byte_level(
        pre_tokenizers.Digits(), pre_tokenizers.ByteLevel(add_prefix_space=True)
    ),
    "falcon": lambda: byte_level(
        pre_tokenizers.Punctuation("contiguous"),
        BYTES,
        pre_tokenizers.Split(Regex("[0-9][0-9][0-9]"), "isolated"),
    ),
    "llama3": lambda: byte_level(*split(LLAMA3_SPLIT), ignore_merges=True),
    "qwen2": lambda: byte_level(*split(QWEN2_SPLIT), nfc=True),
    "tekken": lambda: byte_level(*split(TEKKEN_SPLIT)),
    "llama2": lambda: sentencepiece(normalizers.Sequence([normalizers.Prepend("▁"), BLANKS]), None),
    "gemma": lambda: sentencepiece(BLANKS, None),
    "metaspace, one word": lambda: sentencepiece(None, pre_tokenizers.Metaspace(prepend_scheme="first", split=False)),
    "metaspace, words": lambda: sentencepiece(None, pre_tokenizers.Metaspace(prepend_scheme="always")),
    "metaspace, no prefix": lambda: sentencepiece(None, pre_tokenizers.Metaspace(prepend_scheme="never")),
}


def content(backend: Backend) -> bytes:
    return backend.to_str().encode()


@pytest.fixture(scope="module")
def families() -> dict[str, tuple[Tokenizer, Tokenizer, Backend]]:
    """Of each family: a tokenizer that cuts wherever it can, one that never does, and the library's own."""
    made = {}
    for name, make in FAMILIES.items():
        backend = make()
        whole = Tokenizer(content(backend), piece_chars=10**9)
        backend.encode_special_tokens = True
        made[name] = Tokenizer(content(backend), piece_chars=1), whole, backend
    return made


texts = st.lists(
    st.one_of(
        st.sampled_from(WORDS.split(" ")),
        st.sampled_from(
            ["a", "Z", "é", "東", "1", "½", "'s", ".", "\n", "\r\n", "\t", " ", "  ", "\u3000", "\u0301", "▁"]
        ),
        st.sampled_from([".\n", "!\n", ".\nb", "<|end|>", "</s>", "<unk>", "<0x41>"]),
        st.text(max_size=3),
    ),
    max_size=30,
).flatmap(lambda words: st.sampled_from([" ", "", "\n"]).map(lambda blank: blank.join(words)))


@pytest.mark.parametrize("family", FAMILIES)
@hypothesis_settings(max_examples=150, deadline=None)
@given(text=texts)
def test_pieces_give_the_tokens_of_the_whole_document(families, family, text):
    cutting, whole, backend = families[family]
    pieces, expected = cutting.encode(text), backend.encode(text, add_special_tokens=False)
    assert pieces.ids.tolist() == whole.encode(text).ids.tolist() == expected.ids
    assert list(zip(pieces.char_starts.tolist(), pieces.char_ends.tolist(), strict=True)) == expected.offsets


@pytest.mark.parametrize("family", FAMILIES)
def test_every_known_family_is_cut(families, family):
    text = "one two three four"
    assert list(families[family][0]._pieces(text)) == [(0, 3), (3, 7), (7, 13), (13, 18)]


def test_options_that_older_files_leave_out_are_understood():
    spec = json.loads(FAMILIES["smollm"]().to_str())
    for step in spec["pre_tokenizer"]["pretokenizers"]:
        step.pop("use_regex", None)
    assert len(list(Tokenizer(json.dumps(spec).encode(), piece_chars=1)._pieces("one two"))) == 2


def test_lines_of_numbers_are_cut_by_byte_level_tokenizers(families):
    assert list(families["llama3"][0]._pieces("1,2\n3,4\n")) == [(0, 3), (3, 4), (4, 8)]


def test_lines_without_blanks_are_cut_after_their_breaks(families):
    assert list(families["qwen2"][0]._pieces("東京。\nタワー!\nx")) == [(0, 4), (4, 9), (9, 10)]
    assert list(families["gpt2 with a prefix"][0]._pieces("東京。\nタワー")) == [(0, 7)]


@pytest.mark.parametrize(
    ("name", "make"),
    {
        "a Unigram tokenizer": lambda: Backend(models.Unigram([("<unk>", 0.0), ("a", -1.0)], 0)),
        "a WordPiece tokenizer": lambda: Backend(models.WordPiece({"[UNK]": 0}, unk_token="[UNK]")),
        "the unknown split pattern": lambda: byte_level(*split(r"\w+ \w+")),
        "a pre-tokenizer that does not end words": lambda: byte_level(pre_tokenizers.Digits(), split("x")[1]),
        "BPE that is neither": lambda: Backend(models.BPE({"a": 0}, [])),
        "SentencePiece tokens that go across words": lambda: Backend(
            models.BPE({"▁": 0, "a": 1, "a▁": 2}, [("a", "▁")])
        ),
    }.items(),
)
def test_other_tokenizers_take_whole_documents_up_to_a_limit(name, make):
    tokenizer = Tokenizer(content(make()), piece_chars=1, whole_chars=10)
    tokenizer.encode("a a a")
    with pytest.raises(ValueError, match=f"text has 11 characters; with {name}"):
        tokenizer.encode("a" * 11)


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        (AddedToken("<think>", rstrip=True), "take in the blanks"),
        (AddedToken("so what"), "contain blanks"),
        (AddedToken("\nUser:"), "contain blanks"),
    ],
)
def test_added_tokens_that_could_lie_on_a_border_prevent_cutting(token, reason):
    backend = byte_level(BYTES)
    backend.add_tokens([token])
    with pytest.raises(ValueError, match=reason):
        Tokenizer(content(backend), whole_chars=1).encode("ab")


def test_files_of_old_and_new_versions_that_encode_alike_have_one_hash(tmp_path):
    new = json.loads(content(Backend(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))))
    old = copy.deepcopy(new)
    old["model"]["merges"] = ["a b"]
    del old["model"]["ignore_merges"]
    other = copy.deepcopy(new)
    other["model"]["merges"] = []
    for name, spec in (("new", new), ("old", old), ("other", other)):
        (tmp_path / name).write_text(json.dumps(spec))
    hashes = [encoding_hash(tmp_path / name) for name in ("new", "old", "other")]
    assert hashes[0] == hashes[1] != hashes[2]
    (tmp_path / "none").write_text("{}")
    with pytest.raises(ModelError, match=r"is not a tokenizer\.json"):
        encoding_hash(tmp_path / "none")


@pytest.mark.parametrize("unit", ["a", " ", "\n", "👨‍👩‍👧‍👦", "1", "。"])
def test_a_text_without_borders_is_encoded_in_one_piece(families, unit):
    cutting, whole, _ = families["llama3"]
    text = unit * 20_000
    assert cutting.encode(text).ids.tolist() == whole.encode(text).ids.tolist()
    assert len(list(cutting._pieces(text))) == 1


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["a", " ", "👨‍👩‍👧‍👦"])
def test_ten_megabytes_without_a_border_are_encoded(families, unit):
    text = unit * (10_000_000 // len(unit.encode()))
    assert families["smollm"][0].encode(text).char_ends[-1] == len(text)


@pytest.mark.parametrize("family", ["llama3", "llama2"])
def test_a_stretch_without_borders_has_a_limit(families, family):
    tokenizer = Tokenizer(content(families[family][2]), piece_chars=5, whole_chars=20)
    assert tokenizer.encode("a" * 20 + " b").ids.size > 0
    with pytest.raises(ValueError, match="no place to cut between its characters 0 and 21"):
        tokenizer.encode("a" * 21)


def test_a_pattern_that_backtracks_without_end_costs_the_text_and_not_the_process():
    """The library panics, which Python sees as an exception of no known kind."""
    backend = byte_level(*split("(a+)+b"))
    with pytest.raises(ValueError, match=r"the tokenizer fails after character 0: .*retry-limit"):
        Tokenizer(content(backend)).encode("a" * 40)


def test_a_text_that_takes_too_long_is_given_up_between_pieces(families):
    with pytest.raises(tokens.TooSlowError, match=r"not done after 0 seconds, at character 0 of 7; max_doc_seconds"):
        families["llama3"][0].encode("one two", max_seconds=0.0)


def test_special_tokens_are_text_and_nothing_is_added():
    backend = byte_level(BYTES)
    backend.post_processor = processors.TemplateProcessing("<|end|> $A", special_tokens=[("<|end|>", 0)])
    backend.enable_truncation(2)
    backend.enable_padding(length=50)
    tokenizer = Tokenizer(content(backend))
    tokens = tokenizer.encode("a<|end|>b")
    assert 0 not in tokens.ids
    assert tokens.char_ends[-1] == len("a<|end|>b")
    assert tokenizer.decode(tokens.ids) == "a<|end|>b"
    assert tokenizer.decode([0]) == "<|end|>"


def test_an_empty_text_has_no_tokens(families):
    assert all(len(array) == 0 for array in families["gpt2"][0].encode(""))


@pytest.mark.parametrize("long", [255, 256, 70_000])
def test_widths_take_a_byte_unless_a_token_is_longer(long):
    """With the whole of a longer text's tokens changed over, those before the long one too."""
    ids, widths = np.arange(5, dtype=np.uint32), np.array([3, 0, long, 1, 200], np.uint32)
    ends = np.cumsum(widths, dtype=np.uint32)
    found = tokens.Tokenized.of((ids, ends - widths, ends))
    assert found.char_widths.dtype == (np.uint8 if long < 256 else np.uint32)
    assert found.char_ends.tolist() == [found.char_end(token) for token in range(5)] == ends.tolist()
    assert found.char_ends.dtype == np.uint32


def test_a_long_token_among_pieces():
    """Blanks that merge to one token of 512, after pieces whose tokens are short and before others."""
    runs = ["\u0120" * 2**k for k in range(10)]
    signs = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: number for number, token in enumerate(dict.fromkeys([*signs, *runs]))}
    backend = Backend(models.BPE(vocab, [(run, run) for run in runs[:-1]]))
    backend.pre_tokenizer = BYTES
    text = "one two three" + " " * 513 + "four five six"
    found = Tokenizer(content(backend), piece_chars=3).encode(text)
    assert list(zip(found.char_starts.tolist(), found.char_ends.tolist(), strict=True)) == backend.encode(text).offsets
    assert found.char_widths.max() == 512


def test_a_character_split_between_tokens_belongs_to_both(families):
    tokens = families["gpt2"][0].encode("🦑")
    assert len(tokens.ids) > 1
    assert set(tokens.char_starts.tolist()) == {0}
    assert set(tokens.char_ends.tolist()) == {1}


def test_a_lone_surrogate_is_refused_with_its_position(families):
    with pytest.raises(ValueError, match="lone surrogate at character 9"):
        families["gpt2"][0].encode("well then\ud800")


def test_the_hash_names_the_content(tmp_path):
    data = content(byte_level(BYTES))
    (tmp_path / "tokenizer.json").write_bytes(data)
    assert Tokenizer.load(tmp_path / "tokenizer.json").hash == Tokenizer(data).hash
    assert Tokenizer(data + b"\n").hash != Tokenizer(data).hash


def test_a_file_that_is_no_tokenizer_is_refused(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match=r"not a tokenizer\.json"):
        Tokenizer.load(tmp_path / "tokenizer.json")


def test_ids_beyond_the_embeddings_are_refused():
    backend = byte_level(BYTES)
    backend.add_special_tokens(["<pad>"])
    tokenizer = Tokenizer(content(backend))
    # special tokens are never found in a text, so their ids need no embedding
    check_vocabulary(tokenizer, backend.get_vocab_size() - 1)
    with pytest.raises(ModelError, match="embeds only"):
        check_vocabulary(tokenizer, backend.get_vocab_size() - 2)


# Another backend: the same tokens, or it is not used.

FAST = ["gpt2", "smollm", "llama3", "qwen2", "tekken"]
needs_gigatoken = pytest.mark.skipif(
    importlib.util.find_spec("gigatoken") is None, reason="gigatoken is not installed: pip install 'longattn[fast]'"
)


def lists(tokenized: tokens.Tokenized) -> list[list[int]]:
    return [array.tolist() for array in tokenized]


@pytest.fixture(scope="module")
def fast(families) -> dict[str, tuple[Tokenizer, Tokenizer]]:
    """Of each family: a tokenizer that trusts gigatoken from the first character on, and one that never uses it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokens, "GATE_CHARS", 0)
        return {
            name: (Tokenizer(content(families[name][2]), "gigatoken", piece_chars=1), families[name][0])
            for name in FAST
        }


@needs_gigatoken
@pytest.mark.parametrize("family", FAST)
@hypothesis_settings(max_examples=150, deadline=None)
@given(text=texts)
def test_gigatoken_gives_the_same_tokens_and_spans(fast, family, text):
    quick, plain = fast[family]
    assert lists(quick.encode(text)) == lists(plain.encode(text))


@needs_gigatoken
def test_gigatoken_forgets_after_so_many_characters(monkeypatch):
    monkeypatch.setattr(gigatokens, "RENEWED_AFTER", 100)
    data = FAMILIES["smollm"]().to_str().encode()
    used, plain = Gigatokens(json.loads(data)), Tokenizer(data)
    backends = set()
    for number in range(20):
        text = f"a line of text, number {number}"
        found = used.encode(text)
        assert found is not None
        assert np.array_equal(found[0], plain.encode(text).ids)
        backends.add(id(used._backend))
    assert len(backends) > 1


@needs_gigatoken
def test_bytes_that_the_vocabulary_lacks_are_left_to_tokenizers():
    spec = json.loads(FAMILIES["smollm"]().to_str())
    lacking = {sign: token for sign, token in spec["model"]["vocab"].items() if sign not in ("Ā", "ð")}
    spec["model"] |= {"vocab": lacking, "merges": [m for m in spec["model"]["merges"] if "ð" not in "".join(m)]}
    data = json.dumps(spec).encode()
    quick = Tokenizer(data, "gigatoken")
    quick._unproven = 0
    for text in ["a\0b c", "plain text", "a 🦑 b", ""]:
        assert lists(quick.encode(text)) == lists(Tokenizer(data).encode(text))


@needs_gigatoken
def test_a_lone_surrogate_is_refused_by_either_backend(fast):
    with pytest.raises(ValueError, match="lone surrogate at character 9"):
        fast["llama3"][0].encode("well then\ud800")


@needs_gigatoken
@pytest.mark.parametrize(
    ("family", "reason"),
    [
        ("gpt2 with a prefix", "put a space before"),
        ("llama2", "normalizer Sequence"),
        ("metaspace, words", "byte-level BPE only"),
        ("falcon", "cannot read this tokenizer"),
    ],
)
def test_a_tokenizer_that_gigatoken_does_not_know_is_encoded_by_tokenizers(families, family, reason, caplog):
    data = content(families[family][2])
    with pytest.raises(ModelError, match=reason):
        Tokenizer(data, "gigatoken")
    automatic = Tokenizer(data, "auto")
    assert "tokenizers is used" in caplog.text
    assert lists(automatic.encode(WORDS)) == lists(Tokenizer(data).encode(WORDS))


@needs_gigatoken
def test_other_tokens_at_the_gate_end_the_use_of_gigatoken(families, monkeypatch, caplog):
    original = Gigatokens.encode

    def wrong(self: Gigatokens, piece: str):
        # None, which the signature allows, would end this test
        ids, starts, ends = original(self, piece)  # type: ignore[misc]
        return ids ^ 1, starts, ends

    data = content(families["llama3"][2])
    monkeypatch.setattr(Gigatokens, "encode", wrong)
    automatic, named = Tokenizer(data, "auto"), Tokenizer(data, "gigatoken")
    text = "one two three"
    assert lists(automatic.encode(text)) == lists(Tokenizer(data).encode(text))
    assert "other tokens than tokenizers at character 0" in caplog.text
    assert automatic._fast is None
    with pytest.raises(ModelError, match="other tokens than tokenizers"):
        named.encode(text)


@needs_gigatoken
def test_gigatoken_is_trusted_after_as_much_text_as_the_gate_asks_for(families, monkeypatch):
    monkeypatch.setattr(tokens, "GATE_CHARS", 20)
    tokenizer = Tokenizer(content(families["llama3"][2]), "auto", piece_chars=1)
    compared = []
    monkeypatch.setattr(tokenizer, "_encode_batch", lambda text, batch: compared.append(text) or original(text, batch))
    original = Tokenizer._encode_batch.__get__(tokenizer)
    for _ in range(5):
        tokenizer.encode("ten chars.")
    assert len(compared) == 2


@needs_gigatoken
def test_what_gigatoken_leaves_to_tokenizers_is_no_part_of_the_gate(families, monkeypatch, caplog):
    original = Gigatokens.encode

    def declines_then_errs(self: Gigatokens, piece: str):
        if "decline" in piece:
            return None
        ids, starts, ends = original(self, piece)  # type: ignore[misc]
        return ids ^ 1, starts, ends

    monkeypatch.setattr(tokens, "GATE_CHARS", 20)
    monkeypatch.setattr(Gigatokens, "encode", declines_then_errs)
    data = content(families["llama3"][2])
    automatic, text = Tokenizer(data, "auto"), "one two three"
    automatic.encode("decline " * 20)
    assert lists(automatic.encode(text)) == lists(Tokenizer(data).encode(text))
    assert "other tokens than tokenizers" in caplog.text


def test_without_gigatoken_only_its_name_is_an_error(families, monkeypatch):
    monkeypatch.setitem(sys.modules, "gigatoken", None)
    monkeypatch.setitem(sys.modules, "gigatoken.gigatoken_rs", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    data = content(families["llama3"][2])
    assert Tokenizer(data, "auto").encode("one two").ids.tolist() == Tokenizer(data).encode("one two").ids.tolist()
    with pytest.raises(ModelError, match=r"pip install 'longattn\[fast\]'"):
        Tokenizer(data, "gigatoken")
