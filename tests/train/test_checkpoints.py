import pytest

from longattn.train import checkpoints


def write(folder, step, *, sealed=True):
    path = folder / f"checkpoint-{step}"
    (path / "shards").mkdir(parents=True)
    (path / "optimizer.pt").write_bytes(b"moments" * step)
    (path / "shards" / "0.bin").write_bytes(b"weights")
    if sealed:
        checkpoints.seal(path)
    return path


def test_the_newest_whole_one_is_used(tmp_path):
    for step in (9, 10, 2):
        write(tmp_path, step)
    assert checkpoints.last_whole(tmp_path) == tmp_path / "checkpoint-10"
    assert list(checkpoints.all_in(tmp_path)) == [2, 9, 10]


def damage(path, how):
    match how:
        case "unsealed":
            (path / "whole.json").unlink()
        case "seal cut off":
            (path / "whole.json").write_bytes((path / "whole.json").read_bytes()[:40])
        case "file missing":
            (path / "shards" / "0.bin").unlink()
        case "file cut off":
            (path / "optimizer.pt").write_bytes(b"mom")
        case "bit flipped":
            (path / "shards" / "0.bin").write_bytes(b"weighus")


@pytest.mark.parametrize("how", ["unsealed", "seal cut off", "file missing", "file cut off", "bit flipped"])
def test_one_that_is_not_whole_is_removed_and_never_used(how, tmp_path):
    write(tmp_path, 1)
    damage(write(tmp_path, 2), how)
    assert checkpoints.problem(tmp_path / "checkpoint-2")
    assert checkpoints.last_whole(tmp_path) == tmp_path / "checkpoint-1"
    assert list(checkpoints.all_in(tmp_path)) == [1]


def test_without_a_whole_one_there_is_none(tmp_path):
    assert checkpoints.last_whole(tmp_path / "absent") is None
    write(tmp_path, 3, sealed=False)
    assert checkpoints.last_whole(tmp_path) is None


def test_the_newest_are_kept(tmp_path):
    for step in (1, 2, 3, 10):
        write(tmp_path, step)
    checkpoints.thin(tmp_path, 2)
    assert list(checkpoints.all_in(tmp_path)) == [3, 10]
