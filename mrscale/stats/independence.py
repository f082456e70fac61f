"""Is a latent independent of the remainder within environments? A permutation test.

Legend: N people, d latent and K remainder dimensions, F features, B permutations.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from mrscale.stats.embedding import (
    MAX_PEOPLE,
    PERMUTATIONS,
    PermutationTest,
    balanced_subsample,
    embed,
    standardise,
)
from mrscale.stats.moments import Floats


def independence_test(
    latent: Floats,
    remainder: Floats,
    environment: NDArray[np.integer],
    rng: np.random.Generator,
    *,
    permutations: int = PERMUTATIONS,
    max_people: int = MAX_PEOPLE,
) -> PermutationTest:
    """Permutation HSIC test that a latent and a remainder are independent given the environment.

    Parameters
    ----------
    latent : ndarray, shape (N, d)
        Of people who did not train the encoder, in any units.
    remainder : ndarray, shape (N, K)
        Without columns there is nothing to depend on: the statistic is 0 and the p-value 1.
    environment : ndarray of int, shape (N,)
        One environment is allowed.
    rng : Generator
        Of the subsample, the features and the permutations.
    permutations : int, default 199
        B.
    max_people : int, default 10,000
        Size of the random subsample, balanced over environments.

    Returns
    -------
    PermutationTest
        Its statistic is a kernel correlation: 0 at independence, negative by chance, at most 1.

    Notes
    -----
    Both sides are standardised, embedded (:func:`mrscale.stats.embedding.embed`) and centred
    within environments, giving features phi and psi. With ``A_e = sum_{i in e} phi_i psi_i'``,

        V = sum_e |A_e|^2 + |sum_e A_e|^2,

    the HSIC (Gretton et al., 2008, *NeurIPS*) of the latent with (remainder, environment) for the
    kernel ``k_h (1{e = e'} + 1)``: the first term sees dependence that differs between
    environments, the second adds up what they share. The latent is permuted within environments.
    The reported statistic is ``(V - mean of permuted V) / sqrt(V_gg V_hh)``, where V_gg is V of
    the latent with itself.

    Warnings
    --------
    People are taken to be independent: relatives make p-values too small.
    """
    if not remainder.shape[1]:
        return PermutationTest(statistic=0.0, z=0.0, pvalue=1.0)
    rows = balanced_subsample(environment, max_people, rng)
    ends = np.cumsum(np.unique(environment[rows], return_counts=True)[1])
    phi = _within(latent[rows], ends, rng)
    psi = _within(remainder[rows], ends, rng)
    permuted = [_hsic([g[rng.permutation(len(g))] for g in phi], psi) for _ in range(permutations)]
    raw = np.array([_hsic(phi, psi), *permuted])
    size = math.sqrt(_hsic(phi, phi) * _hsic(psi, psi))
    excess = float(raw[0] - raw[1:].mean()) / size if size > 0 else 0.0
    return PermutationTest.of(excess, raw)


def _within(rows: Floats, ends: NDArray[np.integer], rng: np.random.Generator) -> list[Floats]:
    """Features of each environment, from rows that are sorted by environment."""
    groups = np.split(rows, ends[:-1])
    features = embed(np.concatenate([standardise(group) for group in groups]), rng)
    return [group - group.mean(axis=0) for group in np.split(features, ends[:-1])]


def _hsic(phi: list[Floats], psi: list[Floats]) -> float:
    cross = np.stack([g.T @ h for g, h in zip(phi, psi, strict=True)])
    return float((cross**2).sum() + (cross.sum(axis=0) ** 2).sum())
