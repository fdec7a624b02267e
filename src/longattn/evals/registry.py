"""Every made-up task by name, and names for several of them."""

from collections.abc import Sequence

from longattn.evals.biographies import BIOGRAPHIES
from longattn.evals.notices import COLLECTIONS
from longattn.evals.ruler import NIAH, RULER
from longattn.evals.tasks import Task
from longattn.evals.threads import THREADS

TASKS: dict[str, Task] = {**RULER, **THREADS, **BIOGRAPHIES, **COLLECTIONS}
"""Tasks by name, in the order in which results show them."""

GROUPS: dict[str, tuple[str, ...]] = {
    "ruler": tuple(RULER),
    "niah": NIAH,
    "threads": tuple(THREADS),
    "biographies": tuple(BIOGRAPHIES),
    "collections": tuple(COLLECTIONS),
}
"""Names for several tasks. The mean of a group is given only where all of it ran."""


def named(names: Sequence[str]) -> list[Task]:
    """The tasks of some names and groups, each once, in the registry's order.

    Raises ``ValueError`` for a name that is neither, and for none at all.
    """
    if unknown := [name for name in names if name not in TASKS and name not in GROUPS]:
        raise ValueError(
            f"there is no task {unknown[0]!r}; there are {', '.join(TASKS)}, and groups: {', '.join(GROUPS)}"
        )
    wanted = {one for name in names for one in GROUPS.get(name, (name,))}
    if not wanted:
        raise ValueError(f"no task was named; there are {', '.join(TASKS)}, and groups: {', '.join(GROUPS)}")
    return [task for name, task in TASKS.items() if name in wanted]
