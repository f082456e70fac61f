"""Instrumental-variable estimates of one exposure on one outcome, from moments.

Legend: N people, M instruments, K covariates. Columns of a design are [Z | W | x | y]:
instruments, covariates, exposure, outcome. An intercept is always included by centring.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import linalg, stats

from mrscale.errors import InputError
from mrscale.stats.moments import Floats, Moments

RANK_TOLERANCE = 1e-9
"""Directions with less than this share of the largest standardised variance are dropped."""


@dataclass(frozen=True, eq=False)
class LinearIV:
    """A fitted two-stage least squares (or OLS) regression.

    Attributes
    ----------
    estimate : float
        Effect of the exposure on the outcome.
    exposure_weights, residual_weights : ndarray, shape (M + K + 2,)
        Centred design rows times these give the projected exposure (covariates partialled out)
        and the structural residual of each person.
    mean : ndarray, shape (M + K + 2,)
        Column means to centre with.
    projected_ss : float
        Sum of squares of the projected exposure.
    classical_variance : float
        Homoskedastic variance of the estimate, divisor N.
    first_stage_f : float
        Classical F of the excluded instruments; NaN for OLS.
    num_obs, num_instruments, num_controls : int
        People; rank of the partialled instruments; rank of covariates plus intercept.
    """

    estimate: float
    exposure_weights: Floats
    residual_weights: Floats
    mean: Floats
    projected_ss: float
    classical_variance: float
    first_stage_f: float
    num_obs: int
    num_instruments: int
    num_controls: int

    def influence(self, rows: Floats) -> Floats:
        """Influence value of each person on the estimate, shape (N,).

        Notes
        -----
        ``psi_i = d_i u_i / sum d^2`` with projected exposure d and residual u; the sum of
        ``psi_i^2`` is the heteroskedasticity-robust (HC0) variance of the estimate.
        """
        centred = rows - self.mean
        projected, residual = centred @ self.exposure_weights, centred @ self.residual_weights
        return np.asarray(projected * residual / self.projected_ss)


@dataclass(frozen=True, eq=False)
class Partialled:
    """Cross-products of [Z | x | y] after covariates W are partialled out, and how to do it."""

    zz: Floats
    zx: Floats
    zy: Floats
    xx: float
    xy: float
    yy: float
    on_covariates: Floats
    """Coefficients of [Z | x | y] on W, shape (K, M + 2)."""
    rank_covariates: int


def whitening(matrix: Floats, tolerance: float = RANK_TOLERANCE) -> tuple[Floats, int]:
    """A root of the pseudo-inverse of a symmetric positive semi-definite matrix, and its rank.

    Returns R of shape (K, rank) with ``R R' = pinv(matrix)``; the matrix is first scaled to unit
    diagonal, so that the tolerance does not depend on units.
    """
    if not len(matrix):
        return np.zeros((0, 0)), 0
    diagonal = np.diag(matrix)
    # what partialling leaves of a column that the covariates explain is rounding, not variance
    scale = np.where(diagonal > 0, 1 / np.sqrt(np.where(diagonal > 0, diagonal, 1)), 0)
    values, vectors = linalg.eigh(matrix * np.outer(scale, scale))
    keep = values > tolerance * max(float(values[-1]), 0.0)
    keep &= values > 0
    root = scale[:, None] * vectors[:, keep] / np.sqrt(values[keep])
    return root, int(keep.sum())


def partial_out(moments: Moments, num_instruments: int) -> Partialled:
    """Remove the covariates (columns ``num_instruments`` to the last but two) from the others."""
    m, k = num_instruments, len(moments.mean) - 2
    others = np.r_[0:m, k, k + 1]
    s = moments.cross
    root, rank = whitening(s[m:k, m:k])
    on_w = root @ (root.T @ s[m:k][:, others])
    rest = s[np.ix_(others, others)] - s[others][:, m:k] @ on_w
    original = np.diag(s)[others]
    vanished = np.diag(rest) <= RANK_TOLERANCE * original
    rest[vanished] = 0
    rest[:, vanished] = 0
    return Partialled(
        zz=rest[:m, :m],
        zx=rest[:m, m],
        zy=rest[:m, m + 1],
        xx=float(rest[m, m]),
        xy=float(rest[m, m + 1]),
        yy=float(rest[m + 1, m + 1]),
        on_covariates=on_w,
        rank_covariates=rank,
    )


def two_stage_least_squares(moments: Moments, num_instruments: int) -> LinearIV:
    """Two-stage least squares from the moments of a design [Z | W | x | y].

    Parameters
    ----------
    moments : Moments
        Of the design's columns; the last two are exposure and outcome.
    num_instruments : int
        M, the number of leading columns that are excluded instruments.

    Returns
    -------
    LinearIV

    Raises
    ------
    InputError
        If people are too few for the columns, or nothing is left of the exposure or of the
        instruments once covariates are partialled out.

    Notes
    -----
    With everything partialled on W, ``pi = (Z'Z)^+ Z'x`` and
    ``beta = pi'Z'y / pi'Z'x``; F = (pi'Z'x / M) / ((x'x - pi'Z'x) / (N - K - 1 - M)).
    Wooldridge (2010), *Econometric Analysis of Cross Section and Panel Data*, chapter 5.
    """
    p = partial_out(moments, num_instruments)
    root, rank = whitening(p.zz)
    _require(moments, p, rank, num_instruments)
    pi = root @ (root.T @ p.zx)
    if not float(pi @ p.zx) > 0:
        raise InputError(
            "the instruments explain nothing of the exposure; "
            "an estimate needs at least one instrument associated with it"
        )
    return _fit(moments, p, pi, rank)


def ordinary_least_squares(moments: Moments) -> LinearIV:
    """OLS of outcome on exposure and covariates from the moments of a design [W | x | y]."""
    p = partial_out(moments, 0)
    _require(moments, p, 0, 0)
    return _fit(moments, p, np.zeros(0), 0)


def _fit(moments: Moments, p: Partialled, pi: Floats, rank: int) -> LinearIV:
    """The fit for first-stage coefficients pi; no instruments at all means OLS."""
    m, k = len(pi), len(moments.mean) - 2
    explained, reduced = (float(pi @ p.zx), float(pi @ p.zy)) if m else (p.xx, p.xy)
    estimate = reduced / explained
    exposure, residual = np.zeros(k + 2), np.zeros(k + 2)
    if m:
        exposure[:m], exposure[m:k] = pi, -(p.on_covariates[:, :m] @ pi)
    else:
        exposure[k], exposure[:k] = 1.0, -p.on_covariates[:, 0]
    residual[k], residual[k + 1] = -estimate, 1.0
    residual[m:k] = estimate * p.on_covariates[:, m] - p.on_covariates[:, m + 1]
    rss = p.yy - 2 * estimate * p.xy + estimate**2 * p.xx
    dof = moments.count - p.rank_covariates - 1 - rank
    unexplained = max(p.xx - explained, np.finfo(np.float64).tiny)
    return LinearIV(
        estimate=estimate,
        exposure_weights=exposure,
        residual_weights=residual,
        mean=moments.mean,
        projected_ss=explained,
        classical_variance=rss / moments.count / explained,
        first_stage_f=explained / rank / (unexplained / dof) if m else math.nan,
        num_obs=moments.count,
        num_instruments=rank,
        num_controls=p.rank_covariates + 1,
    )


def _require(moments: Moments, p: Partialled, rank: int, num_instruments: int) -> None:
    columns = rank + p.rank_covariates + 2
    if num_instruments and moments.count <= num_instruments + p.rank_covariates + 2:
        raise InputError(
            f"two-stage least squares needs more people than instruments and covariates; found "
            f"{num_instruments:,} instruments and too few people to use them (with as many "
            "instruments as people the estimate is just OLS); "
            "give a shorter list of instruments with --instruments"
        )
    if moments.count <= columns:
        raise InputError(
            "the regression needs more people than columns; use fewer covariates or more people"
        )
    if p.xx <= 0:
        raise InputError(
            "the exposure does not vary once the covariates are accounted for; "
            "drop the covariate that determines it"
        )
    if num_instruments and not rank:
        raise InputError(
            "no instrument varies once the covariates are accounted for; "
            "give other instruments or fewer covariates"
        )


def anderson_rubin(
    moments: Moments, num_instruments: int, level: float = 0.95
) -> tuple[tuple[float, float], ...]:
    """Anderson-Rubin confidence set of the effect: valid however weak the instruments are.

    Parameters
    ----------
    moments : Moments
        Of a design [Z | W | x | y].
    num_instruments : int
        M, the number of leading columns that are excluded instruments.
    level : float, default 0.95
        Coverage.

    Returns
    -------
    tuple of (float, float)
        Disjoint intervals in increasing order; ``()`` is the empty set, infinite ends mean
        unbounded.

    Notes
    -----
    All b with ``(u'P u / M) / (u'(I - P) u / (N - K - 1 - M)) <= F`` for u = y - b x, P the
    projection on the partialled instruments (homoskedastic form, F reference distribution):
    a quadratic inequality in b. Anderson and Rubin (1949).
    """
    p = partial_out(moments, num_instruments)
    root, rank = whitening(p.zz)
    dof = moments.count - p.rank_covariates - 1 - rank
    x, y = root.T @ p.zx, root.T @ p.zy
    c = rank / dof * stats.f.ppf(level, rank, dof)
    a2 = x @ x - c * (p.xx - x @ x)
    a1 = -2 * (x @ y - c * (p.xy - x @ y))
    a0 = y @ y - c * (p.yy - y @ y)
    return _where_quadratic_nonpositive(float(a2), float(a1), float(a0))


def _where_quadratic_nonpositive(
    a2: float, a1: float, a0: float
) -> tuple[tuple[float, float], ...]:
    """Solve ``a2 b^2 + a1 b + a0 <= 0``."""
    discriminant = a1**2 - 4 * a2 * a0
    if discriminant <= 0:
        return () if a2 > 0 else ((-math.inf, math.inf),)
    root = math.sqrt(discriminant)
    low, high = sorted(((-a1 - root) / (2 * a2), (-a1 + root) / (2 * a2)))
    return ((low, high),) if a2 > 0 else ((-math.inf, low), (high, math.inf))
