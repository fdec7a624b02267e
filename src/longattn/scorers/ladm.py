"""LADM: how strongly the spans of a window attend to spans far before them, and how selectively."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from longattn.expressions import Expression, column, mean_of
from longattn.records import Window
from longattn.scorers.base import Ask, Columns, Schema, Scorer, Seen

if TYPE_CHECKING:
    from longattn.models.base import LayerAttention

SPANS = 256
"""Spans of a window in the paper, of 128 tokens each in its 32,768."""
MIN_SPAN_TOKENS = 4
"""A window too short for 256 spans of this many tokens gets fewer spans, not shorter ones."""
ROWS_AT_ONCE = 1024
"""Query rows whose mass on every span is held at once."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class LADM(Scorer):
    """Long-range dependency of a window, read from the attention between its spans.

    Paper: https://arxiv.org/abs/2503.02502, section 3. A window of L tokens is N = 256 spans of l = 128; for a span j
    and spans i before it, at every d-th distance::

        PFS(i, j) = mass of the queries of j on the keys of i, summed over queries, mean over heads
        AFS(j)    = std of PFS(·, j) * sum over i of (j - i)/N * PFS(i, j)
        CDS       = sum over every d-th j of j/N * AFS(j)

    averaged over layers. The first span is left out (attention sinks). Paper and released code differ in two points,
    which ``convention`` switches: the paper's sum over i ends before the span at distance d, the code includes it; the
    paper adds up over j, the code takes the mean. Where the paper is silent this follows the code: a span's own keys
    are in no softmax (``own_keys``), j counts down from the last span (``first_query``), the standard deviation is the
    unbiased one.

    Shorter windows keep N = 256 spans, of L/256 tokens but at least 4; below 1,024 tokens there are fewer spans, and n0
    scales with them. Tokens that are left over go to the first span. PFS, a sum over queries, is smaller in smaller
    spans: compare windows of one length only.

    ``own_keys``, ``spans``, the strides and ``first_query`` are measured; everything else may be changed afterwards.
    """

    name: ClassVar[str] = "ladm"

    own_keys: bool = False
    """Let queries attend to their own span, causally, as any language model does; the released code cuts it off."""
    spans: int | None = None
    """Spans N per window; None is 256, or as many of 4 tokens as there are."""
    query_stride: int = 4
    """Every how many spans a span's queries are looked at (paper: d of CDS)."""
    first_query: Literal["n0", "last"] = "last"
    """Where j begins: at n0, up from which the paper's sum can be read, or at the last span, from which the released
    code counts down."""
    key_stride: int = 4
    """Distance, in spans, from one span that is looked back at to the next (paper: d of AFS, and n)."""

    convention: Literal["paper", "released"] = "paper"
    """Whose definition to follow where paper and released code differ."""
    nearest: bool | None = None
    """Count the nearest span, at distance d; None follows the convention (paper: no, released: yes)."""
    total: Literal["sum", "mean"] | None = None
    """How AFS is put together over j; None follows the convention (paper: sum, released: mean)."""
    std: bool = True
    """Multiply by the standard deviation; without is the paper's ablation."""
    length_weights: bool = True
    """Weight by distance (j - i)/N and by place j/N; without is the paper's ablation."""
    layers: tuple[int, ...] | None = None
    """Layers to average, 0-based; None is all, as in the released code."""
    length: int | None = None
    """Window length L in tokens; filled in from the run's windows."""

    def for_length(self, length: int) -> "LADM":
        """The scorer with its number of spans. Raises ``ValueError`` for windows or strides that leave no span."""
        for name in ("query_stride", "key_stride"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        spans = min(SPANS, length // MIN_SPAN_TOKENS) if self.spans is None else self.spans
        # the last span must have three spans at the distances d, 2d, 3d, none of them the first of all
        least = 3 * self.key_stride + 2
        if not least <= spans <= length:
            needed = f"at least {least * MIN_SPAN_TOKENS} tokens" if self.spans is None else f"{least} to L spans"
            raise ValueError(
                f"LADM with key_stride {self.key_stride} needs {needed}; a window of {length} tokens has {spans} spans"
            )
        return replace(self, spans=spans, length=length)

    def measurement(self) -> Mapping[str, Any]:
        """Which spans look at which."""
        names = ("own_keys", "spans", "query_stride", "key_stride")
        # which came later: what was measured before keeps its table's name
        later = {} if self.first_query == "last" else {"first_query": self.first_query}
        return {name: getattr(self, name) for name in names} | later

    def ask(self) -> Ask:
        """The queries of every d-th span, in all layers."""
        return Ask(layers="all", observe=self.observe, rows=self._rows)

    def observe(self, layer: "LayerAttention") -> Columns:
        """The mean over j of each variant of AFS, by the names of :meth:`schema`, float64 [1]."""
        pfs_JN = self._preceding_focus(layer)
        return {key: np.array([self._mean(pfs_JN, *choice)]) for key, choice in _VARIANTS.items()}

    def schema(self) -> Schema:
        """``cds`` with and without ``nearest``, ``std`` and ``length_weights``: mean over layers, and each layer."""
        means: Schema = dict.fromkeys(_VARIANTS, "float64")
        layers: Schema = {f"layers_{key}": "list<float64>" for key in _VARIANTS}
        return {**means, **layers}

    def measure(self, windows: Sequence[Window], seen: Seen) -> Columns:
        """The columns of :meth:`schema`."""
        columns: dict[str, npt.NDArray] = {}
        for key in _VARIANTS:
            columns[f"layers_{key}"] = np.array([[seen.layers[layer][key][0] for layer in sorted(seen.layers)]])
            columns[key] = columns[f"layers_{key}"].mean(axis=1)
        return columns

    def score(self) -> Expression:
        """CDS."""
        nearest = self.convention == "released" if self.nearest is None else self.nearest
        total = self.total or ("sum" if self.convention == "paper" else "mean")
        key = _variant(nearest, self.std, self.length_weights)
        mean = column(key) if self.layers is None else mean_of([column(f"layers_{key}", n) for n in self.layers])
        return mean * float(len(self._queries())) if total == "sum" else mean

    def readings(self) -> Mapping[str, Expression]:
        """``cds``, the score itself."""
        return {"cds": self.score()}

    def null(self, prefix: int = 0) -> Mapping[str, float]:
        """Under uniform attention all spans get the same, and CDS is 0 as their standard deviation is."""
        return {"cds": 0.0} if self.std else {}

    def _preceding_focus(self, layer: "LayerAttention") -> Floats:
        """PFS(i, j) for the looked-at spans j, ascending, and every span i: float64 [J, N]."""
        import torch

        edges, queries, width = self._edges(), self._queries(), self._width
        before = [edges[j] for j in queries for _ in range(width)]
        limits_R = layer.positions + 1 if self.own_keys else torch.tensor(before, device=layer.q.device)
        pfs_JN = np.zeros((len(queries), len(edges) - 1))
        at_once = max(1, ROWS_AT_ONCE // width)
        for first in range(0, len(queries), at_once):
            part = slice(first * width, (first + at_once) * width)
            mass_1HRN = layer.at(part).span_mass(edges, limits=limits_R[part])
            # NumPy adds in one fixed order, torch in one that depends on the number of threads
            mass_HJwN = mass_1HRN[0].unflatten(1, (-1, width)).cpu().numpy()
            pfs_JN[first : first + at_once] = mass_HJwN.sum(axis=2).mean(axis=0)
        return pfs_JN

    def _mean(self, pfs_JN: Floats, nearest: bool, std: bool, length_weights: bool) -> float:
        """The mean over j of j/N * AFS(j), or of what the ablations leave of it."""
        edges = np.array(self._edges(), dtype=np.float64)
        afs = []
        for j, pfs_N in zip(self._queries(), pfs_JN, strict=True):
            back = np.arange(j - (1 if nearest else 2) * self.key_stride, 0, -self.key_stride)
            weights = (edges[j] - edges[back]) / self._length if length_weights else np.ones(len(back))
            place = edges[j] / self._length if length_weights else 1.0
            spread = pfs_N[back].std(ddof=1) if std else 1.0
            afs.append(place * spread * (weights * pfs_N[back]).sum())
        return float(np.mean(afs))

    def _rows(self, window: Window) -> npt.NDArray[np.int64]:
        """Positions of the queries of the looked-at spans, ascending."""
        starts = np.array([self._edges()[j] for j in self._queries()], dtype=np.int64)
        return (starts[:, None] + np.arange(self._width)).reshape(-1)

    def _queries(self) -> list[int]:
        """The looked-at spans j, ascending: every d-th from n0 = N/16 (16 of 256) on, or down from the last one."""
        assert self.spans is not None, "for_length() comes first"
        # the nearest span apart, a standard deviation needs two
        first = max(self.spans // 16, 3 * self.key_stride + 1)
        if self.first_query == "n0":
            return list(range(first, self.spans, self.query_stride))
        return list(range(self.spans - 1, first - 1, -self.query_stride))[::-1]

    def _edges(self) -> list[int]:
        """Where spans begin, and the end of the last; what is left over belongs to the first span."""
        assert self.spans is not None, "for_length() comes first"
        left_over = self._length - self.spans * self._width
        return [0, *(left_over + i * self._width for i in range(1, self.spans + 1))]

    @property
    def _width(self) -> int:
        """Tokens per span."""
        assert self.spans is not None, "for_length() comes first"
        return self._length // self.spans

    @property
    def _length(self) -> int:
        assert self.length is not None, "for_length() comes first"
        return self.length


def _variant(nearest: bool, std: bool, length_weights: bool) -> str:
    """Name of the column with these choices."""
    words = [("nearest", nearest), ("no_std", not std), ("no_weights", not length_weights)]
    return "_".join(["cds", *(word for word, said in words if said)])


_CHOICES = [(nearest, std, weights) for nearest in (False, True) for std in (True, False) for weights in (True, False)]
_VARIANTS = {_variant(*choice): choice for choice in _CHOICES}
