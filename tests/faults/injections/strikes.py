"""Finding the processes of a running study, and striking one of them."""

from __future__ import annotations

import random
import signal
import subprocess
import time

import psutil


class Watched:
    """A command, and all the processes that it was seen to start.

    Parameters
    ----------
    process : subprocess.Popen
    beside : list of psutil.Process
        Processes that work for it but were not started by it.
    """

    def __init__(self, process: subprocess.Popen[bytes], beside: list[psutil.Process]) -> None:
        self.process, self._beside = process, beside
        self._children: dict[int, psutil.Process] = {}

    def wait(self, seconds: float) -> None:
        """Wait so long, or until the command ends."""
        until = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < until:
            try:
                for child in psutil.Process(self.process.pid).children(recursive=True):
                    self._children.setdefault(child.pid, child)
            except psutil.NoSuchProcess:
                break
            time.sleep(0.02)

    def kill_any(self, rng: random.Random) -> str:
        """Kill -9 one process of those that live; what it was."""
        if self.process.poll() is not None:
            return "nobody, the run was over"
        alive = [one for one in (*self._beside, *self._children.values()) if one.is_running()]
        chosen = rng.choice([None, *alive])
        if chosen is None:
            self.process.kill()
            return "command"
        try:
            role = role_of(chosen)
            chosen.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            return "a process that had just ended"
        return role

    def left_behind(self) -> int:
        """How many of the processes that the ended command has started live on."""
        _, alive = psutil.wait_procs(list(self._children.values()), timeout=60)
        return len(alive)


def role_of(process: psutil.Process) -> str:
    """What a process of a study does."""
    words = " ".join(process.cmdline())
    for mark, role in (
        ("dask_scheduler", "Dask scheduler"),
        ("dask_worker", "Dask worker"),
        ("java", "JVM"),
        ("pyspark", "Spark's Python worker"),
        ("resource_tracker", "resource tracker"),
        ("multiprocessing", "training rank"),
    ):
        if mark in words:
            return role
    return "other process"
