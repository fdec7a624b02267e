"""Time and peak memory of reading and cutting large inputs: ``python benchmarks/large_inputs.py --scale 0.1``.

At scale 1: ten million tiny documents, a JSON line of 1 GB, a document of 2 GB as JSON lines and as Parquet, one of 1
GB without a place to cut, and a file that grows to 2 GiB from 64 kB. All but the tiny documents are one work unit.
Each is read, tokenised and cut by a process of its own under a limit of memory (``--limit``, GB), with a tokenizer of
bytes, the worst case of tokens per byte, or with that of another model (``--tokenizer smollm2``). Making the inputs is
not timed.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from common import publish
from longattn.testing import tiny_checkpoint

PROSE = (b"A window is a slice of the tokens of its own document, and what is scored is exactly what is kept. " * 11)[
    :1024
]


def tiny_documents(folder: Path, scale: float) -> Path:
    """Ten million, none as long as a window."""
    with (folder / "a.jsonl").open("wb") as file:
        for start in range(0, int(10_000_000 * scale), 10_000):
            file.write(b"".join(b'{"text": "document %d of many"}\n' % n for n in range(start, start + 10_000)))
    return folder / "a.jsonl"


def long_line(folder: Path, scale: float, size: float = 1e9, prose: bytes = PROSE) -> Path:
    """One line."""
    with (folder / "a.jsonl").open("wb") as file:
        file.write(b'{"text": "')
        for _ in range(int(size * scale) // len(prose)):
            file.write(prose)
        file.write(b'"}\n')
    return folder / "a.jsonl"


def document(folder: Path, scale: float) -> Path:
    """One of 2 GB as JSON lines."""
    return long_line(folder, scale, 2e9)


def parquet(folder: Path, scale: float) -> Path:
    """The same as Parquet."""
    text = PROSE * (int(2e9 * scale) // len(PROSE))
    ends = pa.array([0, len(text)], pa.int64()).buffers()[1]
    column = pa.LargeStringArray.from_buffers(1, ends, pa.py_buffer(text))
    pq.write_table(pa.table({"text": column}), folder / "a.parquet", use_dictionary=False, write_statistics=False)
    return folder / "a.parquet"


def without_borders(folder: Path, scale: float) -> Path:
    """One letter, a billion times."""
    return long_line(folder, scale, 1e9, b"x" * 1024)


def bomb(folder: Path, scale: float) -> Path:
    """Lines that compress 30,000 to 1."""
    path = folder / "a.jsonl.zst"
    with pa.CompressedOutputStream(str(path), "zstd") as file:
        line = b'{"text": "' + b"x" * (2**20 - 13) + b'"}\n'
        for _ in range(int(2048 * scale)):
            file.write(line)
    return path


CASES: dict[str, tuple[Callable[[Path, float], Path], list[str]]] = {
    "10 M tiny documents": (tiny_documents, []),
    "a line of 1 GB": (long_line, []),
    "a document of 2 GB": (document, ["--corpus.max-doc-bytes", "4000000000"]),
    "a document of 2 GB, Parquet": (parquet, ["--corpus.max-doc-bytes", "4000000000"]),
    "a document of 2 GB, usual limits": (document, []),
    "1 GB without a place to cut": (without_borders, []),
    "a bomb of 2 GiB": (bomb, []),
}

CHILD = """
import json, re, resource, sys, time
limit = int(float(sys.argv[1]) * 1e9)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
from longattn.cli import launch
began = time.perf_counter()
code = launch(sys.argv[2:])
seconds = time.perf_counter() - began
sys.stdout.flush()
# getrusage would tell the parent's peak, if that was higher
peak = int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
print(json.dumps([code, seconds, peak / 1024]))
"""


def main() -> None:
    """Make each input, cut it, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the full sizes")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--tokenizer", default="bytes", help="bytes, or a model's name")
    parser.add_argument("--limit", type=float, default=16.0, help="GB of address space")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    for name, (make, arguments) in CASES.items():
        if options.only not in name:
            continue
        with tempfile.TemporaryDirectory() as folder:
            model = options.tokenizer if options.tokenizer != "bytes" else str(tiny_checkpoint(Path(folder) / "model"))
            file = make(Path(folder), options.scale)
            command = ["cut", str(file), "--output", f"{folder}/run", "--model.name", model, "--workers", "0"]
            command += arguments if make is tiny_documents else [*arguments, "--corpus.unit-bytes", "10000000000"]
            run = subprocess.run(
                [sys.executable, "-c", CHILD, str(options.limit), *command], capture_output=True, text=True, check=False
            )
            said = run.stdout.splitlines()
            if run.returncode or not said:
                rows.append({"input": name, "MB": file.stat().st_size / 1e6, "outcome": run.stderr.strip()[-200:]})
                continue
            code, seconds, peak = json.loads(said[-1])
            manifest = json.loads((Path(folder) / "run" / "manifest.json").read_bytes()) if code == 0 else {}
            became = {key: n for key, n in manifest.get("ledger", {}).items() if key not in ("bytes", "lines")}
            shown = ", ".join(f"{n:,} {key}" for key, n in sorted(became.items()) if key != "non_finite")
            rows.append(
                {"input": name, "MB": file.stat().st_size / 1e6, "seconds": seconds, "peak_MiB": peak}
                | {"outcome": shown or run.stderr.strip()[-200:]}
            )
    publish(rows, options.json, scale=options.scale, tokenizer=options.tokenizer, limit_gb=options.limit)


if __name__ == "__main__":
    main()
