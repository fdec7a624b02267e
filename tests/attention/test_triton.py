"""The Triton kernel against the float64 formula in Triton's interpreter, or on a GPU with TRITON_INTERPRET=0."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from longattn.attention import row_moments
from longattn.attention import triton as launcher

pytest.importorskip("triton")

DEVICE = "cpu" if os.environ["TRITON_INTERPRET"] == "1" else "cuda"


@pytest.fixture(autouse=True)
def _poisoned_buffers():
    """Torch fills every uninitialised buffer with NaN: what the kernel leaves out shows."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def check(q: torch.Tensor, k: torch.Tensor, scale: float | None = None, loosest: float = math.inf, **question) -> None:
    """Triton's answer lies within the promised bound of the reference's, which grows with the logits."""
    question = {"positions": torch.arange(q.shape[1]), "scale": scale, **question}
    law = row_moments(q.double(), k.double(), **question, backend="reference")
    ours = row_moments(q.to(DEVICE), k.to(DEVICE), **question, backend="triton")
    factor = q.shape[-1] ** -0.5 if scale is None else abs(scale)
    largest = (q.double().norm(dim=-1).max() * k.double().norm(dim=-1).max()).item() * factor
    relative = min(1e-5 * max(1.0, largest / 8), loosest)
    for actual, expected in zip(ours, law, strict=True):
        assert actual.dtype == torch.float64
        assert ((actual.cpu() - expected).abs() <= relative * (expected.abs() + 1e-6)).all()


def random(generator: torch.Generator, num_keys: int, heads: tuple[int, int], head_size: int, windows: int = 1):
    """Queries for all positions, and keys."""
    q, k = (torch.randn(windows, num_keys, h, head_size, generator=generator) * 2 for h in heads)
    return q, k


def test_a_poisoned_buffer_would_show():
    assert torch.zeros(1).new_empty(3).isnan().all()


def test_four_tokens_by_hand():
    """Equal logits: row i spreads 1/(i+1) over its keys; the first two leave the far sums only."""
    q = torch.zeros(1, 4, 1, 2, device=DEVICE)
    question = {"positions": torch.arange(4), "distances": [0, 1], "skip_first": 2}
    mass, square = row_moments(q, q, **question, backend="triton")
    assert mass[0, 0].tolist() == [[0, 0], [0, 0], [pytest.approx(1 / 3), 0], [2 / 4, 1 / 4]]
    assert square[0, 0, 3].tolist() == [2 / 16, 1 / 16]


@pytest.mark.parametrize("num_keys", [1, 2, 63, 130])
@pytest.mark.parametrize("heads", [(4, 1), (3, 1), (9, 3), (2, 2)])
def test_unsorted_repeated_rows_equal_the_reference(num_keys, heads, generator):
    q, k = random(generator, num_keys, heads, 16, windows=2 if num_keys < 100 else 1)
    rows = torch.randint(num_keys, (max(1, num_keys // 3),), generator=generator)
    distances = [num_keys - 1, 0, num_keys, 1, num_keys // 4, 10 * num_keys]
    for skip_first in (0, 4) if num_keys > 2 else (0, 1, 5):
        check(q[:, rows], k, positions=rows, distances=distances, skip_first=skip_first)


@pytest.mark.parametrize("head_size", [5, 64, 80, 128, 192])
@pytest.mark.parametrize("dtype", launcher.DTYPES)
def test_every_head_size_and_type_equals_the_reference(head_size, dtype, generator):
    q, k = random(generator, 70, (2, 1), head_size)
    check((q / 2).to(dtype), (k / 2).to(dtype), distances=[1, 17], skip_first=3)


@pytest.mark.parametrize("size", [launcher.Tile(128, 128, 8, 2, 128), launcher.Tile(16, 16, 1, 1, None)])
def test_the_size_of_a_tile_changes_nothing(size, monkeypatch, generator):
    monkeypatch.setattr(launcher, "tile", lambda *_: size)
    q, k = random(generator, 150, (3, 1), 16)
    rows = torch.arange(0, 150, 2)
    check(q[:, rows], k, positions=rows, distances=[0, 1, 16, 37, 128, 149], skip_first=17)


def test_sums_longer_than_a_float32_run(generator):
    """Few rows of a long window: keys by the thousand between two borders, and rows thousands of keys apart."""
    q, k = random(generator, 3000, (2, 1), 16)
    rows = torch.tensor([2999, 3, 1024, 2998, 2047])
    check(q[:, rows], k, positions=rows, distances=[1, 750, 2500], skip_first=1100)


def test_any_strides(generator):
    """Windows, heads and tokens in another order in memory, and a head size that is not next to itself."""
    q, k = random(generator, 50, (4, 2), 16, windows=2)
    check(
        q.transpose(1, 2).contiguous().transpose(1, 2),
        k.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0),
        distances=[7],
    )


@pytest.mark.parametrize("scale", [1e4, -1e4, -0.3, 0.0])
def test_extreme_negative_and_zero_scales(scale, generator):
    """Whole numbers, so that float32 has the logits exactly: then float32 sums owe the same bound as ever."""
    q = torch.randint(-3, 4, (1, 100, 2, 8), generator=generator).float()
    k = torch.randint(-3, 4, (1, 100, 1, 8), generator=generator).float()
    check(q, k, scale=scale, distances=[0, 25], loosest=1e-3)


def test_rising_logits_lose_nothing_of_the_old_sums(generator):
    """The maximum grows in every tile by what is no power of two, and each far sum has a peak of its own."""
    k = torch.linspace(0, 30, 400)[None, :, None, None].expand(1, 400, 1, 16).contiguous()
    q = torch.full((1, 400, 1, 16), 1 / 16)
    check(q, k, scale=1.0, distances=[1, 40, 100, 399], loosest=2e-5)


def test_equal_keys_spread_evenly():
    length, distance = 1000, 250
    rows = torch.arange(0, length, 37)
    q, k = torch.ones(1, len(rows), 1, 64, device=DEVICE), torch.ones(1, length, 1, 64, device=DEVICE)
    mass, square = row_moments(q, k, positions=rows, distances=[distance], backend="triton")
    far = (rows - distance + 1).clamp(min=0).double()
    assert mass.flatten().tolist() == pytest.approx((far / (rows + 1)).tolist(), rel=1e-6)
    assert square.flatten().tolist() == pytest.approx((far / (rows + 1) ** 2).tolist(), rel=1e-6)


def test_no_rows_give_no_moments():
    q, k = torch.zeros(2, 0, 4, 16, device=DEVICE), torch.zeros(2, 9, 2, 16, device=DEVICE)
    moments = row_moments(q, k, positions=torch.arange(0), distances=[1, 2], backend="triton")
    assert [m.shape for m in moments] == [(2, 4, 0, 2)] * 2


def test_float64_is_refused_by_name():
    q = torch.zeros(1, 2, 1, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"takes bfloat16, float16 and float32, got torch\.float64"):
        row_moments(q, q, positions=torch.arange(2), distances=[1], backend="triton")


def test_a_cpu_without_interpreter_is_told_what_to_do(monkeypatch):
    # as if every kernel had been compiled
    monkeypatch.setattr("triton.runtime.jit.JITFunction", object)
    q = torch.zeros(1, 2, 1, 2)
    with pytest.raises(RuntimeError, match=r"on 'cpu'.*backend='blocked'.*TRITON_INTERPRET=1"):
        row_moments(q, q, positions=torch.arange(2), distances=[1], backend="triton")


def test_a_missing_package_is_told_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton.runtime.jit", None)
    q = torch.zeros(1, 2, 1, 2)
    with pytest.raises(RuntimeError, match="pip install triton"):
        row_moments(q, q, positions=torch.arange(2), distances=[1], backend="triton")


def test_the_cpu_is_never_given_to_triton_unasked():
    q = torch.zeros(1, 2, 1, 2)
    assert not launcher.suits(q, q)


COMPILER = Path(__file__).parents[2] / "benchmarks" / "triton_compiled.py"


def compiled(*arguments: str) -> list[dict]:
    """What the compiler says of the kernel, in a process where Triton does not interpret."""
    done = subprocess.run(
        [sys.executable, str(COMPILER), *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"TRITON_INTERPRET": "0"},
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_it_compiles_for_gpus_that_are_not_here():
    for facts in compiled("--capabilities", "80", "90", "--head-sizes", "64", "--dtypes", "bf16"):
        assert facts["registers"] <= 128
        loop = facts["unmasked_loop"]
        # few of the registers that a thread spills are spilled where the time goes
        assert loop["spill_loads"] + loop["spill_stores"] <= 5
        # one exponential for each of the 32 or 64 pairs of a thread, and products on tensor cores
        assert loop["exponentials"] == facts["tile"]["pairs"] * facts["tile"]["keys"] / (32 * facts["tile"]["warps"])
        assert loop["tensor_core_products"]


@pytest.mark.slow
def test_every_size_of_tile_compiles():
    facts = compiled("--head-sizes", "64", "80", "128", "256", "--distances", "16")
    assert len(facts) == 3 * 3 * 4
    assert all(fact["shared_bytes"] <= {80: 163, 89: 99, 90: 227}[fact["capability"]] * 1024 for fact in facts)
