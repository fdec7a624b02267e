"""One process at a time: whoever holds a lock is named, and one that is gone is followed by exactly one other."""

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from datetime import datetime

import pytest

from longattn import locks
from longattn.errors import RunError
from longattn.locks import Owner, holder, locked
from longattn.tables import RunFolder


@pytest.fixture(autouse=True)
def short_times(monkeypatch):
    """Seconds become hundredths."""
    monkeypatch.setattr(locks, "BEAT", 0.02)
    monkeypatch.setattr(locks, "STALE", 0.2)


@pytest.fixture
def path(tmp_path):
    return tmp_path / ".lock"


def write(path, owner):
    path.write_text(json.dumps(asdict(owner)))


def gone_here():
    """An owner of this machine whose process has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return replace(Owner.this(), pid=process.pid, began="1")


def elsewhere():
    return replace(Owner.this(), host="another", machine="another boot")


def test_a_lock_is_held_by_one_process_which_is_named_and_then_it_is_free(path):
    with locked(path) as owner:
        assert holder(path) == owner
        with (
            pytest.raises(RunError, match=rf"is in use by process {os.getpid()} on {owner.host} since 20"),
            locked(path),
        ):
            pass
    assert holder(path) is None
    assert list(path.parent.iterdir()) == []


def test_an_owner_of_this_machine_that_is_gone_is_followed_at_once(path, caplog):
    write(path, old := gone_here())
    assert holder(path) is None
    with locked(path) as owner:
        assert holder(path) == owner
    assert caplog.messages == [f"{path} was left behind by {old} and is taken over"]
    assert list(path.parent.iterdir()) == []


def test_an_owner_says_since_when(path):
    with locked(path) as owner:
        since = datetime.strptime(owner.since, "%Y-%m-%d %H:%M:%S")
        assert abs((datetime.now() - since).total_seconds()) < 60
        assert str(owner) == f"process {os.getpid()} on {owner.host} since {owner.since}"


def test_a_number_that_another_process_has_now_is_not_the_owner(path):
    write(path, replace(Owner.this(), began="1"))
    with locked(path):
        pass


def test_an_owner_elsewhere_is_believed_while_it_touches_its_lock(path, monkeypatch):
    """A touch every hundredth of a second, although the lock looks old."""
    write(path, elsewhere())
    os.utime(path, (1, 1))
    real = locks._touched
    monkeypatch.setattr(locks, "_touched", lambda p: (os.utime(p, (time.time() - 1000,) * 2), real(p))[1])
    with pytest.raises(RunError, match=r"in use by process .* on another"), locked(path):
        pass


def test_an_owner_elsewhere_that_is_silent_is_followed_after_the_stated_time(path, caplog):
    write(path, silent := elsewhere())
    with pytest.raises(RunError, match="on another"), locked(path):
        pass
    assert caplog.messages == []
    time.sleep(0.25)
    with locked(path):
        pass
    assert caplog.messages == [
        f"{path}: nothing was heard of {silent} for a while; watching whether it works",
        f"{path} was left behind by {silent} and is taken over",
    ]


def test_who_is_silent_for_the_stated_time_is_watched_for_three_beats(path, monkeypatch):
    """Looking ten times a beat, by a clock that goes only while this sleeps."""
    write(path, silent := elsewhere())
    now, slept = [100.0], []

    def sleep(seconds):
        slept.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(locks.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(locks.time, "sleep", sleep)
    monkeypatch.setattr(locks, "_age", lambda _: locks.STALE)
    assert locks._is_gone(path, silent)
    assert set(slept) == {locks.BEAT / 10}
    assert len(slept) in (30, 31)


def test_a_lock_that_is_not_there_has_no_age(tmp_path):
    assert locks._age(tmp_path / ".lock") == 0.0
    assert locks._age(tmp_path / "no folder" / ".lock") == 0.0
    assert list(tmp_path.iterdir()) == []


def test_a_clock_that_is_wrong_makes_no_lock_old(path, monkeypatch):
    write(path, elsewhere())
    monkeypatch.setattr(locks.time, "time", lambda: 10.0**10)
    with pytest.raises(RunError, match="on another"), locked(path):
        pass


def test_a_process_that_died_while_it_took_over_is_followed_too(path):
    write(path, first := gone_here())
    write(path.with_name(f".lock.{first.token}"), second := gone_here())
    write(path.with_name(f".lock.{second.token}"), gone_here())
    with locked(path) as owner:
        assert [json.loads(p.read_text())["token"] for p in path.parent.iterdir()] == [owner.token]


@pytest.mark.parametrize("call", ["fsync", "link", "rename", "unlink"])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("found", ["nothing", "a lock left behind"])
def test_whatever_a_process_leaves_that_is_killed_while_it_takes_a_lock_is_removed(call, when, found, path):
    if found != "nothing":
        write(path, gone_here())
    code = f"""
import os
from pathlib import Path
from longattn import locks
real = os.{call}
def killed(*args, **kwargs):
    if {when == "after"}:
        real(*args, **kwargs)
    os.kill(os.getpid(), 9)
os.{call} = killed
with locks.locked(Path({str(path)!r})):
    pass
"""
    ended = subprocess.run([sys.executable, "-c", code], check=False).returncode
    # a lock that is merely taken is not renamed
    assert ended == (0 if (call, found) == ("rename", "nothing") else -9)
    with locked(path) as owner:
        assert [json.loads(p.read_text())["token"] for p in path.parent.iterdir()] == [owner.token]
    assert list(path.parent.iterdir()) == []


def test_what_a_living_process_is_about_to_put_in_place_stays(path):
    with locks._written(path, Owner.this()) as mine, locked(path):
        assert mine.exists()


def test_a_claim_counts_as_the_lock(path):
    """Between creating the claim and replacing the lock."""
    write(path, first := gone_here())
    with locked(path.with_name("other")) as living:
        write(path.with_name(f".lock.{first.token}"), living)
        with pytest.raises(RunError, match=f"in use by process {os.getpid()}"), locked(path):
            pass


@pytest.mark.parametrize("tidied", [False, True])
def test_a_claim_to_a_lock_that_was_given_back_is_void(path, tidied, monkeypatch):
    """The slow one judged the old owner gone; meanwhile the lock was taken over, given back and taken anew.

    Its claim may have been tidied away by the new owner before the slow one does so itself.
    """
    write(path, gone_here())
    create = locks._create

    def slow(target, owner):
        monkeypatch.setattr(locks, "_create", create)
        write(path, living)
        made = create(target, owner)
        if tidied:
            target.unlink()
        return made

    with locked(path.with_name("other")) as living:
        monkeypatch.setattr(locks, "_create", slow)
        with pytest.raises(RunError, match="in use"), locked(path):
            pass
        assert sorted(p.name for p in path.parent.iterdir()) == [".lock", "other"]


@pytest.mark.parametrize("left_by", ["nobody", "a process that is gone"])
@pytest.mark.parametrize("still_held", [True, False])
def test_who_is_faster_gets_it_and_who_gave_it_back_is_in_nobodys_way(path, left_by, still_held, monkeypatch):
    """Another process takes the lock, or takes it over, just before this one would."""
    other, create = elsewhere(), locks._create
    if left_by != "nobody":
        write(path, gone_here())

    def late(target, owner):
        monkeypatch.setattr(locks, "_create", create)
        assert locks._take(path, other) is None
        if still_held:
            return create(target, owner)
        # it is seen that the name is there, and then it is gone
        path.unlink()
        return False

    monkeypatch.setattr(locks, "_create", late)
    if still_held:
        with pytest.raises(RunError, match=r"in use by .* on another"), locked(path):
            pass
    else:
        with locked(path) as owner:
            assert holder(path) == owner
        assert list(path.parent.iterdir()) == []


def test_a_lock_that_is_there_and_cannot_be_seen_is_somebody_elses(path):
    """As a network file system may have it for a while; here a link to nothing."""
    path.symlink_to("nothing")
    with pytest.raises(RunError, match="is in use by another process; wait for it"), locked(path):
        pass


def test_an_owner_that_lost_its_lock_stops(path, caplog):
    other = elsewhere()

    def work():
        with locked(path):
            path.with_name("new").write_text(json.dumps(asdict(other)))
            path.with_name("new").rename(path)
            time.sleep(20)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert caplog.messages == [f"{path} was taken over by {other}; this process stops"]


def test_without_hard_links_a_lock_is_created_by_its_name_alone(path, monkeypatch):
    def refuse(*_):
        raise PermissionError("no links here")

    monkeypatch.setattr(locks.os, "link", refuse)
    with locked(path), pytest.raises(RunError, match="in use"), locked(path):
        pass
    assert list(path.parent.iterdir()) == []


def test_without_hard_links_only_one_of_two_at_the_same_time_creates_it(path, monkeypatch):
    def refuse(*_):
        write(path, elsewhere())
        raise PermissionError("no links here")

    monkeypatch.setattr(locks.os, "link", refuse)
    with pytest.raises(RunError, match=r"in use by .* on another"), locked(path):
        pass
    assert [p.name for p in path.parent.iterdir()] == [".lock"]


@pytest.mark.parametrize("moment", ["_age", "_touched"])
def test_a_lock_that_is_given_back_while_it_is_watched_is_free(path, moment, monkeypatch):
    write(path, elsewhere())
    os.utime(path, (1, 1))
    real = getattr(locks, moment)

    def given_back(looked_at):
        looked_at.unlink(missing_ok=True)
        return real(looked_at)

    monkeypatch.setattr(locks, moment, given_back)
    with locked(path, wait=True) as owner:
        assert holder(path) == owner


def test_a_claim_that_somebody_else_tidies_away_is_not_missed(path, monkeypatch):
    write(path, first := gone_here())
    claim = path.with_name(f".lock.{first.token}")
    real = locks.Path.rename

    def rename(temporary, target):
        real(temporary, target)
        claim.unlink()

    monkeypatch.setattr(locks.Path, "rename", rename)
    with locked(path) as owner:
        assert holder(path) == owner


@pytest.mark.parametrize("backwards", [False, True])
def test_only_what_locks_leave_is_removed_and_no_claim_to_the_owner(path, backwards, monkeypatch):
    """Whatever comes first in the folder."""
    mine = replace(Owner.this(), token="a" * 16)
    monkeypatch.setattr(Owner, "this", lambda: mine)
    listed = locks.Path.glob
    monkeypatch.setattr(locks.Path, "glob", lambda *of: sorted(listed(*of), reverse=backwards))
    stays = [f".lock.{mine.token}", ".lock.b-notes"]
    for name in (*stays, f".lock.{'0' * 16}", f".lock.{'1' * 16}", f".lock.{'f' * 16}"):
        write(path.with_name(name), elsewhere())
    with locked(path):
        assert sorted(p.name for p in path.parent.iterdir()) == [".lock", *stays]


def test_a_touch_that_fails_is_told_and_the_next_one_counts(path, monkeypatch, caplog):
    real, touched = os.utime, threading.Event()

    def fails_once(target):
        if not touched.is_set():
            touched.set()
            raise OSError(5, "Input/output error")
        real(target)

    monkeypatch.setattr(locks.os, "utime", fails_once)
    with locked(path) as owner:
        real(path, (1, 1))
        assert touched.wait(5)
        deadline = time.monotonic() + 5
        while path.stat().st_mtime == 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert path.stat().st_mtime > 1
        assert holder(path) == owner
    assert caplog.messages == [f"{path} cannot be touched: [Errno 5] Input/output error"]


def test_a_process_that_only_waits_to_be_collected_is_gone_whatever_its_name():
    """Name and state stand in one line: ``PID (NAME) STATE ...``, and the name may be any fifteen bytes."""
    code = "import sys; open('/proc/self/comm', 'wb').write(b'a) Z \\xff'); print(flush=True); sys.stdin.read()"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdin, process.stdout:
        process.stdout.readline()
        began = locks._began(process.pid)
        assert began is not None
        assert int(began) > int(locks._began(os.getpid()) or 10**18)
        process.stdin.close()
        deadline = time.monotonic() + 30
        while locks._began(process.pid) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert locks._exists(process.pid)
        assert locks._began(process.pid) is None
    process.wait()


def test_where_the_system_does_not_tell_when_a_process_began_nothing_is_said(monkeypatch):
    monkeypatch.setattr(locks, "_began", lambda _: None)
    assert Owner.this().began == ""


def test_to_look_for_a_process_sends_it_nothing(monkeypatch):
    sent = []
    monkeypatch.setattr(locks.os, "kill", lambda *of: sent.append(of))
    assert locks._exists(12)
    assert sent == [(12, 0)]


@pytest.mark.parametrize("of_others", [False, True])
def test_where_the_system_tells_nothing_of_processes_their_numbers_count(path, of_others, monkeypatch):
    """As on macOS; a process of another user is one that lives."""

    def unknown(*_):
        raise FileNotFoundError("no /proc here")

    monkeypatch.setattr(locks.Path, "readlink", unknown)
    living = Owner.this()
    assert (living.machine, living.is_here, living.lives) == ("", True, True)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    write(path, replace(living, pid=gone.pid))
    assert holder(path) is None
    if of_others:

        def refused(*_):
            raise PermissionError("not yours")

        monkeypatch.setattr(locks.os, "kill", refused)
    write(path, living)
    assert holder(path) == living
    with pytest.raises(RunError, match="is in use by"), locked(path):
        pass


def test_a_lock_that_cannot_be_read_is_someones_until_it_is_old(path):
    path.write_text("")
    assert holder(path) == Owner("an unknown host", 0, "?", "", "an unknown time", "unreadable-.lock")
    with pytest.raises(RunError, match="in use by process 0 on an unknown host since an unknown time"), locked(path):
        pass
    time.sleep(0.25)
    with locked(path):
        pass


# adds to a number in a file, which only works alone
COUNT = """
import sys, time
from pathlib import Path
from longattn.locks import locked
folder = Path(sys.argv[1])
for _ in range(15):
    with locked(folder / ".lock", wait=True):
        value = int((folder / "number").read_text())
        time.sleep(0.001)
        (folder / "number").write_text(str(value + 1))
"""


def test_processes_that_wait_for_each_other_lose_nothing(tmp_path):
    (tmp_path / "number").write_text("0")
    write(tmp_path / ".lock", gone_here())
    workers = [subprocess.Popen([sys.executable, "-c", COUNT, str(tmp_path)]) for _ in range(4)]
    assert [worker.wait() for worker in workers] == [0] * 4
    assert (tmp_path / "number").read_text() == "60"


def test_shards_work_beside_each_other_but_not_beside_a_whole_run(tmp_path):
    run = RunFolder(tmp_path)
    with run.lock("0/2"), run.lock("1/2"), pytest.raises(RunError, match="in use by process"), run.lock():
        pass
    with run.lock(), pytest.raises(RunError, match="in use by process"), run.lock("0/2"):
        pass
    with run.lock():
        pass


@pytest.mark.parametrize(("left", "wanted"), [(".lock-1-of-2", None), (".lock-7-of-8", None), (".lock", "0/2")])
def test_what_a_machine_that_is_gone_left_of_the_other_kind_is_passed_over_too(tmp_path, left, wanted):
    """A shard's lock does not shut out the whole run for ever, nor the other way round."""
    write(tmp_path / left, elsewhere())
    with pytest.raises(RunError, match="on another"), RunFolder(tmp_path).lock(wanted):
        pass
    time.sleep(0.25)
    with RunFolder(tmp_path).lock(wanted):
        pass


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(RunError, match=r"file cannot be written: (File exists|Not a directory)"),
        RunFolder(tmp_path / "file").lock(),
    ):
        pass
