"""Size and power of the checks of learned instruments on simulated latents.

    python tests/calibration/diagnostics_size.py [--replicates 1000] [--write docs/calibration.md]

Replicates are independent, each with a generator seeded by (seed, cell, replicate): the same
numbers for any number of processes. Cells of more people are given a fifth of them.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import platform
import runpy
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import date
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mrscale.simulate.designs import simulate_latent
from mrscale.stats.design import indicators
from mrscale.stats.independence import independence_test
from mrscale.stats.invariance import invariance_test
from mrscale.stats.misfit import RandomFeatures, misfit
from mrscale.stats.moments import Moments
from mrscale.stream.reduce import one_blas_thread

insert = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "page.py"))["insert"]

SEED = 30311
LEVEL = 0.05
NUM_PEOPLE, MANY_PEOPLE = 1000, 10_000
NUM_ENVIRONMENTS = 5
MISFIT_PARTS = 3
PERMUTATIONS = 199
BATCH = 10
"""Replicates that a process takes at once."""

INVARIANCE, ANY_PAIR, INDEPENDENCE, MISFIT = TESTS = (
    "invariance",
    "any pair of environments",
    "independence",
    "misfit checks",
)
SIZED = (INVARIANCE, ANY_PAIR, INDEPENDENCE)
"""Tests with a level. The misfit checks have fixed thresholds."""


@dataclass(frozen=True)
class Latents:
    """Latent g (N, d), remainder h (N, K) and environment (N,)."""

    g: np.ndarray
    h: np.ndarray
    environment: np.ndarray


Change = Callable[[Latents, np.random.Generator], np.ndarray]
"""A latent in place of the true one."""


@dataclass(frozen=True)
class Cell:
    """A kind of people and latent.

    Attributes
    ----------
    name : str
    true : tuple of str
        Tests whose hypothesis holds.
    design : dict
        Arguments of ``simulate_latent``.
    change : callable
        What is tested instead of the true latents.
    thinned : bool
        Whether environments are of very unequal size.
    num_people : int
    """

    name: str
    true: tuple[str, ...]
    design: dict[str, Any] = field(default_factory=dict)
    change: Change = lambda one, _: one.g
    thinned: bool = False
    num_people: int = NUM_PEOPLE

    def replicates(self, most: int) -> int:
        """A fifth where people are many."""
        return most if self.num_people == NUM_PEOPLE else math.ceil(most / 5)

    def draw(self, rng: np.random.Generator) -> Latents:
        """The people of one replicate."""
        data = simulate_latent(
            num_people=self.num_people,
            num_environments=NUM_ENVIRONMENTS,
            seed=int(rng.integers(2**40)),
            **self.design,
        )
        names = ("z_exogenous", "z_confounded", "environment")
        one = Latents(*(data[name].to_numpy() for name in names))
        if self.thinned:
            # 200, 80, 32, 13 and 5 people expected
            kept = rng.random(self.num_people) < 0.4**one.environment
            one = Latents(one.g[kept], one.h[kept], one.environment[kept])
        return Latents(self.change(one, rng), one.h, one.environment)


def heavy(one: Latents, rng: np.random.Generator) -> np.ndarray:
    """Tails without a variance, and ties."""
    return np.round(rng.standard_t(2, one.g.shape), 1)


def leaking(share: float) -> Change:
    """A confounded part with this R2, as an encoder that is not done would leave."""
    return lambda one, _: math.sqrt(1 - share) * one.g + math.sqrt(share) * one.h


def within(one: Latents, _: np.random.Generator) -> np.ndarray:
    """The mean depends on the remainder's deviation from its environment's mean."""
    return np.sqrt(0.96) * one.g + 0.2 * _standard(one)


def spread(one: Latents, _: np.random.Generator) -> np.ndarray:
    """The spread depends on the same, the mean does not."""
    return one.g * np.exp(0.2 * _standard(one))


def _standard(one: Latents) -> np.ndarray:
    found = np.empty_like(one.h)
    for code in np.unique(one.environment):
        group = one.h[one.environment == code]
        found[one.environment == code] = (group - group.mean(axis=0)) / group.std(axis=0)
    return found


SHIFTS = ("covariance", "mean", "scale", "shape")
CELLS = [
    *(Cell(f"true latents, {shift} shift", TESTS, {"shift": shift}) for shift in SHIFTS),
    Cell("true latents, environments of 5 to 200 people", TESTS, thinned=True),
    Cell("heavy tails and ties, environments of 5 to 200 people", TESTS, {}, heavy, True),
    Cell("z_C does not move", TESTS, {"violation": "unmoved_confounder"}),
    Cell("z_I depends on U", TESTS, {"violation": "dependent_latent"}),
    Cell("z_I moves", (INDEPENDENCE,), {"violation": "shifting_latent"}),
    Cell("latent leaks 1 % of z_C", (), change=leaking(0.01)),
    Cell("latent leaks 4 % of z_C", (), change=leaking(0.04)),
    Cell("mean follows z_C within environments, R2 4 %", (INVARIANCE, ANY_PAIR), {}, within),
    Cell("spread follows z_C within environments", (INVARIANCE, ANY_PAIR), {}, spread),
    Cell("true latents, 10,000 people", TESTS, num_people=MANY_PEOPLE),
    Cell("latent leaks 1 % of z_C, 10,000 people", (), {}, leaking(0.01), num_people=MANY_PEOPLE),
    Cell("latent leaks 4 % of z_C, 10,000 people", (), {}, leaking(0.04), num_people=MANY_PEOPLE),
]
"""Everything that is simulated. The order decides the seeds."""


def rejections(one: Latents, rng: np.random.Generator) -> Iterator[bool]:
    """Whether each of ``TESTS`` rejects."""
    invariance = invariance_test(one.g, one.environment, rng, permutations=PERMUTATIONS)
    yield invariance.joint.pvalue <= LEVEL
    yield bool(invariance.pair_pvalue.min() <= LEVEL)
    independence = independence_test(one.g, one.h, one.environment, rng, permutations=PERMUTATIONS)
    yield independence.pvalue <= LEVEL
    yield not _misfit(one, rng)


def _misfit(one: Latents, rng: np.random.Generator) -> bool:
    features = RandomFeatures.draw(one.h.shape[1], rng)
    dummies = indicators(one.environment, NUM_ENVIRONMENTS)
    rows = features.rows(one.g, one.h, dummies)
    part = rng.permutation(len(rows)) % MISFIT_PARTS
    groups = {
        (p, e): Moments.from_block(rows[inside])
        for p, e in product(range(MISFIT_PARTS), range(NUM_ENVIRONMENTS))
        if (inside := (part == p) & (one.environment == e)).any()
    }
    dim = one.g.shape[1]
    return misfit(groups, 2 * dim + dim * (dim - 1) // 2, dim).passed


def main() -> None:
    """Simulate all cells on all cores, and write the section."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replicates", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    start = time.perf_counter()
    runs = simulate(options.replicates, options.workers)
    text = report(runs, options.replicates, time.perf_counter() - start)
    print(text)
    if options.write:
        insert(options.write, "checks of learned instruments", text)


def simulate(replicates: int, workers: int) -> pd.DataFrame:
    """All replicates of all cells: a row each, columns ``cell`` and ``TESTS``."""
    jobs = [
        (cell, first, min(first + BATCH, wanted))
        for cell in range(len(CELLS))
        for wanted in [CELLS[cell].replicates(replicates)]
        for first in range(0, wanted, BATCH)
    ]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        return pd.concat(pool.map(batch, *zip(*jobs, strict=True)), ignore_index=True)


def batch(number: int, first: int, last: int) -> pd.DataFrame:
    """Some replicates of one cell."""
    rows = []
    with one_blas_thread():
        for replicate in range(first, last):
            rng = np.random.default_rng([SEED, number, replicate])
            rows.append([number, *rejections(CELLS[number].draw(rng), rng)])
    return pd.DataFrame(rows, columns=["cell", *TESTS])


def report(runs: pd.DataFrame, replicates: int, seconds: float) -> str:
    """The section in Markdown."""
    shares = runs.groupby("cell")[list(TESTS)].mean()
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    sound = [i for i, cell in enumerate(CELLS) if cell.true]
    broken = [i for i, cell in enumerate(CELLS) if set(cell.true) != set(TESTS)]
    return f"""## Checks of learned instruments

`python tests/calibration/diagnostics_size.py --replicates {replicates}` ({machine}, \
{date.today()}, {seconds / 60:.0f} minutes; seed {SEED}). Each replicate is {NUM_PEOPLE:,} people \
of a latent-mixing design (`mrscale.simulate.designs`) in {NUM_ENVIRONMENTS} environments, two \
exogenous latents z_I and two confounded ones z_C; {MANY_PEOPLE:,} people have a fifth of the \
replicates. Tests are by {PERMUTATIONS} permutations, at {100 * LEVEL:g} %; "any pair" is the \
smallest adjusted p-value over pairs of environments. Misfit checks have no level: the share is of \
latents that do not pass. Monte Carlo errors in brackets.

### Size

Share of true hypotheses that are rejected, in %.

{table(shares, sound, replicates, true=True)}

### Power

Share of false hypotheses that are rejected, in %. A confounded part that does not move, and \
a z_I that depends on the unobserved U, are in the table above: they break what the estimate \
needs, but no test of latent, remainder and environment can see it.

{table(shares, broken, replicates, true=False)}

### Against what was promised

{verdicts(shares, replicates)}
"""


def table(shares: pd.DataFrame, cells: list[int], replicates: int, *, true: bool) -> str:
    """A row per kind of latent, a column per test whose hypothesis is true, or false, there."""
    lines = [f"| latent | {' | '.join(TESTS)} |", "|---" * (len(TESTS) + 1) + "|"]
    for i in cells:
        found = (
            _share(shares.loc[i, test], CELLS[i].replicates(replicates))
            if (test in CELLS[i].true) == true
            else ""
            for test in TESTS
        )
        lines.append(f"| {CELLS[i].name} | {' | '.join(found)} |")
    return "\n".join(lines)


def verdicts(shares: pd.DataFrame, replicates: int) -> str:
    """Whether the sizes of each test, over all cells, are within three Monte Carlo errors."""
    lines = []
    for test in SIZED:
        excess = [
            (shares.loc[i, test] - LEVEL)
            / math.sqrt(LEVEL * (1 - LEVEL) / cell.replicates(replicates))
            for i, cell in enumerate(CELLS)
            if test in cell.true
        ]
        word = "within" if max(excess) <= 3 else "NOT within"
        lines.append(
            f"- {test}: of {len(excess)} sizes the largest is {max(excess):.1f} Monte Carlo errors "
            f"above {100 * LEVEL:g} %, {word} three."
        )
    return "\n".join(lines)


def _share(share: float, replicates: int) -> str:
    error = math.sqrt(share * (1 - share) / replicates)
    return f"{100 * share:.1f} ({100 * error:.1f})"


if __name__ == "__main__":
    main()
