"""LongAttn: how much of a window's attention reaches far back, and how evenly it is spread there."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from itertools import combinations_with_replacement
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from longattn.errors import PresetError
from longattn.expressions import Constant, Expression, column, mean_of, minmax, unit, zscore
from longattn.presets import read_heads, read_preset
from longattn.records import Window
from longattn.scorers import sampled
from longattn.scorers.base import Ask, Columns, PilotScorer, Schema, Seen
from longattn.settings import Backend

if TYPE_CHECKING:
    from longattn.models.base import LayerAttention

Convention = Literal["paper", "released"]
Variance = Literal["block", "square", "triangle"]
Normalisation = Literal["zscore", "minmax"]

Number = TypeVar("Number", float, Expression)

ROWS_AT_ONCE = 8192
"""Query rows whose moments are held before they are added up; bounds memory, and fixes the order of the sums."""


@dataclass(frozen=True, kw_only=True)
class LongAttn(PilotScorer):
    """Long-range dependency of a window, read from the attention of a decoder layer.

    Paper: https://arxiv.org/abs/2502.16860, section 3.2. With p the causal softmax attention of a head over the
    window's L tokens, and far the pairs of a query n and a key j with ``n - j >= k``::

        DS  = sum of p over far / L            dependency strength, Eq. 5
        DU  = -variance of p over far          distribution uniformity, Eq. 7
        LDS = z(DS) + alpha * z(DU)            Eq. 8

    Per head, then averaged over heads and layers; the paper is silent on heads, the released code averages them. That
    code departs from the paper twice, and ``convention="released"`` follows it: the variance is over all L² cells of
    the map instead of the (L - k)² of Eq. 6, and both columns are rescaled to [0, 1] instead of z-scored.

    The sign of DU is the paper's. In layers that read the text, a wide spread of far attention goes with intact text,
    not with noise (LADM multiplies by it): ``spread=+1`` adds z(variance) instead of subtracting it.

    ``layers``, ``distances``, ``skip_first``, ``per_head`` and ``rows`` with what follows it are measured; everything
    else may be changed afterwards. A ``preset`` sets all of these but the kernel and the rows.
    """

    name: ClassVar[str] = "longattn"

    layers: tuple[int, ...] = (0,)
    """Decoder layers to look at, 0-based; the paper uses the first."""
    distances: tuple[int, ...] = ()
    """Minimum distances k to measure, in tokens; empty measures L/16, L/8, L/4 and L/2."""
    skip_first: int = 0
    """Leave the first keys of a window (attention sinks) out of the far sums; they stay in the softmax."""
    per_head: bool = False
    """Store every head, so that a head set can be chosen at selection; larger tables."""
    backend: Backend = "auto"
    """Attention kernel; one asked for by name runs or raises. Kernels agree within their tested bound."""
    rows: float | int | None = None
    """Estimate the sums from some query rows: below 1 a share of the pairs of a query and a key (0.1), from 1 on a
    number of rows of each head. None measures all. The tables then hold estimates and the variances of their errors."""
    seed: int = 0
    """Another seed draws other rows."""
    pilot_sample: int = 64
    """Windows measured in full first, to predict rows by token and position: what is sampled is then only what the
    prediction misses. 0 samples without."""
    pilot: str | None = None
    """File with these predictions; filled in by the run."""
    pilot_hash: str | None = None
    """Content hash of that file; filled in by the run."""

    distance: int | None = None
    """The measured distance that the score is read at; None is L/4."""
    heads: tuple[tuple[int, int], ...] | None = None
    """Heads to average, as pairs of a measured layer and a head, both 0-based (``--longattn.heads 15 3
    --longattn.heads 21 0``); None is all. Needs ``per_head``."""
    alpha: float = 0.5
    """Weight of distribution uniformity against dependency strength."""
    spread: Literal[-1, 1] = -1
    """Sign of the variance in the score: -1 punishes uneven far attention, as the paper does; 1 rewards it."""
    convention: Convention = "paper"
    """Whose definition to follow where paper and released code differ."""
    variance: Variance | None = None
    """Cells that the variance is taken over; None follows the convention (paper: block, released: square)."""
    normalise: Normalisation | None = None
    """How columns are brought to one scale; None follows the convention (paper: zscore, released: minmax)."""
    preset: str | None = None
    """Calibrated layers, heads, distances, skip_first, spread and alpha, which replace those given here: a JSON file
    that ``longattn calibrate`` wrote, or the name of one that comes with the package. One that ``longattn heads`` wrote
    replaces layers and heads alone."""
    length: int | None = None
    """Window length L in tokens; filled in from the run's windows."""

    def for_length(self, length: int) -> "LongAttn":
        """The scorer with its preset's settings and with distances in tokens.

        Raises ``ValueError`` for windows of one token, in which nothing is far; for skipped keys that leave none to
        look at; for a distance outside [1, L - skip_first); and for heads of layers that are not measured.
        """
        if length < 2:
            raise ValueError(f"windows must have at least 2 tokens for attention to reach back, got {length}")
        if self.preset is not None and self.length is None:
            return replace(self, **_preset_settings(self.preset, length)).for_length(length)
        most = length - 2
        if not 0 <= self.skip_first <= most:
            raise ValueError(
                f"skip_first must be from 0 to {most} for windows of {length} tokens, got {self.skip_first}"
            )
        distances = self.distances or tuple(sorted({max(1, length // part) for part in (16, 8, 4, 2)}))
        distance = max(1, length // 4) if self.distance is None else self.distance
        for d in (*distances, distance):
            if not 1 <= d < length - self.skip_first:
                raise ValueError(
                    f"distance must be in [1, {length - self.skip_first}) for windows of {length} tokens "
                    f"with the first {self.skip_first} keys skipped, got {d}"
                )
        if distance not in distances:
            if self.distance is not None and self.distances:
                raise ValueError(f"distance must be one of the measured distances {list(distances)}, got {distance}")
            distances = tuple(sorted({*distances, distance}))
        self._check_rows()
        if strangers := [(layer, head) for layer, head in self.heads or () if layer not in self.layers]:
            raise ValueError(f"heads must be of the measured layers {list(self.layers)}, got {strangers[0]}")
        return replace(self, length=length, distances=distances, distance=distance)

    def measurement(self) -> Mapping[str, Any]:
        """Layers, distances, skipped keys, heads kept and the kernel asked for; how rows are drawn, if they are."""
        measured = ["layers", "distances", "skip_first", "per_head", "backend"]
        facts = {name: value for name, value in asdict(self).items() if name in measured}
        if self.rows is None:
            return facts
        # rows are drawn for the distance that the score is read at
        drawn = {
            "rows": float(self.rows),
            "seed": self.seed,
            "distance": self.distance,
            "pilot_sample": self.pilot_sample,
        }
        return {**facts, **drawn, "pilot": self.pilot_hash}

    def pilot_windows(self) -> int:
        """As set; none where all rows are measured."""
        return 0 if self.rows is None else self.pilot_sample

    def pilot_ask(self) -> Ask:
        """Moments of every row."""
        return Ask(layers=self.layers, observe=self._every_row)

    def _every_row(self, layer: "LayerAttention") -> Columns:
        return sampled.every_row(layer, self.distances, self.skip_first, self.backend)

    def fit(self, windows: Sequence[Window], seen: Sequence[Seen]) -> dict[str, npt.NDArray]:
        """Predictions of a row's moments by token and position (:class:`longattn.sampling.Prediction`), per layer."""
        reach = {"distances": self.distances, "skip_first": self.skip_first, "distance": self._distance}
        return sampled.fit(windows, seen, layers=self.layers, **reach)

    def with_pilot(self, file: str, content_hash: str) -> "LongAttn":
        """The scorer with its predictions."""
        return replace(self, pilot=file, pilot_hash=content_hash)

    def ask(self) -> Ask:
        """Queries and keys of the layers."""
        return Ask(layers=self.layers, observe=self.observe if self.rows is None else self._observe_some)

    def ask_more(self, found: Columns) -> Ask:
        """The next draw of rows of one window, of which ``found`` are the columns so far [1, ...]."""
        assert self.rows is not None, "there are no more rows than all"

        def observe(layer: "LayerAttention") -> Columns:
            return self._observe_some(layer, self._found(layer.layer, found))

        return Ask(layers=self.layers, observe=observe)

    def _observe_some(self, layer: "LayerAttention", before: sampled.Found | None = None) -> Columns:
        assert self.rows is not None
        reach = (self.distances, self.skip_first, self.backend, self._distance)
        drawing = sampled.Sampling(self.rows, self.seed, *reach, self.pilot)
        return {name: np.array([value]) for name, value in drawing.measure(layer, before)._asdict().items()}

    def _found(self, layer: int, columns: Columns) -> sampled.Found:
        """What the columns of one window say of a layer."""
        keys = [f"l{layer}_d{distance}" for distance in self.distances]
        sums = {
            kind: np.stack([np.asarray(columns[f"{kind}_{key}"][0]) for key in keys])
            for kind in ("s1", "s1sq", "s2", "covariance", "drawn")
        }
        return sampled.Found(**sums, pairs=float(columns["pairs"][0]), draws=int(columns["draws"][0]))

    def schema(self) -> Schema:
        """Per layer and distance the head means of S1 (sum of p), S1² and S2 (sum of p²); heads apart on request.

        Where rows are drawn, ``covariance`` holds that of the three estimates' errors, the upper triangle of a three by
        three matrix in reading order, ``drawn`` the sums of mass, then of square, over the rows measured, by head;
        ``pairs`` is the share of all pairs that was looked at, in ``draws`` draws.
        """
        means: Schema = {f"{kind}_{key}": "float64" for key in self._keys() for kind in ("s1", "s1sq", "s2")}
        heads: Schema = {f"heads_{kind}_{key}": "list<float64>" for key in self._keys() for kind in ("s1", "s2")}
        errors: Schema = {f"{kind}_{key}": "list<float64>" for key in self._keys() for kind in ("covariance", "drawn")}
        errors = {"pairs": "float64", "draws": "int32", **errors}
        more = errors if self.rows is not None else heads if self.per_head else {}
        return {"num_tokens": "int32", **means, **more}

    def observe(self, layer: "LayerAttention") -> Columns:
        """S1 and S2 of every head and distance, float64 [B, H, D], from one layer's queries and keys."""
        B, R, H, _ = layer.q.shape
        s1_BHD, s2_BHD = (np.zeros((B, H, len(self.distances))) for _ in range(2))
        for start in range(0, R, ROWS_AT_ONCE):
            part = layer.at(slice(start, start + ROWS_AT_ONCE))
            moments = part.row_moments(self.distances, skip_first=self.skip_first, backend=self.backend)
            # NumPy adds in one fixed order, torch in one that depends on the number of threads
            s1_BHD += moments.mass.cpu().numpy().sum(axis=2)
            s2_BHD += moments.square.cpu().numpy().sum(axis=2)
        return {"s1": s1_BHD, "s2": s2_BHD}

    def measure(self, windows: Sequence[Window], seen: Seen) -> Columns:
        """The columns of :meth:`schema`."""
        columns = {"num_tokens": np.array([len(window.tokens) for window in windows], dtype=np.int32)}
        if self.rows is not None:
            columns["pairs"] = np.mean([seen.layers[layer]["pairs"] for layer in self.layers], axis=0)
            columns["draws"] = seen.layers[self.layers[0]]["draws"].astype(np.int32)
        for layer in self.layers:
            for d, distance in enumerate(self.distances):
                if self.rows is not None:
                    kinds = ("s1", "s1sq", "s2", "covariance", "drawn")
                    columns |= {f"{kind}_l{layer}_d{distance}": seen.layers[layer][kind][:, d] for kind in kinds}
                    continue
                s1_BH, s2_BH = (seen.layers[layer][kind][:, :, d] for kind in ("s1", "s2"))
                key = f"l{layer}_d{distance}"
                columns |= {
                    f"s1_{key}": s1_BH.mean(axis=1),
                    f"s1sq_{key}": np.square(s1_BH).mean(axis=1),
                    f"s2_{key}": s2_BH.mean(axis=1),
                }
                if self.per_head:
                    columns |= {f"heads_s1_{key}": s1_BH, f"heads_s2_{key}": s2_BH}
        return columns

    def score(self) -> Expression:
        """LDS (Eq. 8), with the sign of the variance that ``spread`` asks for."""
        scaled = zscore if self._rule == "zscore" else minmax
        strength, uniformity = self.strength(self._distance), self.uniformity(self._distance)
        return scaled(strength) + self.weight * scaled(uniformity)

    @property
    def weight(self) -> float:
        """What z(DU) is multiplied by in the score: alpha, or minus alpha where spread is to be rewarded."""
        return -self.spread * self.alpha

    def variance_of_score(self) -> Expression | None:
        """Variance of the score's error, where rows are drawn; the scales of its parts are taken as known."""
        if self.rows is None:
            return None
        of_ds, of_both, of_du = self.errors()
        ds, du = (unit(part, self._rule) for part in (self.strength(self._distance), self.uniformity(self._distance)))
        return of_ds / (ds * ds) + 2 * self.weight * of_both / (ds * du) + self.weight**2 * of_du / (du * du)

    def errors(self) -> tuple[Expression, Expression, Expression]:
        """Variance of DS's error, covariance of DS's and DU's, variance of DU's, where rows are drawn."""
        cells, lost = self._cells(self._distance)
        # what a unit of S1, S1² and S2 adds
        ds, du = (1 / self._length, 0.0, 0.0), (0.0, 1 / cells / (cells - lost), -1 / (cells - lost))
        return self._covariance(ds, ds), self._covariance(ds, du), self._covariance(du, du)

    def _covariance(self, one: Sequence[float], other: Sequence[float]) -> Expression:
        """Covariance of the errors of two sums of S1, S1² and S2; layers' errors are independent."""
        total: Expression = Constant(0.0)
        for layer in self.layers:
            name = f"covariance_l{layer}_d{self._distance}"
            for place, (a, b) in enumerate(combinations_with_replacement(range(3), 2)):
                slope = one[a] * other[b] if a == b else one[a] * other[b] + one[b] * other[a]
                total = total + slope * column(name, place)
        return total / float(len(self.layers) ** 2)

    def readings(self) -> Mapping[str, Expression]:
        """``ds`` and ``du`` at the chosen distance, and ``ds@k`` at every measured one."""
        by_distance = {f"ds@{d}": self.strength(d) for d in self.distances}
        return {"ds": self.strength(self._distance), "du": self.uniformity(self._distance), **by_distance}

    def null(self, prefix: int = 0) -> Mapping[str, float]:
        """The readings under uniform attention, to the ``prefix`` tokens before the window as to all others."""
        moments = {d: uniform_moments(self._length, d, self.skip_first, prefix) for d in self.distances}
        s1, s2 = moments[self._distance]
        variance = _variance(s1, s1 * s1, s2, *self._cells(self._distance))
        by_distance = {f"ds@{d}": s1 / self._length for d, (s1, _) in moments.items()}
        return {"ds": s1 / self._length, "du": -variance, **by_distance}

    def strength(self, distance: int) -> Expression:
        """DS at a measured distance."""
        return mean_of([s1 for s1, _, _ in self._sums(distance)]) / column("num_tokens")

    def uniformity(self, distance: int) -> Expression:
        """DU at a measured distance: minus the mean over heads of each head's variance."""
        cells, lost = self._cells(distance)
        return -mean_of([_variance(s1, s1sq, s2, cells, lost) for s1, s1sq, s2 in self._sums(distance)])

    def _sums(self, distance: int) -> list[tuple[Expression, Expression, Expression]]:
        """S1, S1² and S2 per layer, or per layer and chosen head."""
        if self.heads is None:
            keys = [f"l{layer}_d{distance}" for layer in self.layers]
            return [(column(f"s1_{key}"), column(f"s1sq_{key}"), column(f"s2_{key}")) for key in keys]
        if not self.per_head:
            raise ValueError("heads can be chosen only where per_head=True was measured")
        singles = [
            (column(f"heads_s1_l{layer}_d{distance}", head), column(f"heads_s2_l{layer}_d{distance}", head))
            for layer, head in self.heads
        ]
        return [(s1, s1 * s1, s2) for s1, s2 in singles]

    def _cells(self, distance: int) -> tuple[float, int]:
        """Number of cells that the variance is over, and the degrees of freedom taken off (1 in the released code)."""
        reading = self.variance or ("block" if self.convention == "paper" else "square")
        rows, columns = self._length - distance, self._length - distance - self.skip_first
        if reading == "square":
            return float(self._length**2), 1
        return (float(rows * columns), 0) if reading == "block" else (columns * (columns + 1) / 2, 0)

    def _keys(self) -> list[str]:
        return [f"l{layer}_d{distance}" for layer in self.layers for distance in self.distances]

    def _check_rows(self) -> None:
        if self.rows is None:
            return
        if self.per_head:
            raise ValueError("per_head=True needs every row; leave rows unset")
        if self.rows <= 0 or (self.rows > 1 and self.rows != int(self.rows)):
            raise ValueError(f"rows must be a share in (0, 1) or a whole number of rows, got {self.rows}")
        if self.pilot_sample < 0:
            raise ValueError(f"pilot_sample must not be negative, got {self.pilot_sample}; 0 does without a pilot")

    @property
    def _rule(self) -> Normalisation:
        return self.normalise or ("zscore" if self.convention == "paper" else "minmax")

    @property
    def _length(self) -> int:
        assert self.length is not None, "for_length() comes first"
        return self.length

    @property
    def _distance(self) -> int:
        assert self.distance is not None, "for_length() comes first"
        return self.distance


def _preset_settings(preset: str, length: int) -> dict[str, Any]:
    """Settings by name; a distance is a number of tokens or, as text, a share of the window such as ``1/4``."""
    if "layers" not in read_preset(preset, ("heads",)):
        chosen = read_heads(preset)
        if not chosen:
            raise PresetError(f"{preset} lists no heads; layers must be named without it")
        layers = tuple(sorted({layer for layer, _ in chosen}))
        return {"length": length, "layers": layers, "heads": chosen, "per_head": True}
    found = read_preset(preset, ("layers", "heads", "distances", "distance", "skip_first", "spread", "alpha"))

    def tokens(distance: int | str) -> int:
        return distance if isinstance(distance, int) else max(1, int(Fraction(distance) * length))

    heads = found["heads"]
    return {
        "length": length,
        "layers": tuple(found["layers"]),
        "heads": None if heads is None else tuple((layer, head) for layer, head in heads),
        "per_head": heads is not None,
        "distances": tuple(tokens(distance) for distance in found["distances"]),
        "distance": tokens(found["distance"]),
        **{name: found[name] for name in ("skip_first", "spread", "alpha")},
    }


def _variance(s1: Number, s1sq: Number, s2: Number, cells: float, lost: int) -> Number:
    """(S2 - S1²/N) / (N - lost) over N cells, most of which may be zero."""
    return (s2 - s1sq / cells) / (cells - lost)


def uniform_moments(length: int, distance: int, skip_first: int = 0, prefix: int = 0) -> tuple[float, float]:
    """S1 and S2 of a head that attends to all its keys alike, ``prefix`` of which stand before the window.

    >>> s1, s2 = uniform_moments(32768, 8192)
    >>> f"{s1 / 32768:.8f}"
    '0.40343785'
    """
    row = np.arange(distance + skip_first, length, dtype=np.float64)
    far = row - distance - skip_first + 1
    keys = row + 1 + prefix
    return float((far / keys).sum()), float((far / keys**2).sum())
