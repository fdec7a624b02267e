"""Split files into work units."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq

from longattn.corpus import files
from longattn.corpus.formats import text_column_problem
from longattn.corpus.listing import list_files
from longattn.records import Slice, WorkUnit
from longattn.settings import Corpus

# Opening a small file costs about as much as reading this many bytes; it also bounds the files of a unit.
_FILE_COST_BYTES = 16 * 2**10

Atom = tuple[Slice, ...]
"""Whole files that must stay in one unit: a single one, or a folder of texts that are joined."""


def list_units(corpus: Corpus, previous: Sequence[WorkUnit] = ()) -> list[WorkUnit]:
    """The input as work units of about ``unit_bytes`` each, in the same order every time; reads no document.

    Units of ``previous`` whose files are all unchanged come first, as they are, so that files added later
    make new units only. A unit never mixes formats. Plain JSON lines are split by bytes, Parquet by row
    groups; nothing is split that ``join_by`` may have to join. Raises ``ValueError`` for samples that are to
    be joined, and for settings that do not say where the messages are.
    """
    if corpus.holds_samples and corpus.join_by:
        given = "messages_field" if corpus.messages_field else "turn_fields"
        raise ValueError(f"samples stay whole and apart: {given} and join_by cannot go together")
    if corpus.turn_roles and corpus.messages_field:
        raise ValueError("messages are in messages_field or in turn_fields, got both")
    atoms = _atoms(list_files(corpus).files, corpus)
    kept = _still_valid(previous, atoms, corpus)
    done = {part.file for unit in kept for part in unit.slices}
    return kept + list(_units([atom for atom in atoms.values() if atom[0].file not in done], corpus))


def joined_folder(part: Slice) -> str:
    """The first folder below the input that the file is in, as listed; the file itself if it is in none."""
    _, slash, rest = files.relative_name(part).partition("/")
    whole = files.without_options(part.file)
    return whole.removesuffix(slash + rest)


def _atoms(parts: Iterable[Slice], corpus: Corpus) -> dict[str, Atom]:
    atoms: dict[str, list[Slice]] = {}
    for part in parts:
        atoms.setdefault(_atom_key(part, corpus), []).append(part)
    return {key: tuple(same) for key, same in atoms.items()}


def _atom_key(part: Slice, corpus: Corpus) -> str:
    by_folder = corpus.join_by == "folder" and _format(part, corpus) == "text"
    return joined_folder(part) if by_folder else part.file


def _format(part: Slice, corpus: Corpus) -> files.Format | None:
    kind = files.kind_of(part.file, corpus.text_suffixes)
    return kind.format if kind else None


def _still_valid(previous: Sequence[WorkUnit], atoms: dict[str, Atom], corpus: Corpus) -> list[WorkUnit]:
    """The previous units that hold only files as they are now, and together hold each of them whole."""
    units = list(dict.fromkeys(previous))
    while True:
        held: dict[str, list[Slice]] = {}
        for unit in units:
            for part in unit.slices:
                held.setdefault(_atom_key(part, corpus), []).append(part)
        complete = {key for key, parts in held.items() if _covers(parts, atoms.get(key, ()), corpus)}
        valid = [unit for unit in units if all(_atom_key(part, corpus) in complete for part in unit.slices)]
        # to leave out a unit may leave another file incomplete
        if len(valid) == len(units):
            return units
        units = valid


def _covers(parts: Iterable[Slice], atom: Atom, corpus: Corpus) -> bool:
    """Whether the parts are exactly the files of the atom, each from its beginning to its end."""
    reached: dict[Slice, int | None] = dict.fromkeys(atom, 0)
    for part in sorted(parts, key=lambda part: part.start):
        if corpus.join_by and (part.start, part.stop) != (0, None):
            return False
        whole = replace(part, start=0, stop=None)
        if reached.get(whole, -1) != part.start:
            return False
        reached[whole] = part.stop
    return all(end is None for end in reached.values())


def _units(atoms: Iterable[Atom], corpus: Corpus) -> Iterator[WorkUnit]:
    """Large files in several units each, small ones together up to ``unit_bytes``, format after format."""
    by_format: dict[files.Format | None, list[Atom]] = {}
    for atom in atoms:
        by_format.setdefault(_format(atom[0], corpus), []).append(atom)
    for _, same_format in sorted(by_format.items(), key=lambda item: str(item[0])):
        together: list[Slice] = []
        num_bytes = 0
        for atom in same_format:
            pieces = _split(atom[0], corpus)
            if len(pieces) > 1:
                yield from (WorkUnit((piece,)) for piece in pieces)
                continue
            cost = sum(max(part.size, _FILE_COST_BYTES) for part in atom)
            if together and num_bytes + cost > corpus.unit_bytes:
                yield WorkUnit(tuple(together))
                together, num_bytes = [], 0
            together += atom
            num_bytes += cost
        if together:
            yield WorkUnit(tuple(together))


def _split(whole: Slice, corpus: Corpus) -> list[Slice]:
    """A large file as slices of about ``unit_bytes``, if its format has places to split at."""
    kind = files.kind_of(whole.file, corpus.text_suffixes)
    if kind is None or kind.compression or corpus.join_by or whole.size <= corpus.unit_bytes:
        return [whole]
    borders: list[int] = []
    if kind.format == "jsonl":
        count = -(-whole.size // corpus.unit_bytes)
        borders = [whole.size * i // count for i in range(1, count)]
    elif kind.format == "parquet":
        borders = _group_borders(whole, corpus)
    if not borders:
        return [whole]
    # slices are of about one size, and only estimates ask for it
    covers = whole.size // (len(borders) + 1)
    ends = zip([0, *borders], [*borders, None], strict=True)
    return [replace(whole, start=start, stop=stop, covers=covers) for start, stop in ends]


def _group_borders(whole: Slice, corpus: Corpus) -> list[int]:
    """The row groups at which a new slice begins; none for a file that will be rejected as a whole."""
    try:
        with files.open_seekable(whole.file) as stream:
            meta = pq.read_metadata(stream)
            if text_column_problem(meta.schema.to_arrow_schema(), corpus):
                return []
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        files.pass_on(whole.file, error)
        return []
    # sizes in the file are told of columns alone, and to look at those ends the process where they are damaged
    sizes = [max(0, meta.row_group(index).total_byte_size) for index in range(meta.num_row_groups)]
    total = max(1, sum(sizes))
    borders, num_bytes = [], 0
    for index, size in enumerate(sizes):
        group_bytes = whole.size * size // total
        if num_bytes and num_bytes + group_bytes > corpus.unit_bytes:
            borders.append(index)
            num_bytes = 0
        num_bytes += group_bytes
    return borders
