import errno
import os
import threading
import time
from pathlib import Path

import pytest

from longattn.errors import ModelError
from longattn.models.cache import cached_folder, file_digest
from longattn.stores import cache_folder


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"LONGATTN_CACHE": "/a"}, "/a"),
        ({"XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/b/longattn"),
        ({"HOME": "/c"}, "/c/.cache/longattn"),
    ],
)
def test_where_the_cache_is(monkeypatch, variables, expected):
    for name in ("LONGATTN_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache_folder() == Path(expected)


def test_a_folder_is_built_once(cache):
    built = []

    def build(folder: Path) -> None:
        built.append(folder)
        (folder / "a").write_text("1")

    assert cached_folder("kind/name", build) == cached_folder("kind/name", build) == cache / "kind" / "name"
    assert len(built) == 1
    assert [path.name for path in (cache / "kind").iterdir()] == ["name"]


def test_a_build_that_fails_leaves_nothing(cache):
    def build(folder: Path) -> None:
        (folder / "half").write_text("1")
        raise RuntimeError("no more disk")

    with pytest.raises(RuntimeError, match="no more disk"):
        cached_folder("kind/name", build)
    assert list((cache / "kind").iterdir()) == []


def test_builders_at_the_same_time_get_the_same_folder(cache):
    meet = threading.Barrier(3)
    results = []

    def build(folder: Path) -> None:
        (folder / "a").write_text("1")
        meet.wait()

    threads = [threading.Thread(target=lambda: results.append(cached_folder("x", build))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [cache / "x"] * 3
    assert [path.name for path in cache.iterdir()] == ["x"]


def test_a_digest_is_remembered_until_the_file_changes(cache, tmp_path, monkeypatch):
    path = tmp_path / "weights"
    path.write_bytes(b"abc")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert file_digest(path) == digest
    assert not cache.exists(), "a file changed just now may change again within the same time stamp"

    later = time.time_ns() + 3_600_000_000_000
    monkeypatch.setattr("longattn.models.cache.time.time_ns", lambda: later)
    assert file_digest(path) == digest
    (note,) = (cache / "digests").iterdir()
    note.write_text("remembered")
    assert file_digest(path) == "remembered"

    path.write_bytes(b"abd")
    os.utime(path, ns=(0, 0))
    assert file_digest(path) != "remembered"


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_cache_that_may_not_be_written_is_named_with_the_way_out(cache, tmp_path, monkeypatch, number):
    def refused(path: Path, *_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), str(path))

    model = tmp_path / "model"
    model.write_bytes(b"x")
    later = time.time_ns() + 3_600_000_000_000
    monkeypatch.setattr("longattn.models.cache.time.time_ns", lambda: later)
    monkeypatch.setattr(Path, "mkdir", refused)
    expected = rf"the cache folder {cache} cannot be written \({os.strerror(number)}\); set LONGATTN_CACHE"
    with pytest.raises(ModelError, match=expected):
        cached_folder("kind/name", lambda folder: None)
    with pytest.raises(ModelError, match=expected):
        file_digest(model)


def test_another_error_of_the_disk_stays_what_it_is(cache, monkeypatch):
    def full(path: Path, *_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(OSError, match="No space left"):
        cached_folder("kind/name", lambda folder: None)
