"""Evaluations on disk: a file per task and length, resumed, with its circumstances; means only of what is whole."""

import json
import math
import re
from dataclasses import replace

import pytest

from longattn.cli import launch
from longattn.evals import running
from longattn.evals.generating import Answer, Answerer
from longattn.evals.metrics import Proportion
from longattn.evals.registry import GROUPS
from longattn.evals.running import _mean, collect, evaluate
from longattn.evals.settings import Answering, Evaluating
from longattn.settings import Model
from longattn.tables import read_sealed, write_sealed

RULE = Evaluating(tasks=("niah_single_1", "fwe"), lengths=(1200,), samples=3)


@pytest.fixture
def says(monkeypatch):
    """What the model says to any prompt; a list of how many prompts it was asked at once."""
    asked = []

    def answer(self, prompts, max_new_tokens):
        asked.append(len(prompts))
        return [Answer(asked.said(prompt.text), 0, 1, "length") for prompt in prompts]

    class Asked(list):
        said = staticmethod(lambda text: "nothing")

    asked = Asked()
    monkeypatch.setattr(Answerer, "answer", answer)
    return asked


@pytest.fixture
def model(tiny_model_folder):
    return Model(name=str(tiny_model_folder))


def test_each_task_and_length_is_a_file_with_all_answers_and_circumstances(says, model, tmp_path):
    found = evaluate(tmp_path / "out", model, RULE, Answering(batch=2))
    assert [one["task"] for one in found.results] == ["niah_single_1", "fwe"]
    assert says == [2, 1, 2, 1]
    for one in found.results:
        whole = read_sealed(tmp_path / "out" / one["file"])
        assert len(whole["samples"]) == one["score"]["n"] == 3
        assert {row["score"] for row in whole["samples"]} == {0.0}
        for fact in ("generator", "tokenizer", "wording", "words", "model", "seed", "haystack", "metric", "bos"):
            assert fact in whole
        assert one["score"]["high"] > 0.5
    assert read_sealed(tmp_path / "out" / "evaluation.json")["results"] == list(found.results)


def test_scores_are_means_over_samples(says, model, tmp_path):
    rule = Evaluating(tasks=("niah_single_1",), lengths=(1200,), samples=4)
    first = iter([True, False, True, True])
    numbers = re.compile(r"is (\d{7})\.")
    says.said = lambda text: f" {numbers.search(text)[1]}\x00" if next(first) else "none"
    (one,) = evaluate(tmp_path, model, rule).results
    assert one["score"]["value"] == 0.75
    answers = [row["answer"] for row in read_sealed(tmp_path / one["file"])["samples"]]
    assert answers[1] == "none"
    assert answers[0].isdigit()


def test_what_is_there_is_not_asked_again_and_needs_no_model(says, model, tmp_path, monkeypatch):
    first = evaluate(tmp_path, model, RULE)
    monkeypatch.setattr(running, "_load", lambda *_: pytest.fail("nothing is left to ask"))
    told = []
    assert evaluate(tmp_path, model, RULE, on_answer=told.append).results == first.results
    assert sum(told) == 2 * 3 * 1200


def test_a_damaged_result_is_made_again_and_other_settings_are_other_files(says, model, tmp_path, caplog):
    (one, _) = evaluate(tmp_path, model, RULE).results
    file = tmp_path / one["file"]
    whole = file.read_bytes()
    file.write_bytes(whole.replace(b"nothing", b"a thing"))
    asked = len(says)
    evaluate(tmp_path, model, RULE)
    assert file.read_bytes() == whole
    assert len(says) == asked + 3
    assert "is damaged" in caplog.text
    more = evaluate(tmp_path, model, Evaluating(tasks=("niah_single_1",), lengths=(1200,), samples=3, seed=7))
    assert len(more.results) == 3


def test_other_results_in_the_folder_are_left_alone(says, model, tmp_path):
    write_sealed(tmp_path / "held-out-0123456789abcdef.json", {"late_loss": 1.0})
    write_sealed(tmp_path / "suite-mmlu-0123456789abcdef.json", {"suite": "mmlu", "samples": {}})
    assert len(evaluate(tmp_path, model, RULE).results) == 2


def test_means_are_given_only_of_groups_that_all_ran(says, model, tmp_path):
    model = replace(model, allow_extrapolation=True)
    rule = {"lengths": (6000,), "samples": 1, "haystack": "python", "made_up_questions": True}
    found = evaluate(tmp_path, model, Evaluating(tasks=("niah",), **rule))
    assert [mean["group"] for mean in found.means] == ["niah"]
    found = evaluate(tmp_path, model, Evaluating(**rule))
    assert [(mean["group"], mean["tasks"]) for mean in found.means] == [("ruler", 13), ("niah", 8)]
    # the same tasks on another haystack leave open which is meant
    other = tmp_path / "other.txt"
    other.write_text("It rained all day. Nobody went out. " * 50)
    found = evaluate(tmp_path, model, Evaluating(tasks=("niah_single_2",), **{**rule, "haystack": str(other)}))
    assert found.means == ()
    assert {one["haystack"]["kind"] for one in found.results if one["haystack"]} == {"python", "texts"}
    assert set(GROUPS["ruler"]) == {one["task"] for one in collect(tmp_path).results}


def test_a_mean_of_tasks_adds_up_the_squares_of_their_intervals():
    found = _mean([Proportion(0.5, 0.4, 0.7, 20), Proportion(1.0, 0.8, 1.0, 20)])
    assert (found.value, found.n) == (0.75, 40)
    assert found.low == pytest.approx(0.75 - math.hypot(0.1, 0.2) / 2)
    assert found.high == pytest.approx(0.75 + 0.2 / 2)


def test_tasks_without_their_files_are_left_out_with_the_reason_and_another_exit_code(says, model, tmp_path, capsys):
    common = ["eval", "tasks", "--model.name", model.name, "--lengths", "1200", "--samples", "1", "-o", str(tmp_path)]
    assert launch([*common, "--tasks", "qa_1", "--tasks", "niah_single_1", "--tasks", "niah_multikey_3", "--json"]) == 3
    printed = json.loads(capsys.readouterr().out)
    assert [one["task"] for one in printed["left_out"]] == ["qa_1"]
    assert "--squad" in printed["left_out"][0]["reason"]
    assert launch([*common, "--tasks", "niah_single_1"]) == 0
    shown = capsys.readouterr().out
    assert "niah_single_1" in shown
    assert "95 %" in shown
    assert "not RULER's wording (longattn 1): all of them" in shown
    assert launch([*common, "--tasks", "qa_3"]) == 1
    assert "there is no task 'qa_3'" in capsys.readouterr().err


def test_two_names_for_a_haystack_are_refused(model, tmp_path):
    with pytest.raises(ValueError, match="two names for one thing"):
        evaluate(tmp_path, model, Evaluating(essays="a", haystack="b"))


def test_a_batch_of_no_prompt_is_refused(says, model, tmp_path):
    with pytest.raises(ValueError, match="batch must be at least 1, got 0"):
        evaluate(tmp_path, model, RULE, Answering(batch=0))
