"""What is computed again for a backward pass, and that it is the same."""

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from longattn.train.recomputing import keep_attention


class Counting(TorchDispatchMode):
    """Counts the operations that are carried out."""

    def __init__(self):
        super().__init__()
        self.done = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.done[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


@pytest.fixture
def step(load_tiny, generator):
    """Gradients of one window, and what was carried out for them."""
    tokens = torch.randint(0, 256, (2, 40), generator=generator)

    def make(kwargs):
        model = load_tiny().train()
        if kwargs is not None:
            model.activation_checkpointing_enable({"use_reentrant": False, **kwargs})
        with Counting() as counting:
            model(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()
        return {name: p.grad for name, p in model.named_parameters()}, counting.done, model.config.num_hidden_layers

    return make


def test_attention_is_computed_once_and_the_rest_twice_with_the_same_gradients(step):
    whole, once, layers = step(None)
    found, done, _ = step({"context_fn": keep_attention})
    again, twice, _ = step({})
    attention = "_scaled_dot_product_flash_attention_for_cpu"
    assert (once[attention], done[attention], twice[attention]) == (layers, layers, 2 * layers)
    assert once["silu"] == layers
    assert done["silu"] == twice["silu"] == 2 * layers
    for name, right in whole.items():
        assert torch.equal(found[name], right), name
        assert torch.equal(again[name], right), name
