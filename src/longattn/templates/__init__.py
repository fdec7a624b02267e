"""Job files for schedulers, filled in with the command of a run; configurations of training stacks are beside them."""

import json
import shlex
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Literal

from longattn.recipes import Recipe, as_flags
from longattn.templating import fill

Scheduler = Literal["slurm", "kubernetes", "ray"]
Stack = Literal["hf", "megatron-bridge", "torchtitan", "axolotl", "llamafactory"]


def render(
    scheduler: Scheduler, recipe: Recipe, output: str | Path, *, shards: int, gpus: int, image: str = "IMAGE"
) -> str:
    """A job file that measures this recipe into a run folder that all machines see.

    ``slurm``: an array of ``shards`` tasks; ``kubernetes``: an indexed job of ``shards`` pods; ``ray``: a job for a
    running cluster, which needs no shards. ``gpus`` of each task; for Ray those are the cluster's. Every word of the
    command is quoted for the file's language. Raises ``ValueError`` for fewer than one shard.
    """
    if shards < 1:
        raise ValueError(f"shards must be at least 1, got {shards}")
    source = (files(__name__) / f"{scheduler}.jinja").read_text(encoding="utf-8")
    words = [*recipe.corpus.inputs, "--output", str(output), *as_flags(recipe)]
    # words are quoted for the shell or for YAML where they are put in
    filters = {"shell": _shell, "yaml": _yaml}
    return fill(source, filters, words=words, output=str(output), shards=shards, gpus=gpus, image=image)


def _shell(words: str | Sequence[str]) -> str:
    """Words as bash reads them back."""
    return shlex.quote(words) if isinstance(words, str) else shlex.join(words)


def _yaml(value: str) -> str:
    """A string in double quotes: what JSON writes is YAML."""
    return json.dumps(value)
