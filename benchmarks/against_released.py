"""Exact layer-0 scoring beside the authors' released model class: seconds and peak memory, taking turns.

The released code has no licence and is not here; ``compare_released.py`` says how to set up its environment::

    python benchmarks/against_released.py released --python released-env/bin/python --json headline.json

Each run is a process of its own: weights are loaded, then one window is scored, tokens in and statistics out. Theirs is
timed in float32 with the faster of its two attention implementations; ours in float32 and bfloat16. Nothing is
timed that disagrees: per head, DS of both sides must agree within 1e-3 (1e-2 for bfloat16, whose queries and keys are
rounded), else the program ends with status 1.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from common import commit, publish, standard_library
from compare_released import Released, released_distance
from longattn import settings
from longattn.models import resolve
from longattn.tokens import Tokenizer

BOUNDS = {"float32": 1e-3, "bfloat16": 1e-2}


def ours(tokens: Path, dtype: str, theta: float) -> dict[str, Any]:
    """One run of ours, by ``one_window.py``."""
    script = Path(__file__).with_name("one_window.py")
    answer = tokens.with_suffix(".answer")
    command = [sys.executable, str(script), "--tokens", str(tokens), "--json", str(answer)]
    subprocess.run([*command, "--dtype", dtype, "--rope-theta", str(theta)], capture_output=True, check=True)
    facts = json.loads(answer.read_text(encoding="utf-8"))
    return {**facts, **facts["rows"][0]}


def compare(released: Released, ids: list[int], repeats: int, theta: float) -> list[dict[str, Any]]:
    """Both sides on one window, a row each; raises ``SystemExit`` where they disagree."""
    if released_distance(len(ids)) != len(ids) // 4:
        raise SystemExit("the length must be a multiple of 4, for both sides to have the same distance")
    runs: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tokens.json"
        file.write_text(json.dumps(ids), encoding="utf-8")
        for _ in range(repeats):
            for dtype in BOUNDS:
                runs.setdefault(dtype, []).append(ours(file, dtype, theta))
            for attention in ("eager", "sdpa"):
                heads, facts = released.ask([ids], attention=attention)
                runs.setdefault(attention, []).append(
                    {**facts, "ds": heads[0].ds, "peak_mb": facts["peak_bytes"] / 2**20}
                )
    # without padding in the batch only "eager" is causal, and can agree
    theirs = runs["eager"][0]["ds"]
    for dtype, bound in BOUNDS.items():
        apart = float(np.abs(np.array(runs[dtype][0]["ds"]) / theirs - 1).max())
        if not apart <= bound:
            raise SystemExit(f"DS in {dtype} differs by {apart:.1e} from the released code's, more than {bound:.0e}")
    best = {side: min(run["seconds"] for run in done) for side, done in runs.items()}
    peak = {side: max(run["peak_mb"] for run in done) for side, done in runs.items()}
    their_best, their_peak = min(best["eager"], best["sdpa"]), min(peak["eager"], peak["sdpa"])
    rows: list[dict[str, Any]] = []
    for side in runs:
        row = {"tokens": len(ids), "side": f"released, {side}", "seconds": best[side], "peak_mb": peak[side]}
        if side in BOUNDS:
            ratios = {"times_faster": their_best / best[side], "share_of_memory": peak[side] / their_peak}
            row |= {"side": f"ours, {side}", **ratios}
        rows.append(row)
    return rows


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, help="folder with the released code")
    parser.add_argument("--python", required=True, help="interpreter of the environment it runs in")
    parser.add_argument("--lengths", type=int, nargs="+", default=[8192, 16384], help="tokens per window")
    parser.add_argument("--repeats", type=int, default=2, help="turns of every side")
    parser.add_argument(
        "--rope-theta", type=float, default=2_500_000.0, help="base of the rotary embedding, both sides"
    )
    parser.add_argument("--json", type=Path, help="also write everything to this file")
    return parser.parse_args()


def main() -> None:
    """Print a table, and everything as JSON on request."""
    options = parse()
    model = settings.Model(rope_theta=options.rope_theta)
    checkpoint = resolve(model)
    ids = standard_library(Tokenizer.load(checkpoint.tokenizer_file), max(options.lengths)).tolist()
    released = Released(options.checkout, options.python, model, checkpoint.tokenizer_file.parent)
    windows = [ids[:length] for length in options.lengths]
    rows = [row for window in windows for row in compare(released, window, options.repeats, options.rope_theta)]
    publish(rows, options.json, released=commit(options.checkout))


if __name__ == "__main__":
    main()
