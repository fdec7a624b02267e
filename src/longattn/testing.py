"""For tests of scorers, ours and other people's: the contract as one function, and a tiny model to run it on."""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from longattn.asking import look
from longattn.expressions import columns_of, evaluate
from longattn.measuring import measure_windows
from longattn.models.weights import write_safetensors
from longattn.records import Window
from longattn.scorers import PilotScorer, Scorer
from longattn.settings import plain

if TYPE_CHECKING:
    from longattn.models.base import Model


def check_scorer(scorer: Scorer, model: "Model", windows: Sequence[Window]) -> None:
    """Raise ``AssertionError`` where a scorer breaks the contract that measuring, resuming and selecting rely on.

    ``windows`` must be two or more of one length, not all alike, with ids from 0 to the model's vocabulary.
    """
    assert len(windows) >= 2, "two windows or more are needed to tell them apart"
    length = len(windows[0].tokens)
    scorer = scorer.for_length(length)
    assert is_dataclass(scorer), f"{scorer.name} must be a dataclass"
    assert hash(scorer) == hash(replace(scorer)), f"{scorer.name} must be frozen, with hashable settings"

    with tempfile.TemporaryDirectory(prefix="longattn-pilot-") as folder:
        if isinstance(scorer, PilotScorer) and scorer.pilot_windows():
            scorer = _with_pilot(scorer, model, windows, Path(folder))
        _check_measuring(scorer, model, windows)


def _check_measuring(scorer: Scorer, model: "Model", windows: Sequence[Window]) -> None:
    facts = plain(dict(scorer.measurement()))
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts, "measurement() must consist of JSON types"

    columns = measure_windows([scorer], model, windows)[scorer.name]
    _check_columns(scorer, columns, len(windows))
    backwards = measure_windows([scorer], model, windows[::-1])[scorer.name]
    for name in scorer.schema():
        assert np.array_equal(columns[name], backwards[name][::-1]), (
            f"{scorer.name}.{name} depends on the order of the windows or on those beside it"
        )

    for name, expression in {"score": scorer.score(), **scorer.readings()}.items():
        unknown = {column.name for column in columns_of(expression)} - set(scorer.schema())
        assert not unknown, f"{name} of {scorer.name} reads columns it does not measure: {sorted(unknown)}"
        values = evaluate(expression, columns)
        assert np.isfinite(values).all(), f"{name} of {scorer.name} is not finite: {values}"
    assert set(scorer.null()) <= set(scorer.readings()), "null() must speak of readings()"


def _with_pilot(scorer: PilotScorer, model: "Model", windows: Sequence[Window], folder: Path) -> PilotScorer:
    """The scorer with tables fitted to these windows, which it reads from ``folder``."""
    from safetensors.numpy import save_file

    seen = [look([scorer.pilot_ask()], model, window)[0] for window in windows]
    save_file(scorer.fit(windows, seen), folder / "pilot.safetensors")
    return scorer.with_pilot(str(folder / "pilot.safetensors"), "checked")


def _check_columns(scorer: Scorer, columns: Any, num_windows: int) -> None:
    assert set(columns) == set(scorer.schema()), (
        f"{scorer.name} measured {sorted(columns)} but its schema says {sorted(scorer.schema())}"
    )
    kinds = {"float64": "f", "int64": "i", "int32": "i", "list<float64>": "f", "list<uint32>": "u"}
    for name, kind in scorer.schema().items():
        values = columns[name]
        assert len(values) == num_windows, f"{scorer.name}.{name} has {len(values)} rows for {num_windows} windows"
        assert values.ndim == (2 if kind.startswith("list") else 1), f"{scorer.name}.{name} must be {kind}"
        assert values.dtype.kind == kinds[kind], f"{scorer.name}.{name} must be {kind}, got {values.dtype}"


def tiny_checkpoint(
    folder: Path,
    *,
    layers: int = 2,
    heads: int = 4,
    key_heads: int = 2,
    head_size: int = 8,
    seed: int = 0,
    **config: Any,
) -> Path:
    """Write a random Llama-type model whose tokens are bytes; returns the folder, for ``model.name``.

    ``config`` goes into config.json and may replace anything there.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    hidden, inner, vocabulary = heads * head_size, 4 * heads * head_size, 256
    shapes = {"model.embed_tokens.weight": (vocabulary, hidden), "model.norm.weight": (hidden,)}
    for i in range(layers):
        layer = f"model.layers.{i}"
        shapes |= {
            f"{layer}.input_layernorm.weight": (hidden,),
            f"{layer}.post_attention_layernorm.weight": (hidden,),
            f"{layer}.self_attn.q_proj.weight": (heads * head_size, hidden),
            f"{layer}.self_attn.k_proj.weight": (key_heads * head_size, hidden),
            f"{layer}.self_attn.v_proj.weight": (key_heads * head_size, hidden),
            f"{layer}.self_attn.o_proj.weight": (hidden, heads * head_size),
            f"{layer}.mlp.gate_proj.weight": (inner, hidden),
            f"{layer}.mlp.up_proj.weight": (inner, hidden),
            f"{layer}.mlp.down_proj.weight": (hidden, inner),
        }
    random = np.random.default_rng(seed)
    tensors = {name: random.normal(size=shape).astype(np.float32) * 0.3 for name, shape in shapes.items()}
    folder.mkdir(parents=True, exist_ok=True)
    specs = {name: ("F32", tensor.shape, tensor.nbytes) for name, tensor in tensors.items()}
    write_safetensors(folder / "model.safetensors", specs, (tensor.tobytes() for tensor in tensors.values()))
    facts = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": key_heads,
        "head_dim": head_size,
        "vocab_size": vocabulary,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        **config,
    }
    (folder / "config.json").write_text(json.dumps(facts))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={sign: i for i, sign in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder
