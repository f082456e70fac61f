"""Weighted regressions of outcome on exposure associations: IVW, MR-Egger and multivariable.

Legend: M variants, P exposures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator
from scipy import linalg

from mrscale.stats.moments import Floats
from mrscale.stats.summary.associations import (
    Associations,
    SummaryEstimate,
    not_applicable,
    wald,
    with_heterogeneity,
)
from mrscale.stats.summary.resampling import draws


@dataclass(frozen=True, eq=False)
class WeightedFit:
    """A generalised least squares fit with known error covariance.

    Attributes
    ----------
    coef : ndarray, shape (K,)
    cov : ndarray, shape (K, K)
        Fixed-effect covariance: the errors are what the standard errors say.
    q : float
        Weighted residual sum of squares (Cochran's Q, Ruecker's Q').
    dof : int
        M - K.
    """

    coef: Floats
    cov: Floats
    q: float
    dof: int

    def std_errors(self, *, random: bool) -> Floats:
        """Fixed-effect errors, or these times ``max(1, sqrt(Q / dof))``: multiplicative random."""
        scale = math.sqrt(max(1.0, self.q / self.dof)) if random and self.dof else 1.0
        return np.sqrt(np.diag(self.cov)) * scale


def weighted_fit(design: Floats, a: Associations) -> WeightedFit | None:
    """Regress ``by`` on a design of shape (M, K); None where its columns are collinear.

    Notes
    -----
    ``coef = (X' S^-1 X)^-1 X' S^-1 by`` with ``S = sy sy' o correlation``.
    """
    x, y = design / a.sy[:, None], a.by / a.sy
    if a.correlation is not None:
        factor = linalg.cholesky(a.correlation, lower=True)
        x = linalg.solve_triangular(factor, x, lower=True)
        y = linalg.solve_triangular(factor, y, lower=True)
    norms = np.sqrt(np.sum(x**2, axis=0))
    if not np.all(norms > 0):
        return None
    q, r = linalg.qr(x / norms, mode="economic")
    # 1e-10 on columns of unit length: what is left of a collinear column is rounding
    if np.abs(np.diag(r)).min() < 1e-10:
        return None
    root = linalg.inv(r) / norms[:, None]
    coef = root @ (q.T @ y)
    residual = y - x @ coef
    return WeightedFit(coef, root @ root.T, float(residual @ residual), len(y) - design.shape[1])


def wald_ratio(a: Associations, level: float) -> SummaryEstimate:
    """The ratio estimate of a single variant with its first-order standard error."""
    return wald(float(a.ratio[0]), float(a.ratio_error()[0]), 1, level=level)


def ivw(
    a: Associations, level: float, *, random: bool = True, student: bool = False
) -> SummaryEstimate:
    """Inverse-variance weighted estimate, correlated variants included.

    Parameters
    ----------
    a : Associations
    level : float
        Coverage of the interval.
    random : bool, default True
        Multiplicative random effects: the error grows by ``max(1, sqrt(Q / (M - 1)))``.
    student : bool, default False
        t with M - 1 degrees of freedom instead of the normal distribution.

    References
    ----------
    Burgess, Butterworth and Thompson (2013), *Genetic Epidemiology* 37; correlated variants:
    Burgess, Dudbridge and Thompson (2016), *Statistics in Medicine* 35.
    """
    fit = weighted_fit(a.bx[:, None], a)
    if fit is None:
        return not_applicable("no variant is associated with the exposure", a.num_variants)
    error = float(fit.std_errors(random=random)[0])
    dof = fit.dof if student else math.inf
    row = wald(float(fit.coef[0]), error, a.num_variants, level=level, dof=dof)
    return with_heterogeneity(row, fit.q, fit.dof)


ALL_EQUAL = "the exposure associations are all equal"


def _line(a: Associations) -> WeightedFit | None:
    """Slope and intercept; None if no slope can be told."""
    return weighted_fit(np.stack([a.bx, np.ones(a.num_variants)], axis=1), a)


def egger(a: Associations, level: float, *, student: bool = False) -> SummaryEstimate:
    """MR-Egger regression: a slope free of directional pleiotropy, and the intercept that tests it.

    Notes
    -----
    Variants are oriented to a positive exposure association; errors are multiplied by
    ``max(1, sqrt(Q' / (M - 2)))``; ``student`` refers to t with M - 2 degrees of freedom.

    References
    ----------
    Bowden, Davey Smith and Burgess (2015), *International Journal of Epidemiology* 44.
    """
    a = a.oriented()
    fit = _line(a)
    if fit is None:
        return not_applicable(ALL_EQUAL, a.num_variants)
    slope, intercept = (float(c) for c in fit.coef)
    slope_error, intercept_error = (float(e) for e in fit.std_errors(random=True))
    dof = fit.dof if student else math.inf
    test = wald(intercept, intercept_error, a.num_variants, level=level, dof=dof)
    row = with_heterogeneity(
        wald(slope, slope_error, a.num_variants, level=level, dof=dof), fit.q, fit.dof
    )
    return replace(
        row,
        intercept=intercept,
        intercept_std_error=intercept_error,
        intercept_pvalue=test.pvalue,
        i2_gx=i2_gx(a) if a.correlation is None else math.nan,
    )


def i2_gx(a: Associations) -> float:
    """Share of the spread of the weighted exposure associations that is not estimation error.

    Notes
    -----
    I2 of ``|bx| / sy`` with errors ``sx / sy``. Below 0.9 the slope of MR-Egger is diluted.
    Bowden et al. (2016), *International Journal of Epidemiology* 45.
    """
    value, weight = np.abs(a.bx) / a.sy, (a.sy / a.sx) ** 2
    mean = weight @ value / weight.sum()
    q = float(weight @ (value - mean) ** 2)
    return max(0.0, 1 - (a.num_variants - 1) / q) if q > 0 else 0.0


def egger_bootstrap(
    a: Associations, level: float, rng: Generator, num_resamples: int
) -> SummaryEstimate:
    """MR-Egger with the mean and spread of a parametric bootstrap of both sets of associations.

    Notes
    -----
    Each resample is oriented anew and weighted by ``1 / sy^2``. Intervals and p-values are
    normal and two-sided; TwoSampleMR, with the same resamples, gives one-sided shares.
    """
    if _line(a.oriented()) is None:
        return not_applicable(ALL_EQUAL, a.num_variants)
    weight = 1 / a.sy**2
    slopes, intercepts = [], []
    for bx, by in draws(a, rng, num_resamples):
        sign = np.where(bx < 0, -1.0, 1.0)
        x, y = bx * sign, by * sign
        mean_x, mean_y = x @ weight / weight.sum(), y @ weight / weight.sum()
        centred = x - mean_x[:, None]
        slope = ((centred * y) @ weight) / ((centred * x) @ weight)
        slopes.append(slope)
        intercepts.append(mean_y - slope * mean_x)
    slope, intercept = np.concatenate(slopes), np.concatenate(intercepts)
    row, test = (
        wald(float(b.mean()), float(b.std(ddof=1)), a.num_variants, level=level)
        for b in (slope, intercept)
    )
    return replace(
        row,
        intercept=test.estimate,
        intercept_std_error=test.std_error,
        intercept_pvalue=test.pvalue,
        i2_gx=i2_gx(a),
    )


def leave_one_out_ivw(bx: Floats, by: Floats, weight: Floats) -> Floats:
    """IVW estimates without each variant in turn, shape of ``bx`` (last axis: M variants)."""
    xy, xx = weight * bx * by, weight * bx**2
    total_xy, total_xx = xy.sum(-1, keepdims=True), xx.sum(-1, keepdims=True)
    return np.asarray((total_xy - xy) / (total_xx - xx))
