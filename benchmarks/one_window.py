"""Time and peak memory of one window's exact measurement, tokens in and columns out.

::

    python benchmarks/one_window.py --length 32768 --dtype bfloat16

Resident memory is read after loading (interpreter, libraries, weights) and at its peak. Text: this Python's own
standard library, or the token ids of a JSON file.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from common import publish, resident, standard_library
from longattn import settings
from longattn.measuring import measure_windows
from longattn.models import load_model, resolve
from longattn.records import Window
from longattn.scorers import LongAttn
from longattn.tokens import Tokenizer


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=32768, help="tokens of the window")
    parser.add_argument("--model", default="smollm2", help="smollm2, a GGUF file or a checkpoint folder")
    parser.add_argument("--rope-theta", type=float, default=2_500_000.0, help="base of the rotary embedding")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--backend", default="auto", help="attention kernel")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of the window; the fastest is told")
    parser.add_argument("--tokens", type=Path, help="JSON list of token ids to take instead of the standard library")
    parser.add_argument("--json", type=Path, help="also write everything to this file")
    return parser.parse_args()


def main() -> None:
    """Measure one window."""
    options = parse()
    model = settings.Model(name=options.model, rope_theta=options.rope_theta, dtype=options.dtype)
    checkpoint = resolve(model)
    if options.tokens:
        ids = np.array(json.loads(options.tokens.read_text(encoding="utf-8")), dtype=np.uint32)
    else:
        ids = standard_library(Tokenizer.load(checkpoint.tokenizer_file), options.length)
    scorer = LongAttn(backend=options.backend, per_head=True).for_length(len(ids))
    loaded = load_model(checkpoint, model, layers=(0,), window=len(ids))
    # a short window first, so that lazily loaded libraries count as loaded
    measure_windows([LongAttn(backend=options.backend).for_length(64)], loaded, [_window(ids[:64])])

    before, seconds = resident(peak=False), []
    columns: dict[str, Any] = {}
    for _ in range(options.repeats):
        began = time.perf_counter()
        columns = dict(measure_windows([scorer], loaded, [_window(ids)])["longattn"])
        seconds.append(time.perf_counter() - began)
    s1_H, s2_H = (columns[f"heads_{kind}_l0_d{scorer.distance}"][0] for kind in ("s1", "s2"))
    row = {
        "tokens": len(ids),
        "dtype": options.dtype,
        "backend": options.backend,
        "seconds": min(seconds),
        "first_seconds": seconds[0],
        "tokens_per_second": len(ids) / min(seconds),
        "peak_mb": resident(peak=True),
        "beside_loaded_mb": resident(peak=True) - before,
    }
    publish([row], options.json, distance=scorer.distance, ds=(s1_H / len(ids)).tolist(), s2=s2_H.tolist())


def _window(tokens: npt.NDArray[np.uint32]) -> Window:
    return Window("d", "s", 0, tokens, 0, 1, len(tokens))


if __name__ == "__main__":
    main()
