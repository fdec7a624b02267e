"""Build the tokenizer that a GGUF file describes: its tokens and merges, and the name of how text is split.

The rules behind the names are those of the models' own ``tokenizer.json``.
"""

from collections.abc import Mapping
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from longattn.errors import ModelError
from longattn.tokens import LLAMA3_SPLIT, QWEN2_SPLIT

_MAX_TOKEN = 256
_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4
_SPECIAL = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}


def special_tokens(metadata: Mapping[str, Any]) -> dict[str, int]:
    """Ids of the tokens with a role, by the names that ``transformers`` gives to the roles."""
    ids = {name: metadata.get(f"tokenizer.ggml.{key}_token_id") for name, key in _SPECIAL.items()}
    num_tokens = len(metadata["tokenizer.ggml.tokens"])
    if wrong := [index for index in ids.values() if index is not None and not 0 <= index < num_tokens]:
        raise ModelError(f"the GGUF file has {num_tokens} tokens and names token {wrong[0]}")
    return {name: index for name, index in ids.items() if index is not None}


def gguf_tokenizer(metadata: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer that a file describes. Raises ``ModelError`` for one that is not known by name."""
    kind = metadata.get("tokenizer.ggml.model")
    if kind not in ("gpt2", "llama"):
        raise ModelError(f"GGUF files with a {kind!r} tokenizer are not supported, only gpt2 and llama")
    tokens, types = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    # every way to make a token of two is tried
    if (longest := max(map(len, tokens), default=0)) > _MAX_TOKEN:
        raise ModelError(f"the GGUF file has a token of {longest} characters, more than {_MAX_TOKEN}")
    if len(types) != len(tokens) or len(set(tokens)) != len(tokens):
        raise ModelError(
            f"the GGUF file has {len(tokens)} tokens, {len(set(tokens))} different, and {len(types)} types"
        )
    tokenizer = _byte_level(metadata) if kind == "gpt2" else _sentencepiece(metadata)
    typed = [(AddedToken(token, normalized=False), types[index]) for index, token in enumerate(tokens)]
    tokenizer.add_special_tokens([token for token, type_ in typed if type_ == _CONTROL])
    tokenizer.add_tokens([token for token, type_ in typed if type_ == _USER_DEFINED])
    bos = special_tokens(metadata).get("bos")
    if bos is not None and metadata.get("tokenizer.ggml.add_bos_token", kind == "llama"):
        template = f"{tokens[bos]} $A"
        tokenizer.post_processor = processors.TemplateProcessing(template, special_tokens=[(tokens[bos], bos)])
    return tokenizer


def _byte_level(metadata: Mapping[str, Any]) -> Tokenizer:
    """Byte-level BPE; the name of its pre-tokenizer is all that the file says about how text is split."""
    name = metadata.get("tokenizer.ggml.pre")
    merges = [(left, right) for left, right in (merge.split(" ", 1) for merge in metadata["tokenizer.ggml.merges"])]
    vocab = {token: index for index, token in enumerate(metadata["tokenizer.ggml.tokens"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=name == "llama-bpe"))
    words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    match name:
        case "smollm":
            tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), words])
        case "gpt-2":
            tokenizer.pre_tokenizer = words
        case "llama-bpe":
            tokenizer.pre_tokenizer = _split(LLAMA3_SPLIT)
        case "qwen2":
            tokenizer.normalizer = normalizers.NFC()
            tokenizer.pre_tokenizer = _split(QWEN2_SPLIT)
        case _:
            raise ModelError(
                f"the GGUF file's pre-tokenizer {name!r} is not known, only smollm, gpt-2, llama-bpe and qwen2; "
                "use the model's own folder with safetensors and tokenizer.json"
            )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _split(pattern: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _sentencepiece(metadata: Mapping[str, Any]) -> Tokenizer:
    """BPE as SentencePiece does it: blanks are ``▁``, unknown characters become bytes, scores order the merges."""
    tokens, types, scores = (metadata[f"tokenizer.ggml.{name}"] for name in ("tokens", "token_type", "scores"))
    vocab = {token: index for index, token in enumerate(tokens)}
    normal = {token: score for token, type_, score in zip(tokens, types, scores, strict=True) if type_ == _NORMAL}
    model = models.BPE(
        vocab=vocab,
        merges=_merges(vocab, normal),
        unk_token=tokens[special_tokens(metadata).get("unk", 0)],
        fuse_unk=True,
        byte_fallback=True,
    )
    tokenizer = Tokenizer(model)
    blanks = normalizers.Replace(" ", "▁")
    prefix = metadata.get("tokenizer.ggml.add_space_prefix", True)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), blanks]) if prefix else blanks
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prefix else steps)
    return tokenizer


def _merges(vocab: Mapping[str, int], scores: Mapping[str, float]) -> list[tuple[str, str]]:
    """Every pair of tokens that makes a token, best score of the whole first."""
    merges = [
        (-score, index, vocab[token[:cut]], vocab[token[cut:]], token[:cut], token[cut:])
        for index, (token, score) in enumerate(scores.items())
        for cut in range(1, len(token))
        if token[:cut] in scores and token[cut:] in scores
    ]
    return [merge[-2:] for merge in sorted(merges)]


def gguf_tokenizer_config(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What ``tokenizer_config.json`` says of it: roles of tokens and the chat template."""
    tokens = metadata["tokenizer.ggml.tokens"]
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    config |= {f"{name}_token": tokens[index] for name, index in special_tokens(metadata).items()}
    if template := metadata.get("tokenizer.chat_template"):
        config["chat_template"] = template
    return config
