"""What Tier 2's page says follows from the figures; the figures here are made up, and the steps are not run."""

from pathlib import Path

import pytest

from longattn.reproduce import tier2
from longattn.reproduce.plan import Plan
from longattn.reproduce.steps import Done
from longattn.tables import read_sealed
from longattn.testing import tiny_checkpoint

PLAN = Plan(seeds=3, smollm2=False)
KINDS = {"dependent": 60, "joined": 25, "repeated": 15}


class Given:
    """In place of the steps: facts by what a step is, better ones for the oracle."""

    def __init__(self, root, workers, tell):
        self.done = {}
        self.second_copy, self.gain = 5.0, 0.02

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def do(self, *steps):
        for step in steps:
            self.do(*step.inputs.values())
            self.done[step.key] = Done(step, Path(), self.facts(step), 2.0, 3.0)

    def facts(self, step):
        name = step.name
        if name in ("scorer", "base"):
            copies = {"first_copy": 7.0, "second_copy": self.second_copy, "icl": -0.2, "loss": 4.0}
            return {"parameters": 900_000, "tokens": 16_000_000, **copies}
        if name == "pool":
            return {"windows": 100, "sources": {"code": KINDS}}
        if name.endswith("picks"):
            of = {"kept": dict.fromkeys(KINDS, 5), "auc": {"joined": 0.6, "repeated": 0.4}}
            return {"budgets": {str(b): {rule.name: of for rule in step.settings.arms} for b in step.settings.budgets}}
        if name.startswith("continued") or name == "start":
            seed = getattr(step.settings, "seed", 0)
            better = 0.03 if "oracle" in name else 0.0
            values = dict.fromkeys(tier2.MEASURES, 1.0 + 0.001 * seed)
            counts = {"far_repeat_tokens": 700, "key_tokens": 30}
            return {**values, **counts, "gain": self.gain + better * (1 + 0.1 * seed)}
        return {}


@pytest.fixture
def run(tmp_path, monkeypatch):
    def run(**facts):
        def given(*arguments):
            steps = Given(*arguments)
            steps.__dict__.update(facts)
            return steps

        monkeypatch.setattr(tier2, "Steps", given)
        return tier2.run(tmp_path, (), PLAN, 1, "longattn reproduce --tier 2", lambda line: None)

    return run


def test_a_difference_beyond_doubt_is_named_and_no_other(run):
    found = run()
    page = found.page.read_text()
    assert found.passed
    assert "above random beyond doubt (95 %) for *oracle*, below it for none" in page
    assert "Late loss there, of which less is better: below random for none, above it for none." in page
    assert "the models use the long context" in page
    assert "gates were not passed" not in page


def test_failed_gates_stand_before_the_figures(run):
    found = run(second_copy=6.9, gain=-0.01)
    page = found.page.read_text()
    assert not found.passed
    said = page.index("**The gates were not passed: scorer (random block")
    assert said < page.index("## Truncation gain (primary)")
    assert "nothing follows from the figures below" in page
    assert "hardly use the long context" in page


def test_every_arm_has_its_rows_and_differences_are_from_random(run):
    found = run()
    page = found.page.read_text()
    primary = page[page.index("## Truncation gain") : page.index("## Far-repeat loss")]
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in primary.splitlines() if line.startswith("| ")}
    assert set(tier2.names_of(PLAN)) < rows.keys()
    assert rows["oracle"].count("+0.0330") == 2
    assert rows["prolong"].count("+0.0000 [0.0000, 0.0000]") == 2
    assert "| dependent | joined | repeated | AUC over joined | AUC over repeated |" in page
    results = read_sealed(found.page.with_suffix(".json"))
    assert results["measures"]["oracle"]["500000"]["gain"] == pytest.approx([0.05, 0.053, 0.056])


@pytest.mark.parametrize(("wrong", "said"), [({"scale": 0.0}, "scale must be"), ({"length": 200}, "multiple of 16")])
def test_plans_that_make_no_sense_are_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        tier2.chain(Plan(**wrong), ())


def test_texts_and_models_that_were_changed_make_other_steps(tmp_path):
    text, model = tmp_path / "a.jsonl", tiny_checkpoint(tmp_path / "model")
    plan = Plan(base=model, scorer=model)

    def keys():
        of = tier2.chain(plan, [str(text)])
        return of.pool.key, of.scorer.key

    text.write_text('{"text": "near"}')
    first = keys()
    assert keys() == first
    text.write_text('{"text": "far and near"}')
    second = keys()
    assert second[0] != first[0]
    tiny_checkpoint(model, seed=1)
    third = keys()
    assert third[0] == second[0]
    assert third[1] != second[1]
