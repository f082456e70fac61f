"""What benchmarks share: jobs timed in processes of their own, and what machine they ran on.

mrscale is not imported here: peers have an environment of their own, without it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import psutil

ROUNDS = 3
PEERS = Path(__file__).parents[2] / ".venv-peers" / "bin"
"""Where ``make bench`` puts them."""
PEER_JOBS = Path(__file__).with_name("peers.py")

Job = Callable[[], list[float]]
"""What is timed; it returns numbers to compare."""
Jobs = Mapping[str, Callable[[Any], Job]]
"""By name: what prepares a job, given a number of people or the path of a store."""


@dataclass(frozen=True)
class Measured:
    """Seconds, extra MiB at the peak, and what the job returned; of several runs the medians, but
    the most MiB."""

    seconds: float
    extra: float
    found: list[float]


def run_one(jobs: Jobs) -> bool:
    """Measure the job that the command line names, here; False if it names none."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--job", choices=jobs)
    parser.add_argument("--people", type=int)
    parser.add_argument("--store")
    options, _ = parser.parse_known_args()
    if options.job:
        prepare = jobs[options.job]
        job = prepare(options.store) if options.store else prepare(options.people)
        print(json.dumps(vars(timed(job))))
    return bool(options.job)


def timed(job: Job) -> Measured:
    """Run a job in this process."""
    with peak_memory() as extra:
        start = time.perf_counter()
        found = job()
        seconds = time.perf_counter() - start
    return Measured(seconds, extra[0], found)


@contextmanager
def peak_memory() -> Iterator[list[float]]:
    """A list of one number: how much resident memory rose above its start, in MiB."""
    me, stop = psutil.Process(), threading.Event()
    start, peak = me.memory_info().rss, [0.0]

    def sample() -> None:
        while not stop.wait(0.005):
            peak[0] = max(peak[0], (me.memory_info().rss - start) / 2**20)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    yield peak
    stop.set()
    thread.join()


def in_turns(
    script: str,
    *jobs: str,
    peers: Sequence[str] = (),
    people: int = 0,
    store: str | None = None,
    rounds: int = ROUNDS,
) -> list[Measured]:
    """Run jobs of a script and of peers in processes of their own, one after the other and all of
    them again."""
    ours = [[sys.executable, script, "--job", job] for job in jobs]
    theirs = [[str(PEERS / "python"), str(PEER_JOBS), "--job", peer] for peer in peers]
    data = ["--people", str(people), *(["--store", store] if store else [])]
    runs = [[_in_a_process([*job, *data]) for job in ours + theirs] for _ in range(rounds)]
    return [
        Measured(
            seconds=statistics.median(one.seconds for one in ones),
            extra=max(one.extra for one in ones),
            found=[
                statistics.median(numbers)
                for numbers in zip(*(one.found for one in ones), strict=True)
            ],
        )
        for ones in zip(*runs, strict=True)
    ]


def _in_a_process(command: list[str]) -> Measured:
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def peer_versions(*packages: str) -> dict[str, str]:
    """Versions of those of these packages, and of Python, that ``make bench`` installed."""
    ask = (
        "import json, platform; from importlib.metadata import distributions as all; "
        "there = {one.name: one.version for one in all()}; "
        "print(json.dumps(there | {'Python': platform.python_version()}))"
    )
    command = [str(PEERS / "python"), "-c", ask]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    there = json.loads(done.stdout)
    return {name: there[name] for name in (*packages, "Python") if name in there}


def machine() -> str:
    """This machine, the date, and how busy it is before a benchmark."""
    cores, memory = os.cpu_count(), psutil.virtual_memory().total / 2**30
    return (
        f"{platform.machine()}, {cores} cores, {memory:.0f} GiB, Python "
        f"{platform.python_version()}, {date.today()}; load before the run {os.getloadavg()[0]:.1f}"
    )
