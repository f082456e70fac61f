"""Misfit checks of a learned instrument on people who did not train it, all from moments.

A good instrument g is unpredictable from the remainder h and the environment. The checks ask a
regression of basis(g, 2) on features of (h, e): does it predict the mean (R2), or the spread, of
people it has not seen?

Legend: T target columns, first d of them g itself; J feature columns; groups are (fold, e).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy import linalg

from mrscale.stats.design import polynomial_basis
from mrscale.stats.linalg import whitening
from mrscale.stats.moments import Floats, Moments, pool

R2_LIMIT = 0.01
LIKELIHOOD_LIMIT = 0.01
"""Nats per person. Good fits of 2,500 to 10,000 people for each encoder are mostly below, and more
so the more people; see the calibration."""
RIDGE = 1e-3
PEOPLE_PER_COVARIANCE = 10
"""People for each latent, outside the part that is judged, whose covariance is taken to be known.
Environments of fewer take that of all people."""
_LEAST_VARIANCE = 1e-6
"""Of a direction in one environment, as a share of its variance over all people."""


@dataclass(frozen=True, eq=False)
class RandomFeatures:
    """Frequencies (K, J) and phases (J,) of smooth random functions of the remainder."""

    frequencies: Floats
    phases: Floats

    @classmethod
    def draw(cls, num_columns: int, rng: np.random.Generator, count: int = 150) -> RandomFeatures:
        """Gaussian frequencies at three scales, uniform phases."""
        scale = rng.choice([0.5, 1.0, 2.0], count) / np.sqrt(num_columns)
        frequencies = rng.standard_normal((num_columns, count)) * scale
        return cls(frequencies, rng.uniform(0, 2 * np.pi, count))

    def rows(self, latent: Floats, remainder: Floats, environment: Floats) -> Floats:
        """Design rows [basis(g, 2) | features of (h, e)] for :func:`misfit`.

        Parameters
        ----------
        latent : ndarray, shape (N, d)
        remainder : ndarray, shape (N, K)
            Of about unit scale.
        environment : ndarray, shape (N, E - 1)
            Indicators.
        """
        h = np.clip(remainder, -5, 5)
        interactions = (environment[:, :, None] * h[:, None, :]).reshape(len(h), -1)
        smooth = np.cos(h @ self.frequencies + self.phases)
        features = [environment, interactions, polynomial_basis(h, 3), smooth]
        return np.concatenate([polynomial_basis(latent, 2), *features], axis=1)


@dataclass(frozen=True)
class Misfit:
    """Both checks; a good fit is below ``R2_LIMIT`` and ``LIKELIHOOD_LIMIT``.

    Attributes
    ----------
    r2 : float
        Mean over targets of the cross-fitted R2 of basis(g, 2) on features of (h, e).
    likelihood_ratio : float
        Cross-validated Gaussian log-likelihood per person of g given (h, e) minus that of g
        alone; above zero says that g's law depends on (h, e).
    """

    r2: float
    likelihood_ratio: float

    @property
    def passed(self) -> bool:
        """Whether both checks are passed."""
        return self.r2 < R2_LIMIT and self.likelihood_ratio < LIKELIHOOD_LIMIT


def misfit(
    groups: Mapping[tuple[Hashable, Hashable], Moments], num_targets: int, latent_dim: int
) -> Misfit:
    """Cross-fitted misfit checks.

    Parameters
    ----------
    groups : mapping from (fold, environment) to Moments
        Moments of [basis(g, 2) | features of (h, e)] over held-out people; regressions are
        fitted on all folds but one and judged on that one. An environment may lack a fold.
    num_targets : int
        T, the number of leading target columns.
    latent_dim : int
        d, how many of them are g itself.

    Returns
    -------
    Misfit
        What does not vary is 0 by either check; NaN, not passed, if there is one fold only.
    """
    folds = sorted({fold for fold, _ in groups}, key=str)
    if len(folds) < 2:
        return Misfit(math.nan, math.nan)
    everyone = pool(list(groups.values()))
    residual_ss, log_ratio = np.zeros(num_targets), 0.0
    for fold in folds:
        train = {key: m for key, m in groups.items() if key[0] != fold}
        test = {key: m for key, m in groups.items() if key[0] == fold}
        reference = pool(list(train.values()))
        residual_map = _residual_map(reference, num_targets)
        residual_ss += _sum_of_squares(pool(list(test.values())), residual_map, reference.mean)
        log_ratio += _log_ratio(train, test, residual_map[:, :latent_dim], reference, latent_dim)
    varies = ~everyone.constant[:num_targets]
    total_ss = np.where(varies, np.diag(everyone.cross)[:num_targets], 1)
    r2 = np.where(varies, 1 - residual_ss / total_ss, 0)
    return Misfit(float(np.mean(r2)), log_ratio / everyone.count)


def _residual_map(reference: Moments, num_targets: int) -> Floats:
    """Matrix (T + J, T) that takes a centred row to the residuals of its targets (ridge); features
    that do not vary are left out."""
    features = reference.cross[num_targets:, num_targets:]
    scale = np.where(reference.constant[num_targets:], np.inf, np.sqrt(np.diag(features)))
    penalised = features / np.outer(scale, scale) + RIDGE * np.eye(len(scale))
    right = reference.cross[num_targets:, :num_targets] / scale[:, None]
    coefficients = linalg.solve(penalised, right, assume_a="pos") / scale[:, None]
    return np.concatenate([np.eye(num_targets), -coefficients])


def _second_moment(moments: Moments, matrix: Floats, origin: Floats) -> Floats:
    """``sum_i r_i r_i'`` for ``r = (x - origin) @ matrix``: squares around zero, not the mean."""
    mapped = moments.transform(matrix, origin)
    return mapped.cross + moments.count * np.outer(mapped.mean, mapped.mean)


def _sum_of_squares(moments: Moments, matrix: Floats, origin: Floats) -> Floats:
    return np.diag(_second_moment(moments, matrix, origin)).copy()


def _log_ratio(
    train: Mapping[tuple[Hashable, Hashable], Moments],
    test: Mapping[tuple[Hashable, Hashable], Moments],
    residual_map: Floats,
    reference: Moments,
    latent_dim: int,
) -> float:
    """Log-likelihood of g given (h, e), Gaussian with one covariance per environment, minus that
    of g under one Gaussian; in units in which the latter is standard normal."""
    plain_map = np.eye(len(reference.mean))[:, :latent_dim]
    plain_map = plain_map * ~reference.constant[:latent_dim]
    root, _ = whitening(_second_moment(reference, plain_map, reference.mean) / reference.count)
    plain_map, residual_map = plain_map @ root, residual_map @ root
    total = 0.0
    for (_, environment), moments in test.items():
        others = [m for (_, e), m in train.items() if e == environment]
        if sum(m.count for m in others) < PEOPLE_PER_COVARIANCE * latent_dim:
            others = [reference]
        known = pool(others)
        given = _second_moment(known, residual_map, reference.mean) / known.count
        total += _gaussian(_second_moment(moments, residual_map, reference.mean), given, moments)
        total += 0.5 * float(_sum_of_squares(moments, plain_map, reference.mean).sum())
    return total


def _gaussian(second_moment: Floats, covariance: Floats, moments: Moments) -> float:
    """Sum of log N(r; 0, covariance) over people, without the constant that cancels."""
    values, vectors = linalg.eigh(covariance)
    values = np.maximum(values, _LEAST_VARIANCE)
    squares = np.diag(vectors.T @ second_moment @ vectors)
    return -0.5 * float((squares / values).sum() + moments.count * np.log(values).sum())
