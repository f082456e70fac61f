"""Coverage of intervals and sets, and size of tests, of ``mrscale.iv`` on simulated people.

    python tests/calibration/coverage.py [--replicates 10000] [--write docs/calibration.md]

Replicates are independent, each with a generator seeded by (seed, cell, replicate): the same
numbers for any number of processes. Cells without a bar are given a fifth of them.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import platform
import runpy
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import date
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import mrscale as mr
from mrscale.stream.reduce import one_blas_thread

insert = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "page.py"))["insert"]

SEED = 20240
TRUTH = 0.5
BAR = (0.94, 0.96)
SIZE = 0.05
BATCH = 100
"""Replicates that a process takes at once."""

STRENGTH, CLUSTERS, MANY, TESTS = "strength", "clusters", "many weak instruments", "tests"

COLUMNS = ["table", "people", "method", "estimate", "covered", "width"]
Row = tuple[str, float, float, float]
"""Method, estimate, whether it covers the truth (or does not reject it), and width."""


@dataclass(frozen=True)
class Design:
    """How people are simulated.

    Attributes
    ----------
    num_people, num_instruments : int
    first_stage_f : float
        Expected classical F; at 1 the instruments say nothing.
    confounding : float
        Correlation of the errors of exposure and outcome.
    by_genotype : bool
        Whether the outcome's error grows with the first variant.
    cluster_size : int
    relatedness : float
        Correlation of dosages within a cluster.
    shared_error : float
        Share of both errors that is common to a cluster.
    """

    num_people: int = 1000
    num_instruments: int = 3
    first_stage_f: float = 150.0
    confounding: float = 0.7
    by_genotype: bool = False
    cluster_size: int = 1
    relatedness: float = 0.0
    shared_error: float = 0.0

    def draw(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Columns y, x, z and clusters of the people of one replicate."""
        cluster = np.arange(self.num_people) // self.cluster_size
        frequency = rng.uniform(0.2, 0.5, self.num_instruments)
        z = self._allele(rng, frequency, cluster) + self._allele(rng, frequency, cluster)
        v, e = self._error(rng, cluster), self._error(rng, cluster)
        u = self.confounding * v + math.sqrt(1 - self.confounding**2) * e
        if self.by_genotype:
            u = u * (0.5 + z[:, 0])
        standardised = (z - 2 * frequency) / np.sqrt(2 * frequency * (1 - frequency))
        x = math.sqrt((self.first_stage_f - 1) / self.num_people) * standardised.sum(axis=1) + v
        return {"y": TRUTH * x + u, "x": x, "z": z, "clusters": cluster}

    def _allele(
        self, rng: np.random.Generator, frequency: np.ndarray, cluster: np.ndarray
    ) -> np.ndarray:
        shape = (self.num_people, self.num_instruments)
        own = rng.random(shape) < frequency
        common = (rng.random((cluster[-1] + 1, self.num_instruments)) < frequency)[cluster]
        inherited = rng.random(shape) < math.sqrt(self.relatedness)
        return np.where(inherited, common, own).astype(np.int8)

    def _error(self, rng: np.random.Generator, cluster: np.ndarray) -> np.ndarray:
        common, own = rng.normal(size=cluster[-1] + 1), rng.normal(size=self.num_people)
        share = self.shared_error
        return math.sqrt(share) * common[cluster] + math.sqrt(1 - share) * own


@dataclass(frozen=True)
class Asked:
    """One call of ``mrscale.iv``, the name of its Wald interval, and the sets that are wanted."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    sets: tuple[str, ...] = ()

    def rows(self, people: dict[str, np.ndarray]) -> Iterator[Row]:
        """What the call gives for one replicate: interval, sets, first-stage F and tests."""
        clustered = self.options.get("errors") == "cluster"
        fit = mr.iv(
            people["y"],
            people["x"],
            people["z"],
            clusters=people["clusters"] if clustered else None,
            **self.options,
        )
        estimate = float(fit.params["exposure"])
        low, high = fit.conf_int().loc["exposure"]
        yield self.name, estimate, low <= TRUTH <= high, high - low
        for kind in self.sets:
            found = getattr(fit, kind)()
            yield SETS[kind], math.nan, TRUTH in found, sum(b - a for a, b in found.intervals)
        if len(fit.first_stage):
            yield "F", float(fit.first_stage["f"].iloc[0]), math.nan, math.nan
        for test in (fit.overidentification, fit.endogeneity):
            if not test.reason:
                yield f"{test.name}, {self.name}", math.nan, test.pvalue >= SIZE, math.nan


SETS = {"anderson_rubin": "AR", "clr": "CLR"}
CLASSICAL = Asked("classical", {"errors": "classical"})
ROBUST = Asked("robust", {"errors": "robust"})
CLUSTERED = Asked("clustered", {"errors": "cluster"}, ("anderson_rubin",))
SMALL = Asked("clustered, small sample", {"errors": "cluster", "small_sample": True})
TWO_STAGE = {
    "classical": Asked("2SLS", {"errors": "classical"}, ("anderson_rubin", "clr")),
    "robust": Asked("2SLS", {"errors": "robust"}, ("anderson_rubin",)),
}
ESTIMATORS = (
    Asked("2SLS", sets=("anderson_rubin", "clr")),
    *(Asked(n, {"estimator": n.lower()}) for n in ("OLS", "LIML", "Fuller", "JIVE", "UJIVE")),
)


@dataclass(frozen=True)
class Cell:
    """People of one design, what is asked of them, and which methods are held to the bar."""

    table: str
    people: str
    design: Design
    asked: tuple[Asked, ...]
    barred: tuple[str, ...] = ()

    def replicates(self, most: int) -> int:
        """A fifth where there is no bar."""
        return most if self.barred else math.ceil(most / 5)


def strength(people: str, errors: str, f: float, **design: Any) -> Cell:
    """Three instruments of any strength, with errors that are right for the people."""
    by_genotype = errors == "robust"
    barred = ("AR", "2SLS") if by_genotype and f > 100 else ("AR",)
    people = f"{people}, F {f:g}, {errors} errors"
    made = Design(first_stage_f=f, by_genotype=by_genotype, **design)
    return Cell(STRENGTH, people, made, (TWO_STAGE[errors],), barred)


SITES = Design(cluster_size=20, relatedness=0.1, shared_error=0.2)
FAMILIES = Design(cluster_size=4, relatedness=0.5, shared_error=0.5)
MANY_WEAK = Design(num_instruments=50, first_stage_f=2.0)
NULL = Design(confounding=0.0)
BY_CLUSTER = ("clustered", "AR")

CELLS = [
    *(strength("equal variances", "classical", f) for f in (1.0, 3.0, 10.0, 150.0)),
    *(strength("variance by genotype", "robust", f) for f in (1.0, 3.0, 10.0, 150.0)),
    strength("variance by genotype, one instrument", "robust", 150.0, num_instruments=1),
    Cell(CLUSTERS, "50 sites of 20", SITES, (CLUSTERED, SMALL, ROBUST), (*BY_CLUSTER, SMALL.name)),
    Cell(CLUSTERS, "250 families of 4", FAMILIES, (CLUSTERED, ROBUST), BY_CLUSTER),
    Cell(MANY, MANY, MANY_WEAK, ESTIMATORS),
    Cell(TESTS, "equal variances", NULL, (CLASSICAL, ROBUST)),
    Cell(TESTS, "variance by genotype", replace(NULL, by_genotype=True), (CLASSICAL, ROBUST)),
    Cell(TESTS, "250 families of 4", replace(FAMILIES, confounding=0.0), (ROBUST, CLUSTERED)),
]
"""Everything that is simulated. The order decides the seeds."""


def main() -> None:
    """Simulate all cells on all cores, and write the section."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replicates", type=int, default=10_000)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    start = time.perf_counter()
    runs = simulate(options.replicates)
    text = report(runs, options.replicates, time.perf_counter() - start)
    print(text)
    if options.write:
        insert(options.write, "statistics engine", text)


def simulate(replicates: int) -> pd.DataFrame:
    """All replicates of all cells: a row per replicate and method, columns ``COLUMNS``."""
    jobs = [
        (cell, first, min(first + BATCH, wanted))
        for cell in range(len(CELLS))
        for wanted in [CELLS[cell].replicates(replicates)]
        for first in range(0, wanted, BATCH)
    ]
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        return pd.concat(pool.map(batch, *zip(*jobs, strict=True)), ignore_index=True)


def batch(number: int, first: int, last: int) -> pd.DataFrame:
    """Some replicates of one cell."""
    cell, rows = CELLS[number], []
    with one_blas_thread():
        for replicate in range(first, last):
            people = cell.design.draw(np.random.default_rng([SEED, number, replicate]))
            found = chain.from_iterable(asked.rows(people) for asked in cell.asked)
            rows += [(cell.table, cell.people, *row) for row in found]
    return pd.DataFrame(rows, columns=COLUMNS)


def report(runs: pd.DataFrame, replicates: int, seconds: float) -> str:
    """The section in Markdown."""
    groups = runs.groupby(["table", "people", "method"], sort=False)
    cells = {key: summarise(group) for key, group in groups}
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    return f"""## Intervals, sets and tests of the statistics engine

`python tests/calibration/coverage.py --replicates {replicates}` ({machine}, {date.today()}, \
{seconds / 60:.0f} minutes; seed {SEED}). Each replicate is `mrscale.iv` on 1,000 simulated people \
with dosages of independent variants, an effect of {TRUTH} and errors of exposure and outcome that \
correlate by 0.7. Monte Carlo errors in brackets.

### Strength of the instruments

Share of nominal 95 % intervals (2SLS) and sets (Anderson-Rubin, conditional likelihood ratio) \
that cover the truth, in %; {replicates:,} replicates in each row. F is the mean of the classical \
first-stage F; three instruments where not one.

{coverage_table(cells, STRENGTH, ["F", "2SLS", "AR", "CLR"])}

### People who are not independent

The same for 2SLS with three instruments and F 150, by kind of error; {replicates:,} replicates. \
Relatives share half of genotype and error; people of one site a tenth and a fifth.

{coverage_table(cells, CLUSTERS, ["F", "clustered", "clustered, small sample", "robust", "AR"])}

AR is the clustered one.

### Many weak instruments

50 instruments, F about 2, robust errors; {math.ceil(replicates / 5):,} replicates.

{many_weak_table(cells)}

### Size of the tests

Share of true hypotheses that are rejected at the 5 % level, in %: valid instruments for Sargan \
and Hansen J, no confounding for Wu-Hausman and Wooldridge; three instruments, F 150, \
{math.ceil(replicates / 5):,} replicates. The last row is the design above: the test of \
overidentification is not to be trusted with many weak instruments.

{size_table(cells)}

### Against what was promised

{verdicts(cells)}
"""


@dataclass(frozen=True)
class Summary:
    """Of one method on one kind of people, each with its Monte Carlo error."""

    coverage: tuple[float, float]
    estimate: tuple[float, float]
    width: tuple[float, float]
    mean_estimate: float
    unbounded: float


def summarise(group: pd.DataFrame) -> Summary:
    """Coverage, medians of estimates and widths, and how many sets are unbounded."""
    covered, width = group["covered"].to_numpy(float), group["width"].to_numpy(float)
    share = covered.mean()
    return Summary(
        coverage=(share, math.sqrt(share * (1 - share) / len(group))),
        estimate=_median(group["estimate"].to_numpy(float)),
        width=_median(width),
        mean_estimate=float(group["estimate"].mean()),
        unbounded=float(np.isinf(width).mean()),
    )


def _median(values: np.ndarray) -> tuple[float, float]:
    """Median, and half the distance of the order statistics one standard error either side."""
    near = 0.5 + np.array([-0.5, 0, 0.5]) / math.sqrt(len(values))
    low, middle, high = np.quantile(values, near, method="nearest")
    return float(middle), float((high - low) / 2) if math.isfinite(high) else math.nan


Cells = dict[tuple[str, str, str], Summary]


def coverage_table(cells: Cells, table: str, methods: Sequence[str]) -> str:
    """A row per kind of people, a column per method."""
    rows = []
    for people in dict.fromkeys(people for name, people, _ in cells if name == table):
        found = [cells.get((table, people, method)) for method in methods]
        rows.append([people, f"{found[0].mean_estimate:.1f}", *map(_coverage, found[1:])])  # type: ignore[union-attr]
    return _markdown(["people", *methods], rows)


def many_weak_table(cells: Cells) -> str:
    """A row per estimator or set."""
    rows = []
    for method in [asked.name for asked in ESTIMATORS] + list(SETS.values()):
        one = cells[MANY, MANY, method]
        bias = "" if method in SETS.values() else _number(one.estimate[0] - TRUTH, one.estimate[1])
        width = _number(*one.width)
        rows.append([method, _coverage(one), bias, width, f"{one.unbounded:.1%}"])
    names = ["estimator or set", "coverage, %", "median bias", "median width", "unbounded"]
    return _markdown(names, rows)


def size_table(cells: Cells) -> str:
    """A row per kind of people and test."""
    rows = []
    for (table, people, method), one in cells.items():
        test, _, errors = method.partition(", ")
        if errors and table == TESTS:
            rows.append([people, test, errors, _coverage(one, rejected=True)])
    many = _coverage(cells[MANY, MANY, "Hansen J, 2SLS"], rejected=True)
    rows.append([MANY, "Hansen J", "robust", many])
    return _markdown(["people", "test", "errors", "rejected, %"], rows)


def verdicts(cells: Cells) -> str:
    """Whether each share that is held to the bar is within it."""
    lines = []
    for cell in CELLS:
        for method in cell.barred:
            one = cells[cell.table, cell.people, method]
            word = "within" if BAR[0] <= one.coverage[0] <= BAR[1] else "NOT within"
            bar = " to ".join(f"{100 * end:g}" for end in BAR)
            lines.append(f"- {cell.people}, {method}: {_coverage(one)} is {word} {bar}.")
    return "\n".join(lines)


def _coverage(one: Summary | None, *, rejected: bool = False) -> str:
    if one is None:
        return ""
    share, error = one.coverage
    return f"{100 * (1 - share if rejected else share):.1f} ({100 * error:.1f})"


def _number(value: float, error: float) -> str:
    return f"{value:.3f} ({error:.3f})" if math.isfinite(value) else "unbounded"


def _markdown(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head, *body = (f"| {' | '.join(line)} |" for line in [names, *rows])
    return "\n".join([head, "|---" * len(names) + "|", *body])


if __name__ == "__main__":
    main()
