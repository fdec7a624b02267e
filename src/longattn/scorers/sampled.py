"""LongAttn's sums over a window's rows from some of them: which are measured, and what is known of the rest."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from longattn import sampling
from longattn.records import Window
from longattn.scorers.base import Columns, Seen
from longattn.settings import Backend

if TYPE_CHECKING:
    from longattn.models.base import LayerAttention

TINY = float(np.finfo(np.float64).tiny)
PILOT_ALPHA = 0.5
"""Weight of uniformity that rows are drawn for (the paper's); another one costs precision, no correctness."""


GROWTH = (1, 1, 2)
"""What each draw of a window's rows may cost, in units of the first; after these comes all the rest."""
NEARLY_ALL = 0.6
"""A draw that may cost this much of the rest takes all of it."""

RowValues = Callable[[Sequence[npt.NDArray[np.int64]]], list[npt.NDArray[np.float64]]]
"""From positions of rows, by head, to the mass, then the square, of each at every distance: [n, 2 D] by head."""


class Found(NamedTuple):
    """What is known of one layer of a window so far, at D distances and H heads."""

    s1: npt.NDArray[np.float64]
    """Head mean of S1 [D]; like all estimates here, unbiased."""
    s1sq: npt.NDArray[np.float64]
    """Head mean of S1² [D]."""
    s2: npt.NDArray[np.float64]
    """Head mean of S2 [D]."""
    covariance: npt.NDArray[np.float64]
    """Of the errors of these three: the upper triangle of the matrix in reading order [D, 6]."""
    drawn: npt.NDArray[np.float64]
    """Sums over the rows measured so far: mass of each head, then square of each head [D, 2 H]."""
    pairs: float
    """Share of all pairs of a query and a key that was looked at."""
    draws: int
    """How many times rows were drawn; 0 for a window that was measured in full from the start."""


@dataclass(frozen=True)
class Sampling:
    """How rows are drawn, and what of.

    A window's rows are drawn once, or several times where its score must be known better, never one twice: a later draw
    is of the rows that are left. Given the earlier draws its estimate (sum over the rows measured, plus the estimated
    rest) is unbiased, so its error and theirs are uncorrelated, and the estimates are averaged by their variances.
    """

    rows: float | int
    """Below 1 a share of all pairs of a query and a key, else rows of each head."""
    seed: int
    distances: tuple[int, ...]
    skip_first: int
    backend: Backend
    distance: int
    """Minimum distance that the score is read at."""
    pilot: str | None = None
    """File with predictions; None draws rows evenly over positions."""

    def measure(self, layer: "LayerAttention", before: Found | None = None) -> Found:
        """:meth:`estimate` from one layer of one window."""
        assert layer.window is not None, "rows are drawn by window"

        def values(positions: Sequence[npt.NDArray[np.int64]]) -> list[npt.NDArray[np.float64]]:
            return self._moments(layer, positions)

        return self.estimate(layer.window, layer.layer, layer.q.shape[2], values, before)

    def estimate(self, window: Window, layer: int, heads: int, values: RowValues, before: Found | None = None) -> Found:
        """What one more draw says, together with what is known from those ``before``."""
        prediction = _prediction(self.pilot, layer) if self.pilot else None
        if self.pilot and before is None and (known := _pilot_windows(self.pilot, layer).get(_name(window))):
            return known
        positions = np.arange(min(self.distances) + self.skip_first, len(window.tokens))
        draws = before.draws if before else 0
        measured, picked = self._pick(window, layer, heads, prediction, draws)
        predicted = np.zeros((len(positions), heads, 2 * len(self.distances)))
        if prediction is not None:
            predicted = prediction.values(window.tokens, positions).astype(np.float64)
        drawn = np.zeros((heads, 2 * len(self.distances)))
        if before:
            drawn = before.drawn.reshape(len(self.distances), 2, heads).transpose(2, 1, 0).reshape(heads, -1)
        per_head: list[sampling.Estimated] = []
        more = np.zeros_like(drawn)
        for head, (pick, found) in enumerate(
            zip(picked, values([positions[pick.rows] for pick in picked]), strict=True)
        ):
            more[head] = found.sum(axis=0)
            totals, covariance = sampling.estimate(pick, found - predicted[pick.rows, head])
            rest = predicted[~measured[:, head], head].sum(axis=0)
            per_head.append(sampling.Estimated(drawn[head] + rest + totals, covariance))
        looked_at = sum(int((positions[pick.rows] + 1).sum()) for pick in picked)
        share = looked_at / (heads * len(window.tokens) * (len(window.tokens) + 1) / 2)
        return _found(per_head, drawn + more, share, draws + 1, before)

    def _pick(
        self, window: Window, layer: int, heads: int, prediction: sampling.Prediction | None, draws: int
    ) -> tuple[npt.NDArray[np.bool_], list[sampling.Draw]]:
        """Rows [N, H] of the first draws, and the next draw of each head; draws depend on seed, window and layer."""
        length, first = len(window.tokens), self.distance + self.skip_first
        positions = np.arange(min(self.distances) + self.skip_first, length)
        order, sizes = np.arange(len(positions)), np.ones((len(positions), heads))
        if prediction is not None:
            order = prediction.order(window.tokens, positions, first)
            sizes = prediction.sizes(window.tokens, positions, first)
        by_count = self.rows >= 1
        costs = np.ones(len(positions)) if by_count else positions.astype(np.float64) + 1
        budget = float(self.rows * heads * (1 if by_count else length * (length + 1) / 2))
        measured = np.zeros(sizes.shape, dtype=bool)
        picked: list[sampling.Draw] = []
        for draw in range(draws + 1):
            for head, pick in enumerate(picked):
                measured[pick.rows, head] = True
            left = float((~measured * costs[:, None]).sum())
            may = budget * GROWTH[draw] if draw < len(GROWTH) else left
            probability = sampling.inclusion(
                np.where(measured, 0.0, sizes), costs, left if may >= NEARLY_ALL * left else may
            )
            random = [sampling.generator(self.seed, window.id, layer, head, draw) for head in range(heads)]
            rest = [order[~measured[order, head]] for head in range(heads)]
            picked = [sampling.draw(rest[head], probability[:, head], random[head]) for head in range(heads)]
        return measured, picked

    def _moments(
        self, layer: "LayerAttention", positions: Sequence[npt.NDArray[np.int64]]
    ) -> list[npt.NDArray[np.float64]]:
        """Moments of some rows of each head."""
        import torch

        values: list[npt.NDArray[np.float64]] = []
        share = layer.q.shape[2] // layer.k.shape[2]
        for key_head in range(layer.k.shape[2]):
            heads = range(key_head * share, (key_head + 1) * share)
            rows = [torch.from_numpy(positions[head]).to(layer.q.device) for head in heads]
            # heads of one key head go as rows of one query head, so that their keys are made ready once
            q = [layer.q[:, chosen, head : head + 1] for head, chosen in zip(heads, rows, strict=True)]
            of_key_head = layer._replace(
                q=torch.cat(q, dim=1),
                k=layer.k[:, :, key_head : key_head + 1],
                positions=layer.positions[torch.cat(rows)],
            )
            moments = of_key_head.row_moments(self.distances, skip_first=self.skip_first, backend=self.backend)
            both = torch.cat([moments.mass, moments.square], dim=-1)[0, 0].cpu().numpy()
            values += np.split(both, np.cumsum([len(chosen) for chosen in rows])[:-1])
        return values


def every_row(layer: "LayerAttention", distances: Sequence[int], skip_first: int, backend: Backend) -> Columns:
    """``rows``: mass, then square, at every distance, of every row and head, float32 [1, T, H, 2 D].

    ``totals``: their sums over the rows, float64 [1, H, 2 D].
    """
    import torch

    moments = layer.row_moments(distances, skip_first=skip_first, backend=backend)
    values = torch.cat([moments.mass, moments.square], dim=-1).transpose(1, 2).cpu().numpy()
    return {"rows": values.astype(np.float32), "totals": values.sum(axis=1)}


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
        totals = np.concatenate([one.layers[layer]["totals"] for one in seen])
        influence = np.zeros(values.shape[2:])
        influence[:, d], influence[:, D + d] = sampling.influence(
            totals[..., d], totals[..., D + d], sources, cells, PILOT_ALPHA
        )
        prediction = sampling.fit(tokens, values, influence, distance + skip_first)
        # the sample's own windows are known in full, and need not be measured again
        tables |= {f"{layer}.window_totals": totals, f"{layer}.window_ids": _as_bytes(list(map(_name, windows)))}
        tables |= {f"{layer}.{name}": np.ascontiguousarray(table) for name, table in prediction.arrays().items()}
    return tables


@lru_cache(maxsize=16)
def _prediction(pilot: str, layer: int) -> sampling.Prediction:
    from safetensors.numpy import load_file

    tables = load_file(pilot)
    names = [field.name for field in fields(sampling.Prediction)]
    return sampling.Prediction(**{name: tables[f"{layer}.{name}"] for name in names})


@lru_cache(maxsize=16)
def _pilot_windows(pilot: str, layer: int) -> dict[str, Found]:
    """The windows of the pilot by :func:`_name`, known exactly."""
    from safetensors.numpy import load_file

    tables = load_file(pilot)
    totals_WHV = tables[f"{layer}.window_totals"]
    V = totals_WHV.shape[2]
    names = [bytes(row).rstrip(b"\0").decode() for row in tables[f"{layer}.window_ids"]]
    exact = [[sampling.Estimated(head, np.zeros((V, V))) for head in window] for window in totals_WHV]
    return {name: _found(heads, of, 1.0, 0, None) for name, heads, of in zip(names, exact, totals_WHV, strict=True)}


def _name(window: Window) -> str:
    """What tells a window from all others: its id may come twice, and which is left out is settled at selection."""
    return f"{window.id} {hashlib.sha256(window.tokens.astype('<u4').tobytes()).hexdigest()[:16]}"


def _as_bytes(texts: Sequence[str]) -> npt.NDArray[np.uint8]:
    """Texts as rows of bytes, filled up with zeros [N, longest]."""
    lines = [text.encode() for text in texts]
    longest = max(len(line) for line in lines)
    return np.stack([np.frombuffer(line.ljust(longest, b"\0"), dtype=np.uint8) for line in lines])


def _found(
    per_head: Sequence[sampling.Estimated],
    drawn_HV: npt.NDArray[np.float64],
    pairs: float,
    draws: int,
    before: Found | None,
) -> Found:
    """Head means of S1, S1² and S2, averaged with those before; S1² is the estimate's square less its variance."""
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
    drawn = drawn_HV.reshape(H, 2, D).transpose(2, 1, 0).reshape(D, 2 * H)
    s1sq = (s1_HD**2 - variance_HD).mean(axis=0)
    found = Found(s1_HD.mean(axis=0), s1sq, s2_HD.mean(axis=0), triangle, drawn, pairs, draws)
    return found if before is None else _average(before, found)


def _average(before: Found, after: Found) -> Found:
    """Two estimates with uncorrelated errors, each by the inverse of its relative variance at a distance."""
    variances = [
        one.covariance[:, 0] / np.maximum(after.s1**2, TINY) + one.covariance[:, 5] / np.maximum(after.s2**2, TINY)
        for one in (before, after)
    ]
    total = variances[0] + variances[1]
    weight = np.where(variances[1] > 0, variances[0] / np.where(total > 0, total, 1.0), 1.0)
    s1, s1sq, s2 = (weight * getattr(after, n) + (1 - weight) * getattr(before, n) for n in ("s1", "s1sq", "s2"))
    square = (weight**2)[:, None], ((1 - weight) ** 2)[:, None]
    covariance = square[0] * after.covariance + square[1] * before.covariance
    return Found(s1, s1sq, s2, covariance, after.drawn, before.pairs + after.pairs, after.draws)
