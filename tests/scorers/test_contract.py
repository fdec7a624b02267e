"""What every scorer has to keep, whoever wrote it."""

from dataclasses import replace

import numpy as np
import pytest

from longattn import settings
from longattn.records import Turn, Window
from longattn.scorers import SCORERS
from longattn.testing import check_scorer

LENGTH = 64
TURNS = (Turn("user", 0, 20), Turn("assistant", 21, 40), Turn("user", 41, 50), Turn("assistant", 51, LENGTH))


@pytest.fixture(scope="module")
def model(tiny_model_folder):
    from longattn.models import load_model, resolve

    facts = settings.Model(name=str(tiny_model_folder))
    return load_model(resolve(facts), facts, layers="all", window=LENGTH, predicts=True)


@pytest.fixture(scope="module")
def windows():
    random = np.random.default_rng(1)
    return [
        Window(f"d{i}", "s", 0, random.integers(0, 256, LENGTH).astype(np.uint32), 0, LENGTH, LENGTH + i, turns=TURNS)
        for i in range(4)
    ]


@pytest.mark.parametrize("name", sorted(SCORERS))
def test_every_scorer_keeps_the_contract(name, model, windows):
    # the tiny model has two layers
    scorer = SCORERS[name]()
    check_scorer(replace(scorer, layer=1) if name == "context_dependency" else scorer, model, windows)


def test_the_list_is_keyed_by_the_scorers_own_names():
    assert all(scorer.name == name for name, scorer in SCORERS.items())
