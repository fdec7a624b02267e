"""What the command line shows: lines and tables without what could act on a terminal, JSON, and how far work is."""

import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import orjson

from longattn.logs import style
from longattn.settings import plain

if TYPE_CHECKING:
    from longattn.engines import Progress


def say(text: str) -> None:
    """A line of the result, on standard output."""
    sys.stdout.write(shown(text) + "\n")


def complain(text: str) -> None:
    """A line about the work, on standard error; a log line where those are asked for as JSON."""
    if style().format == "json":
        logging.getLogger("longattn").error("%s", text)
    else:
        sys.stderr.write(shown(f"longattn: {text}") + "\n")


def counted(number: int, noun: str) -> str:
    """A number of things whose plural ends in s.

    >>> counted(1, "work unit"), counted(2000, "work unit")
    ('1 work unit', '2,000 work units')
    """
    return f"{number:,} {noun}{'s' if number != 1 else ''}"


def say_json(value: Any) -> None:
    """A result for programs: numbers that are not finite become null."""
    say(orjson.dumps(plain(value), option=orjson.OPT_INDENT_2).decode())


def say_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table, as wide as a terminal, or as wide as it needs to be in a file."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # what stands in brackets would be taken for colours and links
    table = Table(title=Text(shown(title)), title_justify="left")
    for i, name in enumerate(columns):
        table.add_column(Text(shown(name)), justify="left" if i == 0 else "right")
    for row in rows:
        table.add_row(*(Text(shown(cell)) for cell in row))
    # a file has no width: a table that is folded there could not be searched
    Console(file=sys.stdout, width=None if sys.stdout.isatty() else 60 * len(columns)).print(table)


def shown(text: str) -> str:
    """The text without what could act on a terminal: names of files and sources come from the corpus."""
    if text.isprintable():
        return text
    from longattn.report.text import visible

    return visible(text)


@contextmanager
def progress_shown() -> "Iterator[Progress]":
    """A bar on a terminal, a line every ten seconds elsewhere."""
    from longattn.engines.showing import Bar, Lines

    if sys.stderr.isatty():
        with Bar() as bar:
            yield bar
    else:
        yield Lines()


@contextmanager
def steps(doing: str, total: int) -> "Iterator[Callable[[int], None]]":
    """A function to call with what was done of ``total``: a bar on a terminal, a line every ten seconds elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn(doing), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    last, done = time.time(), 0
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(doing, total=total)

        def advance(amount: int) -> None:
            nonlocal last, done
            done += amount
            bar.advance(task, amount)
            if not console.is_terminal and time.time() - last >= 10:
                last = time.time()
                complain(f"{doing}: {100 * done / total:.0f} %")

        yield advance


@contextmanager
def share_shown(doing: str) -> "Iterator[Callable[[int, int], None]]":
    """A function to call with what is done and all that there is to do: shown as :func:`steps` shows it."""
    shown, most = 0, 1_000_000

    with steps(doing, most) as advance:

        def tell(done: int, total: int) -> None:
            nonlocal shown
            if (now := most * done // total) > shown:
                advance(now - shown)
                shown = now

        yield tell
