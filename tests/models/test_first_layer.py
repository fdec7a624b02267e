"""The first layer computed by itself against the same layer inside ``transformers``."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from longattn import settings
from longattn.errors import ModelError
from longattn.models import load_model, resolve
from longattn.models.base import LayerAttention, Model
from longattn.models.configuration import read_config
from longattn.models.first_layer import FirstLayer
from longattn.models.transformer import AnyLayer, load_any_layer

FAMILIES = {
    "llama": {},
    "llama with biases": {"attention_bias": True},
    "llama with one key head": {"num_key_value_heads": 1},
    "llama with other heads": {"head_dim": 12},
    "mistral": {"sliding_window": None},
    "qwen2": {},
    "qwen3": {"head_dim": 16},
    "smollm3": {"no_rope_layers": [1, 0, 1]},
}
ROPES = ["default", "linear", "dynamic", "yarn", "longrope", "llama3"]


def rope(kind: str, head_dim: int) -> dict[str, object]:
    """Parameters of a rotary embedding that windows of 96 tokens stretch beyond the 64 positions of the model."""
    factors = torch.linspace(1, 4, head_dim // 2).tolist()
    return {"rope_type": kind, "rope_theta": 5000.0} | {
        "default": {},
        "linear": {"factor": 2.0},
        "dynamic": {"factor": 2.0},
        "yarn": {"factor": 4.0, "original_max_position_embeddings": 16},
        "longrope": {
            "factor": 4.0,
            "original_max_position_embeddings": 24,
            "short_factor": factors,
            "long_factor": [8 * factor for factor in factors],
        },
        "llama3": {
            "factor": 8.0,
            "original_max_position_embeddings": 16,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
        },
    }[kind]


def ask(model: Model, tokens: torch.Tensor, layers=(0,), rows=None) -> list[LayerAttention]:
    seen: list[LayerAttention] = []
    model.queries_and_keys(tokens, layers, seen.append, rows)
    return seen


def load_both(folder, window, **options) -> tuple[FirstLayer, AnyLayer]:
    """The model loaded in both ways."""
    model = settings.Model(name=str(folder), **options)
    checkpoint = resolve(model)
    first = load_model(checkpoint, model, layers=(0,), window=window)
    assert isinstance(first, FirstLayer)
    config = read_config(checkpoint, model, layers=(0,), window=window)
    place = {"device": first.device, "dtype": first.dtype}
    return first, load_any_layer(checkpoint, config, layers=(0,), window=window, **place)


def tokens_like(shape, seed=0) -> torch.Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed))


def assert_same(ours: LayerAttention, theirs: LayerAttention, tolerance: float = 1e-5) -> None:
    assert (ours.layer, ours.scale) == (theirs.layer, theirs.scale)
    assert ours.q.shape == theirs.q.shape
    assert ours.k.shape == theirs.k.shape
    scale = float(theirs.q.abs().max())
    torch.testing.assert_close(ours.q, theirs.q, rtol=0, atol=tolerance * scale)
    torch.testing.assert_close(ours.k, theirs.k, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("kind", ROPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_it_equals_the_layer_inside_the_whole_model(make_folder, family, kind):
    facts = {"head_dim": 8} | FAMILIES[family]
    folder = make_folder(family.split()[0], rope_parameters=rope(kind, facts["head_dim"]), **facts)
    first, whole = load_both(folder, 96, allow_extrapolation=True)
    tokens = tokens_like((2, 96))
    assert_same(*ask(first, tokens), *ask(whole, tokens))


def test_scaled_queries_are_left_to_the_whole_model(make_folder, edit_config):
    """Where a config.json scales the queries of every layer, not from the third on."""
    folder = make_folder("llama")
    for unscaled, kind in ((2, FirstLayer), (0, AnyLayer)):
        edit_config(folder, longattn_entropy_abf={"window": 8, "unscaled_layers": unscaled})
        model = settings.Model(name=str(folder))
        assert isinstance(load_model(resolve(model), model, layers=(0,), window=24), kind)


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_scaling_that_depends_on_the_length_follows_the_length_of_each_window(make_folder, kind):
    folder = make_folder("llama", head_dim=8, rope_parameters=rope(kind, 8))
    first, _ = load_both(folder, 96, allow_extrapolation=True)
    tokens = tokens_like((1, 96))
    long, short = ask(first, tokens)[0], ask(first, tokens[:, :20])[0]
    _, fresh = load_both(folder, 20)
    assert_same(short, *ask(fresh, tokens[:, :20]))
    assert not torch.allclose(short.k, long.k[:, :20], atol=1e-2)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_half_precision_equals_too(make_folder, family, dtype):
    first, whole = load_both(make_folder(family, head_dim=8), 64, dtype=dtype)
    tokens = tokens_like((1, 64))
    (ours,), (theirs,) = ask(first, tokens), ask(whole, tokens)
    assert ours.q.dtype == getattr(torch, dtype)
    assert_same(ours, theirs, tolerance=2**-7)


def test_the_embedded_model_equals_too(smollm2):
    model = settings.Model()
    first = load_model(smollm2, model, layers=(0,), window=300)
    config = read_config(smollm2, model, layers=(0,), window=300)
    whole = load_any_layer(smollm2, config, layers=(0,), window=300, device=first.device, dtype=first.dtype)
    tokens = torch.randint(0, 49152, (2, 300), generator=torch.Generator().manual_seed(0))
    assert (first.vocab_size, first.num_layers, first.max_positions) == (49152, 30, 8192)
    assert_same(*ask(first, tokens), *ask(whole, tokens))


@pytest.mark.parametrize("kind", ["default", "llama3"])
def test_rope_theta_replaces_the_base_in_both_ways(make_folder, edit_config, kind):
    folder = make_folder("llama", rope_parameters=rope(kind, 8))
    tokens = tokens_like((1, 64))
    before, _ = load_both(folder, 64)
    first, whole = load_both(folder, 64, rope_theta=2.5e6)
    edit_config(folder, rope_parameters=rope(kind, 8) | {"rope_theta": 2.5e6})
    edited, _ = load_both(folder, 64)
    assert_same(*ask(first, tokens), *ask(whole, tokens))
    assert_same(*ask(first, tokens), *ask(edited, tokens), tolerance=0)
    assert not torch.allclose(ask(first, tokens)[0].k, ask(before, tokens)[0].k, atol=1e-2)


def test_configs_of_older_versions_mean_the_same(make_folder, edit_config):
    scaling = rope("linear", 8)
    folder = make_folder("llama", rope_parameters=scaling)
    tokens = tokens_like((1, 64))
    (new,) = ask(load_both(folder, 64)[0], tokens)
    theta = scaling.pop("rope_theta")
    config = folder / "config.json"
    facts = json.loads(config.read_text())
    del facts["rope_parameters"]
    config.write_text(json.dumps(facts | {"rope_theta": theta, "rope_scaling": scaling}))
    first, whole = load_both(folder, 64)
    assert_same(new, *ask(first, tokens), tolerance=0)
    assert_same(new, *ask(whole, tokens))


def test_rows_choose_queries_in_any_order(make_folder):
    first, whole = load_both(make_folder("llama"), 64)
    tokens, rows = tokens_like((2, 64)), torch.tensor([63, 0, 17, 40, 5, 4, 3])
    (everything,) = ask(first, tokens)
    for model in (first, whole):
        (some,) = ask(model, tokens, rows=rows)
        assert_same(some, everything._replace(q=everything.q[:, rows]))


def test_windows_do_not_influence_each_other(make_folder):
    first, _ = load_both(make_folder("llama"), 64)
    tokens = tokens_like((3, 64))
    (together,) = ask(first, tokens)
    for index, window in enumerate(tokens):
        (alone,) = ask(first, window[None])
        assert torch.equal(alone.q[0], together.q[index])
        assert torch.equal(alone.k[0], together.k[index])


@pytest.mark.parametrize("prefix", ["model.", ""])
def test_only_the_needed_tensors_are_read(make_folder, prefix):
    folder = make_folder("qwen2")
    expected, _ = load_both(folder, 64)
    needed = (
        "embed_tokens",
        "layers.0.input_layernorm",
        "layers.0.self_attn.q_proj",
        "layers.0.self_attn.k_proj",
    )
    tensors = {
        prefix + name.removeprefix("model."): tensor
        for name, tensor in load_file(folder / "model.safetensors").items()
        if any(part in name for part in needed)
    }
    save_file(tensors, folder / "model.safetensors")
    model = settings.Model(name=str(folder))
    tokens = tokens_like((1, 64))
    first = load_model(resolve(model), model, layers=(0,), window=64)
    assert_same(*ask(first, tokens), *ask(expected, tokens), tolerance=0)

    del tensors[f"{prefix}layers.0.self_attn.k_proj.bias"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"no tensor .*k_proj\.bias"):
        load_model(resolve(model), model, layers=(0,), window=64)


def test_heads_that_the_config_does_not_have_are_refused(make_folder, edit_config):
    model = settings.Model(name=str(edit_config(make_folder("llama", head_dim=8), num_attention_heads=4)))
    with pytest.raises(ModelError, match=r"q_proj\.weight has shape \(48, 48\), its config says \(32, 48\)"):
        load_model(resolve(model), model, layers=(0,), window=8)


@pytest.mark.parametrize(
    "name", ["embed_tokens.weight", "layers.0.input_layernorm.weight", "layers.0.self_attn.q_norm.weight"]
)
def test_a_tensor_of_another_shape_is_refused(make_folder, name):
    """A norm of one number would be applied, as if it held that number for every column."""
    folder = make_folder("qwen3", head_dim=8)
    tensors = load_file(folder / "model.safetensors")
    tensors[f"model.{name}"] = tensors[f"model.{name}"][..., :1].contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    model = settings.Model(name=str(folder))
    with pytest.raises(ModelError, match=rf"{re.escape(name)} has shape \(.*1,?\), its config says"):
        load_model(resolve(model), model, layers=(0,), window=8)


def test_tokens_and_layers_out_of_range_are_refused(make_folder):
    first, _ = load_both(make_folder("llama"), 32)
    for tokens, layers, message in [
        (tokens_like((1, 33)), (0,), "windows have 33 tokens"),
        (tokens_like((1, 0)), (0,), "windows have 0 tokens"),
        (torch.full((1, 8), 256), (0,), "from 0 to 255"),
        (tokens_like((1, 8)), (1,), "only layer 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            ask(first, tokens, layers)


def test_a_tokenizer_with_more_ids_than_embeddings_is_refused(make_folder):
    model = settings.Model(name=str(make_folder("llama", vocab_size=200)))
    with pytest.raises(ModelError, match="embeds only 200 tokens"):
        load_model(resolve(model), model, layers=(0,), window=8)


@pytest.mark.parametrize(
    ("model_type", "facts"),
    [
        ("smollm3", {"no_rope_layers": [0, 1, 1]}),
        ("llama", {"rope_parameters": rope("default", 8) | {"partial_rotary_factor": 0.5}}),
        ("gemma", {"head_dim": 8}),
    ],
)
def test_a_first_layer_unlike_llamas_runs_in_transformers(make_folder, model_type, facts):
    model = settings.Model(name=str(make_folder(model_type, **facts)))
    assert isinstance(load_model(resolve(model), model, layers=(0,), window=8), AnyLayer)
