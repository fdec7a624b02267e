"""What the attempts in a run folder add up to, by what each last said: one process, shards, or the workers of Ray."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

SILENT = 60.0
"""Seconds without a word after which an attempt is probably no more."""
FEW = 10
"""Attempts that are shown one by one."""


@dataclass(frozen=True)
class Together:
    """Attempts that share one plan: the shards of one division, or a single attempt."""

    attempts: Sequence[dict[str, Any]]
    """As :mod:`longattn.engines.progress` says."""
    shards: int | None
    """Into how many the units are divided; None for a single attempt."""
    now: float

    @property
    def running(self) -> list[dict[str, Any]]:
        """Attempts that work."""
        return [attempt for attempt in self.attempts if attempt["phase"] == "running" and not self._silent(attempt)]

    @property
    def silent(self) -> list[dict[str, Any]]:
        """Attempts that never said that they ended, and say nothing."""
        return [attempt for attempt in self.attempts if attempt["phase"] == "running" and self._silent(attempt)]

    @property
    def ended(self) -> list[dict[str, Any]]:
        """Attempts that said that they are done, were stopped, or failed."""
        return [attempt for attempt in self.attempts if attempt["phase"] != "running"]

    @property
    def not_begun(self) -> int:
        """Shards that nobody has begun."""
        return 0 if self.shards is None else self.shards - len(self.attempts)

    @property
    def tokens_per_second(self) -> float:
        """Of all that work."""
        return sum(attempt["tokens_per_second"] for attempt in self.running)

    @property
    def seconds_left(self) -> float | None:
        """For all that is not done, at the rate of those that work now; None where that rate is not known yet."""
        if not self.attempts:
            return None
        left = sum(attempt["num_bytes"] - attempt["bytes_done"] for attempt in self.attempts)
        left += self.not_begun * sum(attempt["num_bytes"] for attempt in self.attempts) / len(self.attempts)
        speeds = [(a["bytes_done"] - a["bytes_before"]) / max(1e-9, a["elapsed"]) for a in self.running]
        return left / sum(speeds) if sum(speeds) > 0 else None

    @property
    def rejects(self) -> Counter[str]:
        """Records rejected in these attempts, by reason."""
        total: Counter[str] = Counter()
        for attempt in self.attempts:
            total.update(attempt["rejects"])
        return total

    def sum(self, key: str) -> int:
        """A number that every attempt tells, such as ``units_failed``, over all of them."""
        return sum(attempt[key] for attempt in self.attempts)

    @property
    def worth_a_line(self) -> list[dict[str, Any]]:
        """All attempts where they are few, else those that failed or are silent."""
        if len(self.attempts) <= FEW:
            return list(self.attempts)
        return [attempt for attempt in self.attempts if attempt["phase"] == "failed" or attempt in self.silent]

    def lines(self) -> Iterator[str]:
        """What shards add up to, for a person; a single attempt says all of it by itself."""
        if self.shards is None:
            return
        parts = [f"{len(self.running)} running", f"{len(self.ended)} ended", f"{len(self.silent)} silent"]
        yield f"{self.shards} shards: {', '.join(parts)}, {self.not_begun} not begun"
        failed = f"{self.sum('units_failed')} units and {self.sum('documents_failed')} documents failed"
        yield f"{self.sum('units_done')} of {self.sum('units')} units of these are done, {failed}"
        if self.running:
            left = "" if self.seconds_left is None else f", about {self.seconds_left / 60:.0f} min left"
            yield f"{self.sum('windows'):,} windows, {self.tokens_per_second:,.0f} tokens/s{left}"
        if self.rejects:
            yield "rejected: " + ", ".join(f"{count} {reason}" for reason, count in sorted(self.rejects.items()))

    def workers(self) -> Iterator[str]:
        """A line for each worker of the attempts that run on Ray."""
        for worker in (worker for attempt in self.running for worker in attempt["workers"]):
            if worker["pid"] is None:
                yield "a worker that Ray has not started yet"
            else:
                done, hand = f"{worker['windows']:,} windows", f"{len(worker['units'])} units in hand"
                yield f"worker {worker['pid']} on {worker['host']}: {done}, {hand}"

    def _silent(self, attempt: dict[str, Any]) -> bool:
        return self.now - attempt["updated"] > SILENT


def together(attempts: Sequence[dict[str, Any]], now: float | None = None) -> Together:
    """The attempts that belong to the one that was heard of last; others are of an earlier division into shards."""
    now = time.time() if now is None else now
    if not attempts:
        return Together((), None, now)
    latest = max(attempts, key=lambda attempt: attempt["updated"])
    of = _division(latest)
    return Together([attempt for attempt in attempts if _division(attempt) == of], of, now)


def _division(attempt: dict[str, Any]) -> int | None:
    return int(attempt["shard"].partition("/")[2]) if attempt["shard"] else None
