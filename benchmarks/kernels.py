"""Attention kernels side by side: ``python benchmarks/kernels.py --lengths 2048 8192 --json kernels.json``.

Nanoseconds per (query, key) pair of a window with all its rows, for the native kernel on each instruction set asked
for, the blocked one, three calls of torch's own flash attention, and this machine's floor: the products, one
exponential, two additions and one fused multiply-add, from the nearest cache. All run in one process on the same
threads, one after the other, again and again; the fastest round counts. ``cpu`` is processor time over threads: on a
machine that others use it tells more than the clock. What does not agree with the float64 formula is not timed.
"""

import argparse
import itertools
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from common import publish
from longattn.attention import native, row_moments
from longattn.settings import Backend

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
FLOOR_PAIRS = 20_000_000


class Heads(NamedTuple):
    """The attention of a layer: query heads, key heads, numbers per head."""

    query: int
    key: int
    size: int


MODELS = {"smollm2": Heads(9, 3, 64), "8b": Heads(32, 8, 128)}


class Case(NamedTuple):
    """One window."""

    model: str
    length: int
    dtype: str

    @property
    def pairs(self) -> float:
        """Causal (query, key) pairs of all query heads."""
        return MODELS[self.model].query * self.length * (self.length + 1) / 2


class Entry(NamedTuple):
    """What is timed."""

    distances: int
    """How many, log-spaced."""
    kernel: str


Kernel = Callable[[Tensor, Tensor, tuple[int, ...]], Any]
"""Answers queries [1, T, H, K] and keys [1, T, G, K] at every row."""


def log_spaced(length: int, count: int) -> tuple[int, ...]:
    """Distances from a quarter of the length downwards; the first is the paper's."""
    return tuple(max(1, round(length / 4 * 2 ** (-i / 2))) for i in range(count))


def draw(case: Case) -> tuple[Tensor, Tensor]:
    """Random queries and keys of the case."""
    generator, heads = torch.Generator().manual_seed(0), MODELS[case.model]
    shapes = [(1, case.length, count, heads.size) for count in (heads.query, heads.key)]
    q, k = (torch.randn(shape, generator=generator).to(DTYPES[case.dtype]) for shape in shapes)
    return q, k


def backend(name: Backend) -> Kernel:
    """A kernel of the package."""
    return lambda q, k, distances: row_moments(
        q, k, positions=torch.arange(q.shape[1]), distances=distances, backend=name
    )


@contextmanager
def instruction_set(name: str | None) -> Iterator[None]:
    """The native kernel answers with this one; None: its own choice."""
    before = os.environ.pop("LONGATTN_ISA", None)
    try:
        if name:
            os.environ["LONGATTN_ISA"] = name
        yield
    finally:
        os.environ.pop("LONGATTN_ISA", None)
        if before is not None:
            os.environ["LONGATTN_ISA"] = before


def native_on(name: str) -> Kernel:
    """The native kernel on one instruction set."""

    def answer(q: Tensor, k: Tensor, distances: tuple[int, ...]) -> Any:
        with instruction_set(name):
            return backend("native")(q, k, distances)

    return answer


def flash(q_BTHK: Tensor, k_BTGK: Tensor, distances: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Mass and square at one distance from three log-sum-exps: all keys, far keys, far keys at twice the scale."""
    (distance,), length = distances, q_BTHK.shape[1]
    scale = q_BTHK.shape[-1] ** -0.5
    q_BHTK = q_BTHK.transpose(1, 2)
    k_BHTK = k_BTGK.repeat_interleave(q_BTHK.shape[2] // k_BTGK.shape[2], dim=2).transpose(1, 2)

    def log_sum_exp(q: Tensor, k: Tensor, scale: float) -> Tensor:
        attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        return attend(q, k, k, 0.0, True, scale=scale)[1].double()

    every_BHT = log_sum_exp(q_BHTK, k_BHTK, scale)
    mass_BHTD, square_BHTD = (every_BHT.new_zeros(*every_BHT.shape, 1) for _ in range(2))
    far_q, far_k = q_BHTK[:, :, distance:], k_BHTK[:, :, : length - distance]
    far_every = every_BHT[..., distance:]
    mass_BHTD[:, :, distance:, 0] = (log_sum_exp(far_q, far_k, scale) - far_every).exp()
    square_BHTD[:, :, distance:, 0] = (log_sum_exp(far_q, far_k, 2 * scale) - 2 * far_every).exp()
    return mass_BHTD, square_BHTD


def dense(q_BTHK: Tensor, k_BTGK: Tensor, distances: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Mass and square at one distance from the whole map of attention, with a mask of zeros and ones over it."""
    (distance,), length, heads = distances, q_BTHK.shape[1], q_BTHK.shape[2]
    causal_TT = torch.full((length, length), -math.inf).triu(1)
    far_TT = torch.ones(length, length).tril(-distance)
    mass_HT, square_HT = torch.empty(heads, length), torch.empty(heads, length)
    for head in range(heads):
        q_TK, k_TK = q_BTHK[0, :, head], k_BTGK[0, :, head * k_BTGK.shape[2] // heads]
        logits_TT = (q_TK @ k_TK.T).float() * q_TK.shape[1] ** -0.5 + causal_TT
        p_TT = logits_TT.softmax(1) * far_TT
        mass_HT[head], square_HT[head] = p_TT.sum(1), p_TT.square().sum(1)
    return mass_HT[None, :, :, None].double(), square_HT[None, :, :, None].double()


def contenders(isas: list[str], slow: bool, one_distance: bool) -> dict[str, Kernel]:
    """Name and kernel of everything to be timed; two of the slow ones know one distance alone."""
    found = {f"native {name}": native_on(name) for name in isas}
    if slow:
        found["blocked"] = backend("blocked")
    if slow and one_distance:
        found |= {"flash x3": flash, "dense": dense}
    return found


def agrees(kernel: Kernel, model: str, dtype: str, count: int) -> bool:
    """Whether a kernel equals the float64 formula on 300 tokens with the model's heads."""
    q, k = draw(Case(model, 300, dtype))
    distances = log_spaced(300, count)
    law = backend("reference")(q, k, distances)
    # torch's flash attention rounds its weights, though not its sums, to bfloat16; the dense way rounds its products
    bound = 1e-3 if kernel is flash else 2e-2 if kernel is dense and dtype == "bfloat16" else 1e-5
    pairs = zip(kernel(q, k, distances), law, strict=True)
    return all(bool(((ours - right).abs() <= bound * (right.abs() + 1e-6)).all()) for ours, right in pairs)


def floor(case: Case, isa: str) -> float:
    """Seconds that the case's pairs take at the floor, and that of processor time over threads."""
    with instruction_set(isa):
        seconds = 0.0
        for part in ("products", "exponentials"):
            began = time.process_time()
            done = native.work_at_the_floor(part, DTYPES[case.dtype], MODELS[case.model].size, FLOOR_PAIRS)
            seconds += (time.process_time() - began) / torch.get_num_threads() * case.pairs / done
        return seconds


def measure(case: Case, kernels: dict[Entry, Kernel], isas: list[str], seconds: float) -> list[dict[str, Any]]:
    """One row per contender: nanoseconds per pair by the clock and by processor time, the best of all rounds."""
    q, k = draw(case)
    clock, cpu = dict.fromkeys(kernels, math.inf), dict.fromkeys(kernels, math.inf)
    least = dict.fromkeys(isas, math.inf)
    began = time.perf_counter()
    for round_number in itertools.count():
        for entry, kernel in kernels.items():
            distances = log_spaced(case.length, entry.distances)
            clock_start, cpu_start = time.perf_counter(), time.process_time()
            kernel(q, k, distances)
            clock[entry] = min(clock[entry], time.perf_counter() - clock_start)
            cpu[entry] = min(cpu[entry], (time.process_time() - cpu_start) / torch.get_num_threads())
        # torch's threads go on spinning for a while, which would count as the floor's processor time
        time.sleep(0.2)
        for isa in isas:
            least[isa] = min(least[isa], floor(case, isa))
        if time.perf_counter() - began > seconds and round_number >= 1:
            break
    rows = []
    for entry in kernels:
        row = {**case._asdict(), **entry._asdict(), "ms": clock[entry] * 1e3}
        row |= {"ns_per_pair": clock[entry] / case.pairs * 1e9, "cpu_ns_per_pair": cpu[entry] / case.pairs * 1e9}
        isa = entry.kernel.removeprefix("native ")
        if isa in least:
            row["floor_cpu_ns"] = least[isa] / case.pairs * 1e9
            single = cpu.get(entry._replace(distances=1))
            if entry.distances > 1 and single:
                row["cpu_beside_one_distance"] = cpu[entry] / single
        rows.append(row)
    return rows


def compare_with_floor(rows: list[dict[str, Any]]) -> None:
    """Put the lowest floor of the run beside each kernel: no length changes it, but a round may be disturbed."""
    lowest: dict[tuple[Any, ...], float] = {}
    for row in rows:
        if "floor_cpu_ns" in row:
            key = row["model"], row["dtype"], row["kernel"]
            lowest[key] = min(lowest.get(key, math.inf), row["floor_cpu_ns"])
    for row in rows:
        if "floor_cpu_ns" in row:
            row["floor_cpu_ns"] = lowest[row["model"], row["dtype"], row["kernel"]]
            row["times_floor"] = row["cpu_ns_per_pair"] / row["floor_cpu_ns"]


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=sorted(MODELS), default=list(MODELS))
    parser.add_argument("--lengths", nargs="+", type=int, default=[2048, 8192, 32768, 131072])
    parser.add_argument("--dtypes", nargs="+", choices=sorted(DTYPES), default=list(DTYPES))
    parser.add_argument("--distances", nargs="+", type=int, default=[1, 16], help="how many, each")
    parser.add_argument("--isas", nargs="+", default=native.instruction_sets()[:1], help="default: the best one here")
    parser.add_argument("--seconds", type=float, default=20.0, help="per case, two rounds at least")
    parser.add_argument("--slow-up-to", type=int, default=8192, help="longest window for blocked, flash and dense")
    parser.add_argument("--most-pairs", type=float, default=1e11, help="leave out windows with more, of all heads")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="also write everything to this file")
    return parser.parse_args()


def main() -> None:
    """Check, time, print."""
    options = parse()
    torch.set_num_threads(options.threads)
    rows: list[dict[str, Any]] = []
    for model, dtype, length in itertools.product(options.models, options.dtypes, options.lengths):
        case = Case(model, length, dtype)
        if case.pairs > options.most_pairs:
            continue
        # all in turns, so that a price beside another's is one of the same minutes
        kernels = {
            Entry(count, name): kernel
            for count in options.distances
            for name, kernel in contenders(options.isas, length <= options.slow_up_to, count == 1).items()
        }
        for entry in [entry for entry, kernel in kernels.items() if not agrees(kernel, model, dtype, entry.distances)]:
            refused = f"{entry.kernel}: differs from the formula, not timed"
            rows.append({**case._asdict(), **entry._replace(kernel=refused)._asdict()})
            del kernels[entry]
        rows += measure(case, kernels, options.isas, options.seconds)
        print(f"{model} {dtype} {length}", file=sys.stderr, flush=True)
    compare_with_floor(rows)
    publish(rows, options.json, threads=torch.get_num_threads(), isa=native.isa())


if __name__ == "__main__":
    main()
