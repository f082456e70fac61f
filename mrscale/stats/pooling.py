"""Pooling estimates: over environments (meta-analysis) and over replicated encoders."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import optimize, stats

from mrscale.stats.moments import Floats


@dataclass(frozen=True)
class MetaAnalysis:
    """Inverse-variance weighted mean with its heterogeneity.

    Attributes
    ----------
    estimate, std_error : float
        Fixed-effect mean and its standard error.
    q, q_pvalue, i2 : float
        Cochran's Q, its chi-square p-value (K - 1 degrees of freedom) and I2 in [0, 1].
    """

    estimate: float
    std_error: float
    q: float
    q_pvalue: float
    i2: float


def meta_analysis(estimates: Floats, std_errors: Floats) -> MetaAnalysis:
    """Fixed-effect meta-analysis of K independent estimates; all NaN for none.

    Notes
    -----
    ``Q = sum w (b - bbar)^2`` with ``w = 1 / se^2``; ``I2 = max(0, 1 - (K - 1) / Q)``.
    Higgins and Thompson (2002), *Statistics in Medicine* 21.
    """
    if not len(estimates):
        return MetaAnalysis(math.nan, math.nan, math.nan, math.nan, math.nan)
    mean, variance, q = _weighted(np.asarray(estimates), np.asarray(std_errors) ** 2)
    dof = len(estimates) - 1
    return MetaAnalysis(
        estimate=mean,
        std_error=math.sqrt(variance),
        q=q,
        q_pvalue=float(stats.chi2.sf(q, dof)) if dof else math.nan,
        i2=max(0.0, 1 - dof / q) if q > 0 else 0.0,
    )


@dataclass(frozen=True)
class RandomEffects:
    """Random-effects mean of K estimates, whose true values are spread with variance tau2.

    Attributes
    ----------
    estimate, std_error : float
        Mean of the distribution of effects, and its standard error.
    tau2 : float
        Between-estimate variance; 0 for one estimate, which cannot show it.
    prediction : tuple of (float, float)
        Interval for the effect in a new environment; NaN for fewer than three estimates.
    """

    estimate: float
    std_error: float
    tau2: float
    prediction: tuple[float, float]


def random_effects(
    estimates: Floats,
    std_errors: Floats,
    *,
    method: Literal["dersimonian-laird", "paule-mandel"] = "dersimonian-laird",
    level: float = 0.95,
) -> RandomEffects:
    """Random-effects meta-analysis of K independent estimates; all NaN for none.

    Parameters
    ----------
    estimates, std_errors : ndarray, shape (K,)
    method : {"dersimonian-laird", "paule-mandel"}
        Estimator of tau2. The first is the default, as in most meta-analysis software; the second
        is less biased when estimates are few and differ in precision.
    level : float, default 0.95
        Of the prediction interval.

    Notes
    -----
    Weights are ``1 / (se^2 + tau2)``. DerSimonian and Laird (1986), *Controlled Clinical Trials*
    7: ``tau2 = (Q - (K - 1)) / (sum w - sum w^2 / sum w)`` with fixed-effect weights w. Paule and
    Mandel (1982): the tau2 at which Q with random-effects weights is ``K - 1``. Both are truncated
    at 0. Prediction: ``estimate +- t(K - 2) sqrt(tau2 + se^2)`` (Higgins, Thompson and
    Spiegelhalter, 2009, *Journal of the Royal Statistical Society A* 172).
    """
    k = len(estimates)
    if not k:
        return RandomEffects(math.nan, math.nan, math.nan, (math.nan, math.nan))
    b, variance = np.asarray(estimates), np.asarray(std_errors) ** 2
    moment = _dersimonian_laird if method == "dersimonian-laird" else _paule_mandel
    tau2 = moment(b, variance) if k > 1 else 0.0
    mean, mean_variance, _ = _weighted(b, variance + tau2)
    prediction = (math.nan, math.nan)
    if k > 2:
        low, high, _ = interval(mean, math.sqrt(tau2 + mean_variance), level=level, dof=k - 2)
        prediction = (low, high)
    return RandomEffects(mean, math.sqrt(mean_variance), tau2, prediction)


def _weighted(b: Floats, variance: Floats) -> tuple[float, float, float]:
    """Inverse-variance weighted mean, its variance, and Cochran's Q."""
    w = 1 / variance
    mean = float(w @ b / w.sum())
    return mean, float(1 / w.sum()), float(w @ (b - mean) ** 2)


def _dersimonian_laird(b: Floats, variance: Floats) -> float:
    w = 1 / variance
    excess = _weighted(b, variance)[2] - (len(b) - 1)
    # sum w - sum w^2 / sum w, which cancels where one weight is nearly all
    products = np.outer(w, w)
    np.fill_diagonal(products, 0)
    return max(0.0, excess / float(products.sum() / w.sum()))


def _paule_mandel(b: Floats, variance: Floats) -> float:
    def excess(tau2: float) -> float:
        return _weighted(b, variance + tau2)[2] - (len(b) - 1)

    if excess(0.0) <= 0:
        return 0.0
    # Q is at most sum (b - mean)^2 / tau2, so it is below K - 1 beyond the sample variance
    most = float(np.var(b, ddof=1))
    return float(optimize.brentq(excess, 0.0, most, xtol=1e-14 * most, rtol=1e-14))


@dataclass(frozen=True)
class Replicated:
    """The mean over replicated encoders, with a t reference distribution.

    Attributes
    ----------
    estimate, std_error : float
    within_variance, between_variance : float
        Sampling variance given the encoders; variance of one encoder's estimate around the mean.
    dof : int
        Degrees of freedom of the reference t, S - 1.
    """

    estimate: float
    std_error: float
    within_variance: float
    between_variance: float
    dof: int


def replicate_mean(estimates: Floats, within_variance: float) -> Replicated:
    """Pool the estimates of S encoders, each trained on its own disjoint block of people.

    Parameters
    ----------
    estimates : ndarray, shape (S,)
        Encoder s's estimate from the people outside block s.
    within_variance : float
        ``sum_i (mean_s psi_is)^2``, psi the influence values (zero inside block s).

    Notes
    -----
    ``var = within + between / S`` with the sample variance of the estimates as ``between``: the
    encoders' own error is in the spread of the replicates, not in any one interval.
    """
    s = len(estimates)
    between = float(np.var(estimates, ddof=1))
    return Replicated(
        estimate=float(np.mean(estimates)),
        std_error=math.sqrt(within_variance + between / s),
        within_variance=within_variance,
        between_variance=between,
        dof=s - 1,
    )


def interval(
    estimate: float, std_error: float, *, level: float = 0.95, dof: float = math.inf
) -> tuple[float, float, float]:
    """Lower end, upper end and two-sided p-value of estimate / std_error ~ t(dof).

    Without any error p is 0, and NaN for an estimate of 0.
    """
    reference = stats.norm if math.isinf(dof) else stats.t(dof)
    half = float(reference.isf((1 - level) / 2)) * std_error
    with np.errstate(divide="ignore", invalid="ignore"):
        pvalue = 2 * float(reference.sf(np.divide(abs(estimate), std_error)))
    return estimate - half, estimate + half, pvalue
