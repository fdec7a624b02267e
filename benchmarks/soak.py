"""A long run that is killed again and again: ``python benchmarks/soak.py --windows 1000000 --kill-every 60``.

A corpus of tiny documents is measured and chosen from twice: once undisturbed, with all memory of its processes
noted every second, and once with ``kill -9`` of all its processes at random moments (exponential, ``--kill-every``
seconds apart in the mean, counted from where each attempt begins) until an attempt comes to its end. All files of both
runs must be the same bytes, and ``verify`` must find nothing. The slope of memory is that of a line through the
undisturbed measuring without its first fifth.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import numpy as np

from common import publish
from longattn.testing import tiny_checkpoint

LENGTH = 64
WINDOWS = 40
"""Of a document."""
FREE = (".lock", "progress", "timings.json")
"""How the names of files begin that differ from run to run."""


def corpus(folder: Path, windows: int) -> None:
    """Documents of which no two are alike, 64 MB of text a million windows, in eight files."""
    folder.mkdir(parents=True)
    words = [f"{number:x}" for number in range(4096)]
    for part in range(8):
        draw = random.Random(part)
        with (folder / f"part-{part}.jsonl").open("w") as file:
            for number in range(part, -(-windows // WINDOWS), 8):
                text = " ".join(draw.choices(words, k=LENGTH * WINDOWS // 3))[: LENGTH * WINDOWS]
                file.write(json.dumps({"id": str(number), "text": text}) + "\n")


def command(folder: Path, verb: str = "run") -> list[str]:
    """The same command, however often it is given; the report names the run folder, so that is alike too."""
    settings = {
        "--output": "run",
        "--model.name": folder / "model",
        "--window.length": LENGTH,
        "--corpus.unit-bytes": 500_000,
        "--scorers": "length",
        "--workers": 2,
    }
    if verb == "run":
        settings |= {"--keep.weights.length": 1, "--keep.share": 0.1}
    words = [str(word) for pair in settings.items() for word in pair]
    return [sys.executable, "-m", "longattn", verb, str(folder / "corpus"), *words]


def memory(group: int) -> float:
    """MiB that the processes of a group hold; of memory that is shared each has its part (PSS)."""
    total = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if int((folder / "stat").read_text().rpartition(")")[2].split()[2]) == group:
                lines = (folder / "smaps_rollup").read_text().splitlines()
                total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        except (OSError, StopIteration):
            # it ended meanwhile
            continue
    return total / 1024


def attempt(words: list[str], place: Path, seconds: float | None = None) -> tuple[int, list[tuple[float, float]]]:
    """One process group, killed after a time; how it ended, and its memory (seconds, MiB). It must not fail."""
    place.mkdir(exist_ok=True)
    began, seen = time.monotonic(), []
    with (place / "log").open("ab") as out:
        process = subprocess.Popen(words, cwd=place, stdout=out, stderr=out, start_new_session=True)
        while process.poll() is None:
            now = time.monotonic() - began
            if seconds is not None and now > seconds:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                break
            seen.append((now, memory(process.pid)))
            time.sleep(1.0 if seconds is None else min(1.0, max(0.01, seconds - now)))
    if process.returncode not in (0, -signal.SIGKILL):
        raise SystemExit((place / "log").read_text())
    return process.returncode, seen


def digests(run: Path) -> Iterator[tuple[str, str]]:
    """Every file of a run by its bytes."""
    for path in sorted(run.rglob("*")):
        if path.is_file() and not path.name.startswith(FREE):
            yield str(path.relative_to(run)), sha256(path.read_bytes()).hexdigest()


def main() -> None:
    """Both runs, and a row of what came of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=100_000)
    parser.add_argument("--kill-every", type=float, default=20.0, help="seconds between kills, in the mean")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--folder", type=Path, help="keep both runs here")
    parser.add_argument("--json", type=Path, help="also write everything to this file")
    options = parser.parse_args()
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        tiny_checkpoint(folder / "model")
        corpus(folder / "corpus", options.windows)
        _, seen = attempt(command(folder, "measure"), folder / "whole")
        _, choosing = attempt(command(folder), folder / "whole")
        kills, began = 0, time.monotonic()
        while attempt(command(folder), folder / "killed", draw.expovariate(1 / options.kill_every))[0]:
            kills += 1
            print(f"{kills} kills, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        seconds = time.monotonic() - began
        whole, killed = (dict(digests(folder / name / "run")) for name in ("whole", "killed"))
        verify = [sys.executable, "-m", "longattn", "verify", str(folder / "killed" / "run")]
        verified = subprocess.run(verify, stdout=sys.stderr, check=False)
        ledger = json.loads((folder / "killed" / "run" / "manifest.json").read_bytes())["ledger"]
        later = np.array([row for row in seen if row[0] > 0.2 * seen[-1][0]])
        row = {
            "windows": ledger["windows"],
            "undisturbed_s": seen[-1][0] + choosing[-1][0],
            "peak_MiB": max(used for _, used in [*seen, *choosing]),
            "measuring_peak_MiB": max(used for _, used in seen),
            "slope_MiB_per_hour": float(np.polyfit(later[:, 0], later[:, 1], 1)[0]) * 3600,
            "kills": kills,
            "killed_run_s": seconds,
            "files": len(whole),
            "files_that_differ": len(set(whole.items()) ^ set(killed.items())),
            "verify": verified.returncode,
        }
    publish([row], options.json, seed=options.seed, kill_every=options.kill_every)
    raise SystemExit(int(row["files_that_differ"] > 0 or row["verify"] != 0))


if __name__ == "__main__":
    main()
