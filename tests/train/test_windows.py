import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from longattn.errors import RunError
from longattn.export.base import Batch
from longattn.export.exporting import COLUMNS, FORMATS
from longattn.export.summary import ExportedFile, ExportSummary
from longattn.settings import Exporting
from longattn.tables import file_sha256, write_json
from longattn.train import read_windows

LENGTHS = (40, 40, 7, 40)


def tokens():
    random = np.random.default_rng(3)
    return [random.integers(0, 50_000, length).astype(np.uint32) for length in LENGTHS]


def write_export(folder, format="parquet", names=("input_ids", "text"), tokenizer="0123456789abcdef"):
    """An export of these columns, as the exporter's own formats write it."""
    schema = pa.schema([COLUMNS.field(name) for name in names])
    values = {"text": lambda ids: "text of it", "input_ids": lambda ids: ids, "labels": lambda ids: ids}
    rows = [{name: values[name](ids) for name in names} for ids in tokens()]
    rule = Exporting(format=format, file_bytes=200)
    batches = [Batch(rows[i : i + 1], 150 * i) for i in range(len(rows))]
    written = FORMATS[format].write(folder, schema, batches, rule, 2**17)
    files = [
        ExportedFile(path.relative_to(folder).as_posix(), path.stat().st_size, file_sha256(path))
        for path in written.files
    ]
    summary = ExportSummary(
        format=format,
        content="both",
        num_windows=4,
        num_tokens=127,
        num_characters=0,
        windows={},
        tokens={},
        files=tuple(files),
        tokenizer=tokenizer,
    )
    write_json(folder / "export.json", summary)
    return folder


@pytest.mark.parametrize("format", ["parquet", "jsonl", "jsonl.zst", "hf"])
def test_every_format_of_rows_is_read_back_as_it_was_written(format, tmp_path, cache):
    write_export(tmp_path / "run" / "export", format)
    found = read_windows(tmp_path / "run")
    assert len(list((tmp_path / "run/export/data").glob("part*"))) > 1
    assert [row["input_ids"].tolist() for row in found] == [ids.tolist() for ids in tokens()]
    assert found.lengths.tolist() == list(LENGTHS)
    assert found.tokenizer == "0123456789abcdef"
    assert found.highest_id() == max(ids.max() for ids in tokens())
    assert found[-1]["input_ids"].tolist() == found[3]["input_ids"].tolist()
    assert set(found[0]) == {"input_ids"}


def test_formats_of_the_same_windows_are_told_apart_by_their_files_alone(tmp_path, cache):
    first, again = (read_windows(write_export(tmp_path / name)) for name in "ab")
    assert first.hash == again.hash
    assert first.hash != read_windows(write_export(tmp_path / "c", "jsonl")).hash
    # converted once for both
    assert len(list((cache / "windows").iterdir())) == 2


@pytest.mark.parametrize("format", ["parquet", "jsonl", "hf"])
def test_labels_are_read_where_an_export_has_them(format, tmp_path, cache):
    found = read_windows(write_export(tmp_path, format, names=("input_ids", "labels")))
    assert found[2]["labels"].tolist() == tokens()[2].tolist()


@pytest.mark.parametrize("format", ["parquet", "jsonl", "jsonl.zst", "hf"])
def test_an_export_of_text_alone_is_refused_with_the_command_that_helps(format, tmp_path, cache):
    with pytest.raises(RunError, match=r"text alone.*longattn export RUN --write.content tokens"):
        read_windows(write_export(tmp_path, format, names=("text",)))


def test_a_format_for_other_trainers_is_refused(tmp_path, cache):
    folder = write_export(tmp_path)
    summary = json.loads((folder / "export.json").read_text()) | {"format": "megatron"}
    (folder / "export.json").write_text(json.dumps(summary))
    with pytest.raises(RunError, match="megatron"):
        read_windows(folder)


def test_an_export_that_was_changed_is_refused(tmp_path, cache):
    folder = write_export(tmp_path)
    rows = pa.table({"input_ids": pa.array([[1, 2]], pa.list_(pa.int32()))})
    pq.write_table(rows, folder / "data/part-00000.parquet")
    with pytest.raises(RunError, match=r"part-00000.parquet is no longer the file"):
        read_windows(folder)


def test_files_of_ones_own_are_read_too(tmp_path, cache):
    rows = pa.table({"input_ids": pa.array([[1, 2, 3], [4, 5]], pa.list_(pa.int64()))})
    pq.write_table(rows, tmp_path / "mine.parquet")
    found = read_windows(tmp_path / "mine.parquet")
    assert [row["input_ids"].tolist() for row in found] == [[1, 2, 3], [4, 5]]
    assert found.tokenizer is None


@pytest.mark.parametrize(
    ("column", "match"),
    [
        (pa.array([["a"]]), "must be lists of integers"),
        (pa.array([[1]], pa.list_(pa.int32())), "two tokens or more"),
        (pa.array([None, [1, 2]], pa.list_(pa.int32())), "two tokens or more"),
        (pa.array([], pa.list_(pa.int32())), "0 windows"),
    ],
)
def test_rows_that_are_no_windows_are_refused(column, match, tmp_path, cache):
    pq.write_table(pa.table({"input_ids": column}), tmp_path / "mine.parquet")
    with pytest.raises(RunError, match=match):
        read_windows(tmp_path / "mine.parquet")


def test_a_folder_without_windows_is_refused(tmp_path, cache):
    with pytest.raises(RunError, match="files of one kind"):
        read_windows(tmp_path)
    with pytest.raises(FileNotFoundError, match="no export"):
        read_windows(tmp_path / "absent")
