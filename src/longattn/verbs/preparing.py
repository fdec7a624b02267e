"""What a run is going to measure, and with what, before any weight is loaded."""

import logging
from pathlib import Path

from longattn.asking import resolve_others
from longattn.measuring import Job
from longattn.presets import read_preset
from longattn.recipes import Recipe
from longattn.scorers import SCORERS
from longattn.tables import RunFolder

log = logging.getLogger(__name__)


def prepare(recipe: Recipe, output: str | Path | RunFolder) -> Job:
    """Look up the model and its tokenizer, and say what to measure; loads no weights.

    ``output`` is where the run is, or the run as it was looked up already: the listing of a store takes requests.
    Raises ``ValueError`` for a scorer that does not measure what the corpus holds, windows or samples.
    """
    from longattn.models import resolve

    kind = "samples" if recipe.corpus.holds_samples else "windows"
    for scorer in recipe.chosen_scorers():
        if kind not in scorer.measures:
            others = ", ".join(name for name, one in sorted(SCORERS.items()) if kind in one.measures)
            raise ValueError(f"{scorer.name} does not measure {kind}; those that do: {others}")
    checkpoint = resolve(recipe.model)
    presets = [getattr(getattr(recipe.settings, name, None), "preset", None) for name in recipe.scorers]
    for preset in filter(None, presets):
        if (found_on := read_preset(preset, ["model"])["model"]) != checkpoint.hash:
            log.warning("the preset %s was found on model %s, this is model %s", preset, found_on, checkpoint.hash)
    scorers = recipe.chosen_scorers()
    others = resolve_others([ask for scorer in scorers if (ask := scorer.ask())], checkpoint)
    run = output if isinstance(output, RunFolder) else RunFolder.at(output)
    return Job(run, recipe.corpus, recipe.window, recipe.model, checkpoint, scorers, others)
