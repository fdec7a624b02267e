"""What every scorer has to keep, whoever wrote it."""

from dataclasses import replace

import numpy as np
import pytest

from longattn import settings
from longattn.records import Turn, Window
from longattn.scorers import SCORERS, LongAttn
from longattn.testing import check_scorer

LENGTH = 64
TURNS = (Turn("user", 0, 20), Turn("assistant", 21, 40), Turn("user", 41, 50), Turn("assistant", 51, LENGTH))
# heads have no default that would mean anything; the tiny model has two layers
OTHER = settings.Model(name="the same model, stretched", rope_theta=1e6)
NEEDED = {
    "headmask": {"heads": ((0, 1), (1, 3))},
    "context_dependency": {"layer": 1},
    "gateau": {"short_model": OTHER, "segment": 8},
}


@pytest.fixture(scope="module")
def model(tiny_model_folder):
    from longattn.models import load_model, resolve

    facts = settings.Model(name=str(tiny_model_folder))
    load = {"layers": "all", "window": LENGTH, "predicts": True}
    other = load_model(resolve(facts), replace(OTHER, name=facts.name), **load)
    return replace(load_model(resolve(facts), facts, **load), others={OTHER: other})


@pytest.fixture(scope="module")
def windows():
    random = np.random.default_rng(1)
    tokens = [*random.integers(0, 256, (4, LENGTH)), np.full(LENGTH, 7)]
    return [
        Window(f"d{i}", "s", 0, t.astype(np.uint32), 0, LENGTH, LENGTH + i, turns=TURNS) for i, t in enumerate(tokens)
    ]


@pytest.mark.parametrize("name", sorted(SCORERS))
def test_every_scorer_keeps_the_contract(name, model, windows):
    check_scorer(SCORERS[name](**NEEDED.get(name, {})), model, windows)


@pytest.mark.parametrize("pilot_sample", [0, 4])
@pytest.mark.parametrize("rows", [0.2, 9])
def test_sampled_longattn_keeps_the_contract(rows, pilot_sample, model, windows):
    check_scorer(LongAttn(rows=rows, pilot_sample=pilot_sample), model, windows)


def test_the_list_is_keyed_by_the_scorers_own_names():
    assert all(scorer.name == name for name, scorer in SCORERS.items())
