"""Time and peak memory of each verb on a run of many work units: ``python benchmarks/many_units.py --units 100000``.

Each unit is a line of one file, a document of three windows, scored by its length, so that what is timed is what a unit
costs by itself: plan, receipts, footers, ledger. Measuring once more finds all of it done. With ``--folder`` the run is
kept there, and one that is there is gone on with: a folder in memory (/dev/shm) leaves the disk out of it.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from common import publish
from longattn.testing import tiny_checkpoint

LENGTH = 64

CHILD = """
import json, os, resource, sys, time
from longattn.cli import launch
began = time.perf_counter()
code = launch(sys.argv[1:])
seconds = time.perf_counter() - began
sys.stdout.flush()
usage = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps([code, seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024]))
"""


def steps(folder: Path) -> dict[str, list[str]]:
    """The command of each step."""
    run = str(folder / "run")
    settings = ["--model.name", str(folder / "model"), "--window.length", str(LENGTH), "--corpus.unit-bytes", "200"]
    inputs = [str(folder / "corpus" / "a.jsonl"), "--output", run, *settings]
    measuring = [*inputs, "--scorers", "length", "--workers", "0"]
    # three tables at once: documents, windows, length
    weights = ["--keep.weights.length", "1"]
    return {
        "plan": ["plan", *inputs],
        "measure": ["measure", *measuring],
        "measure again": ["measure", *measuring],
        "status": ["status", run],
        "select": ["select", run, *weights],
        "report": ["report", run],
        "verify": ["verify", run],
    }


def corpus(folder: Path, units: int) -> None:
    """As many lines of one length, so that a unit is one."""
    (folder / "corpus").mkdir(exist_ok=True)
    with (folder / "corpus" / "a.jsonl").open("w") as file:
        for number in range(units):
            text = f"document {number:08} " + "word " * 33
            file.write(json.dumps({"text": text.ljust(187)[:187]}) + "\n")


def main() -> None:
    """Make the input, run the steps, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, default=1000)
    parser.add_argument("--folder", type=Path, help="keep the run here, or go on with the one that is here")
    parser.add_argument("--only", nargs="*", default=[], help="these steps alone")
    parser.add_argument("--json", type=Path, help="also write everything to this file")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "corpus").exists():
            tiny_checkpoint(folder / "model")
            corpus(folder, options.units)
        for name, command in steps(folder).items():
            if options.only and name not in options.only:
                continue
            done = subprocess.run([sys.executable, "-c", CHILD, *command], capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(done.stderr)
            code, seconds, cpu, peak = json.loads(done.stdout.splitlines()[-1])
            rows.append({"step": name, "units": options.units, "seconds": seconds, "cpu_s": cpu, "peak_MiB": peak})
            rows[-1] |= {"ms_per_unit": 1000 * seconds / options.units, "exit_code": code}
            print(rows[-1], file=sys.stderr, flush=True)
    publish(rows, options.json)


if __name__ == "__main__":
    main()
