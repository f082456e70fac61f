"""Median-based estimates: consistent while half of the variants (or of the weight) are valid.

Legend: M variants, B resamples.
"""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from scipy import stats

from mrscale.stats.moments import Floats
from mrscale.stats.summary.associations import Associations, SummaryEstimate, wald
from mrscale.stats.summary.resampling import draws

PENALTY = 20.0
"""Weights shrink where the heterogeneity p-value is below one over this."""


def weighted_median(values: Floats, weights: Floats) -> Floats:
    """Weighted medians over the last axis, interpolated as in Bowden et al. (2016).

    Parameters
    ----------
    values : ndarray, shape (..., M)
    weights : ndarray, shape (M,)
        Non-negative, not all zero.

    Notes
    -----
    With values in increasing order and ``s_j = (w_1 + ... + w_j - w_j / 2) / sum w``, the value
    at s = 1/2 of the piecewise linear curve through (s_j, value_j); equal weights give the
    usual median.
    """
    order = np.argsort(values, axis=-1, kind="stable")
    ordered, w = np.take_along_axis(values, order, -1), weights[order] / weights.sum()
    share = np.cumsum(w, axis=-1) - w / 2
    above = np.clip((share < 0.5).sum(-1, keepdims=True), 1, values.shape[-1] - 1)
    left, right = (np.take_along_axis(ordered, above - k, -1)[..., 0] for k in (1, 0))
    low, high = (np.take_along_axis(share, above - k, -1)[..., 0] for k in (1, 0))
    return np.asarray(left + (right - left) * (0.5 - low) / (high - low))


def penalised_weights(a: Associations, weights: Floats) -> Floats:
    """Weights times ``min(1, 20 p)``, p the chi-square p-value of each ratio's distance from the
    weighted median."""
    centre = weighted_median(a.ratio, weights)
    pvalue = stats.chi2.sf(weights * (a.ratio - centre) ** 2, 1)
    return np.asarray(weights * np.minimum(1.0, PENALTY * pvalue))


def median_estimate(
    a: Associations,
    weights: Floats,
    level: float,
    rng: Generator,
    num_resamples: int,
    dof: float,
) -> SummaryEstimate:
    """Median of the ratios with given weights; its error is the spread of a parametric bootstrap.

    Notes
    -----
    Both associations are drawn anew and weights stay as they are, as in MendelianRandomization
    and TwoSampleMR. Bowden et al. (2016), *Genetic Epidemiology* 40.
    """
    medians = np.concatenate(
        [weighted_median(by / bx, weights) for bx, by in draws(a, rng, num_resamples)]
    )
    estimate, error = float(weighted_median(a.ratio, weights)), float(medians.std(ddof=1))
    return wald(estimate, error, a.num_variants, level=level, dof=dof)
