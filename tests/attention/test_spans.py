"""Mass on spans of keys and top keys: cases worked by hand, and the float64 formula."""

import math

import jaxtyping
import pytest
import torch

from longattn.attention import reference, span_mass, spans, top_keys


def bound(q: torch.Tensor, k: torch.Tensor) -> float:
    """The promised relative error in float32: it grows with the logits, whose own rounding goes into the exponent."""
    largest = (q.norm(dim=-1).max() * k.norm(dim=-1).max()).item() / math.sqrt(q.shape[-1])
    return 1e-5 * max(1.0, largest / 8)


def assert_close(ours, law, relative: float) -> None:
    assert ours.dtype == torch.float64
    assert ((ours - law).abs() <= relative * (law.abs() + 1e-6)).all()


def test_three_rows_by_hand():
    """Equal logits: a row spreads its mass evenly over the keys below its limit, and none of it beyond."""
    q, k = torch.zeros(1, 3, 1, 2), torch.zeros(1, 6, 1, 2)
    mass = span_mass(q, k, limits=torch.tensor([5, 1, 2]), edges=[0, 2, 2, 6])
    assert mass[0, 0].tolist() == [
        pytest.approx([2 / 5, 0, 3 / 5]),
        pytest.approx([1, 0, 0]),
        pytest.approx([1, 0, 0]),
    ]


def test_keys_outside_of_all_spans_count_in_the_softmax():
    q, k = torch.zeros(1, 1, 1, 2), torch.zeros(1, 8, 1, 2)
    mass = span_mass(q, k, limits=torch.tensor([8]), edges=[1, 3, 6])
    assert mass.flatten().tolist() == pytest.approx([2 / 8, 3 / 8])


@pytest.mark.parametrize("num_keys", [1, 2, 63, 1000])
@pytest.mark.parametrize("heads", [(4, 1), (9, 3), (2, 2)])
@pytest.mark.parametrize("tile", [1, 5000])
@pytest.mark.parametrize("alike", [False, True], ids=["uneven spans", "even spans"])
def test_span_mass_equals_the_reference(num_keys, heads, tile, alike, generator, monkeypatch):
    monkeypatch.setattr(spans, "TILE_ELEMENTS", {"cpu": tile})
    H, G = heads
    num_rows = max(1, num_keys // 8)
    q = torch.randn(2, num_rows, H, 16, generator=generator) * 2
    k = torch.randn(2, num_keys, G, 16, generator=generator) * 2
    # unsorted, with repeats and both ends
    limits = torch.randint(1, num_keys + 1, (num_rows,), generator=generator)
    limits[0], limits[-1] = num_keys, 1
    # even spans with something left over before and behind them
    width = max(1, num_keys // 9)
    even = range(num_keys % 5, num_keys + 1, width)
    edges = [0, *even] if alike and len(even) > 1 else [0, 0, num_keys // 3, num_keys // 2, num_keys]
    law = reference.span_mass(q, k, limits, edges, 0.25)
    assert_close(span_mass(q, k, limits=limits, edges=edges), law, bound(q, k))


@pytest.mark.parametrize("scale", [1e4, -1e4, 0.0])
def test_extreme_and_equal_logits_stay_finite(scale, generator):
    q = torch.randn(1, 50, 2, 8, generator=generator)
    k = torch.randn(1, 100, 1, 8, generator=generator).round(decimals=2)
    question = {"limits": torch.arange(1, 100, 2), "edges": [0, 10, 90, 100], "scale": scale}
    law = reference.span_mass(q, k, question["limits"], question["edges"], scale)
    assert_close(span_mass(q.double(), k.double(), **question), law, 1e-9)
    assert span_mass(q, k, **question).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_only_that_of_the_inputs(dtype, generator):
    q = torch.randn(1, 20, 6, 32, generator=generator).to(dtype)
    k = torch.randn(1, 257, 2, 32, generator=generator).to(dtype)
    question = {"limits": torch.arange(237, 257), "edges": [0, 1, 200, 257]}
    law = reference.span_mass(q, k, question["limits"], question["edges"], 32**-0.5)
    assert_close(span_mass(q, k, **question), law, bound(q.float(), k.float()))


def test_spans_that_cover_all_keys_hold_all_the_mass(generator):
    q, k = torch.randn(1, 64, 3, 16, generator=generator), torch.randn(1, 64, 3, 16, generator=generator)
    mass = span_mass(q, k, limits=torch.arange(64) + 1, edges=range(0, 65, 8))
    assert mass.sum(-1).numpy() == pytest.approx(1.0, abs=1e-6)


def test_top_keys_are_those_of_the_attention_map(generator):
    q, k = torch.randn(2, 40, 4, 8, generator=generator), torch.randn(2, 90, 2, 8, generator=generator)
    positions = torch.randperm(90, generator=generator)[:40]
    logits = torch.einsum("brhk,bthk->bhrt", q, k.repeat_interleave(2, dim=2))
    law = logits.masked_fill(torch.arange(90) > positions[:, None], -torch.inf).argmax(-1)
    assert torch.equal(top_keys(q, k, positions=positions), law)


def test_the_first_of_equal_keys_is_the_top_one():
    q = torch.zeros(1, 2, 1, 2)
    assert top_keys(q, torch.zeros(1, 4, 1, 2), positions=torch.tensor([0, 3])).flatten().tolist() == [0, 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"limits": torch.tensor([1])}, "one limit or position per query row"),
        ({"limits": torch.tensor([0, 1, 3])}, "from 1 to 3 keys, got 0 to 3"),
        ({"limits": torch.tensor([4, 1, 3])}, "from 1 to 3 keys, got 1 to 4"),
        ({"edges": [0]}, "two or more"),
        ({"edges": [0, 2, 1]}, "ascending"),
        ({"edges": [0, 4]}, "at most 3"),
        ({"k": torch.zeros(1, 3, 2, 2)}, "multiple of G"),
    ],
)
def test_arguments_that_do_not_fit_are_named(change, message):
    q = torch.zeros(1, 3, 3, 2)
    arguments = {"k": q[:, :, :1], "limits": torch.arange(3) + 1, "edges": [0, 3], **change}
    # outside of these tests the shapes are not checked before the function sees them
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        with pytest.raises(ValueError, match=message):
            span_mass(q, arguments.pop("k"), **arguments)
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
