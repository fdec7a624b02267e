import math

import pytest
import torch

from longattn.errors import ModelError
from longattn.train.shifted import shifted_attention, shifted_name


def by_formula(query, key, value, group):
    """Every head's attention map, in full, with what it may not see left out."""
    heads, length = query.shape[1], query.shape[2]
    key, value = (each.repeat_interleave(heads // each.shape[1], 1) for each in (key, value))
    at = torch.arange(length)
    moved = 0 if group >= length else group - max(group // 2, 1)
    shift = torch.where(torch.arange(heads) < heads // 2, 0, moved)
    # places are counted from before the window, so that the first shifted group is the shorter one
    groups = (at[None] + shift[:, None]) // group
    seen = (groups[:, :, None] == groups[:, None, :]) & (at[:, None] >= at)
    logits = (query @ key.transpose(2, 3) / math.sqrt(query.shape[-1])).masked_fill(~seen, -math.inf)
    return logits.softmax(-1) @ value


def tensors(generator, heads, key_heads, length):
    shapes = ((heads, 8), (key_heads, 8), (key_heads, 6))
    return [torch.randn(2, h, length, d, dtype=torch.float64, generator=generator) for h, d in shapes]


@pytest.mark.parametrize(("heads", "key_heads"), [(4, 2), (9, 3), (1, 1)])
@pytest.mark.parametrize(("length", "group"), [(16, 4), (17, 4), (13, 5), (8, 1), (3, 2), (6, 6), (5, 64)])
def test_it_is_the_formula_with_groups_as_a_mask(heads, key_heads, length, group, generator):
    query, key, value = tensors(generator, heads, key_heads, length)
    found = shifted_attention(query, key, value, group=group)
    torch.testing.assert_close(found, by_formula(query, key, value, group), rtol=1e-12, atol=1e-12)


def test_one_group_is_full_attention(generator):
    query, key, value = tensors(generator, 4, 2, 7)
    full = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
    torch.testing.assert_close(shifted_attention(query, key, value, group=7), full, rtol=1e-12, atol=1e-12)


def rolled(query, key, value, group):
    """As the paper's code shifts: half of the heads rolled by half a group, causal within each group, rolled back."""
    half, shift = query.shape[1] // 2, group // 2
    parts = [torch.cat([each[:, :half], each[:, half:].roll(-shift, 2)], 1) for each in (query, key, value)]
    parts = [each.unflatten(2, (-1, group)).transpose(1, 2).flatten(0, 1) for each in parts]
    found = torch.nn.functional.scaled_dot_product_attention(*parts, is_causal=True)
    found = found.unflatten(0, (query.shape[0], -1)).transpose(1, 2).flatten(2, 3)
    return torch.cat([found[:, :half], found[:, half:].roll(shift, 2)], 1)


def future(attention, length, group, generator):
    """The largest change of an output by something that stands behind it."""
    query, key, value = tensors(generator, 4, 4, length)
    value = value[..., :6].requires_grad_()
    key.requires_grad_()
    out = attention(query, key, value, group)
    worst = 0.0
    for t in range(length):
        moved = torch.autograd.grad(out[:, :, t].sum(), (key, value), retain_graph=True)
        worst = max(worst, *(change[:, :, t + 1 :].abs().sum().item() for change in moved))
    return worst


def test_no_output_depends_on_a_later_token_as_in_the_papers_code(generator):
    assert future(lambda q, k, v, group: shifted_attention(q, k, v, group=group), 16, 4, generator) == 0
    # the test can fail
    assert future(rolled, 16, 4, generator) > 0.1


def test_but_for_the_leak_it_is_the_papers_code(generator):
    query, key, value = tensors(generator, 4, 4, 16)
    ours, theirs = shifted_attention(query, key, value, group=4), rolled(query, key, value, 4)
    leaks = (ours - theirs).abs().amax((0, 1, 3)) > 1e-9
    # the first half group of the shifted heads
    assert leaks.nonzero().flatten().tolist() == [0, 1]


def shift(model, groups):
    model.set_attn_implementation(shifted_name(groups))
    return model


def test_in_a_model_no_logit_depends_on_a_later_token(load_tiny, generator):
    model = shift(load_tiny(), 4).train()
    tokens = torch.randint(0, 256, (1, 32), generator=generator)
    embedded = model.get_input_embeddings()(tokens).detach().requires_grad_()
    logits = model(inputs_embeds=embedded).logits
    for t in (0, 3, 4, 11, 27, 30):
        (moved,) = torch.autograd.grad(logits[0, t].sum(), embedded, retain_graph=True)
        assert moved[0, t + 1 :].abs().max().item() == 0
        assert moved[0, t].abs().max().item() > 0
    # over a layer of either kind of head the first token is seen from another group
    (moved,) = torch.autograd.grad(logits[0, 11].sum(), embedded)
    assert moved[0, 0].abs().max().item() > 0


def test_attention_is_full_where_nothing_is_trained(load_tiny, generator):
    tokens = torch.randint(0, 256, (1, 32), generator=generator)
    plain, model = load_tiny().eval(), shift(load_tiny(), 4)
    assert torch.equal(model.eval()(tokens).logits, plain(tokens).logits)
    assert not torch.allclose(model.train()(tokens).logits, plain(tokens).logits)


def test_what_a_loss_is_divided_by_is_no_matter_of_attention(load_tiny):
    model = shift(load_tiny(), 4).train()
    tokens = torch.ones(1, 8, dtype=torch.int64)
    # as the Trainer calls it
    found = model(tokens, labels=tokens, num_items_in_batch=torch.tensor(7))
    assert found.loss.item() > 0


def test_a_mask_is_refused_in_training(load_tiny):
    model = shift(load_tiny(), 4).train()
    with pytest.raises(ModelError, match="more than causal attention"):
        model(torch.ones(1, 8, dtype=torch.int64), attention_mask=torch.tensor([[0, 1, 1, 1, 1, 1, 1, 1]]))
