"""Real text for the comparison: which documents train the models, which make the pool, and which nobody learns from."""

import hashlib
import json
import platform
import sysconfig
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longattn import corpus
from longattn.records import Document
from longattn.settings import Corpus
from longattn.tables import durable

PARTS = {"held-out": range(1), "pool": range(1, 4), "training": range(4, 8)}
"""Eighths of the documents."""


@dataclass(frozen=True, kw_only=True)
class Texts:
    """What to read."""

    inputs: tuple[str, ...] = ()
    """As the inputs of a run: ``code=src/ prose=books/*.txt``. Without any: this Python's modules and its reference."""
    least_chars: int = 4000
    """Shorter documents are left out: they hold no window."""
    content: tuple[str, ...] = ()
    """What the inputs held when this was asked for: names of work units, which change with their files."""

    @classmethod
    def of(cls, inputs: Sequence[str]) -> "Texts":
        """These inputs with the content that they have now, or this Python's."""
        if not inputs:
            return cls(content=(platform.python_version(),))
        units = corpus.list_units(Corpus(inputs=tuple(inputs)))
        return cls(inputs=tuple(inputs), content=tuple(unit.id for unit in units))


def read(texts: Texts) -> Iterator[Document]:
    """The documents, in the order of the input."""
    if not texts.inputs:
        yield from _modules()
        yield from _reference(texts.least_chars)
        return
    rule = Corpus(inputs=texts.inputs)
    for unit in corpus.list_units(rule):
        yield from (record for record in corpus.read_unit(unit, rule) if isinstance(record, Document))


def _modules() -> Iterator[Document]:
    root = Path(sysconfig.get_path("stdlib"))
    for file in sorted(root.rglob("*.py")):
        inside = file.relative_to(root)
        if not {"site-packages", "test", "tests", "lib2to3", "idlelib", "pydoc_data"} & set(inside.parts):
            yield Document(inside.as_posix(), "code", file.read_text(encoding="utf-8", errors="replace"), str(file), 0)


def _reference(least_chars: int) -> Iterator[Document]:
    """Topics of the language reference, short ones joined with those that follow."""
    from pydoc_data.topics import topics

    name, parts = "", []
    for topic, text in sorted(topics.items()):
        name = name or topic
        parts.append(text)
        if sum(map(len, parts)) >= least_chars:
            yield Document(f"topics/{name}", "docs", "\n\n".join(parts), "pydoc_data/topics.py", 0)
            name, parts = "", []


def write_parts(folder: Path, inputs: Mapping[str, Path], texts: Texts) -> dict[str, Any]:
    """Write ``<part>-<kind>.jsonl``, without documents whose words another one has in the same order.

    Which part a document is in depends on its id alone. Returns documents and characters by part and kind, and what was
    left out. Raises ``ValueError`` where a kind has no document in some part.
    """
    found: dict[tuple[str, str], list[Document]] = {}
    seen: set[bytes] = set()
    left_out: Counter[str] = Counter()
    for document in read(texts):
        digest = hashlib.sha256(" ".join(document.text.split()).encode()).digest()
        if len(document.text) < texts.least_chars or digest in seen:
            left_out["duplicates" if digest in seen else "short"] += 1
            continue
        seen.add(digest)
        found.setdefault((_part(document.id), document.source), []).append(document)
    kinds = sorted({kind for _, kind in found})
    if missing := [f"{kind} ({part})" for kind in kinds for part in PARTS if (part, kind) not in found]:
        raise ValueError(
            f"too few documents of {texts.least_chars} characters or more: none for {', '.join(missing)}; "
            "each kind needs about 30 of them"
        )
    if not kinds:
        raise ValueError(f"the inputs hold no document of {texts.least_chars} characters or more")
    for (part, kind), documents in found.items():
        write_documents(folder / f"{part}-{kind}.jsonl", sorted(documents, key=lambda one: _order(one.id)))
    sizes = {
        part: {
            kind: {
                "documents": len(found[part, kind]),
                "characters": sum(len(one.text) for one in found[part, kind]),
            }
            for kind in kinds
        }
        for part in PARTS
    }
    return {"kinds": kinds, "parts": sizes, "left_out": dict(left_out)}


def _order(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def _part(name: str) -> str:
    eighth = int(_order(name)[:8], 16) % 8
    return next(part for part, eighths in PARTS.items() if eighth in eighths)


def write_documents(path: Path, documents: Sequence[Document]) -> None:
    """Write ids and texts as JSON lines."""
    with durable(path) as file:
        for one in documents:
            file.write(json.dumps({"id": one.id, "text": one.text}).encode() + b"\n")


def read_documents(path: Path) -> list[tuple[str, str]]:
    """Ids and texts of a file that :func:`write_documents` wrote."""
    return [(record["id"], record["text"]) for record in map(json.loads, path.read_bytes().splitlines())]


def kinds_of(folder: Path) -> list[str]:
    """The kinds of text that :func:`write_parts` found."""
    return sorted(path.stem.removeprefix("pool-") for path in folder.glob("pool-*.jsonl"))


def make_tokenizer(folder: Path, inputs: Mapping[str, Path], vocab_size: int) -> dict[str, Any]:
    """Train a byte-level BPE on the training documents: a small vocabulary keeps tiny models' last layer cheap."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    files = sorted(inputs["texts"].glob("training-*.jsonl"))
    tokenizer.train_from_iterator((text for file in files for _, text in read_documents(file)), trainer)
    with durable(folder / "tokenizer.json") as file:
        file.write(tokenizer.to_str().encode())
    return {"vocab_size": tokenizer.get_vocab_size()}
