"""Recompute what a run folder says of itself: hashes, seals, ledger, and what was made from what."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from longattn.errors import DamageError
from longattn.ledger import Books, LedgerError, balance
from longattn.records import WorkUnit
from longattn.tables import RunFolder, Table, file_sha256, read_sealed

RESULTS = {
    "rejects.jsonl": "measure",
    "selection.parquet": "select",
    "export/README.md": "export",
    "export/export.json": "export",
    "report.html": "report",
}
"""Files that the manifest lists, and the verb that writes each; those of ``pilots`` are written by ``measure``."""

UNCHECKED = (".lock", "progress", ".progress", "validity/", "inspect/")
"""How names begin of files that only say who works and how far, or that no selection is made from."""

MEASURE = "delete it and give the measuring command again"


@dataclass(frozen=True)
class Finding:
    """A file that is not as it was written, or tables that do not add up."""

    file: str
    """From the run folder."""
    problem: str
    remedy: str


@dataclass
class Verification:
    """What was compared, and what does not fit."""

    files: int = 0
    """Files that are as they were written."""
    num_bytes: int = 0
    """Of these files."""
    damaged: list[Finding] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)
    """What a finished run has and this one lacks, one sentence each; the command named completes it."""
    strangers: list[str] = field(default_factory=list)
    """Files that no part of the run speaks of: leftovers of stopped processes, or somebody's own."""


def verify(root: Path) -> Verification:
    """Compare everything in a run folder with what it was written as; changes nothing.

    A stopped run is not damaged: what it lacks is named apart. Raises ``FileNotFoundError`` without a plan.
    """
    if not (root / "plan.parquet").exists():
        raise FileNotFoundError(f"{root} is no run folder: it has no plan.parquet")
    check = _Check(RunFolder(root))
    tables = check.tables()
    check.quarantine()
    # without a manifest nothing says what the rest should be
    if check.manifest:
        check.ledger(tables)
        check.results()
        check.strangers()
    return check.found


class _Check:
    """One verification: what is found, and the names of the files that belong to the run."""

    def __init__(self, run: RunFolder) -> None:
        self.run, self.found, self.known = run, Verification(), {"manifest.json"}
        remedy = "delete it and give the measuring command again: the input is listed anew"
        self.units: list[WorkUnit] = self._whole("plan.parquet", run.plan, remedy) or []
        self.manifest: Mapping[str, Any] = {}
        if (run.root / "manifest.json").exists():
            remedy = f"{MEASURE}, then select, export and report"
            self.manifest = self._whole("manifest.json", run.manifest, remedy) or {}
        else:
            self.found.unfinished.append("nothing was measured to the end: there is no manifest.json")
        timings = run.root / "timings.json"
        if timings.exists():
            self._whole("timings.json", lambda: read_sealed(timings), "delete it: no result depends on it")

    def _whole(self, name: str, look: Callable[[], Any], remedy: str) -> Any:
        """What ``look`` returns, or None after noting that the file is damaged."""
        self.known.add(name)
        try:
            content = look()
        except DamageError as error:
            file = error.path.relative_to(self.run.root)
            self.found.damaged.append(Finding(str(file), error.problem, remedy))
            return None
        self.found.files += 1
        self.found.num_bytes += (self.run.root / name).stat().st_size
        return content

    def tables(self) -> dict[str, Table]:
        """The tables that the manifest lists, by name; all tables on disk are checked."""
        listed = {facts["folder"]: facts["settings"] for facts in self.manifest.get("tables", {}).values()}
        current: dict[str, Table] = {}
        for folder in sorted((self.run.root / "tables").glob("*-*")):
            name = folder.name.rpartition("-")[0]
            if not any(folder.glob("unit-*.json")) and not (folder / "settings.json").exists():
                # made a moment before whoever made it was stopped
                continue
            settings = self._settings(folder, name) or listed.get(folder.name)
            if settings is None:
                continue
            table = self.run.table(name, settings)
            there = sum(self._unit(table, unit.id) for unit in self.units)
            if folder.name in listed:
                current[name] = table
                if missing := len(self.units) - there:
                    about = f"{missing} of {len(self.units)} work units are not in {folder.name} yet"
                    self.found.unfinished.append(f"{about}: give the measuring command again")
        return current

    def _settings(self, folder: Path, name: str) -> dict[str, Any] | None:
        path = folder / "settings.json"

        def look() -> dict[str, Any]:
            if not path.exists():
                raise DamageError(path, "it is gone")
            settings = read_sealed(path)
            if self.run.table(name, settings).folder != folder:
                raise DamageError(path, "these are not the settings that the folder is named after")
            return settings

        return self._whole(str(path.relative_to(self.run.root)), look, f"{MEASURE}: it is written anew")

    def _unit(self, table: Table, unit: str) -> bool:
        """Whether the unit is in the table; a damaged one is, so that it is not called missing as well."""
        receipt, file = table.receipt_file(unit), table.file(unit)
        if not receipt.exists():
            # a file without a receipt is what a stop leaves between the two, and is written over
            self.known.add(str(file.relative_to(self.run.root)))
            return False
        remedy = f"{MEASURE}: unit {unit} is measured anew"
        names = [str(path.relative_to(self.run.root)) for path in (receipt, file)]
        self.known.update(names)
        if self._whole(names[0], lambda: table.receipt(unit), remedy):
            self._whole(names[1], lambda: table.check(unit), remedy)
        return True

    def quarantine(self) -> None:
        """What says which documents and units were left out; it may list many, and the ledger counts on it."""
        for path in sorted((self.run.root / "quarantine").glob("*-*.json")):
            self._whole(str(path.relative_to(self.run.root)), partial(read_sealed, path), MEASURE)

    def ledger(self, tables: Mapping[str, Table]) -> None:
        """Add up the tables and compare with the ledger of the manifest."""
        stated: Mapping[str, int] = self.manifest.get("ledger", {})
        if self.found.damaged or not {"documents", "windows"} <= tables.keys():
            return
        if not stated:
            about = "what shards measured is not added up yet, or a run was stopped"
            self.found.unfinished.append(f"{about}: run `longattn select`, or give the measuring command again")
            return
        measured = [key.removeprefix("scored.") for key in stated if key.startswith("scored.")]
        scorers = {name: tables[name] for name in measured if name in tables}
        try:
            counted = balance(Books(tables["documents"], tables["windows"], scorers, self.units))
        except LedgerError as error:
            remedy = "measure into a new folder: this one must not be used"
            self.found.damaged.append(Finding("tables", str(error), remedy))
            return
        if {key: n for key, n in counted.items() if n} != {key: n for key, n in stated.items() if n}:
            self.found.unfinished.append(
                "manifest.json has a ledger of other tables than there are: give the measuring command again"
            )

    def results(self) -> None:
        """The files that the manifest lists, and those that the export lists."""
        listed: Mapping[str, Mapping[str, str]] = self.manifest.get("files", {})
        for name in [*RESULTS, *sorted(listed.keys() - RESULTS.keys())]:
            again = f"`longattn {RESULTS.get(name, 'measure')}`"
            if (self.run.root / name).exists():
                self._result(name, listed, again)
            elif name in listed:
                self.found.damaged.append(Finding(name, "it is gone", f"run {again} again"))
            else:
                self.found.unfinished.append(f"there is no {name} yet: run {again}")

    def _result(self, name: str, listed: Mapping[str, Mapping[str, str]], again: str) -> None:
        path, entry = self.run.root / name, listed.get(name)
        self.known.add(name)
        if entry is None or (name in self.manifest["replacing"] and file_sha256(path) != entry["sha256"]):
            self.found.unfinished.append(f"whoever wrote {name} was stopped: run {again} again")
            return
        remedy = f"delete it and run {again} again"
        if self._whole(name, lambda: self.run.listed(name, again), remedy) is None:
            return
        if "of" in entry and entry["of"] != listed["selection.parquet"]["sha256"]:
            self.found.unfinished.append(f"{name} was made from an earlier selection: run {again} again")
        if name == "export/export.json":
            summary = json.loads(path.read_bytes())
            for part in (*summary["files"], *summary.get("figures", ())):
                data = f"export/{part['name']}"
                look = partial(_check_sha256, self.run.root / data, part["sha256"])
                self._whole(data, look, f"run {again} again")
        if name == "selection.parquet":
            rows, measured = pq.read_metadata(path).num_rows, self.manifest.get("ledger", {}).get("windows", 0)
            if rows != measured:
                about = f"{name} lists {rows} windows, and {measured} are measured"
                self.found.unfinished.append(f"{about}: run {again} again")

    def strangers(self) -> None:
        """Files that nothing above has named."""
        for path in sorted(self.run.root.rglob("*")):
            name = str(path.relative_to(self.run.root))
            if not (path.is_dir() or name in self.known or name.startswith(UNCHECKED)):
                self.found.strangers.append(name)


def _check_sha256(path: Path, sha256: str) -> bool:
    if not path.exists():
        raise DamageError(path, "it is gone")
    if file_sha256(path) != sha256:
        raise DamageError(path, "its content does not fit its SHA-256 in export.json")
    return True
