"""Processes that die, models that cannot be loaded, shards."""

import importlib
import json
from dataclasses import replace

import pytest

from longattn import engines, verbs
from longattn.engines.embedded import shard_of
from longattn.errors import ModelError, RunError
from longattn.recipes import Recipe
from longattn.records import Slice, WorkUnit
from longattn.settings import Compute, Corpus, Model, Windowing

PROCESSES = Compute(workers=1, devices=("cpu",))

# in a file, so that the processes can import it
KILLER = """
import os
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from longattn.expressions import column
from longattn.scorers import Scorer


@dataclass(frozen=True)
class Killer(Scorer):
    name: ClassVar[str] = "killer"

    def measurement(self):
        return {}

    def schema(self):
        return {"killer": "float64"}

    def measure(self, windows, layers):
        if any(window.doc_id == "poison" for window in windows):
            os._exit(1)
        return {"killer": np.zeros(len(windows))}

    def score(self):
        return column("killer")
"""


@pytest.fixture
def recipe(tiny_model_folder, tmp_path):
    """Six files of a document each, a unit each."""
    for i in range(6):
        record = {"id": "poison" if i == 3 else str(i), "text": f"file {i} " * 30}
        (tmp_path / f"{i}.jsonl").write_text(json.dumps(record))
    return Recipe(
        corpus=Corpus(inputs=(str(tmp_path / "*.jsonl"),), unit_bytes=1000),
        window=Windowing(length=64),
        model=Model(name=str(tiny_model_folder)),
    )


def test_a_unit_that_kills_its_process_is_named_and_the_others_are_measured(recipe, tmp_path, monkeypatch):
    (tmp_path / "killer.py").write_text(KILLER)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    job = replace(verbs.prepare(recipe, tmp_path / "run"), scorers=(importlib.import_module("killer").Killer(),))
    units = verbs.plan(recipe, tmp_path / "run")
    with pytest.raises(RunError, match=r"1 work units twice ended the process .*3\.jsonl"):
        engines.measure(job, units, PROCESSES)
    assert [job.is_done(unit.id) for unit in units] == [True, True, True, False, True, True]


def test_what_is_wrong_with_a_model_is_said_before_anything_is_measured(recipe, tmp_path):
    other = replace(recipe, settings=replace(recipe.settings, longattn=replace(recipe.settings.longattn, layers=(7,))))
    with pytest.raises(ModelError, match="7"):
        verbs.measure(other, tmp_path / "run", PROCESSES)
    assert not list((tmp_path / "run").glob("tables/longattn-*/unit-*"))


def test_shards_share_the_units_among_them():
    units = [WorkUnit((Slice(str(i), 1, ""),)) for i in range(5)]
    assert shard_of(units, None) == units
    assert [shard_of(units, f"{k}/2") for k in range(2)] == [units[0::2], units[1::2]]


@pytest.mark.parametrize("shard", ["2/2", "1", "a/b", "-1/2", "1/0"])
def test_a_shard_that_is_none_is_refused(shard):
    with pytest.raises(ValueError, match="shard must be K/N"):
        shard_of([], shard)
