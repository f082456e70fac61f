"""Design columns: dosages with missing calls filled, polynomial bases, environment indicators.

Legend: N people, M variants, L latents, E environments.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrscale.stats.moments import Floats


def is_missing(dosage: NDArray[Any]) -> NDArray[np.bool_]:
    """Which calls are missing: negative integers (hard calls), or NaN among floats."""
    return dosage < 0 if dosage.dtype.kind in "iu" else np.isnan(dosage)


def has_every_call(dosage: NDArray[Any]) -> NDArray[np.bool_]:
    """Which people, shape (N,), have a call of every variant."""
    return np.asarray(~is_missing(dosage).any(axis=1))


def fill_missing(
    dosage: NDArray[Any], environment: NDArray[np.int16], mean_dosage: Floats
) -> Floats:
    """Dosages as float64 with missing calls set to the environment's mean.

    Parameters
    ----------
    dosage : ndarray, shape (N, M), of integers or floats
        Effect alleles from 0 to 2, or other instruments; see :func:`is_missing`.
    environment : ndarray, shape (N,), int16
        Environment code of each person.
    mean_dosage : ndarray, shape (E, M), float64
        Mean dosage per environment, twice the effect allele's frequency.

    Returns
    -------
    ndarray, shape (N, M), float64
    """
    filled = dosage.astype(np.float64)
    rows, columns = np.nonzero(is_missing(dosage))
    filled[rows, columns] = mean_dosage[environment[rows], columns]
    return filled


def polynomial_basis(latent: Floats, degree: int) -> Floats:
    """Powers 1..degree of each column, and the product of every pair of columns.

    Parameters
    ----------
    latent : ndarray, shape (N, L), float64
        Columns of about unit scale.
    degree : int
        Highest power, at least 1. Pair products enter from degree 2 on.

    Returns
    -------
    ndarray, shape (N, L * degree + L * (L - 1) / 2), float64
    """
    powers = [latent**power for power in range(1, degree + 1)]
    pairs = [latent[:, [i]] * latent[:, [j]] for i, j in combinations(range(latent.shape[1]), 2)]
    return np.concatenate(powers + (pairs if degree > 1 else []), axis=1)


def indicators(environment: NDArray[np.int16], num_environments: int) -> Floats:
    """Indicator of every environment but the first, shape (N, E - 1), float64."""
    codes = np.arange(1, num_environments)
    return np.asarray(environment[:, None] == codes, dtype=np.float64)
