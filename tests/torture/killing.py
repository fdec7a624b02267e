"""Work in processes of its own that are killed at any moment; the same work, given again, must come to the same."""

import itertools
import multiprocessing
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any


def with_imported(*modules: str) -> ForkServerContext:
    """Processes that begin with everything imported, so that most of their time is work."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(modules))
    return context


def killed_and_given_again(
    processes: ForkServerContext,
    work: Callable[[Path], None],
    root: Path,
    trials: Any,
    what: str,
    results: Callable[[Path], Any],
    is_sound: Callable[[Path, Any], bool] = lambda folder, right: True,
) -> Any:
    """Count kills of ``work`` on new folders below ``root``; returns what an undisturbed one comes to.

    ``results`` says what a folder holds; ``is_sound`` judges a folder in which the work was killed, by what is right.
    """

    def attempt(folder: Path, seconds: float | None = None) -> int | None:
        """One process, killed after a time; how it ended."""
        process = processes.Process(target=work, args=(folder,))
        process.start()
        process.join(seconds)
        if process.is_alive():
            process.kill()
            process.join()
        return process.exitcode

    # the first process waits until everything is imported
    assert attempt(root / "first") == 0
    began = time.monotonic()
    assert attempt(root / "whole") == 0
    seconds = time.monotonic() - began
    right = results(root / "whole")
    assert results(root / "first") == right
    random, injected, killed, passed = trials.random(), trials.number(20, 2), 0, 0
    for folder in (root / f"killed-{i}" for i in itertools.count()):
        # one that ended before it could be killed is no trial
        if attempt(folder, random.uniform(0.1, 1.0) * seconds) != -signal.SIGKILL:
            continue
        killed += 1
        sound = is_sound(folder, right)
        ended = attempt(folder)
        found = results(folder)
        if sound and ended == 0 and found == right:
            passed += 1
        else:
            # shown where the test fails
            sys.stderr.write(
                f"{folder.name}: sound after the kill: {sound}; ended with {ended}; {found} instead of {right}\n"
            )
        if killed == injected:
            break
    trials.count("R1", f"kill -9 of {what}, at any moment", injected, passed)
    return right
