"""Which far attention tells intact windows from controls best: layers, heads, distance, sinks and the spread's sign.

What is chosen on the calibration documents is judged on documents that had no part in it. The choice is nested: the
heads of each candidate (distance, skipped keys, spread, alpha, number of heads or layers) are ranked on all folds of
the calibration documents but one and judged on that one; the candidate with the best mean over folds gets its heads
from all of them.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from longattn import settings
from longattn.engines.progress import Progress
from longattn.errors import CorpusError
from longattn.expressions import column
from longattn.measuring import Job
from longattn.models.configuration import read_config
from longattn.records import WorkUnit
from longattn.validity.blocks import INTACT, PAIRS, RECUT, Material, content_hash, make_material, measure_blocks
from longattn.validity.columns import read_columns
from longattn.validity.controls import parse
from longattn.validity.far_attention import FarAttention
from longattn.validity.sampling import Intact, digest, sample
from longattn.validity.statistics import Estimate, auc, auc_interval, draws

Array = npt.NDArray[np.float64]

DISTANCES = ("1/16", "1/8", "1/4", "1/2")
"""Shares of a window that are tried as the minimum distance."""
ALPHAS = (0.0, 0.25, 0.5, 1.0, 2.0)
"""Weights of the spread that are tried."""
SIGNS: tuple[Literal[-1, 1], ...] = (-1, 1)
"""Whether the spread counts against a window or for it."""
HEADS, LAYERS = (1, 2, 4, 8, 16, 32), (1, 2, 4)
"""How many of the best heads, or of the best layers with all of their heads, are tried."""
PARTS = ("calibration", "held_out")


@dataclass(frozen=True)
class Preset:
    """Settings of far attention, as ``--longattn.preset`` reads them, with the evidence for them."""

    layers: list[int]
    heads: list[list[int]] | None
    """Pairs of layer and head; None for all heads of the layers."""
    distances: list[str]
    """Distances to measure, as shares of a window."""
    distance: str
    skip_first: int
    spread: Literal[-1, 1]
    alpha: float
    model: str
    """Content hash of the checkpoint."""
    evidence: Mapping[str, Any]


class Rule(NamedTuple):
    """What is chosen beside the heads; places index what was measured."""

    skip: int
    distance: int
    spread: Literal[-1, 1]
    alpha: float
    whole_layers: bool
    number: int


@dataclass(frozen=True, eq=False)
class Statistics:
    """DS and variance of one source and part, by group: [pairs, layers, heads, skips, distances]; NaN where none."""

    source: str
    documents: Sequence[str]
    strength: Mapping[str, Array]
    variance: Mapping[str, Array]

    def of(self, pairs: npt.NDArray[np.bool_]) -> "Statistics":
        """Some of the pairs."""
        return Statistics(
            self.source,
            [name for name, chosen in zip(self.documents, pairs, strict=True) if chosen],
            {group: values[pairs] for group, values in self.strength.items()},
            {group: values[pairs] for group, values in self.variance.items()},
        )

    def with_values(self) -> "Statistics":
        """The pairs whose intact window has values; one without would leave no scale to put the others on."""
        values = self.strength[INTACT] + self.variance[INTACT]
        return self.of(np.isfinite(values.sum(axis=(1, 2, 3, 4))))


def calibrate(
    job: Job,
    units: Sequence[WorkUnit],
    rule: settings.Calibrating,
    device: str = "cpu",
    progress: Progress | None = None,
    *,
    allow_version_change: bool = False,
) -> Preset:
    """Measure far attention of all layers within the share once, choose, and judge the choice on held-out documents.

    Raises ``ValueError`` for a share that holds no layer, or what :func:`check_rule` raises, and :class:`CorpusError`
    for a corpus whose documents do not allow the target controls in both parts, or no choice among them, and
    :class:`RunError` where other versions measured a part, unless that is allowed.
    """
    check_rule(rule, job.window.length)
    config = read_config(job.checkpoint, job.model, layers=(0,), window=job.window.length)
    depth = depth_within(rule.share, config.num_hidden_layers)
    if not 1 <= depth <= config.num_hidden_layers:
        raise ValueError(f"share must give 1 to {config.num_hidden_layers} layers, got {rule.share}")
    length = job.window.length
    far = FarAttention(
        layers=tuple(range(depth)),
        distances=_distances(length),
        skips=rule.skips,
        num_rows=rule.rows,
    )
    materials = _materials(job, units, rule)
    every = list(itertools.chain.from_iterable(materials.values()))
    versions = measure_blocks(
        job, every, {far.name: far}, {far.name: rule.pairs}, device, progress, allow_version_change=allow_version_change
    )
    parts = {
        part: [
            read_statistics(job, material, far, rule.pairs, config.num_attention_heads).with_values()
            for material in group
        ]
        for part, group in materials.items()
    }
    made_of = {"corpus": content_hash(every), "versions": versions}
    return _preset(job, rule, far, config.num_hidden_layers, parts, made_of)


def check_rule(rule: settings.Calibrating, length: int) -> None:
    """Raise ``ValueError`` for settings that windows of ``length`` tokens cannot be calibrated with."""
    for name in (*rule.targets, *rule.others):
        parse(name)
    if not rule.targets:
        raise ValueError("targets must name at least one control, such as spliced-8")
    for setting, number, least in (
        ("pairs", rule.pairs, 2),
        ("folds", rule.folds, 2),
        ("resamples", rule.resamples, 1),
    ):
        if number < least:
            raise ValueError(f"{setting} must be at least {least}, got {number}")
    if rule.rows is not None and rule.rows < 1:
        raise ValueError(f"rows must be at least 1, got {rule.rows}; None looks at all")
    if not rule.skips:
        raise ValueError("skips must name at least one number of keys, such as 0")
    most = length - max(_distances(length)) - 1
    if wrong := [skip for skip in rule.skips if not 0 <= skip <= most]:
        raise ValueError(f"skips must be from 0 to {most} for windows of {length} tokens, got {wrong[0]}")


def depth_within(share: float, num_layers: int) -> int:
    """How many layers a share of them holds; the share as it is written in decimals.

    >>> depth_within(0.58, 50)
    29
    """
    return int(Fraction(repr(float(share))) * num_layers)


def _distances(length: int) -> tuple[int, ...]:
    return tuple(max(1, int(Fraction(share) * length)) for share in DISTANCES)


def _preset(
    job: Job,
    rule: settings.Calibrating,
    far: FarAttention,
    num_layers: int,
    parts: Mapping[str, list[Statistics]],
    made_of: Mapping[str, Any],
) -> Preset:
    chosen, heads, expected = choose(parts["calibration"], rule.targets, rule.folds, rule.seed)
    layers = sorted({layer for layer, _ in heads})
    separations = [
        {"source": source, "control": control, "calibration": apparent, "held_out": held_out}
        for (source, control), apparent, held_out in _evidence(parts, chosen, heads, rule)
    ]
    targets = [row for row in separations if row["control"] in rule.targets]
    gap = float(np.mean([row["calibration"].value - row["held_out"].value for row in targets]))
    evidence = {
        "separations": separations,
        "expected": expected,
        "gap": gap,
        "layers_run": max(layers) + 1,
        "cost_share": (max(layers) + 1) / num_layers,
        "model": {
            "name": job.checkpoint.name,
            "hash": job.checkpoint.hash,
            "dtype": job.model.dtype,
            "bos": job.model.bos,
        },
        "window": job.window.length,
        "rows": far.num_rows,
        "sources": {
            one.source: {
                part: len(set(of.documents)) for part in PARTS for of in parts[part] if of.source == one.source
            }
            for one in parts["calibration"]
        },
        **made_of,
        "settings": settings.plain(rule),
        "shallower": _shallower(parts, rule, num_layers, max(layers)),
    }
    share = DISTANCES[chosen.distance]
    return Preset(
        layers=layers,
        heads=None if chosen.whole_layers else [list(head) for head in heads],
        distances=[share],
        distance=share,
        skip_first=far.skips[chosen.skip],
        spread=chosen.spread,
        alpha=chosen.alpha,
        model=job.checkpoint.hash,
        evidence=evidence,
    )


def _materials(job: Job, units: Sequence[WorkUnit], rule: settings.Calibrating) -> dict[str, list[Material]]:
    """Windows and controls of each source, apart for the two parts: no document has a token in both."""
    names = (*rule.targets, *rule.others)
    count = -(-rule.pairs // PAIRS) * PAIRS
    found: dict[str, list[Material]] = {part: [] for part in PARTS}
    for source, sampled in sample(job, units, 2 * count, rule.seed).items():
        for part, windows in split(sampled, rule.seed).items():
            material = make_material(source, windows[:count], names, rule.seed)
            groups = {name: members for name, members in material.groups.items() if name != RECUT}
            if any(len(groups[name]) < 2 for name in rule.targets):
                documents = len(set(material.documents))
                raise CorpusError(
                    f"{source}: its {len(material.intact)} windows of {documents} documents in the {part} part do not "
                    f"allow {', '.join(rule.targets)}; more documents, shorter windows or other --targets would"
                )
            found[part].append(replace(material, groups=groups))
    if not found[PARTS[0]]:
        raise CorpusError(f"no source has a window of {job.window.length} tokens; shorter windows may help")
    return found


def split(sampled: Sequence[Intact], seed: int) -> dict[str, list[Intact]]:
    """Windows by part: half of the documents, by a hash of their ids, are held out.

    The documents are dealt in the order of their hashes, so that few of them are shared out evenly too.
    """
    documents = sorted({one.window.doc_id for one in sampled}, key=lambda name: digest(seed, f"part {name}"))
    held_out = set(documents[1::2])
    return {part: [one for one in sampled if (one.window.doc_id in held_out) == (part == "held_out")] for part in PARTS}


def read_statistics(job: Job, material: Material, far: FarAttention, pairs: int, num_heads: int) -> Statistics:
    """DS and block variance of every head from the measured sums."""
    shape = (len(far.layers), num_heads, len(far.skips), len(far.distances))
    length = job.window.length
    cells = np.array([[(length - d) * (length - d - skip) for d in far.distances] for skip in far.skips], dtype=float)
    strength, variance = {}, {}
    for group in material.groups:
        blocks = material.blocks(group, pairs)
        places = [place for block in blocks for place in block.pairs]
        sums = {kind: np.full((len(material.intact), *shape), np.nan) for kind in ("s1", "s2")}
        if blocks:
            read = read_columns(job.table(far), [block.id for block in blocks], column("s1") + column("s2"))
            for kind, values in sums.items():
                values[places] = read[kind].reshape(-1, *shape)
        strength[group] = sums["s1"] / length
        variance[group] = (sums["s2"] - np.square(sums["s1"]) / cells) / cells
    return Statistics(material.source, material.documents, strength, variance)


def choose(
    parts: Sequence[Statistics], targets: Sequence[str], folds: int, seed: int
) -> tuple[Rule, list[tuple[int, int]], float]:
    """The best rule with its heads, and the mean AUC that folds left out of its choice gave it.

    Raises :class:`CorpusError` where a fold has all the documents, so that nothing could be chosen without it.
    """
    numbers = [_fold_of(one.documents, folds, seed) for one in parts]
    results: dict[Rule, list[float]] = {}
    for fold in range(folds):
        inner = [one.of(number != fold) for one, number in zip(parts, numbers, strict=True)]
        if not any(len(one.documents) for one in inner):
            raise CorpusError(
                "nothing can be chosen on one document of each source and judged on another: the calibration part has "
                "no more, or no more with values; more documents or shorter windows would"
            )
        outer = [one.of(number == fold) for one, number in zip(parts, numbers, strict=True)]
        for rule, heads in ranked(inner, targets):
            found = [_auc(s) for one in outer for s in _scores(one, targets, rule, heads).values()]
            results.setdefault(rule, []).extend(value for value in found if np.isfinite(value))
    # the first of equals is the simplest: rules come by growing alpha, and by growing number of heads
    best = max(results, key=lambda rule: float(np.mean(results[rule] or [0.0])))
    heads = next(heads for rule, heads in ranked(parts, targets) if rule == best)
    return best, heads, float(np.mean(results[best]))


def _fold_of(documents: Sequence[str], folds: int, seed: int) -> npt.NDArray[np.int64]:
    names = sorted(set(documents), key=lambda name: digest(seed, f"fold {name}"))
    number = {name: k % folds for k, name in enumerate(names)}
    return np.array([number[name] for name in documents])


def ranked(parts: Sequence[Statistics], targets: Sequence[str]) -> Iterator[tuple[Rule, list[tuple[int, int]]]]:
    """Every rule with the heads that are best by it on these parts, each judged alone."""
    num_heads, num_skips, num_distances = parts[0].strength[INTACT].shape[2:]
    # without the spread its sign says nothing
    weights: list[tuple[float, Literal[-1, 1]]] = [
        (alpha, sign) for alpha in ALPHAS for sign in SIGNS if alpha or sign == -1
    ]
    for (alpha, sign), skip, distance in itertools.product(weights, range(num_skips), range(num_distances)):
        for whole in (True, False):
            quality = _alone(parts, targets, Rule(skip, distance, sign, alpha, whole, 1))
            order = np.argsort(-quality, kind="stable").tolist()
            for number in LAYERS if whole else HEADS:
                if number > len(order):
                    break
                rule = Rule(skip, distance, sign, alpha, whole, number)
                if whole:
                    yield rule, [(layer, head) for layer in sorted(order[:number]) for head in range(num_heads)]
                else:
                    yield rule, sorted(divmod(place, num_heads) for place in order[:number])


def _alone(parts: Sequence[Statistics], targets: Sequence[str], rule: Rule) -> Array:
    """Mean AUC over sources and controls of every layer, or head, by itself."""
    found = []
    for one in parts:
        if not len(one.documents):
            continue
        ds, var = (
            _standard({group: _alone_values(values[group], rule) for group in (INTACT, *targets)})
            for values in (one.strength, one.variance)
        )
        scores = {group: ds[group] + rule.alpha * rule.spread * var[group] for group in ds}
        for name in targets:
            known = np.isfinite(scores[name][:, 0])
            if known.any():
                better, worse = scores[INTACT].T[:, :, None], scores[name][known].T[:, None, :]
                # [candidates, N, M]
                found.append(((better > worse) + 0.5 * (better == worse)).mean(axis=(1, 2)))
    return np.mean(found, axis=0)


def _alone_values(values: Array, rule: Rule) -> Array:
    """[pairs, candidates]: a statistic of every layer (mean of its heads), or of every head."""
    of = values[:, :, :, rule.skip, rule.distance]
    return of.mean(axis=2) if rule.whole_layers else of.reshape(len(of), -1)


def _standard(values: Mapping[str, Array]) -> dict[str, Array]:
    """All groups on the scale of the intact windows, which are what a corpus holds."""
    center, deviation = values[INTACT].mean(axis=0), values[INTACT].std(axis=0)
    return {group: (of - center) / np.where(deviation > 0, deviation, 1.0) for group, of in values.items()}


def _scores(
    one: Statistics, names: Sequence[str], rule: Rule, heads: Sequence[tuple[int, int]]
) -> dict[str, tuple[Array, Array]]:
    """Scores of the intact windows and of each control, as ``longattn`` with the preset would give them."""
    if not len(one.documents):
        return {}
    layer, head = (np.array(part) for part in zip(*heads, strict=True))
    ds, var = (
        _standard({g: of[g][:, layer, head, rule.skip, rule.distance].mean(axis=1) for g in (INTACT, *names)})
        for of in (one.strength, one.variance)
    )
    scores = {group: ds[group] + rule.alpha * rule.spread * var[group] for group in ds}
    return {name: (scores[INTACT], scores[name]) for name in names}


def _auc(pair: tuple[Array, Array]) -> float:
    better, worse = pair
    worse = worse[np.isfinite(worse)]
    return auc(better, worse) if len(better) and len(worse) else float("nan")


def _evidence(
    parts: Mapping[str, list[Statistics]],
    chosen: Rule,
    heads: Sequence[tuple[int, int]],
    rule: settings.Calibrating,
) -> Iterator[tuple[tuple[str, str], Estimate, Estimate]]:
    """AUC with interval in both parts, by source and control; controls that cannot be made are left out."""
    for calibration, held_out in zip(parts["calibration"], parts["held_out"], strict=True):
        for name in (*rule.targets, *rule.others):
            found = []
            for one in (calibration, held_out):
                if not len(one.documents):
                    continue
                better, worse = _scores(one, [name], chosen, heads)[name]
                known = np.isfinite(worse)
                if known.sum() > 1:
                    documents = [document for document, k in zip(one.documents, known, strict=True) if k]
                    weights = draws(documents, rule.resamples, rule.seed)
                    found.append(auc_interval(better[known], worse[known], weights))
            if len(found) == len(PARTS):
                yield (calibration.source, name), found[0], found[1]


def _shallower(
    parts: Mapping[str, list[Statistics]], rule: settings.Calibrating, num_layers: int, deepest: int
) -> list[dict[str, Any]]:
    """What fewer layers would have given: mean AUC against the targets in both parts, by the share of layers run."""
    found = []
    for depth in sorted({max(1, round(share * num_layers)) for share in (1 / num_layers, 0.1, 0.25, 0.5)}):
        if depth > deepest:
            continue
        shallow = {part: [_first_layers(one, depth) for one in group] for part, group in parts.items()}
        chosen, heads, expected = choose(shallow["calibration"], rule.targets, rule.folds, rule.seed)
        means = {
            part: float(np.mean([_auc(s) for one in group for s in _scores(one, rule.targets, chosen, heads).values()]))
            for part, group in shallow.items()
        }
        found.append({"layers_run": depth, "cost_share": depth / num_layers, "expected": expected, **means})
    return found


def _first_layers(one: Statistics, depth: int) -> Statistics:
    strength, variance = (
        {group: values[:, :depth] for group, values in statistic.items()} for statistic in (one.strength, one.variance)
    )
    return Statistics(one.source, one.documents, strength, variance)
