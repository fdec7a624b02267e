"""The native kernel: each instruction set this machine has, and the emulated tiles, against the float64 formula."""

import logging
import math
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from longattn.attention import native, row_moments

HERE = native.instruction_sets()
KNOWN = ["amx", "avx512_bf16", "avx512", "avx2", "portable", "emulated_tiles"]
pytestmark = pytest.mark.skipif(not HERE, reason="the native library was not built")

each_isa = pytest.mark.parametrize(
    "isa",
    [
        pytest.param(name, marks=pytest.mark.skipif(name not in HERE, reason=f"this machine or build lacks {name}"))
        for name in KNOWN
    ],
    indirect=True,
)
each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])


def draw(*shape, generator, dtype=torch.float32):
    return (torch.randn(*shape, generator=generator) * 2).to(dtype)


def assert_right(q, k, **question) -> None:
    """Within the promised error, relative to the value: 1e-5 in float32, growing with logits above 8."""
    largest = (q.float().norm(dim=-1).max() * k.float().norm(dim=-1).max()).item()
    relative = 1e-5 * max(1.0, largest * abs(question.get("scale", q.shape[-1] ** -0.5)) / 8)
    ours = row_moments(q, k, **question, backend="native")
    law = row_moments(q, k, **question, backend="reference")
    for actual, expected in zip(ours, law, strict=True):
        assert actual.dtype == torch.float64
        assert actual.shape == expected.shape
        assert ((actual - expected).abs() <= relative * (expected.abs() + 1e-6)).all()


def test_all_that_is_known_is_listed():
    assert set(HERE) <= set(KNOWN)
    assert native.isa() == HERE[0]


@each_isa
@each_dtype
@pytest.mark.parametrize(
    ("num_keys", "heads", "head_size", "skip_first"),
    [
        (1, (4, 1), 64, 0),
        (1, (1, 1), 8, 4),
        (2, (9, 3), 80, 1),
        (63, (2, 2), 128, 0),
        (63, (9, 3), 8, 62),
        (127, (3, 1), 7, 0),
        (128, (7, 1), 64, 5),
        (129, (1, 1), 33, 128),
        (1000, (9, 3), 64, 4),
        (1000, (3, 3), 80, 300),
    ],
)
def test_it_equals_the_reference(isa, dtype, num_keys, heads, head_size, skip_first, generator):
    H, G = heads
    q = draw(2, num_keys, H, head_size, generator=generator, dtype=dtype)
    k = draw(2, num_keys, G, head_size, generator=generator, dtype=dtype)
    # unsorted rows, with repeats
    rows = torch.randint(num_keys, (min(num_keys, 120),), generator=generator)
    distances = [num_keys - 1, 0, num_keys, 1, num_keys // 4, 1, num_keys + 5]
    assert_right(q[:, rows], k, positions=rows, distances=distances, skip_first=skip_first)


@each_isa
@each_dtype
def test_long_rows_leave_the_float32_sums_in_time(isa, dtype, generator):
    rows = torch.tensor([4096, 0, 2047, 2048, 2049, 4095, 127, 128])
    q = draw(1, len(rows), 4, 128, generator=generator, dtype=dtype)
    k = draw(1, 4097, 1, 128, generator=generator, dtype=dtype)
    assert_right(q, k, positions=rows, distances=[0, 1, 1024, 2048, 4096, 4097], skip_first=4)


@each_isa
@each_dtype
@pytest.mark.parametrize("scale", [-0.125, 0.0, 1.0])
def test_any_scale(isa, dtype, scale, generator):
    q = draw(1, 200, 2, 16, generator=generator, dtype=dtype)
    k = draw(1, 200, 1, 16, generator=generator, dtype=dtype)
    assert_right(q, k, positions=torch.arange(200), distances=[50, 3], scale=scale)


@each_isa
@each_dtype
def test_tensors_that_are_views(isa, dtype, generator):
    q = draw(3, 2, 70, 32, generator=generator, dtype=dtype).permute(1, 2, 0, 3)[..., ::2]
    k = draw(32, 3, 90, 2, generator=generator, dtype=dtype).permute(3, 2, 1, 0)[:, 5:80, :, 3:19]
    assert not q.is_contiguous()
    assert not k.is_contiguous()
    assert_right(q, k, positions=torch.arange(70), distances=[7])


@each_isa
@each_dtype
def test_extreme_logits_tie_where_they_tie(isa, dtype):
    """Logits of ±10,000: a row spreads evenly over its positive keys, over all of them while it has none."""
    sign_T = torch.where(torch.arange(300) % 7 == 3, 1.0, -1.0)
    q, k = (
        torch.full((1, 300, 1, 4), 50.0, dtype=dtype),
        (sign_T[:, None] * 50.0).expand(300, 4)[None, :, None].to(dtype),
    )
    mass, square = row_moments(q, k, positions=torch.arange(300), distances=[100], backend="native", scale=1.0)
    n = torch.arange(300)
    among, far = (n + 4) // 7, (n - 100 + 4).clamp(min=0) // 7
    expected = torch.where(among > 0, far / among.clamp(min=1), 0.0).double()
    assert mass[0, 0, :, 0].tolist() == pytest.approx(expected.tolist(), rel=1e-6)
    assert square[0, 0, :, 0].tolist() == pytest.approx((expected / among.clamp(min=1)).tolist(), rel=1e-6)


@each_isa
@pytest.mark.parametrize("order", [1, -1])
def test_logits_that_rise_or_fall_by_ten_thousand(isa, order):
    """Each key far above, or below, all before it: sums are rescaled in every chunk, or vanish."""
    T = 400
    k = (torch.arange(T) * 25.0 * order)[None, :, None, None]
    q = torch.ones(1, T, 1, 1)
    mass, square = row_moments(q, k, positions=torch.arange(T), distances=[0, 1], backend="native", scale=1.0)
    expected = torch.tensor([1.0, math.exp(-25) if order == 1 else 1.0], dtype=torch.float64).expand(T - 5, 2)
    # the exponent itself is rounded: 10,000 in float32 is good to half a thousandth
    assert torch.allclose(mass[0, 0, 5:], expected, rtol=1e-3, atol=0)
    assert torch.allclose(square[0, 0, 5:], expected.square(), rtol=2e-3, atol=0)


@each_isa
@each_dtype
def test_equal_keys_spread_evenly(isa, dtype):
    q, k = torch.ones(1, 3000, 1, 64, dtype=dtype), torch.ones(1, 3000, 1, 64, dtype=dtype)
    mass, square = row_moments(q, k, positions=torch.arange(3000), distances=[750], backend="native")
    n = torch.arange(3000).double()
    far = (n - 749).clamp(min=0)
    assert torch.allclose(mass[0, 0, :, 0], far / (n + 1), rtol=1e-6, atol=0)
    assert torch.allclose(square[0, 0, :, 0], far / (n + 1) ** 2, rtol=1e-6, atol=0)


@each_isa
@each_dtype
@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
def test_what_is_no_number_ends(isa, dtype, value, generator):
    q, k = draw(1, 150, 2, 8, generator=generator, dtype=dtype), draw(1, 150, 1, 8, generator=generator, dtype=dtype)
    k[0, 60] = value
    ours = row_moments(q, k, positions=torch.arange(150), distances=[3], backend="native")
    law = row_moments(q[:, :60], k[:, :60], positions=torch.arange(60), distances=[3], backend="reference")
    assert torch.allclose(ours.mass[:, :, :60], law.mass, rtol=1e-4, atol=1e-6)


@each_isa
@each_dtype
def test_many_distances_equal_one_at_a_time(isa, dtype, generator):
    q = draw(1, 700, 1, 64, generator=generator, dtype=dtype)
    distances = sorted({int(700 * 2 ** (-i / 2)) for i in range(1, 17)} | {0})
    question = {"positions": torch.arange(700), "skip_first": 4, "backend": "native"}
    together = row_moments(q, q, distances=distances, **question)
    for i, distance in enumerate(distances):
        alone = row_moments(q, q, distances=[distance], **question)
        for ours, theirs in zip(together, alone, strict=True):
            assert torch.allclose(ours[..., i], theirs[..., 0], rtol=2e-6, atol=1e-12)


@each_isa
@each_dtype
def test_neither_threads_nor_batch_change_a_bit(isa, dtype, generator):
    q = draw(3, 300, 6, 64, generator=generator, dtype=dtype)
    k = draw(3, 300, 2, 64, generator=generator, dtype=dtype)
    question = {"positions": torch.arange(300), "distances": [75, 18], "backend": "native"}
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3, 5):
            torch.set_num_threads(threads)
            results.append(row_moments(q, k, **question))
    finally:
        torch.set_num_threads(before)
    alone = [row_moments(q[b : b + 1], k[b : b + 1], **question) for b in range(3)]
    results.append([torch.cat(parts) for parts in zip(*alone, strict=True)])
    for mass, square in results:
        assert torch.equal(mass, results[0][0])
        assert torch.equal(square, results[0][1])


@each_isa
def test_no_rows_and_no_windows(isa):
    q = torch.zeros(1, 0, 2, 4)
    mass, square = row_moments(q, torch.zeros(1, 5, 1, 4), positions=torch.arange(0), distances=[1], backend="native")
    assert mass.shape == square.shape == (1, 2, 0, 1)
    q = torch.zeros(0, 5, 2, 4)
    mass, _ = row_moments(q, q, positions=torch.arange(5), distances=[1], backend="native")
    assert mass.shape == (0, 2, 5, 1)


def test_half_precision_and_mixed_inputs_are_widened(generator):
    q, k = draw(1, 40, 2, 8, generator=generator), draw(1, 40, 1, 8, generator=generator)
    question = {"positions": torch.arange(40), "distances": [9]}
    assert_right(q.half(), k.half(), **question)
    assert_right(q.bfloat16(), k, **question)


def test_float64_is_refused_by_name_and_goes_elsewhere_by_itself(generator):
    q = draw(1, 40, 2, 8, generator=generator).double()
    question = {"positions": torch.arange(40), "distances": [9]}
    with pytest.raises(ValueError, match="works in float32 and takes float32, bfloat16, float16, got float64"):
        row_moments(q, q, **question, backend="native")
    chosen = row_moments(q, q, **question)
    assert torch.equal(chosen.mass, row_moments(q, q, **question, backend="blocked").mass)


def test_auto_is_native_for_what_it_takes(generator):
    q = draw(1, 40, 2, 8, generator=generator)
    question = {"positions": torch.arange(40), "distances": [9]}
    chosen = row_moments(q, q, **question)
    assert torch.equal(chosen.mass, row_moments(q, q, **question, backend="native").mass)


def test_tensors_elsewhere_are_refused():
    q = torch.zeros(1, 3, 1, 2, device="meta")
    with pytest.raises(ValueError, match="takes tensors on the CPU, got one on meta"):
        native.row_moments(q, q, torch.arange(3), [1], 0, 1.0)
    assert not native.suits(q, q)


def test_an_unknown_instruction_set_is_named(monkeypatch):
    monkeypatch.setenv("LONGATTN_ISA", "mmx")
    with pytest.raises(ValueError, match=r"LONGATTN_ISA must be one of \[.*'portable'.*\] on this machine, got 'mmx'"):
        native.isa()


@pytest.fixture
def unbuilt(monkeypatch, tmp_path):
    """As if longattn had been installed without a compiler."""
    monkeypatch.setattr(native, "LIBRARY", tmp_path / "missing.so")
    native._library.cache_clear()
    native._tell_once.cache_clear()
    yield
    native._library.cache_clear()


def test_without_the_library_auto_says_so_once_and_uses_blocked(unbuilt, caplog, generator):
    q = draw(1, 40, 2, 8, generator=generator)
    question = {"positions": torch.arange(40), "distances": [9]}
    with caplog.at_level(logging.WARNING):
        first, second = row_moments(q, q, **question), row_moments(q, q, **question)
    assert torch.equal(first.mass, row_moments(q, q, **question, backend="blocked").mass)
    assert torch.equal(first.mass, second.mass)
    (record,) = caplog.records
    assert "not built" in record.message
    assert "compiler" in record.message
    assert native.isa() is None


def test_without_the_library_native_raises_with_the_remedy(unbuilt):
    q = torch.zeros(1, 3, 1, 2)
    with pytest.raises(RuntimeError, match=r"was not built when longattn was installed.*compiler"):
        row_moments(q, q, positions=torch.arange(3), distances=[1], backend="native")


def test_a_library_that_cannot_be_loaded_is_named_with_the_remedy(unbuilt, tmp_path):
    (tmp_path / "missing.so").write_bytes(b"made for another machine")
    with pytest.raises(RuntimeError, match=r"missing\.so cannot be loaded here \(.*\); install longattn again"):
        native.isa()


def test_a_library_of_other_sources_is_refused(monkeypatch):
    native._library.cache_clear()
    monkeypatch.setattr(native.ctypes, "sizeof", lambda _: 1)
    try:
        with pytest.raises(RuntimeError, match="built from other sources"):
            native.isa()
    finally:
        native._library.cache_clear()


@pytest.mark.slow
def test_arm64_is_right_under_emulation(tmp_path):
    compiler, emulator = shutil.which("aarch64-linux-gnu-g++"), shutil.which("qemu-aarch64")
    if compiler is None or emulator is None:
        pytest.skip("needs g++-aarch64-linux-gnu and qemu-user")
    source = Path(__file__).parents[2] / "native"
    files = [source / name for name in ("library.cpp", "portable.cpp", "emulated_tiles.cpp")]
    build = [compiler, "-std=c++17", "-O3", "-static", "-pthread", "-Wno-psabi", f"-I{source}", "-o", tmp_path / "test"]
    subprocess.run([*build, Path(__file__).with_name("native_selftest.cpp"), *files], check=True)
    done = subprocess.run([emulator, tmp_path / "test"], capture_output=True, text=True, check=False)
    assert done.stdout.endswith("ok\n"), done.stdout
