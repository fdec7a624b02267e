"""Names of tasks and of groups."""

import pytest

from longattn.evals.registry import GROUPS, TASKS, named


def test_groups_and_names_are_put_in_order_each_once():
    assert [task.name for task in named(("vt", "niah", "niah_single_1"))] == [*GROUPS["niah"], "vt"]
    assert sum(len(members) for name, members in GROUPS.items() if name != "niah") == len(TASKS)
    assert all(name == task.name for name, task in TASKS.items())


@pytest.mark.parametrize(("names", "says"), [(("ruller",), "there is no task 'ruller'"), ((), "no task was named")])
def test_other_names_are_refused(names, says):
    with pytest.raises(ValueError, match=says):
        named(names)
