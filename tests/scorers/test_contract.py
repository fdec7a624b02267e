"""What every scorer has to keep, whoever wrote it."""

import numpy as np
import pytest

from longattn import settings
from longattn.records import Window
from longattn.scorers import SCORERS, LongAttn
from longattn.testing import check_scorer

LENGTH = 64
NEEDED = {"headmask": {"heads": ((0, 1), (1, 3))}}
"""Settings that have no default which would mean anything."""


@pytest.fixture(scope="module")
def model(tiny_model_folder):
    from longattn.models import load_model, resolve

    facts = settings.Model(name=str(tiny_model_folder))
    return load_model(resolve(facts), facts, layers="all", window=LENGTH, predicts=True)


@pytest.fixture(scope="module")
def windows():
    random = np.random.default_rng(1)
    tokens = [*random.integers(0, 256, (4, LENGTH)), np.full(LENGTH, 7)]
    return [Window(f"d{i}", "s", 0, t.astype(np.uint32), 0, LENGTH, LENGTH + i) for i, t in enumerate(tokens)]


@pytest.mark.parametrize("name", sorted(SCORERS))
def test_every_scorer_keeps_the_contract(name, model, windows):
    check_scorer(SCORERS[name](**NEEDED.get(name, {})), model, windows)


@pytest.mark.parametrize("pilot_sample", [0, 4])
@pytest.mark.parametrize("rows", [0.2, 9])
def test_sampled_longattn_keeps_the_contract(rows, pilot_sample, model, windows):
    check_scorer(LongAttn(rows=rows, pilot_sample=pilot_sample), model, windows)


def test_the_list_is_keyed_by_the_scorers_own_names():
    assert all(scorer.name == name for name, scorer in SCORERS.items())
