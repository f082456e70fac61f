"""Do environments agree? Joint tests of their estimates and of their first stages.

Legend: E environments, M instruments, P parameters or exposures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from mrscale.stats.linalg import whitening
from mrscale.stats.moments import Floats, Moments
from mrscale.stats.reduced import Columns, reduce_design


@dataclass(frozen=True, eq=False)
class Heterogeneity:
    """Whether vectors of estimates from several environments are the same.

    Attributes
    ----------
    pooled : ndarray, shape (P,)
        Their mean, weighted by precision.
    q, dof, pvalue : float
        Cochran's Q for vectors, its degrees of freedom and chi-square p-value; NaN where there
        is nothing to compare.
    i2 : float
        Share of the variation that is not sampling error, ``max(0, 1 - dof / Q)``.
    """

    pooled: Floats
    q: float
    dof: int
    pvalue: float
    i2: float


def joint_heterogeneity(estimates: Floats, precisions: Floats) -> Heterogeneity:
    """Cochran's Q for vectors of estimates.

    Parameters
    ----------
    estimates : ndarray, shape (E, P)
    precisions : ndarray, shape (E, P, P)
        Inverse covariances. They may be singular: an environment says nothing about a parameter
        that it does not identify.

    Returns
    -------
    Heterogeneity

    Notes
    -----
    ``Q = sum_e (b_e - b)' L_e (b_e - b)`` with ``b = (sum_e L_e)^+ sum_e L_e b_e``; under
    homogeneity chi-square with ``sum_e rank(L_e) - rank(sum_e L_e)`` degrees of freedom. For one
    parameter it is the Q of a meta-analysis. Jackson, White and Riley (2012), *Statistics in
    Medicine* 31.
    """
    root, rank = whitening(precisions.sum(axis=0))
    pooled = root @ (root.T @ np.einsum("epq,eq->p", precisions, estimates))
    away = estimates - pooled
    dof = sum(whitening(precision)[1] for precision in precisions) - rank
    if not dof:
        return Heterogeneity(pooled, math.nan, 0, math.nan, math.nan)
    q = float(np.einsum("ep,epq,eq->", away, precisions, away))
    i2 = max(0.0, 1 - dof / q) if q > 0 else 0.0
    return Heterogeneity(pooled, q, dof, float(stats.chi2.sf(q, dof)), i2)


def first_stage_heterogeneity(
    environments: Sequence[Moments], columns: Columns
) -> list[Heterogeneity]:
    """Whether the instruments act on each exposure alike in all environments.

    Parameters
    ----------
    environments : sequence of Moments
        Of a design [Z | W | X | y] in each environment, with more people than columns.
    columns : Columns

    Returns
    -------
    list of Heterogeneity
        One per exposure, of the first-stage coefficients (P = M).

    Notes
    -----
    Covariates and intercept are each environment's own. Precisions are classical:
    ``Z'Z / s^2`` with the first stage's residual variance, divisor ``N - controls - L``.
    """
    m, p = columns.num_instruments, columns.num_exposures
    coefficients, precisions = [], []
    for moments in environments:
        reduced, basis = reduce_design(moments, columns)
        loadings = basis.instruments.T @ moments.cross[:, :m]
        residual = np.diag(reduced.xx) - np.sum(reduced.zx**2, axis=0)
        zz = loadings.T @ loadings
        coefficients.append(basis.instruments[:m] @ reduced.zx)
        precisions.append([zz / (ss / reduced.dof) for ss in residual])
    pi, precision = np.array(coefficients), np.array(precisions)
    return [joint_heterogeneity(pi[:, :, i], precision[:, i]) for i in range(p)]
