"""RULER's 13 tasks (https://arxiv.org/abs/2404.06654), built and scored as its code does at commit c3f5e3b4.

Same random numbers in the same order, so that with RULER's wording and words the prompts are RULER's. What its code
cannot do is added where it would not end: lengths below its least, questions that do not fit, names drawn twice.
"""

from longattn.evals.ruler.common_words import CommonWords
from longattn.evals.ruler.frequent_words import FrequentWords
from longattn.evals.ruler.niah import Niah
from longattn.evals.ruler.qa import QA
from longattn.evals.ruler.variable_tracking import VariableTracking
from longattn.evals.tasks import Task

__all__ = ["NIAH", "QA", "RULER", "CommonWords", "FrequentWords", "Niah", "VariableTracking"]

_NIAH = (
    Niah(name="niah_single_1", haystack="noise"),
    Niah(name="niah_single_2"),
    Niah(name="niah_single_3", type_needle_v="uuids"),
    Niah(name="niah_multikey_1", keys=4),
    Niah(name="niah_multikey_2", haystack="needle"),
    Niah(name="niah_multikey_3", haystack="needle", type_needle_k="uuids", type_needle_v="uuids"),
    Niah(name="niah_multivalue", values=4),
    Niah(name="niah_multiquery", queries=4),
)
NIAH = tuple(task.name for task in _NIAH)
"""The eight tasks whose mean is the LongAttn paper's first figure."""

RULER: dict[str, Task] = {
    task.name: task
    for task in (
        *_NIAH,
        VariableTracking(name="vt"),
        CommonWords(name="cwe"),
        FrequentWords(name="fwe"),
        QA(name="qa_1", questions="squad"),
        QA(name="qa_2", questions="hotpot"),
    )
}
"""The 13 tasks by RULER's names."""
