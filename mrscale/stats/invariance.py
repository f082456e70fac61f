"""Is a latent's law the same in every environment? A permutation test on held-out people.

Legend: N people, d latent dimensions, E environments, F features, B permutations.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from mrscale.disclosure import is_small
from mrscale.errors import InputError
from mrscale.stats.embedding import (
    MAX_PEOPLE,
    PERMUTATIONS,
    PermutationTest,
    balanced_subsample,
    embed,
    permutation_pvalue,
)
from mrscale.stats.moments import Floats

_BATCH = 20
"""Permutations whose indicators are held at once."""


def profile(
    values: NDArray[np.floating], environment: NDArray[np.integer], num_environments: int
) -> tuple[Floats, Floats]:
    """Mean and standard deviation of every column in every environment.

    Parameters
    ----------
    values : ndarray, shape (N, d)
    environment : ndarray of int, shape (N,)
        Codes below ``num_environments``.
    num_environments : int
        E.

    Returns
    -------
    means, deviations : ndarray, shapes (E, d) and (E, d), float64
        NaN for environments of so few people that their moments may not be shown.
    """
    means = np.full((num_environments, values.shape[1]), np.nan)
    deviations = means.copy()
    for code in range(num_environments):
        inside = values[environment == code].astype(np.float64)
        if len(inside) and not is_small(len(inside)):
            means[code], deviations[code] = inside.mean(axis=0), inside.std(axis=0)
    return means, deviations


@dataclass(frozen=True, eq=False)
class Invariance:
    """A test over all environments, and where the difference is.

    Attributes
    ----------
    joint : PermutationTest
        Its statistic is the share of the features' variance that lies between environments, less
        what chance gives: 0 if the law is the same everywhere, negative by chance, at most 1.
    pairs : ndarray of int, shape (E (E - 1) / 2, 2)
        Environment codes.
    pair_statistic : ndarray, shape (E (E - 1) / 2,)
        MMD^2 of each pair less what chance gives, features having a total variance of 1.
    pair_pvalue : ndarray, shape (E (E - 1) / 2,)
        Adjusted for their number: compared with the largest over all pairs.
    """

    joint: PermutationTest
    pairs: NDArray[np.integer]
    pair_statistic: Floats
    pair_pvalue: Floats


def invariance_test(
    latent: Floats,
    environment: NDArray[np.integer],
    rng: np.random.Generator,
    *,
    permutations: int = PERMUTATIONS,
    max_people: int = MAX_PEOPLE,
) -> Invariance:
    """Permutation MMD test that a latent has the same law in every environment.

    Parameters
    ----------
    latent : ndarray, shape (N, d)
        Of people who did not train the encoder, in any units.
    environment : ndarray of int, shape (N,)
    rng : Generator
        Of the subsample, the features and the permutations.
    permutations : int, default 199
        B.
    max_people : int, default 10,000
        Size of the random subsample, balanced over environments.

    Raises
    ------
    InputError
        If there is one environment only.

    Notes
    -----
    With mu_e the mean features (:func:`mrscale.stats.embedding.embed`) of the n_e people in e,

        T = sum_e (n_e / n) |mu_e - mu|^2 = sum_{a < b} (n_a n_b / n^2) |mu_a - mu_b|^2,

    the weighted sum of all pairwise MMD^2. Labels are permuted over everybody. Pairs:
    ``n_a n_b / (n_a + n_b) |mu_a - mu_b|^2`` against its largest over pairs in the same
    permutations (Westfall and Young, 1993): the chance of any false alarm is bounded when no
    environment differs. Reported statistics have their expectation under permutation subtracted.

    All permutations are one matrix product, linear in N. Random features are used because an exact
    kernel matrix, at the same cost, sees a tenth of the people, and a classifier must set half of
    them aside to be trained.

    Warnings
    --------
    People are taken to be independent: relatives make p-values too small.
    """
    rows = balanced_subsample(environment, max_people, rng)
    codes, labels, counts = np.unique(environment[rows], return_inverse=True, return_counts=True)
    if len(codes) < 2:
        raise InputError(
            f"a test of invariance needs people of at least two environments; found {len(codes)}; "
            "give the environment of everybody, or leave the test out"
        )
    features = embed(latent[rows], rng)
    means = _means(features, labels, counts, rng, permutations)
    n, variance = len(rows), float((features**2).sum()) / (len(rows) - 1)
    between = np.einsum("bef,e,bef->b", means, counts / n, means)
    a, b = np.array(list(combinations(range(len(codes)), 2))).T
    distance = ((means[:, a] - means[:, b]) ** 2).sum(axis=2)
    chance = 1 / counts[a] + 1 / counts[b]
    scaled = distance / chance
    return Invariance(
        joint=PermutationTest.of(float(between[0]) - variance * (len(codes) - 1) / n, between),
        pairs=np.column_stack([codes[a], codes[b]]),
        pair_statistic=distance[0] - variance * chance,
        pair_pvalue=permutation_pvalue(scaled[0], scaled[1:].max(axis=1)),
    )


def _means(
    features: Floats,
    labels: NDArray[np.integer],
    counts: NDArray[np.integer],
    rng: np.random.Generator,
    permutations: int,
) -> Floats:
    """Mean features of every environment, the observed labels first: shape (B + 1, E, F)."""
    drawn = rng.permuted(np.tile(labels, (permutations, 1)), axis=1)
    given = np.concatenate([labels[None], drawn])
    index = np.arange(len(counts))[:, None]
    found = []
    for start in range(0, len(given), _BATCH):
        weights = (given[start : start + _BATCH, None] == index) / counts[:, None]
        found.append(weights @ features)
    return np.concatenate(found)
