"""What an engine tells whoever watches: the same facts for a terminal, a log, a metrics file and ``longattn status``.

Every attempt keeps one file in the run folder, ``progress.json``, or ``progress-<name>.json`` where several work at
once (``progress-3-of-16.json`` for a shard). It is one JSON object, replaced as a whole every two seconds:

=================== ===================================================================================================
``format``          1; raised when a key changes its meaning. Keys may be added: readers ignore what they do not know
``engine``          ``embedded``, also for shards and the tasks of datatrove; ``ray``
``shard``           ``K/N`` or null
``host``, ``pid``   who works
``phase``           ``running``; ``done``; ``stopped`` by a signal or a limit; ``failed``
``message``         why it stopped or failed; empty otherwise
``began``           seconds since 1970 at which the attempt began
``updated``         seconds since 1970 at which this was written
``elapsed``         seconds that the attempt has worked, whatever the clock did meanwhile
``units``           work units planned, of this shard
``units_done``      units whose tables are on disk, those of earlier attempts included
``units_failed``    units that are in quarantine as a whole, those of earlier attempts included
``documents_failed`` documents put into quarantine by this attempt
``num_bytes``       bytes of all planned units
``bytes_done``      bytes of the units done, and the measured part of those in hand
``bytes_before``    of these, bytes that an earlier attempt had done
``windows``         windows measured in this attempt
``tokens``          tokens of those windows
``rejects``         records rejected in this attempt, by reason
``deaths``          processes that died in this attempt and were replaced
``workers``         of ``ray``, its workers: ``host`` and ``pid`` (null until it has begun), ``units`` that it has in
                    hand, ``windows`` and ``tokens`` that it has measured
``tokens_per_second``, ``seconds_left``
                    rates of this attempt; ``seconds_left`` is null before anything is measured
=================== ===================================================================================================
"""

import json
import os
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from longattn.stores import publish

FORMAT = 1

Phase = Literal["running", "done", "stopped", "failed"]


@dataclass
class State:
    """How far a measurement is; the fields are those of the progress file."""

    units: int
    units_done: int
    num_bytes: int
    bytes_done: float
    bytes_before: float = 0.0
    windows: int = 0
    tokens: int = 0
    rejects: dict[str, int] = field(default_factory=dict)
    units_failed: int = 0
    documents_failed: int = 0
    deaths: int = 0
    workers: list[dict[str, Any]] = field(default_factory=list)
    began: float = field(default_factory=time.time)
    started: float = field(default_factory=time.monotonic, repr=False)
    """The same moment on a clock that nobody sets."""

    @property
    def rejected(self) -> int:
        """Records rejected in this attempt."""
        return sum(self.rejects.values())

    @property
    def elapsed(self) -> float:
        """Seconds that this attempt has worked."""
        return time.monotonic() - self.started

    @property
    def tokens_per_second(self) -> float:
        """Measured tokens over this attempt's time."""
        return self.tokens / max(1e-9, self.elapsed)

    @property
    def seconds_left(self) -> float | None:
        """Extrapolated from the bytes of this attempt; None before anything is measured."""
        done = self.bytes_done - self.bytes_before
        return (self.num_bytes - self.bytes_done) * self.elapsed / done if done > 0 else None


class Progress(ABC):
    """Something that wants to be told; called several times a second."""

    @abstractmethod
    def update(self, state: State) -> None:
        """Show how far the work is."""

    def end(self, state: State, phase: Phase, message: str) -> None:
        """Show how the attempt ended."""
        self.update(state)


class Quiet(Progress):
    """Shows nothing."""

    def update(self, state: State) -> None:
        """Do nothing."""


PUBLISHED = 30.0
"""Seconds between two versions of a status file in an object store, where each is a request."""


class StatusFile(Progress):
    """Keeps the state where another process can read it, at most every two seconds."""

    def __init__(self, folder: Path, engine: str, shard: str | None = None, name: str | None = None) -> None:
        """``name`` tells attempts apart that work in one folder at once; a shard is its own name."""
        name = shard.replace("/", "-of-") if shard and name is None else name
        self.path = folder / ("progress.json" if name is None else f"progress-{name}.json")
        self._facts = {"format": FORMAT, "engine": engine, "shard": shard}
        self._facts |= {"host": socket.gethostname(), "pid": os.getpid()}
        self._last = float("-inf")
        self._last_published = float("-inf")

    def update(self, state: State) -> None:
        """Write the state if the last one is old enough."""
        if time.monotonic() - self._last >= 2:
            self._write(state, "running", "")

    def end(self, state: State, phase: Phase, message: str) -> None:
        """Write the last state."""
        self._write(state, phase, message)

    def _write(self, state: State, phase: Phase, message: str) -> None:
        self._last = time.monotonic()
        told = asdict(state)
        del told["started"]
        told |= {name: getattr(state, name) for name in ("elapsed", "tokens_per_second", "seconds_left")}
        facts = {**self._facts, **told, "phase": phase, "message": message, "updated": time.time()}
        # no record of anything, so it is replaced whole but not synced to disk; its other name is hidden, or whoever
        # looks at a working copy meanwhile would take it for a file that the store has no more
        temporary = self.path.with_name(f".{self.path.name}.tmp")
        try:
            temporary.write_text(json.dumps(facts))
            if phase != "running" or self._last - self._last_published >= PUBLISHED:
                self._last_published = self._last
                publish(temporary, self.path)
            temporary.replace(self.path)
        except OSError as error:
            # a full disk names no file
            error.filename = error.filename or str(self.path)
            raise


class Several(Progress):
    """Tells several watchers."""

    def __init__(self, watchers: Sequence[Progress]) -> None:
        """In this order."""
        self.watchers = watchers

    def update(self, state: State) -> None:
        """Tell them all."""
        for watcher in self.watchers:
            watcher.update(state)

    def end(self, state: State, phase: Phase, message: str) -> None:
        """Tell them all."""
        for watcher in self.watchers:
            watcher.end(state, phase, message)


def read_progress(folder: Path) -> list[dict[str, Any]]:
    """What the attempts in a run folder last said, one entry each; files of another format are left out."""
    found = []
    for path in sorted(folder.glob("progress*.json")):
        try:
            facts = json.loads(path.read_bytes())
        except (OSError, ValueError):
            # replaced by a file system without atomic renames at this moment
            continue
        if facts.get("format") == FORMAT:
            found.append(facts)
    return found
