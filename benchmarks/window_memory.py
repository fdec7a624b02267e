"""Time and peak memory of one window's exact measurement: ``python benchmarks/window_memory.py --length 32768``.

Resident memory is read after loading (interpreter, libraries, weights), and its peak at the end. Text: this Python's
own standard library.
"""

import argparse
import json
import platform
import subprocess
import sys
import sysconfig
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from longattn import settings
from longattn.measuring import measure_windows
from longattn.models import load_model, resolve
from longattn.records import Window
from longattn.scorers import LongAttn
from longattn.tokens import Tokenizer


def resident(peak: bool) -> float:
    """Megabytes of memory that the process holds, now or at its peak."""
    name = "VmHWM" if peak else "VmRSS"
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith(name))


def main() -> None:
    """Measure one window and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=32768)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--rope-theta", type=float, default=2_500_000.0)
    options = parser.parse_args()

    model = settings.Model(name=options.model, rope_theta=options.rope_theta)
    checkpoint = resolve(model)
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"), key=lambda file: -file.stat().st_size)
    text = "\n".join(file.read_text(encoding="utf-8") for file in files[:40])
    tokens = Tokenizer.load(checkpoint.tokenizer_file).encode(text).ids[: options.length]
    scorer = LongAttn().for_length(options.length)
    loaded = load_model(checkpoint, model, layers=(0,), window=options.length)
    # a short window first, so that lazily loaded libraries count as loaded
    short = LongAttn().for_length(64)
    measure_windows([short], loaded, [_window(tokens[:64])])

    before, began = resident(peak=False), time.perf_counter()
    columns = measure_windows([scorer], loaded, [_window(tokens)])["longattn"]
    seconds = time.perf_counter() - began
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent, check=False
    )
    json.dump(
        {
            "length": len(tokens),
            "ds": float(columns[f"s1_l0_d{scorer.distance}"][0] / len(tokens)),
            "seconds": round(seconds, 2),
            "loaded_mb": round(before),
            "peak_beside_loaded_mb": round(resident(peak=True) - before),
            "date": datetime.now(UTC).date().isoformat(),
            "commit": commit.stdout.strip(),
            "machine": platform.machine(),
        },
        sys.stdout,
        indent=1,
    )
    sys.stdout.write("\n")


def _window(tokens: np.ndarray) -> Window:
    return Window("d", "s", 0, tokens, 0, 1, len(tokens))


if __name__ == "__main__":
    main()
