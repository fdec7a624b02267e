"""The 13 tasks as a whole: which they are, and a frozen prompt of each.

A change of any prompt is a change of what is measured: it needs another name for the wording, or another version of the
generators. ``frozen.json`` holds the texts of the samples that :func:`test_prompts_are_those_that_were_frozen` makes.
"""

import json
from pathlib import Path

import pytest

from longattn.evals.ruler import NIAH, RULER
from longattn.evals.tasks import generate

FROZEN = json.loads((Path(__file__).parent / "frozen.json").read_text(encoding="utf-8"))


def test_there_are_13_tasks_8_of_them_with_needles():
    assert list(RULER) == [
        *("niah_single_1", "niah_single_2", "niah_single_3"),
        *("niah_multikey_1", "niah_multikey_2", "niah_multikey_3"),
        *("niah_multivalue", "niah_multiquery", "vt", "cwe", "fwe", "qa_1", "qa_2"),
    ]
    assert tuple(RULER)[:8] == NIAH
    assert [task.max_new_tokens for task in RULER.values()] == [128] * 8 + [30, 120, 50, 32, 32]
    assert {name for name, task in RULER.items() if task.metric == "part"} == {"qa_1", "qa_2"}


@pytest.mark.parametrize("name", list(RULER))
def test_prompts_are_those_that_were_frozen(materials, name):
    made = generate(RULER[name], materials, FROZEN["length"], 2)
    expected = FROZEN["tasks"][name]
    assert [sample.text for sample in made.samples] == expected["texts"]
    assert [list(sample.answers) for sample in made.samples] == expected["answers"]
