"""Job files: the shell and YAML read them, and their commands are ours, whatever the inputs are called."""

import re
import shlex
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from longattn import cli
from longattn.recipes import RECIPES, Recipe
from longattn.settings import Corpus, Selecting
from longattn.templates import render

HOSTILE = ("books=/data/it's $(touch here) `x`/*.jsonl", "a\n#SBATCH --wrap=x", '"; exit 1 #', "naïve: {x}")
RECIPE = replace(
    RECIPES["paper"](),
    corpus=Corpus(inputs=HOSTILE, source_field="kind"),
    keep=Selecting(where="doc_tokens < 1000", weights={"length": 1.0}),
    scorers=("longattn", "length"),
)
OUTPUT = "/shared/my run"


def parsed(words: list[str], monkeypatch) -> Recipe:
    """The recipe that the command line makes of a command."""
    monkeypatch.setattr(cli.app, "config", ())
    _, bound, _ = cli.app.parse_args(words, exit_on_error=False, print_error=False)
    found = bound.arguments["recipe"]
    assert bound.arguments["output"] == OUTPUT
    return replace(found, corpus=replace(found.corpus, inputs=bound.arguments["inputs"]))


def as_bash_reads(script: str, tmp_path: Path, command: str) -> list[str]:
    """The words that a command of a script is called with, and a check that nothing else is called."""
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin" / command
    fake.write_text("#!/bin/bash\nprintf '%s\\0' \"$@\" > called\n")
    fake.chmod(0o755)
    (tmp_path / "job.sh").write_text(script)
    subprocess.run(["bash", "-n", "job.sh"], cwd=tmp_path, check=True)
    variables = {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", "RAY_API_SERVER_ADDRESS": "http://head:8265"}
    subprocess.run(["bash", "job.sh"], cwd=tmp_path, env=variables, check=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bin", "called", "job.sh"]
    return (tmp_path / "called").read_bytes().decode().split("\0")[:-1]


def test_a_slurm_array(tmp_path, monkeypatch):
    script = render("slurm", RECIPE, OUTPUT, shards=16, gpus=1)
    head = script[: script.index("longattn measure")]
    directives = [line.removeprefix("#SBATCH ") for line in head.splitlines() if line.startswith("#SBATCH")]
    assert {"--array=0-15", "--gpus-per-task=1", "--signal=B:TERM@120", "--requeue"} <= set(directives)
    assert "--gpus" not in render("slurm", RECIPE, OUTPUT, shards=16, gpus=0)
    words = as_bash_reads(script, tmp_path, "longattn")
    assert words[-2:] == ["--shard", "auto/16"]
    assert parsed(words, monkeypatch) == RECIPE


def test_the_warning_of_slurm_ends_the_task_and_queues_it_again(tmp_path):
    script = render("slurm", RECIPE, OUTPUT, shards=2, gpus=0)
    for name, body in {
        "longattn": "trap 'echo stopped >> log; exit 143' TERM\necho began >> log\nkill -TERM $PPID\nsleep 5 & wait",
        "scontrol": 'echo "$@" >> log',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "job.sh").write_text(script)
    variables = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_ARRAY_JOB_ID": "77", "SLURM_ARRAY_TASK_ID": "1"}
    subprocess.run(["bash", "job.sh"], cwd=tmp_path, env=variables, check=True)
    assert (tmp_path / "log").read_text().splitlines() == ["began", "stopped", "requeue 77_1"]


def test_an_indexed_job_of_kubernetes(monkeypatch):
    job = yaml.safe_load(render("kubernetes", RECIPE, OUTPUT, shards=16, gpus=2, image="registry/longattn:1"))
    assert (job["kind"], job["spec"]["completionMode"], job["spec"]["completions"]) == ("Job", "Indexed", 16)
    [container] = job["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "registry/longattn:1"
    assert container["resources"]["limits"] == {"memory": "64Gi", "nvidia.com/gpu": 2}
    shell, words = container["command"][:4], container["command"][5:]
    assert (shell[:2], container["command"][4]) == (["/bin/sh", "-c"], "longattn")
    assert words[-2:] == ["--shard", "auto/16"]
    assert parsed(words, monkeypatch) == RECIPE


def pods_script() -> str:
    job = yaml.safe_load(render("kubernetes", RECIPE, OUTPUT, shards=16, gpus=0))
    return job["spec"]["template"]["spec"]["containers"][0]["command"][2]


@pytest.mark.parametrize(("code", "ends_with"), [(0, 0), (1, 1), (3, 0)])
def test_a_task_that_left_something_out_is_done_and_not_tried_again(tmp_path, code, ends_with):
    """Schedulers know 0 and other codes: what is in quarantine would be tried again for ever."""
    longattn = tmp_path / "longattn"
    longattn.write_text(f"#!/bin/bash\nexit {code}\n")
    longattn.chmod(0o755)
    variables = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    array = ["bash", "-c", render("slurm", RECIPE, OUTPUT, shards=2, gpus=0)]
    pod = ["/bin/sh", "-c", pods_script(), "sh", "longattn", "measure"]
    for command in (array, pod):
        assert subprocess.run(command, env=variables, check=False).returncode == ends_with


def test_a_pod_passes_on_the_signal_that_ends_it(tmp_path):
    work = "trap 'echo stopped > log; exit 143' TERM; touch began; sleep 9 & wait"
    with subprocess.Popen(["/bin/sh", "-c", pods_script(), "sh", "bash", "-c", work], cwd=tmp_path) as pod:
        while not (tmp_path / "began").exists() and pod.poll() is None:
            time.sleep(0.01)
        pod.terminate()
        assert pod.wait() == 143
    assert (tmp_path / "log").read_text() == "stopped\n"


def test_a_job_of_ray(tmp_path, monkeypatch):
    words = as_bash_reads(render("ray", RECIPE, OUTPUT, shards=1, gpus=0), tmp_path, "ray")
    begin = words.index("longattn")
    assert words[:begin] == ["job", "submit", "--entrypoint-num-cpus", "1", "--"]
    assert words[-2:] == ["--engine", "ray"]
    assert parsed(words[begin + 1 :], monkeypatch) == RECIPE


def test_templates_are_printed_by_a_verb(capsys):
    assert cli.launch(["template", "slurm", "books=/data", "--output", "/shared/run", "--shards", "4"]) == 0
    script = capsys.readouterr().out
    [line] = re.findall(r"^longattn measure .*$", script, re.MULTILINE)
    assert shlex.split(line) == [
        "longattn", "measure", "books=/data", "--output", "/shared/run", "--shard", "auto/4", "&",
    ]  # fmt: skip


def test_no_shards_are_refused():
    with pytest.raises(ValueError, match="shards must be at least 1, got 0"):
        render("slurm", RECIPE, OUTPUT, shards=0, gpus=0)
