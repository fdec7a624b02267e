from importlib import import_module
from itertools import pairwise

import numpy as np
import pytest
import torch

from longattn.attention import HeadSet, far_view, row_moments

T, EDGES = 97, [0, 10, 50, 97]
# the package has a function of this name
MODULE = import_module("longattn.attention.far_view")


def head_set(generator, heads, *, H=6, G=2, rows=T):
    q, k = (torch.randn(n, h, 8, generator=generator) * 2 for n, h in ((rows, H), (T, G)))
    return HeadSet(q, k, 0.3, heads)


def mean_map(layers, positions):
    """Causal attention [R, T] in float64, averaged over all heads of all layers."""
    maps = []
    for of in layers:
        shared = of.q.shape[1] // of.k.shape[1]
        for head in of.heads:
            logits = of.scale * of.q[:, head].double() @ of.k[:, head // shared].double().T
            maps.append(logits.masked_fill(torch.arange(T) > positions[:, None], -torch.inf).softmax(-1))
    return torch.stack(maps).mean(0)


@pytest.mark.parametrize("tile", [1, 5000, 2**21])
def test_everything_is_what_the_whole_map_gives(generator, monkeypatch, tile):
    monkeypatch.setattr(MODULE, "TILE_ELEMENTS", tile)
    layers = [head_set(generator, [0, 1, 5]), head_set(generator, [3], H=4, G=4)]
    positions, candidates = torch.arange(T), torch.arange(T) % 3 != 1
    found = far_view(layers, positions=positions, distance=20, skip_first=2, edges=EDGES, candidates=candidates, top=4)
    keys = torch.arange(T)
    far = mean_map(layers, positions) * ((keys >= 2) & (keys <= positions[:, None] - 20))
    torch.testing.assert_close(found.mass, far.sum(1), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(found.received, far.sum(0), atol=1e-6, rtol=1e-6)
    blocks = torch.stack([far[:, a:b].sum(1) for a, b in pairwise(EDGES)], 1)
    pooled = torch.stack([blocks[a:b].sum(0) for a, b in pairwise(EDGES)])
    torch.testing.assert_close(found.pooled, pooled, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(found.pooled.sum(), found.mass.sum())
    best = (far * candidates).topk(4)
    torch.testing.assert_close(found.weights.double(), best.values, atol=1e-6, rtol=1e-6)
    there = best.values > 0
    assert torch.equal(found.keys >= 0, there)
    assert torch.equal(found.keys[there], best.indices[there])


def test_one_head_has_the_mass_of_its_row_moments(generator):
    of = head_set(generator, [4])
    found = far_view([of], positions=torch.arange(T), distance=7, edges=EDGES, candidates=torch.ones(T) > 0, top=1)
    mass = row_moments(
        of.q[None], of.k[None], positions=torch.arange(T), distances=[7], scale=of.scale, backend="reference"
    ).mass
    torch.testing.assert_close(found.mass, mass[0, 4, :, 0], atol=1e-6, rtol=1e-6)


def test_some_rows_are_looked_at_as_among_all(generator):
    positions = torch.tensor([3, 30, 31, 96])
    of = head_set(generator, [0, 3], rows=4)
    found = far_view([of], positions=positions, distance=5, edges=[3, 40, T], candidates=torch.ones(T) > 0, top=2)
    far = mean_map([of], positions) * (torch.arange(T) <= positions[:, None] - 5)
    torch.testing.assert_close(found.mass, far.sum(1), atol=1e-6, rtol=1e-6)
    # the keys before the first edge are in no block
    rows = [far[:3], far[3:]]
    pooled = torch.stack([torch.stack([part[:, 3:40].sum(), part[:, 40:].sum()]) for part in rows])
    torch.testing.assert_close(found.pooled, pooled, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"distance": 0}, "distance must be at least 1, got 0"),
        ({"edges": [0, 50]}, "edges must ascend to 97"),
        ({"edges": [50, 97]}, r"positions must lie in \[50, 97\), got 0 to 96"),
        ({"positions": torch.arange(T).flip(0)}, "positions must ascend"),
        ({"positions": torch.arange(3)}, r"one position per query row \(97\)"),
        ({"layers": []}, "at least one head"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(generator, change, message):
    facts = {"layers": [head_set(generator, [0])], "positions": torch.arange(T), "distance": 5, "edges": EDGES}
    facts |= {"candidates": torch.ones(T) > 0, "top": 2, **change}
    with pytest.raises(ValueError, match=message):
        far_view(facts.pop("layers"), **facts)


def test_uniform_attention_is_spread_evenly():
    """Row 3 gives a quarter to each key: one far key at distance 3, two at distance 2."""
    even = HeadSet(torch.zeros(4, 1, 2), torch.zeros(4, 1, 2), 1.0, [0])
    found = far_view(
        [even], positions=torch.arange(4), distance=2, edges=[0, 2, 4], candidates=torch.ones(4) > 0, top=1
    )
    assert found.mass.tolist() == pytest.approx([0, 0, 1 / 3, 1 / 2])
    assert np.allclose(found.pooled, [[0, 0], [5 / 6, 0]])
