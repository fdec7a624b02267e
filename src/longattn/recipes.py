"""Whole runs as values: every setting of every stage in one record, and functions that return well-known ones."""

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, make_dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from longattn.scorers import SCORERS, Scorer
from longattn.settings import Corpus, Exporting, Model, Refining, Selecting, Windowing, plain

if TYPE_CHECKING:
    ScorerSettings = Any
else:
    # made from the list of scorers, so that a new one gets its flags and keys by being in that list
    ScorerSettings = make_dataclass(
        "ScorerSettings",
        [
            # one without settings is no flag: a value for another verb's flag of its name would be taken for its own
            (
                name,
                Annotated[scorer, Parameter(group=f"Scorer {name}", parse=bool(fields(scorer)))],
                field(default_factory=scorer),
            )
            for name, scorer in SCORERS.items()
        ],
        frozen=True,
        kw_only=True,
    )
    ScorerSettings.__module__ = __name__


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a run reads, measures, keeps and writes."""

    corpus: Annotated[Corpus, Parameter(group="Corpus")] = Corpus()
    window: Annotated[Windowing, Parameter(group="Windows")] = Windowing()
    model: Annotated[Model, Parameter(group="Model")] = Model()
    scorers: Annotated[tuple[str, ...], Parameter(group="Windows")] = ("longattn",)
    """Scorers to measure, by name; repeat the flag for several."""
    settings: Annotated[ScorerSettings, Parameter(name="*")] = field(default_factory=ScorerSettings)
    keep: Annotated[Selecting, Parameter(group="Keep")] = Selecting()
    refine: Annotated[Refining, Parameter(group="Refine")] = Refining()
    write: Annotated[Exporting, Parameter(group="Write")] = Exporting()

    def scorer(self, name: str) -> Scorer:
        """A scorer with this recipe's settings and window length. Raises ``ValueError`` for an unknown name."""
        if name not in SCORERS:
            close = difflib.get_close_matches(name, SCORERS, 1)
            meant = f"; did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"scorer must be one of {', '.join(sorted(SCORERS))}, got {name!r}{meant}")
        return getattr(self.settings, name).for_length(self.window.length)

    def chosen_scorers(self) -> tuple[Scorer, ...]:
        """The scorers to measure, each once, in the order named."""
        return tuple(self.scorer(name) for name in dict.fromkeys(self.scorers))


def longattn_laptop() -> Recipe:
    """SmolLM2-135M, layer 0, windows of 4,096 tokens, the paper's rule: for a few gigabytes of text and no GPU."""
    return Recipe()


def longattn_paper() -> Recipe:
    """The paper: Llama-3.1-8B, layer 0, 32,768 tokens, k = L/4, z-scores per source, the best 12.5 % of each.

    The base of the rotary embedding is the released code's 2,500,000, which the paper does not mention.
    """
    return Recipe(
        window=Windowing(length=32768),
        model=Model(name="hf://meta-llama/Llama-3.1-8B", rope_theta=2_500_000.0, dtype="bfloat16"),
    )


def longattn_released() -> Recipe:
    """The released code's choices: min-max instead of z-scores, variance over all L² cells, the better half.

    Its errors (the dropped causal mask, counted padding, half-precision sums) are not reproduced.
    """
    paper = longattn_paper()
    released = replace(paper.settings.longattn, convention="released")
    return replace(
        paper,
        settings=replace(paper.settings, longattn=released),
        keep=replace(paper.keep, share=0.5),
    )


_BY_NAME = ("keep.weights", "keep.quotas")
"""Settings whose keys are names of the corpus or the user, not of settings."""

RECIPES = {"laptop": longattn_laptop, "paper": longattn_paper, "released": longattn_released}
"""Recipes by the name that ``--recipe`` takes."""


def as_flags(recipe: Recipe) -> list[str]:
    """The command line flags that make this recipe from the default one.

    >>> as_flags(Recipe(window=Windowing(length=8192), scorers=("longattn", "length")))
    ['--window.length', '8192', '--scorers', 'longattn', '--scorers', 'length']
    """
    mine, default = plain(recipe), plain(Recipe())
    # flags of scorers stand beside those of the stages
    mine, default = ({**facts.pop("settings"), **facts} for facts in (mine, default))
    return list(_flags("", mine, default))


def _flags(prefix: str, mine: Mapping[str, Any], default: Mapping[str, Any]) -> Iterator[str]:
    for key, value in mine.items():
        name, usual = f"{prefix}{key.replace('_', '-')}", default.get(key)
        if value == usual or name == "corpus.inputs":
            continue
        if name in _BY_NAME:
            yield from _flags_by_name(name, value)
        elif isinstance(value, Mapping):
            yield from _flags(f"{name}.", value, usual if isinstance(usual, Mapping) else {})
        elif isinstance(value, list):
            items = [item if isinstance(item, list) else [item] for item in value]
            yield from (word for item in items for word in _words(name, item))
        elif isinstance(value, bool):
            stage, _, word = name.rpartition(".")
            yield f"--{name}" if value else f"--{stage}.no-{word}"
        else:
            yield from _words(name, [value])


def _flags_by_name(name: str, values: Mapping[str, float]) -> Iterator[str]:
    """All of these values, which replace the default ones as a whole; a name stays as it is."""
    if any(re.search(r"[.=]", key) for key in values):
        # the command line would read a key in a key, or the value, out of such a name
        yield from (f"--{name}", json.dumps(values))
    else:
        yield from (word for key, value in values.items() for word in (f"--{name}.{key}", str(value)))


def _words(name: str, values: Sequence[Any]) -> list[str]:
    """A flag with its values."""
    if len(values) == 1 and isinstance(values[0], str) and values[0].startswith("-"):
        # by itself it would be taken for a flag
        return [f"--{name}={values[0]}"]
    return [f"--{name}", *map(str, values)]
