"""How long the statistics engine takes and how much memory, beside its peers and its limits.

    python tests/benchmarks/statistics_engine.py [--people 500000] [--write docs/benchmarks.md]

Every job runs in a process of its own, after its data are in memory and a small run has loaded
what it loads; extra memory is the peak of the resident memory above that.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from operator import add
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
from measuring import ROUNDS, Job, Measured, in_turns, machine, peer_versions, run_one
from page import insert, markdown
from peers import (
    IVMODELS,
    IVMODELS_WALD,
    NUM_COVARIATES,
    NUM_INSTRUMENTS,
    WARM_UP,
    prepared,
    regression,
)
from store_objects import NUM_VARIANTS, random_dosage, write_store

import mrscale as mr
from mrscale.store.reader import open_store
from mrscale.stream.products import dosage_moments
from mrscale.stream.reduce import reduce_blocks
from mrscale.workflow.iv_many import iv_many

NUM_TRAITS, NUM_PATTERNS = 100, 10
BLOCK_ROWS = 8192


def main() -> None:
    """Run all parts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--people", type=int, default=500_000)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    told = machine()
    sections = [peers(options.people), regressions(options.people)]
    sections += [store_pass(options.people), many(), flat_memory()]
    heading = (
        "## Statistics engine\n\n"
        f"`python tests/benchmarks/statistics_engine.py --people {options.people}` ({told}). "
        f"{options.people:,} people where no other number is given; medians of "
        f"{ROUNDS} runs, jobs of one table in turns.\n"
    )
    text = "\n".join([heading, *sections])
    print(text)
    if options.write:
        insert(options.write, "statistics engine", text)


def by_mrscale(y: np.ndarray, x: np.ndarray, z: np.ndarray, w: np.ndarray) -> list[float]:
    """Estimate and its robust standard error."""
    fit = mr.iv(y, x, z, w)
    return [float(fit.params["exposure"]), float(fit.std_errors["exposure"])]


def alone(y: np.ndarray, x: np.ndarray, z: np.ndarray, w: np.ndarray) -> list[float]:
    """Estimate, robust error and first-stage F of the one pair, and nothing else."""
    row = iv_many(y, x, z, covariates=w).iloc[0]
    return [float(row["estimate"]), float(row["std_error"])]


def associations(y: np.ndarray, x: np.ndarray, z: np.ndarray, w: np.ndarray) -> list[float]:
    """Of the exposure and the outcome with each instrument; the last coefficient and its error."""
    last = mr.per_variant(np.column_stack([x, y]), z, w).iloc[-1]
    return [float(last["beta"]), float(last["std_error"])]


def beside(mine: Measured, name: str, peers: dict[str, tuple[Measured, str]]) -> str:
    """A table of mrscale and its peers, each with its limit."""
    rows = [[name, f"{mine.seconds:.2f}", "", f"{mine.extra:,.0f} (limit 200)", "", ""]]
    for package, (theirs, limit) in peers.items():
        differences = [abs(a / b - 1) for a, b in zip(mine.found, theirs.found, strict=False)]
        ratio = f"{theirs.seconds / mine.seconds:.1f}{limit}"
        digits = [f"{d:.0e}" for d in differences] + [""] * (2 - len(differences))
        rows.append([package, f"{theirs.seconds:.2f}", ratio, f"{theirs.extra:,.0f}", *digits])
    names = ["package", "seconds", "times slower than mrscale", "extra MiB"]
    return markdown([*names, "estimate differs by", "error differs by"], rows)


def peers(people: int) -> str:
    """The first table."""
    limits = {"linearmodels": 30, "pyfixest": 30, IVMODELS: 5, IVMODELS_WALD: 5}
    mine, little, *others = in_turns(
        __file__, "mrscale", "alone", peers=list(limits), people=people
    )
    there = peer_versions("linearmodels", "pyfixest", "ivmodels", "statsmodels")
    versions = ", ".join(f"{name} {version}" for name, version in there.items())
    found = {
        package: (theirs, f" (at least {limit})")
        for (package, limit), theirs in zip(limits.items(), others, strict=True)
    }
    table = beside(mine, "mrscale.iv", found)
    return (
        f"2SLS with {NUM_INSTRUMENTS} instruments, {NUM_COVARIATES} covariates and robust errors "
        "(ivmodels has none), arrays of float64. mrscale's time includes the first-stage measures, "
        "the tests and all that the robust sets need. Differences are relative. Peers have an "
        f"environment of their own: {versions}.\n\n{table}\n\n"
        "`mrscale.iv_many`, which makes the estimate, its robust error and the first-stage F and "
        f"no more, took {little.seconds:.2f} s for this pair.\n"
    )


def regressions(people: int) -> str:
    """The second table."""
    jobs = {"people": people, "rounds": 1}
    mine, theirs = in_turns(__file__, "associations", peers=["statsmodels"], **jobs)
    table = beside(mine, "mrscale.per_variant", {"statsmodels": (theirs, "")})
    return (
        f"Linear regressions of two traits on each of {NUM_INSTRUMENTS} instruments, one at a "
        f"time, {NUM_COVARIATES} covariates; one run.\n\n{table}\n"
    )


def decode(path: str) -> Job:
    """Read every chunk of a store, on as many threads as there are cores."""
    store = open_store(path)
    chunks = [store.layout.chunk(i) for i in range(store.layout.num_chunks)]
    return lambda: [reduce_blocks(None, chunks, lambda rows: store.dosage(rows).nbytes, add)]


def product(path: str) -> Job:
    """One float32 cross-product of a store's shape by BLAS, on as many threads as it likes."""
    people = open_store(path).num_samples
    dosage = random_dosage(np.random.default_rng(0), people, np.full(NUM_VARIANTS, 0.3, np.float32))
    matrix = dosage.astype(np.float32)
    return lambda: [float((matrix.T @ matrix)[0, 0])]


def store_moments(path: str) -> Job:
    """Moments of all dosages, 20 covariates, an exposure and an outcome."""
    store = open_store(path)
    traits = {"exposures": ["exposure0"], "outcomes": ["outcome0"]}
    return lambda: [dosage_moments(None, store, **traits).cross[0, 0]]


def store_pass(people: int) -> str:
    """The third table."""
    rows = []
    for calls, missing, limit in (("all there", False, "1.5"), ("1 % missing", True, "")):
        with tempfile.TemporaryDirectory(prefix="mrscale-bench-") as folder:
            path = f"{folder}/store.zarr"
            write_store(path, people, missing=missing)
            size = sum(file.stat().st_size for file in Path(path).rglob("*") if file.is_file())
            read, one, found = in_turns(__file__, "decode", "product", "moments", store=path)
        ratio = found.seconds / (read.seconds + one.seconds)
        numbers = [f"{s:.2f}" for s in (read.seconds, one.seconds, found.seconds, ratio)]
        rows.append([calls, f"{size / 2**20:,.0f}", *numbers, limit, f"{found.extra:,.0f}"])
    names = ["calls", "MiB on disk", "decode, s", "one float32 product, s", "moments, s"]
    names += ["moments / (decode + product)", "limit", "extra MiB"]
    return (
        f"Moments of {NUM_VARIANTS:,} variants (int8), {NUM_COVARIATES} covariates, an exposure "
        f"and an outcome from a store of {people:,} people.\n\n{markdown(names, rows)}\n"
    )


PAIRS = {
    "one pair, wide": (50_000, 1_000, 1, 1),
    "all pairs, wide": (50_000, 1_000, NUM_TRAITS, 1),
    "one pair, narrow": (200_000, 64, 1, 1),
    "all pairs, narrow": (200_000, 64, NUM_TRAITS, 1),
    "all pairs, narrow, patterns": (200_000, 64, NUM_TRAITS, NUM_PATTERNS),
}
"""People, instruments, exposures (and outcomes), and patterns of missing exposures."""


def pairs(sizes: tuple[int, int, int, int], _: int) -> Job:
    """All pairs of that many exposures and outcomes, with one set of instruments."""
    num_people, num_instruments, num_traits, num_patterns = sizes
    rng = np.random.default_rng(0)
    z = rng.integers(0, 3, (num_people, num_instruments), dtype=np.int8)
    w = rng.normal(size=(num_people, NUM_COVARIATES))
    x = rng.normal(size=(num_people, num_traits))
    x += z[:, :32] @ rng.uniform(0.1, 0.4, (32, num_traits))
    y = 0.3 * x + rng.normal(size=(num_people, num_traits))
    for column in range(num_traits):
        x[: (column % num_patterns) * 10, column] = np.nan
    iv_many(y[:WARM_UP], x[:WARM_UP], z[:WARM_UP, :32])
    return lambda: [float(iv_many(y, x, z, covariates=w)["std_error"].iloc[0])]


def many() -> str:
    """The fourth table."""
    rows, seconds, one = [], [], 0.0
    for (people, instruments, traits, patterns), found in zip(
        PAIRS.values(), in_turns(__file__, *PAIRS), strict=True
    ):
        one = found.seconds if traits == 1 else one
        seconds.append(found.seconds)
        sizes = [f"{number:,}" for number in (people, instruments, traits**2, patterns)]
        ratio = f"{found.seconds / one:.1f}"
        rows.append([*sizes, f"{found.seconds:.2f}", ratio, f"{found.extra:,.0f}"])
    each = (seconds[-1] - seconds[-2]) / (NUM_PATTERNS - 1)
    names = ["people", "instruments", "pairs", "patterns of missing exposures", "seconds"]
    names += ["times one pair (limit 3 without missing)", "extra MiB"]
    return (
        f"`mrscale.iv_many`, robust errors, {NUM_COVARIATES} covariates, shared instruments, in "
        f"memory (int8 dosages).\n\n{markdown(names, rows)}\n\n"
        f"Each further pattern costs {each:.2f} s, {each / one:.1f} times the one pair.\n"
    )


def lazy(num_people: int) -> Job:
    """``mrscale.iv`` on dask arrays whose blocks are made when they are wanted."""
    width = NUM_INSTRUMENTS + NUM_COVARIATES + 2
    starts = range(0, num_people, BLOCK_ROWS)
    rows = tuple(min(BLOCK_ROWS, num_people - start) for start in starts)

    def block(block_info: Any = None) -> np.ndarray:
        (number, _), (size, _) = block_info[None]["chunk-location"], block_info[None]["chunk-shape"]
        rng = np.random.default_rng([0, number])
        table = rng.normal(size=(size, width))
        table[:, -2] += 0.1 * table[:, :NUM_INSTRUMENTS].sum(axis=1)
        table[:, -1] += 0.5 * table[:, -2]
        return table

    columns = da.map_blocks(block, chunks=(rows, (width,)), dtype=np.float64)
    z, w = columns[:, :NUM_INSTRUMENTS], columns[:, NUM_INSTRUMENTS:-2]
    by_mrscale(*regression(WARM_UP))
    return lambda: by_mrscale(columns[:, -1], columns[:, -2], z, w)


def flat_memory() -> str:
    """The fifth table."""
    rows = []
    for people in (100_000, 500_000, 2_000_000):
        (found,) = in_turns(__file__, "lazy", people=people)
        rows.append([f"{people:,}", f"{found.extra:,.0f}", f"{found.seconds:.1f}"])
    return (
        "The same regression on dask arrays whose blocks are made when they are wanted.\n\n"
        f"{markdown(['people', 'extra MiB', 'seconds'], rows)}\n"
    )


JOBS: dict[str, Callable[[Any], Job]] = {
    "mrscale": partial(prepared, by_mrscale),
    "alone": partial(prepared, alone),
    "associations": partial(prepared, associations),
    "decode": decode,
    "product": product,
    "moments": store_moments,
    "lazy": lazy,
    **{name: partial(pairs, sizes) for name, sizes in PAIRS.items()},
}


if __name__ == "__main__":
    run_one(JOBS) or main()
