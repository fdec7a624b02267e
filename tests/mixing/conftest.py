"""A small run on two sources, selected at random, and short documents beside it."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from longattn import cli
from longattn.settings import Mixture
from longattn.testing import tiny_checkpoint
from longattn.tokens import Tokenizer

LENGTH, END = 64, 10


@dataclass(frozen=True)
class Kitchen:
    """Where everything is."""

    root: Path

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def model(self) -> Path:
        return self.root / "model"

    @property
    def tokenizer(self) -> Tokenizer:
        return Tokenizer.load(self.model / "tokenizer.json")

    def mixture(self, **changes) -> Mixture:
        """Windows of two sources and short documents, 5 : 3 : 2."""
        declared = {
            "windows": (f"books={self.run}", f"code={self.run}"),
            "documents": (f"wiki={self.root / 'wiki'}",),
            "shares": {"books": 5.0, "code": 3.0, "wiki": 2.0},
            "length": LENGTH,
            "end_token": END,
            "tokens": 40 * LENGTH,
        }
        return Mixture(**{**declared, **changes})

    def kept(self) -> dict[str, str]:
        """Text of every window that the run keeps, by id."""
        import pyarrow.parquet as pq

        rows = pq.read_table(self.run / "selection.parquet").to_pylist()
        texts = {}
        for row in rows:
            if row["kept"]:
                name, start = row["window_id"].rsplit("@", 1)
                texts[row["window_id"]] = self.texts[name][int(start) : int(start) + LENGTH]
        return texts

    @property
    def texts(self) -> dict[str, str]:
        """Text of every document of the run by id; its tokens are bytes, and all of them ASCII."""
        files = [self.root / f"{source}.jsonl" for source in ("books", "code")]
        records = [json.loads(line) for file in files for line in file.read_text().splitlines()]
        return {record["id"]: record["text"] for record in records}


def words(seed: int, count: int) -> str:
    return " ".join(f"{seed * 7919 + i * i:x}" for i in range(count))


@pytest.fixture(scope="session")
def kitchen(tmp_path_factory) -> Kitchen:
    root = tmp_path_factory.mktemp("kitchen")
    tiny_checkpoint(root / "model")
    for source, seeds in (("books", range(12)), ("code", range(100, 110))):
        lines = [json.dumps({"id": f"{source}{i}", "text": words(i, 120)}) for i in seeds]
        (root / f"{source}.jsonl").write_text("\n".join(lines) + "\n")
    (root / "wiki").mkdir()
    for file in range(3):
        texts = [words(1000 + 40 * file + i, 1 + (7 * i) % 5) for i in range(40)]
        lines = [json.dumps({"id": f"w{file}-{i}", "text": text}) for i, text in enumerate(texts)]
        (root / "wiki" / f"{file}.jsonl").write_text("\n".join([*lines, "{broken"]) + "\n")
    inputs = [f"{source}={root / source}.jsonl" for source in ("books", "code")]
    flags = ["--model.name", str(root / "model"), "--scorers", "random", "--keep.weights.random", "1"]
    flags += ["--workers", "0", "--window.length", str(LENGTH), "--keep.share", "0.8", "--keep.max-overlap", "1"]
    assert cli.launch(["run", *inputs, "--output", str(root / "run"), *flags]) == 0
    return Kitchen(root)
