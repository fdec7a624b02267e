import json
import os
import signal
import subprocess
import sys

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from longattn.errors import RunError
from longattn.export import read_texts
from longattn.settings import Corpus, Exporting
from longattn.tables import read_parquet, write_parquet


def rows_of(made):
    """The exported rows, whatever the format."""
    rows = []
    for path in sorted(made.output.glob("data/part-*")):
        if path.suffix == ".parquet":
            rows += read_parquet(path).to_pylist()
        else:
            compression = "zstd" if path.suffix == ".zst" else None
            with pa.input_stream(path, compression=compression) as stream:
                rows += [orjson.loads(line) for line in stream.read().splitlines()]
    return rows


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("format", ["parquet", "jsonl", "jsonl.zst"])
def test_a_row_holds_the_documents_own_text_and_tokens(made, format):
    kept = [window for i, window in enumerate(made.cut) if i % 2 == 0]
    summary = made.export(Exporting(format=format, content="both"))
    rows = rows_of(made)
    assert [row["window_id"] for row in rows] == [window.id for window in kept]
    for row, window in zip(rows, kept, strict=True):
        assert row["text"] == made.documents[window.doc_id].text[window.char_start : window.char_end]
        assert row["input_ids"] == window.tokens.tolist()
        assert (row["source"], row["file"], row["position"]) == (window.source, window.file, window.position)
        assert (row["start"], row["num_tokens"], row["doc_tokens"]) == (window.start, 32, window.doc_tokens)
        assert row["score"] == -float(made.cut.index(window))
        assert row["rank"] == made.cut.index(window) + 1
    assert summary.num_windows == len(kept)
    assert summary.num_tokens == 32 * len(kept)
    assert set(summary.windows) == {"books", "notes"}


@pytest.mark.parametrize(
    ("content", "there", "missing"), [("text", "text", "input_ids"), ("tokens", "input_ids", "text")]
)
@pytest.mark.parametrize("format", ["parquet", "jsonl"])
def test_only_the_content_asked_for_is_written(made, content, there, missing, format):
    made.export(Exporting(content=content, format=format))
    for row in rows_of(made):
        assert there in row
        assert missing not in row


def test_text_needs_no_tokenizer_and_tokens_do(made):
    made.export(Exporting(content="text"), tokenizer=None)
    with pytest.raises(ValueError, match="needs the tokenizer that cut the windows"):
        made.export(Exporting(content="tokens"), tokenizer=None)


def test_another_tokenizer_than_the_one_that_cut_is_refused(made, trainee):
    with pytest.raises(RunError, match=f"cut by the tokenizer {made.tokenizer.hash}"):
        made.export(tokenizer=trainee)


def test_a_second_export_has_the_same_bytes(made):
    rule = Exporting(content="both", carry=("*",))
    made.export(rule)
    first = contents(made.output)
    made.export(rule)
    assert contents(made.output) == first


def test_row_groups_and_files_are_counted_in_bytes(made):
    made.export(Exporting(content="text", row_group_bytes=1, file_bytes=10**9))
    file = pq.ParquetFile(made.output / "data" / "part-00000.parquet")
    assert file.metadata.num_row_groups == file.metadata.num_rows > 5
    assert file.metadata.row_group(0).column(0).has_offset_index
    whole = rows_of(made)
    summary = made.export(Exporting(content="text", row_group_bytes=1, file_bytes=600))
    assert len(summary.files) > 3
    assert [file.name for file in summary.files] == [f"data/part-{i:05d}.parquet" for i in range(len(summary.files))]
    assert rows_of(made) == whole


def test_carried_fields_have_one_type_in_all_files(made):
    made.export(Exporting(content="text", carry=("*",), row_group_bytes=1, file_bytes=600))
    schemas = [pq.read_schema(path) for path in sorted(made.output.glob("data/part-*"))]
    assert len(schemas) > 3
    assert all(schema.equals(schemas[0], check_metadata=True) for schema in schemas)
    types = {field.name: field.type for field in schemas[0]}
    assert types["year"] == pa.int64()
    assert types["price"] == pa.float64()
    assert types["late"] == pa.string()
    for name in ("tags", "mixed"):
        assert types[name] == pa.string()
        assert schemas[0].field(name).metadata[b"encoding"] == b"json"
    by_kind = {row["mixed"] for row in rows_of(made) if row["source"] == "books"}
    assert by_kind <= {"5", '"5"', "true"}
    assert {json.dumps(orjson.loads(row["tags"])) for row in rows_of(made) if row["tags"]} == {'["a", {"b": null}]'}
    # our score stays a number, and the input's two fields meet nowhere
    assert types["score"] == pa.float64()
    assert {"mine", None} == {row["input_score"] for row in rows_of(made)}
    assert {"theirs", None} == {row["input_input_score"] for row in rows_of(made)}


def test_json_lines_carry_values_as_they_were(made):
    made.export(Exporting(content="text", format="jsonl", carry=("tags", "year")))
    books = [row for row in rows_of(made) if row["source"] == "books"]
    assert ["a", {"b": None}] in [row.get("tags") for row in books]
    assert 1901 in [row["year"] for row in books]


def test_boundaries_of_joined_records_are_relative_to_the_window(joined):
    joined.export(Exporting(content="text"))
    seen = set()
    for row in rows_of(joined):
        document = joined.documents[row["doc_id"]]
        assert row["parts"][0]["char_start"] == 0
        for part in row["parts"][1:]:
            (original,) = [p for p in document.parts if p.id == part["id"]]
            assert row["text"][part["char_start"] :].startswith(document.text[original.char_start : row["char_end"]])
            seen.add(part["id"])
    assert len(seen) > 1


def test_nothing_kept_makes_one_file_with_columns_and_no_row(made):
    made.select(lambda window: False)
    for format in ("parquet", "jsonl"):
        summary = made.export(Exporting(format=format))
        assert summary.num_windows == 0
        assert len(summary.files) == 1
        assert rows_of(made) == []


def test_of_two_documents_with_one_id_the_first_by_place_is_written(tmp_path, tokenizer, make_run, sentence):
    """Selection keeps the first by file and position; the plan may have them the other way round."""
    for name, text in (("one", sentence(1, 60)), ("two", sentence(2, 60))):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"id": "same", "text": text}), encoding="utf-8")
    files = tuple(str(tmp_path / f"{name}.jsonl") for name in ("one", "two"))
    made = make_run(tmp_path / "run", Corpus(inputs=files, unit_bytes=100), tokenizer)
    first = [window for window in made.cut if window.file == files[0]]
    rows = [
        {"window_id": w.id, "score": 1.0, "kept": w in first, "reason": "kept" if w in first else "duplicate_id"}
        for w in made.cut
    ]
    write_parquet(made.selection, pa.Table.from_pylist(rows, read_parquet(made.selection).schema))
    made.units.reverse()
    made.export()
    assert [(row["window_id"], row["file"]) for row in rows_of(made)] == [(w.id, files[0]) for w in first]
    texts = read_texts(made.units, made.windows, ["same@0"], made.corpus)
    assert texts["same@0"] == rows_of(made)[0]["text"]


def test_a_changed_input_is_named_and_the_old_export_stays(made, books):
    made.export()
    before = contents(made.output)
    books.write_text(books.read_text(encoding="utf-8").replace("river", "brook"), encoding="utf-8")
    with pytest.raises(RunError, match=r"books\.jsonl.*restore the file, or measure"):
        made.export()
    books.unlink()
    with pytest.raises(FileNotFoundError, match=r"books\.jsonl"):
        made.export()
    assert contents(made.output) == before


def test_a_changed_text_behind_an_unchanged_file_is_noticed_by_its_tokens(made, books):
    """Same size and time, other letters: the tokens are no longer those that were measured."""
    facts = books.stat()
    text = books.read_text(encoding="utf-8")
    books.write_text(text.replace("river", "zzzzz"), encoding="utf-8")
    os.utime(books, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    with pytest.raises(RunError, match=r"books\.jsonl: the document 'b\d+' has \d+ tokens"):
        made.export()


def test_a_selection_of_other_windows_is_refused(made):
    table = read_parquet(made.selection)
    foreign = table.slice(0, 1).to_pylist()[0] | {"window_id": "elsewhere@0", "kept": True}
    write_parquet(made.selection, pa.concat_tables([table, pa.Table.from_pylist([foreign], table.schema)]))
    with pytest.raises(RunError, match="select again"):
        made.export()


def test_an_interruption_leaves_the_old_export(made):
    made.export()
    before = contents(made.output)

    def interrupt(done, total):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made.export(Exporting(content="text", row_group_bytes=1, file_bytes=600), progress=interrupt)
    assert contents(made.output) == before
    made.export(Exporting(content="text", format="jsonl"))
    assert sorted(contents(made.output)) == ["README.md", "export.json", "part-00000.jsonl"]
    assert not list(made.run.root.glob(".export.*"))


def test_kill_between_parts_leaves_the_old_export(made, tmp_path):
    made.export()
    before = contents(made.output)
    script = (
        "import sys, os, signal; from pathlib import Path; from longattn.export.staging import replacing\n"
        "with replacing(Path(sys.argv[1]), marker='export.json') as folder:\n"
        "    (folder / 'part-00000.parquet').write_bytes(b'half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, made.output], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert contents(made.output) == before
    made.export()
    assert contents(made.output) == before


def test_a_kill_between_the_two_renames_is_repaired(made):
    made.export()
    before = contents(made.output)
    made.output.rename(made.output.with_name(".export.old"))

    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made.export(progress=interrupt)
    assert contents(made.output) == before
    assert not list(made.run.root.glob(".export.*"))


def test_a_folder_of_somebodys_own_is_not_replaced(made):
    made.output.mkdir()
    (made.output / "thesis.tex").write_text("years of work")
    with pytest.raises(RunError, match="name another folder"):
        made.export()
    assert (made.output / "thesis.tex").read_text() == "years of work"


def test_progress_counts_to_the_end(made):
    seen = []
    summary = made.export(progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i + 1, summary.num_windows) for i in range(summary.num_windows)]


def test_retokenized_windows_are_counted_by_hand(made, trainee):
    kept = [window for i, window in enumerate(made.cut) if i % 2 == 0]
    texts = [made.documents[w.doc_id].text[w.char_start : w.char_end] for w in kept]
    lengths = np.array([len(trainee.encode(text).ids) for text in texts])
    rule = Exporting(content="both", retokenize="trainee")
    summary = made.export(rule, retokenizer=trainee, tokenizer=None)
    change = summary.retokenized
    assert (change.tokens_before, change.tokens_after) == (32 * len(kept), lengths.sum())
    assert (change.shortest, change.longest) == (lengths.min(), lengths.max())
    assert (change.longer, change.shorter) == ((lengths > 32).sum(), (lengths < 32).sum())
    assert change.longer > 0
    assert change.tokens_cut == np.maximum(lengths - 32, 0).sum()
    for row, text, length in zip(rows_of(made), texts, lengths, strict=True):
        assert row["input_ids"] == trainee.encode(text).ids[:32].tolist()
        assert row["num_tokens_trainee"] == length
        assert row["num_tokens"] == 32
        assert row["text"] == text
    card = (made.output / "README.md").read_text(encoding="utf-8")
    assert f"loses\n{change.tokens_cut:,} tokens" in card
    assert f"{change.ratio:.4f}" in card


def test_retokenize_needs_its_tokenizer(made):
    with pytest.raises(ValueError, match="needs that tokenizer"):
        made.export(Exporting(retokenize="llama"))


def test_the_card_has_a_header_the_hub_can_read(made):
    made.run.update_manifest(recipe={"model": {"name": "/data/me/model"}, "corpus": {"inputs": ["/data/me"]}})
    made.export(Exporting(content="text", license="cc-by-4.0", push_to="org/name"))
    card = (made.output / "README.md").read_text(encoding="utf-8")
    _, header, body = card.split("---\n", 2)
    facts = yaml.safe_load(header)
    assert facts["license"] == "cc-by-4.0"
    assert facts["task_categories"] == ["text-generation"]
    assert facts["size_categories"] == ["n<1K"]
    assert facts["configs"][0]["data_files"] == [{"split": "train", "path": "data/part-*.parquet"}]
    assert "language" not in facts
    assert 'load_dataset("org/name", split="train")' in body
    assert "2502.16860" in body
    assert "/data/me" not in card


def test_the_card_of_a_hostile_source_keeps_its_table(tmp_path, books, tokenizer):
    from longattn.export.card import dataset_card
    from longattn.export.summary import ExportSummary

    evil = "a|b\n---\n<script>`x`"
    summary = ExportSummary(
        format="jsonl",
        content="text",
        num_windows=1,
        num_tokens=2,
        num_characters=3,
        windows={evil: 1},
        tokens={evil: 2},
        files=(),
    )
    card = dataset_card(summary, Exporting(), {}, "")
    assert "<script" not in card
    (row,) = [line for line in card.splitlines() if "a\\|b" in line]
    assert row.endswith("| 1 | 2 |")


def test_the_summary_on_disk_names_every_file_with_its_hash(made):
    import hashlib

    made.export()
    summary = json.loads((made.output / "export.json").read_bytes())
    for file in summary["files"]:
        assert hashlib.sha256((made.output / file["name"]).read_bytes()).hexdigest() == file["sha256"]
    assert summary["num_windows"] == len(rows_of(made))


def test_texts_of_windows_that_are_not_kept_can_be_read(made):
    wanted = [made.cut[1], made.cut[-1]]
    texts = read_texts(made.units, made.windows, [window.id for window in wanted], made.corpus)
    assert texts == {w.id: made.documents[w.doc_id].text[w.char_start : w.char_end] for w in wanted}
