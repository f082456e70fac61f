"""Mean embeddings and permutation p-values: what the tests of invariance and independence share.

Legend: N people, K columns, F features, B permutations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mrscale.stats.design import polynomial_basis
from mrscale.stats.linalg import whitening
from mrscale.stats.misfit import RandomFeatures
from mrscale.stats.moments import Floats, Moments

MAX_PEOPLE = 10_000
"""People a test looks at by default; all cost is linear in it."""
PERMUTATIONS = 199
_FREQUENCIES = 50
_DEGREE = 3
_FARTHEST = 4.0
"""Standard deviations beyond which polynomials are held constant, against heavy tails."""
_TIE = 1e-10
"""Relative difference below which rounding alone tells a permuted statistic from the observed."""


@dataclass(frozen=True)
class PermutationTest:
    """A statistic against its values under permutation.

    Attributes
    ----------
    statistic : float
        Effect size: 0 is what chance gives.
    z : float
        Distance from the mean under permutation, in standard deviations: still tells fits apart
        where the p-value is at its floor of 1 / (B + 1).
    pvalue : float
        ``(1 + #{permuted >= observed}) / (B + 1)``: exact for any N.
    """

    statistic: float
    z: float
    pvalue: float

    @classmethod
    def of(cls, statistic: float, raw: Floats) -> PermutationTest:
        """From an effect size and raw values, shape (B + 1,), the observed one first."""
        mean, spread = float(raw[1:].mean()), float(raw[1:].std())
        z = (float(raw[0]) - mean) / spread if spread > _TIE * abs(mean) else 0.0
        return cls(statistic, z, float(permutation_pvalue(raw[0], raw[1:])))


def permutation_pvalue(observed: Floats | float, permuted: Floats) -> Floats:
    """``(1 + #{permuted >= observed}) / (B + 1)`` for each of the observed, all at least 0."""
    threshold = np.asarray(observed)[..., None] * (1 - _TIE)
    return np.asarray((1 + (permuted >= threshold).sum(axis=-1)) / (len(permuted) + 1))


def balanced_subsample(
    environment: NDArray[np.integer], limit: int, rng: np.random.Generator
) -> NDArray[np.intp]:
    """Random rows, at most ``limit // E`` of each of E environments, sorted by environment."""
    order = rng.permutation(len(environment))
    order = order[np.argsort(environment[order], kind="stable")]
    counts = np.unique(environment, return_counts=True)[1]
    rank = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.asarray(order[rank < max(limit // len(counts), 1)])


def embed(rows: Floats, rng: np.random.Generator) -> Floats:
    """Features whose means tell distributions apart.

    Parameters
    ----------
    rows : ndarray, shape (N, K)
        In any units; columns that do not vary are ignored.
    rng : Generator
        Of the random frequencies.

    Returns
    -------
    ndarray, shape (N, F)
        Centred, of total variance 1 (0 if nothing varies).

    Notes
    -----
    Half of the variance is in random Fourier features of Gaussian kernels of three bandwidths
    (Rahimi and Recht, 2007), half in whitened polynomials of degree 3. Squared distances of mean
    features are thus an MMD^2 (Gretton et al., 2012, *Journal of Machine Learning Research* 13)
    for the sum of Gaussian kernels and a polynomial one. The Gaussian kernels see every
    alternative, but spread their power over many; the polynomials concentrate it on mean,
    covariance and skewness, where misfit mostly is.
    """
    standard = standardise(rows)
    features = RandomFeatures.draw(rows.shape[1], rng, _FREQUENCIES)
    smooth = np.cos(standard @ features.frequencies + features.phases)
    smooth -= smooth.mean(axis=0)
    powers = polynomial_basis(np.clip(standard, -_FARTHEST, _FARTHEST), _DEGREE)
    powers -= powers.mean(axis=0)
    powers = powers @ whitening(powers.T @ powers)[0]
    return np.concatenate([_scaled(smooth), _scaled(powers)], axis=1)


def standardise(rows: Floats) -> Floats:
    """Columns of mean 0 and variance 1; 0 where a column does not vary."""
    moments = Moments.from_block(rows)
    size = np.sqrt(np.diag(moments.cross) / max(len(rows), 1))
    return (rows - moments.mean) / np.where(moments.constant, np.inf, size)


def _scaled(centred: Floats) -> Floats:
    """To a total variance of one half."""
    total = float((centred**2).sum()) / len(centred)
    # cosines of a constant are centred up to rounding only
    return centred * (np.sqrt(0.5 / total) if total > _TIE else 0.0)
