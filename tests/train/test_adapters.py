from dataclasses import replace

import pytest
import torch
from torch import nn

from longattn.errors import ModelError
from longattn.models import resolve
from longattn.settings import Model
from longattn.testing import tiny_checkpoint
from longattn.train import Training, train
from longattn.train.adapters import merged, with_lora
from longattn.train.models import load_trainable, trainable_config

TRAINING = Training(batch_tokens=128, learning_rate=1e-2, warmup=0.0, save_every=2, lora_rank=2)


def trainable(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_projections_of_attention_get_additions_and_embeddings_and_norms_are_whole(load_tiny):
    found = trainable(with_lora(load_tiny(), TRAINING))
    additions = {name for name in found if ".lora_" in name}
    assert len(additions) == 2 * 4 * 2
    assert all(".self_attn." in name for name in additions)
    assert {name.split(".modules_to_save")[0].removeprefix("base_model.model.") for name in found - additions} == {
        "model.embed_tokens",
        "model.norm",
        *(f"model.layers.{i}.{name}" for i in (0, 1) for name in ("input_layernorm", "post_attention_layernorm")),
    }
    assert trainable(with_lora(load_tiny(), replace(TRAINING, lora_whole=False))) == additions


@pytest.mark.parametrize("tied", [True, False])
def test_the_merged_model_is_the_one_that_was_trained(tied, rows, tmp_path):
    facts = Model(name=str(tiny_checkpoint(tmp_path / "model")))
    checkpoint = resolve(facts)
    config = trainable_config(checkpoint, facts, 0.0)
    if not tied:
        untied = load_trainable(checkpoint, config, TRAINING)
        untied.lm_head.weight = nn.Parameter(untied.lm_head.weight.detach().clone())
        untied.config.tie_word_embeddings = False
        untied.save_pretrained(tmp_path / "model")
        checkpoint = resolve(facts)
        config = trainable_config(checkpoint, facts, 0.0)

    def load():
        return load_trainable(checkpoint, config, TRAINING)

    tokens, finished, model = torch.arange(32)[None], [], with_lora(load(), TRAINING)
    before = model(tokens).logits
    assert torch.equal(before, load()(tokens).logits)
    train(model, rows, TRAINING, tmp_path / "out", finish=finished.append)
    after = model.eval()(tokens).logits
    assert not torch.allclose(before, after, atol=1e-2)
    plain = load()
    original = {name: tensor.clone() for name, tensor in plain.state_dict().items()}
    weights = merged(load(), TRAINING, finished[0])
    assert weights.keys() == original.keys()
    plain.load_state_dict(weights)
    torch.testing.assert_close(plain.eval()(tokens).logits, after, rtol=1e-4, atol=1e-4)
    changed = {name for name, tensor in original.items() if not torch.equal(tensor, weights[name])}
    frozen = {name for name in original if ".mlp." in name} | (set() if tied else {"lm_head.weight"})
    assert changed == original.keys() - frozen


class Killed(Exception):
    pass


def test_a_training_of_additions_goes_on_to_the_same_curve(load_tiny, rows, tmp_path):
    def die(done, total):
        if done == 3:
            raise Killed

    whole = train(with_lora(load_tiny(), TRAINING), rows, TRAINING, tmp_path / "whole")
    with pytest.raises(Killed):
        train(with_lora(load_tiny(), TRAINING), rows, TRAINING, tmp_path / "other", progress=die)
    other = train(with_lora(load_tiny(), TRAINING), rows, TRAINING, tmp_path / "other")
    assert other.curve == whole.curve
    assert (tmp_path / "other/metrics.jsonl").read_bytes() == (tmp_path / "whole/metrics.jsonl").read_bytes()


def test_a_model_without_projections_in_its_attention_is_refused(load_tiny):
    model = load_tiny()
    for layer in model.model.layers:
        layer.self_attn = nn.Identity()
    with pytest.raises(ModelError, match="no linear projections"):
        with_lora(model, TRAINING)
