import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from longattn.train import Training, train
from longattn.train.adapters import with_lora
from longattn.train.chunks import EXACT, Weight, backward_by_chunks, draw_weights

TRAINING = Training(batch_tokens=128, learning_rate=1e-3, warmup=0.0, chunk_tokens=8)


@pytest.fixture
def batch(generator):
    """Two windows of 20 tokens; some labels are not learned."""
    tokens = torch.randint(0, 256, (2, 20), generator=generator)
    labels = tokens.clone()
    labels[0, 5:9] = labels[1, 12:] = -100
    return tokens, labels, int((labels[:, 1:] != -100).sum())


def whole(model, tokens, labels, items):
    """Loss and gradients by one backward pass through the whole window."""
    loss = model(input_ids=tokens, labels=labels, num_items_in_batch=items).loss
    loss.backward()
    return loss.item(), gradients(model)


def gradients(model):
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def error(found, right):
    """The largest relative error of any parameter's gradient."""
    assert found.keys() == right.keys()
    return max(((found[name] - right[name]).norm() / right[name].norm()).item() for name in right)


@pytest.mark.parametrize("chunk", [1, 6, 7, 10, 19, 20, 64])
def test_gradients_are_those_of_the_whole_window(chunk, batch, load_tiny):
    tokens, labels, items = batch
    model = load_tiny().train()
    loss, right = whole(model, *batch)
    weights = [EXACT] * -(-20 // chunk)
    found = backward_by_chunks(model, tokens, labels, chunk=chunk, weights=weights, items=items)
    assert found.item() == pytest.approx(loss, rel=1e-6)
    assert error(gradients(model), right) < 1e-5


def test_gradients_of_several_windows_add_up(batch, load_tiny):
    tokens, labels, items = batch
    model = load_tiny().train()
    _, right = whole(model, *batch)
    for i in range(2):
        one = slice(i, i + 1)
        backward_by_chunks(model, tokens[one], labels[one], chunk=7, weights=[EXACT] * 3, items=items)
    assert error(gradients(model), right) < 1e-5


def test_additions_alone_get_their_gradients_too(batch, load_tiny):
    tokens, labels, items = batch
    model = with_lora(load_tiny(), replace(TRAINING, lora_rank=2, chunk_tokens=None)).train()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    _, right = whole(model, *batch)
    backward_by_chunks(model, tokens, labels, chunk=6, weights=[EXACT] * 4, items=items)
    assert error(gradients(model), right) < 1e-5


def expectation(model, batch, draws):
    """The mean gradient over draws, each with its probability."""
    tokens, labels, items = batch
    total: dict[str, torch.Tensor] = {}
    for probability, weights in draws:
        backward_by_chunks(model, tokens, labels, chunk=7, weights=weights, items=items)
        for name, gradient in gradients(model).items():
            total[name] = total.get(name, 0) + probability * gradient
    return total


def test_single_chunks_drawn_by_themselves_are_right_on_average_and_the_papers_draw_is_not(batch, load_tiny):
    """By enumerating every draw of three chunks."""
    model = load_tiny().train()
    _, right = whole(model, *batch)
    share = 2 / 3
    drawn = Weight(1 / share, 1 / share)
    bernoulli = [
        (share ** sum(kept) * (1 - share) ** (3 - sum(kept)), [drawn if one else None for one in kept])
        for kept in itertools.product((True, False), repeat=3)
    ]
    assert error(expectation(model, batch, bernoulli), right) < 1e-5
    paper = [
        (1 / 3, [Weight(1.0, 1.5) if i in kept else None for i in range(3)])
        for kept in itertools.combinations(range(3), 2)
    ]
    assert error(expectation(model, batch, paper), right) > 0.1


def test_the_loss_is_of_all_chunks_whatever_is_drawn(batch, load_tiny):
    tokens, labels, items = batch
    model = load_tiny().train()
    loss, _ = whole(model, *batch)
    for weights in ([None] * 3, [None, Weight(3.0, 3.0), None]):
        found = backward_by_chunks(model, tokens, labels, chunk=7, weights=weights, items=items)
        assert found.item() == pytest.approx(loss, rel=1e-6)
        none = all(weight is None for weight in weights)
        # also then there is a backward pass, for processes that wait for it
        assert all((gradient == 0).all() == none for gradient in gradients(model).values())


def test_draws_have_their_share_and_weights():
    random = np.random.default_rng(0)
    training = replace(TRAINING, chunk_share=0.25)
    draws = [draw_weights(8, training, random) for _ in range(400)]
    counts = [sum(weight is not None for weight in draw) for draw in draws]
    assert np.mean(counts) == pytest.approx(2, abs=0.2)
    assert np.std(counts) == pytest.approx(np.sqrt(8 * 0.25 * 0.75), abs=0.2)
    assert {weight for draw in draws for weight in draw} == {None, Weight(4.0, 4.0)}
    paper = replace(training, chunk_draw="paper")
    draws = [draw_weights(8, paper, random) for _ in range(40)]
    assert {sum(weight is not None for weight in draw) for draw in draws} == {2}
    # 8 / 2, but at most 2.3
    assert {weight for draw in draws for weight in draw} == {None, Weight(1.0, 2.3)}
    assert draw_weights(3, TRAINING, random) == [EXACT] * 3


def test_a_training_by_chunks_is_the_same_training(load_tiny, rows, tmp_path):
    ordinary = replace(TRAINING, chunk_tokens=None)
    plain = train(load_tiny(), rows, ordinary, tmp_path / "plain", held_out=rows[:2])
    chunked = train(load_tiny(), rows, TRAINING, tmp_path / "chunked", held_out=rows[:2])
    for one, other in zip(plain.curve, chunked.curve, strict=True):
        assert one == pytest.approx(other, rel=2e-5)


class Killed(Exception):
    pass


def test_chunks_are_drawn_the_same_after_a_stop(load_tiny, rows, tmp_path):
    training = replace(TRAINING, chunk_share=0.5, save_every=1)

    def die(done, total):
        if done == 2:
            raise Killed

    whole = train(load_tiny(), rows[:8], training, tmp_path / "whole")
    with pytest.raises(Killed):
        train(load_tiny(), rows[:8], training, tmp_path / "other", progress=die)
    assert train(load_tiny(), rows[:8], training, tmp_path / "other").curve == whole.curve


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"chunk_share": 0.0}, "chunk_share"),
        ({"chunk_tokens": None, "chunk_share": 0.5}, "without chunk_tokens"),
        ({"dropout": 0.1}, "needs dropout 0"),
        ({"attention": "shifted"}, "full attention"),
    ],
)
def test_settings_that_exclude_each_other_are_refused(changes, match):
    with pytest.raises(ValueError, match=match):
        replace(TRAINING, **changes).check()


def test_a_weight_for_each_chunk_or_none_at_all(batch, load_tiny):
    tokens, labels, items = batch
    with pytest.raises(ValueError, match="weights must be 3"):
        backward_by_chunks(load_tiny(), tokens, labels, chunk=7, weights=[EXACT], items=items)
