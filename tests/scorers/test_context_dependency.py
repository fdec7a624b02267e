"""Context dependency against the attention map itself."""

import numpy as np
import pytest
import torch

from longattn.expressions import evaluate
from longattn.models.base import LayerAttention
from longattn.records import Turn, Window
from longattn.scorers import ContextDependency, Seen

LENGTH = 40
TURNS = (Turn("system", 0, 3), Turn("user", 3, 12), Turn("assistant", 13, 20), Turn("user", 21, 30))
TURNS += (Turn("assistant", 31, 40),)


def sample(*turns):
    return Window("d", "s", 0, np.zeros(LENGTH, np.uint32), 0, LENGTH, LENGTH, turns=turns)


def measure(scorer, q, k, window):
    ask = scorer.ask()
    rows = torch.from_numpy(ask.rows(window))
    shown = LayerAttention(15, q[:, rows], k, q.shape[-1] ** -0.5, rows, window)
    return scorer.measure([window], Seen({15: ask.observe(shown)}))


def read(columns, **choice):
    return evaluate(ContextDependency(**choice).score(), columns)[0]


@pytest.mark.parametrize("skip_first", [0, 5])
def test_the_user_has_the_mass_that_the_attention_map_gives(generator, skip_first):
    q, k = (torch.randn(1, LENGTH, heads, 8, generator=generator) * 2 for heads in (4, 2))
    logits = torch.einsum("qhk,thk->hqt", q[0].double(), k[0].double().repeat_interleave(2, dim=1)) * 8**-0.5
    p = logits.masked_fill(torch.ones(LENGTH, LENGTH).triu(1).bool(), -torch.inf).softmax(-1).numpy()
    user = np.zeros(LENGTH)
    user[3:12] = user[21:30] = 1
    user[:skip_first] = 0
    mass = p @ user
    by_token = [mass[:, part].max(axis=0).mean() for part in (slice(13, 20), slice(31, 40))]
    by_response = [mass[:, part].mean(axis=1).max() for part in (slice(13, 20), slice(31, 40))]
    columns = measure(ContextDependency(skip_first=skip_first), q, k, sample(*TURNS))
    for turns, summed in (("mean", np.mean), ("last", lambda s: s[-1]), ("max", max)):
        assert read(columns, turns=turns) == pytest.approx(summed(by_token), rel=1e-5)
        assert read(columns, turns=turns, best_head="response") == pytest.approx(summed(by_response), rel=1e-5)


def test_one_response_by_hand():
    """Equal logits: the response at 10 and 11 gives 8 of its 11 and 12 keys to the user, who spoke from 2 to 9."""
    zeros, said = torch.zeros(1, LENGTH, 1, 2), sample(Turn("user", 2, 10), Turn("assistant", 10, 12))
    columns = measure(ContextDependency(skip_first=0), zeros, zeros, said)
    assert read(columns) == pytest.approx((8 / 11 + 8 / 12) / 2)
    skipped = measure(ContextDependency(), zeros, zeros, said)
    assert read(skipped) == pytest.approx((6 / 11 + 6 / 12) / 2)


@pytest.mark.parametrize("turns", [(), (Turn("user", 0, 40),), (Turn("user", 0, 20), Turn("assistant", 20, 20))])
def test_a_sample_without_a_response_has_no_score(turns):
    zeros = torch.zeros(1, LENGTH, 1, 2)
    assert np.isnan(read(measure(ContextDependency(), zeros, zeros, sample(*turns))))


def test_a_response_to_nobody_depends_on_nothing():
    zeros = torch.zeros(1, LENGTH, 1, 2)
    assert read(measure(ContextDependency(), zeros, zeros, sample(Turn("assistant", 0, 40)))) == 0


def test_only_what_is_measured_enters_the_tables_name():
    plain = ContextDependency()
    for change in ({"turns": "max"}, {"best_head": "response"}):
        assert ContextDependency(**change).measurement() == plain.measurement()
    for change in ({"layer": 3}, {"skip_first": 0}):
        assert ContextDependency(**change).measurement() != plain.measurement()
