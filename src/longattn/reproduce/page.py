"""What a reproduction found as a page of Markdown: to be read as it is, and to be put into a repository."""

import math
import os
import platform
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from longattn import __version__
from longattn.reproduce.comparing import Difference
from longattn.reproduce.steps import Done


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table, its first column to the left and numbers to the right.

    >>> print(table(["arm", "loss"], [["random", "2.97"]]))
    | arm | loss |
    |---|---:|
    | random | 2.97 |
    """
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    cells = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join(
        "|" + "|".join(line) + "|" if i == 1 else f"| {' | '.join(line)} |" for i, line in enumerate(cells)
    )


def number(value: float, digits: int = 3) -> str:
    """A number with a real minus sign; a dash where there is none.

    >>> number(-0.0314), number(float("nan"))
    ('−0.031', '–')
    """
    return "–" if math.isnan(value) else f"{value:.{digits}f}".replace("-", "−")


def difference(of: Difference, digits: int = 3) -> str:
    """A difference with its sign and, where there is more than one pair, its interval.

    >>> difference(Difference(-0.05, -0.06, -0.04, 3)), difference(Difference(0.05, math.nan, math.nan, 1))
    ('−0.050 [−0.060, −0.040]', '+0.050')
    """
    value = f"{of.value:+.{digits}f}".replace("-", "−")
    return value if math.isnan(of.low) else f"{value} [{number(of.low, digits)}, {number(of.high, digits)}]"


def made_by(command: str) -> str:
    """The command, the day, the version and the machine."""
    machine = f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}"
    return f"`{command}`, {datetime.now(UTC).date()}, longattn {__version__}, {machine}, one thread for each process."


def costs(done: Sequence[Done]) -> str:
    """CPU seconds by kind of step, the dearest first, those of all seeds and arms together."""
    kinds: dict[str, list[float]] = {}
    for one in done:
        kinds.setdefault(one.step.name.split("-")[0], []).append(one.cpu_seconds)
    dearest = sorted(kinds.items(), key=lambda item: -sum(item[1]))
    rows = [[kind, str(len(all)), f"{sum(all) / len(all):.1f}", f"{sum(all):.0f}"] for kind, all in dearest]
    rows.append(["all", str(len(done)), "", f"{sum(one.cpu_seconds for one in done):.0f}"])
    return table(["step", "times", "CPU seconds each", "CPU seconds"], rows)
