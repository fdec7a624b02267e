"""What a disk may hold after a power cut, rebuilt from the recorded operations of a run: the run goes on from there.

The model is harsh. A file's bytes are safe once it was synced, a name once its folder was. Everything else may be
there, be gone, be zeros or be cut off, whatever the order in which it was done.
"""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from faulty import Boxes
from test_crashes import both, calm

from longattn.errors import DamageError
from longattn.tables import read_sealed

Operation = tuple[str, str, int | None, str, bytes]
State = dict[str, bytes | None]
"""Files with their content, folders with None."""

Loss = Callable[[bytes, bytes], bytes]
"""What is left of a file, from what was synced and what was written."""

LOSSES: dict[str, Loss] = {
    "dropped": lambda synced, written: synced,
    "zeroed": lambda synced, written: synced + bytes(len(written) - len(synced)),
    "cut": lambda synced, written: written[: (len(synced) + len(written)) // 2],
}


@dataclass
class Disk:
    """A folder as programs see it, and as much of it as is safe."""

    written: dict[int, bytes] = field(default_factory=dict)
    synced: dict[int, bytes] = field(default_factory=dict)
    names: dict[str, int | None] = field(default_factory=dict)
    """Files by name, folders as None."""
    safe_names: dict[str, int | None] = field(default_factory=dict)

    def do(self, operation: Operation) -> None:
        """Follow one operation."""
        kind, path, number, to, data = operation
        if kind == "create":
            assert number is not None
            self.names[path], self.written[number], self.synced[number] = number, b"", b""
        elif kind == "write":
            assert number is not None
            self.written[number] += data
        elif kind == "sync":
            assert number is not None
            self.synced[number] = self.written[number]
        elif kind == "sync folder":
            here = {name for name in {*self.names, *self.safe_names} if str(PurePosixPath(name).parent) == path}
            for name in here - self.names.keys():
                del self.safe_names[name]
            self.safe_names |= {name: self.names[name] for name in here & self.names.keys()}
        elif kind == "rename":
            for name in [name for name in self.names if name == path or name.startswith(f"{path}/")]:
                self.names[to + name.removeprefix(path)] = self.names.pop(name)
            # what is in a folder that moves was safe under its old name, and is under the new one
            for name in [name for name in self.safe_names if name.startswith(f"{path}/")]:
                self.safe_names[to + name.removeprefix(path)] = self.safe_names.pop(name)
        elif kind == "mkdir":
            self.names.setdefault(path, None)
        elif kind in ("unlink", "rmdir"):
            # removing what is not there is tried too
            self.names.pop(path, None)

    def after_a_cut(self, loss: Loss, keep: Callable[[str], bool]) -> State:
        """The folder when the power is back; ``keep`` says of names that are not safe whether they are as seen."""
        names = {
            name: self.names.get(name, -1) if keep(name) else self.safe_names.get(name, -1)
            for name in {*self.names, *self.safe_names}
        }
        state: State = {}
        for name, number in sorted(names.items()):
            inside = all(str(parent) in state for parent in PurePosixPath(name).parents if len(parent.parts) > 0)
            if number == -1 or not inside:
                continue
            state[name] = None if number is None else loss(self.synced[number], self.written[number])
        return state


def disk_after(operations: Iterable[Operation]) -> Disk:
    disk = Disk()
    for operation in operations:
        disk.do(operation)
    return disk


def recorded(boxes: Boxes) -> list[Operation]:
    """The operations of an undisturbed run that change its folder."""
    with boxes.one() as box:
        return [one for one in box.operations() if one[0] not in ("read", "close")]


def goes_on(box: Any, case: tuple[str, State]) -> str:
    """Put the folder into this state and give the same command again."""
    calm(box)
    box.clear()
    for name, content in case[1].items():
        path = box.root / name
        if content is None:
            path.mkdir()
        else:
            path.write_bytes(content)
    # what is measured twice is counted by the trials of kills: a cut may also take what was done
    (box.root / "measured").write_text("")
    ended = box.do("verify and run")
    if ended["status"] != 0:
        return f"{case[0]}: {ended}"
    different = sorted({name for name, _ in set(box.results().items()) ^ set(calm(box).items())})
    return f"{case[0]}: not as in an undisturbed run: {', '.join(different)}" if different else ""


def test_every_state_of_a_units_commit(trials, boxes):
    """All prefixes of the operations, what is not synced dropped, zeroed or cut off, with names kept and lost."""
    operations = recorded(boxes)
    tables = [place for place, one in enumerate(operations) if one[1].startswith("run/tables")]
    receipts = (p for p in tables if "/length-" in operations[p][3] and operations[p][3].endswith(".json"))
    last = next(p for p in receipts if "/unit-" in operations[p][3])
    states: dict[tuple[Any, ...], tuple[str, State]] = {}
    # from the making of the folder to the sync of the folder after the last of three receipts got its name
    for length in range(tables[0], last + 3):
        disk = disk_after(operations[:length])
        for what, loss in LOSSES.items():
            for kept in (True, False):
                state = disk.after_a_cut(loss, lambda name, kept=kept: kept)
                about = f"after {length} operations, {what}, names {'kept' if kept else 'lost'}"
                states.setdefault(tuple(state.items()), (about, state))
    cases = list(states.values())
    cases = trials.random().sample(cases, trials.number(len(cases), 4))
    said = both(boxes, goes_on, cases)
    trials.count("R3", "power cut during the commit of a unit (distinct states)", len(said), said.count(""))


def any_cut(operations: list[Operation], chosen: random.Random) -> tuple[str, State]:
    """A state of the folder at a random moment, each file and each name with a fate of its own."""
    length = chosen.randrange(1, len(operations) + 1)
    losses = [*LOSSES.values(), lambda synced, written: written]

    def loss(synced: bytes, written: bytes) -> bytes:
        return chosen.choice(losses)(synced, written)

    state = disk_after(operations[:length]).after_a_cut(loss, lambda name: chosen.random() < 0.5)
    return f"after {length} operations", state


def torn_write(operations: list[Operation], chosen: random.Random) -> tuple[str, State]:
    """A state in which one write got no further than a random byte, and its name is there."""
    place = chosen.choice([place for place, one in enumerate(operations) if one[0] == "write" and len(one[4]) > 1])
    kind, path, number, to, data = operations[place]
    size = chosen.randrange(1, len(data))
    disk = disk_after([*operations[:place], (kind, path, number, to, data[:size])])
    return f"{size} bytes of {path}", disk.after_a_cut(lambda synced, written: written, lambda name: True)


@pytest.mark.parametrize(
    ("what", "cut", "full", "bounded"),
    [("power cut at a random moment", any_cut, 200, 4), ("torn write", torn_write, 100, 3)],
    ids=["power cut", "torn write"],
)
def test_random_states_of_a_run(trials, boxes, what, cut, full, bounded):
    operations, chosen = recorded(boxes), trials.random()
    cases = [cut(operations, chosen) for _ in range(trials.number(full, bounded))]
    said = both(boxes, goes_on, cases)
    trials.count("R3", what, len(said), said.count(""))


def test_the_model_finds_what_is_not_synced(boxes):
    """Without the syncs of files, names of files without content are left, which no reader takes for whole."""
    operations = [one for one in recorded(boxes) if one[0] != "sync"]
    state = disk_after(operations).after_a_cut(LOSSES["dropped"], lambda name: True)
    assert state["run/manifest.json"] == b""
    with boxes.one() as box:
        assert "it has no seal" in goes_on(box, ("no syncs", state))
        with pytest.raises(DamageError, match="it has no seal"):
            read_sealed(Path(box.output, "manifest.json"))


def test_after_the_last_sync_nothing_can_be_lost(boxes):
    """But what an earlier export or a status file held, which nobody reads."""
    disk = disk_after(recorded(boxes))
    kept, lost = (disk.after_a_cut(LOSSES["dropped"], lambda name, kept=kept: kept) for kept in (True, False))
    without = ("run/progress", "run/.lock")
    assert {name: content for name, content in kept.items() if not name.startswith(without)} == {
        name: content for name, content in lost.items() if not name.startswith(without)
    }
