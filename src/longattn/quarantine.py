"""What is left out of a run because it failed again and again, on disk with the reason until somebody asks for it.

``quarantine/<unit>-<key>.json`` names the documents of one work unit that could not be cut or measured, or says that
the unit as a whole could not. The key stands for the tables that lack them, so that other settings, under which the
same document may do no harm, have entries of their own.
"""

import contextlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from longattn import stores
from longattn.records import Window
from longattn.settings import fingerprint
from longattn.tables import RunFolder, Table, read_sealed, sync_folder, write_sealed

Stage = Literal["cut", "measure"]

Place = tuple[str, int]
"""A document's file and position."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A document that could not be cut or measured."""

    file: str
    position: int
    reason: Literal["crashed", "failed"]
    """``crashed``: the process that worked on it died; ``failed``: an error was raised."""
    detail: str
    doc_id: str = ""
    """Empty where the document was never read to its end."""
    windows: int = 0
    """Windows that have no values because of it."""

    @property
    def place(self) -> Place:
        """What it is known by before it has an id."""
        return self.file, self.position


@dataclass(frozen=True, slots=True)
class Entry:
    """What is left out of one work unit in some tables."""

    unit: str
    stage: Stage
    tables: tuple[str, ...]
    """Folders of the tables, below ``tables``; for the stage ``cut``, documents and windows."""
    files: tuple[str, ...]
    """Input files of the unit."""
    failures: tuple[Failure, ...] = ()
    whole: str = ""
    """Why the unit as a whole is left out; empty where only the named documents are."""

    @property
    def key(self) -> str:
        """Names the stage and the tables."""
        return f"{self.stage}-{fingerprint(sorted(self.tables))}"

    def with_failure(self, failure: Failure) -> "Entry":
        """With one more document, or with a newer reason for one that is known."""
        others = tuple(one for one in self.failures if one.place != failure.place)
        return replace(self, failures=tuple(sorted((*others, failure), key=lambda one: one.place)))


@dataclass(frozen=True)
class Quarantine:
    """The entries of one run folder."""

    run: RunFolder

    @property
    def folder(self) -> Path:
        """Where they are."""
        return self.run.root / "quarantine"

    def entry(self, unit: str, stage: Stage, tables: Sequence[Table], files: Sequence[str] = ()) -> Entry:
        """What is left out of a unit in these tables; an entry without failures where that is nothing."""
        empty = Entry(unit, stage, tuple(table.folder.name for table in tables), tuple(dict.fromkeys(files)))
        path = self._path(empty)
        self.run.fetch(path)
        return _read(path) if path.exists() else empty

    def put(self, entry: Entry) -> None:
        """Write an entry; one that leaves nothing out is taken away."""
        if entry.failures or entry.whole:
            write_sealed(self._path(entry), asdict(entry))
        elif self._path(entry).exists():
            _delete(self._path(entry))

    def entries(self) -> Iterator[Entry]:
        """All of them, by unit."""
        self.run.fetch(*(self.run.root / name for name in self.run.listing if name.startswith("quarantine/")))
        for path in sorted(self.folder.glob("*-*.json")):
            yield _read(path)

    def lacking(self, tables: Sequence[Table]) -> Iterator[Entry]:
        """Entries of what these tables lack."""
        names = {table.folder.name for table in tables}
        return (entry for entry in self.entries() if names & set(entry.tables))

    def release(self, tables: Sequence[Table], units: Collection[str]) -> None:
        """Take out what these tables lack of these units, so that it is tried again.

        A unit of which documents come back gets other windows, so no table that was made of its old ones may count as
        done: receipts go first, entries last.
        """
        for entry in [entry for entry in self.lacking(tables) if entry.unit in units]:
            folders = [self.run.root / "tables" / name for name in entry.tables]
            if entry.stage == "cut":
                folders = list(_same_cut(folders[0]))
            for folder in folders:
                _delete(folder / f"unit-{entry.unit}.json")
            _delete(self._path(entry))

    def _path(self, entry: Entry) -> Path:
        return self.folder / f"{entry.unit}-{entry.key}.json"


def place_of(window: Window) -> Place:
    """The place of the document that a window was cut from."""
    return window.file, window.position


def _delete(path: Path) -> None:
    """Delete a file for good: after a power cut it must not be back while what was deleted later is gone."""
    stores.delete(path)
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
        sync_folder(path.parent)


def _read(path: Path) -> Entry:
    facts = read_sealed(path)
    failures = tuple(Failure(**one) for one in facts.pop("failures"))
    tables, files = tuple(facts.pop("tables")), tuple(facts.pop("files"))
    return Entry(tables=tables, files=files, failures=failures, **facts)


def _same_cut(documents: Path) -> Iterator[Path]:
    """Folders of all tables that were made of the same windows as this table of documents."""
    try:
        wanted = read_sealed(documents / "settings.json")
    except FileNotFoundError:
        # no unit was ever finished
        return
    for path in documents.parent.glob("*-*/settings.json"):
        found = read_sealed(path)
        if all(found.get(key) == value for key, value in wanted.items()):
            yield path.parent
