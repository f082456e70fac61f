"""How time and memory grow with people, instruments, pairs, environments and threads.

    python tests/benchmarks/scaling.py [--write docs/benchmarks.md]

One axis at a time, every size in a process of its own. An exponent is the slope of log seconds (or
MiB) on log size by least squares: 1 is in proportion, 0 does not grow.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from measuring import Job, Measured, in_turns, machine, run_one
from page import insert, markdown
from store_objects import write_store

import mrscale as mr
from mrscale.store.reader import open_store
from mrscale.stream.engine import engine
from mrscale.stream.products import dosage_moments

PEOPLE, INSTRUMENTS, COVARIATES = 100_000, 64, 10
STORE_PEOPLE, STORE_VARIANTS = 200_000, 500


def pairs(people: int, instruments: int, traits: int) -> Job:
    """2SLS of all pairs of that many exposures and outcomes, robust errors."""
    rng = np.random.default_rng(0)
    z = rng.integers(0, 3, (people, instruments), dtype=np.int8)
    w = rng.normal(size=(people, COVARIATES))
    x = rng.normal(size=(people, traits)) + z[:, :32] @ rng.uniform(0.1, 0.4, (32, traits))
    y = 0.3 * x + rng.normal(size=(people, traits))
    mr.iv_many(y[:2000], x[:2000], z[:2000, :32])
    return lambda: [float(mr.iv_many(y, x, z, covariates=w)["std_error"].iloc[0])]


def environments(number: int) -> Job:
    """Regressions of four traits on every variant, in each of that many environments."""
    rng = np.random.default_rng(0)
    z = rng.integers(0, 3, (PEOPLE, INSTRUMENTS), dtype=np.int8)
    traits = rng.normal(size=(PEOPLE, 4))
    labels = rng.integers(0, number, PEOPLE)
    mr.per_variant(traits[:2000], z[:2000])
    return lambda: [float(len(mr.per_variant(traits, z, environments=labels)))]


def learned(people: int) -> Job:
    """Learned instruments: linear and kernel and flow encoders in four blocks, one estimate."""
    data = mr.simulate_latent("mlp", num_people=people)
    given = [data[name].to_numpy() for name in ("outcome", "exposure", "x", "environment")]
    fit = partial(mr.learned_iv, *given, latent_dim=2, factors=4, restarts=1, quiet=True)
    fit(method="linear")
    return lambda: [fit().estimate]


def moments(threads: int, store: str) -> Job:
    """Moments of all variants of a store, on that many threads."""

    def run() -> list[float]:
        with engine(threads=threads) as client:
            dosage_moments(client, open_store(store))
        return []

    run()
    return run


AXES: dict[str, tuple[str, tuple[int, ...], Callable[[int], Callable[[object], Job]]]] = {
    "people": (
        f"`iv_many`, one pair, {INSTRUMENTS} instruments",
        (50_000, 100_000, 200_000, 400_000, 800_000),
        lambda n: lambda _: pairs(n, INSTRUMENTS, 1),
    ),
    "instruments": (
        f"`iv_many`, one pair, {PEOPLE:,} people",
        (64, 128, 256, 512, 1024),
        lambda m: lambda _: pairs(PEOPLE, m, 1),
    ),
    "pairs": (
        f"`iv_many`, {PEOPLE:,} people, {INSTRUMENTS} instruments",
        (1, 100, 1_024, 10_000),
        lambda q: lambda _: pairs(PEOPLE, INSTRUMENTS, round(q**0.5)),
    ),
    "environments": (
        f"`per_variant`, {PEOPLE:,} people, {INSTRUMENTS} instruments, four traits",
        (2, 4, 8, 16, 32),
        lambda e: lambda _: environments(e),
    ),
    "people, learned": (
        "`learned_iv`, all encoders, one restart",
        (5_000, 10_000, 20_000, 40_000),
        lambda n: lambda _: learned(n),
    ),
    "threads": (
        f"moments of a store of {STORE_PEOPLE:,} people and {STORE_VARIANTS} variants",
        tuple(sorted({1, os.cpu_count() or 1})),
        lambda t: lambda store: moments(t, str(store)),
    ),
}
"""What is run, its sizes, and what prepares a job given a size."""
ONCE = ("people, learned",)
"""Too slow to be run again and again."""


def slope(sizes: tuple[int, ...], values: list[float]) -> str:
    """Exponent of a power law."""
    return f"{np.polyfit(np.log(sizes), np.log(np.maximum(values, 1e-9)), 1)[0]:.2f}"


def measure(store: str) -> str:
    """A row for each axis."""
    told, rows = machine(), []
    for axis, (what, sizes, _) in AXES.items():
        where = store if axis == "threads" else None
        jobs = [f"{axis} {size}" for size in sizes]
        rounds = 1 if axis in ONCE else 3
        found: list[Measured] = in_turns(__file__, *jobs, store=where, rounds=rounds)
        seconds, extra = [one.seconds for one in found], [one.extra for one in found]
        print(axis, seconds, extra, flush=True)
        rows.append(
            [
                axis,
                what,
                ", ".join(f"{size:,}" for size in sizes),
                ", ".join(f"{value:.2f}" for value in seconds),
                slope(sizes, seconds),
                ", ".join(f"{value:,.0f}" for value in extra),
                slope(sizes, extra),
            ]
        )
    names = ["axis", "work", "sizes", "seconds", "exponent", "extra MiB", "exponent"]
    return (
        f"## How time and memory grow\n\n`python tests/benchmarks/scaling.py` ({told}). Medians "
        "of 3 runs (of learned instruments 1), a process for each. An exponent is the slope of the "
        "logarithms by least squares. Extra memory is the peak above the arrays that were there."
        f"\n\n{markdown(names, rows)}\n"
    )


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mrscale-bench-") as folder:
        store = str(Path(folder) / "store.zarr")
        write_store(store, STORE_PEOPLE, missing=False, variants=STORE_VARIANTS)
        text = measure(store)
    print(text)
    if options.write:
        insert(options.write, "scaling", text)


JOBS = {f"{axis} {size}": job(size) for axis, (_, sizes, job) in AXES.items() for size in sizes}


if __name__ == "__main__":
    run_one(JOBS) or main()
