"""Mixtures and evaluations: processes killed at any moment, and what the same command makes of the rest."""

import hashlib
import json
from functools import partial
from pathlib import Path

import pytest
from killing import killed_and_given_again, with_imported

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
    return with_imported("longattn.mixing", "longattn.evals.running", "longattn.evals.generating")


def whatever_has_its_name_is_whole(folder, right):
    half = {name: digest for name, digest in digests(folder).items() if not Path(name).name.startswith(".")}
    return half.items() <= right.items()


@pytest.mark.parametrize(("work", "what"), [(mix_once, "a mixture"), (evaluate_once, "an evaluation")])
def test_what_is_killed_at_any_moment_is_made_to_the_same_bytes(
    work, what, processes, trials, tiny_model_folder, tmp_path
):
    (tmp_path / "short.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    of_the_model = partial(work, tiny_model_folder)
    killed_and_given_again(processes, of_the_model, tmp_path, trials, what, digests, whatever_has_its_name_is_whole)
