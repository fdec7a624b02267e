"""Time, peak memory and size of the report over synthetic tables: ``python benchmarks/report_rows.py --rows 100000``.

Tables are those of ``select_rows.py`` and, of the same windows, ``token_null`` and ``length``. The report is gathered
and rendered in a process of its own, with texts as long as windows are, and then the comparison with a second selection
(alpha 1, share 0.2).
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

import select_rows
from common import publish
from longattn.alternatives import measured
from longattn.report import compare_selections, gather, render, render_difference
from longattn.scorers import Length, LongAttn, Scorer, TokenNull
from longattn.selection import Formula, select
from longattn.settings import Selecting, plain
from longattn.tables import RunFolder, Table

LENGTH = select_rows.LENGTH
SCORERS: dict[str, Scorer] = {
    "longattn": select_rows.SCORER,
    "token_null": TokenNull().for_length(LENGTH),
    "length": Length(),
}
OTHER = LongAttn(alpha=1.0).for_length(LENGTH)


def tables(folder: Path) -> tuple[Table, dict[str, Table]]:
    """The windows table and the scorers'."""
    windows, longattn = select_rows.tables(folder)
    run = RunFolder(folder)
    others = {name: run.table(name, dict(of.measurement())) for name, of in SCORERS.items() if name != "longattn"}
    return windows, {"longattn": longattn, **others}


def write_others(folder: Path, unit: str) -> None:
    """The cheaper scorers' tables of a unit whose windows are there."""
    windows, scorers = tables(folder)
    rows = next(windows.read([unit], ["window_id", "doc_tokens"]))
    predicted = np.random.default_rng(int(unit, 16)).normal(0.35, 0.01, len(rows))
    for name, values in (("token_null", pa.array(predicted)), ("length", rows["doc_tokens"])):
        scorers[name].commit(unit, pa.table({"window_id": rows["window_id"], name: values}), {}, {})


def texts(window_ids: Sequence[str]) -> dict[str, str]:
    """Made-up texts of windows, four characters a token."""
    return {window_id: " ".join(f"{window_id} {i}" for i in range(LENGTH))[: 4 * LENGTH] for window_id in window_ids}


def run_report(folder: Path, select_only: bool) -> None:
    """Select, or report and compare; print what it took."""
    windows, scorers = tables(folder)
    units = sorted(path.stem.removeprefix("unit-") for path in windows.folder.glob("*.parquet"))
    rule = Selecting()
    if select_only:
        run = RunFolder(folder)
        for scorer, file, choice in ((SCORERS["longattn"], "selection", rule), (OTHER, "other", Selecting(share=0.2))):
            formulas = {"longattn": Formula(scorers["longattn"], scorer.score(), scorer.readings())}
            with run.replacing(f"{file}.parquet") as sections:
                found = select(units, windows, formulas, choice, folder / f"{file}.parquet")
                if file == "selection":
                    facts = {"recipe": {"window": {"length": LENGTH}, "keep": plain(rule)}, "selection": plain(found)}
                    sections |= {**facts, "tables": {}}
        return
    manifest = RunFolder(folder).manifest()
    began, cpu_began = time.perf_counter(), time.process_time()
    known = measured(units, windows, scorers, SCORERS, rule, manifest["selection"]["sources"], "float32")
    null = SCORERS["longattn"].null()
    page = render(gather(RunFolder(folder), null=null, command="longattn run", texts=texts, measured=known))
    reported, cpu_reported = time.perf_counter() - began, time.process_time() - cpu_began
    report_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    began, cpu_began = time.perf_counter(), time.process_time()
    difference = render_difference(compare_selections(folder, folder / "other.parquet"))
    took = {
        "report_seconds": round(reported, 1),
        "report_cpu_seconds": round(cpu_reported, 1),
        "report_peak_mb": round(report_mb),
        "report_kb": round(len(page.encode()) / 1000),
        "diff_seconds": round(time.perf_counter() - began, 1),
        "diff_cpu_seconds": round(time.process_time() - cpu_began, 1),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "diff_kb": round(len(difference.encode()) / 1000),
    }
    sys.stdout.write(json.dumps(took))


def main() -> None:
    """Make the tables, select, report and compare in processes of their own, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--sources", type=int, default=6)
    parser.add_argument("--units", type=int, default=24)
    parser.add_argument("--folder", type=Path, help="keep the tables here, or use those that are here")
    parser.add_argument("--stage", choices=("select", "report"), help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, help="also write everything to this file")
    options = parser.parse_args()
    if options.stage is not None:
        run_report(options.folder, options.stage == "select")
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        if not tables(folder)[0].folder.exists():
            for number in range(options.units):
                num_rows = (number + 1) * options.rows // options.units - number * options.rows // options.units
                select_rows.write_unit(folder, number, num_rows, f"source{number % options.sources}")
                write_others(folder, f"{number:016x}")
        command = [sys.executable, __file__, "--folder", str(folder), "--stage"]
        if not (folder / "selection.parquet").exists():
            subprocess.run([*command, "select"], check=True)
        took = json.loads(subprocess.run([*command, "report"], check=True, capture_output=True, text=True).stdout)
    sizes = {"rows": options.rows, "sources": options.sources, "units": options.units}
    publish([{**sizes, **took}], options.json)


if __name__ == "__main__":
    main()
