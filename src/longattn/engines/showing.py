"""Progress for a person: a bar on a terminal, a line now and then in a log."""

import logging
import time

from rich import progress as rich

from longattn.engines.metrics import numbers
from longattn.engines.progress import Progress, State

log = logging.getLogger(__name__)


class Bar(Progress):
    """A bar over the bytes of the corpus, with windows, tokens per second and the time left."""

    def __init__(self) -> None:
        """Nothing is drawn before the bar is entered."""
        columns = (
            rich.TextColumn("measuring"),
            rich.BarColumn(),
            rich.TaskProgressColumn(),
            rich.TextColumn("{task.fields[facts]}"),
        )
        self._bar = rich.Progress(*columns, rich.TimeRemainingColumn(), transient=True)

    def __enter__(self) -> "Bar":
        """Draw the bar."""
        self._bar.start()
        self._task = self._bar.add_task("measuring", total=None, facts="")
        return self

    def __exit__(self, *error: object) -> None:
        """Take the bar away."""
        self._bar.stop()

    def update(self, state: State) -> None:
        """Show the state."""
        self._bar.update(self._task, total=state.num_bytes, completed=state.bytes_done, facts=describe(state))


class Lines(Progress):
    """A log line at most every ``seconds``."""

    def __init__(self, seconds: float = 10.0) -> None:
        """The first line comes after ``seconds``."""
        self.seconds = seconds
        self._last = time.monotonic()

    def update(self, state: State) -> None:
        """Log the state if the last line is old enough."""
        if time.monotonic() - self._last >= self.seconds:
            self._last = time.monotonic()
            left = "" if state.seconds_left is None else f", about {state.seconds_left:.0f} s left"
            share = 100 * state.bytes_done / max(1, state.num_bytes)
            log.info("%.0f %%: %s%s", share, describe(state), left, extra={"facts": numbers(state)})


def describe(state: State) -> str:
    """The state in a few words."""
    rejected = f", {state.rejected} rejected" if state.rejected else ""
    return (
        f"{state.units_done}/{state.units} units, {state.windows} windows, "
        f"{state.tokens_per_second:,.0f} tokens/s{rejected}"
    )
