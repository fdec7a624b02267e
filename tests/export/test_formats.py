"""Every trainer format is read back by the library that owns it."""

import importlib
import importlib.metadata
import itertools
import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from longattn.export.base import MOST_SOURCES, TokenFormat
from longattn.export.exporting import COLUMNS, FORMATS
from longattn.export.mds import spans
from longattn.settings import Exporting

TOKEN_FORMATS = [name for name, format in FORMATS.items() if format.tokens_only]
END = 299


def chosen(made, source):
    """The kept windows of a source, in the order of the export."""
    return [window for i, window in enumerate(made.cut) if i % 2 == 0 and window.source == source]


def stems(made):
    return json.loads((made.output / "export.json").read_text())["stems"]


# on import it warns of what torch has deprecated and of kernels that it would rather have
megatron = pytest.mark.filterwarnings("ignore")


@megatron
def test_megatron_reads_its_indexed_datasets(made):
    from megatron.core.datasets.indexed_dataset import IndexedDataset

    made.export(Exporting(format="megatron"))
    assert set(stems(made)) == {"books", "notes"}
    for source, stem in stems(made).items():
        found = IndexedDataset(str(made.output / "data" / stem))
        windows = chosen(made, source)
        assert found.index.dtype == np.uint16
        assert len(found) == len(windows) > 1
        np.testing.assert_array_equal(found.document_indices, np.arange(len(windows) + 1))
        for tokens, window in zip(found, windows, strict=True):
            assert tokens.tolist() == window.tokens.tolist()


@megatron
def test_megatrons_samples_begin_where_windows_do(made):
    from megatron.core.datasets import helpers
    from megatron.core.datasets.indexed_dataset import IndexedDataset

    made.export(Exporting(format="megatron"))
    found = IndexedDataset(str(made.output / "data" / stems(made)["books"]))
    assert len(found) >= 10
    order = np.arange(len(found), dtype=np.int32)
    samples = helpers.build_sample_idx_int32(
        found.sequence_lengths, order, 32, 1, found.sequence_lengths.sum(), True, 1
    )
    assert [tuple(sample) for sample in samples[:10].tolist()] == [(k, 0) for k in range(10)]


@pytest.mark.parametrize("extra", [False, True])
def test_datatrove_reads_its_folders(made, extra):
    from datatrove.utils.dataset import DatatroveFolderDataset

    made.export(Exporting(format="datatrove", extra_token=extra), end_token=END)
    for source, stem in stems(made).items():
        found = DatatroveFolderDataset(str(made.output / "data" / stem), seq_len=31 + extra, token_size=2)
        windows = chosen(made, source)
        assert len(found) == len(windows)
        for item, window in zip(found, windows, strict=True):
            assert item["input_ids"].tolist()[:32] == window.tokens.tolist()
            if extra:
                assert item["input_ids"].tolist()[32] == following(made, window)


def following(made, window):
    """The token behind a window."""
    ids = made.tokenizer.encode(made.documents[window.doc_id].text).ids
    end = window.start + len(window.tokens)
    return int(ids[end]) if end < len(ids) else END


@pytest.mark.parametrize("extra", [False, True])
def test_bare_token_ids_are_found_by_their_offsets(made, extra):
    made.export(Exporting(format="raw", extra_token=extra), end_token=END)
    for source, stem in stems(made).items():
        tokens = np.fromfile(made.output / "data" / f"{stem}.bin", "<u2")
        offsets = np.load(made.output / "data" / f"{stem}.offsets.npy")
        windows = chosen(made, source)
        assert len(offsets) == len(windows) + 1
        assert offsets[-1] == len(tokens) == (32 + extra) * len(windows)
        for start, window in zip(offsets, windows, strict=False):
            assert tokens[start : start + 32].tolist() == window.tokens.tolist()
            if extra:
                assert tokens[start + 32] == following(made, window)


@pytest.mark.parametrize("labels", [False, True])
def test_datasets_loads_its_folder(made, labels):
    from datasets import load_from_disk

    made.export(
        Exporting(format="hf", content="both", labels=labels, file_bytes=2000, row_group_bytes=500, carry=("*",))
    )
    found = load_from_disk(str(made.output / "data"))
    windows = [window for i, window in enumerate(made.cut) if i % 2 == 0]
    assert len(list(made.output.glob("data/part-*.arrow"))) > 1
    assert found["window_id"] == [window.id for window in windows]
    assert [list(row) for row in found["input_ids"]] == [window.tokens.tolist() for window in windows]
    assert ("labels" in found.column_names) == labels
    if labels:
        assert found["labels"][0] == found["input_ids"][0]
        assert found["attention_mask"][0] == [1] * 32
    assert {"year", "parts"} <= set(found.column_names)


def test_other_windows_have_another_fingerprint(made):
    """Under it datasets keeps what was computed from them."""
    from datasets import load_from_disk

    found = []
    for first in (0, 1, 1):
        made.select(lambda window, first=first: made.cut.index(window) % 2 == first)
        made.export(Exporting(format="hf", content="tokens"))
        found.append(load_from_disk(str(made.output / "data"))._fingerprint)
    assert found[0] != found[1] == found[2]


def test_datasets_loads_rows_as_a_repository(made, tmp_path):
    from datasets import load_dataset

    made.export(Exporting(format="parquet", content="tokens"))
    found = load_dataset(str(made.output), split="train", cache_dir=str(tmp_path / "cache"))
    assert found["input_ids"][0] == made.cut[0].tokens.tolist()


@pytest.fixture(scope="module")
def mds_reader():
    """The reader of mosaicml-streaming, without the rest of that package, which needs the software of five clouds."""
    root = Path(importlib.metadata.distribution("mosaicml-streaming").locate_file("streaming"))
    with pytest.MonkeyPatch.context() as patch:
        for name in ("streaming", "streaming.base"):
            package = types.ModuleType(name)
            package.__path__ = [str(root.joinpath(*name.split(".")[1:]))]
            patch.setitem(sys.modules, name, package)
        yield importlib.import_module("streaming.base.format.mds.reader").MDSReader


def test_streaming_reads_its_shards(made, mds_reader, monkeypatch):
    monkeypatch.setattr("longattn.export.mds.SHARD_BYTES", 600)
    made.export(Exporting(format="mds"))
    for source, stem in stems(made).items():
        folder = made.output / "data" / stem
        shards = json.loads((folder / "index.json").read_text())["shards"]
        readers = [mds_reader.from_json(str(folder), None, shard) for shard in shards]
        rows = [reader[k] for reader in readers for k in range(len(reader))]
        windows = chosen(made, source)
        assert len(shards) > 1
        assert [row["input_ids"].tolist() for row in rows] == [window.tokens.tolist() for window in windows]
        assert {row["domain"] for row in rows} == {source}
        assert all(row["length"] == 32 and row["indices"].tolist() == [[0, 32]] for row in rows)


@pytest.mark.parametrize(
    ("begins", "covered"),
    [
        ((0, 10), [[0, 10], [10, 40]]),
        ((), [[0, 40]]),
        # encoded again, a record begins behind the tokens that were kept
        ((0, 40), [[0, 40]]),
        ((0, 10, 50, 70), [[0, 10], [10, 40]]),
    ],
)
def test_records_of_a_window_end_where_its_tokens_do(begins, covered):
    assert spans({"part_tokens": begins, "input_ids": np.arange(40)}).tolist() == covered


def test_shards_know_the_records_of_a_joined_window(joined, mds_reader):
    joined.export(Exporting(format="mds"))
    (folder,) = (path.parent for path in joined.output.rglob("index.json"))
    (shard,) = json.loads((folder / "index.json").read_text())["shards"]
    reader = mds_reader.from_json(str(folder), None, shard)
    several = 0
    for k, window in enumerate(window for i, window in enumerate(joined.cut) if i % 2 == 0):
        document = joined.documents[window.doc_id]
        starts = joined.tokenizer.encode(document.text).char_starts[window.start : window.start + 32]
        begins = [int(np.searchsorted(starts, part.char_start)) for part in document.parts]
        inner = [0, *(place for place in begins if 0 < place < 32), 32]
        assert reader[k]["indices"].tolist() == [list(pair) for pair in itertools.pairwise(inner)]
        several += len(inner) > 2
    assert several > 1


@pytest.mark.parametrize("format", TOKEN_FORMATS)
def test_token_formats_take_neither_fields_nor_labels(made, format):
    for rule in (Exporting(format=format, carry=("year",)), Exporting(format=format, labels=True)):
        with pytest.raises(ValueError, match="holds token ids alone"):
            made.export(rule)


def test_a_format_whose_samples_would_drift_refuses_an_extra_token(made):
    with pytest.raises(ValueError, match="its samples would drift"):
        made.export(Exporting(format="megatron", extra_token=True), end_token=END)


def test_an_extra_token_needs_tokens_and_an_end(made):
    with pytest.raises(ValueError, match="extra_token is of token ids"):
        made.export(Exporting(extra_token=True), end_token=END)
    with pytest.raises(ValueError, match="needs an end token"):
        made.export(Exporting(content="tokens", extra_token=True))


def test_too_many_sources_are_refused(tmp_path):
    """Their files would all be open at the same time."""
    from longattn.export.base import Batch

    rows = [{"source": f"s{k}", "input_ids": np.zeros(1, np.uint32)} for k in range(MOST_SOURCES + 1)]
    format = FORMATS["raw"]
    assert isinstance(format, TokenFormat)
    with pytest.raises(ValueError, match=f"more than {MOST_SOURCES} sources"):
        format.write(tmp_path, COLUMNS, [Batch(rows, 0)], Exporting(format="raw"), 300)
    assert not list(tmp_path.rglob("*.bin"))


@pytest.mark.parametrize("format", TOKEN_FORMATS)
def test_sources_name_no_path(made, format):
    """What a source is called comes from the corpus."""
    made.export(Exporting(format=format))
    written = {path.relative_to(made.output).parts for path in made.output.rglob("*")}
    assert all(part[0] in {"data", "README.md", "export.json"} for part in written)
    assert list(stems(made).values()) == ["000-books", "001-notes"]
