"""Which windows of a corpus a validation looks at: few of each document, of as many documents as there are."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from longattn.corpus.files import place
from longattn.measuring import Job, cut_unit
from longattn.records import Window, WorkUnit
from longattn.tokens import Tokenizer

log = logging.getLogger(__name__)

MIN_UNITS = 8
"""Work units that are read of one input if it has as many: what lies together, as in a folder, is often alike."""
MAX_UNITS = 64
"""Work units that are read of one input, so that terabytes are not tokenised for a few windows."""
FEW_DOCUMENTS = 64
"""With windows of this many documents, a source is read no further once it has four times the windows asked for."""


@dataclass(frozen=True, eq=False)
class Intact:
    """A window as the corpus has it."""

    window: Window
    recut: Window | None
    """The same document a third of a window further on, or back; None where it does not reach that far."""


Sampled = dict[str, list[Intact]]
"""By source, in an order that has nothing to do with the text; its beginnings have as many documents as can be."""


def sample(job: Job, units: Sequence[WorkUnit], count: int, seed: int) -> Sampled:
    """About ``count`` windows of each source and more to choose from; the same corpus and seed give the same ones.

    Inputs are read unit by unit, eight at least, until each of their sources has enough, in an order that a copy of the
    corpus in another place has too: by the hashes of names below the input, and of which part of a file.
    """
    groups: dict[tuple[str | None, str], list[WorkUnit]] = {}
    for unit in sorted(units, key=lambda unit: digest(seed, place(unit))):
        groups.setdefault((unit.slices[0].source, unit.slices[0].root), []).append(unit)
    tokenizer = Tokenizer.load(job.checkpoint.tokenizer_file)
    found: dict[str, dict[str, list[Intact]]] = {}
    for (source, root), group in sorted(groups.items(), key=lambda item: (item[0][0] or "", item[0][1])):
        log.info("reading %s for windows to look at", source or root)
        here: set[str] = set()
        for read, unit in enumerate(group[:MAX_UNITS], start=1):
            for document in _documents(cut_unit(unit, job, tokenizer).windows):
                here.add(document[0].source)
                found.setdefault(document[0].source, {})[document[0].doc_id] = _chosen(document, count, seed)
            if read >= MIN_UNITS and here and all(_enough(found[name], count) for name in here):
                break
    return {name: _in_turn(documents, seed) for name, documents in sorted(found.items())}


def digest(seed: int, name: str) -> str:
    """A place in an order that has nothing to do with the name, nor with the scorer ``random``, which hashes it too."""
    return hashlib.sha256(f"validity\0{seed}\0{name}".encode()).hexdigest()


def _documents(windows: Sequence[Window]) -> list[list[Window]]:
    """The windows of each document; of documents of one id those of the first."""
    documents: dict[str, list[Window]] = {}
    for window in windows:
        document = documents.setdefault(window.doc_id, [])
        if not document or (document[0].file, document[0].position) == (window.file, window.position):
            document.append(window)
    return list(documents.values())


def _chosen(document: Sequence[Window], count: int, seed: int) -> list[Intact]:
    """At most ``count`` windows of a document; copies, because each is a view of all its tokens."""
    tokens = np.zeros(document[0].doc_tokens, dtype=np.uint32)
    for window in document:
        tokens[window.start : window.start + len(window.tokens)] = window.tokens
    chosen = sorted(document, key=lambda window: digest(seed, window.id))[:count]
    return [Intact(replace(window, tokens=window.tokens.copy()), _recut(window, tokens)) for window in chosen]


def _recut(window: Window, tokens: np.ndarray) -> Window | None:
    length = len(window.tokens)
    for start in (window.start + length // 3, window.start - length // 3):
        if 0 <= start <= len(tokens) - length and start != window.start:
            # no span: nobody reads the text of it
            return replace(window, start=start, tokens=tokens[start : start + length].copy(), char_start=0, char_end=0)
    return None


def _enough(documents: dict[str, list[Intact]], count: int) -> bool:
    windows = sum(map(len, documents.values()))
    return len(documents) >= count or (len(documents) >= FEW_DOCUMENTS and windows >= 4 * count)


def _in_turn(documents: dict[str, list[Intact]], seed: int) -> list[Intact]:
    """One window of each document, then a second one of each that has two, and so on."""
    ordered = [documents[name] for name in sorted(documents, key=lambda name: digest(seed, name))]
    rounds = max(map(len, ordered), default=0)
    return [windows[k] for k in range(rounds) for windows in ordered if k < len(windows)]
