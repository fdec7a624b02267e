"""Mixtures and evaluations: processes killed at any moment, and what the same command makes of the rest."""

import hashlib
import itertools
import json
import multiprocessing
import signal
import time
from pathlib import Path

import pytest

pytest.importorskip("transformers", reason="evaluations are not installed: pip install 'longattn[eval]'")

TEXTS = [f"{i} " + " ".join(f"{i * 7919 + j * j:x}" for j in range(1 + i % 50)) for i in range(400)]


def mix_once(model, output):
    """Short documents packed into a mixture."""
    from longattn.mixing import mix
    from longattn.settings import Mixture

    inputs, rest = (f"short={output.parent / 'short.jsonl'}",), {"length": 64, "tokens": 32768}
    mix(Mixture(documents=inputs, shares={"short": 1.0}, model=str(model), end_token=10, **rest), output)


def evaluate_once(model, output):
    """Two tasks at two lengths."""
    from longattn.evals.running import evaluate
    from longattn.evals.settings import Answering, Evaluating
    from longattn.settings import Model

    rule = Evaluating(tasks=("niah_single_1", "fwe"), lengths=(1200, 1300), samples=1)
    evaluate(output, Model(name=str(model)), rule, Answering(threads=1))


def digests(folder):
    """Every file by its bytes; the lock is no result."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def processes():
    """Processes that begin with everything imported, so that most of their time is work."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["longattn.mixing", "longattn.evals.running", "longattn.evals.generating"])
    return context


@pytest.mark.parametrize(("work", "what"), [(mix_once, "a mixture"), (evaluate_once, "an evaluation")])
def test_what_is_killed_at_any_moment_is_made_to_the_same_bytes(
    work, what, processes, trials, tiny_model_folder, tmp_path
):
    (tmp_path / "short.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))

    def attempt(output, seconds=None):
        """One process, killed after a time; how it ended."""
        process = processes.Process(target=work, args=(tiny_model_folder, output))
        process.start()
        process.join(seconds)
        if process.is_alive():
            process.kill()
            process.join()
        return process.exitcode

    # the first process waits until everything is imported
    assert attempt(tmp_path / "first") == 0
    began = time.monotonic()
    assert attempt(tmp_path / "whole") == 0
    seconds = time.monotonic() - began
    right = digests(tmp_path / "whole")
    assert digests(tmp_path / "first") == right
    random, injected, killed, passed = trials.random(), trials.number(20, 2), 0, 0
    for folder in (tmp_path / f"killed-{i}" for i in itertools.count()):
        # one that ended before it could be killed is no trial
        if attempt(folder, random.uniform(0.1, 1.0) * seconds) != -signal.SIGKILL:
            continue
        killed += 1
        # what is there under its name is whole, whether the same command comes or not
        half = {name: digest for name, digest in digests(folder).items() if not Path(name).name.startswith(".")}
        passed += half.items() <= right.items() and attempt(folder) == 0 and digests(folder) == right
        if killed == injected:
            break
    trials.count("R1", f"kill -9 of {what}, at any moment", injected, passed)
