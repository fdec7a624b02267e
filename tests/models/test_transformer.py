"""Any layer of any causal language model, against the attention maps that ``transformers`` itself computes."""

import re

import pytest
import torch
from transformers import AutoModelForCausalLM

from longattn import settings
from longattn.errors import ModelError
from longattn.models import load_model, resolve, transformer
from longattn.models.base import LayerAttention
from longattn.models.transformer import AnyLayer

EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
LATENT = {
    "num_key_value_heads": 6,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "first_k_dense_replace": 3,
}
READABLE = {
    "llama": {},
    "mistral": {"sliding_window": None},
    "qwen3": {},
    "smollm3": {},
    "gpt2": {"num_key_value_heads": None},
    "gpt_neox": {},
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 48},
    "phi": {},
    "phi3": {"sliding_window": None},
    "olmo2": {},
    "gemma": {"head_dim": 8},
    "cohere": {},
    "granite": {"attention_multiplier": 0.7},
    "starcoder2": {"sliding_window": None},
    "mixtral": EXPERTS,
    "deepseek_v3": LATENT,
}


def load(folder, layers, window=24, predicts=False, **options) -> AnyLayer:
    model = settings.Model(name=str(folder), **options)
    loaded = load_model(resolve(model), model, layers=layers, window=window, predicts=predicts)
    assert isinstance(loaded, AnyLayer)
    return loaded


def tokens_like(shape) -> torch.Tensor:
    return torch.randint(3, 256, shape, generator=torch.Generator().manual_seed(0))


def attention_map(seen: LayerAttention) -> torch.Tensor:
    """Probabilities, shape [B, H, R, T]."""
    keys = seen.k.repeat_interleave(seen.q.shape[2] // seen.k.shape[2], dim=2)
    logits = torch.einsum("brhk,bthk->bhrt", seen.q, keys) * seen.scale
    future = torch.ones(logits.shape[-2:], dtype=torch.bool).triu(1)
    return logits.masked_fill(future, -torch.inf).softmax(-1)


@pytest.mark.parametrize("model_type", READABLE)
def test_every_layer_has_the_attention_map_of_the_model(make_folder, model_type):
    folder = make_folder(model_type, **READABLE[model_type])
    tokens = tokens_like((2, 24))
    seen: list[LayerAttention] = []
    load(folder, (0, 1, 2)).queries_and_keys(tokens, (2, 0, 1), seen.append)
    eager = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    with torch.inference_mode():
        maps = eager(tokens, output_attentions=True, use_cache=False).attentions
    assert [attention.layer for attention in seen] == [0, 1, 2]
    for attention, expected in zip(seen, maps, strict=True):
        torch.testing.assert_close(attention_map(attention), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_nothing_runs_after_the_last_asked_layer(make_folder, model_type):
    model = load(make_folder(model_type, **READABLE[model_type]), (0, 2))
    ran: list[str] = []
    for name, part in model.module.named_modules():
        part.register_forward_hook(lambda *_, name=name: ran.append(name))
    model.queries_and_keys(tokens_like((1, 24)), (1,), lambda _: None)
    blocks = [name for name in ran if name.count(".") == 1]
    assert any(".0" in name for name in blocks)
    assert not any(".1" in name or ".2" in name for name in blocks), "a layer's block ends after its attention"
    assert not any(name.startswith(("layers.2", "h.2")) for name in ran)


def test_layers_that_nobody_asked_for_are_not_loaded(make_folder):
    folder = make_folder("smollm3", num_hidden_layers=4, no_rope_layers=[1, 1, 0, 1])
    whole, part = load(folder, (1, 3)), load(folder, (0, 1))
    assert (len(whole.module.layers), len(part.module.layers)) == (4, 2)
    assert (whole.num_layers, part.num_layers) == (4, 4)
    both: list[LayerAttention] = []
    for model in (whole, part):
        model.queries_and_keys(tokens_like((1, 24)), (1,), both.append)
    assert torch.equal(both[0].q, both[1].q)
    with pytest.raises(ValueError, match="from 0 to 1, as loaded"):
        part.queries_and_keys(tokens_like((1, 24)), (3,), both.append)


def test_rows_choose_queries_at_every_layer(make_folder):
    model = load(make_folder("llama"), (0, 2))
    tokens, rows = tokens_like((2, 24)), torch.tensor([23, 0, 7])
    every: list[LayerAttention] = []
    some: list[LayerAttention] = []
    model.queries_and_keys(tokens, (0, 2), every.append)
    model.queries_and_keys(tokens, (0, 2), some.append, rows)
    for whole, chosen in zip(every, some, strict=True):
        assert torch.equal(whole.q[:, rows], chosen.q)
        assert torch.equal(whole.k, chosen.k)


def test_an_error_of_the_visitor_comes_through(make_folder):
    model = load(make_folder("llama"), (0, 1))

    def fail(attention: LayerAttention) -> None:
        raise RuntimeError(f"layer {attention.layer}")

    with pytest.raises(RuntimeError, match="layer 0"):
        model.queries_and_keys(tokens_like((1, 8)), (0, 1), fail)


REFUSED = {
    "sliding window": ("mistral", {"sliding_window": 16}, "reaches only 16 tokens back"),
    "sliding window of some layers": (
        "qwen2",
        {
            "use_sliding_window": True,
            "sliding_window": 16,
            "layer_types": ["full_attention", "full_attention", "sliding_attention"],
        },
        "reaches only 16 tokens back",
    ),
    "capped logits": ("gemma2", {"head_dim": 8}, "attn_logit_softcapping"),
    "learned sinks": ("gpt_oss", {"head_dim": 8, "sliding_window": 64, **EXPERTS}, "s_aux"),
    "bias by distance": ("mpt", {"d_model": 48, "n_heads": 6, "n_layers": 3}, "cannot be read"),
    "alibi in falcon": ("falcon", {"alibi": True}, "ALiBi"),
    "chunks": ("llama4_text", {"head_dim": 8, "intermediate_size_mlp": 64, **EXPERTS}, "chunked_attention"),
    "attention of its own": ("stablelm", {}, "cannot be read"),
    "no attention": ("mamba", {"state_size": 4}, "linear_attention"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_attention_that_the_moments_do_not_describe_is_refused(make_folder, case):
    model_type, facts, message = REFUSED[case]
    folder = make_folder(model_type, **facts)
    with pytest.raises(ModelError, match=message):
        load(folder, (0, 1, 2), window=64)


def test_a_sliding_window_as_long_as_the_window_is_full_attention(make_folder):
    folder = make_folder("mistral", sliding_window=24)
    assert load(folder, (0, 1), window=24).window == 24
    with pytest.raises(ModelError, match="reaches only 24 tokens back"):
        load(folder, (0, 1), window=25)


def test_a_sliding_layer_beyond_the_asked_ones_does_no_harm(make_folder):
    kinds = ["full_attention", "full_attention", "sliding_attention"]
    folder = make_folder("qwen2", use_sliding_window=True, sliding_window=16, layer_types=kinds)
    assert load(folder, (0, 1), window=64).num_layers == 3


def test_tensors_that_are_missing_are_never_made_up(make_folder):
    from safetensors.torch import load_file, save_file

    folder = make_folder("llama")
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacking, or of another shape: .*up_proj"):
        load(folder, (0, 2))


def test_dynamic_scaling_takes_windows_of_one_length(make_folder):
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    model = load(make_folder("llama", rope_parameters=rope), (0, 1), window=24)
    with pytest.raises(ValueError, match="exactly 24 tokens"):
        model.queries_and_keys(tokens_like((1, 20)), (0,), lambda _: None)


def test_dynamic_scaling_predicts_as_the_model_does(make_folder):
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    folder, tokens = make_folder("llama", rope_parameters=rope), tokens_like((1, 96))
    found = load(folder, (), window=96, predicts=True).predictions(tokens)
    eager = AutoModelForCausalLM.from_pretrained(folder)
    with torch.inference_mode():
        logits = eager(tokens, use_cache=False).logits[:, :-1]
    expected = logits.log_softmax(-1).gather(2, tokens[:, 1:, None])[..., 0]
    torch.testing.assert_close(found.log_probs, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("model_type", ["llama", "qwen3", "gpt2", "gpt_neox", "opt", "phi3", "olmo2", "mixtral"])
@pytest.mark.parametrize("first", [1, 7, 23])
def test_predictions_are_those_of_the_models_own_logits(make_folder, model_type, first, monkeypatch):
    monkeypatch.setitem(transformer.HEAD_ROWS, "cpu", 5)
    folder = make_folder(model_type, **READABLE[model_type])
    tokens = tokens_like((2, 24))
    seen: list[LayerAttention] = []
    found = load(folder, (), predicts=True).predictions(tokens, first, layers=(1,), visit=seen.append)
    eager = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    with torch.inference_mode():
        logits = eager(tokens, use_cache=False).logits[:, first - 1 : -1]
    expected = logits.log_softmax(-1).gather(2, tokens[:, first:, None])[..., 0]
    torch.testing.assert_close(found.log_probs, expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(found.hits, logits.argmax(-1) == tokens[:, first:])
    assert [attention.layer for attention in seen] == [1]


@pytest.mark.parametrize("model_type", ["cohere", "granite"])
def test_a_model_that_scales_its_logits_is_refused_predictions(make_folder, model_type):
    folder = make_folder(model_type, **({"logit_scale": 0.3} if model_type == "cohere" else {"logits_scaling": 4.0}))
    load(folder, (0,))
    with pytest.raises(ModelError, match="more than its head's product"):
        load(folder, (0,), predicts=True)


def test_masked_heads_attend_to_all_keys_alike(make_folder):
    """Against the model whose queries of these heads are zero, so that all their logits are equal."""
    folder = make_folder("llama")
    tokens, masked = tokens_like((2, 24)), frozenset({(0, 1), (2, 0), (2, 5)})
    model = load(folder, (), predicts=True)
    found = model.predictions(tokens, masked_heads=masked).log_probs
    size = model.module.layers[0].self_attn.head_dim
    for layer, head in masked:
        model.module.layers[layer].self_attn.q_proj.weight.data[head * size : (head + 1) * size] = 0
    torch.testing.assert_close(found, model.predictions(tokens).log_probs, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found, load(folder, (), predicts=True).predictions(tokens).log_probs, atol=1e-2)


@pytest.mark.parametrize("head", [(3, 0), (0, 99), (-1, 0), (0, -1)])
def test_masking_a_head_that_is_not_there_is_refused(make_folder, head):
    model = load(make_folder("llama"), (), predicts=True)
    with pytest.raises(ValueError, match=re.escape(f"(layer, head), got {head}")):
        model.predictions(tokens_like((1, 8)), masked_heads=frozenset({head}))


def test_a_model_without_its_head_predicts_nothing(make_folder):
    folder = make_folder("llama")
    for model in (
        load(folder, (1,)),
        load_model(resolve(facts := settings.Model(name=str(folder))), facts, layers=(0,), window=8),
    ):
        with pytest.raises(ValueError, match=r"without its head|only layer 0"):
            model.predictions(tokens_like((1, 8)))


def test_first_must_leave_something_to_predict(make_folder):
    model = load(make_folder("llama"), (), predicts=True)
    for first in (0, 8):
        with pytest.raises(ValueError, match="first must be from 1 to 7"):
            model.predictions(tokens_like((1, 8)), first)


def tokens_that_share(rows: int, shared: int, length: int = 24) -> torch.Tensor:
    tokens = tokens_like((rows, length))
    tokens[:, :shared] = tokens[0, :shared]
    return tokens


@pytest.mark.parametrize("model_type", ["llama", "qwen3", "gpt2", "gpt_neox", "opt", "phi3", "mixtral", "deepseek_v3"])
@pytest.mark.parametrize(("shared", "first"), [(1, 2), (8, 9), (8, 20), (22, 23)])
def test_tokens_that_rows_share_go_through_the_model_once(make_folder, model_type, shared, first):
    model = load(make_folder(model_type, **READABLE[model_type]), (), predicts=True)
    tokens, seen = tokens_that_share(3, shared), []
    expected = model.predictions(tokens, first)
    assert model._can_share
    model.module.get_input_embeddings().register_forward_hook(lambda _, given, __: seen.append(given[0].numel()))
    found = model.predictions(tokens, first, shared=shared)
    assert seen == [shared, 3 * (24 - shared)]
    torch.testing.assert_close(found.log_probs, expected.log_probs, rtol=1e-4, atol=1e-5)
    assert torch.equal(found.hits, expected.hits)


def test_masked_heads_attend_to_shared_keys_too(make_folder):
    model, tokens = load(make_folder("llama"), (), predicts=True), tokens_that_share(2, 9)
    masked = frozenset({(0, 1), (2, 0), (2, 5)})
    found, expected = (model.predictions(tokens, 10, shared=shared, masked_heads=masked) for shared in (9, 0))
    torch.testing.assert_close(found.log_probs, expected.log_probs, rtol=1e-4, atol=1e-5)


def test_a_model_that_knows_no_positions_reads_every_row_whole(make_folder):
    model, tokens = load(make_folder("llama"), (), predicts=True), tokens_that_share(2, 9)
    expected = model.predictions(tokens, 10)

    def forget(_, arguments, options):
        options.pop("position_ids", None)
        return arguments, options

    model.module.register_forward_pre_hook(forget, with_kwargs=True)
    assert not model._can_share
    assert torch.equal(model.predictions(tokens, 10, shared=9).log_probs, expected.log_probs)


def test_what_cannot_be_shared_is_refused(make_folder):
    model, tokens = load(make_folder("llama"), (), predicts=True), tokens_that_share(2, 9)
    for shared in (-1, 10):
        with pytest.raises(ValueError, match="shared must be from 0 to 9"):
            model.predictions(tokens, 10, shared=shared)
    with pytest.raises(ValueError, match="the same in all rows"):
        model.predictions(tokens, 12, shared=11)
    with pytest.raises(ValueError, match="no layer can be visited"):
        model.predictions(tokens, 10, shared=9, layers=(1,), visit=lambda _: None)


@pytest.mark.parametrize("rope_type", ["dynamic", "longrope"])
def test_a_rotation_that_depends_on_the_length_is_not_shared(make_folder, rope_type):
    model = load(make_folder("llama"), (), predicts=True)
    model.module.config.rope_parameters = {"rope_type": rope_type}
    assert not model._can_share
