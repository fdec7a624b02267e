"""The first layer computed by itself against the same layer inside ``transformers``."""

import pytest
import torch

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
FACTORS = [1.0, 1.5, 2.0, 4.0]
ROPES = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 2.0},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
    "longrope": {
        "rope_type": "longrope",
        "short_factor": FACTORS,
        "long_factor": [8 * factor for factor in FACTORS],
        "factor": 4.0,
        "original_max_position_embeddings": 24,
    },
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    },
}


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


@pytest.mark.parametrize("rope", ROPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_it_equals_the_layer_inside_the_whole_model(make_folder, family, rope):
    facts = {"head_dim": 8} | FAMILIES[family]
    factors = {name: value * 2 for name, value in ROPES[rope].items() if name.endswith("_factor") and isinstance(value, list)}
    parameters = {"rope_theta": 5000.0, **ROPES[rope]}
    for name in factors:
        parameters[name] = (ROPES[rope][name] * 4)[: facts["head_dim"] // 2]
    folder = make_folder(family.split()[0], rope_parameters=parameters, **facts)
    first, whole = load_both(folder, 96, allow_extrapolation=True)
    tokens = tokens_like((2, 96))
    assert_same(*ask(first, tokens), *ask(whole, tokens))
