"""What an engine tells whoever watches: the same facts for a terminal, a log and ``longattn status``."""

import json
import os
import socket
import time
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field
from pathlib import Path

from longattn.stores import publish


@dataclass
class State:
    """How far a measurement is."""

    units: int
    """Work units planned (of this shard)."""
    units_done: int
    """Units whose tables are on disk, those of earlier attempts included."""
    num_bytes: int
    """Bytes of all planned units."""
    bytes_done: float
    """Bytes of the units done, and the measured part of those in hand."""
    bytes_before: float = 0.0
    """Bytes that an earlier attempt had done already."""
    windows: int = 0
    """Windows measured in this attempt."""
    tokens: int = 0
    """Tokens of those windows."""
    rejected: int = 0
    """Records rejected in this attempt."""
    began: float = field(default_factory=time.time)

    @property
    def tokens_per_second(self) -> float:
        """Measured tokens over this attempt's wall time."""
        return self.tokens / max(1e-9, time.time() - self.began)

    @property
    def seconds_left(self) -> float | None:
        """Extrapolated from the bytes of this attempt; None before anything is measured."""
        done = self.bytes_done - self.bytes_before
        return (self.num_bytes - self.bytes_done) * (time.time() - self.began) / done if done > 0 else None


class Progress(ABC):
    """Something that wants to be told; called several times a second."""

    @abstractmethod
    def update(self, state: State) -> None:
        """Show how far the work is."""


class Quiet(Progress):
    """Shows nothing."""

    def update(self, state: State) -> None:
        """Do nothing."""


PUBLISHED = 30.0
"""Seconds between two versions of a status file in an object store, where each is a request."""


class StatusFile:
    """Keeps the state where another process can read it, at most every two seconds."""

    def __init__(self, path: Path) -> None:
        """``path`` is replaced as a whole each time; it is no record, so it is not synced to disk."""
        self.path = path
        self._last = 0.0
        self._last_published = 0.0

    def update(self, state: State, *, finished: bool = False) -> None:
        """Write the state if the last one is old enough."""
        now = time.time()
        if now - self._last < 2 and not finished:
            return
        self._last = now
        facts = {**asdict(state), "pid": os.getpid(), "host": socket.gethostname(), "updated": now}
        facts |= {"tokens_per_second": state.tokens_per_second, "seconds_left": state.seconds_left}
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps({**facts, "finished": finished}))
        temporary.replace(self.path)
        if finished or now - self._last_published >= PUBLISHED:
            self._last_published = now
            publish(self.path, self.path)
