"""One query against many keys, as ``generate`` asks it."""

import pytest
import torch

from longattn.models import resolve
from longattn.models.configuration import read_config
from longattn.models.transformer import load_generating
from longattn.settings import Model


@pytest.fixture(scope="module")
def module(tiny_model_folder):
    model = Model(name=str(tiny_model_folder))
    checkpoint = resolve(model)
    config = read_config(checkpoint, model, layers="all", window=64)
    assert config.num_attention_heads > config.num_key_value_heads, "no key heads would be shared"
    return load_generating(checkpoint, config, device=torch.device("cpu"), dtype=torch.float32)


def test_a_token_by_itself_has_the_logits_it_has_in_its_text(module, generator):
    tokens = torch.randint(0, 256, (1, 48), generator=generator)
    with torch.inference_mode():
        whole = module(tokens).logits[0, 40:]
        seen = module(tokens[:, :40], use_cache=True)
        for place in range(40, 48):
            seen = module(tokens[:, place : place + 1], past_key_values=seen.past_key_values, use_cache=True)
            assert torch.allclose(seen.logits[0, -1], whole[place - 40], atol=1e-5)


def test_query_heads_that_share_keys_become_rows_of_one_product(module, monkeypatch, generator):
    shapes = []
    attend = torch.nn.functional.scaled_dot_product_attention

    def note(query, key, value, *rest, **options):
        shapes.append((query.shape[1], key.shape[1], query.shape[2], options.get("enable_gqa", False)))
        return attend(query, key, value, *rest, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", note)
    tokens = torch.randint(0, 256, (1, 9), generator=generator)
    with torch.inference_mode():
        seen = module(tokens[:, :8], use_cache=True)
        module(tokens[:, 8:], past_key_values=seen.past_key_values, use_cache=True)
    heads, keys, layers = (
        getattr(module.config, f"num_{name}") for name in ("attention_heads", "key_value_heads", "hidden_layers")
    )
    assert shapes == [(heads, keys, 8, True)] * layers + [(keys, keys, heads // keys, False)] * layers
