"""A corpus of byte tokens whose documents can be told apart, and windows of it."""

import json

import numpy as np
import pytest

from longattn.records import Window

WORDS = ["far", "near", "name", "value", "of", "the", "is", "and", "where", "used"]


@pytest.fixture
def make_windows():
    """Windows of random tokens; every document has ids of its own range, so that pieces can be traced."""

    def make(documents: int = 20, each: int = 1, length: int = 256) -> list[Window]:
        random = np.random.default_rng(0)
        return [
            Window(
                f"d{d}",
                "s",
                k * length,
                (random.integers(0, 90, length) + 100 * d).astype(np.uint32),
                0,
                length,
                each * length + d,
            )
            for k in range(each)
            for d in range(documents)
        ]

    return make


@pytest.fixture(scope="session")
def corpus_inputs(tmp_path_factory):
    """Two sources: many documents of four windows of 64 bytes, and one document alone."""
    random, folder = np.random.default_rng(1), tmp_path_factory.mktemp("corpus")

    def text(i: int) -> str:
        return " ".join([f"name{i}", *random.choice(WORDS, 50).tolist(), f"name{i}"])

    many, one = folder / "many.jsonl", folder / "one.jsonl"
    many.write_text("".join(json.dumps({"id": f"m{i}", "text": text(i)}) + "\n" for i in range(40)))
    one.write_text(json.dumps({"id": "alone", "text": " ".join(text(i) for i in range(3))}) + "\n")
    return f"many={many}", f"one={one}"
