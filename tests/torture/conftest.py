"""Trials: faults injected many times over, counted by goal, and shown as one table at the end of the run.

``make test`` runs a bounded number of each; ``make torture`` (``pytest --torture tests/torture``) the full number.
"""

import os
import random
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from faulty import Box, Boxes, write_inputs

import longattn


@dataclass
class Trials:
    """What one test asks of the harness: how many trials, with which seed, and where their outcome is counted."""

    full_size: bool
    seed: int
    properties: list[tuple[str, object]] = field(default_factory=list)

    def number(self, full: int, bounded: int) -> int:
        """Trials to make: ``full`` under ``make torture``, ``bounded`` under ``make test``."""
        return full if self.full_size else bounded

    def random(self) -> random.Random:
        """Random numbers that depend on ``--torture-seed`` alone."""
        return random.Random(self.seed)

    def count(self, goal: str, fault: str, injected: int, passed: int) -> None:
        """Note the outcome under a goal's name, such as ``R1``; fails unless every trial passed."""
        self.properties.append((ROW, (goal, fault, injected, passed, self.seed)))
        assert injected > 0, f"{goal}: no trial of {fault} was made"
        assert passed == injected, (
            f"{goal}: {injected - passed} of {injected} trials of {fault} failed, seed {self.seed}"
        )


ROW = "trials"
"""Name of a test's property that holds a row of the table; properties reach the process that prints it."""


LONGEST = (
    "test_the_driver_is_killed",
    "test_every_operation_of_a_run",
    "test_workers_are_killed",
    "test_a_request_is_refused",
    "test_a_run_is_killed_at_a_request",
    "test_no_order_and_no_sharding_changes_a_byte",
    "test_a_worker_killed_at_any_moment_is_replaced",
    "test_a_disk_that_fails_anywhere_stops_the_run_and_costs_nothing",
    "test_a_worker_that_is_silent_is_given_up_and_its_late_attempt_changes_nothing",
    "test_any_number_of_workers",
)
"""What takes three minutes or more of ``make torture``, the longest first, as ``--durations`` shows it."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Function]) -> None:
    """The longest trials come first, dealt out to the processes, each of which begins with a part of the list."""
    if not config.getoption("--torture"):
        # those that wait for stores and machines leave the processor to the others
        items.sort(key=lambda item: item.path.name not in ("test_storage.py", "test_engines.py"))
        return
    places = {name: place for place, name in enumerate(LONGEST)}
    ordered = sorted(items, key=lambda item: places.get(item.originalname, len(places)))
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    items[:] = [item for first in range(processes) for item in ordered[first::processes]]


@pytest.fixture
def trials(request: pytest.FixtureRequest) -> Trials:
    """The harness for one test."""
    config = request.config
    return Trials(config.getoption("--torture"), config.getoption("--torture-seed"), request.node.user_properties)


def not_run(report: pytest.TestReport | pytest.CollectReport) -> tuple[str, ...]:
    """The row of a test, or of a file of tests, that was skipped: without it the table would look whole."""
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return ("?", f"{report.nodeid.rpartition('/')[2]}: {reason.removeprefix('Skipped: ')}", "not run", "", "")


def pytest_terminal_summary(terminalreporter) -> None:
    """Print fault, trials made and trials passed, by goal; under ``--torture`` also what was not run, and why."""
    reports = [report for name in ("passed", "failed") for report in terminalreporter.getreports(name)]
    rows = [tuple(row) for report in reports for name, row in report.user_properties if name == ROW]
    if terminalreporter.config.getoption("--torture"):
        rows += map(not_run, terminalreporter.getreports("skipped"))
    if not rows:
        return
    write: Callable[[str], None] = terminalreporter.write_line
    terminalreporter.section("trials")
    write("| goal | fault | injected | passed | seed |")
    write("|---|---|---|---|---|")
    for row in sorted(rows):
        write("| " + " | ".join(map(str, row)) + " |")


@pytest.fixture(scope="session")
def boxes() -> Iterator[Boxes]:
    """Two places to run in, each with a folder and a server of its own, for two trials at a time."""
    from longattn.testing import tiny_checkpoint

    # nothing is asked of the disk, and a disk is slow
    fast = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=fast if os.access(fast, os.W_OK) else None) as folder:
        inputs = Path(folder, "inputs")
        write_inputs(inputs)
        tiny_checkpoint(inputs / "model")
        package = Path(longattn.__file__).parents[1]
        both = Boxes(Box(Path(folder, name), inputs, package) for name in ("one", "two"))
        yield both
        for box in both.all:
            box.close()
