"""Which work units are a shard's, and which shard a job of an array is."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from longattn.records import WorkUnit

SLURM = "SLURM_ARRAY_TASK_"
KUBERNETES = "JOB_COMPLETION_INDEX"
_FORMS = "K/N with 0 <= K < N, such as 0/8, or auto/N, or auto"


def resolve_shard(shard: str | None, environment: Mapping[str, str]) -> str | None:
    """The shard as ``K/N``: ``auto/N`` takes K, and ``auto`` both numbers, from the scheduler's variables.

    ``auto/N`` reads ``SLURM_ARRAY_TASK_ID`` or ``JOB_COMPLETION_INDEX`` (an indexed job of Kubernetes), which must
    count from 0. ``auto`` needs a Slurm array, regular and whole, whose variables tell its first task, its step and its
    size. Raises ``ValueError`` for anything else, and where the variables are missing or do not fit.

    >>> resolve_shard("auto/16", {"JOB_COMPLETION_INDEX": "3"})
    '3/16'
    >>> slurm = {"TASK_ID": "30", "TASK_MIN": "10", "TASK_MAX": "80", "TASK_STEP": "10", "TASK_COUNT": "8"}
    >>> resolve_shard("auto", {f"SLURM_ARRAY_{name}": value for name, value in slurm.items()})
    '2/8'
    """
    if shard is None:
        return None
    match = re.fullmatch(r"(?P<own>\d+|auto)/(?P<of>\d+)|auto", shard, re.ASCII)
    if match is None:
        raise ValueError(f"shard must be {_FORMS}, got {shard!r}")
    if match["of"] is None:
        number, of = _slurm_array(environment)
    else:
        of = int(match["of"])
        number = _index(environment, of) if match["own"] == "auto" else int(match["own"])
    if number >= of:
        hint = "; the tasks of an array must count from 0, as in --array=0-7" if match["own"] == "auto" else ""
        raise ValueError(f"shard must be {_FORMS}, got {number}/{of}{hint}")
    return f"{number}/{of}"


def _index(environment: Mapping[str, str], of: int) -> int:
    """This task's number, as the scheduler counts."""
    for name in (f"{SLURM}ID", KUBERNETES):
        if (value := environment.get(name, "")).isdecimal():
            return int(value)
    raise ValueError(
        f"shard auto/{of} needs {SLURM}ID (sbatch --array=0-{of - 1}) or {KUBERNETES} (a Kubernetes job with "
        f"completionMode: Indexed and completions: {of}), and neither is set; elsewhere say which one it is: 0/{of}"
    )


def _slurm_array(environment: Mapping[str, str]) -> tuple[int, int]:
    """This task's place among those of the array, and how many there are."""
    facts = {name: environment.get(f"{SLURM}{name}", "") for name in ("ID", "MIN", "MAX", "STEP", "COUNT")}
    if not all(value.isdecimal() for value in facts.values()):
        where = (
            f"; {KUBERNETES} is set, but not how many there are: --shard auto/N" if KUBERNETES in environment else ""
        )
        missing = ", ".join(f"{SLURM}{name}" for name, value in facts.items() if not value.isdecimal())
        raise ValueError(f"shard auto needs the variables of a Slurm array, but {missing} are not set{where}")
    own, first, last, step, count = (int(value) for value in facts.values())
    step = max(1, step)
    if last != first + step * (count - 1) or (own - first) % step:
        raise ValueError(
            f"shard auto needs a regular array, such as --array=0-15, got {count} tasks from {first} to {last}; "
            f"for some tasks of an array, say how many shards there are in all: --shard auto/N"
        )
    return (own - first) // step, count


def shard_of(units: Sequence[WorkUnit], shard: str | None) -> list[WorkUnit]:
    """Every N-th unit, beginning with the K-th (0-based), for a shard ``K/N``; all of them for None."""
    if shard is None:
        return list(units)
    number, _, of = shard.partition("/")
    return list(units[int(number) :: int(of)])


def shards_of(units: Sequence[WorkUnit], missing: Iterable[WorkUnit], folder: Path) -> list[str]:
    """The shards that missing units belong to, as ``K/N``, if one number of shards has worked in this folder."""
    names = (path.name for path in folder.glob("progress-*.json"))
    counts = {match[1] for name in names if (match := re.search(r"-of-(\d+)\.json$", name))}
    if len(counts) != 1:
        return []
    [of] = map(int, counts)
    places = {unit.id: place for place, unit in enumerate(units)}
    return [f"{number}/{of}" for number in sorted({places[unit.id] % of for unit in missing})]
