"""Tier 1, whole: from a corpus to models that were continued on every rule's choice; the project's end-to-end test."""

import pytest

from longattn.reproduce import tier1
from longattn.reproduce.tier1 import Check
from longattn.tables import read_sealed
from longattn.verbs import verify


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    root = tmp_path_factory.mktemp("tier1")
    return tier1.run(root, [0], 1, 1, "longattn reproduce", lambda line: None)


def test_late_loss_falls_with_the_share_of_dependent_windows(found):
    assert found.passed, found.checks
    late = {name: values["late"][0] for name, values in found.arms.items()}
    assert late["oracle"] < late["random"] - 0.02
    assert late["random"] < late["only short"] - 0.02
    assert late["context gain"] < late["random"]


def test_it_is_the_far_context_that_the_better_arms_use(found):
    gain = {name: values["gain"][0] for name, values in found.arms.items()}
    far = {name: values["far"][0] for name, values in found.arms.items()}
    assert gain["only short"] < gain["random"] < gain["oracle"]
    assert far["only short"] > far["random"] > far["oracle"]


def test_what_the_arms_keep_is_what_they_say(found):
    share = {name: values["share"][0] for name, values in found.arms.items()}
    assert share["only short"] == 0
    assert share["oracle"] == 1
    assert share["random"] == pytest.approx(0.4, abs=0.05)
    assert found.arms["context gain"]["auc"][0] >= 0.65


def test_the_run_of_the_stages_is_whole(found):
    (run,) = found.page.parent.glob("steps/picks-*/run")
    found = verify(run)
    assert found.files > 10
    assert not found.damaged


def test_the_page_has_every_arm_and_every_check(found):
    page = found.page.read_text()
    assert all(f"| {name} |" in page for name in found.arms)
    assert "Every check has passed." in page
    results = read_sealed(found.page.with_suffix(".json"))
    assert results["arms"] == {
        name: {key: list(of) for key, of in values.items()} for name, values in found.arms.items()
    }


def test_the_same_command_measures_nothing_again(found):
    said = []
    again = tier1.run(found.page.parent, [0], 1, 1, "longattn reproduce", said.append)
    assert not said
    assert again.arms == found.arms


def test_a_check_fails_on_the_wrong_side_of_its_bound():
    assert Check(0, "at least", 0.02, 0.02).passed
    assert not Check(0, "at least", 0.019, 0.02).passed
    assert Check(0, "at most", 1e-7, 1e-6, is_least=False).passed
    assert not Check(0, "at most", 1e-5, 1e-6, is_least=False).passed


@pytest.mark.parametrize(("seeds", "orders"), [([], 1), ([0], 0)])
def test_no_seed_or_no_order_is_refused(tmp_path, seeds, orders):
    with pytest.raises(ValueError, match="one seed and one order at least"):
        tier1.run(tmp_path, seeds, orders, 1, "longattn reproduce", lambda line: None)
