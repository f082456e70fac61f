"""What benchmarks share: jobs timed in processes of their own, stores of random dosages, tables."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil
from store_objects import random_dosage, small_arrays

from mrscale.store import writer
from mrscale.store.schema import Layout

ROUNDS = 3
NUM_VARIANTS = 1_000

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
    script: str, *jobs: str, people: int = 0, store: str | None = None, rounds: int = ROUNDS
) -> list[Measured]:
    """Run jobs of a script in processes of their own, one after the other and all of them again."""
    runs = [[_in_a_process(script, job, people, store) for job in jobs] for _ in range(rounds)]
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


def _in_a_process(script: str, job: str, people: int, store: str | None) -> Measured:
    command = [sys.executable, script, "--job", job, "--people", str(people)]
    command += ["--store", store] if store else []
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def write_store(path: str, people: int, *, missing: bool, variants: int = NUM_VARIANTS) -> None:
    """Random hard calls, 1 % of them missing or none."""
    rng = np.random.default_rng(0)
    layout = Layout.choose(people, variants)
    frequency = rng.uniform(0.05, 0.95, variants).astype(np.float32)
    writer.create(path, layout)
    small = small_arrays(rng, people, variants)
    arrays = {name: writer.write_array(path, name, values) for name, values in small.items()}
    shards = {}
    for index in range(layout.num_shards):
        rows = layout.shard(index)
        dosage = random_dosage(rng, rows.stop - rows.start, frequency).clip(-1 if missing else 0)
        shards[index] = writer.write_shard(path, index, dosage, key="k")
    writer.finalise(
        path, layout=layout, arrays=arrays, shards=shards, report={}, provenance={}, run={}
    )
