"""A pool of real windows: most as they stand in their documents, some made to depend on nothing, or on copies alone.

Documents of three kinds go into it: whole ones (*dependent*: nothing is known of each window, but it is intact), ones
joined of pieces of other documents (*joined*), and ones that say the same piece over and over (*repeated*). Windows are
cut of all of them alike, by Algorithm 1, and no scorer is told which is which.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from longattn.recipes import Recipe
from longattn.records import Document
from longattn.reproduce.texts import kinds_of, read_documents, write_documents
from longattn.settings import Corpus, Model, Windowing
from longattn.tables import durable, write_parquet
from longattn.tokens import Tokenizer
from longattn.windows import cut, window_starts

SHARES = {"dependent": 0.6, "joined": 0.25, "repeated": 0.15}
PIECE = 64
"""Tokens of a piece."""
PLANTED = 8
"""Windows of a document that is made."""


@dataclass(frozen=True, kw_only=True)
class Pool:
    """How many windows, and of how many tokens."""

    windows: int
    length: int
    draws: int
    """Random orders of the windows, a column for each: what the random arm keeps."""


def recipe_of(folder: Path, length: int, model: str | Path, scorers: Sequence[str] = ()) -> Recipe:
    """A run over the pool in a folder."""
    files = sorted(folder.glob("pool-*.jsonl"))
    inputs = tuple(f"{file.stem.removeprefix('pool-')}={file}" for file in files)
    return Recipe(
        corpus=Corpus(inputs=inputs),
        window=Windowing(length=length),
        model=Model(name=str(model)),
        scorers=tuple(scorers),
    )


def make_pool(folder: Path, inputs: Mapping[str, Path], pool: Pool) -> dict[str, Any]:
    """Write the pool's documents, cut them, and write what is known of each window, and its text.

    Sources share the windows by how many tokens their pool documents hold. Returns windows by source and kind.
    """
    texts = inputs["texts"]
    tokenizer = Tokenizer.load(inputs["tokenizer"] / "tokenizer.json")
    kinds = kinds_of(texts)
    documents = {kind: read_documents(texts / f"pool-{kind}.jsonl") for kind in kinds}
    room = {kind: sum(_num_windows(tokenizer, text, pool.length) for _, text in documents[kind]) for kind in kinds}
    # as many as there are, where fewer are there than the pool should have
    most = min(float(pool.windows), sum(room.values()) / SHARES["dependent"])
    made: list[tuple[Document, str]] = []
    for kind in kinds:
        share = most * room[kind] / sum(room.values())
        # in an order that does not tell what was made
        mine = sorted(_documents(documents[kind], tokenizer, share, pool.length, kind), key=lambda one: one[0].id)
        write_documents(folder / f"pool-{kind}.jsonl", [document for document, _ in mine])
        made += mine
    return _describe(folder, made, tokenizer, pool)


def _documents(
    natural: Sequence[tuple[str, str]], tokenizer: Tokenizer, windows: float, length: int, source: str
) -> Iterator[tuple[Document, str]]:
    """Documents with the kind of their windows, until each kind has its share of ``windows``."""
    wanted = {kind: share * windows for kind, share in SHARES.items()}
    generator = np.random.default_rng((len(natural), length))
    for name, text in natural:
        if wanted["dependent"] <= 0:
            break
        wanted["dependent"] -= _num_windows(tokenizer, text, length)
        yield Document(f"{source}/{name}", source, text, "", 0), "dependent"
    pieces = [piece for _, text in natural for piece in _pieces(tokenizer, text)]
    while pieces and max(wanted["joined"], wanted["repeated"]) > 0:
        kind = "joined" if wanted["joined"] > 0 else "repeated"
        count = PLANTED * length // PIECE
        chosen = generator.choice(len(pieces), count if kind == "joined" else 1, replace=count > len(pieces))
        text = "".join(pieces[i] for i in chosen) * (1 if kind == "joined" else count)
        wanted[kind] -= _num_windows(tokenizer, text, length)
        # a name like the others'
        yield Document(f"{source}/{generator.bytes(6).hex()}", source, text, "", 0), kind


def _num_windows(tokenizer: Tokenizer, text: str, length: int) -> int:
    return len(window_starts(len(tokenizer.encode(text).ids), length))


def _pieces(tokenizer: Tokenizer, text: str) -> Iterator[str]:
    """Every eighth piece of a document: neighbours would belong together again."""
    tokenized = tokenizer.encode(text)
    for start in range(0, len(tokenized.ids) - PIECE, 8 * PIECE):
        yield text[tokenized.char_starts[start] : tokenized.char_end(start + PIECE - 1)]


def _describe(folder: Path, made: Sequence[tuple[Document, str]], tokenizer: Tokenizer, pool: Pool) -> dict[str, Any]:
    """Write ``kinds.parquet`` and ``windows.jsonl``."""
    rows = [
        (window, kind, document.text[window.char_start : window.char_end])
        for document, kind in made
        for window in cut(document, tokenizer.encode(document.text), pool.length)
    ]
    kinds = [kind for _, kind, _ in rows]
    generator = np.random.default_rng(len(rows))
    columns = {
        "window_id": [window.id for window, _, _ in rows],
        "kind": kinds,
        "dependent": [float(kind == "dependent") for kind in kinds],
    }
    columns |= {f"random{i}": generator.random(len(rows)) for i in range(pool.draws)}
    write_parquet(folder / "kinds.parquet", pa.table(columns))
    with durable(folder / "windows.jsonl") as file:
        for window, _, text in rows:
            file.write(json.dumps({"id": window.id, "text": text}).encode() + b"\n")
    counts: dict[str, dict[str, int]] = {}
    for window, kind, _ in rows:
        counts.setdefault(window.source, dict.fromkeys(SHARES, 0))[kind] += 1
    return {"windows": len(rows), "sources": dict(sorted(counts.items()))}
