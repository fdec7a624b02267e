"""Row moments: cases worked by hand, golden numbers, and the blocked kernel against the float64 formula."""

import math
import shutil

import jaxtyping
import numpy as np
import pytest
import torch

from longattn.attention import native, row_moments

built = pytest.mark.skipif(not native.instruction_sets(), reason="the native library was not built")
FAST = ["blocked", pytest.param("native", marks=built)]
BACKENDS = ["reference", *FAST]


def bound(q: torch.Tensor, k: torch.Tensor) -> float:
    """The promised relative error in float32: it grows with the logits, whose own rounding goes into the exponent."""
    largest = (q.norm(dim=-1).max() * k.norm(dim=-1).max()).item() / math.sqrt(q.shape[-1])
    return 1e-5 * max(1.0, largest / 8)


def assert_close(actual, expected, relative: float) -> None:
    for ours, law in zip(actual, expected, strict=True):
        assert ours.dtype == torch.float64
        assert ((ours - law).abs() <= relative * (law.abs() + 1e-6)).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_three_tokens_by_hand(backend):
    """Equal logits: row i spreads 1/(i+1) over its keys, so only the corner is two back."""
    q = torch.zeros(1, 3, 1, 2)
    mass, square = row_moments(q, q, positions=torch.arange(3), distances=[2], backend=backend)
    assert mass.flatten().tolist() == pytest.approx([0, 0, 1 / 3])
    assert square.flatten().tolist() == pytest.approx([0, 0, 1 / 9])


@pytest.mark.parametrize("backend", BACKENDS)
def test_skipped_keys_leave_the_sums_but_not_the_softmax(backend):
    q = torch.zeros(1, 4, 1, 2)
    mass, square = row_moments(q, q, positions=torch.arange(4), distances=[0, 1], skip_first=2, backend=backend)
    assert mass[0, 0].tolist() == [
        pytest.approx([0, 0]),
        pytest.approx([0, 0]),
        pytest.approx([1 / 3, 0]),
        pytest.approx([2 / 4, 1 / 4]),
    ]
    assert square[0, 0, 3].tolist() == pytest.approx([2 / 16, 1 / 16])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_row_that_looks_at_one_far_key_has_all_its_mass_there(backend):
    q, k = torch.ones(1, 8, 1, 1), torch.zeros(1, 8, 1, 1)
    k[0, 0] = 100.0
    mass, square = row_moments(q, k, positions=torch.arange(8), distances=[4], backend=backend)
    assert mass.flatten().tolist() == pytest.approx([0, 0, 0, 0, 1, 1, 1, 1])
    assert square.flatten().tolist() == pytest.approx([0, 0, 0, 0, 1, 1, 1, 1])


@pytest.mark.parametrize("num_keys", [1, 2, 63, 1000])
@pytest.mark.parametrize("heads", [(4, 1), (9, 3), (2, 2)])
@pytest.mark.parametrize("skip_first", [0, 4])
@pytest.mark.parametrize("backend", FAST)
def test_fast_backends_equal_the_reference(backend, num_keys, heads, skip_first, generator):
    H, G = heads
    q = torch.randn(2, num_keys, H, 16, generator=generator) * 2
    k = torch.randn(2, num_keys, G, 16, generator=generator) * 2
    # unsorted rows, with repeats
    rows = torch.randint(num_keys, (max(1, num_keys * 2 // 3),), generator=generator)
    question = {
        "positions": rows,
        "distances": [num_keys - 1, 0, num_keys, 1, num_keys // 4],
        "skip_first": skip_first,
    }
    law = row_moments(q[:, rows], k, **question, backend="reference")
    assert_close(row_moments(q[:, rows], k, **question, backend=backend), law, bound(q, k))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions_stay_within_their_bound(dtype, generator):
    q = torch.randn(1, 257, 6, 32, generator=generator)
    k = torch.randn(1, 257, 2, 32, generator=generator)
    question = {"positions": torch.arange(257), "distances": [64, 16]}
    law = row_moments(q, k, **question, backend="reference")
    assert_close(
        row_moments(q.to(dtype), k.to(dtype), **question),
        row_moments(q.to(dtype), k.to(dtype), **question, backend="reference"),
        bound(q, k),
    )
    # what rounding the inputs costs is not the kernel's error, but a sum over rows must hardly show it
    rounded = row_moments(q.to(dtype), k.to(dtype), **question)
    assert_close([m.sum(2) for m in rounded], [m.sum(2) for m in law], 1e-3)


@pytest.mark.parametrize("scale", [1e4, -1e4, 0.0])
def test_extreme_and_equal_logits_stay_finite(scale, generator):
    q = torch.randn(1, 100, 2, 8, generator=generator)
    k = torch.randn(1, 100, 1, 8, generator=generator).round(decimals=2)
    question = {"positions": torch.arange(100), "distances": [25], "scale": scale}
    law = row_moments(q.double(), k.double(), **question, backend="reference")
    ours = row_moments(q.double(), k.double(), **question, backend="blocked")
    assert_close(ours, law, 1e-9)
    assert all(m.isfinite().all() for m in row_moments(q, k, **question))


def test_one_pass_over_many_distances_equals_one_pass_each(generator):
    q, k = torch.randn(1, 500, 3, 16, generator=generator), torch.randn(1, 500, 3, 16, generator=generator)
    distances = [1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377]
    together = row_moments(q, k, positions=torch.arange(500), distances=distances)
    for i, distance in enumerate(distances):
        alone = row_moments(q, k, positions=torch.arange(500), distances=[distance])
        assert_close((together.mass[..., i : i + 1], together.square[..., i : i + 1]), alone, 1e-5)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_neither_batch_nor_threads_change_a_bit(threads, generator):
    q, k = torch.randn(3, 700, 6, 64, generator=generator), torch.randn(3, 700, 2, 64, generator=generator)
    question = {"positions": torch.arange(700), "distances": [175, 43]}
    before = torch.get_num_threads()
    together = row_moments(q, k, **question)
    torch.set_num_threads(threads)
    try:
        alone = [row_moments(q[b : b + 1], k[b : b + 1], **question) for b in range(3)]
    finally:
        torch.set_num_threads(before)
    assert torch.equal(together.mass, torch.cat([m.mass for m in alone]))
    assert torch.equal(together.square, torch.cat([m.square for m in alone]))


def test_golden_numbers_of_uniform_attention():
    """L = 32,768 and k = L/4: DS and the three readings of the variance."""
    length, distance = 32768, 8192
    # every 997th row against its closed form; the slow test below takes all of them
    rows = torch.arange(0, length, 997)
    q, k = torch.zeros(1, len(rows), 1, 4), torch.zeros(1, length, 1, 4)
    mass, square = row_moments(q, k, positions=rows, distances=[distance])
    far = np.maximum(rows.numpy() - distance + 1, 0)
    assert mass.flatten().numpy() == pytest.approx(far / (rows.numpy() + 1), rel=1e-6)
    assert square.flatten().numpy() == pytest.approx(far / (rows.numpy() + 1.0) ** 2, rel=1e-6)


@pytest.mark.slow
def test_golden_dependency_strength_from_every_row():
    length, distance = 32768, 8192
    zeros = torch.zeros(1, length, 1, 4)
    mass, square = row_moments(zeros, zeros, positions=torch.arange(length), distances=[distance])
    s1, s2 = mass.sum().item(), square.sum().item()
    assert f"{s1 / length:.8f}" == "0.40343785"
    assert (s2 - s1**2 / length**2) / (length**2 - 1) == pytest.approx(4.410e-10, rel=2e-4)
    block, triangle = (length - distance) ** 2, (length - distance) * (length - distance + 1) / 2
    assert (s2 - s1**2 / block) / block == pytest.approx(5.744e-10, rel=2e-4)
    assert (s2 - s1**2 / triangle) / triangle == pytest.approx(1.908e-10, rel=3e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positions": torch.tensor([0, 1])}, "one entry per query row"),
        ({"positions": torch.tensor([0, 1, 3])}, "positions must lie in"),
        ({"distances": []}, "distances must be one or more"),
        ({"distances": [-1]}, "distances must be one or more"),
        ({"skip_first": -1}, "skip_first must be at least 0"),
        ({"k": torch.zeros(1, 3, 2, 2)}, "multiple of key heads"),
        ({"k": torch.zeros(2, 3, 1, 2)}, "same B and K"),
        ({"k": torch.zeros(1, 3, 0, 2)}, "at least one head"),
        # a division by the size of a packed key would end the process
        ({"q": torch.zeros(1, 3, 3, 0), "k": torch.zeros(1, 3, 1, 0), "scale": 1.0}, "of a size of at least 1"),
    ],
)
def test_arguments_that_do_not_fit_are_named(change, message):
    q = torch.zeros(1, 3, 3, 2)
    arguments = {"q": q, "k": q[:, :, :1], "positions": torch.arange(3), "distances": [1], **change}
    # outside of these tests the shapes are not checked before the function sees them
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        with pytest.raises(ValueError, match=message):
            row_moments(arguments.pop("q"), arguments.pop("k"), **arguments)
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler: the package installs without its library")
def test_where_there_is_a_compiler_the_native_library_was_built():
    assert native.instruction_sets(), "install longattn again, pip install --editable . --verbose shows what fails"
