"""What every benchmark needs: circumstances, a table for people, JSON for programs, a text, fair repetition."""

import json
import os
import platform
import subprocess
import sysconfig
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from longattn.tokens import Tokenizer

ROOT = Path(__file__).resolve().parent.parent


def circumstances() -> dict[str, Any]:
    """Date, commit, machine and versions: what a reader needs to judge a figure or to repeat it."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(ROOT),
        "machine": {"processor": processor(), "cores": os.cpu_count(), "architecture": platform.machine()},
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "numpy", "tokenizers")},
    }


def publish(rows: Sequence[Mapping[str, Any]], file: Path | None, **facts: Any) -> None:
    """Print rows of figures as a Markdown table; write them to a JSON file, with the facts and the circumstances."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    print("| " + " | ".join(name.replace("_", " ") for name in columns) + " |")
    print("|" + "---|" * len(columns))
    for row in rows:
        print("| " + " | ".join(_cell(row.get(name, "")) for name in columns) + " |")
    if file:
        everything = {**circumstances(), **facts, "rows": rows}
        file.write_text(json.dumps(everything, indent=1, default=str) + "\n", encoding="utf-8")


def _cell(value: Any) -> str:
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def commit(folder: Path) -> str:
    """The commit checked out in a folder, with ``-dirty`` if files differ from it."""
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def processor() -> str:
    """The processor's name, and the vector extensions that the kernels look for."""
    facts = Path("/proc/cpuinfo")
    if not facts.exists():
        return platform.processor() or platform.machine()
    lines = dict(line.split(":", 1) for line in facts.read_text(encoding="utf-8").splitlines() if ":" in line)
    fields = {key.strip(): value.strip() for key, value in lines.items()}
    wanted = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
    found = [flag for flag in wanted if flag in fields.get("flags", "").split()]
    return f"{fields.get('model name', platform.machine())} ({', '.join(found)})"


def resident(peak: bool) -> float:
    """Megabytes of memory that this process holds, now or at its peak (Linux)."""
    name = "VmHWM" if peak else "VmRSS"
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith(name))


def standard_library(tokenizer: Tokenizer, length: int) -> npt.NDArray[np.uint32]:
    """The first ``length`` tokens of this Python's own modules, the largest first."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"), key=lambda file: -file.stat().st_size)
    text, wanted = "", 8 * length
    for file in files:
        text += file.read_text(encoding="utf-8") + "\n"
        if len(text) > wanted:
            break
    ids = tokenizer.encode(text).ids
    if len(ids) < length:
        raise SystemExit(f"the standard library has only {len(ids)} tokens, {length} are needed")
    return ids[:length]


def interleaved(tasks: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of every run of each task, the tasks taking turns, so that a noisy neighbour disturbs all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(repeats):
        for name, task in tasks.items():
            began = time.perf_counter()
            task()
            seconds[name].append(time.perf_counter() - began)
    return seconds
