"""LongAttn's sums over a window's rows from some of them: which are measured, and what is known of the rest."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from longattn import sampling
from longattn.records import Window
from longattn.scorers.base import Columns, Seen
from longattn.settings import Backend

if TYPE_CHECKING:
    from longattn.models.base import LayerAttention

ROWS_AT_ONCE = 64
"""Rows that go through the kernel together; they are neighbours, so that it looks at few keys that they do not."""
PILOT_ALPHA = 0.5
"""Weight of uniformity that rows are drawn for (the paper's); another one costs precision, no correctness."""


RowValues = Callable[[npt.NDArray[np.int64], int], npt.NDArray[np.float64]]


@dataclass(frozen=True)
class Sampling:
    """How rows are drawn, and what of."""

    rows: int | float
    """Rows of each head, or a share of all pairs of a query and a key."""
    seed: int
    distances: tuple[int, ...]
    skip_first: int
    backend: Backend
    distance: int
    """Minimum distance that the score is read at."""
    pilot: str | None = None
    """File with predictions; None draws rows evenly over positions."""

    def measure(self, layer: "LayerAttention") -> Columns:
        """The columns of :meth:`estimate` from one layer of one window."""
        assert layer.window is not None, "rows are drawn by window"

        def values(positions: npt.NDArray[np.int64], head: int) -> npt.NDArray[np.float64]:
            return self._moments(layer, positions, head)

        return self.estimate(layer.window, layer.layer, layer.q.shape[2], values)

    def estimate(self, window: Window, layer: int, heads: int, values: RowValues) -> Columns:
        """Head means of S1, S1² and S2, and how their errors vary together; all unbiased.

        ``values(positions, head)`` are the mass, then the square, at every distance, of some rows of a head [n, 2 D].
        Returns ``s1``, ``s1sq`` and ``s2`` [1, D]; ``covariance`` [1, D, 6], the upper triangle of the three by three
        matrix in reading order; and ``pairs`` [1], the share of all pairs that was looked at.
        """
        tokens = window.tokens
        positions = np.arange(min(self.distances) + self.skip_first, len(tokens))
        prediction = _prediction(self.pilot, layer) if self.pilot else None
        first = self.distance + self.skip_first
        order = prediction.order(tokens, positions, first) if prediction else np.arange(len(positions))
        sizes = prediction.sizes(tokens, positions, first) if prediction else np.ones((len(positions), heads))
        predicted = prediction.values(tokens, positions) if prediction else None
        probability = sampling.inclusion(sizes, *self._cost(positions, len(tokens), heads))
        per_head: list[sampling.Estimated] = []
        pairs = 0
        for head in range(heads):
            random = sampling.generator(self.seed, window.id, layer, head)
            drawn = sampling.draw(order, probability[:, head], random)
            pairs += int((positions[drawn.rows] + 1).sum())
            found = values(positions[drawn.rows], head)
            known = np.zeros((1, 1)) if predicted is None else predicted[:, head].astype(np.float64)
            missed = found if predicted is None else found - known[drawn.rows]
            totals, covariance = sampling.estimate(drawn, missed)
            per_head.append(sampling.Estimated(totals + known.sum(axis=0), covariance))
        share = pairs / (heads * len(tokens) * (len(tokens) + 1) / 2)
        return {**_head_means(per_head), "pairs": np.array([share])}

    def _cost(self, positions: npt.NDArray[np.int64], length: int, heads: int) -> tuple[npt.NDArray[np.float64], float]:
        """What a row costs, by position, and what all heads together may."""
        if isinstance(self.rows, int):
            return np.ones(len(positions)), float(self.rows * heads)
        return positions + 1.0, self.rows * heads * length * (length + 1) / 2

    def _moments(self, layer: "LayerAttention", positions: npt.NDArray[np.int64], head: int) -> npt.NDArray[np.float64]:
        """Mass, then square, at every distance, of some rows of a head: [n, 2 D]."""
        import torch

        from longattn.attention import row_moments

        key_head = head * layer.k.shape[2] // layer.q.shape[2]
        values = np.empty((len(positions), 2 * len(self.distances)))
        for part in _neighbours(positions):
            rows = torch.from_numpy(positions[part]).to(layer.q.device)
            moments = row_moments(
                layer.q[:, rows, head : head + 1],
                layer.k[:, :, key_head : key_head + 1],
                positions=layer.positions[rows],
                distances=self.distances,
                skip_first=self.skip_first,
                scale=layer.scale,
                backend=self.backend,
            )
            values[part] = torch.cat([moments.mass, moments.square], dim=-1)[0, 0].cpu().numpy()
        return values


def every_row(
    layer: "LayerAttention", distances: Sequence[int], skip_first: int, backend: Backend
) -> npt.NDArray[np.float32]:
    """Mass, then square, at every distance, of every row and head: [1, T, H, 2 D]."""
    import torch

    from longattn.attention import row_moments

    moments = row_moments(
        layer.q,
        layer.k,
        positions=layer.positions,
        distances=distances,
        skip_first=skip_first,
        scale=layer.scale,
        backend=backend,
    )
    values = torch.cat([moments.mass, moments.square], dim=-1).transpose(1, 2)
    return values.float().cpu().numpy()


def fit(
    windows: Sequence[Window],
    seen: Sequence[Seen],
    *,
    layers: Sequence[int],
    distances: Sequence[int],
    skip_first: int,
    distance: int,
) -> dict[str, npt.NDArray]:
    """Predictions of every layer, from windows of which every row was seen; names begin with the layer's number."""
    tokens = np.stack([window.tokens for window in windows]).astype(np.int64)
    sources = [window.source for window in windows]
    length, D, d = tokens.shape[1], len(distances), list(distances).index(distance)
    cells = float((length - distance) * (length - distance - skip_first))
    tables: dict[str, npt.NDArray] = {}
    for layer in layers:
        values = np.concatenate([one.layers[layer]["rows"] for one in seen])
        s1, s2 = (values[..., v].sum(axis=1, dtype=np.float64) for v in (d, D + d))
        influence = np.zeros(values.shape[2:])
        influence[:, d], influence[:, D + d] = sampling.influence(s1, s2, sources, cells, PILOT_ALPHA)
        prediction = sampling.fit(tokens, values, influence, distance + skip_first)
        tables |= {f"{layer}.{name}": np.ascontiguousarray(table) for name, table in prediction.arrays().items()}
    return tables


@lru_cache(maxsize=16)
def _prediction(pilot: str, layer: int) -> sampling.Prediction:
    from safetensors.numpy import load_file

    tables = {name.partition("."): table for name, table in load_file(pilot).items()}
    return sampling.Prediction(**{name: table for (of, _, name), table in tables.items() if of == str(layer)})


def _neighbours(positions: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.int64]]:
    """Indices of the positions in ascending order, some at a time."""
    order = positions.argsort()
    for start in range(0, len(order), ROWS_AT_ONCE):
        yield order[start : start + ROWS_AT_ONCE]


def _head_means(per_head: Sequence[sampling.Estimated]) -> Columns:
    """Head means of S1, S1² and S2 of one window; S1² is that of the estimate less the estimate's variance."""
    totals_HV, covariance_HVV = (np.stack(parts) for parts in zip(*per_head, strict=True))
    H, D = len(per_head), totals_HV.shape[1] // 2
    s1_HD, s2_HD = totals_HV[:, :D], totals_HV[:, D:]
    variance_HD = np.diagonal(covariance_HVV, axis1=1, axis2=2)[:, :D]
    triangle = np.zeros((D, 6))
    for d in range(D):
        both = np.ix_(range(H), (d, D + d), (d, D + d))
        # rows: what S1, S1² and S2 gain by a unit of S1 and of S2
        slopes = np.zeros((H, 3, 2))
        slopes[:, 0, 0], slopes[:, 1, 0], slopes[:, 2, 1] = 1 / H, 2 * s1_HD[:, d] / H, 1 / H
        triangle[d] = np.einsum("hav,hvw,hbw->ab", slopes, covariance_HVV[both], slopes)[np.triu_indices(3)]
    return {
        "s1": s1_HD.mean(axis=0)[None],
        "s1sq": (s1_HD**2 - variance_HD).mean(axis=0)[None],
        "s2": s2_HD.mean(axis=0)[None],
        "covariance": triangle[None],
    }
