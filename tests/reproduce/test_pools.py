"""The pool of real windows: of what its windows are made, and that nothing of it can be seen from outside."""

import json
import shutil

import numpy as np
import pytest

from longattn.reproduce.pools import PIECE, Pool, make_pool
from longattn.tables import read_parquet
from longattn.testing import tiny_checkpoint

LENGTH = 128


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    root = tmp_path_factory.mktemp("pool")
    # only the tokenizer is asked: the pool is the same for every scorer
    (root / "tokenizer").mkdir()
    shutil.copy(tiny_checkpoint(tmp_path_factory.mktemp("model")) / "tokenizer.json", root / "tokenizer")
    (root / "texts").mkdir()
    words = np.random.default_rng(0).integers(10**6, size=(2, 40, 400))
    for kind, documents in zip(("code", "notes"), words, strict=True):
        lines = [json.dumps({"id": f"{i}", "text": " ".join(map(str, of))}) for i, of in enumerate(documents)]
        (root / "texts" / f"pool-{kind}.jsonl").write_text("\n".join(lines) + "\n")
    rule = Pool(windows=600, length=LENGTH, draws=2)
    facts = make_pool(root / "pool", {"texts": root / "texts", "tokenizer": root / "tokenizer"}, rule)
    windows = [json.loads(line) for line in (root / "pool" / "windows.jsonl").read_text().splitlines()]
    return root, facts, read_parquet(root / "pool" / "kinds.parquet"), {one["id"]: one["text"] for one in windows}


def test_sources_and_kinds_have_their_shares(pool):
    _, facts, kinds, _ = pool
    assert facts["windows"] == kinds.num_rows == pytest.approx(600, rel=0.15)
    for counts in facts["sources"].values():
        shares = {kind: count / sum(counts.values()) for kind, count in counts.items()}
        assert shares["dependent"] == pytest.approx(0.6, abs=0.1)
        assert shares["joined"] == pytest.approx(0.25, abs=0.08)
        assert shares["repeated"] == pytest.approx(0.15, abs=0.08)


def test_windows_are_made_of_what_their_kind_says(pool):
    root, _, kinds, texts = pool
    whole = {
        kind: [json.loads(line)["text"] for line in (root / "texts" / f"pool-{kind}.jsonl").read_text().splitlines()]
        for kind in ("code", "notes")
    }
    natural = [text for of in whole.values() for text in of]
    seen = set()
    for row in kinds.to_pylist():
        text = texts[row["window_id"]]
        intact = any(text in document for document in natural)
        assert intact == (row["kind"] == "dependent")
        assert row["dependent"] == float(intact)
        if row["kind"] == "repeated":
            assert text[:PIECE] == text[PIECE : 2 * PIECE]
        seen.add(row["kind"])
    assert seen == {"dependent", "joined", "repeated"}


def test_draws_differ_and_the_same_settings_give_the_same_pool(pool):
    root, _, kinds, _ = pool
    assert kinds["random0"].to_pylist() != kinds["random1"].to_pylist()
    rule = Pool(windows=600, length=LENGTH, draws=2)
    make_pool(root / "again", {"texts": root / "texts", "tokenizer": root / "tokenizer"}, rule)
    assert read_parquet(root / "again" / "kinds.parquet").equals(kinds)
