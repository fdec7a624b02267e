"""Verbs that put measures and models to the test on the user's own text: heads, validate, calibrate, compare."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from longattn import corpus, engines, measuring, settings
from longattn.errors import RunError
from longattn.measuring import Job
from longattn.pilots import with_pilots
from longattn.recipes import Recipe
from longattn.records import Document, WorkUnit
from longattn.scorers import Scorer
from longattn.tables import RunFolder, write_json
from longattn.verbs import measured_table, prepare, run_table, same_windows

if TYPE_CHECKING:
    from longattn.heads import HeadScores
    from longattn.tokens import Tokenizer
    from longattn.validity import Comparison, Preset, Validation

HAYSTACK_PROMPTS = 16
"""Prompts of the longest kind that the text for needles has room for, beside each other."""
BASELINES = ("token_null", "length", "random")
"""Scorers that stand in every validation: what they explain is no long-range dependency."""


def heads(
    corpus_settings: settings.Corpus,
    model: settings.Model,
    needles: settings.Needles,
    output: Path,
    device: str = "auto",
    on_prompt: Callable[[int], None] | None = None,
) -> "HeadScores":
    """Score every head of a model by what it copies from needles in a text, and write the preset ``output``.

    The text is that of the corpus, or this Python's own documentation where no input is named. ``on_prompt`` is told
    the tokens of each batch of prompts done. Raises ``ValueError`` for a text shorter than the longest prompt.
    """
    from longattn.heads import haystack_hash, retrieval_heads
    from longattn.models import load_model, resolve
    from longattn.tokens import Tokenizer

    checkpoint = resolve(model)
    tokenizer = Tokenizer.load(checkpoint.tokenizer_file)
    haystack = _haystack(corpus_settings, tokenizer, max(needles.lengths))
    place = engines.device(device)
    loaded = load_model(checkpoint, model, layers="all", window=max(needles.lengths), predicts=True, device=place)
    found = retrieval_heads(loaded, tokenizer, haystack, needles, on_prompt)
    facts = {
        "needles": needles,
        "bos": model.bos,
        "text": haystack_hash(haystack),
        "versions": measuring.package_versions(),
    }
    write_json(output, found.preset(checkpoint.hash, settings.plain(facts)))
    return found


def _haystack(corpus_settings: settings.Corpus, tokenizer: "Tokenizer", length: int) -> npt.NDArray[np.uint32]:
    """Tokens of documents, one after another, for prompts of up to ``length``: enough for pieces to differ."""
    pieces: list[npt.NDArray[np.uint32]] = []
    for text in _texts(corpus_settings):
        # no single document is all there is
        pieces.append(tokenizer.encode(text).ids[:length])
        if sum(map(len, pieces)) >= HAYSTACK_PROMPTS * length:
            break
    return np.concatenate(pieces) if pieces else np.empty(0, np.uint32)


def _texts(corpus_settings: settings.Corpus) -> Iterator[str]:
    """The texts of a corpus, in the order of the input; this Python's own documentation for one without inputs."""
    if not corpus_settings.inputs:
        from pydoc_data.topics import topics

        yield from (text for _, text in sorted(topics.items()))
        return
    for unit in corpus.list_units(corpus_settings):
        yield from (record.text for record in corpus.read_unit(unit, corpus_settings) if isinstance(record, Document))


def validate(
    recipe: Recipe,
    output: str | Path,
    rule: settings.Validating | None = None,
    device: str = "auto",
    threads: int | None = None,
    progress: engines.Progress | None = None,
    more: Mapping[str, Scorer] | None = None,
    *,
    allow_version_change: bool = False,
) -> "Validation":
    """Put the recipe's scorers and the baselines to the test on windows of its corpus.

    ``more`` are scorers by a label of their own, such as one scorer with other settings. Writes below
    ``output/validity``: what was measured, ``validation.json`` and ``validation.html``; continues where an earlier
    attempt stopped. Raises :class:`RunError` where that one had other versions of what decides the numbers, unless
    ``allow_version_change`` lets them mix.
    """
    from longattn import validity

    rule = rule or settings.Validating()
    validity.check_rule(rule)
    names = dict.fromkeys([*recipe.scorers, *BASELINES])
    scorers = {name: recipe.scorer(name) for name in names}
    scorers |= {label: scorer.for_length(recipe.window.length) for label, scorer in (more or {}).items()}
    job, units, place = _validity_job(recipe, output, tuple(scorers.values()), device, threads)
    with job.run.lock():
        job.run.sweep()
        labelled = dict(zip(scorers, job.scorers, strict=True))
        found = validity.validate(
            job, units, labelled, rule, place, progress, allow_version_change=allow_version_change
        )
        validity.write_validation(job.run.root / "validation.html", found)
    return found


def _validity_job(
    recipe: Recipe, output: str | Path, scorers: tuple[Scorer, ...], device: str, threads: int | None
) -> tuple[Job, list[WorkUnit], str]:
    """A job whose tables are below ``output/validity``, its input as units, and the device to work on."""
    if recipe.corpus.holds_samples:
        raise ValueError("controls are made of windows of texts; samples, which have turns, can be compared, no more")
    job = replace(prepare(recipe, output), scorers=scorers)
    units = corpus.list_units(recipe.corpus, job.run.plan())
    place = engines.device(device, needed=bool(job.asks) or not scorers)
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    # a pilot of the run itself serves as well
    job = with_pilots(job, units, place)
    return replace(job, run=job.run.below("validity")), units, place


def calibrate(
    recipe: Recipe,
    output: str | Path,
    preset: Path,
    rule: settings.Calibrating | None = None,
    device: str = "auto",
    threads: int | None = None,
    progress: engines.Progress | None = None,
    *,
    allow_version_change: bool = False,
) -> "Preset":
    """Find the far attention that tells intact windows of the recipe's corpus from controls, and write it as a preset.

    Measures below ``output/validity`` and continues where an earlier attempt stopped. Raises :class:`RunError` where
    that one had other versions of what decides the numbers, unless ``allow_version_change`` lets them mix.
    """
    from longattn import validity

    job, units, place = _validity_job(recipe, output, (), device, threads)
    with job.run.lock():
        job.run.sweep()
        rule = rule or settings.Calibrating()
        found = validity.calibrate(job, units, rule, place, progress, allow_version_change=allow_version_change)
    write_json(preset, found)
    return found


def compare(recipe: Recipe, output: str | Path, *, texts: bool | None = None) -> "Comparison":
    """Compare the scorers that a run has measured, on all of its windows; no model is loaded.

    Writes ``comparison.json`` and ``comparison.html`` below ``output/validity``; with ``texts`` False no text of the
    corpus is shown, and with None neither where ``corpus.private`` is set. All scores are held in memory. Raises
    :class:`RunError` for scorers measured with other settings.
    """
    from longattn import validity
    from longattn.export import read_texts

    run = RunFolder.at(output)
    tables = run.manifest().get("tables", {})
    windows = run_table(run, tables, "windows")
    scorers = {name: recipe.scorer(name) for name in tables if name not in ("documents", "windows", "minhash")}
    measured = {name: measured_table(run, tables, name, dict(of.measurement())) for name, of in scorers.items()}
    measured = {name: table for name, table in measured.items() if same_windows(table, windows)}
    units = [unit.id for unit in run.plan() if all(t.receipt(unit.id) for t in (windows, *measured.values()))]
    if not units:
        raise RunError(f"{output} has no work unit that every scorer has measured")
    scores = {name: (table, scorers[name].score()) for name, table in measured.items()}
    run.fetch(run.root / "validity" / "timings.json")
    known = json.loads(path.read_bytes()) if (path := run.root / "validity" / "timings.json").exists() else {}
    costs = {name: known[table.hash]["seconds"] for name, table in measured.items() if table.hash in known}

    def read(ids: Sequence[str]) -> Mapping[str, str]:
        return read_texts(run.plan(), windows, ids, recipe.corpus)

    found = validity.compare_tables(
        windows, units, scores, texts=read if recipe.corpus.shown(texts) else None, costs=costs
    )
    write_json(run.root / "validity" / "comparison.json", found)
    validity.write_comparison(run.root / "validity" / "comparison.html", found)
    return found
