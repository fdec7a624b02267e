"""Time and peak memory of ``select`` over synthetic tables: ``python benchmarks/select_rows.py --rows 10000000``.

Tables are what measuring leaves behind: documents cut by the paper's rule (one window in fourteen shares more than
half of its tokens with a better one), and the columns of the ``longattn`` scorer with plausible random values. The rule
is the default one. Selecting is done in a process of its own; making the tables is not timed.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from common import publish
from longattn.scorers import LongAttn
from longattn.selection import Formula, select
from longattn.settings import Selecting
from longattn.tables import RunFolder, Table
from longattn.windows import window_starts

LENGTH = 4096
SCORER = LongAttn().for_length(LENGTH)


def tables(folder: Path) -> tuple[Table, Table]:
    """The windows table and the scorer's."""
    run = RunFolder(folder)
    return run.table("windows", {"length": LENGTH}), run.table("longattn", SCORER.measurement())


def write_unit(folder: Path, number: int, num_rows: int, source: str) -> None:
    """Write one unit of both tables: documents of one file, mostly of a few windows."""
    random = np.random.default_rng(number)
    file = f"/data/corpus/{source}/part-{number:05}.jsonl"
    rows: list[tuple[str, int, int, int, int]] = []
    position = 0
    while len(rows) < num_rows:
        doc_tokens = int(LENGTH * (1 + random.exponential(3)))
        stop = 0
        for start in window_starts(doc_tokens, LENGTH):
            rows.append((f"{file}:{position}", position, start, doc_tokens, max(0, stop - start)))
            stop = start + LENGTH
        position += 4 * doc_tokens + 60
    docs, positions, starts, doc_tokens, overlaps = zip(*rows[:num_rows], strict=True)
    start = np.array(starts)
    ids = [f"{doc}@{start}" for doc, start in zip(docs, starts, strict=True)]
    windows, scores = tables(folder)
    columns = {
        "window_id": ids,
        "doc_id": docs,
        "source": [source] * num_rows,
        "file": [file] * num_rows,
        "position": positions,
        "start": start,
        "num_tokens": np.full(num_rows, LENGTH, np.int32),
        "char_start": 4 * start,
        "char_end": 4 * (start + LENGTH),
        "doc_tokens": doc_tokens,
        "overlap": np.array(overlaps, np.int32),
    }
    windows.commit(f"{number:016x}", pa.table(columns), {}, {})
    scores.commit(f"{number:016x}", pa.table({"window_id": ids} | measured(random, num_rows)), {}, {})


def measured(random: np.random.Generator, num_rows: int) -> dict[str, np.ndarray]:
    """The scorer's columns: S1 around a third of the tokens, S2 such that the variance is about its mean squared."""
    columns: dict[str, np.ndarray] = {"num_tokens": np.full(num_rows, LENGTH, np.int32)}
    for name in SCORER.schema():
        if name.startswith("s1_"):
            s1 = LENGTH * random.normal(0.35, 0.02, num_rows)
            columns |= {name: s1, name.replace("s1_", "s1sq_"): s1 * s1 * random.normal(1.02, 0.005, num_rows)}
            columns[name.replace("s1_", "s2_")] = random.gamma(8.0, s1 / 8000)
    return columns


def run_select(folder: Path) -> None:
    """Select with the default rule and print what it took."""
    windows, scores = tables(folder)
    units = sorted(path.stem.removeprefix("unit-") for path in windows.folder.glob("*.parquet"))
    formulas = {"longattn": Formula(scores, SCORER.score(), SCORER.readings())}
    began = time.perf_counter()
    selection = select(units, windows, formulas, Selecting(), folder / "selection.parquet")
    usage = resource.getrusage(resource.RUSAGE_SELF)
    took = {
        "seconds": round(time.perf_counter() - began, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_mb": round(usage.ru_maxrss / 1024),
        "file_mb": round(Path(selection.path).stat().st_size / 2**20),
        "kept": sum(source.kept for source in selection.sources.values()),
        "overlap": sum(source.reasons.get("overlap", 0) for source in selection.sources.values()),
    }
    sys.stdout.write(json.dumps(took))


def main() -> None:
    """Make the tables, select in another process, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--sources", type=int, default=6)
    parser.add_argument("--units", type=int, default=1000)
    parser.add_argument("--folder", type=Path, help="keep the tables here, or use those that are here")
    parser.add_argument("--select-only", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, help="also write everything to this file")
    options = parser.parse_args()
    if options.select_only:
        run_select(options.folder)
        return

    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        if not tables(folder)[0].folder.exists():
            for number in range(options.units):
                num_rows = (number + 1) * options.rows // options.units - number * options.rows // options.units
                write_unit(folder, number, num_rows, f"source{number % options.sources}")
        command = [sys.executable, __file__, "--folder", str(folder), "--select-only"]
        took = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    sizes = {"rows": options.rows, "sources": options.sources, "units": options.units}
    publish([{**sizes, **took}], options.json)


if __name__ == "__main__":
    main()
