"""What is done about a work unit that fails: tried again, document by document, until the guilty one is named.

Whoever spreads the units calls :func:`measure_unit`. An error in it costs the document it comes from; a death costs the
process, so it is the engine that notices, and calls :func:`blame` with the document that was in hand.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from longattn.errors import RunError, is_fatal
from longattn.logs import printable
from longattn.measuring import CutUnit, Job, commit_unit, measure_windows, stack_columns
from longattn.quarantine import Entry, Failure, Place, Stage, place_of
from longattn.records import WorkUnit
from longattn.scorers import Columns, Scorer
from longattn.tables import Table

if TYPE_CHECKING:
    from longattn.models.base import Model

log = logging.getLogger(__name__)

IN_A_ROW = 10
"""So many failures without anything measured between them are not the documents' fault."""

DETAIL = 200
"""Characters kept of an error's text."""


def measure_unit(
    job: Job,
    model: "Model | None",
    cut: CutUnit,
    on_window: Callable[[int], None] | None = None,
    on_document: Callable[[Place | None], None] | None = None,
    patience: int | None = IN_A_ROW,
) -> dict[str, int]:
    """Measure and commit a unit: all at once, and document by document if that fails or failed before.

    Returns what was counted; ``documents_failed`` are in quarantine. With ``on_document`` documents go one by one from
    the beginning, and each is told before it is tried, None after the last. Raises :class:`RunError` when ``patience``
    documents fail one after another, and whatever else is no document's fault: a full disk, a model that does not fit.
    """
    scorers = [scorer for scorer in job.scorers if not job.table(scorer).holds(cut.unit)]
    entry = job.quarantine.entry(cut.unit, "measure", scorer_tables(job), cut.files)
    told = 0

    def tell(tokens: int) -> None:
        # a window that is measured again is news to nobody
        nonlocal told
        told += 1
        if on_window and told > before:
            on_window(tokens)

    before = 0
    measured, failures = None, None
    if on_document is None and not entry.failures:
        try:
            measured, failures = measure_windows(scorers, model, cut.windows, tell), []
        except BaseException as error:
            if is_fatal(error, out_of_memory=False):
                raise
            # here and not below, so that what the error holds is free again
            log.warning("unit %s: %s; its documents are tried one by one", cut.unit, _in_words(error))
            before, told = told, 0
    if failures is None:
        known = {failure.place: failure for failure in entry.failures}
        measured, failures = _one_by_one(scorers, model, cut, known, tell, on_document, patience)
    entry = replace(entry, failures=tuple(failures))
    if measured is None and failures:
        entry = replace(entry, whole="none of its documents could be measured")
    job.quarantine.put(entry)
    counts = commit_unit(job, cut, measured, {failure.place for failure in failures})
    return counts | {"documents_failed": len(failures), "measured": len(cut.windows) - sum(f.windows for f in failures)}


def scorer_tables(job: Job) -> list[Table]:
    """The tables that measuring fills."""
    return [job.table(scorer) for scorer in job.scorers]


def entry_of(job: Job, unit: WorkUnit, stage: Stage) -> Entry:
    """What is left out of a unit because of this stage."""
    tables = (job.documents, job.windows) if stage == "cut" else scorer_tables(job)
    return job.quarantine.entry(unit.id, stage, tables, [part.file for part in unit.slices])


def left_out(job: Job) -> set[str]:
    """Units that are in quarantine as a whole."""
    return {entry.unit for entry in job.quarantine.lacking(job.tables()) if entry.whole}


def blame(job: Job, unit: WorkUnit, stage: Stage, place: Place | None, how: str) -> Failure:
    """Put the document that killed its process into quarantine, or the whole unit where none was in hand."""
    entry = entry_of(job, unit, stage)
    if place is None:
        failure = Failure(unit.slices[0].file, unit.slices[0].start, "crashed", how)
        entry = replace(entry, whole=how)
        log.warning("unit %s (%s) is put into quarantine: %s", unit.id, failure.file, how)
    else:
        failure = Failure(*place, "crashed", how)
        entry = entry.with_failure(failure)
        log.warning("the document in %s at %d is put into quarantine: %s", *place, how)
    job.quarantine.put(entry)
    return failure


def _one_by_one(
    scorers: Sequence[Scorer],
    model: "Model | None",
    cut: CutUnit,
    left_out: Mapping[Place, Failure],
    on_window: Callable[[int], None],
    on_document: Callable[[Place | None], None] | None,
    patience: int | None,
) -> tuple[dict[str, Columns] | None, list[Failure]]:
    """The columns of each scorer, with NaN (0 for integers) in the windows of documents that fail or are left out.

    None for the columns if no document could be measured.
    """
    found: list[dict[str, Columns] | int] = []
    failures: list[Failure] = []
    for place, group in groupby(cut.windows, place_of):
        windows = list(group)
        failure = left_out.get(place)
        if failure is None:
            if on_document:
                on_document(place)
            try:
                found.append(measure_windows(scorers, model, windows, on_window))
                continue
            except BaseException as error:
                if is_fatal(error, out_of_memory=False):
                    error.add_note(f"in work unit {cut.unit}, {place[0]} at position {place[1]}")
                    raise
                failure = Failure(*place, "failed", _in_words(error))
                log.warning("unit %s: the document in %s at %d failed: %s", cut.unit, *place, failure.detail)
        failures.append(replace(failure, doc_id=windows[0].doc_id, windows=len(windows)))
        found.append(len(windows))
        if patience is not None and len(found) >= patience and all(isinstance(f, int) for f in found[-patience:]):
            raise systematic(failures[-1])
    if on_document:
        on_document(None)
    known = next((one for one in found if not isinstance(one, int)), None)
    if known is None:
        return None, failures
    parts = [{n: _absent(c, one) for n, c in known.items()} if isinstance(one, int) else one for one in found]
    return {scorer.name: stack_columns([part[scorer.name] for part in parts]) for scorer in scorers}, failures


def _absent(like: Columns, count: int) -> dict[str, npt.NDArray]:
    """Columns of the same types and widths without values."""
    fill = {"f": np.nan, "i": 0, "u": 0}
    return {n: np.full((count, *c.shape[1:]), fill[c.dtype.kind], dtype=c.dtype) for n, c in like.items()}


def systematic(last: Failure) -> RunError:
    """What is raised when failures follow each other without anything measured between them."""
    return RunError(
        f"document after document failed, the last in {last.file} at position {last.position}: {last.detail}; "
        "this is hardly their fault (with --max-errors N the run goes on until N have failed)"
    )


def _in_words(error: BaseException) -> str:
    return printable(f"{type(error).__name__}: {error}")[:DETAIL]
