"""The readers that ``make fuzz`` drives: their examples, and a few changes of each, are answers or refusals."""

import random

import pytest
import targets
from mutations import mutated


@pytest.fixture(scope="module", autouse=True)
def _cleaned():
    yield
    targets.clean()


@pytest.mark.parametrize("name", targets.TARGETS)
def test_examples_are_taken_and_changes_of_them_are_answered(name):
    seeds = targets.TARGETS[name].seeds()
    assert all(targets.check(name, seed) for seed in seeds)
    chosen = random.Random(name)
    for seed in seeds:
        for _ in range(2 if name.startswith(("condition", "settings")) else 10):
            targets.check(name, mutated(seed, chosen))
