"""Queries that are scaled in a living model."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM

from longattn.errors import ModelError
from longattn.models.checkpoint import ENTROPY
from longattn.models.query_scale import scale_queries
from longattn.settings import Adjusting
from longattn.testing import tiny_checkpoint
from longattn.train.abf import adjust
from longattn.train.rope import entropy_scale

RULE = Adjusting(length=256, entropy=True)


@pytest.fixture
def folder(tmp_path):
    model = tiny_checkpoint(tmp_path / "model", layers=4, max_position_embeddings=16)
    adjust(str(model), RULE, tmp_path / "longer")
    return tmp_path / "longer"


def queries(model, tokens, **inputs):
    """The queries of every layer, as its attention gets them."""
    found = []

    def look(module, query, key, value, attention_mask, **rest):
        found.append(query.detach())
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(module, query, key, value, attention_mask, **rest)

    from transformers import AttentionInterface

    AttentionInterface.register("looking", look)
    model.set_attn_implementation("looking")
    with torch.no_grad():
        model(tokens, **inputs)
    return found


def test_queries_of_all_but_the_first_layers_grow_with_their_position(folder):
    tokens = torch.randint(0, 256, (2, 64), generator=torch.Generator().manual_seed(0))
    plain, scaled = (AutoModelForCausalLM.from_pretrained(folder) for _ in range(2))
    assert scale_queries(scaled) == 2
    before, after = queries(plain, tokens), queries(scaled, tokens)
    factor = torch.tensor(entropy_scale(np.arange(64), 16)).float()[None, None, :, None]
    assert all(torch.equal(*pair) for pair in zip(before[:2], after[:2], strict=True))
    # the inputs of later layers differ, so only the first scaled one can be compared
    assert torch.allclose(after[2], before[2] * factor, rtol=1e-5, atol=1e-6)
    assert factor[..., -1, 0].item() == pytest.approx(1.5)


def test_positions_begin_anew_with_a_packed_document(folder):
    model = AutoModelForCausalLM.from_pretrained(folder)
    scale_queries(model)
    tokens = torch.arange(64)[None]
    positions = torch.cat([torch.arange(40), torch.arange(24)])[None]
    plain = AutoModelForCausalLM.from_pretrained(folder)
    before, after = (queries(one, tokens, position_ids=positions)[2] for one in (plain, model))
    factor = torch.tensor(entropy_scale(positions[0].numpy(), 16)).float()[None, None, :, None]
    assert torch.allclose(after, before * factor, rtol=1e-5, atol=1e-6)


def test_a_normed_query_is_scaled_behind_its_norm():
    """The norm would take the factor out again."""
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    config = Qwen3Config(num_hidden_layers=3, intermediate_size=64, vocab_size=256, **sizes)
    config.update({ENTROPY: {"window": 16, "unscaled_layers": 0}})
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(config).eval()
    tokens = torch.arange(64)[None]
    before = queries(model, tokens)[0]
    assert scale_queries(model) == 3
    factor = torch.tensor(entropy_scale(np.arange(64), 16)).float()[None, None, :, None]
    assert torch.allclose(queries(model, tokens)[0], before * factor, rtol=1e-5, atol=1e-6)


def test_a_step_of_generation_has_its_position(folder):
    """With a cache the next token is given alone."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    scale_queries(model)
    tokens = torch.arange(40)[None]
    with torch.no_grad():
        whole = model(tokens).logits[:, -1]
        cache = model(tokens[:, :-1], use_cache=True).past_key_values
        step = model(tokens[:, -1:], past_key_values=cache).logits[:, -1]
    assert torch.allclose(whole, step, atol=1e-4)


def test_a_model_that_does_not_ask_stays_as_it_is(tmp_path):
    model = tiny_checkpoint(tmp_path / "model", max_position_embeddings=16)
    adjust(str(model), replace(RULE, entropy=False), tmp_path / "longer")
    assert scale_queries(AutoModelForCausalLM.from_pretrained(tmp_path / "longer")) == 0


def test_fused_projections_are_refused():
    from transformers import Phi3Config, Phi3ForCausalLM

    sizes = {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0}
    config = Phi3Config(num_hidden_layers=1, intermediate_size=64, vocab_size=64, **sizes)
    config.update({ENTROPY: {"window": 16, "unscaled_layers": 0}})
    with pytest.raises(ModelError, match="has no q_proj"):
        scale_queries(Phi3ForCausalLM(config))


def test_what_is_loaded_for_evaluation_and_training_is_scaled(folder):
    from longattn.models import resolve
    from longattn.models.transformer import load_generating
    from longattn.settings import Model
    from longattn.train import Training
    from longattn.train.models import load_trainable, trainable_config

    checkpoint = resolve(Model(name=str(folder)))
    config = trainable_config(checkpoint, Model(name=str(folder)), 0.0)
    tokens = torch.arange(64)[None]
    by_hand = AutoModelForCausalLM.from_pretrained(folder)
    scale_queries(by_hand)
    with torch.no_grad():
        wanted = by_hand(tokens).logits
        assert torch.allclose(load_trainable(checkpoint, config, Training()).eval()(tokens).logits, wanted, atol=1e-5)
        generating = load_generating(checkpoint, config, device=torch.device("cpu"), dtype=torch.float32)
    with torch.inference_mode():
        assert torch.allclose(generating(tokens).logits, wanted, atol=1e-4)
        plain = AutoModelForCausalLM.from_pretrained(folder)(tokens).logits
    assert not torch.allclose(plain, wanted, atol=1e-2), "the scaling would not show"
