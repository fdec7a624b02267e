"""What another number format changes: ``python benchmarks/dtypes.py`` measures windows in float32 and in bfloat16.

The text is this Python's own modules and packages, two sources; the model is the embedded one unless ``--model`` names
another. DS and LDS of both runs are compared by Spearman's rank correlation, and the best windows by how many of them
are the same: 1 is all. The largest difference is in standard deviations of the first run's numbers.
"""

import argparse
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from common import publish
from longattn import verbs
from longattn.recipes import Recipe
from longattn.settings import Compute, Corpus, Model, Selecting, Windowing
from study import standard_library, write

SHARES = (0.1, 0.25, 0.5)


def main() -> None:
    """Both runs, then rows of figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--dtypes", nargs=2, default=("float32", "bfloat16"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="also write everything to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write(folder / "corpus.jsonl", sourced())
        first, second = (measured(folder, dtype, options) for dtype in options.dtypes)
    rows = list(compared(first, second))
    publish(rows, options.json, model=options.model, length=options.length, dtypes=options.dtypes)


def sourced() -> Iterator[dict[str, str]]:
    """Single modules are one source, packages another."""
    for record in standard_library():
        yield {**record, "source": "packages" if record["id"].count("/") > 1 else "modules"}


def measured(folder: Path, dtype: Any, options: argparse.Namespace) -> dict[str, npt.NDArray[Any]]:
    """The columns of the windows of a run in this number format, by window."""
    recipe = Recipe(
        corpus=Corpus(inputs=(str(folder / "corpus.jsonl"),), source_field="source"),
        window=Windowing(length=options.length),
        model=Model(name=options.model, dtype=dtype),
        keep=Selecting(share=0.5),
    )
    output = folder / dtype
    verbs.measure(recipe, output, Compute(devices=(options.device,)))
    verbs.select(recipe, output)
    table = pq.read_table(output / "selection.parquet").sort_by("window_id")
    return {name: table[name].to_numpy() for name in ("window_id", "source", "ds", "score")}


def compared(first: Mapping[str, npt.NDArray[Any]], second: Mapping[str, npt.NDArray[Any]]) -> Iterator[dict[str, Any]]:
    """One row for each source and number."""
    assert np.array_equal(first["window_id"], second["window_id"])
    for source in np.unique(first["source"]):
        here = first["source"] == source
        for name in ("ds", "score"):
            one, other = first[name][here], second[name][here]
            row: dict[str, Any] = {"source": source, "of": {"ds": "DS", "score": "LDS"}[name], "windows": len(one)}
            row["1 - spearman"] = 1 - float(np.corrcoef(ranks(one), ranks(other))[0, 1])
            for share in SHARES:
                count = max(1, round(share * len(one)))
                best = [set(np.argsort(-values, kind="stable")[:count].tolist()) for values in (one, other)]
                row[f"best {share:.0%}"] = len(best[0] & best[1]) / count
            row["largest_difference"] = float(np.abs(one - other).max() / one.std())
            yield row


def ranks(values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """0 for the smallest; scores of different windows are hardly ever equal."""
    return np.argsort(np.argsort(values, kind="stable"), kind="stable")


if __name__ == "__main__":
    main()
