"""The tables of a run that its manifest lists, and whether they are what is asked for."""

from typing import Any

from longattn import settings
from longattn.errors import RunError
from longattn.tables import RunFolder, Table


def run_table(run: RunFolder, tables: dict[str, Any], name: str) -> Table:
    """A table that the run's manifest lists. Raises :class:`RunError` for one that it does not."""
    if name not in tables:
        raise RunError(f"{run.place} has no table {name!r}; measure it first (it has: {', '.join(tables) or 'none'})")
    return run.table(name, tables[name]["settings"])


def same_windows(table: Table, windows: Table) -> bool:
    """Whether a scorer's table is of these windows: everything that decided them is in its settings too."""
    return all(table.settings.get(key) == value for key, value in windows.settings.items())


def measured_table(run: RunFolder, tables: dict[str, Any], name: str, wanted: dict[str, Any]) -> Table:
    """The scorer's table, if it was measured with these settings."""
    table = run_table(run, tables, name)
    # a pilot is a product of measuring, nothing that is asked for
    apart = ("scorer", "pilot")
    measured = {key: value for key, value in table.settings["measurement"].items() if key not in apart}
    wanted = {key: value for key, value in settings.plain(wanted).items() if key not in apart}
    if measured != wanted:
        different = {key: (measured.get(key), wanted[key]) for key in wanted if measured.get(key) != wanted[key]}
        listed = "; ".join(f"{key} was {old}, asked {new}" for key, (old, new) in different.items())
        raise RunError(f"{name} was measured with other settings ({listed}); run measure with them first")
    return table
