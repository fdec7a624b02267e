"""Which shard a job of an array is, and which units are its own."""

import pytest

from longattn.engines.sharding import resolve_shard, shard_of, shards_of
from longattn.records import Slice, WorkUnit

UNITS = [WorkUnit((Slice(str(i), 1, ""),)) for i in range(5)]


def slurm(own: int, first: int, last: int, step: int, count: int) -> dict[str, str]:
    facts = {"ID": own, "MIN": first, "MAX": last, "STEP": step, "COUNT": count}
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in facts.items()}


def test_shards_share_the_units_among_them():
    assert shard_of(UNITS, None) == UNITS
    assert [shard_of(UNITS, f"{k}/2") for k in range(2)] == [UNITS[0::2], UNITS[1::2]]


@pytest.mark.parametrize(
    ("shard", "environment", "expected"),
    [
        (None, slurm(0, 0, 1, 1, 2), None),
        ("3/16", slurm(0, 0, 1, 1, 2), "3/16"),
        ("auto", slurm(0, 0, 15, 1, 16), "0/16"),
        ("auto", slurm(16, 1, 16, 1, 16), "15/16"),
        ("auto", slurm(7, 1, 9, 2, 5), "3/5"),
        ("auto", slurm(4, 4, 4, 1, 1), "0/1"),
        ("auto/16", slurm(7, 3, 7, 4, 2), "7/16"),
        ("auto/4", {"JOB_COMPLETION_INDEX": "0"}, "0/4"),
    ],
)
def test_the_scheduler_says_which_shard_this_is(shard, environment, expected):
    assert resolve_shard(shard, environment) == expected


@pytest.mark.parametrize("shard", ["2/2", "1", "a/b", "-1/2", "1/0", "auto/0", "auto/", "٣/٤", "", " 0/2", "0/2\n"])
def test_a_shard_that_is_none_is_refused(shard):
    with pytest.raises(ValueError, match="shard must be K/N"):
        resolve_shard(shard, {"JOB_COMPLETION_INDEX": "0"})


@pytest.mark.parametrize(
    ("shard", "environment", "what"),
    [
        ("auto/8", {}, r"needs SLURM_ARRAY_TASK_ID .*--array=0-7.* or JOB_COMPLETION_INDEX .*completions: 8"),
        ("auto/8", slurm(8, 1, 8, 1, 8), r"got 8/8; the tasks of an array must count from 0"),
        ("auto", {}, "SLURM_ARRAY_TASK_ID, SLURM_ARRAY_TASK_MIN, .* are not set$"),
        ("auto", {"JOB_COMPLETION_INDEX": "3"}, "JOB_COMPLETION_INDEX is set, but not how many there are: .*auto/N"),
        ("auto", slurm(7, 3, 9, 1, 3), "regular array, such as --array=0-15, got 3 tasks from 3 to 9.*auto/N"),
        ("auto", {**slurm(0, 0, 1, 1, 2), "SLURM_ARRAY_TASK_COUNT": "many"}, "SLURM_ARRAY_TASK_COUNT are not set"),
    ],
)
def test_what_the_scheduler_does_not_say_is_asked_for(shard, environment, what):
    with pytest.raises(ValueError, match=what):
        resolve_shard(shard, environment)


def test_missing_units_are_told_by_shard(tmp_path):
    assert shards_of(UNITS, UNITS[1:3], tmp_path) == []
    (tmp_path / "progress-0-of-2.json").write_text("{}")
    assert shards_of(UNITS, UNITS[1:4], tmp_path) == ["0/2", "1/2"]
    assert shards_of(UNITS, UNITS[3:4], tmp_path) == ["1/2"]
    (tmp_path / "progress-0-of-3.json").write_text("{}")
    assert shards_of(UNITS, UNITS[1:4], tmp_path) == []
