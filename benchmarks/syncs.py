"""What it costs that every file is on the disk before it is believed: ``python benchmarks/syncs.py [--folder DIR]``.

A run of this Python's own modules is measured, selected and exported in this process with the embedded model's first
layer. The time within ``os.fsync`` is added up, and compared with that of the run. The folder's file system matters.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

from common import publish
from longattn import verbs
from longattn.recipes import Recipe
from longattn.settings import Compute, Corpus, Model, Selecting, Windowing
from study import standard_library, write


def main() -> None:
    """One row of figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where the run shall be; a temporary folder without it")
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--unit-bytes", type=int, default=1_000_000)
    parser.add_argument("--json", type=Path, help="also write everything to this file")
    options = parser.parse_args()
    waits: list[float] = []
    sync = os.fsync

    def timed(file: int) -> None:
        began = time.perf_counter()
        sync(file)
        waits.append(time.perf_counter() - began)

    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        write(Path(temporary, "corpus.jsonl"), standard_library())
        recipe = Recipe(
            corpus=Corpus(inputs=(f"code={temporary}/corpus.jsonl",), unit_bytes=options.unit_bytes),
            window=Windowing(length=options.length),
            model=Model(),
            keep=Selecting(share=0.5),
        )
        os.fsync = timed
        began = time.perf_counter()
        counts = verbs.measure(recipe, Path(temporary, "run"), Compute(workers=0, devices=("cpu",)))
        verbs.select(recipe, Path(temporary, "run"))
        verbs.export_selection(recipe, Path(temporary, "run"))
        seconds = time.perf_counter() - began
        os.fsync = sync
    row = {
        "windows": counts["windows"],
        "run_s": seconds,
        "syncs": len(waits),
        "syncs_s": sum(waits),
        "share_%": 100 * sum(waits) / seconds,
        "longest_s": max(waits),
    }
    publish([row], options.json, length=options.length, unit_bytes=options.unit_bytes)


if __name__ == "__main__":
    main()
