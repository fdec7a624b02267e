"""Which versions of packages wrote the units of a run, and whether another version may go on with them."""

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from longattn.errors import RunError
from longattn.tables import Receipt, Table

log = logging.getLogger(__name__)

Versions = Mapping[str, str]
"""By package. Where several have a part in something, all of them, separated by commas."""

CUTTING = ("longattn", "tokenizers")
SCORING = (*CUTTING, "numpy")
PREDICTING = (*SCORING, "torch", "transformers")
"""Packages that decide documents and windows, scores made without a model, and scores made with one."""


def deciding(table: Table) -> tuple[str, ...]:
    """The packages whose versions may change what a table holds.

    Python is none of them: what the package takes from it (JSON, text, sums of integers) is the same in all.
    """
    if "measurement" not in table.settings:
        return CUTTING
    return PREDICTING if table.settings["model"] else SCORING


class Writers:
    """The versions that wrote the units of some tables, gathered from receipts as they are read anyway."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[Table, set[tuple[tuple[str, str], ...]]]] = {}

    def note(self, table: Table, receipt: Receipt | None = None) -> None:
        """Take in what a unit's receipt says, or only that the table was looked at."""
        _, found = self._found.setdefault(table.folder.name, (table, set()))
        if receipt is not None:
            # of a hundred thousand receipts almost all say the same
            found.add(tuple(receipt.versions.items()))

    def of(self, table: Table) -> dict[str, str]:
        """The versions that wrote what was seen of a table: of Python, and of what decides its numbers."""
        _, found = self._found.get(table.folder.name, (table, set()))
        return merged(_of_table(table, dict(one)) for one in found)

    def tables(self) -> dict[str, dict[str, str]]:
        """The same of every table that was looked at, by its folder's name."""
        return {folder: self.of(table) for folder, (table, _) in self._found.items()}

    def several(self) -> dict[str, str]:
        """The packages of which more than one version decided what these tables hold, and the versions."""
        found = merged(self.of(table) for table, _ in self._found.values())
        return {name: of for name, of in found.items() if name != "python" and len(_releases(of)) > 1}


def merged(parts: Iterable[Versions]) -> dict[str, str]:
    """All versions of each package, in an order that does not depend on that of the parts.

    >>> merged([{"torch": "2.7.0"}, {"torch": "2.6.0, 2.7.0", "numpy": "2.0.1"}])
    {'numpy': '2.0.1', 'torch': '2.6.0, 2.7.0'}
    """
    found: dict[str, set[str]] = {}
    for part in parts:
        for name, versions in part.items():
            found.setdefault(name, set()).update(versions.split(", "))
    return {name: ", ".join(sorted(found[name])) for name in sorted(found)}


def with_present(table: Table, written: Versions, present: Versions) -> dict[str, str]:
    """The versions of a table that the present ones are going to write to."""
    return merged([written, _of_table(table, present)])


def differences(table: Table, written: Versions, present: Versions) -> dict[str, tuple[str, str]]:
    """By package, the versions that wrote a table and the present one, where they differ and decide its numbers.

    What follows a ``+`` is not compared: it names a build, such as those for CPUs and for CUDA. A package that only
    one side has installed took no part there.
    """
    both = [name for name in deciding(table) if name in written and name in present]
    return {
        name: (written[name], present[name]) for name in both if _releases(written[name]) != _releases(present[name])
    }


def check_change(place: str, different: Mapping[str, tuple[str, str]], *, allowed: bool) -> None:
    """Warn where the present versions go on with what others wrote. Raises :class:`RunError` unless that is allowed."""
    if not different:
        return
    there, here = (", ".join(f"{name} {of[side]}" for name, of in sorted(different.items())) for side in (0, 1))
    if not allowed:
        raise RunError(
            f"{place} has units written by {there}, and this is {here}: numbers of one table could differ by who wrote "
            "them; install the former, measure into another folder, or go on all the same with --allow-version-change"
        )
    log.warning("%s has units written by %s, and %s goes on with them: numbers may differ", place, there, here)


def recorded(manifest: dict[str, Any], found: Mapping[str, Versions]) -> dict[str, Any]:
    """A run's manifest with the versions that wrote these tables, by folder, and with those of all tables together."""
    tables = {
        name: {**facts, "versions": dict(found[facts["folder"]])} if facts["folder"] in found else facts
        for name, facts in manifest.get("tables", {}).items()
    }
    versions = merged(facts.get("versions", {}) for facts in tables.values())
    return {**manifest, "tables": tables, "versions": versions}


def _of_table(table: Table, versions: Versions) -> dict[str, str]:
    return {name: versions[name] for name in ("python", *deciding(table)) if name in versions}


def _releases(versions: str) -> set[str]:
    return {version.partition("+")[0] for version in versions.split(", ")}
