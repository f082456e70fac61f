"""Pooling estimates: over environments (meta-analysis) and over replicated encoders."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

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
    weights = 1 / np.asarray(std_errors) ** 2
    mean = float(weights @ estimates / weights.sum())
    q = float(weights @ (np.asarray(estimates) - mean) ** 2)
    dof = len(weights) - 1
    return MetaAnalysis(
        estimate=mean,
        std_error=float(weights.sum() ** -0.5),
        q=q,
        q_pvalue=float(stats.chi2.sf(q, dof)) if dof else math.nan,
        i2=max(0.0, 1 - dof / q) if q > 0 else 0.0,
    )


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
    """Lower end, upper end and two-sided p-value of estimate / std_error ~ t(dof)."""
    reference = stats.norm if math.isinf(dof) else stats.t(dof)
    half = float(reference.isf((1 - level) / 2)) * std_error
    pvalue = 2 * float(reference.sf(abs(estimate) / std_error))
    return estimate - half, estimate + half, pvalue
