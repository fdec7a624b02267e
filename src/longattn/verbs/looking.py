"""Single windows: the readings of a text, and the numbers behind an inspect page."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from longattn import measuring, settings
from longattn.asking import load_model_for
from longattn.expressions import evaluate
from longattn.recipes import Recipe
from longattn.records import Document, Window
from longattn.tables import RunFolder
from longattn.verbs.finding import run_table

if TYPE_CHECKING:
    from longattn.records import Inspection
    from longattn.scorers import Ask, LongAttn


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
    from longattn.models import resolve
    from longattn.tokens import Tokenizer
    from longattn.windows import cut

    recipe = recipe or Recipe()
    checkpoint = resolve(recipe.model)
    tokenized = Tokenizer.load(checkpoint.tokenizer_file).encode(text)
    num_tokens = len(tokenized.ids)
    if num_tokens < 8:
        raise ValueError(f"text must have at least 8 tokens to measure distances in, got {num_tokens}")
    length = min(recipe.window.length, num_tokens)
    scorer = replace(recipe, window=settings.Windowing(length=length)).scorer("longattn")
    windows: list[Window] = cut(Document("text", "text", text, "text", 0), tokenized, length)
    ask = scorer.ask()
    assert ask is not None
    model = load_model_for([ask], checkpoint, recipe.model, length, device)
    columns = measuring.measure_windows([scorer], model, windows)[scorer.name]
    readings = {name: evaluate(reading, columns) for name, reading in scorer.readings().items()}
    rows = [
        {
            "start": float(w.start),
            "num_tokens": float(length),
            **{n: float(v[i]) for n, v in readings.items()},
        }
        for i, w in enumerate(windows)
    ]
    return TextScore(num_tokens, rows, dict(scorer.null(int(recipe.model.bos))))


def inspect_text(
    text: str, name: str, recipe: Recipe, rule: settings.Inspecting, number: int = 1, device: str = "cpu"
) -> "Inspection":
    """Look closely at one window of a text, the first by default, or at all of it where it is shorter than a window.

    Raises ``ValueError`` for a text of fewer than 8 tokens, and for a window that it does not have.
    """
    from longattn.inspecting import Cut, inspect, pieces_of
    from longattn.models import resolve
    from longattn.tokens import Tokenizer
    from longattn.windows import cut

    checkpoint = resolve(recipe.model)
    tokenized = Tokenizer.load(checkpoint.tokenizer_file).encode(text)
    num_tokens = len(tokenized.ids)
    if num_tokens < 8:
        raise ValueError(f"text must have at least 8 tokens to measure distances in, got {num_tokens}")
    length = min(recipe.window.length, num_tokens)
    windows = cut(Document(name, "text", text, name, 0), tokenized, length)
    if not 1 <= number <= len(windows):
        raise ValueError(f"{name} has windows 1 to {len(windows)} of {length} tokens, got {number}")
    window, scorer = windows[number - 1], _looking(recipe, length)
    starts = tokenized.char_starts[window.start : window.start + length]
    model = load_model_for([cast("Ask", scorer.ask())], checkpoint, recipe.model, length, device)
    return inspect(model, Cut(window, pieces_of(text, starts, window.char_end)), scorer, rule)


def inspect_windows(
    output: Path, window_ids: Sequence[str], recipe: Recipe, rule: settings.Inspecting, device: str = "cpu"
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

    run = RunFolder(output)
    windows = run_table(run, run.manifest().get("tables", {}), "windows")
    if not window_ids:
        chosen = run.listed("selection.parquet", "select, or name the windows to inspect")
        best = pq.read_table(chosen, columns=["window_id", "source"], filters=[("rank", "=", 1)])
        window_ids = best.sort_by("source")["window_id"].to_pylist()
    scorer, checkpoint = _looking(recipe, recipe.window.length), resolve(recipe.model)
    tokenizer = Tokenizer.load(checkpoint.tokenizer_file)
    model = load_model_for([cast("Ask", scorer.ask())], checkpoint, recipe.model, recipe.window.length, device)
    facts = _selection_facts(run, window_ids)
    for document, tokenized, kept in read_tokenized(run.plan(), windows, window_ids, recipe.corpus, tokenizer):
        part = slice(kept.start, kept.start + kept.num_tokens)
        place = {name: getattr(kept, name) for name in ("doc_id", "source", "start", "char_start", "char_end")}
        window = Window(**place, tokens=tokenized.ids[part], doc_tokens=kept.doc_tokens)
        pieces = pieces_of(document.text, tokenized.char_starts[part], kept.char_end)
        yield inspect(model, Cut(window, pieces, facts.get(kept.window_id, {})), scorer, rule)


def _looking(recipe: Recipe, length: int) -> "LongAttn":
    """The recipe's layers, heads, distance and skipped keys for one window, whatever was measured of others."""
    exact = replace(recipe.settings.longattn, rows=None, per_head=True, distances=())
    return exact.for_length(length)


def _selection_facts(run: RunFolder, window_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Score, rank and what became of windows, by id, where the run has been selected."""
    import pyarrow.parquet as pq

    from longattn.report.words import reason

    if not (run.root / "selection.parquet").exists():
        return {}
    path = run.listed("selection.parquet", "select again")
    columns = ["window_id", "source", "score", "rank", "reason"]
    rows = pq.read_table(path, columns=columns, filters=[("window_id", "in", list(window_ids))]).to_pylist()
    return {row["window_id"]: {"score": row["score"], "rank": row["rank"], "": reason(row["reason"])} for row in rows}
