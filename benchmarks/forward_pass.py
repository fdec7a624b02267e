"""A forward pass on a processor, attending by the native kernel and by torch: ``python benchmarks/forward_pass.py``.

Scorers that need predictions or later layers spend their time here. Both ways read the same window of this Python's
standard library, taking turns; processor time over threads, the best of the rounds. Before that, every token's loss is
held to that of a float32 pass by torch: if either way is further from it than the type explains, neither is timed.
"""

import argparse
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from common import publish, standard_library
from longattn import settings
from longattn.attention import attend, native
from longattn.models import load_model, resolve
from longattn.models.base import Model
from longattn.tokens import Tokenizer

MEAN_ERROR = {"float32": 1e-4, "bfloat16": 0.05}
"""Nats of a token, mean of absolute differences, that are put down to the type."""


@contextmanager
def attending(by: str) -> Iterator[None]:
    """Forward passes attend by this: ``native`` or ``torch``."""
    with mock.patch.object(native, "suits", return_value=by == "native"):
        yield


def main() -> None:
    """Compare, time, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", nargs="+", type=int, default=[512, 2048, 8192])
    parser.add_argument("--dtypes", nargs="+", choices=sorted(MEAN_ERROR), default=["bfloat16", "float32"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="also write everything to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows, wrong = [], False
    for dtype in options.dtypes:
        for length in options.lengths:
            row = compare(length, dtype, options.rounds)
            wrong |= "not_timed" in row
            rows.append(row)
    publish(rows, options.json, threads=torch.get_num_threads(), isa=native.isa())
    raise SystemExit(1 if wrong else 0)


def compare(length: int, dtype: str, rounds: int) -> dict[str, object]:
    """Both ways at one length: seconds of the pass and of its attention, and how far they are from float32."""
    checkpoint = resolve(settings.Model())
    tokens_T = standard_library(Tokenizer.load(checkpoint.tokenizer_file), length)
    tokens_BT = torch.from_numpy(tokens_T.astype(np.int64))[None]

    def load(dtype: Any) -> Model:
        return load_model(checkpoint, settings.Model(dtype=dtype), layers=(), window=length, predicts=True)

    with attending("torch"):
        law = load("float32").predictions(tokens_BT).log_probs
    model, found = load(dtype), {"tokens": length, "dtype": dtype}
    for by in ("native", "torch"):
        with attending(by):
            found[f"{by}_error"] = (model.predictions(tokens_BT).log_probs - law).abs().mean().item()
    if any(found[f"{by}_error"] > MEAN_ERROR[dtype] for by in ("native", "torch")):
        return {**found, "not_timed": "further from float32 than its type explains"}
    config = checkpoint.config
    heads, keys = config["num_attention_heads"], config["num_key_value_heads"]
    size = config["hidden_size"] // heads
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(1, length, count, size, generator=generator).to(model.dtype) for count in (heads, keys, keys)
    )
    seconds = {}
    for _ in range(rounds):
        for by in ("native", "torch"):
            with attending(by), torch.inference_mode():
                for name, work in (
                    ("pass", lambda: model.predictions(tokens_BT)),
                    ("attention", lambda: layers(model.num_layers, q, k, v)),
                ):
                    began = time.process_time()
                    work()
                    taken = (time.process_time() - began) / torch.get_num_threads()
                    seconds[by, name] = min(seconds.get((by, name), math.inf), taken)
    for name in ("attention", "pass"):
        found |= {f"{name}_{by}_cpu_s": seconds[by, name] for by in ("native", "torch")}
        found[f"{name}_times_faster"] = seconds["torch", name] / seconds["native", name]
    return found


def layers(count: int, q: Tensor, k: Tensor, v: Tensor) -> None:
    """The attention of as many layers."""
    for _ in range(count):
        attend(q, k, v, scale=q.shape[3] ** -0.5)


if __name__ == "__main__":
    main()
