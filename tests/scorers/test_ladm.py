"""LADM against a direct computation from the attention map, and cases worked by hand."""

import numpy as np
import pytest
import torch

from longattn.expressions import evaluate
from longattn.models.base import LayerAttention
from longattn.records import Window
from longattn.scorers import LADM, Seen


def window(length):
    return Window("d", "s", 0, np.zeros(length, np.uint32), 0, length, length)


def table(scorer, length, *layers):
    """The columns of one window, from (q, k) of each layer."""
    rows = torch.from_numpy(scorer.ask().rows(window(length)))
    seen = {
        n: scorer.observe(LayerAttention(n, q[:, rows], k, q.shape[-1] ** -0.5, rows))
        for n, (q, k) in enumerate(layers)
    }
    return scorer.measure([window(length)], Seen(seen))


def score(columns, **settings):
    return evaluate(LADM(**settings).for_length(LENGTH).score(), columns)[0]


LENGTH, WIDTH, SPANS = 133, 8, 16
"""16 spans of 8 tokens; the first has the 5 tokens that are left over as well."""


@pytest.fixture
def layers(generator):
    """Two layers of four heads over two key heads."""
    return [tuple(torch.randn(1, LENGTH, heads, 8, generator=generator) * 2 for heads in (4, 2)) for _ in range(2)]


def direct(q, k, *, released, own_keys=False, std=True, weights=True, j=15):
    """CDS of a layer, as the paper writes it, from the whole attention map in float64; j is the one span that looks."""
    logits = torch.einsum("bqhk,bthk->bhqt", q.double(), k.double().repeat_interleave(2, dim=2))[0] * 8**-0.5
    start = [LENGTH - (SPANS - i) * WIDTH for i in range(SPANS)]
    row, key = torch.arange(LENGTH)[:, None], torch.arange(LENGTH)
    inside = slice(start[j], start[j] + WIDTH)
    hidden = key > row[inside] if own_keys else (key >= start[j]).expand(WIDTH, -1)
    p = logits[:, inside].masked_fill(hidden, -torch.inf).softmax(-1).mean(0).sum(0).numpy()
    back = range(j - (4 if released else 8), 0, -4)
    pfs = np.array([p[start[i] : start[i] + WIDTH].sum() for i in back])
    far = np.array([(start[j] - start[i]) / LENGTH for i in back]) if weights else 1.0
    place = start[j] / LENGTH if weights else 1.0
    return place * (pfs.std(ddof=1) if std else 1.0) * (far * pfs).sum()


@pytest.mark.parametrize("own_keys", [False, True])
@pytest.mark.parametrize("convention", ["paper", "released"])
@pytest.mark.parametrize(("std", "weights"), [(True, True), (False, True), (True, False), (False, False)])
def test_cds_equals_the_attention_map_itself(layers, own_keys, convention, std, weights):
    choice = {"own_keys": own_keys, "spans": SPANS, "key_stride": 4}
    columns = table(LADM(**choice).for_length(LENGTH), LENGTH, *layers)
    expected = [
        direct(*layer, released=convention == "released", own_keys=own_keys, std=std, weights=weights)
        for layer in layers
    ]
    choice |= {"convention": convention, "std": std, "length_weights": weights}
    assert score(columns, **choice) == pytest.approx(np.mean(expected), rel=1e-4)
    assert score(columns, layers=(1,), **choice) == pytest.approx(expected[1], rel=1e-4)


def test_uniform_attention_has_no_spread():
    zeros = torch.zeros(1, 64, 2, 4)
    columns = table(LADM().for_length(64), 64, (zeros, zeros))
    scorer = LADM().for_length(64)
    assert evaluate(scorer.readings()["cds"], columns) == pytest.approx(scorer.null()["cds"], abs=1e-12)


def test_one_span_that_all_look_at_by_hand():
    """64 tokens, 16 spans of 4, of which j = 15 looks back at 11, 7 and 3: all of its mass is on span 3.

    PFS(3, 15) = 4, one for each query; the others are 0. Without the nearest, 11: std of (0, 4) = √8,
    distance 12/16, place 15/16. With it: std of (0, 0, 4) = √(16/3).
    """
    q, k = torch.ones(1, 64, 1, 1), torch.zeros(1, 64, 1, 1)
    k[0, 12:16] = 200.0
    columns = table(LADM().for_length(64), 64, (q, k))
    paper, released = (LADM(convention=c).for_length(64).score() for c in ("paper", "released"))
    assert evaluate(paper, columns)[0] == pytest.approx(15 / 16 * 8**0.5 * 12 / 16 * 4)
    assert evaluate(released, columns)[0] == pytest.approx(15 / 16 * (16 / 3) ** 0.5 * 12 / 16 * 4)


def test_the_paper_looks_from_every_fourth_span_and_adds_them_up(generator):
    """At 32,768 tokens: 60 spans of 128 tokens, the last of all and every fourth before it from the 16th on."""
    scorer = LADM().for_length(32768)
    rows = scorer.ask().rows(window(32768)).reshape(-1, 128)
    assert (rows[:, 0] // 128).tolist() == list(range(19, 256, 4))
    assert (np.diff(rows, axis=1) == 1).all()
    columns = {key: np.ones(1) for key in scorer.schema()}
    paper, released = (LADM(convention=c).for_length(32768).score() for c in ("paper", "released"))
    assert evaluate(paper, columns) / evaluate(released, columns) == pytest.approx(60)


def test_the_paper_can_be_read_to_begin_at_n0(layers):
    """Then the last of all is not looked at: 60 spans again; of 16 spans the 13th instead of the last."""
    scorer = LADM(first_query="n0").for_length(32768)
    rows = scorer.ask().rows(window(32768)).reshape(-1, 128)
    assert (rows[:, 0] // 128).tolist() == list(range(16, 256, 4))
    choice = {"spans": SPANS, "first_query": "n0"}
    columns = table(LADM(**choice).for_length(LENGTH), LENGTH, *layers)
    expected = np.mean([direct(*layer, released=False, j=13) for layer in layers])
    assert score(columns, **choice) == pytest.approx(expected, rel=1e-4)


def test_short_windows_have_smaller_spans_then_fewer():
    assert [LADM().for_length(length).spans for length in (65536, 4096, 1024, 512, 56)] == [256, 256, 256, 128, 14]
    with pytest.raises(ValueError, match="at least 56 tokens; a window of 55 tokens has 13 spans"):
        LADM().for_length(55)
    with pytest.raises(ValueError, match="14 to L spans"):
        LADM(spans=10).for_length(4096)
    with pytest.raises(ValueError, match="query_stride must be at least 1, got 0"):
        LADM(query_stride=0).for_length(4096)


def test_only_what_is_measured_enters_the_tables_name():
    plain = LADM().for_length(LENGTH)
    for change in ({"convention": "released"}, {"std": False}, {"length_weights": False}, {"layers": (1,)}):
        assert LADM(**change).for_length(LENGTH).measurement() == plain.measurement()
    for change in ({"own_keys": True}, {"spans": 20}, {"query_stride": 2}, {"key_stride": 2}, {"first_query": "n0"}):
        assert LADM(**change).for_length(LENGTH).measurement() != plain.measurement()


def test_the_number_of_rows_held_at_once_changes_nothing(layers, monkeypatch):
    scorer = LADM(spans=33, query_stride=1).for_length(LENGTH)
    together = table(scorer, LENGTH, *layers)
    monkeypatch.setattr("longattn.scorers.ladm.ROWS_AT_ONCE", 8)
    apart = table(scorer, LENGTH, *layers)
    assert all(np.allclose(apart[key], together[key], rtol=1e-6) for key in scorer.schema())
