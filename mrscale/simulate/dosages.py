"""Dosages whose allele frequencies follow latents, with linkage disequilibrium between neighbours.

Legend of shapes: N people, D latents, M variants.
"""

from __future__ import annotations

import numpy as np
from scipy.special import expit

from mrscale.simulate.cohort import FloatArray, standardise

_INTERCEPT_SD = 0.7
_LOADING_SD = 0.5
_BLOCK = 10
"""Variants in a linkage block."""
_CAUSAL = 0.3
_PEOPLE = 4096


def draw_frequencies(
    rng: np.random.Generator, latents: FloatArray, num_variants: int
) -> FloatArray:
    """Allele frequencies sigmoid(a_j + z A_j) of each person, shape (N, M).

    Parameters
    ----------
    rng : numpy.random.Generator
    latents : ndarray of float64, shape (N, D)
    num_variants : int
        M.
    """
    loadings = _LOADING_SD * rng.standard_normal((latents.shape[1], num_variants))
    return np.asarray(expit(_INTERCEPT_SD * rng.standard_normal(num_variants) + latents @ loadings))


def draw_linked_dosages(
    rng: np.random.Generator, frequency: FloatArray, linkage: float
) -> FloatArray:
    """Binomial(2, p) dosages, alleles on a haplotype being dependent within blocks of 10 variants.

    Parameters
    ----------
    rng : numpy.random.Generator
    frequency : ndarray of float64, shape (N, M)
        p of each person at each variant.
    linkage : float
        Probability that no recombination separates a variant from the one before it, in [0, 1].

    Returns
    -------
    ndarray of float64, shape (N, M)
        Copies of the counted allele: 0, 1 or 2.

    Notes
    -----
    A haplotype carries the allele at variant j if u_j < p_j. u_j is uniform on (0, 1), equal to
    u_{j-1} with probability ``linkage`` and fresh otherwise; so every marginal law is Binomial
    whatever the linkage, and at 0 dosages are independent given p.
    """
    dosage = np.empty(frequency.shape)
    for start in range(0, len(frequency), _PEOPLE):
        p = frequency[start : start + _PEOPLE]
        carried = [_linked_uniforms(rng, p.shape, linkage) < p for _ in range(2)]
        dosage[start : start + _PEOPLE] = np.add(*carried, dtype=float)
    return dosage


def mendelian_score(
    rng: np.random.Generator, dosage: FloatArray, frequency: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Genetic score of Mendelian sampling: three in ten variants act through their dosages.

    Parameters
    ----------
    rng : numpy.random.Generator
    dosage, frequency : ndarray of float64, shape (N, M)
        Dosages and the frequencies they were drawn with.

    Returns
    -------
    score : ndarray of float64, shape (N,)
        sum_j w_j x_j, centred, in standard deviations of the exogenous part.
    exogenous : ndarray of float64, shape (N,)
        The part that chance alone decided, sum_j w_j (x_j - 2 p_j); mean 0, sd 1. Given ancestry
        its mean is 0, but its variance sum_j w_j^2 2 p_j (1 - p_j) still depends on ancestry.
    """
    num_variants = dosage.shape[1]
    causal = rng.permutation(num_variants) < _CAUSAL * num_variants
    weight = np.where(causal, rng.standard_normal(num_variants), 0)
    by_chance = (dosage - 2 * frequency) @ weight
    score = dosage @ weight
    return (score - score.mean()) / by_chance.std(), standardise(by_chance)


def _linked_uniforms(
    rng: np.random.Generator, shape: tuple[int, ...], linkage: float
) -> FloatArray:
    copied = rng.random(shape) < linkage
    copied[:, ::_BLOCK] = False
    source = np.where(copied, 0, np.arange(shape[1]))
    return np.take_along_axis(rng.random(shape), np.maximum.accumulate(source, axis=1), axis=1)
