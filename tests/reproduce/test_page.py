"""The page's words follow from its figures."""

from longattn.reproduce.page import table
from longattn.reproduce.plan import Plan
from longattn.reproduce.tier2 import arms_of, chain, names_of


def test_a_cell_with_a_bar_stays_a_cell():
    lines = table(["a", "b"], [["x | y", "1"]]).splitlines()
    assert lines[2] == "| x \\| y | 1 |"
    assert lines[1] == "|---|---:|"


def test_every_arm_has_a_step_for_each_budget_and_seed_and_equal_plans_have_equal_steps():
    plan = Plan(seeds=3)
    steps = chain(plan, ())
    assert len(steps.continued) == len(names_of(plan)) * 2 * 3
    assert steps.continued.keys() == chain(plan, ()).continued.keys()
    assert {step.key for step in steps.continued.values()} == {s.key for s in chain(plan, ()).continued.values()}
    assert len({step.key for step in steps.continued.values()}) == len(steps.continued)


def test_another_base_changes_what_is_continued_and_not_what_is_picked():
    plan, other = Plan(), Plan(rope_scale=20.0)
    first, second = ([step.key for step in chain(of, ()).picks.values()] for of in (plan, other))
    assert first == second
    assert not {s.key for s in chain(plan, ()).continued.values()} & {
        s.key for s in chain(other, ()).continued.values()
    }


def test_the_random_arm_has_a_draw_for_each_seed_and_smollm2_can_be_left_out():
    arms = {name: [rule.name for rule in rules] for name, rules in arms_of(Plan(seeds=4, smollm2=False)).items()}
    assert arms["picks"][:4] == ["random 0", "random 1", "random 2", "random 3"]
    assert arms["far-picks"] == ["far attention"]
    assert arms.keys() == {"picks", "far-picks"}
    assert "far attention, SmolLM2" in names_of(Plan())
