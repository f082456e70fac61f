"""The linear front end and the linear encoder, both from moments.

Front end: standardise dosages, keep p principal components, whiten. Encoder: analytic stationary
subspace analysis (ASSA), the directions whose mean and covariance move least over environments.

Legend: M variants, p factors, E environments, d invariant directions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from mrscale.errors import InputError
from mrscale.stats.linalg import independent
from mrscale.stats.moments import Floats, Moments, pool

MAX_FACTORS = 20
FEW_VARIANTS = 10
"""Up to so many variants, all of their components are kept unless the last ones are alike."""
DEGENERATE = 1e-8
"""Share of the mean eigenvalue below which a component is rounding only."""
SCORE_RIDGE = 0.1
"""Penalty of the first-stage score, relative to the variance of a standardised variant."""
TRACY_WIDOM_99 = 2.0234
"""99 % quantile of the Tracy-Widom law (beta = 1)."""


@dataclass(frozen=True, eq=False)
class FrontEnd:
    """Scores are ``(dosage - origin) @ projection``: uncorrelated, of unit variance.

    Attributes
    ----------
    origin : ndarray, shape (M,)
        Mean dosage of the people it was fitted on.
    projection : ndarray, shape (M, p)
        Standardisation, principal components and whitening in one matrix.
    eigenvalues : ndarray, shape (min(M, 40),)
        Largest eigenvalues of the correlation matrix, for the scree plot.
    """

    origin: Floats
    projection: Floats
    eigenvalues: Floats

    @property
    def num_factors(self) -> int:
        """p."""
        return int(self.projection.shape[1])

    @property
    def available(self) -> int:
        """Components that can be told from none, as far as ``eigenvalues`` go."""
        return int((self.eigenvalues > DEGENERATE).sum())

    def scores(self, dosage: Floats) -> Floats:
        """Scores of shape (N, p) from filled dosages of shape (N, M)."""
        return (dosage - self.origin) @ self.projection


def fit_front_end(moments: Moments, factors: int | None = None) -> FrontEnd:
    """PCA of the correlation matrix, whitened.

    Parameters
    ----------
    moments : Moments
        Of the filled dosages of the people to fit on, all environments together.
    factors : int, optional
        Number of components p; by default :func:`count_factors`.

    Raises
    ------
    InputError
        If fewer than two variants vary by themselves, or more factors are asked for than there
        are.
    """
    correlation, scale = _correlation(moments)
    values, vectors = linalg.eigh(correlation)
    values, vectors = values[::-1], _oriented(vectors[:, ::-1])
    available = min(int((values > DEGENERATE).sum()), moments.count - 1)
    if available < 2 or (factors or 0) > available:
        raise InputError(
            f"learned instruments need at least {factors or 2} varying variants, none of them a "
            f"copy of others, and more people than that; found {available}; give more instruments "
            "or lower factors"
        )
    p = factors or count_factors(values[:available], moments.count)
    projection = scale[:, None] * vectors[:, :p] / np.sqrt(values[:p])
    return FrontEnd(moments.mean, projection, values[:40])


def add_score(front: FrontEnd, moments: Moments) -> FrontEnd:
    """Principal components beside a ridge regression of the exposure on the instruments.

    Parameters
    ----------
    front : FrontEnd
        M variants, p components.
    moments : Moments
        Of the filled dosages and, in the last column, the exposure of the same people.

    Returns
    -------
    FrontEnd
        p + 1 factors, whitened together.

    Raises
    ------
    InputError
        If the exposure does not vary, or the components leave nothing of its score.

    Notes
    -----
    Weights ``(R + 0.1 I)^-1 r`` of standardised dosages, where R is their correlation matrix and r
    their correlations with the exposure. Where genotypes have no factors, as under Mendelian
    sampling, this is the one combination that holds much of them.
    """
    correlation, scale = _correlation(moments)
    ridge = correlation[:-1, :-1] + SCORE_RIDGE * np.eye(len(scale) - 1)
    weights = scale[:-1] * linalg.solve(ridge, correlation[:-1, -1], assume_a="pos")
    joint = np.c_[front.projection, weights]
    covariance = joint.T @ moments.covariance[:-1, :-1] @ joint
    if len(independent(covariance)) < len(covariance):
        raise InputError(
            "a first-stage score needs an exposure that varies in every block of people, and fewer "
            "components than instruments; found none beside the components; use "
            'front_end="components", lower factors, or ask for fewer blocks'
        )
    root = linalg.cholesky(covariance, lower=True)
    whitened = linalg.solve_triangular(root, joint.T, lower=True).T
    return FrontEnd(front.origin, whitened, front.eigenvalues)


def count_factors(eigenvalues: Floats, num_people: int) -> int:
    """Number of common factors behind a correlation matrix.

    Parameters
    ----------
    eigenvalues : ndarray, shape (M,)
        In decreasing order.
    num_people : int

    Returns
    -------
    int
        At least 2 and at most 20.

    Notes
    -----
    The largest ratio of neighbouring eigenvalues (Ahn and Horenstein 2013, *Econometrica* 81),
    among those above the noise edge: the Marchenko-Pastur edge plus the 99 % Tracy-Widom
    fluctuation (Johnstone 2001), rescaled by the mean of the eigenvalues still unexplained. The
    ratio is there because binomial noise of unequal variance passes the edge alone.

    Of at most 10 variants of which all but one or two pass the edge, nothing looks like noise
    (which leaves many eigenvalues alike), and all are kept: a ratio would drop a factor where there
    is nothing but factors.
    """
    n, total = num_people, len(eigenvalues)
    above = 0
    while above < min(total - 1, MAX_FACTORS):
        m = total - above
        centre = (np.sqrt(n - 1) + np.sqrt(m)) ** 2 / n
        spread = np.sqrt(centre / n) * (1 / np.sqrt(n - 1) + 1 / np.sqrt(m)) ** (1 / 3)
        if eigenvalues[above] <= eigenvalues[above:].mean() * (centre + TRACY_WIDOM_99 * spread):
            break
        above += 1
    if total <= FEW_VARIANTS and total - above <= 2:
        return total
    if above <= 2:
        return 2
    ratios = eigenvalues[1:above] / eigenvalues[2 : above + 1]
    return 2 + int(np.argmax(ratios))


def _correlation(moments: Moments) -> tuple[Floats, Floats]:
    """Correlation matrix, and one over standard deviations; 0 for columns that do not vary."""
    covariance, scale = moments.covariance, np.zeros_like(moments.mean)
    np.divide(1, np.sqrt(np.diag(covariance)), out=scale, where=~moments.constant)
    return covariance * np.outer(scale, scale), scale


def _oriented(vectors: Floats) -> Floats:
    """Eigenvectors with a sign that does not depend on the linear-algebra library."""
    largest = vectors[np.argmax(np.abs(vectors), axis=0), np.arange(vectors.shape[1])]
    return vectors * np.where(largest < 0, -1.0, 1.0)


@dataclass(frozen=True, eq=False)
class StationarySubspace:
    """Result of ASSA.

    Attributes
    ----------
    directions : ndarray, shape (p, p)
        Columns from the most to the least stationary; unit variance within environments.
    nonstationarity : ndarray, shape (p,)
        Generalised eigenvalues in the same (increasing) order.
    """

    directions: Floats
    nonstationarity: Floats


def stationary_subspace(environments: Sequence[Moments], ridge: float = 1e-6) -> StationarySubspace:
    """Analytic stationary subspace analysis of whitened scores.

    Parameters
    ----------
    environments : sequence of Moments
        Moments of the scores (p columns) in each environment.
    ridge : float, default 1e-6
        Added to the average covariance, relative to its mean variance.

    Notes
    -----
    With weights w_e, means m_e and covariances S_e, solve ``M v = lambda Sbar v`` for
    ``M = sum w_e [(m_e - mbar)(m_e - mbar)' + 1/2 (S_e - Sbar) Sbar^-1 (S_e - Sbar)]``.
    Hara et al. (2012), *Neural Networks* 33.
    """
    pooled = pool(environments)
    weights = [part.count / pooled.count for part in environments]
    covariances = np.stack([part.covariance for part in environments])
    average: Floats = np.tensordot(weights, covariances, axes=1)
    average = average + ridge * np.trace(average) / len(average) * np.eye(len(average))
    inverse = linalg.inv(average)
    moving = np.zeros_like(average)
    for weight, part in zip(weights, environments, strict=True):
        shift, change = part.mean - pooled.mean, part.covariance - average
        moving += weight * (np.outer(shift, shift) + 0.5 * change @ inverse @ change)
    values, vectors = linalg.eigh(moving, average)
    return StationarySubspace(_oriented(vectors), values)


def count_invariant(
    scores: Floats,
    environment: NDArray[np.int16],
    rng: np.random.Generator,
    permutations: int = 50,
) -> int:
    """How many directions move no more than they would by chance.

    Parameters
    ----------
    scores : ndarray, shape (N, p)
    environment : ndarray, shape (N,)
    rng : Generator
    permutations : int, default 50

    Returns
    -------
    int
        Number of eigenvalues below mean + 3 sd of the largest eigenvalue under permuted
        environment labels; 0 says that no linear invariant direction was found.
    """

    def eigenvalues(labels: NDArray[np.int16]) -> Floats:
        groups = [Moments.from_block(scores[labels == e]) for e in np.unique(environment)]
        return stationary_subspace(groups).nonstationarity

    null = [eigenvalues(rng.permutation(environment))[-1] for _ in range(permutations)]
    return int((eigenvalues(environment) < np.mean(null) + 3 * np.std(null)).sum())
