"""Which files an input names: files, folders, globs, sources, other file systems."""

import logging
import os
from pathlib import Path

import fsspec
import pytest

from longattn.corpus import list_files, list_units, read_unit
from longattn.errors import CorpusError
from longattn.settings import Corpus

RECORD = {"text": "t"}


def listed(*inputs, **settings):
    return list_files(Corpus(inputs=tuple(map(str, inputs)), **settings))


@pytest.fixture
def names(tmp_path, monkeypatch):
    """The names of the files that the inputs, relative to the test's folder, name."""
    monkeypatch.chdir(tmp_path)
    return lambda *inputs, **settings: [part.file for part in listed(*inputs, **settings).files]


def test_a_folder_holds_its_files_at_every_depth_by_name(write, names):
    for name in (
        "d/b.jsonl",
        "d/a.jsonl.zst",
        "d/x/y/c.parquet",
        "d/x/e.py",
        "d/f.txt.gz",
        "d/G.JSON",
        "d/h.ndjson",
    ):
        write(name)
    expected = [
        "d/G.JSON",
        "d/a.jsonl.zst",
        "d/b.jsonl",
        "d/f.txt.gz",
        "d/h.ndjson",
        "d/x/e.py",
        "d/x/y/c.parquet",
    ]
    assert names("d") == names("d/") == names("./d") == expected
    assert names(".") == expected
    assert names(f"file://{Path.cwd()}/d") == names(Path.cwd() / "d") == [f"{Path.cwd()}/{name}" for name in expected]


def test_a_data_set_in_arrow_is_answered_with_how_to_make_parquet_of_it(write, names):
    for name in ("data-00000-of-00001.arrow", "state.json", "dataset_info.json"):
        write(f"saved/train/{name}")
    write("saved/dataset_dict.json")
    for place in ("saved", "saved/train/data-00000-of-00001.arrow"):
        with pytest.raises(CorpusError, match="to_parquet"):
            listed(place)
    write("saved/more.jsonl")
    assert names("saved") == ["saved/more.jsonl"]
    assert listed("saved").skipped == {".arrow": 1, "of an Arrow data set": 3}


def test_what_is_passed_over_is_counted(write, tmp_path, caplog):
    for name in (
        "a.jsonl",
        "b.png",
        "c.png",
        "LICENSE",
        ".hidden.jsonl",
        ".git/x.txt",
        ".git/y.txt",
        "_SUCCESS",
    ):
        write(name)
    for name in ("_delta_log/0.json", "_temporary/0.parquet", "p/__init__.py", "a.parquet.gz"):
        write(name)
    (tmp_path / "broken.txt").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / os.fsdecode(b"bad\xff.txt")).touch()
    with caplog.at_level(logging.INFO):
        listing = listed(tmp_path)
    assert [Path(part.file).name for part in listing.files] == ["a.jsonl", "__init__.py"]
    assert listing.skipped == {
        ".png": 2,
        "without suffix": 2,
        "hidden": 4,
        ".gz": 1,
        "not a file": 2,
        "name not UTF-8": 1,
    }
    assert "2 .png" in caplog.text


def test_a_glob_is_matched_below_its_fixed_part(write, names):
    for name in (
        "d/a.jsonl",
        "d/x/a.jsonl",
        "d/x/y/a.jsonl",
        "d/x/y/b.txt",
        "d/z/c.jsonl",
        "d/.h/a.jsonl",
        "e/a.jsonl",
    ):
        write(name)
    assert names("d/*.jsonl") == ["d/a.jsonl"]
    assert names("d/**/*.jsonl") == ["d/a.jsonl", "d/x/a.jsonl", "d/x/y/a.jsonl", "d/z/c.jsonl"]
    assert names("d/**") == ["d/a.jsonl", "d/x/a.jsonl", "d/x/y/a.jsonl", "d/x/y/b.txt", "d/z/c.jsonl"]
    assert names("**/[!a].*") == ["d/x/y/b.txt", "d/z/c.jsonl"]
    assert names("d/?/a.jsonl") == ["d/x/a.jsonl"]
    assert names("d/**/y/*.jsonl") == ["d/x/y/a.jsonl"]


def test_a_folder_that_matches_a_glob_gives_all_it_holds(write, names):
    for name in ("d/x/a.jsonl", "d/x/y/b.txt", "d/z.jsonl"):
        write(name)
    assert names("d/x*") == ["d/x/a.jsonl", "d/x/y/b.txt"]
    assert names("*") == ["d/x/a.jsonl", "d/x/y/b.txt", "d/z.jsonl"]


def test_a_name_with_glob_signs_is_a_name_if_it_exists(write, names):
    write("a[1].jsonl")
    write("a1.jsonl")
    assert names("a[1].jsonl") == ["a[1].jsonl"]
    assert names("a[12].jsonl") == ["a1.jsonl"]


def test_a_source_stands_before_the_path(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("d/a.jsonl", "lang=en/b.jsonl", "x=y.jsonl"):
        write(name)
    inputs = ("books=d", "web=lang=en/b.jsonl", "x=y.jsonl", "lang=en/*.jsonl", f"more={tmp_path}/d/*.jsonl")
    listing = listed(*inputs)
    sources = {part.file: part.source for part in listing.files}
    assert sources == {"d/a.jsonl": "books", "lang=en/b.jsonl": "web", "x=y.jsonl": None}
    assert listing.repeated == ("lang=en/b.jsonl", f"{tmp_path}/d/a.jsonl")


def test_a_file_named_twice_is_read_once_with_the_first_source(write, tmp_path, caplog):
    file = write("d/a.jsonl", RECORD)
    (tmp_path / "link").symlink_to("d")
    with caplog.at_level(logging.INFO):
        listing = listed(f"one={file}", f"two={file.parent}", tmp_path / "link")
    assert [(part.file, part.source) for part in listing.files] == [(str(file), "one")]
    assert listing.repeated == (str(file), str(tmp_path / "link/a.jsonl"))
    assert "read once" in caplog.text


def test_links_are_followed_but_not_in_circles(write, names):
    write("d/x/a.jsonl")
    write("elsewhere/b.jsonl")
    Path("d/x/up").symlink_to("..")
    Path("d/other").symlink_to("../elsewhere")
    assert names("d") == ["d/other/b.jsonl", "d/x/a.jsonl"]


def test_the_root_is_the_folder_below_which_the_file_was_found(write, tmp_path):
    file = write("d/x/a.jsonl")
    for text, root in ((file, "d/x"), (tmp_path / "d", "d"), (tmp_path / "d/*/*.jsonl", "d"), (tmp_path, "")):
        assert listed(text).files[0].root == str(tmp_path / root)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("absent", "absent: no such file"),
        ("books=absent", "books=absent: no such file"),
        ("*.jsonl", "*.jsonl: no JSONL"),
        ("absent/**", "absent"),
        ("pictures", "1 .png"),
        ("pictures/a.png", ".txt"),
        ("", "no input"),
        ("ftp://host/a.jsonl", "ftp://host"),
        ("s3://key:secret@bucket/a.jsonl", "environment"),
    ],
)
def test_an_input_that_names_nothing_is_an_error_that_names_it(write, tmp_path, monkeypatch, text, said):
    monkeypatch.chdir(tmp_path)
    write("pictures/a.png")
    with pytest.raises(CorpusError) as caught:
        listed(text)
    assert said in str(caught.value)
    assert "secret" not in str(caught.value)


def test_no_input_is_an_error():
    with pytest.raises(CorpusError, match="no input"):
        listed()


def test_modification_times_have_nanoseconds(write):
    file = write("a.jsonl", RECORD)
    os.utime(file, ns=(0, 1_700_000_000_123_456_789))
    (part,) = listed(file).files
    assert (part.size, part.modified) == (14, "2023-11-14T22:13:20.123456789Z")


@pytest.fixture
def remote():
    """A file system in memory, reached by URI."""
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    yield memory
    memory.store.clear()


def test_a_uri_is_listed_and_read_as_a_local_path_is(remote):
    for name in (
        "d/x/a.jsonl",
        "d/x/b c#?%20.jsonl",
        "d/y/c.txt",
        "d/.h/d.jsonl",
        "d/e.png",
        "d/_log/f.json",
    ):
        remote.pipe(f"/{name}", b'{"text": "t"}\n')
    root = "fsspec+memory:///d"
    everything = [f"{root}/x/a.jsonl", f"{root}/x/b c#?%20.jsonl", f"{root}/y/c.txt"]
    for inputs, expected in {
        (root,): everything,
        (root + "/",): everything,
        (f"{root}/**/*.jsonl",): everything[:2],
        (f"{root}/*",): everything,
        (f"{root}/x/a.jsonl", root): everything,
    }.items():
        corpus = Corpus(inputs=inputs, source_from="folder", unit_bytes=5)
        listing = list_files(corpus)
        assert [part.file for part in listing.files] == expected
        records = [record for unit in list_units(corpus) for record in read_unit(unit, corpus)]
        assert [record.file for record in records] == expected
        assert {record.source for record in records} <= {"x", "y", "all"}
    assert listed(root).skipped == {".png": 1, "hidden": 2}
    with pytest.raises(CorpusError, match="absent"):
        listed(f"{root}/absent")


def test_options_of_a_uri_stay_with_its_files(remote, monkeypatch):
    """They matter where a file is opened, and not where it is matched or its source is named."""
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    from longattn import stores

    remote.pipe("/bucket/d/x/a.jsonl", b'{"text": "t"}\n' * 5)
    opened = []
    monkeypatch.setattr(
        stores,
        "_file_system",
        lambda *uri: opened.append(uri) or (PyFileSystem(FSSpecHandler(remote)), "/bucket"),
    )
    corpus = Corpus(inputs=("web=s3://bucket/d/*/?.jsonl?region=eu",), source_from="folder", unit_bytes=20)
    units = list_units(corpus)
    assert {part.file for unit in units for part in unit.slices} == {"s3://bucket/d/x/a.jsonl?region=eu"}
    assert {part.root for unit in units for part in unit.slices} == {"s3://bucket/d"}
    assert len(units) == 4
    records = [record for unit in units for record in read_unit(unit, corpus)]
    assert [record.text for record in records] == ["t"] * 5
    assert set(opened) == {("s3://bucket", "?region=eu")}


@pytest.mark.parametrize(
    "address",
    [
        "s3://key:hf_secret@bucket/a.jsonl",
        "s3://bucket/a.jsonl?region=x&secret_key=hf_secret",
        "abfs://c@a.dfs.core.windows.net/a.jsonl?sas_token=hf_secret",
    ],
)
def test_an_address_with_a_secret_is_refused_without_showing_it(address):
    with pytest.raises(CorpusError, match="give it in the environment instead") as raised:
        list_files(Corpus(inputs=(address,)))
    assert "hf_secret" not in str(raised.value)
