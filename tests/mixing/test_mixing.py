"""A mixture as a whole: shares, ledger, order, what is read back by who owns a format."""

import itertools
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest

from longattn.errors import RunError
from longattn.mixing import mix
from longattn.settings import Exporting, Untying

END, LENGTH = 10, 64
TOKENS = Exporting(content="tokens")


def rows_of(folder):
    import pyarrow.parquet as pq

    return [row for path in sorted(folder.glob("data/*.parquet")) for row in pq.read_table(path).to_pylist()]


def content(folder):
    """Every file but the summary, which names places."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.parquet")}


def test_shares_are_reached_and_windows_are_those_that_were_scored(kitchen, tmp_path):
    found = mix(kitchen.mixture(), tmp_path / "mix")
    rows = rows_of(tmp_path / "mix")
    assert found.windows == {"books": 20, "code": 12, "wiki": 8}
    assert [sum(row["source"] == name for row in rows) for name in found.windows] == [20, 12, 8]
    assert {len(row["input_ids"]) for row in rows} == {LENGTH}
    kept = kitchen.kept()
    for row in rows:
        if row["source"] != "wiki":
            (window,) = row["documents"]
            assert kitchen.tokenizer.decode(row["input_ids"]) == kept[window]
            assert window.startswith(row["source"])
    assert len({row["documents"][0] for row in rows if row["source"] != "wiki"}) == 32


def test_sources_are_shuffled_among_each_other(kitchen, tmp_path):
    mix(kitchen.mixture(), tmp_path / "mix")
    order = [row["source"] for row in rows_of(tmp_path / "mix")]
    changes = sum(a != b for a, b in itertools.pairwise(order))
    assert changes > 15
    numbers = [row["sequence"] for row in rows_of(tmp_path / "mix") if row["source"] == "books"]
    assert numbers == list(range(20))


def test_documents_are_packed_with_their_boundaries(kitchen, tmp_path):
    texts = {}
    for path in (kitchen.root / "wiki").iterdir():
        for line in path.read_text().splitlines()[:-1]:
            texts[json.loads(line)["id"]] = json.loads(line)["text"]
    mix(kitchen.mixture(positions=True), tmp_path / "mix")
    whole = 0
    for row in rows_of(tmp_path / "mix"):
        if row["source"] != "wiki":
            assert row["boundaries"] == [0]
            assert row["position_ids"] == list(range(LENGTH))
            continue
        starts = row["boundaries"]
        assert starts[0] == 0
        assert len(starts) == len(row["documents"]) > 1
        for start, stop, name in zip(starts, [*starts[1:], LENGTH], row["documents"], strict=True):
            tokens = row["input_ids"][start:stop]
            assert row["position_ids"][start:stop] == list(range(stop - start))
            assert kitchen.tokenizer.decode([t for t in tokens if t != END]) in texts[name]
            if len(tokens) == len(texts[name]) + 1:
                whole += tokens[-1] == END
    assert whole > 10


def test_the_ledger_balances(kitchen, tmp_path):
    found = mix(kitchen.mixture(), tmp_path / "mix")
    kept = kitchen.kept()
    for name, part in found.portions.items():
        assert part.num_read == part.used + part.left_over
        assert part.tokens + part.tokens_left_over == part.tokens_drawn
        assert part.kind == ("documents" if name == "wiki" else "windows")
    books = found.portions["books"]
    assert books.num_read == sum(name.startswith("books") for name in kept)
    assert (books.used, books.tokens_left_over, books.cuts) == (20, 0, 0)
    wiki = found.portions["wiki"]
    assert (wiki.num_read, wiki.rejected) == (120, {"bad_json": 3})
    names = {name for row in rows_of(tmp_path / "mix") if row["source"] == "wiki" for name in row["documents"]}
    assert wiki.used == len(names)


def test_files_and_their_order_are_of_no_consequence(kitchen, tmp_path):
    """The same texts in one file, backwards, and sources declared the other way round."""
    first = mix(kitchen.mixture(), tmp_path / "first")
    lines = [line for path in sorted((kitchen.root / "wiki").iterdir()) for line in path.read_text().splitlines()]
    (tmp_path / "one.jsonl").write_text("\n".join(lines[::-1]))
    other = kitchen.mixture(
        documents=(f"wiki={tmp_path / 'one.jsonl'}",),
        windows=kitchen.mixture().windows[::-1],
        shares={"wiki": 2.0, "books": 5.0, "code": 3.0},
    )
    second = mix(other, tmp_path / "second")
    assert content(tmp_path / "first") == content(tmp_path / "second")
    assert first.sha256 == second.sha256
    third = mix(replace(other, seed=1), tmp_path / "third")
    assert third.sha256 != first.sha256


def test_a_smaller_budget_is_a_part_of_a_larger_one(kitchen, tmp_path):
    names = []
    for number, sequences in enumerate((10, 40)):
        mix(kitchen.mixture(tokens=sequences * LENGTH), tmp_path / str(number))
        names.append({row["documents"][0] for row in rows_of(tmp_path / str(number)) if row["source"] == "books"})
    assert len(names[0]) == 5
    assert names[0] < names[1]


def test_too_few_tokens_are_an_error_with_the_numbers_or_repeated(kitchen, tmp_path):
    few = kitchen.mixture(tokens=400 * LENGTH)
    with pytest.raises(
        ValueError, match=r"books has [\d,]+ tokens, in 1 pass \d+ sequences of 64, and 200 .*--passes.books"
    ) as said:
        mix(few, tmp_path / "mix")
    assert not list(tmp_path.iterdir())
    enough = int(str(said.value).rpartition("--tokens ")[2])
    assert mix(replace(few, tokens=enough), tmp_path / "mix").num_tokens == enough
    with pytest.raises(ValueError, match="--tokens"):
        mix(replace(few, tokens=enough + 5 * LENGTH), tmp_path / "mix")
    passes = dict.fromkeys(("books", "code", "wiki"), 9)
    found = mix(replace(few, passes=passes), tmp_path / "mix")
    assert found.num_windows == 400
    for part in found.portions.values():
        assert 1 < part.passes <= 9
        assert part.used == part.num_read - part.left_over
        whole_passes = -(-part.tokens // part.tokens_drawn)
        assert part.tokens + part.tokens_left_over == whole_passes * part.tokens_drawn
    counts = {}
    for row in rows_of(tmp_path / "mix"):
        if row["source"] == "books":
            counts[row["documents"][0]] = counts.get(row["documents"][0], 0) + 1
    assert max(counts.values()) - min(counts.values()) <= 1, "no window is used again before all were"


def test_without_a_budget_the_scarcest_source_decides(kitchen, tmp_path):
    found = mix(kitchen.mixture(tokens=None), tmp_path / "mix")
    full = {name: part.tokens_drawn // LENGTH for name, part in found.portions.items()}
    asked = {"books": 0.5, "code": 0.3, "wiki": 0.2}
    assert found.num_windows == min(int(full[name] / share + 1e-9) for name, share in asked.items())


def test_the_same_texts_are_used_once(kitchen, tmp_path):
    twice = kitchen.mixture(windows=(), shares={"wiki": 1.0}, tokens=None, model=str(kitchen.model))
    once = mix(twice, tmp_path / "once")
    places = tuple(f"wiki={kitchen.root / 'wiki' / name}" for name in ("0.jsonl", "1.jsonl", "2.jsonl"))
    shutil.copy(kitchen.root / "wiki" / "0.jsonl", tmp_path / "copy.jsonl")
    again = mix(replace(twice, documents=(*places, f"wiki={tmp_path / 'copy.jsonl'}")), tmp_path / "again")
    assert once.sha256 == again.sha256
    assert again.portions["wiki"].num_read == again.portions["wiki"].used + again.portions["wiki"].left_over == 160


def test_windows_of_another_length_are_packed(kitchen, tmp_path):
    """Two and a half windows of 64 and their end tokens."""
    found = mix(kitchen.mixture(length=160, tokens=10 * 160), tmp_path / "mix")
    assert found.portions["books"].cuts > 0
    row = next(row for row in rows_of(tmp_path / "mix") if row["source"] == "books")
    assert row["boundaries"] == [0, 65, 130]
    assert [row["input_ids"][i] for i in (64, 129)] == [END, END]


def test_windows_of_another_tokenizer_are_encoded_anew(kitchen, tmp_path):
    """Ids of the trainee's own, each window a document with an end token behind it."""
    import tokenizers

    backend = tokenizers.Tokenizer.from_file(str(kitchen.model / "tokenizer.json"))
    spec = json.loads(backend.to_str())
    spec["model"]["vocab"] |= {"00": 256, "11": 257}
    spec["model"]["merges"] = [["0", "0"], ["1", "1"]]
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    found = mix(kitchen.mixture(model=str(tmp_path / "tokenizer.json")), tmp_path / "mix")
    assert found.portions["books"].of[str(kitchen.run)]["encoded_anew"]
    rows = [row for row in rows_of(tmp_path / "mix") if row["source"] == "books"]
    assert any(token in (256, 257) for row in rows for token in row["input_ids"])
    assert any(END in row["input_ids"] for row in rows)
    assert found.tokenizer != kitchen.tokenizer.hash


def test_columns_are_those_that_were_asked_for(kitchen, tmp_path):
    mix(kitchen.mixture(), tmp_path / "mix")
    assert set(rows_of(tmp_path / "mix")[0]) == {
        "sequence", "source", "documents", "input_ids", "num_tokens", "boundaries", "untied",
    }  # fmt: skip
    mix(kitchen.mixture(write=replace(TOKENS, labels=True, extra_token=True)), tmp_path / "mix")
    row = rows_of(tmp_path / "mix")[0]
    assert row["labels"] == row["input_ids"]
    assert len(row["labels"]) == len(row["attention_mask"]) == LENGTH + 1


def test_the_extra_token_is_the_next_one(kitchen, tmp_path):
    mix(kitchen.mixture(write=replace(TOKENS, extra_token=True)), tmp_path / "mix")
    inner = 0
    for row in rows_of(tmp_path / "mix"):
        if row["source"] != "wiki":
            name, start = row["documents"][0].rsplit("@", 1)
            text = kitchen.texts[name]
            end = int(start) + LENGTH
            following = ord(text[end]) if end < len(text) else None
            expected = END if following is None else kitchen.tokenizer.encode(text[end]).ids[0]
            assert row["input_ids"][LENGTH] == expected
            inner += following is not None
    assert inner > 10


UNTIED = Untying(share=1.0, identifiers=True, backtrace=True)


def test_documents_of_a_sequence_are_untied(kitchen, tmp_path):
    found = mix(kitchen.mixture(untie=UNTIED, write=replace(TOKENS, labels=True)), tmp_path / "mix")
    assert (found.portions["books"].untied, found.portions["books"].alone) == (0, 20)
    wiki = found.portions["wiki"]
    assert wiki.untied == 8
    assert wiki.tokens - wiki.tokens_added + wiki.tokens_left_over == wiki.tokens_drawn
    for row in rows_of(tmp_path / "mix"):
        assert row["untied"] == (row["source"] == "wiki")
        assert row["boundaries"] == [0]
        masked = [label == -100 for label in row["labels"]]
        assert any(masked) == (row["source"] == "wiki")
        learned = kitchen.tokenizer.decode([t for t, m in zip(row["input_ids"], masked, strict=True) if not m])
        assert "<D>" not in learned


# on import it warns of what torch has deprecated and of kernels that it would rather have
@pytest.mark.filterwarnings("ignore")
def test_megatron_reads_it_in_the_shares_asked_for(kitchen, tmp_path):
    from megatron.core.datasets.indexed_dataset import IndexedDataset

    mix(kitchen.mixture(), tmp_path / "rows")
    found = mix(kitchen.mixture(write=Exporting(format="megatron")), tmp_path / "mix")
    rows = rows_of(tmp_path / "rows")
    assert list(found.stems) == list(dict.fromkeys(row["source"] for row in rows))
    for name, stem in found.stems.items():
        data = IndexedDataset(str(tmp_path / "mix" / "data" / stem))
        assert [data[i].tolist() for i in range(len(data))] == [r["input_ids"] for r in rows if r["source"] == name]
    readme = (tmp_path / "mix" / "README.md").read_text()
    shares = {name: f"{share:.6f} path/to/this/folder/data/{found.stems[name]}" for name, share in
              {"books": 0.5, "code": 0.3, "wiki": 0.2}.items()}  # fmt: skip
    assert all(share in readme for share in shares.values())


def test_datasets_reads_it(kitchen, tmp_path):
    from datasets import load_dataset, load_from_disk

    mix(kitchen.mixture(), tmp_path / "rows")
    mix(kitchen.mixture(write=Exporting(format="hf"), positions=True), tmp_path / "mix")
    rows = rows_of(tmp_path / "rows")
    found = load_from_disk(str(tmp_path / "mix" / "data"))
    assert [list(row) for row in found["input_ids"]] == [row["input_ids"] for row in rows]
    assert found["source"] == [row["source"] for row in rows]
    assert found["position_ids"][0][:2] == [0, 1]
    repository = load_dataset(str(tmp_path / "rows"), split="train", cache_dir=str(tmp_path / "cache"))
    assert repository["input_ids"][0] == rows[0]["input_ids"]


def test_shards_of_mosaic_know_the_documents(kitchen, tmp_path):
    found = mix(kitchen.mixture(write=Exporting(format="mds")), tmp_path / "mix")
    assert (
        json.loads((tmp_path / "mix/data" / found.stems["wiki"] / "index.json").read_text())["shards"][0]["samples"]
        == 8
    )


@pytest.mark.parametrize("format", ["jsonl", "jsonl.zst", "datatrove", "raw"])
def test_every_format_has_the_same_tokens(kitchen, tmp_path, format):
    rows = mix(kitchen.mixture(), tmp_path / "rows")
    assert mix(kitchen.mixture(write=Exporting(format=format)), tmp_path / "mix").sha256 == rows.sha256


def test_a_mixture_is_replaced_as_a_whole(kitchen, tmp_path, monkeypatch):
    mix(kitchen.mixture(), tmp_path / "mix")
    before = content(tmp_path / "mix")

    def fail(*_):
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        mix(kitchen.mixture(seed=1), tmp_path / "mix", progress=fail)
    assert content(tmp_path / "mix") == before
    assert [path.name for path in tmp_path.iterdir()] == ["mix"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(RunError, match="name another folder"):
        mix(kitchen.mixture(), tmp_path / "mine")


def test_an_export_of_a_run_that_was_not_selected_says_so(kitchen, tmp_path):
    with pytest.raises(RunError, match="is no measured run"):
        mix(
            kitchen.mixture(windows=(f"books={tmp_path}", f"code={kitchen.run}"), model=str(kitchen.model)),
            tmp_path / "m",
        )
    with pytest.raises(RunError, match=r"keeps no windows of the source 'essays'; it has books, code; --sources"):
        mix(kitchen.mixture(sources={"books": "essays"}), tmp_path / "m")


def test_all_sources_of_a_run_can_be_one(kitchen, tmp_path):
    whole = kitchen.mixture(windows=(f"long={kitchen.run}",), documents=(), shares={"long": 1.0}, tokens=None,
                            sources={"long": "*"})  # fmt: skip
    assert mix(whole, tmp_path / "mix").num_windows == len(kitchen.kept())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": 63}, "at least one sequence of 64, got 63"),
        ({"length": 0}, "length must be at least 1"),
        ({"lookahead": 0}, "lookahead must be at least 1"),
        ({"end_token": None}, "and .* has none; name one by its id"),
        ({"write": Exporting(format="megatron", extra_token=True)}, "its samples would drift"),
        ({"write": Exporting(format="raw"), "positions": True}, "holds token ids alone"),
        ({"write": Exporting(carry=("year",))}, "write.carry is of single windows"),
        ({"windows": (), "shares": {"wiki": 1.0}}, "model must name a model"),
    ],
)
def test_settings_that_make_no_sense_are_refused(kitchen, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        mix(kitchen.mixture(**changes), tmp_path / "mix")


def test_mixing_needs_no_torch(kitchen, tmp_path):
    code = (
        "import sys; sys.modules['torch'] = sys.modules['transformers'] = None\n"
        "from pathlib import Path\nfrom longattn.mixing import mix\nfrom longattn.settings import Mixture\n"
        f"places = ('wiki={kitchen.root / 'wiki'}',)\n"
        f"settings = dict(shares=dict(wiki=1.0), length=64, end_token=10, model={str(kitchen.model)!r})\n"
        "mixture = Mixture(documents=places, **settings)\n"
        "print(mix(mixture, Path(sys.argv[1])).num_windows)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "mix")], capture_output=True, text=True, check=True, env=os.environ
    )
    assert int(done.stdout) > 20
