"""Compile the Triton kernel for GPUs that need not be here, and say what each thread and program takes.

    python benchmarks/triton_compiled.py --capabilities 80 90 --head-sizes 64 128 --dtypes bf16

A JSON line each: registers, spills, shared memory, and what is in the unmasked loop, which does nearly all the work,
read from the disassembly. The assembler and disassembler come with Triton's wheel.
"""

import argparse
import json
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel

from longattn.attention.triton import constants, tile
from longattn.attention.triton_kernel import row_moments_kernel

TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
POINTERS = {"positions": "i64", "order": "i64", "distances": "i32"} | {
    "far": "fp64", "squares": "fp64", "far_peak": "fp32", "total": "fp64", "peak": "fp32"
}  # fmt: skip
LOOP = {
    "instructions": r"\w",
    "exponentials": r"\bMUFU\.EX2\b",
    "tensor_core_products": r"\b\w*MMA\b",
    "spill_loads": r"\bLDL\b",
    "spill_stores": r"\bSTL\b",
}
"""What is counted, by the disassembler's names."""


def build(capability: int, dtype: str, head_size: int, heads_per_key: int, num_distances: int) -> CompiledKernel:
    """The kernel as a launch on contiguous tensors would compile it."""
    size = tile(TYPES[dtype], head_size, capability // 10)
    fixed = {**constants(size, num_distances, head_size, heads_per_key), "stride_qk": 1, "stride_kk": 1}
    signature, aligned = {}, {}
    for place, name in enumerate(row_moments_kernel.arg_names):
        if name in fixed:
            signature[name] = "constexpr"
        elif name in POINTERS or name in ("q", "k"):
            signature[name] = "*" + POINTERS.get(name, dtype)
        else:
            signature[name] = "fp32" if name == "scale" else "i32"
        # allocations and a power of two's strides are multiples of 16 elements: loads may be wide
        if signature[name][0] == "*" or (name.startswith("stride") and name not in fixed):
            aligned[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(row_moments_kernel, signature, constexprs=fixed, attrs=aligned)
    options = {"num_warps": size.warps, "num_stages": size.stages, "maxnreg": size.registers}
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def unmasked_loop(cubin: Path) -> dict[str, int]:
    """Instructions of the shortest loop that holds both products and exponentials, or without products on floats."""
    text = _tool("nvdisasm", "-c", str(cubin)).stdout
    lines: list[str] = []
    labels: dict[str, int] = {}
    loops: list[list[str]] = []
    for line in text.splitlines():
        if label := re.match(r"(\.L_\w+):", line.strip()):
            labels[label[1]] = len(lines)
        elif instruction := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(.*?);", line):
            lines.append(instruction[1])
            jump = re.search(r"\bBRA\b.*(\.L_\w+)", instruction[1])
            if jump and labels.get(jump[1], len(lines)) < len(lines):
                loops.append(lines[labels[jump[1]] :])
    with_copies = [
        loop for loop in loops if {"MUFU.EX2", "LDGSTS"} <= set(re.findall(r"MUFU\.EX2|LDGSTS", " ".join(loop)))
    ]
    shortest = min(with_copies, key=len)
    return {name: sum(bool(re.search(pattern, line)) for line in shortest) for name, pattern in LOOP.items()}


def facts(capability: int, dtype: str, head_size: int, heads_per_key: int, num_distances: int) -> dict[str, Any]:
    """What a kernel takes; figures are for a thread, ``shared_bytes`` for a program."""
    kernel = build(capability, dtype, head_size, heads_per_key, num_distances)
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        ptx = cubin.with_suffix(".ptx")
        ptx.write_text(kernel.asm["ptx"])
        target = re.search(r"^\.target (\w+)", kernel.asm["ptx"], re.MULTILINE)
        assert target
        said = _tool("ptxas", "-v", f"-arch={target[1]}", str(ptx), "-o", str(cubin)).stderr
        numbers = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads.*Used (\d+) registers", said, re.DOTALL)
        assert numbers
        return {
            "capability": capability,
            "dtype": dtype,
            "head_size": head_size,
            "tile": tile(TYPES[dtype], head_size, capability // 10)._asdict(),
            "registers": int(numbers[3]),
            "spilled_bytes": int(numbers[1]) + int(numbers[2]),
            "shared_bytes": kernel.metadata.shared,
            "unmasked_loop": unmasked_loop(cubin),
        }


def _tool(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    return subprocess.run([str(path), *arguments], capture_output=True, text=True, check=True)


def main() -> None:
    """Print the facts of every combination."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--capabilities", type=int, nargs="+", default=[80, 89, 90], help="CUDA's, such as 90 for 9.0")
    parser.add_argument("--dtypes", nargs="+", choices=TYPES, default=list(TYPES))
    parser.add_argument("--head-sizes", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--heads-per-key", type=int, default=4)
    parser.add_argument("--distances", type=int, default=4, help="how many")
    asked = parser.parse_args()
    for capability in asked.capabilities:
        for dtype in asked.dtypes:
            for head_size in asked.head_sizes:
                said = facts(capability, dtype, head_size, asked.heads_per_key, asked.distances)
                print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
