"""Fuzz the readers of untrusted bytes: ``python tests/fuzz/fuzz.py --seconds 60`` (``make fuzz``).

Each target of ``targets.py`` is driven by atheris in a process of its own, with the package's Python instrumented, so
that inputs which reach new lines are kept and changed further. A fault is an exception that is no refusal, a signal,
ten seconds or 256 MB for one input, or more than ``--memory`` in all. What made it is left in ``--findings``, to become
a test when the fault is mended. Libraries in C, C++ and Rust are not instrumented: they see what Python passes on.
"""

import argparse
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SECONDS_EACH = 10
"""For one input."""
MEGABYTES_EACH = 256
"""That one input may add to the most that the process has ever held; an input has 64 kB at most."""


def run_one(name: str, arguments: list[str]) -> None:
    """Fuzz one target in this process until libFuzzer ends it."""
    import atheris

    # an install for editing finds the package before atheris is asked for it
    sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__name__ != "ScikitBuildInplaceFinder"]
    with atheris.instrument_imports(include=["longattn"]):
        import targets

    # made before the clock runs
    folder = Path(tempfile.mkdtemp())
    for number, seed in enumerate(targets.TARGETS[name].seeds()):
        (folder / str(number)).write_bytes(seed)
        targets.check(name, seed)

    def check(data: bytes) -> None:
        before = peak()
        targets.check(name, data)
        # libFuzzer looks now and then, and then does not know which input it was
        if (grown := peak() - before) > MEGABYTES_EACH:
            raise AssertionError(f"{grown} MB for an input of {len(data)} bytes")

    atheris.Setup([sys.argv[0], *arguments, str(folder)], check)
    atheris.Fuzz()


def peak() -> int:
    """The most that this process has held so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def fuzz(name: str, seconds: float, findings: Path, memory: int, seed: int) -> dict[str, object]:
    """Fuzz one target in another process; returns a row for the table."""
    limits = [f"-max_total_time={int(seconds)}", f"-timeout={SECONDS_EACH}", f"-rss_limit_mb={memory}"]
    limits += [f"-artifact_prefix={findings}/{name}-", f"-seed={seed}", "-max_len=65536", "-print_final_stats=1"]
    command = [sys.executable, __file__, "--one", name, *limits]
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "TMPDIR": folder, "OMP_NUM_THREADS": "1", "LONGATTN_CACHE": folder}
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", check=False, env=environment, cwd=folder
        )
    said = done.stderr
    count = re.findall(r"number_of_executed_units: (\d+)|^#(\d+)\s", said, re.MULTILINE)
    covered = re.findall(r"cov: (\d+)", said)
    if done.returncode:
        (findings / f"{name}.log").write_text(said[-20_000:] + done.stdout[-2000:])
    return {
        "target": name,
        "seconds": round(time.monotonic() - began),
        "executions": max((int(a or b) for a, b in count), default=0),
        "places reached": int(covered[-1]) if covered else 0,
        "fault": "" if done.returncode == 0 else re.sub(r"\s+", " ", _fault(said))[:120],
    }


def _fault(said: str) -> str:
    """The line that names what went wrong."""
    found = re.search(r"Uncaught Python exception: ===\n(.+)|ERROR: (.+)|SUMMARY: (.+)", said)
    return next(filter(None, found.groups())) if found else said[-200:]


def main() -> None:
    """Fuzz the targets one after another, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", help="all if none is named")
    parser.add_argument("--seconds", type=float, default=30, help="for each target")
    parser.add_argument("--memory", type=int, default=1500, help="MB that a process may have, all imports with it")
    parser.add_argument(
        "--findings", type=Path, default=Path("fuzz-findings"), help="where inputs that break something go"
    )
    parser.add_argument("--seed", type=int, default=random.randrange(2**31), help="of libFuzzer's random numbers")
    options = parser.parse_args()
    import targets

    options.findings.mkdir(parents=True, exist_ok=True)
    print(f"seed {options.seed}")
    print("| target | seconds | executions | places reached | fault |\n|---|---|---|---|---|", flush=True)
    rows = []
    for name in options.targets or targets.TARGETS:
        row = fuzz(name, options.seconds, options.findings.absolute(), options.memory, options.seed)
        rows.append(row)
        print("| " + " | ".join(map(str, row.values())) + " |", flush=True)
    targets.clean()
    print(
        f"{sum(int(str(row['executions'])) for row in rows):,} executions, {sum(bool(r['fault']) for r in rows)} faults"
    )
    sys.exit(any(row["fault"] for row in rows))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        run_one(sys.argv[2], sys.argv[3:])
    else:
        main()
