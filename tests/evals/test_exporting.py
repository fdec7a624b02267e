"""Tasks for lm-eval: what the folder holds, and that lm-eval itself runs it without a network."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys

import pytest
import yaml

from longattn.cli import launch
from longattn.evals.exporting import export_tasks
from longattn.evals.settings import Evaluating
from longattn.settings import Model

RULE = Evaluating(tasks=("niah_single_1", "fwe", "qa_2"), lengths=(1300,), samples=2)


class Loader(yaml.SafeLoader):
    pass


Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))


@pytest.fixture
def exported(tiny_model_folder, tmp_path):
    return tmp_path / "tasks", *export_tasks(tmp_path / "tasks", Model(name=str(tiny_model_folder)), RULE)


def test_a_folder_of_prompts_tasks_and_metrics(exported):
    folder, names, left_out = exported
    assert names == ["longattn_niah_single_1_1300", "longattn_fwe_1300"]
    assert [(one.task, one.length) for one in left_out] == [("qa_2", 1300)]
    task = yaml.load((folder / "fwe_1300.yaml").read_text(), Loader)  # noqa: S506
    assert task["generation_kwargs"]["max_gen_toks"] == 50
    assert task["metadata"]["wording"] == "longattn 1"
    rows = [json.loads(line) for line in (folder / "fwe_1300.jsonl").read_text().splitlines()]
    assert [row["metric"] for row in rows] == ["all", "all"]
    assert yaml.safe_load((folder / "longattn.yaml").read_text()) == {"group": "longattn", "task": names}


def test_the_metrics_beside_the_tasks_need_nothing_of_ours(exported):
    folder = exported[0]
    assert "longattn." not in (folder / "longattn_tasks.py").read_text().replace("longattn.evals", "")
    spec = importlib.util.spec_from_file_location("longattn_tasks", folder / "longattn_tasks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    doc = {"answers": ["Denver", "Denver, Colorado"], "metric": "part"}
    assert module.process_results(doc, [" denver\x00"]) == {"score": 1.0}
    assert module.process_results({**doc, "metric": "all"}, ["Denver"]) == {"score": 0.5}


@pytest.mark.slow
def test_lm_eval_runs_them_offline_on_the_very_prompts(exported, tiny_model_folder, tmp_path):
    pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install -e '.[eval]'")
    model = tmp_path / "model"
    shutil.copytree(tiny_model_folder, model)
    # lm-eval wants a token that ends texts
    facts = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "!", "pad_token": "!"}
    (model / "tokenizer_config.json").write_text(json.dumps(facts))
    moved = tmp_path / "elsewhere"
    shutil.move(exported[0], moved)
    command = [sys.executable, "-m", "lm_eval", "--include_path", str(moved), "--tasks", "longattn"]
    command += ["--model", "hf", "--model_args", f"pretrained={model},max_length=1300,dtype=float32"]
    command += ["--device", "cpu", "--output_path", str(tmp_path / "out"), "--log_samples"]
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    subprocess.run(command, check=True, capture_output=True, env=offline)
    for name in ("niah_single_1", "fwe"):
        (file,) = (tmp_path / "out").rglob(f"samples_longattn_{name}_1300_*.jsonl")
        for line in file.read_text().splitlines():
            sample = json.loads(line)
            given = sample["arguments"]["gen_args_0"]["arg_0"]
            assert given == sample["doc"]["prompt"] + sample["doc"]["answer_prefix"]
            assert sample["score"] in (0.0, 1 / 3, 2 / 3, 1.0)


def test_the_command_says_how_to_run_them(tiny_model_folder, tmp_path, capsys):
    common = ["eval", "export", "--model.name", str(tiny_model_folder), "--lengths", "1300", "--samples", "1"]
    assert launch([*common, "--tasks", "fwe", "-o", str(tmp_path / "out")]) == 0
    assert "lm_eval --include_path" in capsys.readouterr().out
    assert launch([*common, "--tasks", "qa_1", "-o", str(tmp_path / "none")]) == 3
    assert "left out: qa_1 at 1300" in capsys.readouterr().err
