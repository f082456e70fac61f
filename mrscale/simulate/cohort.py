"""A simulated cohort, and what all genotype models share: families and environments.

Legend of shapes: N people, M variants, J neutral variants, L exogenous latents, K confounded
latents, F families, E environments.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
DosageArray = NDArray[np.int8]

NUM_NEUTRAL = 500
"""Neutral variants that the principal components are computed from."""

_FAMILY_SIZE_SHARE = {1: 0.88, 2: 0.10, 3: 0.02}


@dataclass(frozen=True)
class Variants:
    """Where the M simulated instruments are and which alleles they have.

    Attributes
    ----------
    chromosome, ref, alt, name : ndarray of str, shape (M,)
        Contig, reference allele, alternate allele (the one that dosages count), identifier.
    position : ndarray of int64, shape (M,)
        1-based, ascending within a chromosome.
    """

    chromosome: NDArray[np.str_]
    position: NDArray[np.int64]
    ref: NDArray[np.str_]
    alt: NDArray[np.str_]
    name: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.position)

    def take(self, rows: NDArray[np.int64]) -> Variants:
        """The variants at some indices."""
        return Variants(*(getattr(self, f.name)[rows] for f in fields(self)))


@dataclass(frozen=True)
class Cohort:
    """People drawn from a genotype model, before they have traits.

    Attributes
    ----------
    environment : ndarray of int64, shape (N,)
        Code into the model's ``environment_names``.
    family : ndarray of int64, shape (N,)
        Relatives share a code.
    dosage : ndarray of int8, shape (N, M)
        Copies of the alternate allele, 0, 1 or 2; none missing.
    neutral : ndarray of int8, shape (N, J)
        Dosages of variants without any effect, for the principal components; J may be 0.
    exogenous : ndarray of float64, shape (N, L)
        Latent z_I: same law in every environment, independent of all confounding.
    confounded : ndarray of float64, shape (N, K)
        Latent z_C: what differs between environments and drives the confounder.
    score, confounder : ndarray of float64, shape (N,)
        What the exposure takes from the genotypes, and the measure of confounding; mean 0, sd 1.
    person_id : ndarray of str, shape (N,), optional
        Ids of existing people; simulated people get theirs when files are written.
    """

    environment: NDArray[np.int64]
    family: NDArray[np.int64]
    dosage: DosageArray
    neutral: DosageArray
    exogenous: FloatArray
    confounded: FloatArray
    score: FloatArray
    confounder: FloatArray
    person_id: NDArray[np.str_] | None = None


class Model(Protocol):
    """A genotype model: draws independent cohorts with the same variants and parameters.

    ``roles`` maps a variant's name to what it does; both dictionaries end up in ``truth.json``.
    """

    environment_names: tuple[str, ...]
    variants: Variants
    parameters: dict[str, Any]

    @property
    def roles(self) -> dict[str, Any]: ...

    def draw(self, rng: np.random.Generator, num_people: int, num_neutral: int) -> Cohort:
        """Draw N people with their dosages at the M variants and at ``num_neutral`` others."""


def standardise(values: FloatArray) -> FloatArray:
    """Mean 0 and standard deviation 1 down the rows."""
    return np.asarray((values - values.mean(axis=0)) / values.std(axis=0))


def draw_families(
    rng: np.random.Generator, num_people: int, num_environments: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Group people into sibships and give every sibship one environment.

    Parameters
    ----------
    rng : numpy.random.Generator
    num_people, num_environments : int
        N and E.

    Returns
    -------
    family : ndarray of int64, shape (N,)
        Codes 0..F-1; 12 % of the sibships have two or three members, the others one.
    environment : ndarray of int64, shape (F,)
        Environment of each family; families are dealt out evenly.
    """
    sizes = rng.choice(
        list(_FAMILY_SIZE_SHARE), p=list(_FAMILY_SIZE_SHARE.values()), size=num_people
    )
    family = np.repeat(np.arange(num_people), sizes)[:num_people]
    num_families = int(family[-1]) + 1
    return family, np.arange(num_families) % num_environments


def make_variants(rng: np.random.Generator, num_variants: int) -> Variants:
    """Spread variants over 22 chromosomes, one in ten of them palindromic (A/T or C/G)."""
    per_chromosome = -(-num_variants // 22)
    chromosome = np.array([str(c) for c in np.repeat(np.arange(1, 23), per_chromosome)])
    # at least 100 kb apart, as clumped genome-wide hits are
    position = 1_000_000 * (1 + np.tile(np.arange(per_chromosome), 22))
    position = position + rng.integers(0, 900_000, position.size)
    plain = ["AG", "GA", "CT", "TC", "AC", "GT"]
    pairs = rng.choice(plain, num_variants)
    palindromic = np.arange(num_variants) % 10 == 0
    pairs[palindromic] = rng.choice(["AT", "TA", "CG", "GC"], int(palindromic.sum()))
    return Variants(
        chromosome=chromosome[:num_variants],
        position=position[:num_variants],
        ref=np.array([p[0] for p in pairs]),
        alt=np.array([p[1] for p in pairs]),
        name=np.array([f"sim{j + 1}" for j in range(num_variants)]),
    )


def draw_dosage(rng: np.random.Generator, frequency: FloatArray) -> DosageArray:
    """Binomial(2, p) dosages for an array of allele frequencies of any shape."""
    first = rng.random(frequency.shape) < frequency
    return np.asarray(first.astype(np.int8) + (rng.random(frequency.shape) < frequency), np.int8)
