"""From windows and their controls to measured columns on disk, block by block, so that nothing is measured twice."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from longattn.engines.progress import Progress, Quiet, State
from longattn.expressions import evaluate
from longattn.measuring import Job, measure_each, package_versions, scorer_rows
from longattn.records import Window
from longattn.scorers import Scorer
from longattn.validity.columns import read_columns
from longattn.validity.controls import Piece, Pool
from longattn.validity.sampling import Intact
from longattn.versions import Writers, check_change, differences, merged

PAIRS = 8
"""Pairs of a block: what an interruption costs at most."""
INTACT, RECUT = "intact", "recut"

CONTROLS_SCHEMA = pa.schema(
    [
        ("window_id", pa.string()),
        ("source", pa.string()),
        ("control", pa.string()),
        ("intact", pa.string()),
        ("pieces", pa.list_(pa.struct([("window", pa.string()), ("start", pa.int64()), ("length", pa.int64())]))),
    ]
)
"""What each control was made of."""


@dataclass(frozen=True, eq=False)
class Block:
    """Up to eight windows of one group that are measured and written together."""

    windows: tuple[Window, ...]
    pairs: tuple[int, ...]
    """The intact window that each belongs to, by its place."""

    @cached_property
    def id(self) -> str:
        """Changes with the windows' names and tokens, and with nothing else."""
        digest = hashlib.sha256()
        for window in self.windows:
            digest.update(f"{window.id}\0{window.doc_tokens}\0{len(window.tokens)}\0".encode())
            digest.update(window.tokens.astype("<u4").tobytes())
        return digest.hexdigest()[:16]


@dataclass(frozen=True, eq=False)
class Material:
    """Intact windows of one source and everything that is made of them, by the intact window's place."""

    source: str
    intact: Sequence[Window]
    groups: Mapping[str, Mapping[int, Window]]
    """Windows by group (``intact``, ``recut``, controls) and place; a place without a control is left out."""
    pieces: Mapping[str, Sequence[Piece]] = field(default_factory=dict)
    """What controls were made of, by their ids."""

    @property
    def documents(self) -> list[str]:
        """The document of each intact window."""
        return [window.doc_id for window in self.intact]

    def blocks(self, group: str, pairs: int) -> list[Block]:
        """The blocks of a group that hold its first ``pairs`` places."""
        members = self.groups[group]
        places = [range(first, first + PAIRS) for first in range(0, min(pairs, len(self.intact)), PAIRS)]
        found = [tuple(k for k in block if k in members) for block in places]
        return [Block(tuple(members[k] for k in block), block) for block in found if block]


def make_material(source: str, sampled: Sequence[Intact], controls: Sequence[str], seed: int) -> Material:
    """The windows of a source with all their controls; ``sampled`` is also all that controls are made of."""
    windows = [one.window for one in sampled]
    pool = Pool(windows, seed)
    groups: dict[str, dict[int, Window]] = {INTACT: dict(enumerate(windows))}
    groups[RECUT] = {k: one.recut for k, one in enumerate(sampled) if one.recut is not None}
    pieces: dict[str, Sequence[Piece]] = {}
    for name in controls:
        made = {k: control for k in range(len(windows)) if (control := pool.make(name, k)) is not None}
        groups[name] = {k: control.window for k, control in made.items()}
        pieces |= {control.window.id: control.pieces for control in made.values()}
    return Material(source, windows, groups, pieces)


def content_hash(materials: Sequence[Material]) -> str:
    """16 hexadecimal digits that change with the names and tokens of the intact windows, and with nothing else."""
    ids = [(one.source, Block(tuple(one.intact), ()).id) for one in materials]
    return hashlib.sha256(repr(sorted(ids)).encode()).hexdigest()[:16]


def measure_blocks(
    job: Job,
    materials: Sequence[Material],
    scorers: Mapping[str, Scorer],
    pairs: Mapping[str, int],
    device: str,
    progress: Progress | None = None,
    *,
    allow_version_change: bool = False,
) -> dict[str, str]:
    """Measure every block that is not on disk; returns the versions that measured, and those that are present.

    ``scorers`` and the number of ``pairs`` of each are by label; scorers that share a measurement share its table.
    Safe to stop at any moment and to call again. Raises :class:`RunError` where other versions measured a part, unless
    that is allowed.
    """
    work = list(_work(job, materials, scorers, pairs))
    present, writers = package_versions(), Writers()
    waiting = [(task.block, missing) for task in work if (missing := _missing(job, task, writers))]
    tables = {s: job.table(s) for _, missing in waiting for s in missing}
    different: dict[str, tuple[str, str]] = {}
    for table in tables.values():
        different |= differences(table, writers.of(table), present)
    check_change(job.run.place, different, allowed=allow_version_change)
    for task in work:
        _record(job, task)
    total = sum(_tokens(task.block) for task in work)
    done = float(total - sum(_tokens(block) for block, _ in waiting))
    state = State(len(work), len(work) - len(waiting), total, done, done)
    asks = [ask for scorer in tables if (ask := scorer.ask())]
    model = job.load_model(device, asks)
    show = progress or Quiet()

    def on_window(tokens: int) -> None:
        state.windows += 1
        state.tokens += tokens
        state.bytes_done += tokens
        show.update(state)

    for block, missing in waiting:
        measured = measure_each(missing, model, block.windows, on_window)
        for scorer, columns in zip(missing, measured, strict=True):
            tables[scorer].commit(block.id, scorer_rows(scorer, block.windows, columns), {}, present)
        state.units_done += 1
        show.update(state)
    return merged([present, *writers.tables().values()])


class _Task(NamedTuple):
    """A block, whose it is, and who wants it measured."""

    material: Material
    group: str
    block: Block
    scorers: Sequence[Scorer]


def _work(
    job: Job, materials: Sequence[Material], scorers: Mapping[str, Scorer], pairs: Mapping[str, int]
) -> Iterator[_Task]:
    """Every block with the scorers that want it, each measurement once; sources take turns, so that all grow alike."""
    for first in range(0, max(pairs.values(), default=0), PAIRS):
        wanted = {job.table(s).hash: s for label, s in scorers.items() if first < pairs[label]}
        for material in materials:
            for group in material.groups:
                for block in material.blocks(group, first + PAIRS):
                    if block.pairs[0] >= first:
                        yield _Task(material, group, block, list(wanted.values()))


def _missing(job: Job, task: _Task, writers: Writers) -> list[Scorer]:
    found = []
    for scorer in task.scorers:
        table = job.table(scorer)
        receipt = table.receipt(task.block.id)
        writers.note(table, receipt)
        if receipt is None:
            found.append(scorer)
    return found


def _tokens(block: Block) -> int:
    return sum(len(window.tokens) for window in block.windows)


def _record(job: Job, task: _Task) -> None:
    """Write down what the controls of a block were made of."""
    table = job.run.table("controls", job.cut_settings)
    if task.group in (INTACT, RECUT) or table.receipt(task.block.id) is not None:
        return
    rows = [
        {
            "window_id": window.id,
            "source": task.material.source,
            "control": task.group,
            "intact": task.material.intact[place].id,
            "pieces": [asdict(piece) for piece in task.material.pieces[window.id]],
        }
        for window, place in zip(task.block.windows, task.block.pairs, strict=True)
    ]
    table.commit(task.block.id, pa.Table.from_pylist(rows, CONTROLS_SCHEMA), {}, {})


def read_scores(job: Job, material: Material, scorer: Scorer, pairs: int) -> dict[str, npt.NDArray[np.float64]]:
    """A scorer's scores by group, a value for each of the first ``pairs`` places, NaN where there is none.

    What is standardised in a score is placed on the scale of the source's intact windows: these are what a corpus
    holds, and a control must not move the scale that it is judged on.
    """
    blocks = {group: material.blocks(group, pairs) for group in material.groups}
    together = [block for group in blocks.values() for block in group]
    columns = read_columns(job.table(scorer), [block.id for block in together], scorer.score())
    of = np.array([group for group, part in blocks.items() for block in part for _ in block.windows])
    values = evaluate(scorer.score(), columns, reference=of == INTACT)
    scores = {}
    for group, part in blocks.items():
        scores[group] = np.full(min(len(material.intact), -(-pairs // PAIRS) * PAIRS), np.nan)
        scores[group][[place for block in part for place in block.pairs]] = values[of == group]
    return scores
