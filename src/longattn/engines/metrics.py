"""Which numbers of a measurement a machine may watch, and as what a Prometheus collector reads them."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

from longattn.engines.progress import Phase, Progress, State
from longattn.tables import write_text

METRICS = {
    "units": "Work units planned.",
    "units_done": "Work units whose tables are on disk.",
    "units_failed": "Work units in quarantine.",
    "documents_failed": "Documents put into quarantine by this attempt.",
    "num_bytes": "Bytes of all planned units.",
    "bytes_done": "Bytes of the input that are measured.",
    "windows": "Windows measured in this attempt.",
    "tokens": "Tokens measured in this attempt.",
    "rejected": "Records rejected in this attempt.",
    "deaths": "Processes that died in this attempt and were replaced.",
    "tokens_per_second": "Tokens measured per second of this attempt.",
    "seconds_left": "Estimated seconds until all units are measured.",
}
"""The numbers of a state, by the names of the progress file, and what each means."""


def numbers(state: State) -> dict[str, int | float | None]:
    """The state as numbers for machines."""
    return {name: getattr(state, name) for name in METRICS}


class Metrics(Progress):
    """A text file in the Prometheus format, for the textfile collector of a node exporter.

    It is written at most every ``seconds`` and at the end, always as a whole: a collector never reads half of one. Each
    shard has a file of its own beside the path, ``name-3-of-16.prom``: those of one machine can share a setting.
    """

    def __init__(self, path: Path, run: Path, shard: str | None, seconds: float = 10.0) -> None:
        """Each series is labelled with the run folder, and the shard where there is one."""
        of_shard = "" if shard is None else "-" + shard.replace("/", "-of-")
        self.path, self.seconds = path.with_name(f"{path.stem}{of_shard}{path.suffix}"), seconds
        labels = {"run": str(run)} | ({} if shard is None else {"shard": shard})
        self._labels = ",".join(f'{name}="{_escaped(text)}"' for name, text in labels.items())
        self._last = float("-inf")

    def update(self, state: State) -> None:
        """Write the state if the last one is old enough."""
        if time.monotonic() - self._last >= self.seconds:
            self._write(state, "running")

    def end(self, state: State, phase: Phase, message: str) -> None:
        """Write the last state."""
        self._write(state, phase)

    def _write(self, state: State, phase: Phase) -> None:
        self._last = time.monotonic()
        text = ""
        for name, value in numbers(state).items():
            if value is not None:
                text += self._metric(name, METRICS[name], {"": value})
        reasons: dict[str, int | float] = {f'reason="{_escaped(key)}"': n for key, n in sorted(state.rejects.items())}
        text += self._metric("rejected_by_reason", "Records rejected in this attempt, by reason.", reasons)
        phases: dict[str, int | float] = {f'phase="{one}"': int(one == phase) for one in get_args(Phase)}
        text += self._metric("phase", "1 for what the attempt is doing, or how it ended.", phases)
        text += self._metric("updated_seconds", "When this was written, in seconds since 1970.", {"": time.time()})
        write_text(self.path, text)

    def _metric(self, name: str, meaning: str, values: Mapping[str, int | float]) -> str:
        """One metric with its values, each told apart by one more label or by none."""
        lines = [f"# HELP longattn_{name} {meaning}", f"# TYPE longattn_{name} gauge"]
        for label, value in values.items():
            labels = ",".join(filter(None, (self._labels, label)))
            lines.append(f"longattn_{name}{{{labels}}} {value}")
        return "\n".join(lines) + "\n"


def _escaped(value: str) -> str:
    """A label's value as the text format wants it."""
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
