"""Steps: each once, in order, whole or not at all, in processes of one thread."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from longattn.errors import DamageError, RunError
from longattn.reproduce.steps import RECEIPT, Step, Steps


@dataclass(frozen=True)
class Number:
    value: int


def count(folder: Path, inputs: Mapping[str, Path], number: Number) -> Mapping[str, Any]:
    """Notes that it was called, and adds up what it is given."""
    with (folder.parents[1] / "calls").open("a") as file:
        file.write(f"{number.value}\n")
    total = number.value + sum(int((of / "total").read_text()) for of in inputs.values())
    (folder / "total").write_text(str(total))
    return {"total": total, "process": os.getpid()}


def threads(folder: Path, inputs: Mapping[str, Path], number: Number) -> Mapping[str, Any]:
    import torch

    return {"threads": torch.get_num_threads()}


def fail(folder: Path, inputs: Mapping[str, Path], number: Number) -> Mapping[str, Any]:
    raise ValueError(f"{number.value} is too large; 1 would work")


def die(folder: Path, inputs: Mapping[str, Path], number: Number) -> Mapping[str, Any]:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def sleep(folder: Path, inputs: Mapping[str, Path], number: Number) -> Mapping[str, Any]:
    (folder / "begun").write_text(str(os.getpid()))
    time.sleep(number.value)
    return {}


def meet(folder: Path, inputs: Mapping[str, Path], number: Number) -> Mapping[str, Any]:
    """Ends once as many of these as the number says are under way at the same time."""
    (folder.parent / f"{folder.name}.here").touch()
    # a process takes seconds to begin, more on a busy machine
    for _ in range(1200):
        if len(list(folder.parent.glob("*.here"))) == number.value:
            return {}
        time.sleep(0.05)
    raise TimeoutError("nobody came")


def chain(first=1):
    one = Step("one", count, Number(first))
    two = Step("two", count, Number(10), {"of": one})
    return one, two, Step("three", count, Number(100), {"one": one, "two": two})


def calls(root):
    return (root / "calls").read_text().split()


def test_steps_are_done_once_after_what_they_build_on_and_known_afterwards(tmp_path):
    said = []
    with Steps(tmp_path, 1, said.append) as doing:
        (three,) = doing.do(chain()[2])
    assert three.facts["total"] == 112
    assert three.facts["process"] != os.getpid()
    assert three.cpu_seconds > 0
    assert [line.split(":")[0] for line in said] == ["one", "two", "three"]
    with Steps(tmp_path, 1) as doing:
        again = doing.do(*chain())
    assert [done.facts["total"] for done in again] == [1, 11, 112]
    assert calls(tmp_path) == ["1", "10", "100"]


def test_what_stands_behind_known_steps_does_not_wait_for_one_that_is_under_way(tmp_path):
    with Steps(tmp_path, 1) as doing:
        doing.do(*chain())
    three = chain()[2]
    with Steps(tmp_path, 2) as doing:
        doing.do(Step("early", meet, Number(2)), Step("late", meet, Number(2), {"of": three}))


def test_a_process_has_one_thread(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    with Steps(tmp_path, 1) as doing:
        (done,) = doing.do(Step("threads", threads, Number(1)))
    assert done.facts["threads"] == 1


def test_another_setting_makes_other_steps_of_all_that_build_on_it(tmp_path):
    with Steps(tmp_path, 1) as doing:
        doing.do(chain()[1])
        doing.do(chain(first=2)[1])
    assert calls(tmp_path) == ["1", "10", "2", "10"]


def test_a_file_that_is_not_the_one_that_was_made_is_damage(tmp_path):
    one, *_ = chain()
    with Steps(tmp_path, 1) as doing:
        doing.do(one)
        (doing.folder(one) / "total").write_text("7")
    with Steps(tmp_path, 1) as doing, pytest.raises(DamageError, match="total"):
        doing.do(one)


def test_what_a_step_raises_is_raised_and_a_killed_process_is_named(tmp_path):
    with Steps(tmp_path, 1) as doing, pytest.raises(ValueError, match="3 is too large; 1 would work"):
        doing.do(Step("failing", fail, Number(3)))
    with pytest.raises(RunError, match="while it did dying"), Steps(tmp_path, 1) as doing:
        doing.do(Step("dying", die, Number(1)))
    assert not list((tmp_path / "steps").glob(f"*/{RECEIPT}"))


def test_a_folder_is_one_processs(tmp_path):
    with Steps(tmp_path, 1), pytest.raises(RunError, match="is in use by"), Steps(tmp_path, 1):
        pass


SLEEPER = """
from pathlib import Path
from test_steps import Number, chain, sleep
from longattn.reproduce.steps import Step, Steps

if __name__ == "__main__":
    with Steps(Path({root!r}), 1) as doing:
        doing.do(chain()[0])
        doing.do(Step("sleeping", sleep, Number(60)))
"""


def test_after_kill_9_no_process_is_left_and_what_was_done_stays_done(tmp_path):
    script = tmp_path / "sleeper.py"
    script.write_text(SLEEPER.format(root=str(tmp_path / "root")))
    places = [str(Path(__file__).parent), *sys.path]
    process = subprocess.Popen([sys.executable, str(script)], env={**os.environ, "PYTHONPATH": os.pathsep.join(places)})
    until = time.monotonic() + 60
    while not (begun := list(tmp_path.glob("root/steps/sleeping-*/begun"))) or not begun[0].read_text():
        assert time.monotonic() < until
        assert process.poll() is None
        time.sleep(0.05)
    worker = int(begun[0].read_text())
    process.kill()
    process.wait()
    until = time.monotonic() + 20
    while Path(f"/proc/{worker}").exists() and "Z" not in Path(f"/proc/{worker}/stat").read_text().split()[2]:
        assert time.monotonic() < until
        time.sleep(0.05)
    with Steps(tmp_path / "root", 1) as doing:
        doing.do(chain()[1])
    assert calls(tmp_path / "root") == ["1", "10"]
