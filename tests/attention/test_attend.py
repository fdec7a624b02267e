"""Causal attention of whole windows, native and by torch, against the float64 formula."""

import math
from types import SimpleNamespace

import pytest
import torch

from longattn.attention import attend, native

HERE = native.instruction_sets()
each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])


each_isa = pytest.mark.parametrize(
    "isa", HERE or [pytest.param(None, marks=pytest.mark.skip(reason="not built"))], indirect=True
)


def draw(*shape, generator, dtype=torch.float32, spread=1.0):
    return (torch.randn(*shape, generator=generator) * spread).to(dtype)


def formula(q, k, v, scale, positions=None):
    """In float64, with the whole map; also what the absolute values of the values would give, for the error bound."""
    share = q.shape[2] // k.shape[2]
    q, k, v = q.double(), k.double().repeat_interleave(share, 2), v.double().repeat_interleave(share, 2)
    rows = torch.arange(q.shape[1]) if positions is None else positions
    logits = torch.einsum("brhk,bthk->bhrt", q, k) * scale
    future = torch.arange(k.shape[1]) > rows[:, None]
    weights = logits.masked_fill(future, -torch.inf).softmax(-1)
    return tuple(torch.einsum("bhrt,bthv->brhv", weights, values) for values in (v, v.abs()))


def assert_right(actual, q, k, v, scale, positions=None) -> None:
    """float32: 2e-5 of the sum of absolute values, more with logits above 8. bfloat16: weights and result rounded."""
    expected, size = formula(q, k, v, scale, positions)
    largest = (q.float().norm(dim=-1).max() * k.float().norm(dim=-1).max()).item() * abs(scale)
    relative = 2e-5 * max(1.0, largest / 8) + (2**-7 if q.dtype == torch.bfloat16 else 0.0)
    assert actual.dtype == q.dtype
    assert actual.shape == expected.shape
    assert ((actual.double() - expected).abs() <= relative * size + 1e-6).all()


@each_isa
@each_dtype
@pytest.mark.parametrize(
    ("length", "heads", "head_size", "value_size"),
    [
        (1, (4, 1), 64, 64),
        (2, (9, 3), 80, 7),
        (63, (2, 2), 8, 128),
        (127, (3, 1), 7, 33),
        (128, (7, 1), 64, 64),
        (129, (1, 1), 33, 100),
        (500, (9, 3), 64, 64),
    ],
)
def test_native_equals_the_formula(isa, dtype, length, heads, head_size, value_size, generator):
    H, G = heads
    q = draw(2, length, H, head_size, generator=generator, dtype=dtype, spread=2.0)
    k = draw(2, length, G, head_size, generator=generator, dtype=dtype, spread=2.0)
    v = draw(2, length, G, value_size, generator=generator, dtype=dtype)
    scale = head_size**-0.5
    assert_right(native.attend(q, k, v, torch.arange(length), scale), q, k, v, scale)


@each_isa
@each_dtype
def test_rows_in_any_order_and_long_ones(isa, dtype, generator):
    rows = torch.tensor([4096, 0, 2047, 2048, 2049, 4095, 127, 128, 2048])
    q = draw(1, len(rows), 4, 16, generator=generator, dtype=dtype)
    k = draw(1, 4097, 1, 16, generator=generator, dtype=dtype)
    v = draw(1, 4097, 1, 24, generator=generator, dtype=dtype)
    assert_right(native.attend(q, k, v, rows, 0.25), q, k, v, 0.25, rows)


@each_isa
@each_dtype
@pytest.mark.parametrize("scale", [-0.5, 0.0, 1.0])
def test_any_scale_and_tensors_that_are_views(isa, dtype, scale, generator):
    q = draw(3, 2, 150, 32, generator=generator, dtype=dtype).permute(1, 2, 0, 3)[..., ::2]
    k = draw(32, 3, 150, 2, generator=generator, dtype=dtype).permute(3, 2, 1, 0)[..., 3:19]
    v = draw(2, 3, 40, 150, generator=generator, dtype=dtype).permute(0, 3, 1, 2)[..., 1::3]
    assert not any(tensor.is_contiguous() for tensor in (q, k, v))
    assert_right(native.attend(q, k, v, torch.arange(150), scale), q, k, v, scale)


@each_isa
@each_dtype
def test_extreme_logits_read_the_key_that_wins(isa, dtype):
    """Logits of ±10,000, higher and higher: each row reads its last key where that is positive, else the last such."""
    T = 300
    height_T = torch.where(torch.arange(T) % 7 == 3, torch.arange(T) / 2.0 + 50, -50.0)
    q, k = (torch.full((1, T, 1, 4), 50.0, dtype=dtype), height_T[None, :, None, None].expand(1, T, 1, 4).to(dtype))
    v = torch.arange(T, dtype=torch.float32).remainder(128)[None, :, None, None].expand(1, T, 1, 3).to(dtype)
    found = native.attend(q, k, v, torch.arange(T), 1.0)
    assert found.isfinite().all()
    winners = [max((j for j in range(3, n + 1) if j % 7 == 3), default=None) for n in range(T)]
    for n, winner in enumerate(winners):
        # bfloat16 cannot tell neighbours apart
        if winner is not None and dtype == torch.float32:
            assert found[0, n, 0].tolist() == pytest.approx([winner % 128] * 3, rel=1e-6)


@each_isa
@each_dtype
def test_equal_keys_give_the_mean(isa, dtype, generator):
    q = draw(1, 260, 2, 16, generator=generator, dtype=dtype)
    k = q[:, :1, :1].expand(1, 260, 1, 16)
    v = torch.ones(1, 260, 1, 5, dtype=dtype) * 0.75
    assert torch.allclose(native.attend(q, k, v, torch.arange(260), 1.0).float(), torch.tensor(0.75), rtol=1e-5)


@each_isa
def test_a_key_that_is_nan_is_in_every_row_from_its_own_on(isa, generator):
    q, k, v = (draw(1, 40, 1, 8, generator=generator) for _ in range(3))
    k[0, 17] = math.nan
    found = native.attend(q, k, v, torch.arange(40), 1.0)
    assert found[0, :17].isfinite().all()
    assert found[0, 17:].isnan().all()


@each_isa
@each_dtype
def test_threads_and_batch_change_no_bit(isa, dtype, generator, monkeypatch):
    q = draw(3, 333, 4, 16, generator=generator, dtype=dtype)
    k, v = (draw(3, 333, 2, 16, generator=generator, dtype=dtype) for _ in range(2))
    rows = torch.arange(333)
    together = native.attend(q, k, v, rows, 0.25)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert native.attend(q, k, v, rows, 0.25).equal(together)
    assert torch.cat([native.attend(q[b : b + 1], k[b : b + 1], v[b : b + 1], rows, 0.25) for b in range(3)]).equal(
        together
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_attend_takes_any_type_and_any_build(dtype, generator, monkeypatch):
    q = draw(2, 50, 6, 8, generator=generator, dtype=dtype)
    k, v = (draw(2, 50, 2, 8, generator=generator, dtype=dtype) for _ in range(2))
    for built in (True, False):
        if not built:
            monkeypatch.setattr(native, "suits", lambda *tensors: False)
        found = attend(q, k, v, scale=0.5)
        expected, size = formula(q, k, v, 0.5)
        tolerance = {torch.float64: 1e-12, torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}[dtype]
        assert found.dtype == dtype
        assert ((found.double() - expected).abs() <= tolerance * size).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_rows_are_those_of_the_last_tokens(dtype, generator):
    k, v = (draw(1, 200, 2, 8, generator=generator, dtype=dtype) for _ in range(2))
    q = draw(1, 200, 4, 8, generator=generator, dtype=dtype)
    whole = attend(q, k, v, scale=0.5)
    for rows in (1, 7, 130):
        torch.testing.assert_close(attend(q[:, -rows:], k, v, scale=0.5), whole[:, -rows:], rtol=1e-5, atol=1e-6)


def test_gradients_go_through_torch(generator, monkeypatch):
    monkeypatch.setattr(native, "attend", SimpleNamespace())  # cannot be called
    q, k, v = (draw(1, 5, 1, 4, generator=generator).requires_grad_() for _ in range(3))
    attend(q, k, v, scale=1.0).sum().backward()
    assert v.grad is not None
    assert v.grad.sum().item() == pytest.approx(5 * 4)


@pytest.mark.skipif(not HERE, reason="the native library was not built")
def test_what_it_does_not_take_is_refused(generator):
    q = draw(1, 5, 1, 4, generator=generator)
    with pytest.raises(ValueError, match="float64"):
        native.attend(q, q, q.double(), torch.arange(5), 1.0)
