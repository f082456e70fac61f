"""The data sets of the experiments: what each is called, and how it is drawn.

Legend: N people, M instruments, L exogenous latents.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mrscale.errors import InputError
from mrscale.provenance import fingerprint
from mrscale.simulate import existing_files
from mrscale.simulate.coalescent import ANCESTRY, CoalescentModel
from mrscale.simulate.cohort import Model
from mrscale.simulate.designs import simulate_latent
from mrscale.simulate.phenotypes import draw_traits
from mrscale.simulate.semisynthetic import ExistingModel

SEEDS = range(42, 62)
"""Those of the paper."""
NUM_PEOPLE = 10_000
"""In a data set, unless said otherwise."""
EFFECT = 1.0

MIXINGS = ("linear", "poly2", "poly3", "mlp", "tanh")
_NUM_VARIANTS = 100
_MODEL, _PEOPLE, _TRAITS = range(3)


@dataclass(frozen=True, eq=False)
class Data:
    """One data set, and its truth.

    Attributes
    ----------
    instruments : ndarray of float64 or int8, shape (N, M)
    environment, family : ndarray of int, shape (N,)
        Family is None where all people are unrelated.
    exposure, outcome : ndarray of float64, shape (N,)
    exogenous : ndarray of float64, shape (N, L)
        The true latent z_I.
    """

    instruments: NDArray[Any]
    environment: NDArray[Any]
    exposure: NDArray[np.float64]
    outcome: NDArray[np.float64]
    exogenous: NDArray[np.float64]
    family: NDArray[Any] | None = None


class Case(Protocol):
    """A data set to draw, and how it is analysed."""

    @property
    def design(self) -> str:
        """Which panel of the figure it belongs to."""

    @property
    def seed(self) -> int: ...

    @property
    def options(self) -> dict[str, Any]:
        """Of :func:`mrscale.learned_iv`."""

    def draw(self) -> Data:
        """The same data every time."""


@dataclass(frozen=True, eq=False)
class Simulated:
    """Features that mix exogenous and confounded latents; :func:`mrscale.simulate_latent`.

    Attributes
    ----------
    design : str
    seed, num_people : int
    arguments : dict
        Of the simulation.
    options : dict
    """

    design: str
    seed: int
    num_people: int
    arguments: dict[str, Any]
    options: dict[str, Any]

    def draw(self) -> Data:
        drawn = simulate_latent(
            num_people=self.num_people, effect=EFFECT, seed=self.seed, **self.arguments
        )
        names = ("x", "environment", "exposure", "outcome", "z_exogenous")
        return Data(*(drawn[name].to_numpy() for name in names))


@dataclass(frozen=True, eq=False)
class OnGenotypes:
    """Traits drawn on genotypes; see :func:`mrscale.simulate`.

    Attributes
    ----------
    design : str
    seed : int
    num_people : int
        Of the coalescent; a file has its own, and 0 here.
    genotypes, samples : Path, optional
        A VCF and the environments of its samples. Without them genotypes are drawn from a
        coalescent of five populations.
    content : tuple of str
        SHA-256 (hex) of both files, by which finished cases are known, wherever the files lie.
    options : dict
    """

    design: str
    seed: int
    num_people: int
    genotypes: Path | None = field(default=None, repr=False)
    samples: Path | None = field(default=None, repr=False)
    content: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)

    def draw(self) -> Data:
        model_rng, people_rng, traits_rng = (
            np.random.default_rng([self.seed, purpose]) for purpose in (_MODEL, _PEOPLE, _TRAITS)
        )
        model: Model
        if self.genotypes and self.samples:
            model = ExistingModel(model_rng, self.genotypes, self.samples)
        else:
            model = CoalescentModel(model_rng, _NUM_VARIANTS, len(ANCESTRY))
        cohort = model.draw(people_rng, self.num_people, 0)
        traits = draw_traits(traits_rng, cohort, EFFECT)
        return Data(
            cohort.dosage,
            cohort.environment,
            traits.exposure,
            traits.outcome,
            cohort.exogenous,
            cohort.family,
        )


def simulation(seeds: Iterable[int] = SEEDS, num_people: int | None = None) -> list[Case]:
    """The simulation study: mixings, a latent dimension below the true one of 2, environments.

    Returns
    -------
    list of Case
        One seed after the other, so that whatever is finished first is balanced over designs.
    """
    people = num_people or NUM_PEOPLE
    designs: list[tuple[str, int, dict[str, Any]]] = [
        *((mixing, 2, {"mixing": mixing}) for mixing in MIXINGS),
        *((f"{mixing}, lower dimension", 1, {"mixing": mixing}) for mixing in ("poly2", "mlp")),
        *((f"mlp, {e} environments", 2, {"num_environments": e}) for e in (2, 3, 10)),
    ]
    return [
        Simulated(design, seed, people, arguments, {"latent_dim": latent_dim, "factors": 4})
        for seed in seeds
        for design, latent_dim, arguments in designs
    ]


def semi_synthetic(
    seeds: Iterable[int] = SEEDS,
    num_people: int | None = None,
    genotypes: Path | None = None,
    samples: Path | None = None,
) -> list[Case]:
    """The semi-synthetic study: traits on genotypes of a file, or of a coalescent.

    Raises
    ------
    InputError
        If one of the two files is absent or not given, or if a number of people is given beside
        files.
    """
    files = existing_files(genotypes, samples)
    if not files:
        return [OnGenotypes("coalescent", seed, num_people or NUM_PEOPLE) for seed in seeds]
    if num_people:
        raise InputError(
            "the people are those of the genotype file; found a number of people (--people); "
            "leave it out"
        )
    content = tuple(fingerprint(file) for file in files)
    return [OnGenotypes(files[0].name, seed, 0, *files, content) for seed in seeds]
