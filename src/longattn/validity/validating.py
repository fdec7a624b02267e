"""Whether scorers tell the intact windows of a corpus from controls made of the same text."""

import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from longattn import settings
from longattn.engines.progress import Progress
from longattn.errors import CorpusError
from longattn.measuring import Job, measure_each
from longattn.records import Window, WorkUnit
from longattn.scorers import PilotScorer, Scorer
from longattn.tables import write_json
from longattn.validity.blocks import (
    INTACT,
    PAIRS,
    RECUT,
    Material,
    content_hash,
    make_material,
    measure_blocks,
    read_scores,
)
from longattn.validity.controls import CONTROLS, parse
from longattn.validity.sampling import sample
from longattn.validity.statistics import (
    Estimate,
    auc_interval,
    draws,
    mean_interval,
    resampled,
    spearman,
    wins,
)

if TYPE_CHECKING:
    from longattn.models.base import Model

Scores = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Separation:
    """How well a scorer tells the intact windows of a source from one kind of control."""

    scorer: str
    source: str
    control: str
    pairs: int
    """Intact windows, and as many controls."""
    documents: int
    """Different documents of the intact windows: what is drawn from in the bootstrap."""
    auc: Estimate
    """Probability that any intact window scores higher than any control; 0.5 is chance."""
    paired: Estimate
    """Share of the pairs in which the intact window scores higher than the control made of it; ties count half."""


@dataclass(frozen=True)
class Reading:
    """Another fact about a scorer on one source."""

    scorer: str
    source: str
    name: str
    """``trend``: mean rank correlation of a window's score with minus the number of pieces that it is spliced of.
    ``length``: rank correlation of the intact windows' scores with the tokens of their documents. ``recut``: rank
    correlation of their scores with those of windows that begin a third of a window further on."""
    windows: int
    value: Estimate


@dataclass(frozen=True)
class Cost:
    """What a scorer takes for one window by itself; facts of one machine at one time."""

    seconds: float
    tokens_per_second: float


@dataclass(frozen=True)
class Validation:
    """What a validation found. Costs apart, the same corpus, settings and seed give the same."""

    settings: Mapping[str, Any]
    model: Mapping[str, str]
    window: int
    scorers: Mapping[str, Mapping[str, Any]]
    """By label: the number of ``pairs`` asked for (measured in blocks of eight, so there may be more), the ``scorer``'s
    name and its ``settings``."""
    sources: Mapping[str, Mapping[str, int]]
    """By source: intact windows and documents."""
    corpus: str
    """16 hexadecimal digits that change with the names and tokens of the intact windows."""
    separations: Sequence[Separation]
    readings: Sequence[Reading]
    notes: Sequence[str]
    versions: Mapping[str, str]
    """By package: those that measured, and those of the attempt that made the figures, which are the same as a rule."""
    costs: Mapping[str, Cost] = field(default_factory=dict, compare=False)
    """By label; written to ``timings.json`` and nowhere else."""


def validate(
    job: Job,
    units: Sequence[WorkUnit],
    scorers: Mapping[str, Scorer],
    rule: settings.Validating,
    device: str = "cpu",
    progress: Progress | None = None,
    *,
    allow_version_change: bool = False,
) -> Validation:
    """Sample the corpus, make controls, measure what is not measured yet, and compare.

    ``scorers`` are by label, so that one scorer can stand there with several settings; those that need a pilot must
    have it. Everything is written into the job's run folder: ``tables/``, ``validation.json`` (the same bytes for the
    same corpus, settings and seed) and ``timings.json``. Raises :class:`CorpusError` if no source has two windows, and
    :class:`RunError` where other versions measured a part, unless that is allowed.
    """
    check_rule(rule)
    named = {scorer.name for scorer in scorers.values()}
    if strangers := sorted(rule.pairs_for.keys() - named):
        raise ValueError(
            f"pairs_for names {strangers[0]!r}, which is not among the scorers: {', '.join(sorted(named))}"
        )
    controls = rule.controls or CONTROLS
    pairs = {label: min(rule.pairs, rule.pairs_for.get(scorer.name, rule.pairs)) for label, scorer in scorers.items()}
    count = -(-rule.pairs // PAIRS) * PAIRS
    sampled = sample(job, units, count, rule.seed)
    sampled = {source: windows[:count] for source, windows in sampled.items() if len(windows) > 1}
    if not sampled:
        raise CorpusError(f"no source has two windows of {job.window.length} tokens; shorter windows may help")
    materials = [make_material(source, windows, controls, rule.seed) for source, windows in sampled.items()]
    versions = measure_blocks(
        job, materials, scorers, pairs, device, progress, allow_version_change=allow_version_change
    )
    separations, readings = [], []
    for label, scorer in scorers.items():
        for material in materials:
            scores = read_scores(job, material, scorer, pairs[label])
            separations += _separations(label, material, scores, controls, rule)
            readings += _readings(label, material, scores, controls, rule)
    found = Validation(
        settings={**settings.plain(rule), "controls": list(controls)},
        model={"name": job.checkpoint.name, "hash": job.checkpoint.hash, "dtype": job.model.dtype},
        window=job.window.length,
        scorers={label: {"pairs": pairs[label], **_facts(scorer)} for label, scorer in scorers.items()},
        sources={m.source: {"windows": len(m.intact), "documents": len(set(m.documents))} for m in materials},
        corpus=content_hash(materials),
        separations=separations,
        readings=readings,
        notes=_notes(materials, controls),
        versions=versions,
    )
    facts = settings.plain(found)
    del facts["costs"]
    write_json(job.run.root / "validation.json", facts)
    return replace(found, costs=_costs(job, scorers, materials[0].intact[:PAIRS], device))


def check_rule(rule: settings.Validating) -> None:
    """Raise ``ValueError`` for settings that no validation can be made with."""
    for name in rule.controls:
        parse(name)
    for setting, number, least in (("pairs", rule.pairs, 2), ("resamples", rule.resamples, 1)):
        if number < least:
            raise ValueError(f"{setting} must be at least {least}, got {number}")
    for scorer, number in rule.pairs_for.items():
        if number < 2:
            raise ValueError(f"pairs_for must be at least 2 for each scorer, got {number} for {scorer}")


def _facts(scorer: Scorer) -> dict[str, Any]:
    """A scorer's name and settings, without the place of its pilot on this machine; the pilot's hash says which."""
    chosen = settings.plain(scorer)
    if isinstance(scorer, PilotScorer):
        del chosen["pilot"]
    return {"scorer": scorer.name, "settings": chosen}


def _separations(
    label: str,
    material: Material,
    scores: Mapping[str, Scores],
    controls: Sequence[str],
    rule: settings.Validating,
) -> list[Separation]:
    found = []
    for name in controls:
        known = np.flatnonzero(np.isfinite(scores[INTACT]) & np.isfinite(scores[name]))
        if len(known) < 2:
            continue
        documents = [material.documents[k] for k in known]
        weights = draws(documents, rule.resamples, rule.seed)
        better, worse = scores[INTACT][known], scores[name][known]
        paired = mean_interval(np.diag(wins(better, worse)), weights)
        of = auc_interval(better, worse, weights)
        found.append(Separation(label, material.source, name, len(known), len(set(documents)), of, paired))
    return found


def _readings(
    label: str,
    material: Material,
    scores: Mapping[str, Scores],
    controls: Sequence[str],
    rule: settings.Validating,
) -> list[Reading]:
    found = []

    def add(name: str, rows: npt.NDArray[np.int64], estimate: Any) -> None:
        if len(rows) > 2:
            weights = draws([material.documents[k] for k in rows], rule.resamples, rule.seed)
            found.append(Reading(label, material.source, name, len(rows), estimate(rows, weights)))

    numbers = sorted(number for kind, number in map(parse, controls) if kind == "spliced")
    steps = np.stack([scores[INTACT], *(scores[f"spliced-{number}"] for number in numbers)], axis=1)
    if numbers:
        # a source of few documents has no splices of many
        steps = steps[:, np.isfinite(steps).any(axis=0)]
    order = -np.arange(steps.shape[1], dtype=np.float64)
    if steps.shape[1] > 2:
        trends = np.array([spearman(row, order) for row in steps])
        rows = np.flatnonzero(np.isfinite(steps).all(axis=1))
        add("trend", rows, lambda rows, weights: mean_interval(trends[rows], weights))

    def correlation(name: str, other: Scores) -> None:
        rows = np.flatnonzero(np.isfinite(scores[INTACT]) & np.isfinite(other))
        mine = scores[INTACT]
        add(name, rows, lambda r, w: resampled(lambda k: spearman(mine[r[k]], other[r[k]]), w))

    lengths = np.array([window.doc_tokens for window in material.intact], dtype=np.float64)
    correlation("length", lengths[: len(scores[INTACT])])
    correlation("recut", scores[RECUT])
    return found


def _notes(materials: Sequence[Material], controls: Sequence[str]) -> list[str]:
    """What could not be made, and what a reader should know of the sample."""
    notes = []
    for material in materials:
        count = len(set(material.documents))
        documents = f"{count} document{'s' if count != 1 else ''}"
        absent = [name for name in controls if len(material.groups[name]) < 2]
        if absent:
            notes.append(
                f"{material.source}: its {len(material.intact)} windows of {documents} do not allow {', '.join(absent)}"
            )
        if count < 20:
            worth = ", so no intervals" if count == 1 else "; intervals are of little worth"
            notes.append(f"{material.source}: only {documents}{worth}")
    return notes


def _costs(job: Job, scorers: Mapping[str, Scorer], windows: Sequence[Window], device: str) -> dict[str, Cost]:
    """Seconds of one window for each scorer by itself, measured once and kept; the better of two runs."""
    path = job.run.root / "timings.json"
    job.run.fetch(path)
    known: dict[str, dict[str, Any]] = json.loads(path.read_bytes()) if path.exists() else {}
    for scorer in scorers.values():
        key = job.table(scorer).hash
        if key in known:
            continue
        ask = scorer.ask()
        # scorers without a model are fast, and are timed on several windows
        chosen = windows[:1] if ask else windows
        answering = job.load_model(device, [ask]) if ask else None
        seconds = min(_time(scorer, chosen, answering) for _ in range(2)) / len(chosen)
        tokens = len(chosen[0].tokens)
        machine = {"machine": platform.machine(), "cores": os.cpu_count(), "device": device}
        known[key] = {"scorer": scorer.name, "seconds": seconds, "tokens": tokens, "at": time.time(), **machine}
    write_json(path, known)
    hashes = {label: job.table(scorer).hash for label, scorer in scorers.items()}
    return {
        label: Cost(known[key]["seconds"], known[key]["tokens"] / max(1e-9, known[key]["seconds"]))
        for label, key in hashes.items()
    }


def _time(scorer: Scorer, windows: Sequence[Window], model: "Model | None") -> float:
    began = time.perf_counter()
    measure_each([scorer], model, windows)
    return time.perf_counter() - began
