"""When a measurement has had enough: of windows, of bad records, or of failures that nobody's document explains."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from longattn import settings
from longattn.attempts import IN_A_ROW, systematic
from longattn.engines.progress import Progress, State
from longattn.errors import CorpusError, RunError
from longattn.quarantine import Failure
from longattn.records import WorkUnit

ENOUGH_TO_JUDGE = 1000
"""Documents that must be read before a share of bad ones stops a run; at its end any number will do."""


class Allowed(NamedTuple):
    """How many errors a run may have."""

    number: float
    """Records."""
    share: float
    """Of the documents read, from 0 to 1."""

    @classmethod
    def read(cls, text: int | str | None) -> "Allowed":
        """From ``max_errors``: a number such as 20, a share such as ``0.1%``, or None for any number.

        >>> Allowed.read("0.1%")
        Allowed(number=inf, share=0.001)
        """
        if text is None:
            return cls(float("inf"), 1.0)
        try:
            is_share = isinstance(text, str) and text.strip().endswith("%")
            share = float(str(text).strip().rstrip("%")) / 100 if is_share else 1.0
            number = float("inf") if is_share else int(text)
        except ValueError:
            number, share = -1, -1.0
        if number < 0 or not 0 <= share <= 1:
            raise ValueError(f"max_errors must be a number such as 20 or a share such as 0.1%, got {text!r}")
        return cls(number, share)

    def broken_by(self, errors: int, documents: int) -> bool:
        """Whether these are too many."""
        return errors > self.number or errors > self.share * documents


@dataclass
class Tally:
    """Counts what an attempt has done, decides when to stop, and passes it on."""

    compute: settings.Compute
    state: State
    watchers: Progress
    on_end: Callable[[WorkUnit, Mapping[str, int] | Failure], None] | None = None
    """Told of every unit that is done, with its counts, or left out as a whole."""
    counts: Counter[str] = field(default_factory=Counter)
    finished_bytes: float = field(init=False)
    failed_in_a_row: int = 0
    allowed: Allowed = field(init=False)

    def __post_init__(self) -> None:
        self.finished_bytes = self.state.bytes_done
        self.allowed = Allowed.read(self.compute.max_errors)

    @property
    def patience(self) -> int | None:
        """Failures in a row that stop the run; None where the user said how many errors may be."""
        return IN_A_ROW if self.compute.max_errors is None else None

    @property
    def enough(self) -> bool:
        """Whether the limit of windows is reached."""
        return self.compute.limit is not None and self.counts["windows"] >= self.compute.limit

    def unit_done(self, unit: WorkUnit, counts: Mapping[str, int]) -> None:
        """Add a committed unit; stop the run when too many records are bad."""
        self.counts.update(counts)
        failed = counts.get("documents_failed", 0)
        if failed and not counts.get("measured"):
            self.state.units_failed += 1
        else:
            self.failed_in_a_row = 0
            self.state.units_done += 1
        self.state.documents_failed += failed
        self._finish(unit)
        if self.on_end:
            self.on_end(unit, counts)
        self._check(ENOUGH_TO_JUDGE)

    def document_failed(self, failure: Failure) -> None:
        """Count a document that killed its process; the unit goes on without it."""
        self._failed(failure, 1)

    def unit_failed(self, unit: WorkUnit, failure: Failure) -> None:
        """Count a unit that is left out as a whole."""
        self.counts["units_failed"] += 1
        self.state.units_failed += 1
        self._finish(unit)
        if self.on_end:
            self.on_end(unit, failure)
        # three units are as telling as ten documents
        self._failed(failure, -(-IN_A_ROW // 3))

    def show(self, windows: int, tokens: int, bytes_done: float) -> None:
        """Tell the watchers."""
        self.state.windows, self.state.tokens = windows, tokens
        self.state.bytes_done = min(bytes_done, float(self.state.num_bytes))
        self.watchers.update(self.state)

    def finish(self) -> None:
        """Judge the attempt as a whole. Raises :class:`RunError` where there was work and all of it failed."""
        self._check(0)
        failed = self.counts["documents_failed"] + self.counts["units_failed"]
        if failed and not self.counts["measured"] and not self.state.units_done:
            raise RunError("nothing could be measured: `longattn status` names what failed, and why")

    def _finish(self, unit: WorkUnit) -> None:
        self.finished_bytes += unit.num_bytes
        self.state.rejects = {
            key.removeprefix("rejected."): n for key, n in self.counts.items() if key.startswith("rejected.")
        }
        self.show(self.state.windows, self.state.tokens, self.finished_bytes)

    def _failed(self, failure: Failure, weight: int) -> None:
        self.failed_in_a_row += weight
        if self.patience is not None and self.failed_in_a_row >= self.patience:
            raise systematic(failure)

    def _check(self, documents: int) -> None:
        failed = self.counts["documents_failed"] + self.counts["units_failed"]
        errors = self.state.rejected + failed
        # a share says nothing of the first few
        read = self.counts["documents"]
        judged = self.allowed if read >= documents else self.allowed._replace(share=float("inf"))
        if judged.broken_by(errors, read):
            raise CorpusError(
                f"{errors} records were rejected or failed, more than max_errors={self.compute.max_errors}; "
                f"the units done so far are kept, and their rejects are listed by reason in the ledger"
            )
