"""One run folder, one process at a time: a lock with an owner, a heartbeat and safe takeover.

``RUN/lock/`` holds numbered files, made by exclusive creation. Who made the one with the highest
number holds the run, until the file says that it is given up (an empty owner) or its owner is
dead. To take over is to create the next number: of several that try, one succeeds, and since no
number below the highest is ever created with success, nobody can take a lock that was taken
meanwhile. This needs no locks of the file system, which network file systems often lack.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from mrscale import places
from mrscale.errors import RunError

FOLDER = "lock"
HEARTBEAT_SECONDS = 10.0
STALE_BEATS = 6
"""Heartbeats without a sign of life after which an owner elsewhere is watched, to be given up."""
_WATCHED_BEATS = 2.5
_SAME_START_SECONDS = 5
"""How far the start of a process may move between two looks, when a clock is set."""


class RunLock:
    """The lock of one run folder, as one process sees it.

    Parameters
    ----------
    run : Path
        The run folder.
    heartbeat : float
        Seconds between signs of life.
    """

    def __init__(self, run: Path, heartbeat: float = HEARTBEAT_SECONDS) -> None:
        self.run, self._heartbeat = run, heartbeat
        self._number = 0
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def take(self) -> None:
        """Take the lock, from an owner that is dead if need be.

        Raises
        ------
        RunError
            If a living process holds it.
        """
        while not self._number:
            newest = self._newest()
            if newest and (owner := self._living_owner(newest)):
                raise RunError(self._refusal(owner))
            mine, me = newest + 1, json.dumps(_myself()).encode()
            if places.create_bytes(self._file(mine), me):
                if self._newest() == mine:
                    self._number = mine
                else:  # what was looked at was long out of date
                    self._file(mine).unlink(missing_ok=True)
        for number in self._numbers():
            if number < self._number:
                self._file(number).unlink(missing_ok=True)
        self._thread.start()

    def is_held(self) -> bool:
        """Whether a living process holds it."""
        newest = self._newest()
        return bool(newest) and self._living_owner(newest) is not None

    def give_up(self) -> None:
        """Let the next one have it at once."""
        self._released.set()
        self._thread.join()
        with suppress(OSError):  # the end of this process gives it up as well
            if self.is_mine:
                self._write_nobody(self._file(self._number))

    @staticmethod
    def _write_nobody(file: Path) -> None:
        try:
            places.write_bytes(file, b"{}")
        except OSError:  # a full disk has no room for another file, but for less in this one
            with file.open("r+b") as handle:
                handle.write(b"{}")
                handle.truncate()

    @property
    def is_mine(self) -> bool:
        """Whether nobody has taken it over."""
        return self._number == self._newest()

    def _beat(self) -> None:
        while not self._released.wait(self._heartbeat):
            # a network file system may be away for a while; who is taken over is told at the end
            with suppress(OSError):
                os.utime(self._file(self._number))

    def _living_owner(self, number: int) -> dict[str, Any] | None:
        """Who holds a number; None if it was given up or its owner is dead."""
        found = self._look(number)
        if found is None or found.owner == {}:
            return None
        if found.owner.get("pids") == _pid_space():
            return found.owner if _is_running(found.owner) else None
        age = time.time() - found.beat
        if -self._heartbeat <= age < STALE_BEATS * self._heartbeat:
            return found.owner
        # two machines' clocks may differ: only one clock, this one, can tell that nothing moves
        until = time.monotonic() + _WATCHED_BEATS * self._heartbeat
        while time.monotonic() < until:
            time.sleep(self._heartbeat / 10)
            later = self._look(number)
            if later is None or later.owner == {}:
                return None
            if later.beat != found.beat:
                return later.owner
        return None

    def _look(self, number: int) -> _Found | None:
        """A lock file; None if it is gone, because a higher number was taken."""
        try:
            # opening asks a file server anew, where a plain stat may be answered from memory
            with self._file(number).open("rb") as handle:
                content, beat = handle.read(), os.fstat(handle.fileno()).st_mtime
        except FileNotFoundError:
            return None
        try:
            owner = json.loads(content)
        except ValueError:  # where a file cannot be made and filled at once
            owner = None
        return _Found(owner if isinstance(owner, dict) else {"pid": "unknown"}, beat)

    def _refusal(self, owner: dict[str, Any]) -> str:
        advice = "wait until it has ended, or end it, and run the same command again"
        if owner.get("pids") != _pid_space():
            seconds = (STALE_BEATS + _WATCHED_BEATS) * self._heartbeat
            advice += f"; if its machine is gone, that works {seconds:.0f} s after its end"
        return (
            f"{self.run} is in use: process {owner.get('pid')} on {owner.get('host')} works on it "
            f"since {owner.get('since')}; {advice}"
        )

    def _newest(self) -> int:
        return max(self._numbers(), default=0)

    def _numbers(self) -> list[int]:
        names = [Path(name) for name in places.names(self.run / FOLDER)]
        return [int(n.stem) for n in names if n.suffix == ".json" and n.stem.isdecimal()]

    def _file(self, number: int) -> Path:
        return self.run / FOLDER / f"{number:06d}.json"


@dataclass(frozen=True)
class _Found:
    owner: dict[str, Any]
    beat: float


_held: dict[Path, tuple[RunLock, int]] = {}
"""Locks of this process, each with the thread that took it."""
_taking = threading.Lock()


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Hold a run folder for the block; a thread that holds it already just goes on.

    Raises
    ------
    RunError
        If another process, or another thread, holds it; or if it was taken over meanwhile, as
        after a long sleep of this machine.
    """
    key, thread = run.resolve(), threading.get_ident()
    with _taking:
        lock, holder = _held.get(key, (None, thread))
        if lock is None:
            lock = RunLock(run)
            with places.writing(run):
                lock.take()
            _held[key] = lock, thread
        elif holder == thread:
            lock = None
        else:
            raise RunError(
                f"{run} is in use: another thread of this process works on it; wait until it has "
                "ended"
            )
    if lock is None:
        yield
        return
    try:
        yield
    finally:
        with _taking:
            del _held[key]
        lock.give_up()


def require_held(run: Path) -> None:
    """Refuse to go on if this process had locked a run folder and another has taken it over."""
    lock, _ = _held.get(run.resolve(), (None, 0))
    if lock is not None and not lock.is_mine:
        raise RunError(
            f"{run} was taken over by another process while this one gave no sign of life; "
            "nothing is lost: let that one finish, or run the same command again afterwards"
        )


def _myself() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "pids": _pid_space(),
        "started": psutil.Process().create_time(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _is_running(owner: dict[str, Any]) -> bool:
    """Whether the very process runs on this machine, not a later one of the same number."""
    try:
        process = psutil.Process(owner["pid"])
        same = abs(process.create_time() - owner["started"]) < _SAME_START_SECONDS
        return same and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.NoSuchProcess, KeyError, TypeError, ValueError):
        return False


def _pid_space() -> str:
    """What tells where a process number means the same process: containers may share a host's
    name, and machines one image."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return f"{socket.gethostname()} {psutil.boot_time():.0f}"
