"""Coalescent model: ordinary Mendelian sampling, where adjusting for ancestry is enough.

Three source populations descend from an out-of-Africa-like demography (sizes and times close to
Gutenkunst et al. 2009, without migration). Every locus is an independent coalescent tree with one
variant. People, admixed ones included, are children of parents whose alleles are drawn from the
source populations in proportion to the family's ancestry; siblings share the parents.

References
----------
Gutenkunst et al. (2009), PLoS Genetics 5(10): e1000695. Baumdicker et al. (2022), msprime 1.0,
Genetics 220(3): iyab229.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrscale.errors import MissingExtraError
from mrscale.simulate.cohort import (
    NUM_NEUTRAL,
    Cohort,
    DosageArray,
    FloatArray,
    draw_families,
    make_variants,
    standardise,
)

SOURCES = ("AFR", "EUR", "EAS")

ANCESTRY = {
    "AFR": (1, 0, 0),
    "EUR": (0, 1, 0),
    "EAS": (0, 0, 1),
    "AFR-EUR": (16, 4, 0),
    "EUR-EAS-AFR": (2, 10, 8),
}
"""Dirichlet parameters of a family's ancestry from the sources, per environment."""

_PARAMETERS: dict[str, Any] = {
    "panel_haplotypes_per_source": 1000,
    "segment_length": 10_000,
    "mutation_rate": 1.5e-8,
    "minor_allele_frequency": 0.05,
}


class CoalescentModel:
    """One causal variant per independent locus; the confounder depends on ancestry only.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of the trees, effects and positions.
    num_variants, num_environments : int
        M and E (2 to 5: the first E entries of ``ANCESTRY``).

    Raises
    ------
    MissingExtraError
        If msprime is not installed.

    Notes
    -----
    With q the ancestry of a family, F the allele frequencies of the sources and w the effects, the
    score is X w, and the exogenous latent is its Mendelian deviation (X - 2 q F) w scaled by its
    standard deviation given q: mean 0, variance 1 and independent of the confounder in everybody.
    """

    def __init__(self, rng: np.random.Generator, num_variants: int, num_environments: int) -> None:
        self.environment_names = tuple(ANCESTRY)[:num_environments]
        self.variants = make_variants(rng, num_variants)
        shares = np.array([ANCESTRY[name] for name in self.environment_names])
        frequency = _source_frequencies(
            rng, num_variants + NUM_NEUTRAL, np.asarray(shares.any(axis=0))
        )
        self._frequency, self._neutral = frequency[:, :num_variants], frequency[:, num_variants:]
        self._effect = rng.standard_normal(num_variants)
        contrast = rng.standard_normal(len(SOURCES))
        self._contrast = contrast - contrast.mean()
        self.parameters = dict(_PARAMETERS) | {
            "ancestry": {name: ANCESTRY[name] for name in self.environment_names},
            "confounding_by_source": dict(zip(SOURCES, np.round(self._contrast, 6), strict=True)),
        }

    @property
    def roles(self) -> dict[str, Any]:
        """Per variant: that it is causal for the exposure, and its weight in the score."""
        return {
            str(name): {"role": "causal", "weight": round(float(w), 6)}
            for name, w in zip(self.variants.name, self._effect, strict=True)
        }

    def draw(self, rng: np.random.Generator, num_people: int, num_neutral: int) -> Cohort:
        """Draw people; see :class:`mrscale.simulate.cohort.Model`."""
        family, environment = draw_families(rng, num_people, len(self.environment_names))
        parameters = np.array([ANCESTRY[name] for name in self.environment_names], float)
        ancestry = rng.standard_gamma(parameters[environment])
        ancestry /= ancestry.sum(axis=1, keepdims=True)
        dosage = _children(rng, family, ancestry, self._frequency)
        frequency = ancestry @ self._frequency
        deviation = dosage @ self._effect - 2 * (frequency @ self._effect)[family]
        spread = np.sqrt(2 * (frequency * (1 - frequency)) @ self._effect**2)[family]
        return Cohort(
            environment=environment[family],
            family=family,
            dosage=dosage,
            neutral=_children(rng, family, ancestry, self._neutral[:, :num_neutral]),
            exogenous=(deviation / spread)[:, None],
            confounded=ancestry[family][:, :-1],
            score=standardise(dosage @ self._effect),
            confounder=standardise(ancestry[family] @ self._contrast),
        )


def _children(
    rng: np.random.Generator, family: Any, ancestry: FloatArray, frequency: FloatArray
) -> DosageArray:
    """Dosages (N, M) of the children of two parents per family, each giving one of two alleles."""
    num_people, num_families = len(family), len(ancestry)
    dosage = np.empty((num_people, frequency.shape[1]), np.int8, order="F")
    for j, expected in enumerate((ancestry @ frequency).T):
        alleles = rng.random((4, num_families)) < expected
        from_mother, from_father = rng.integers(0, 2, (2, num_people))
        dosage[:, j] = alleles[from_mother, family]
        dosage[:, j] += alleles[2 + from_father, family]
    return dosage


def _source_frequencies(
    rng: np.random.Generator, num_loci: int, present: NDArray[np.bool_]
) -> FloatArray:
    """Allele frequencies (sources, loci): one common variant on each of many trees."""
    loci = _common_variants(rng, present)
    return np.stack([next(loci) for _ in range(num_loci)], axis=1)


def _common_variants(rng: np.random.Generator, present: NDArray[np.bool_]) -> Iterator[FloatArray]:
    """Endless frequencies (one per source) of a variant common over all present ones together."""
    try:
        import msprime
    except ImportError:
        raise MissingExtraError("msprime", "simulate") from None
    p = _PARAMETERS
    per_source = p["panel_haplotypes_per_source"]
    replicates = msprime.sim_ancestry(
        samples=dict.fromkeys(SOURCES, per_source // 2),
        demography=_out_of_africa(msprime),
        sequence_length=p["segment_length"],
        num_replicates=2**31,
        random_seed=int(rng.integers(1, 2**31)),
    )
    for trees in replicates:
        mutated = msprime.sim_mutations(
            trees,
            rate=p["mutation_rate"],
            model=msprime.BinaryMutationModel(),
            random_seed=int(rng.integers(1, 2**31)),
        )
        # samples come in the order of the sources
        genotype = mutated.genotype_matrix().reshape(-1, len(SOURCES), per_source)
        frequency = (genotype > 0).mean(axis=2)
        overall = frequency[:, present].mean(axis=1)
        common = np.minimum(overall, 1 - overall) >= p["minor_allele_frequency"]
        if common.any():
            yield frequency[rng.choice(np.flatnonzero(common))]


def _out_of_africa(msprime: Any) -> Any:
    """Demography: Africa; a bottleneck out of it 5,600 generations ago; Europe and East Asia."""
    model = msprime.Demography()
    model.add_population(name="AFR", initial_size=12_300)
    model.add_population(name="EUR", initial_size=29_700, growth_rate=0.0040)
    model.add_population(name="EAS", initial_size=54_000, growth_rate=0.0055)
    model.add_population(name="OOA", initial_size=2_100)
    model.add_population(name="ANC", initial_size=7_300)
    model.add_population_split(time=848, derived=["EUR", "EAS"], ancestral="OOA")
    model.add_population_split(time=5_600, derived=["AFR", "OOA"], ancestral="ANC")
    return model
