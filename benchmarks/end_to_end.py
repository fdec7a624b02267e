"""CPU seconds of a whole ``measure`` against those of its stages alone: ``python benchmarks/end_to_end.py``.

The stages run one after another in this process: read, tokenise and cut, prepare (queries and keys), score, commit.
The whole is ``measure`` with one tokeniser process and one scorer process, this process and its children together.
What a run costs before its first window (interpreters, imports, loading the model) is that of a run over one short
document, and is reported apart. Text: this Python's own standard library, a module per document.
"""

import argparse
import json
import resource
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from common import publish
from longattn import corpus, verbs
from longattn.engines.embedded import load_model
from longattn.measuring import Job, commit_unit, cut_unit, measure_windows
from longattn.models.base import Model
from longattn.pilots import with_pilots
from longattn.recipes import Recipe
from longattn.records import Window, WorkUnit
from longattn.scorers import LongAttn
from longattn.settings import Compute, Corpus, Windowing
from longattn.settings import Model as ModelSettings
from longattn.tokens import Tokenizer


def cpu_seconds() -> float:
    """Of this process and of its children that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


@contextmanager
def clock(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Add the CPU seconds of a block to one stage."""
    began = cpu_seconds()
    yield
    seconds[name] = seconds.get(name, 0.0) + cpu_seconds() - began


def main() -> None:
    """Run stages and whole, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--modules", type=int, default=40, help="the longest so many modules")
    parser.add_argument("--tokenizer", default="tokenizers", choices=["auto", "tokenizers", "gigatoken"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rows", type=float, help="score this share of the pairs; the pilot is fitted before, untimed")
    parser.add_argument("--json", type=Path, help="also write everything to this file")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"), key=lambda file: -file.stat().st_size)
        texts = [file.read_text(encoding="utf-8") for file in files[: options.modules]]
        whole, short = (write(folder / f"{name}.jsonl", part) for name, part in (("all", texts), ("one", ["x = 1"])))
        compute = Compute(workers=1, devices=("cpu",), threads=options.threads, tokenizer=options.tokenizer)

        def recipe(file: Path) -> Recipe:
            # the short document holds no window that a pilot could be made of
            longattn = LongAttn(rows=options.rows if file == whole else None)
            return Recipe(
                settings=replace(Recipe().settings, longattn=longattn),
                corpus=Corpus(inputs=(f"code={file}",), unit_bytes=2**20),
                window=Windowing(length=options.length),
                model=ModelSettings(dtype=options.dtype),
            )

        def run(file: Path, output: str) -> dict[str, float]:
            seconds: dict[str, float] = {}
            began = time.perf_counter()
            with clock(seconds, "cpu"):
                counts = verbs.measure(recipe(file), folder / output, compute)
            return {**seconds, "wall": time.perf_counter() - began, "windows": counts["windows"]}

        # whatever is built once and kept in the cache is built here
        run(short, "first")
        start = run(short, "start")
        with_pilot(recipe(whole), folder / "whole")
        measured = run(whole, "whole")
        stages, windows = alone(recipe(whole), folder / "stages", compute)
        assert windows == measured["windows"], "the stages and the run must do the same work"

    total = sum(stages.values())
    whole = measured["cpu"] - start["cpu"]
    row = {
        "windows": windows,
        **{f"{name}_cpu_s": taken for name, taken in stages.items()},
        "stages_cpu_s": total,
        "whole_cpu_s": whole,
        "whole_over_stages": whole / total,
        "start_cpu_s": start["cpu"],
        "whole_wall_s": measured["wall"],
        "tokens_per_second": windows * options.length / (measured["wall"] - start["wall"]),
        "tokeniser_alone": windows * options.length / stages["tokenise and cut"],
    }
    publish([row], options.json, options=vars(options))


def write(path: Path, texts: list[str]) -> Path:
    """A JSON lines file with a document per text."""
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


def with_pilot(recipe: Recipe, output: Path) -> tuple[Job, list[WorkUnit]]:
    """What a run shall measure; its pilot, if it needs one, is fitted and written."""
    units = verbs.plan(recipe, output)
    return with_pilots(verbs.prepare(recipe, output), units, "cpu"), units


def alone(recipe: Recipe, output: Path, compute: Compute) -> tuple[dict[str, float], int]:
    """CPU seconds per stage, and windows, of the same work in this process."""
    job, units = with_pilot(recipe, output)
    tokenizer = Tokenizer.load(job.checkpoint.tokenizer_file, compute.tokenizer)
    model = load_model(job, units, compute, "cpu")
    assert model is not None
    warm = cut_unit(units[0], job, tokenizer).windows[:1]
    look(model, warm)
    measure_windows(job.scorers, model, warm)
    seconds: dict[str, float] = {}
    windows = sum(_unit(unit, job, tokenizer, model, seconds) for unit in units)
    # to cut a unit is to read it too, and to measure a window is to prepare it too
    seconds["tokenise and cut"] -= seconds["read"]
    seconds["score"] -= seconds["prepare"]
    return seconds, windows


def _unit(unit: WorkUnit, job: Job, tokenizer: Tokenizer, model: Model, seconds: dict[str, float]) -> int:
    with clock(seconds, "read"):
        for _ in corpus.read_unit(unit, job.corpus):
            pass
    with clock(seconds, "tokenise and cut"):
        pieces = cut_unit(unit, job, tokenizer)
    with clock(seconds, "prepare"):
        look(model, pieces.windows)
    with clock(seconds, "score"):
        measured = measure_windows(job.scorers, model, pieces.windows)
    with clock(seconds, "commit"):
        commit_unit(job, pieces, measured)
    return len(pieces.windows)


def look(model: Model, windows: list[Window]) -> None:
    """Make queries and keys, and do nothing with them."""
    for window in windows:
        model.queries_and_keys(torch.from_numpy(window.tokens.astype("int64"))[None], [0], lambda layer: None)


if __name__ == "__main__":
    main()
