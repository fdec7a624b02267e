"""Data sets that everybody reports, through lm-eval: LongBench, MMLU, HellaSwag, OpenBookQA, HumanEval.

Their questions are data sets of the Hugging Face hub. What of them is in the cache is looked at first, so that a
machine without a network gets an answer and no traceback.
"""

import importlib
import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longattn import settings
from longattn.errors import LongAttnError, ModelError
from longattn.evals.running import is_whole
from longattn.models import Checkpoint, resolve
from longattn.models.weights import LocalWeights
from longattn.settings import fingerprint
from longattn.tables import make_folder, read_sealed, write_sealed


@dataclass(frozen=True)
class Suite:
    """A task or group of lm-eval."""

    task: str
    dataset: str
    """On the Hugging Face hub."""
    shots: int | None
    """Solved examples before a question; None is what lm-eval has."""
    runs_code: bool = False
    """Whether it runs what the model writes."""


SUITES = {
    "longbench": Suite("longbench", "Xnhyacinth/LongBench", None),
    "mmlu": Suite("mmlu", "cais/mmlu", 5),
    "hellaswag": Suite("hellaswag", "Rowan/hellaswag", 10),
    "openbookqa": Suite("openbookqa", "allenai/openbookqa", 0),
    "humaneval": Suite("humaneval", "openai/openai_humaneval", 0, runs_code=True),
}
"""What the LongAttn paper reports beside RULER. It does not state its numbers of shots: these are the usual ones."""


class MissingDataError(LongAttnError):
    """Data sets are not in the cache, and were not to be fetched."""


def cached(suite: Suite) -> bool:
    """Whether the cache of the hub, or that of prepared data sets, holds the suite's data."""
    from datasets.config import HF_DATASETS_CACHE
    from huggingface_hub.constants import HF_HUB_CACHE

    places = (
        Path(HF_HUB_CACHE) / f"datasets--{suite.dataset.replace('/', '--')}" / "snapshots",
        Path(HF_DATASETS_CACHE) / suite.dataset.replace("/", "___"),
    )
    return any(place.is_dir() and any(place.iterdir()) for place in places)


def run_suites(
    output: Path,
    model: settings.Model,
    names: Sequence[str],
    *,
    download: bool = False,
    limit: int | None = None,
    length: int | None = None,
    device: str = "cpu",
    run_code: bool = False,
) -> dict[str, Any]:
    """lm-eval's results for some suites, written to ``suite-<name>-<settings>.json``; those that are there are read.

    ``length`` is the most tokens of a prompt: lm-eval cuts longer ones on the left, LongBench itself in the middle.
    Raises :class:`MissingDataError` for data that would have to be fetched, before anything runs; ``ValueError`` for a
    suite that does not exist or would run code unasked.
    """
    if unknown := [name for name in names if name not in SUITES]:
        raise ValueError(f"there is no suite {unknown[0]!r}; there are {', '.join(SUITES)}")
    if not run_code and (coding := [name for name in names if SUITES[name].runs_code]):
        raise ValueError(f"{coding[0]} runs code that the model writes: --run-code allows it, best in a container")
    if model.rope_theta is not None:
        raise ModelError("lm-eval reads rope_theta from config.json: change it there")
    checkpoint = resolve(model)
    facts = {name: _facts(name, checkpoint, model, limit, length) for name in names}
    paths = {name: output / f"suite-{name}-{fingerprint(facts[name])}.json" for name in names}
    to_run = [name for name in names if not is_whole(paths[name])]
    if not download and (missing := [SUITES[name].dataset for name in to_run if not cached(SUITES[name])]):
        raise MissingDataError(
            f"not in the cache: {', '.join(missing)}; --download fetches them from the Hugging Face hub, or copy the "
            "cache of a machine that has them (HF_HOME)"
        )
    if to_run:
        weights = checkpoint.weights.fetch(checkpoint.weights.names)
        if not isinstance(weights, LocalWeights):
            raise ModelError(f"{checkpoint.name} has no folder that lm-eval could read")
        make_folder(output)
        for name in to_run:
            result = _evaluate(SUITES[name], weights.folder, model, limit, length, device)
            write_sealed(paths[name], {**facts[name], **result})
    return {name: read_sealed(paths[name]) for name in names}


def _facts(
    name: str, checkpoint: Checkpoint, model: settings.Model, limit: int | None, length: int | None
) -> dict[str, Any]:
    """What decides a result; its fingerprint is part of the file's name."""
    return {
        "suite": name,
        "shots": SUITES[name].shots,
        "limit": limit,
        "length": length,
        "model": {"name": checkpoint.name, "hash": checkpoint.hash, "dtype": model.dtype},
        # by the name of its module, which is what the answer to a missing one looks for
        "lm_eval": importlib.metadata.version("lm_eval"),
    }


def _evaluate(
    suite: Suite, folder: Path, model: settings.Model, limit: int | None, length: int | None, device: str
) -> dict[str, Any]:
    # its functions are loaded when they are asked for, and known to no type checker
    lm_eval: Any = importlib.import_module("lm_eval")
    arguments: dict[str, Any] = {"pretrained": str(folder), "dtype": model.dtype, "device": device}
    if length is not None:
        arguments["max_length"] = length
    evaluated = lm_eval.simple_evaluate(
        model="hf",
        model_args=arguments,
        tasks=[suite.task],
        num_fewshot=suite.shots,
        limit=limit,
        confirm_run_unsafe_code=suite.runs_code,
        log_samples=False,
    )
    assert evaluated is not None, "only other ranks than the first get nothing"
    return {
        "results": evaluated["results"],
        "versions": evaluated["versions"],
        "samples": evaluated["n-samples"],
    }
