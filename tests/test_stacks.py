"""Configurations for training stacks: they parse, say what the data says, and name settings that exist."""

import ast
import dataclasses
import json

import pytest
import yaml

from longattn import cli
from longattn.errors import RunError
from longattn.templates.stacks import STACKS, TORCHTITAN_8B, render
from longattn.testing import tiny_checkpoint
from longattn.train.planning import plan
from longattn.train.rope import with_base
from longattn.train.settings import Training

RULE = Training(batch_tokens=16 * 64)


@pytest.fixture
def model(tmp_path):
    folder = tiny_checkpoint(tmp_path / "longer", max_position_embeddings=32)
    config = folder / "config.json"
    config.write_text(json.dumps(with_base(json.loads(config.read_bytes()), 26_000.0, 64)))
    return str(folder)


@pytest.fixture
def data(tmp_path):
    """An export or mixture as a stack needs it, by what it says of itself; 100 windows of 64 tokens."""

    def make(stack: str, **changes):
        needs = STACKS[stack]
        folder = tmp_path / f"data-{stack}"
        (folder / "data").mkdir(parents=True, exist_ok=True)
        stems = {"books": "000-books", 'a "b"\n': "001-a"} if needs.formats[0] == "megatron" else {}
        summary = {
            "format": needs.formats[0],
            "num_windows": 100,
            "num_tokens": 6400,
            "tokens": {"books": 4800, 'a "b"\n': 1600},
            "stems": stems,
            "extra_token": needs.extra_token,
            "portions": {"books": {"kind": "windows"}, 'a "b"\n': {"kind": "documents"}},
            **changes,
        }
        (folder / "export.json").write_text(json.dumps(summary))
        columns = {"input_ids": {}, **({"labels": {}} if needs.labels else {})}
        (folder / "data" / "dataset_info.json").write_text(json.dumps({"features": columns}))
        return folder

    return make


def numbers_of(text):
    """Every ``name = value`` and ``name=value`` of a Python text, by the last part of the name."""
    found = {}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute | ast.Name):
            target = node.targets[0]
            name = target.attr if isinstance(target, ast.Attribute) else target.id
            found[name] = node.value
        elif isinstance(node, ast.keyword) and node.arg:
            found[node.arg] = node.value
    values = {}
    for name, node in found.items():
        try:
            values[name] = ast.literal_eval(node)
        except ValueError:
            continue
    return values


@pytest.mark.parametrize("stack", ["hf", "megatron-bridge", "torchtitan"])
def test_python_parses_and_has_the_datas_numbers(stack, data, model):
    """100 windows, 16 a step: 6 steps, one of them for warming up."""
    text = render(stack, data(stack), model, RULE, gpus=8)
    compile(text, stack, "exec")
    found = numbers_of(text)
    steps = {"hf": "max_steps", "megatron-bridge": "train_iters", "torchtitan": "steps"}[stack]
    warmup = {"hf": "warmup_steps", "megatron-bridge": "lr_warmup_iters", "torchtitan": "warmup_steps"}[stack]
    assert (found[steps], found[warmup], found["MODEL"]) == (6, 1, model)
    assert 1e-5 in found.values()
    if stack == "hf":
        assert found["gradient_accumulation_steps"] == 2
    else:
        assert found["global_batch_size"] == 16
        assert 26_000 in (found.get("rotary_base"), found.get("theta"))
    assert len(max(text.splitlines(), key=len)) < 200


def test_a_configuration_of_one_step_warms_up_in_none(data, model):
    """Megatron refuses as many steps of warm-up as there are in all."""
    rule = Training(batch_tokens=100 * 64)
    found = numbers_of(render("megatron-bridge", data("megatron-bridge"), model, rule, gpus=4))
    assert (found["lr_decay_iters"], found["lr_warmup_iters"]) == (1, 0)


def test_the_weights_of_megatrons_files_are_their_shares(data, model):
    folder = data("megatron-bridge")
    found = numbers_of(render("megatron-bridge", folder, model, RULE))
    paths, weights = found["blend"]
    assert paths == [f"{folder}/data/000-books", f"{folder}/data/001-a"]
    assert weights == [0.75, 0.25]
    assert found["reset_position_ids"] is True


@pytest.mark.parametrize("stack", ["axolotl", "llamafactory"])
def test_yaml_parses_and_has_the_datas_numbers(stack, data, model):
    folder = data(stack)
    found = yaml.safe_load(render(stack, folder, model, RULE, gpus=4))
    assert (found["max_steps"], found["gradient_accumulation_steps"], found["warmup_steps"]) == (6, 4, 1)
    assert found["learning_rate"] == 1e-5
    if stack == "axolotl":
        assert (found["base_model"], found["sequence_len"], found["sample_packing"]) == (model, 64, False)
        assert found["datasets"] == [{"path": f"{folder}/data", "type": None}]
        assert found["fsdp_config"]["transformer_layer_cls_to_wrap"] == "LlamaDecoderLayer"
    else:
        assert (found["model_name_or_path"], found["cutoff_len"]) == (model, 64)
        assert found["tokenized_path"] == f"{folder}/data"


def test_transformers_knows_its_arguments(data, model):
    from transformers import TrainingArguments

    known = {field.name for field in dataclasses.fields(TrainingArguments)}
    calls = [
        node
        for node in ast.walk(ast.parse(render("hf", data("hf"), model, RULE)))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "TrainingArguments"
    ]
    assert {keyword.arg for keyword in calls[0].keywords} <= known


def test_hugging_faces_script_trains(data, model, tmp_path, monkeypatch):
    """As it is printed, on a CPU and in float32."""
    import datasets

    folder = data("hf")
    rows = datasets.Dataset.from_dict({"input_ids": [[(i * j) % 256 for j in range(64)] for i in range(100)]})
    rows.save_to_disk(str(folder / "data"))
    text = render("hf", folder, model, RULE, gpus=8).replace("bf16=True", "bf16=False, use_cpu=True, report_to=[]")
    text = text.replace("max_steps=6", "max_steps=2").replace("save_steps=100", 'save_strategy="no"')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    exec(compile(text, "hf", "exec"), {"__name__": "train"})


@pytest.mark.parametrize(
    ("stack", "changes", "message"),
    [
        ("megatron-bridge", {"format": "hf"}, r"needs the format megatron.*--write.format megatron"),
        ("torchtitan", {"extra_token": False}, r"windows of one token more.*--write.extra-token"),
        ("hf", {"extra_token": True}, r"windows without an extra token"),
        ("axolotl", {"num_tokens": 6401}, r"windows of different lengths"),
    ],
)
def test_data_that_a_stack_does_not_read_is_refused_with_what_makes_it(data, model, stack, changes, message):
    with pytest.raises(RunError, match=message):
        render(stack, data(stack, **changes), model, RULE)


def test_axolotl_needs_labels(data, model):
    folder = data("axolotl")
    (folder / "data" / "dataset_info.json").write_text(json.dumps({"features": {"input_ids": {}}}))
    with pytest.raises(RunError, match=r"axolotl needs labels: export or mix it with .*--write.labels"):
        render("axolotl", folder, model, RULE)


def test_gpus_must_divide_a_step(data, model):
    with pytest.raises(ValueError, match="gpus must divide the 16 windows of a step, got 3"):
        render("hf", data("hf"), model, RULE, gpus=3)


@pytest.mark.parametrize("stack", sorted(STACKS))
def test_a_model_that_is_too_short_is_warned_of(stack, data, tmp_path):
    short = tiny_checkpoint(tmp_path / "short", max_position_embeddings=32)
    text = render(stack, data(stack), str(short), RULE)
    assert f"WARNING: it has 32 positions: longattn abf {short} --length 64" in text
    assert "WARNING" not in render(stack, data(stack), "org/name", RULE)


LLAMA31 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


def test_torchtitan_scales_what_the_model_was_trained_with(data, tmp_path):
    scaling = {**LLAMA31, "original_max_position_embeddings": 32}
    model = tiny_checkpoint(tmp_path / "scaled", max_position_embeddings=64, rope_scaling=scaling)
    found = numbers_of(render("torchtitan", data("torchtitan"), str(model), RULE))
    assert (found["scaling"], found["scaling_factor"]) == ("llama", 8.0)
    assert (found["low_freq_factor"], found["high_freq_factor"]) == (1.0, 4.0)
    assert found["original_max_position_embeddings"] == 32
    plain = tiny_checkpoint(tmp_path / "plain", max_position_embeddings=64)
    found = numbers_of(render("torchtitan", data("torchtitan"), str(plain), RULE))
    assert found["scaling"] == "none"
    assert "scaling_factor" not in found


@pytest.mark.parametrize("stack", ["torchtitan", "megatron-bridge"])
def test_a_scaling_that_a_stack_loses_is_warned_of(stack, data, tmp_path):
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
    model = tiny_checkpoint(tmp_path / "yarn", max_position_embeddings=64, rope_scaling=scaling)
    text = render(stack, data(stack), str(model), RULE)
    assert "WARNING: its rotary embedding is scaled (yarn), and here it is not" in text
    assert "scaled (yarn)" not in render("hf", data("hf"), str(model), RULE)


def test_a_shape_that_is_not_torchtitans_is_warned_of(data, model, tmp_path):
    assert "WARNING: llama3_8b is of another shape" in render("torchtitan", data("torchtitan"), model, RULE)
    config = json.loads((tmp_path / "longer" / "config.json").read_bytes())
    (tmp_path / "longer" / "config.json").write_text(json.dumps({**config, **TORCHTITAN_8B}))
    assert "another shape" not in render("torchtitan", data("torchtitan"), model, RULE)


@pytest.mark.parametrize("stack", sorted(STACKS))
def test_settings_that_a_stack_is_not_told_are_named(stack, data):
    rule = Training(batch_tokens=16 * 64, tokens=6400, warmup=0.1, learning_rate=2e-5, lora_rank=8, documents="apart")
    text = render(stack, data(stack), "org/name", rule)
    assert "WARNING: nothing here says documents=apart, lora_rank=8: put it in" in text


@pytest.mark.parametrize("over", [0, 33, 63])
def test_a_step_has_the_windows_that_train_would_give_it(over, data):
    """Those that fit in it: part of a window is none."""
    rule = Training(batch_tokens=16 * 64 + over)
    found = numbers_of(render("megatron-bridge", data("megatron-bridge"), "org/name", rule, gpus=4))
    assert found["global_batch_size"] == plan(100, 64, rule).step_windows == 16


def test_a_step_of_less_than_a_window_is_refused(data):
    with pytest.raises(ValueError, match="batch_tokens must be at least one window, 64 tokens, got 63"):
        render("megatron-bridge", data("megatron-bridge"), "org/name", Training(batch_tokens=63))


@pytest.mark.parametrize(("gpus", "parallel"), [(1, 1), (4, 4), (6, 2), (8, 8), (12, 4), (24, 8)])
def test_tensor_parallel_divides_the_gpus(gpus, parallel, data):
    rule = Training(batch_tokens=24 * 64)
    found = numbers_of(render("megatron-bridge", data("megatron-bridge"), "org/name", rule, gpus=gpus))
    assert (found["tensor_model_parallel_size"], found["sequence_parallel"]) == (parallel, parallel > 1)


def test_torchtitan_shuffles_unless_the_order_is_given(data):
    shuffled = render("torchtitan", data("torchtitan"), "org/name", Training(batch_tokens=16 * 64, seed=3))
    given = render("torchtitan", data("torchtitan"), "org/name", Training(batch_tokens=16 * 64, order="given"))
    assert "rows.shuffle(seed=3)" in shuffled
    assert "rows.shuffle" not in given


def test_the_verb_prints_it(data, model, capsys):
    words = ["recipe", "axolotl", str(data("axolotl")), "--model", model, "--train.batch-tokens", "1024", "--gpus", "4"]
    assert cli.launch(words) == 0
    assert yaml.safe_load(capsys.readouterr().out)["sequence_len"] == 64


def test_a_folder_that_is_no_export_is_said_so(tmp_path, model, capsys):
    assert cli.launch(["recipe", "hf", str(tmp_path), "--model", model]) == 1
    assert "is neither an export nor a mixture" in capsys.readouterr().err
