"""Single windows: the readings of a text, and the numbers behind an inspect page."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from longattn import engines, measuring, settings
from longattn.asking import load_model_for
from longattn.expressions import evaluate
from longattn.recipes import Recipe
from longattn.records import Document, Window
from longattn.tables import RunFolder
from longattn.verbs.finding import run_table

if TYPE_CHECKING:
    from longattn.models import Checkpoint
    from longattn.models.base import Model
    from longattn.records import Inspection
    from longattn.scorers import LongAttn, Scorer
    from longattn.tokens import Tokenized

FEWEST_TOKENS = 8
"""A text of fewer has no distances that would mean anything."""


@dataclass(frozen=True)
class TextScore:
    """The readings of one text."""

    num_tokens: int
    windows: list[dict[str, float]]
    """Per window: start, num_tokens and the scorer's readings."""
    null: dict[str, float]
    """The readings under uniform attention."""


def score(text: str, recipe: Recipe | None = None, device: str = "cpu") -> TextScore:
    """Measure one text by itself: its windows, or all of it where it is shorter than a window.

    A single text has nothing to be standardised against, so readings (DS, DU) are returned, not scores. Raises
    ``ValueError`` for a text of fewer than 8 tokens.
    """
    recipe = recipe or Recipe()
    of = _cut_text(text, "text", recipe)
    scorer = replace(recipe, window=settings.Windowing(length=of.length)).scorer("longattn")
    model = _load_for(scorer, of.checkpoint, recipe, of.length, device)
    columns = measuring.measure_windows([scorer], model, of.windows)[scorer.name]
    readings = {name: evaluate(reading, columns) for name, reading in scorer.readings().items()}
    rows = [
        {"start": float(w.start), "num_tokens": float(of.length), **{n: float(v[i]) for n, v in readings.items()}}
        for i, w in enumerate(of.windows)
    ]
    return TextScore(len(of.tokenized.ids), rows, dict(scorer.null(int(recipe.model.bos))))


def inspect_text(
    text: str, name: str, recipe: Recipe, rule: settings.Inspecting, number: int = 1, device: str = "cpu"
) -> "Inspection":
    """Look closely at one window of a text, the first by default, or at all of it where it is shorter than a window.

    Raises ``ValueError`` for a text of fewer than 8 tokens, and for a window that it does not have.
    """
    from longattn.inspecting import Cut, inspect, pieces_of

    of = _cut_text(text, name, recipe)
    if not 1 <= number <= len(of.windows):
        raise ValueError(f"{name} has windows 1 to {len(of.windows)} of {of.length} tokens, got {number}")
    window, scorer = of.windows[number - 1], _looking(recipe, of.length)
    starts = of.tokenized.char_starts[window.start : window.start + of.length]
    model = _load_for(scorer, of.checkpoint, recipe, of.length, device)
    return inspect(model, Cut(window, pieces_of(text, starts, window.char_end)), scorer, rule)


def inspect_windows(
    output: str | Path, window_ids: Sequence[str], recipe: Recipe, rule: settings.Inspecting, device: str = "cpu"
) -> "Iterator[Inspection]":
    """Look closely at windows of a run, by id, or without any at the best window of each source.

    Every document is read and tokenised again, so that the tokens are those that were measured. Raises
    :class:`RunError` for an id that the run does not have, and for a document that is no longer the same.
    """
    import pyarrow.parquet as pq

    from longattn.export import read_tokenized
    from longattn.inspecting import Cut, inspect, pieces_of
    from longattn.models import resolve
    from longattn.tokens import Tokenizer

    run = RunFolder.at(output)
    windows = run_table(run, run.manifest().get("tables", {}), "windows")
    windows.bring(unit.id for unit in run.plan())
    if not window_ids:
        chosen = run.listed("selection.parquet", "select, or name the windows to inspect")
        best = pq.read_table(chosen, columns=["window_id", "source"], filters=[("rank", "=", 1)])
        window_ids = best.sort_by("source")["window_id"].to_pylist()
    scorer, checkpoint = _looking(recipe, recipe.window.length), resolve(recipe.model)
    tokenizer = Tokenizer.load(checkpoint.tokenizer_file)
    model = _load_for(scorer, checkpoint, recipe, recipe.window.length, device)
    facts = _selection_facts(run, window_ids)
    for document, tokenized, kept in read_tokenized(run.plan(), windows, window_ids, recipe.corpus, tokenizer):
        part = slice(kept.start, kept.start + kept.num_tokens)
        place = {name: getattr(kept, name) for name in ("doc_id", "source", "start", "char_start", "char_end")}
        window = Window(**place, tokens=tokenized.ids[part], doc_tokens=kept.doc_tokens)
        pieces = pieces_of(document.text, tokenized.char_starts[part], kept.char_end)
        yield inspect(model, Cut(window, pieces, facts.get(kept.window_id, {})), scorer, rule)


class _CutText(NamedTuple):
    """A text cut for a recipe's model, into windows of its length or, if it is shorter, one of its own."""

    checkpoint: "Checkpoint"
    tokenized: "Tokenized"
    length: int
    windows: list[Window]


def _cut_text(text: str, name: str, recipe: Recipe) -> _CutText:
    from longattn.models import resolve
    from longattn.tokens import Tokenizer
    from longattn.windows import cut

    checkpoint = resolve(recipe.model)
    tokenized = Tokenizer.load(checkpoint.tokenizer_file).encode(text)
    if len(tokenized.ids) < FEWEST_TOKENS:
        found = len(tokenized.ids)
        raise ValueError(f"text must have at least {FEWEST_TOKENS} tokens to measure distances in, got {found}")
    length = min(recipe.window.length, len(tokenized.ids))
    windows = cut(Document(name, "text", text, name, 0), tokenized, length)
    return _CutText(checkpoint, tokenized, length, windows)


def _load_for(scorer: "Scorer", checkpoint: "Checkpoint", recipe: Recipe, length: int, device: str) -> "Model":
    """The model with what the scorer asks of it; ``auto`` is the first GPU, or the CPU."""
    ask = scorer.ask()
    assert ask is not None, "LongAttn reads a model's attention"
    return load_model_for([ask], checkpoint, recipe.model, length, engines.device(device))


def _looking(recipe: Recipe, length: int) -> "LongAttn":
    """The recipe's layers, heads, distance and skipped keys for one window, whatever was measured of others."""
    exact = replace(recipe.settings.longattn, rows=None, per_head=True, distances=())
    return exact.for_length(length)


def _selection_facts(run: RunFolder, window_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Score, rank and what became of windows, by id, where the run has been selected."""
    import pyarrow.parquet as pq

    from longattn.report.words import reason

    if not run.holds("selection.parquet"):
        return {}
    path = run.listed("selection.parquet", "select again")
    columns = ["window_id", "source", "score", "rank", "reason"]
    rows = pq.read_table(path, columns=columns, filters=[("window_id", "in", list(window_ids))]).to_pylist()
    return {row["window_id"]: {"score": row["score"], "rank": row["rank"], "": reason(row["reason"])} for row in rows}
