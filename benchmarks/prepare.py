"""What a window's queries and keys of layer 0 cost before they are scored: ``python benchmarks/prepare.py``.

``table``: all token ids read from the table on disk. ``kept``: rows that earlier windows computed. ``occurring``: every
different id of the window projected once, nothing known before. ``full``: every token of the window projected. All
must be equal bit for bit before any is timed; each round times all of them, and the best round counts. ``score`` is
the attention of the same window. Text: this Python's own standard library.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from common import publish, standard_library
from longattn import settings
from longattn.attention import row_moments
from longattn.models import load_model, resolve
from longattn.models.base import LayerAttention
from longattn.models.first_layer import FirstLayer
from longattn.models.vocabulary import Unrotated, Vocabulary
from longattn.tokens import Tokenizer


class Full(Vocabulary):
    """Projects every token, as a model does."""

    def rows(self, ids: torch.Tensor) -> tuple[Unrotated, torch.Tensor]:
        """A row per token."""
        return self._project(ids), torch.arange(len(ids))


class Occurring(Vocabulary):
    """Keeps nothing from one window to the next."""

    def rows(self, ids: torch.Tensor) -> tuple[Unrotated, torch.Tensor]:
        """A row per different id."""
        occurring, place = ids.unique(return_inverse=True)
        return self._project(occurring), place


def main() -> None:
    """Check, time, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--lengths", type=int, nargs="+", default=[2048, 8192, 32768])
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--score-up-to", type=int, default=8192, help="longest window that is also scored")
    parser.add_argument("--json", type=Path, help="also write everything to this file")
    options = parser.parse_args()

    rows = []
    for dtype in options.dtypes:
        model = settings.Model(name=options.model, dtype=dtype, rope_theta=2_500_000.0)
        checkpoint = resolve(model)
        ids = torch.from_numpy(
            standard_library(Tokenizer.load(checkpoint.tokenizer_file), max(options.lengths)).astype("int64")
        )
        loaded = load_model(checkpoint, model, layers=(0,), window=max(options.lengths))
        assert isinstance(loaded, FirstLayer), "only the first layer of Llama's kind has a table"
        began = time.perf_counter()
        table = loaded.with_table(build=True)
        opening = time.perf_counter() - began
        ways = {
            "table": table,
            "kept": loaded,
            "occurring": replace(loaded, vocabulary=Occurring(loaded.projector)),
            "full": replace(loaded, vocabulary=Full(loaded.projector)),
        }
        for length in options.lengths:
            window = ids[None, :length]
            facts = {"dtype": dtype, "length": length, "different_ids": len(window.unique())}
            rows.append(facts | {"open_table_ms": round(1e3 * opening, 1)} | measure(ways, window, options))
    publish(rows, options.json, threads=torch.get_num_threads())


def measure(ways: dict[str, FirstLayer], window: torch.Tensor, options: argparse.Namespace) -> dict[str, float]:
    """Milliseconds per window of each way, after all of them gave the same bits."""
    seen = {name: look(model, window) for name, model in ways.items()}
    for name, layer in seen.items():
        assert torch.equal(layer.q, seen["full"].q), f"{name}: other queries than when every token is projected"
        assert torch.equal(layer.k, seen["full"].k), f"{name}: other keys than when every token is projected"
    calls: dict[str, Callable[[], object]] = {
        name: lambda model=model: look(model, window) for name, model in ways.items()
    }
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(options.rounds):
        for name, call in calls.items():
            best[name] = min(best[name], timed(call))
    length, layer = window.shape[1], seen["table"]
    if length <= options.score_up_to:
        positions = torch.arange(length)
        best["score"] = min(
            timed(lambda: row_moments(layer.q, layer.k, positions=positions, distances=[length // 4])) for _ in range(2)
        )
    return {f"{name}_ms": round(1e3 * seconds, 2) for name, seconds in best.items()}


def look(model: FirstLayer, window: torch.Tensor) -> LayerAttention:
    """The queries and keys of a window."""
    seen: list[LayerAttention] = []
    model.queries_and_keys(window, [0], seen.append)
    return seen[0]


def timed(call: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
