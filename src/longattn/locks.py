"""Who may work in a folder: one process at a time, on any file system that links or creates a file atomically.

``flock`` is local on many network file systems, so a lock is a file that says whose it is: host, process and a random
token. Its owner touches it every :data:`BEAT` seconds. A lock is taken over

* at once, if its owner worked on this machine (same boot, same process namespace) and is gone;
* after :data:`STALE` seconds without a touch, if it worked elsewhere. Clocks are not compared: the age is read from the
  file system's own clock, and before it is believed the file is watched for three beats.

To take over the lock with token T a process first creates ``<lock>.<T>``, which only one can, and then puts its own
file in the place of the lock. If it dies between the two, that file stands for the lock, and is itself taken over by
the same rule. An owner that was only slow, such as a machine that was asleep, notices at its next beat. What processes
leave that die while they take or give back a lock is removed by the next owner.
"""

import contextlib
import fcntl
import json
import logging
import os
import re
import secrets
import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

from longattn.errors import RunError

log = logging.getLogger(__name__)

BEAT = 10.0
"""Seconds between two touches of a lock."""

STALE = 60.0
"""A lock from elsewhere that was not touched for so many seconds may be taken over."""

AGAIN = 50
"""How often it is tried again, a second in all, where whoever was faster is not to be seen."""

LEFT = re.compile(r"(?P<claimed>[0-9a-f]{16})|([0-9a-f]{16}\.)?[0-9a-f]{16}\.tmp")
"""What follows the name of a lock in that of a claim to it, and of a file that is to become a lock or claim."""


@dataclass(frozen=True)
class Owner:
    """A process that holds a lock."""

    host: str
    pid: int
    machine: str
    """Boot and process namespace; empty where the system tells neither."""
    began: str
    """When the process began, in the system's own counting: another process may get the same number later."""
    since: str
    """When the lock was taken, for people."""
    token: str = field(default_factory=lambda: secrets.token_hex(8))

    @classmethod
    def this(cls) -> "Owner":
        """This process, with a new token."""
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        return cls(socket.gethostname(), os.getpid(), _machine(), _began(os.getpid()) or "", since)

    @property
    def is_here(self) -> bool:
        """Whether it works, or worked, where this process could see it."""
        return self.host == socket.gethostname() and self.machine == _machine()

    @property
    def lives(self) -> bool:
        """Whether a process that is here still runs."""
        return _began(self.pid) == (self.began or None) if _machine() else _exists(self.pid)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since}"


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = False) -> Iterator[Owner]:
    """Hold a lock; raises :class:`RunError`, which names the owner, if another process has it, or waits for it."""
    mine, again = Owner.this(), AGAIN
    while (owner := _take(path, mine)) is not None:
        if owner == mine and again:
            again -= 1
        elif not wait:
            who = "another process" if owner == mine else owner
            raise RunError(f"{path.parent} is in use by {who}; wait for it or choose another folder")
        time.sleep(0.02)
    ended = threading.Event()
    beating = threading.Thread(target=_beat, args=(path, mine, ended), daemon=True)
    beating.start()
    try:
        _tidy(path, mine)
        yield mine
    finally:
        ended.set()
        beating.join()
        if _read(path) == mine:
            path.unlink(missing_ok=True)


def holder(path: Path) -> Owner | None:
    """Who holds a lock at this moment, as far as can be seen at once; None if it is free or its owner is gone."""
    _, owner = _last(path)
    return None if owner is None or (owner.is_here and not owner.lives) else owner


def holder_of_any(paths: Sequence[Path]) -> Owner | None:
    """Who holds one of these locks, None if they are free or left behind.

    Unlike :func:`holder` it watches those of silent owners elsewhere, all at once, before it believes that they live.
    """
    with ThreadPoolExecutor(max(1, len(paths))) as pool:
        return next(filter(None, pool.map(_living, paths)), None)


def _living(path: Path) -> Owner | None:
    chain, owner = _last(path)
    return None if owner is None or _is_gone(chain[-1], owner) else owner


def _take(path: Path, mine: Owner) -> Owner | None:
    """Try to take the lock; returns the owner that is in the way, or None if there is none.

    That owner is ``mine`` where another process was faster and is not to be seen any more.
    """
    chain, owner = _last(path)
    if owner is None:
        return None if _create(path, mine) else _last(path)[1] or mine
    if not _is_gone(chain[-1], owner):
        return owner
    claim = path.with_name(f"{path.name}.{owner.token}")
    if not _create(claim, mine):
        return _last(path)[1] or mine
    if _last(path)[1] != mine:
        # the lock was given back meanwhile, so the claim is to nothing
        claim.unlink(missing_ok=True)
        return _last(path)[1] or mine
    log.warning("%s was left behind by %s and is taken over", path, owner)
    with _written(path, mine) as temporary:
        temporary.rename(path)
    for link in (*chain[1:], claim):
        link.unlink(missing_ok=True)
    return None


def _last(path: Path) -> tuple[list[Path], Owner | None]:
    """The lock file and the claims to it, each to the one before, and the owner named by the last."""
    chain, owner = [path], _read(path)
    while owner is not None:
        claim = path.with_name(f"{path.name}.{owner.token}")
        if (claimant := _read(claim)) is None:
            break
        chain.append(claim)
        owner = claimant
    return chain, owner


def _is_gone(path: Path, owner: Owner) -> bool:
    """Whether an owner will not come back for its lock."""
    if owner.is_here:
        return not owner.lives
    if _age(path) < STALE:
        return False
    log.warning("%s: nothing was heard of %s for a while; watching whether it works", path, owner)
    seen = _touched(path)
    deadline = time.monotonic() + 3 * BEAT
    while time.monotonic() < deadline:
        time.sleep(BEAT / 10)
        if _touched(path) != seen:
            return False
    return True


def _age(path: Path) -> float:
    """Seconds since a lock was touched, by the clock of its file system."""
    probe = path.with_name(f"{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        probe.touch()
        return probe.stat().st_mtime - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
    finally:
        probe.unlink(missing_ok=True)


def _touched(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return None


def _tidy(path: Path, mine: Owner) -> None:
    """Remove what was left beside a lock that is held: claims to other owners, and files of which nobody has hold."""
    for left in path.parent.glob(f"{path.name}.*"):
        kind = LEFT.fullmatch(left.name.removeprefix(f"{path.name}."))
        if kind is None or kind["claimed"] == mine.token:
            continue
        # another process may tidy up or give up at the same time
        with contextlib.suppress(OSError):
            if kind["claimed"]:
                left.unlink()
                continue
            with left.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                left.unlink()


def _create(path: Path, owner: Owner) -> bool:
    """Make a lock file whole or not at all; whether it was not there before."""
    with _written(path, owner) as temporary:
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError:
            # no hard links here: an empty lock file may be seen for a moment, which is read as one that is held
            try:
                with path.open("x") as file:
                    file.write(json.dumps(asdict(owner)))
            except FileExistsError:
                return False
    return True


@contextlib.contextmanager
def _written(path: Path, owner: Owner) -> Iterator[Path]:
    """A file beside a lock that names an owner, held for as long as it is needed, so that nobody tidies it away."""
    temporary = path.with_name(f"{path.name}.{owner.token}.tmp")
    try:
        with temporary.open("w") as file:
            # some file systems have no such locks: there it stays if this process dies, and does no harm
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
            file.write(json.dumps(asdict(owner)))
            file.flush()
            os.fsync(file.fileno())
            yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _read(path: Path) -> Owner | None:
    try:
        return Owner(**json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        # being written, or of another version: its owner is unknown, and gone when it is not touched any more
        return Owner("an unknown host", 0, "?", "", "an unknown time", f"unreadable-{path.name}")


def _beat(path: Path, mine: Owner, ended: threading.Event) -> None:
    """Touch the lock now and then; stop the process as Ctrl-C would if another one has taken it."""
    while not ended.wait(BEAT):
        try:
            if _read(path) != mine:
                log.error("%s was taken over by %s; this process stops", path, _read(path))
                # to the main thread, which may be asleep
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
                return
            os.utime(path)
        except OSError as error:
            log.warning("%s cannot be touched: %s", path, error)


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _began(pid: int) -> str | None:
    """When a process began, in ticks since boot; None if there is none, or only its remains, or no way to know."""
    try:
        # the name in brackets may hold anything
        facts = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if facts[0] in "ZX" else facts[19]


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
