"""What a run folder says of itself: how far it is, and whether it is whole."""

import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from longattn import engines
from longattn.addresses import is_uri
from longattn.locks import holder
from longattn.quarantine import Quarantine
from longattn.tables import RunFolder, read_sealed

if TYPE_CHECKING:
    from longattn.verifying import Verification


@dataclass(frozen=True)
class Status:
    """How far a run is, from what is on disk."""

    units: int
    tables: dict[str, int]
    """Units done, by table."""
    ledger: dict[str, int]
    attempts: list[dict[str, Any]]
    """What attempts last said, one entry per shard (see :mod:`longattn.engines.progress`), and ``silent``, the seconds
    since then."""
    quarantine: list[dict[str, Any]]
    """What is left out of work units (see :mod:`longattn.quarantine`)."""
    owner: str | None
    """Who holds the folder's lock."""
    selected: bool


def status(output: str | Path) -> Status:
    """Look at a run folder without disturbing whoever works in it. Raises ``FileNotFoundError`` if it is none."""
    run = RunFolder.at(output)
    if not (run.root / "plan.parquet").exists():
        raise FileNotFoundError(f"{output} is no run folder: it has no plan.parquet")
    units = run.plan()
    tables = {}
    run.fetch(*(run.root / name for name in run.listing if PurePath(name).match("tables/*/settings.json")))
    for folder in sorted((run.root / "tables").glob("*-*")):
        settings_file = folder / "settings.json"
        if settings_file.exists():
            table = run.table(folder.name.rsplit("-", 1)[0], read_sealed(settings_file))
            tables[folder.name] = sum(table.holds(unit.id) for unit in units)
    now = time.time()
    attempts = [{**said, "silent": max(0.0, now - said["updated"])} for said in engines.read_progress(run.root)]
    owner = holder(run.root / ".lock")
    return Status(
        len(units),
        tables,
        run.manifest().get("ledger", {}),
        attempts,
        [asdict(entry) for entry in Quarantine(run).entries()],
        None if owner is None else str(owner),
        run.holds("selection.parquet"),
    )


def verify(output: str | Path) -> "Verification":
    """Recompute hashes, ledger and manifest of a run, finished or stopped; changes nothing.

    All files of a run in a store are fetched for it, into a temporary folder. Raises ``FileNotFoundError`` if it is no
    run.
    """
    from longattn.stores import downloaded
    from longattn.verifying import verify

    with downloaded(str(output)) if is_uri(str(output)) else nullcontext(Path(output)) as root:
        return verify(root)
