"""The training loop: what it learns, that it can be repeated, and what it is asked afterwards."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

from longattn.models import resolve
from longattn.reproduce.language import Language
from longattn.reproduce.learning import (
    Course,
    Shape,
    log_probs,
    new_model,
    rate_at,
    read_model,
    short_log_probs,
    train,
    write_model,
)
from longattn.settings import Model

SHAPE = Shape(hidden=16, heads=2)


@pytest.fixture(scope="module")
def windows():
    return Language(0).documents(64, 32, in_use=4, rate=0.4, generator=np.random.default_rng(0))[0]


def made(seed=0):
    return new_model(SHAPE, 80, 64, seed)


def weights(model):
    return torch.cat([value.flatten() for value in model.state_dict().values()])


def test_the_loss_falls(windows):
    curve = train(made(), np.tile(windows, (4, 1)), Course(rate=1e-2, batch=4, seed=0))
    assert len(curve) == 20
    assert curve[-1] < curve[0] - 0.5


def test_equal_seeds_give_equal_weights_bit_by_bit_and_another_order_gives_others(windows):
    found = []
    for order in (0, 0, 1):
        model = made()
        train(model, windows, Course(rate=1e-2, batch=4, seed=order))
        found.append(weights(model))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert not torch.equal(weights(made(0)), weights(made(1)))


def test_every_window_is_seen_once(windows):
    """A rate of nothing but one step: the gradient of a pass over all windows at once is that of their mean."""
    model, again = made(), made()
    train(model, windows, Course(rate=1e-3, batch=len(windows), seed=0))
    train(again, windows[::-1].copy(), Course(rate=1e-3, batch=len(windows), seed=5))
    assert torch.allclose(weights(model), weights(again), atol=2e-3)
    assert not torch.equal(weights(model), weights(made()))


def test_too_few_windows_and_a_loss_that_is_no_number_are_errors(windows):
    with pytest.raises(ValueError, match="a step takes 65 windows, got 64"):
        train(made(), windows, Course(rate=1e-3, batch=65, seed=0))
    model = made()
    with torch.no_grad():
        model.get_parameter("model.norm.weight").fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="a lower one would help"):
        train(model, windows, Course(rate=1e-3, batch=8, seed=0))


def test_the_rate_rises_in_a_line_and_falls_to_a_tenth():
    rates = [rate_at(step, 200, 0.05) for step in range(200)]
    assert rates[:10] == pytest.approx(np.arange(1, 11) / 10)
    assert all(a >= b for a, b in pairwise(rates[9:]))
    assert rates[-1] == pytest.approx(0.1, abs=1e-3)


def test_log_probs_are_the_negative_losses_of_the_model(windows, monkeypatch):
    monkeypatch.setattr("longattn.reproduce.learning.TOKENS_AT_ONCE", 5 * 32)
    model = made()
    found = log_probs(model, windows)
    batch = torch.from_numpy(windows)
    with torch.no_grad():
        logits = model(input_ids=batch).logits[:, :-1]
    expected = -cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="none").reshape(64, 31)
    assert found == pytest.approx(expected.numpy(), abs=1e-5)


def test_short_log_probs_see_no_token_before_their_context(windows):
    model = made()
    found = short_log_probs(model, windows, 8, 8)
    assert found.shape == (64, 24)
    changed = windows.copy()
    changed[:, 0] = (changed[:, 0] + 1) % 80
    again = short_log_probs(model, changed, 8, 8)
    assert not np.array_equal(found[:, :8], again[:, :8])
    assert np.array_equal(found[:, 8:], again[:, 8:])
    # tokens 16 to 23 are read after 8 to 15
    alone = log_probs(model, windows[:, 8:24])[:, 7:]
    assert found[:, 8:16] == pytest.approx(alone, abs=1e-5)


def test_a_checkpoint_is_read_with_another_base_by_transformers_and_by_scorers(windows, tmp_path):
    write_model(made(), tmp_path / "plain", Language(0).tokenizer())
    raised = read_model(tmp_path / "plain", rope_scale=4.0, positions=256)
    write_model(raised, tmp_path / "raised", Language(0).tokenizer())
    assert torch.equal(weights(raised), weights(made()))
    again = read_model(tmp_path / "raised")
    assert again.config.rope_parameters["rope_theta"] == 4e4
    assert again.config.max_position_embeddings == 256
    assert np.array_equal(log_probs(again, windows), log_probs(raised, windows))
    assert not np.array_equal(log_probs(again, windows), log_probs(made(), windows))
    checkpoint = resolve(Model(name=str(tmp_path / "raised")))
    assert checkpoint.config["rope_theta"] == checkpoint.config["rope_parameters"]["rope_theta"] == 4e4


def test_tied_weights_are_written_once_and_biases_too(windows, tmp_path):
    model = new_model(replace(SHAPE, tied=True, bias=True), 80, 64, 0)
    train(model, windows, Course(rate=1e-2, batch=8, seed=0, memory=0.99))
    write_model(model, tmp_path, Language(0).tokenizer())
    names = set(load_file(tmp_path / "model.safetensors"))
    assert "lm_head.weight" not in names
    assert "model.layers.0.self_attn.q_proj.bias" in names
    assert np.array_equal(log_probs(read_model(tmp_path), windows), log_probs(model, windows))


def test_a_base_that_is_stretched_in_another_way_cannot_be_raised(tmp_path):
    model = made()
    model.config.rope_parameters = {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}
    write_model(model, tmp_path / "linear", Language(0).tokenizer())
    with pytest.raises(ValueError, match="rope_type 'linear'"):
        read_model(tmp_path / "linear", rope_scale=4.0)
