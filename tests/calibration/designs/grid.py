"""The designs that learned instruments are measured on: one factor at a time from a base."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import xarray as xr

from mrscale.config import Method
from mrscale.simulate.designs import simulate_latent
from mrscale.workflow.cohorts import ArrayCohort, balanced_folds
from mrscale.workflow.learning import BLOCKS

SEEDS = range(42, 62)
"""Those of the paper's experiments."""
OTHER_SEEDS = range(142, 162)
"""For choosing settings and fitting the rule of trust; never shown as results."""
MIXINGS = ("linear", "poly2", "poly3", "mlp", "tanh")
LOSSY = ("fold", "maxpool", "dropout")
GENOTYPES = ("factor", "mendelian")
CHOOSING = (*MIXINGS, "fold", "factor", "mendelian", "E 2", "dims 4+2", "dims 2+1")
"""Designs on which the latent dimension is chosen as for users."""
VIOLATIONS = ("unmoved_confounder", "shifting_latent", "dependent_latent")


@dataclass(frozen=True)
class Case:
    """One data set: a design and a seed.

    Attributes
    ----------
    name : str
        Of the design, as tables show it.
    design : dict
        Arguments of :func:`mrscale.simulate.designs.simulate_latent`.
    seed : int
    blocks : int, optional
        By default as many as users get.
    """

    name: str
    design: dict[str, Any]
    seed: int
    blocks: int | None = None

    @property
    def latent_dim(self) -> int:
        """The true number of exogenous latents."""
        alone = self.design["mixing"] == "mendelian"
        return 1 if alone else self.design.get("num_exogenous", 2)

    @property
    def identified(self) -> bool:
        """Whether theory promises the effect: an invertible mixing, no violation, and at least
        2 K + 1 environments for K confounded latents."""
        environments = self.design.get("num_environments", 5)
        needed = 2 * self.design.get("num_confounded", 2) + 1
        inverts = self.design["mixing"] in (*MIXINGS, "factor")
        return inverts and environments >= needed and "violation" not in self.design

    @property
    def key(self) -> str:
        """Name of its files."""
        return f"{self.name.replace(' ', '_')}-{self.seed}"

    def draw(self) -> xr.Dataset:
        """The data with their truth."""
        return simulate_latent(**self.design, seed=self.seed)

    def cohort(self, data: xr.Dataset, exposure: np.ndarray, outcome: np.ndarray) -> ArrayCohort:
        """The data as the workflow reads them, with redrawn traits (N, R)."""
        num, redraws = exposure.shape
        alone = np.full(num, -1, dtype=np.int32)
        environment = data["environment"].to_numpy()
        arrays = {
            "environment": environment,
            "fold": balanced_folds(environment, alone, self.blocks or BLOCKS, self.seed),
            "family": alone,
            "cluster": alone,
            "exposure": exposure,
            "outcome": outcome,
            "covariate": np.zeros((num, 0)),
        }
        traits = [str(r) for r in range(redraws)]
        places = [str(e) for e in range(data.attrs["num_environments"])]
        named = {"exposures": traits, "outcomes": traits, "covariates": [], "environments": places}
        return ArrayCohort(data["x"].to_numpy(), arrays, named)


@dataclass(frozen=True)
class Grid:
    """Data sets, and how they are trained.

    Attributes
    ----------
    cases : list of Case
        Those that matter most first.
    methods : tuple of str
    latent_dim : int, "true" or "auto"
    restarts : int
        Of flows; by default as many as users get.
    """

    cases: list[Case]
    methods: tuple[Method, ...]
    latent_dim: int | Literal["true", "auto"] = "true"
    restarts: int = 2


def grids(seeds: Sequence[int] | None = None) -> dict[str, Grid]:
    """By name; ``table`` is the result, ``blocks`` and ``rule`` are what settings were chosen by.

    Parameters
    ----------
    seeds : sequence of int, optional
        Instead of each grid's own.
    """
    shown, others = seeds or SEEDS, seeds or OTHER_SEEDS
    large = [
        Case(f"{m} n 20k", {"mixing": m, "num_people": 20_000}, s) for s in shown for m in MIXINGS
    ]
    chosen = [case for case in one_factor(shown[:5]) if case.name in CHOOSING]
    return {
        "table": Grid(one_factor(shown) + sizes(shown), ("linear", "flow")),
        "kernel": Grid(large, ("kernel",)),
        "choice": Grid(chosen, ("linear", "flow"), "auto"),
        "rule": Grid(one_factor(others[:6]), ("linear", "flow"), restarts=1),
        "blocks": Grid(block_cases(others[:6]), ("flow",), restarts=1),
    }


def one_factor(seeds: Sequence[int]) -> list[Case]:
    """Data sets of 10,000 people: one factor at a time varied from the base, all of them with the
    first seed first."""
    base: dict[str, Any] = {"mixing": "mlp"}
    designs: dict[str, dict[str, Any]] = {}
    for mixing in (*MIXINGS, *LOSSY, *GENOTYPES):
        designs[mixing] = {"mixing": mixing}
    for number in (2, 3, 10):
        designs[f"E {number}"] = base | {"num_environments": number}
    for own, confounded in ((1, 2), (4, 2), (2, 1), (2, 4)):
        sizes = {"num_exogenous": own, "num_confounded": confounded}
        designs[f"dims {own}+{confounded}"] = base | sizes
    designs["dims 2+4 E 10"] = base | {"num_confounded": 4, "num_environments": 10}
    for shift in ("mean", "scale", "shape"):
        designs[f"shift {shift}"] = base | {"shift": shift}
    for violation in VIOLATIONS:
        designs[violation] = base | {"violation": violation}
    return [Case(name, design, seed) for seed in seeds for name, design in designs.items()]


def sizes(seeds: Sequence[int]) -> list[Case]:
    """Data sets of more people: all seeds at 20,000, five at 40,000, two at 160,000."""
    found = []
    for people, some in ((20_000, seeds), (40_000, seeds[:5]), (160_000, seeds[:2])):
        for seed in some:
            for mixing in MIXINGS:
                design = {"mixing": mixing, "num_people": people}
                found.append(Case(f"{mixing} n {people // 1000}k", design, seed))
    return found


def block_cases(seeds: Sequence[int]) -> list[Case]:
    """Data sets that show how many blocks of people are best, by their number.

    Parameters
    ----------
    seeds : sequence of int
        Other than those of the table.
    """
    found = []
    for people, numbers in ((10_000, (4, 6)), (20_000, (4, 8)), (40_000, (4, 8, 16))):
        some = seeds if people < 40_000 else seeds[: len(seeds) // 2]
        for mixing in ("mlp", "poly3", "tanh"):
            design = {"mixing": mixing, "num_people": people}
            found += [
                Case(f"{mixing} n {people // 1000}k S {blocks}", design, seed, blocks)
                for blocks in numbers
                for seed in some
            ]
    return found
