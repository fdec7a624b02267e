"""From a pool of windows to what each rule keeps of it, by the stages of a run: measure, select, export."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from longattn import verbs
from longattn.recipes import Recipe
from longattn.settings import Compute, Exporting, Selecting, plain
from longattn.tables import read_parquet, write_json, write_parquet
from longattn.validity.statistics import auc

HERE = Compute(workers=0, devices=("cpu",), threads=1, tokenizer="tokenizers", vocabulary_table="never")
"""In this process, with one thread; where results are compared, nothing may depend on what is installed."""

KINDS = pa.schema([("window_id", pa.string()), ("kind", pa.string()), ("dependent", pa.float64())])
"""What is known of the pool's windows, and no scorer is told."""


@dataclass(frozen=True)
class Arm:
    """A rule to select by."""

    name: str
    weights: Mapping[str, float]
    """As ``keep.weights``: scorers, or columns of the table of kinds."""
    settings: Mapping[str, Mapping[str, Any]]
    """By scorer, settings that differ from the recipe's."""

    def of(self, recipe: Recipe, tables: tuple[str, ...]) -> Recipe:
        """The recipe that keeps by this rule; ``tables`` have the columns that it may weight."""
        scorers = {name: replace(getattr(recipe.settings, name), **facts) for name, facts in self.settings.items()}
        if not any(name.startswith("column:") for name in self.weights):
            tables = ()
        return replace(
            recipe,
            settings=replace(recipe.settings, **scorers),
            keep=replace(recipe.keep, weights=dict(self.weights), tables=tables),
        )


def arm(name: str, weights: Mapping[str, float] | str, **settings: Mapping[str, Any]) -> Arm:
    """An arm; a scorer's name alone is a weight of 1 for it."""
    return Arm(name, {weights: 1.0} if isinstance(weights, str) else weights, settings)


def keep_count(recipe: Recipe, count: int) -> Recipe:
    """The recipe that keeps this many windows of each source, and exports their tokens."""
    return replace(recipe, keep=Selecting(share=None, count=count, max_overlap=1.0), write=Exporting(content="tokens"))


def keep_share(recipe: Recipe, share: float) -> Recipe:
    """As :func:`keep_count`, with a share of each source's windows."""
    return replace(recipe, keep=Selecting(share=share, max_overlap=1.0), write=Exporting(content="tokens"))


def measure(recipe: Recipe, run: Path, device: str = "cpu") -> dict[str, Any]:
    """Measure the pool; returns the ledger. Goes on where a stopped attempt was."""
    return dict(verbs.measure(recipe, run, replace(HERE, devices=(device,))))


def pick(recipe: Recipe, run: Path, rule: Arm, tables: tuple[str, ...], picked: Path) -> dict[str, Any]:
    """Select by one rule, export, and write the kept windows' ids, kinds and tokens as the Parquet file ``picked``.

    The first of ``tables`` is that of the kinds. Returns how many of each kind were kept, and how well the score ranks
    dependent windows above each other kind (AUC).
    """
    kinds = Path(tables[0])
    mine = rule.of(recipe, tables)
    verbs.select(mine, run)
    summary = verbs.export_selection(mine, run)
    kind_of = {row["window_id"]: row["kind"] for row in read_parquet(kinds).to_pylist()}
    exported = pa.concat_tables(pq.read_table(run / "export" / file.name) for file in summary.files)
    # by id: the order in which they are written must not tell which rule has chosen them
    exported = exported.select(["window_id", "source", "input_ids"]).sort_by("window_id")
    kinds_kept = [kind_of[window] for window in exported["window_id"].to_pylist()]
    write_parquet(picked, exported.append_column("kind", pa.array(kinds_kept)))
    counts = {kind: kinds_kept.count(kind) for kind in sorted(set(kind_of.values()))}
    scored = read_parquet(run / "selection.parquet", ["window_id", "score"])
    facts = {"kept": counts, "auc": _aucs(scored, kind_of), "keep": plain(mine.keep.weights)}
    write_json(picked.with_suffix(".json"), facts)
    return facts


def _aucs(scored: pa.Table, kind_of: Mapping[str, str]) -> dict[str, float]:
    """By kind that is not ``dependent``, how often a dependent window scores higher than one of it."""
    kinds = np.array([kind_of[window] for window in scored["window_id"].to_pylist()])
    scores = scored["score"].to_numpy().astype(np.float64)
    known = np.isfinite(scores)
    others = sorted(set(kinds.tolist()) - {"dependent"})
    return {kind: auc(scores[known & (kinds == "dependent")], scores[known & (kinds == kind)]) for kind in others}


def read_windows(picked: Path) -> npt.NDArray[np.int64]:
    """[N, T]: the tokens of picked windows, which are of one length."""
    tokens = read_parquet(picked, ["input_ids"])["input_ids"].combine_chunks()
    return tokens.flatten().to_numpy().astype(np.int64).reshape(len(tokens), -1)
