"""Time the Triton kernel on this machine's GPU, after it has equalled the reference there.

    python benchmarks/triton_gpu.py --json triton.json
    python benchmarks/triton_gpu.py --tile 256 64 8 2 128    # another longattn.attention.triton.Tile

Per case: milliseconds (median and least), nanoseconds per (query, key) pair, tokens per second, and the share of the
rate at which the slower of exponentials and tensor-core products could run (docs/triton.md). Times are of whole calls.
"""

import argparse
import datetime
import json
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch

from longattn.attention import row_moments
from longattn.attention import triton as launcher


class Case(NamedTuple):
    """Layer 0 of a model, and a window."""

    name: str
    heads: int
    key_heads: int
    head_size: int
    length: int
    windows: int
    """Scored in one call."""


CASES = (
    Case("SmolLM2-135M", 9, 3, 64, 2048, 16),
    Case("SmolLM2-135M", 9, 3, 64, 8192, 1),
    Case("SmolLM2-135M", 9, 3, 64, 8192, 8),
    Case("Llama-3.1-8B", 32, 8, 128, 8192, 1),
    Case("Llama-3.1-8B", 32, 8, 128, 32768, 1),
    Case("Llama-3.1-8B", 32, 8, 128, 131072, 1),
)
PER_CLOCK = {(8, 0): (16, 2048), (9, 0): (16, 4096)}
"""By CUDA capability: exponentials, and half-precision floating point operations, per multiprocessor and clock."""


def largest_error(dtype: torch.dtype, head_size: int) -> float:
    """Largest relative error against the float64 formula, on shapes that hurt; the bound is 1."""
    generator = torch.Generator().manual_seed(1)
    worst = 0.0
    for length, heads, key_heads, skip_first in [(1, 1, 1, 0), (63, 3, 1, 1), (700, 9, 3, 4), (1500, 8, 2, 0)]:
        q = torch.randn(2, length, heads, head_size, generator=generator).to("cuda", dtype)
        k = torch.randn(2, length, key_heads, head_size, generator=generator).to("cuda", dtype)
        rows = torch.randint(length, (length,), generator=generator)
        question = {"positions": rows, "distances": [0, 1, length // 4, length], "skip_first": skip_first}
        law = row_moments(q[:, rows], k, **question, backend="reference")
        ours = row_moments(q[:, rows], k, **question, backend="triton")
        largest = (q.double().norm(dim=-1).max() * k.double().norm(dim=-1).max()).item() / head_size**0.5
        bound = 1e-5 * max(1.0, largest / 8)
        for actual, expected in zip(ours, law, strict=True):
            error = ((actual - expected).abs() / (expected.abs() + 1e-6)).nan_to_num(torch.inf).max().item()
            worst = max(worst, error / bound)
    return worst


def milliseconds(case: Case, dtype: torch.dtype, repeats: int) -> list[float]:
    """Time of each call, with what torch does around the kernel."""
    shape = (case.windows, case.length)
    q = torch.randn(*shape, case.heads, case.head_size, device="cuda", dtype=dtype)
    k = torch.randn(*shape, case.key_heads, case.head_size, device="cuda", dtype=dtype)
    question = {
        "positions": torch.arange(case.length, device="cuda"),
        "distances": [case.length // part for part in (16, 8, 4, 2)],
    }
    times = []
    for _ in range(repeats + 3):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        row_moments(q, k, **question, backend="triton")
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    # the first calls compile and raise the clock
    return times[3:]


def expected_seconds(case: Case, gpu: dict[str, Any]) -> float | None:
    """At the peak rate of whichever is slower, exponentials or products; None where the rates are not known here."""
    if gpu["capability"] not in PER_CLOCK:
        return None
    exponentials, operations = PER_CLOCK[gpu["capability"]]
    pairs_per_clock = min(exponentials, operations / (2 * case.head_size))
    return pairs(case) / (pairs_per_clock * gpu["multiprocessors"] * gpu["clock_mhz"] * 1e6)


def pairs(case: Case) -> int:
    """(query, key) pairs of a call that the causal mask leaves."""
    return case.windows * case.heads * case.length * (case.length + 1) // 2


def describe() -> dict[str, Any]:
    """The GPU; its clock is the highest that it may run at."""
    properties = torch.cuda.get_device_properties(0)
    command = ["nvidia-smi", "--query-gpu=clocks.max.sm", "--format=csv,noheader,nounits", "--id=0"]
    clock = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {
        "name": properties.name,
        "capability": (properties.major, properties.minor),
        "multiprocessors": properties.multi_processor_count,
        "clock_mhz": float(clock),
    }


def measure(case: Case, dtype: torch.dtype, repeats: int, gpu: dict[str, Any]) -> dict[str, Any]:
    """One line of the result."""
    times = milliseconds(case, dtype, repeats)
    middle = median(times) / 1e3
    expected = expected_seconds(case, gpu)
    return {
        **case._asdict(),
        "dtype": str(dtype),
        "median_ms": median(times),
        "least_ms": min(times),
        "ns_per_pair": middle / pairs(case) * 1e9,
        "tokens_per_second": case.windows * case.length / middle,
        "share_of_expected": None if expected is None else expected / middle,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Equality, then times."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--dtype", choices=["bfloat16", "float16", "float32"], default="bfloat16")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--longest", type=int, default=131072, help="leave out cases with longer windows")
    parser.add_argument(
        "--tile", type=int, nargs=5, metavar=launcher.Tile._fields, help="in place of the built-in size"
    )
    parser.add_argument("--json", type=Path, help="where to write the result")
    asked = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        sys.exit("Nothing was timed: torch finds no GPU here. This needs an NVIDIA GPU and torch for CUDA.")
    if asked.tile:
        launcher.tile = lambda *_: launcher.Tile(*asked.tile)

    dtype = getattr(torch, asked.dtype)
    worst = {size: largest_error(dtype, size) for size in (64, 80, 128)}
    print(f"error against the reference, as a part of the bound, by head size: {worst}")
    if max(worst.values()) > 1:
        sys.exit("The kernel does not equal the reference on this GPU: nothing was timed.")

    import triton

    gpu = describe()
    results = [measure(case, dtype, asked.repeats, gpu) for case in CASES if case.length <= asked.longest]
    for result in results:
        print(json.dumps(result))
    if asked.json:
        versions = {"torch": torch.__version__, "triton": triton.__version__, "python": platform.python_version()}
        when = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent)
        document = {"gpu": gpu, "versions": versions, "commit": commit.stdout.strip(), "time": when, "tile": asked.tile}
        document |= {"error_of_bound": worst, "results": results}
        asked.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
