"""Convert a GGUF file, once, into an ordinary checkpoint folder that every other tool reads.

The folder holds ``config.json``, ``model.safetensors`` (dequantised, float32, names as in ``transformers``),
``tokenizer.json``, ``tokenizer_config.json`` and a ``README.md`` that says where it came from. Only what can
be converted without guessing is: other architectures, tokenizers and tensors are refused by name.
"""

import functools
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import gguf.quants
import numpy as np
import numpy.typing as npt

from longattn.errors import ModelError
from longattn.models.cache import cached_folder, file_digest
from longattn.models.gguf_file import GGUFFile, Quantised, read_gguf
from longattn.models.gguf_tokenizer import gguf_tokenizer, gguf_tokenizer_config, special_tokens
from longattn.models.weights import MAX_HEADER, write_safetensors

_VERSION = 2
"""Part of the name in the cache; a change of what is written needs a new number."""
_CHUNK_VALUES = 2**24
_CHANGES = ("attention.scale", "attention.clamp_kqv", "attention.max_alibi_bias", "attention.temperature_length")
_CHANGES += ("attn_logit_softcapping", "embedding_scale", "residual_scale", "logit_scale", "rope.scaling.alpha")
"""Facts that change what the model computes, and of which a checkpoint of these classes knows nothing; 0 for none."""
_YARN = {"attn_factor": 1, "yarn_attn_factor": 1, "yarn_ext_factor": 1, "yarn_beta_fast": 32, "yarn_beta_slow": 1}
_YARN |= {"yarn_log_multiplier": 0}
"""What YaRN's further parameters are where nothing is said; other values are not converted."""

_CLASSES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}


def convert_gguf(path: Path, max_header: int = MAX_HEADER) -> Path:
    """The checkpoint folder, in the cache, of a GGUF file. Raises ``ModelError`` if it cannot be converted."""
    digest = file_digest(path)
    return cached_folder(f"gguf/{digest[:32]}-{_VERSION}", functools.partial(_convert, path, digest, max_header))


def _convert(path: Path, digest: str, max_header: int, folder: Path) -> None:
    file = read_gguf(path, max_header)
    try:
        shape = _shape(file)
        tokenizer, tokenizer_config = gguf_tokenizer(file.metadata), gguf_tokenizer_config(file.metadata)
        sources, config = _sources(file, shape), _config(file, shape)
    except ModelError:
        raise
    except Exception as error:  # the library tokenizers raises bare Exception for merges that do not fit
        raise ModelError(f"{path} has a header that does not add up: {error!r}") from error
    tokenizer.save(str(folder / "tokenizer.json"))
    shapes = {name: source.tensor.shape for name, source in sources.items()}
    specs = {name: ("F32", dimensions, 4 * math.prod(dimensions)) for name, dimensions in shapes.items()}
    write_safetensors(folder / "model.safetensors", specs, _float_chunks(sources))
    _write_json(folder / "config.json", config)
    _write_json(folder / "tokenizer_config.json", tokenizer_config)
    (folder / "README.md").write_text(
        f"---\nlicense: {file.metadata.get('general.license', 'unknown')}\n---\n\n"
        f"Converted from {path.name} (SHA-256 {digest}) by longattn: dequantised to float32, rows of queries and "
        "keys in the order that transformers uses.\n"
    )


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


class _Shape(NamedTuple):
    architecture: str
    layers: int
    hidden: int
    inner: int
    heads: int
    key_heads: int
    head_dim: int
    vocab: int
    positions: int


def _shape(file: GGUFFile) -> _Shape:
    architecture = file.metadata.get("general.architecture")
    if architecture not in _CLASSES:
        raise ModelError(
            f"GGUF files of the architecture {architecture!r} are not supported, only {', '.join(_CLASSES)}"
        )

    def count(name: str, default: int | None = None) -> int:
        value = file.metadata.get(f"{architecture}.{name}", default)
        if type(value) is not int or not 1 <= value < 2**31:
            raise ModelError(f"the GGUF file's {architecture}.{name} must be a positive number, got {value!r}")
        return value

    heads, hidden = count("attention.head_count"), count("embedding_length")
    head_dim = count("attention.key_length", hidden // heads)
    shape = _Shape(
        architecture=architecture,
        layers=count("block_count"),
        hidden=hidden,
        inner=count("feed_forward_length"),
        heads=heads,
        key_heads=count("attention.head_count_kv", heads),
        head_dim=head_dim,
        vocab=len(file.metadata.get("tokenizer.ggml.tokens", ())),
        positions=count("context_length"),
    )
    if heads % shape.key_heads or head_dim % 2:
        raise ModelError(f"{heads} heads of {head_dim}, {shape.key_heads} of them for keys, is no attention known here")
    for name in ("rope.dimension_count", "attention.value_length"):
        if count(name, head_dim) != head_dim:
            raise ModelError(
                f"the GGUF file's {architecture}.{name} differs from its head size {head_dim}: not supported"
            )
    return shape


def _config(file: GGUFFile, shape: _Shape) -> dict[str, Any]:
    """``config.json``, in the spelling that old and new versions of ``transformers`` read."""
    architecture, metadata = shape.architecture, file.metadata
    window = metadata.get(f"{architecture}.attention.sliding_window")
    if metadata.get(f"{architecture}.expert_count") or window:
        raise ModelError("GGUF files with experts or sliding windows are not supported; use the safetensors checkpoint")
    if not metadata.get(f"{architecture}.attention.causal", True):
        raise ModelError("the GGUF file's attention is not causal")
    if others := [name for name in _CHANGES if metadata.get(f"{architecture}.{name}")]:
        raise ModelError(f"{architecture} GGUF files with {', '.join(others)} are not supported; use safetensors")
    config = {
        "architectures": [_CLASSES[architecture]],
        "model_type": architecture,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.inner,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.key_heads,
        "head_dim": shape.head_dim,
        "vocab_size": shape.vocab,
        "max_position_embeddings": shape.positions,
        "rms_norm_eps": _decimal(metadata[f"{architecture}.attention.layer_norm_rms_epsilon"]),
        "rope_theta": _decimal(metadata.get(f"{architecture}.rope.freq_base", 10000.0)),
        "rope_scaling": _rope_scaling(file, shape),
        "hidden_act": "silu",
        "attention_bias": False,
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "dtype": "float32",
    }
    special = special_tokens(metadata)
    return config | {f"{name}_token_id": special[name] for name in ("bos", "eos", "pad") if name in special}


def _decimal(value: float) -> float:
    """A number stored in single precision as the shortest decimal that means the same: 1e-05, not 9.99999974e-06."""
    return float(str(np.float32(value)))


def _rope_scaling(file: GGUFFile, shape: _Shape) -> dict[str, Any] | None:
    prefix = f"{shape.architecture}.rope.scaling"
    old_name = f"{shape.architecture}.rope.scale_linear"
    factor = _decimal(file.metadata.get(f"{prefix}.factor", file.metadata.get(old_name, 0.0))) or 1.0
    # as llama.cpp reads a file that does not name the kind
    kind = file.metadata.get(f"{prefix}.type", "linear")
    kind = "none" if kind == "linear" and factor == 1 else kind
    if other := [name for name, usual in _YARN.items() if file.metadata.get(f"{prefix}.{name}", usual) != usual]:
        raise ModelError(f"GGUF files with {prefix}.{other[0]} are not supported; use the safetensors checkpoint")
    if factors := file.tensors.get("rope_freqs.weight"):
        # one divisor per frequency (Llama 3.1 and later): LongRoPE with the same divisors at any length
        divisors = _dequantise(factors).ravel().tolist()
        if kind != "none" or len(divisors) != shape.head_dim // 2:
            raise ModelError(
                f"{len(divisors)} frequency factors with {kind} scaling, head size {shape.head_dim}: not supported"
            )
        scaling = {
            "rope_type": "longrope",
            "short_factor": divisors,
            "long_factor": divisors,
            "attention_factor": 1.0,
        }
        return scaling | {"factor": 1.0, "original_max_position_embeddings": shape.positions}
    if kind == "none":
        return None
    if kind not in ("linear", "yarn"):
        raise ModelError(f"GGUF files with {kind!r} scaling of rotary embeddings are not supported; use safetensors")
    scaling: dict[str, Any] = {"rope_type": kind, "factor": factor}
    if kind == "yarn":
        scaling["original_max_position_embeddings"] = file.metadata[f"{prefix}.original_context_length"]
    return scaling


class _Source(NamedTuple):
    tensor: Quantised
    heads: int = 0
    """Undo the order of rows that llama.cpp gives to this many heads; 0 where it gives none."""


def _sources(file: GGUFFile, shape: _Shape) -> dict[str, _Source]:
    """The tensor of the file behind each tensor of the checkpoint."""
    table = {
        "token_embd.weight": ("model.embed_tokens.weight", (shape.vocab, shape.hidden)),
        "output_norm.weight": ("model.norm.weight", (shape.hidden,)),
        "output.weight": ("lm_head.weight", (shape.vocab, shape.hidden)),
    }
    for layer in range(shape.layers):
        for name, (target, dimensions) in _layer_tensors(shape).items():
            table[f"blk.{layer}.{name}"] = (f"model.layers.{layer}.{target}", dimensions)
    if unknown := sorted(file.tensors.keys() - table.keys() - {"rope_freqs.weight"}):
        raise ModelError(f"{shape.architecture} GGUF files with the tensors {', '.join(unknown[:5])} are not supported")
    if missing := sorted(table.keys() - file.tensors.keys() - {"output.weight"}):
        raise ModelError(f"the GGUF file lacks the tensors {', '.join(missing[:5])}")
    permuted = {"attn_q.weight": shape.heads, "attn_k.weight": shape.key_heads} if shape.architecture == "llama" else {}
    sources = {}
    for name, tensor in file.tensors.items():
        if name not in table:
            continue
        target, dimensions = table[name]
        if tensor.shape != dimensions:
            raise ModelError(f"the GGUF file's tensor {name} has shape {tensor.shape}, its header implies {dimensions}")
        sources[target] = _Source(tensor, permuted.get(name.split(".", 2)[-1], 0))
    return sources


def _layer_tensors(shape: _Shape) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Name and shape of each tensor of a layer, by its name in the file."""
    hidden, inner = shape.hidden, shape.inner
    rows, key_rows = shape.heads * shape.head_dim, shape.key_heads * shape.head_dim
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {
        "attn_norm.weight": ("input_layernorm.weight", (hidden,)),
        "attn_q.weight": ("self_attn.q_proj.weight", (rows, hidden)),
        "attn_k.weight": ("self_attn.k_proj.weight", (key_rows, hidden)),
        "attn_v.weight": ("self_attn.v_proj.weight", (key_rows, hidden)),
        "attn_output.weight": ("self_attn.o_proj.weight", (hidden, rows)),
        "ffn_norm.weight": ("post_attention_layernorm.weight", (hidden,)),
        "ffn_gate.weight": ("mlp.gate_proj.weight", (inner, hidden)),
        "ffn_up.weight": ("mlp.up_proj.weight", (inner, hidden)),
        "ffn_down.weight": ("mlp.down_proj.weight", (hidden, inner)),
    }
    if shape.architecture == "qwen2":
        biases = {"q": rows, "k": key_rows, "v": key_rows}
        tensors |= {f"attn_{name}.bias": (f"self_attn.{name}_proj.bias", (size,)) for name, size in biases.items()}
    if shape.architecture == "qwen3":
        tensors |= {f"attn_{name}_norm.weight": (f"self_attn.{name}_norm.weight", (shape.head_dim,)) for name in "qk"}
    return tensors


def _float_chunks(sources: Mapping[str, _Source]) -> Iterator[bytes]:
    """The float32 bytes of all tensors in order, some rows at a time."""
    for tensor, heads in sources.values():
        data = tensor.data
        if heads:
            # rows 0, 1, 2, ... of a head are 0, K/2, 1, K/2 + 1, ... of the original
            rows = np.arange(len(data)).reshape(heads, -1, 2).swapaxes(1, 2).ravel()
            data = data[rows]
        step = max(1, _CHUNK_VALUES // tensor.shape[-1])
        for start in range(0, len(data), step):
            yield _dequantise(tensor._replace(data=data[start : start + step])).tobytes()


def _dequantise(tensor: Quantised) -> npt.NDArray[np.float32]:
    """Rows of a tensor as float32, shape [rows, columns]."""
    kind = tensor.kind
    simple = {"F16": np.float16, "F32": np.float32, "F64": np.float64}
    if kind.name in simple:
        return tensor.data.view(simple[kind.name]).astype(np.float32)
    try:
        return gguf.quants.dequantize(tensor.data, kind)
    except NotImplementedError as error:
        raise ModelError(f"tensors quantised as {kind.name} cannot be read; use another quantisation") from error
