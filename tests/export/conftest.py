"""A small run on real files: two sources, fields of mixed types, a tokenizer made on the spot."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, trainers

from longattn import corpus
from longattn.export import ExportSummary, export
from longattn.measuring import WINDOWS
from longattn.records import Document, Window, WorkUnit
from longattn.settings import Corpus, Exporting
from longattn.tables import RunFolder, Table, write_parquet
from longattn.tokens import Tokenizer
from longattn.windows import cut

LENGTH = 32
WORDS = [
    "the",
    "river",
    "under",
    "a",
    "bridge",
    "of",
    "stone",
    "carries",
    "slow",
    "brown",
    "water",
    "past",
    "houses",
]
CHOSEN = pa.schema(
    [
        ("window_id", pa.string()),
        ("ds", pa.float64()),
        ("du", pa.float64()),
        ("score", pa.float64()),
        ("rank", pa.int64()),
        ("kept", pa.bool_()),
        ("reason", pa.string()),
    ]
)


def sentence(seed: int, num_words: int) -> str:
    return " ".join(f"{WORDS[(seed * 7 + i * i) % len(WORDS)]}" for i in range(num_words)) + " – ünïcödé 😀 end."


def make_tokenizer(path: Path, vocab_size: int) -> Tokenizer:
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator([" ".join(WORDS)] * 4, trainer)
    backend.save(str(path))
    return Tokenizer.load(path)


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer") / "tokenizer.json", 300)


@pytest.fixture(scope="session")
def trainee(tmp_path_factory):
    return make_tokenizer(tmp_path_factory.mktemp("trainee") / "tokenizer.json", 262)


@dataclass(frozen=True)
class Made:
    """A run that was cut and selected by hand."""

    run: RunFolder
    corpus: Corpus
    units: list[WorkUnit]
    windows: Table
    tokenizer: Tokenizer
    documents: dict[str, Document]
    cut: list[Window]

    @property
    def selection(self) -> Path:
        return self.run.root / "selection.parquet"

    @property
    def output(self) -> Path:
        return self.run.root / "export"

    def select(self, keep: Callable[[Window], bool]) -> list[Window]:
        """Write the selection, in reverse order so that nothing can rest on it; returns the kept windows."""
        rows = [
            {
                "window_id": window.id,
                "ds": 0.4 + i / 1000,
                "du": -1e-6,
                "score": -float(i),
                "rank": i + 1,
                "kept": keep(window),
                "reason": "kept" if keep(window) else "below_cut",
            }
            for i, window in enumerate(self.cut)
        ]
        write_parquet(self.selection, pa.Table.from_pylist(rows[::-1], CHOSEN))
        return [window for window in self.cut if keep(window)]

    def export(self, rule: Exporting | None = None, **arguments) -> ExportSummary:
        rule = rule or Exporting(content="both")
        tokenizer = arguments.pop("tokenizer", self.tokenizer)
        return export(
            self.run,
            self.units,
            self.windows,
            self.selection,
            self.corpus,
            tokenizer,
            rule,
            self.output,
            **arguments,
        )


def make_run(root: Path, settings: Corpus, tokenizer: Tokenizer) -> Made:
    """List, read and cut an input, and commit its windows table; every other window is selected."""
    run = RunFolder(root)
    units = corpus.list_units(settings)
    windows = run.table("windows", {"tokenizer": tokenizer.hash, "length": LENGTH})
    documents: dict[str, Document] = {}
    found: list[Window] = []
    for unit in units:
        of_unit: list[Window] = []
        for record in corpus.read_unit(unit, settings):
            if isinstance(record, Document):
                documents[record.id] = record
                of_unit += cut(record, tokenizer.encode(record.text), LENGTH)
        windows.commit(unit.id, window_rows(of_unit), {}, {})
        found += of_unit
    made = Made(run, settings, units, windows, tokenizer, documents, found)
    made.select(lambda window: found.index(window) % 2 == 0)
    return made


def window_rows(windows: Sequence[Window]) -> pa.Table:
    rows = [
        {"window_id": w.id, "num_tokens": len(w.tokens)}
        | {name: getattr(w, name) for name in WINDOWS.names if name not in ("window_id", "num_tokens")}
        for w in windows
    ]
    return pa.Table.from_pylist(rows, WINDOWS)


@pytest.fixture
def books(tmp_path) -> Path:
    """JSON lines whose other fields differ in kind from line to line; one line is broken."""
    path = tmp_path / "books.jsonl"
    fields = [
        {"year": 1901, "price": 3, "tags": ["a", {"b": None}], "score": "mine", "mixed": 5},
        {"year": 1950, "price": 2.5, "tags": None, "mixed": "5"},
        {"year": None, "price": 1, "mixed": True, "input_score": "theirs", "late": "only here"},
    ]
    lines = [json.dumps({"id": f"b{i}", "text": sentence(i, 60 + 9 * i), **fields[i % 3]}) for i in range(12)]
    path.write_text("\n".join([*lines[:4], "{broken", *lines[4:]]) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def made(tmp_path, books, tokenizer) -> Made:
    folder = tmp_path / "notes"
    folder.mkdir()
    for i in range(3):
        (folder / f"n{i}.txt").write_text(sentence(i + 50, 80), encoding="utf-8")
    settings = Corpus(inputs=(f"books={books}", f"notes={folder}"), unit_bytes=2000)
    return make_run(tmp_path / "run", settings, tokenizer)


@pytest.fixture
def joined(tmp_path, tokenizer) -> Made:
    """Records of the same book are joined into one document."""
    path = tmp_path / "parts.jsonl"
    records = [{"id": f"p{i}", "book": f"book{i // 4}", "text": sentence(i, 30)} for i in range(8)]
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return make_run(tmp_path / "run", replace(Corpus(), inputs=(str(path),), join_by="book"), tokenizer)


@pytest.fixture(name="make_run")
def make_run_fixture():
    return make_run


@pytest.fixture(name="sentence")
def sentence_fixture():
    return sentence
