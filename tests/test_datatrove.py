"""A run as tasks of datatrove's local executor."""

import json
from importlib.util import find_spec

import pytest

from longattn import verbs
from longattn.recipes import Recipe
from longattn.settings import Compute, Corpus, Model, Selecting, Windowing

pytestmark = pytest.mark.skipif(find_spec("datatrove") is None, reason="needs longattn[datatrove]")


@pytest.fixture
def recipe(tiny_model_folder, tmp_path):
    for i in range(5):
        (tmp_path / f"{i}.jsonl").write_text(json.dumps({"id": str(i), "text": f"file {i} " * 30}) + "\nbroken\n")
    return Recipe(
        corpus=Corpus(inputs=(str(tmp_path / "*.jsonl"),), unit_bytes=1000),
        window=Windowing(length=64),
        model=Model(name=str(tiny_model_folder)),
        scorers=("length",),
        keep=Selecting(weights={"length": 1.0}, share=0.5),
    )


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_tasks_are_shards_of_one_run(recipe, tmp_path, workers):
    from datatrove.executor.local import LocalPipelineExecutor

    from longattn.datatrove import LongAttnMeasure, LongAttnSelect

    verbs.measure(recipe, tmp_path / "calm", Compute(workers=0))
    verbs.select(recipe, tmp_path / "calm")
    run = tmp_path / "run"
    measure = LocalPipelineExecutor(
        [LongAttnMeasure(recipe, run)], tasks=2, workers=workers, logging_dir=str(tmp_path / "logs" / "measure")
    )
    select = LocalPipelineExecutor(
        [LongAttnSelect(recipe, str(run))], depends=measure, logging_dir=str(tmp_path / "logs" / "select")
    )
    select.run()
    for name in ("selection.parquet", "rejects.jsonl"):
        assert (run / name).read_bytes() == (tmp_path / "calm" / name).read_bytes()
    assert (run / "report.html").exists()
    assert "file 0 file 0" in (run / "report.html").read_text(encoding="utf-8")
    LongAttnSelect(recipe, run, texts=False).run()
    assert "file 0 file 0" not in (run / "report.html").read_text(encoding="utf-8")
    [stats] = json.loads((tmp_path / "logs" / "measure" / "stats.json").read_bytes())
    assert stats["stats"]["documents"]["total"] == 10
    assert stats["stats"]["rejected.bad_json"]["total"] == 5


def test_what_datatrove_chooses_is_not_chosen_twice(recipe, tmp_path):
    from longattn.datatrove import LongAttnMeasure, LongAttnSelect

    with pytest.raises(ValueError, match="datatrove says which shard a task is"):
        LongAttnMeasure(recipe, tmp_path / "run", Compute(shard="0/2"))
    with pytest.raises(ValueError, match="one task over all windows, got 4 tasks"):
        LongAttnSelect(recipe, tmp_path / "run").run(None, 1, 4)
