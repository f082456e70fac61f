"""MR-PRESSO: horizontal pleiotropy as residuals larger than the associations' errors allow.

Legend: M variants, B resamples in a block.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from mrscale.stats.moments import Floats
from mrscale.stats.summary.associations import Associations
from mrscale.stats.summary.regression import leave_one_out_ivw
from mrscale.stats.summary.resampling import block_sizes, draws


@dataclass(frozen=True, eq=False)
class Presso:
    """The three tests of MR-PRESSO.

    Attributes
    ----------
    statistic, global_pvalue : float
        Residual sum of squares around the leave-one-out estimates, and its p-value.
    outlier_pvalues : ndarray, shape (M,)
        Of each variant's residual, multiplied by M (Bonferroni); NaN where the global test is
        not significant.
    outliers : ndarray of bool, shape (M,)
    distortion, distortion_pvalue : float
        Relative change of the estimate by the outliers, and whether replacing them by other
        variants changes it as much; NaN without outliers.
    """

    statistic: float
    global_pvalue: float
    outlier_pvalues: Floats
    outliers: NDArray[np.bool_]
    distortion: float
    distortion_pvalue: float


def presso(
    a: Associations, rng: Generator, num_resamples: int, *, significance: float = 0.05
) -> Presso:
    """Global, outlier and distortion test, all resamples at once.

    Parameters
    ----------
    a : Associations
        At least four independent variants.
    rng : Generator
    num_resamples : int
        The least p-value of an outlier is ``M / (num_resamples + 1)``.
    significance : float, default 0.05
        Outliers are looked for if the global p-value is below it, and named if theirs is.

    Notes
    -----
    With b_j the IVW estimate without variant j, the statistic is
    ``sum (by_j - b_j bx_j)^2 / sy_j^2``. Resamples are ``bx* ~ N(bx, sx)``,
    ``by* ~ N(b_j bx_j, sy)``, their leave-one-out estimates their own. p-values are
    ``(1 + number as extreme) / (1 + num_resamples)``, never zero.

    References
    ----------
    Verbanck, Chen, Neale and Do (2018), *Nature Genetics* 50.
    """
    weight = 1 / a.sy**2
    without = leave_one_out_ivw(a.bx, a.by, weight)
    residual = a.by - without * a.bx
    statistic = float(weight @ residual**2)
    extreme, beyond = 0, np.zeros(a.num_variants)
    for bx, by in draws(a, rng, num_resamples, centre=without * a.bx):
        expected = (by - leave_one_out_ivw(bx, by, weight) * bx) ** 2 @ weight
        extreme += int((expected >= statistic).sum())
        beyond += ((by - without * bx) ** 2 >= residual**2).sum(0)
    global_pvalue = (1 + extreme) / (1 + num_resamples)
    if global_pvalue >= significance:
        nothing = np.full(a.num_variants, math.nan)
        return Presso(statistic, global_pvalue, nothing, np.isfinite(nothing), math.nan, math.nan)
    pvalues = np.minimum(1.0, a.num_variants * (1 + beyond) / (1 + num_resamples))
    outliers = pvalues < significance
    distortion = _distortion(a, outliers, rng, num_resamples)
    return Presso(statistic, global_pvalue, pvalues, outliers, *distortion)


def _distortion(
    a: Associations, outliers: NDArray[np.bool_], rng: Generator, num_resamples: int
) -> tuple[float, float]:
    """Observed relative change, and its p-value.

    The reference keeps the outliers and draws, with replacement, as many of the others as make
    a set of the size of the others.
    """
    xy, xx = a.bx * a.by / a.sy**2, (a.bx / a.sy) ** 2
    inside, others = np.flatnonzero(outliers), np.flatnonzero(~outliers)
    drawn = len(others) - len(inside)
    if not len(inside) or drawn < 1:
        return math.nan, math.nan
    everything = xy.sum() / xx.sum()

    def change(estimate: Floats) -> Floats:
        return np.asarray((everything - estimate) / np.abs(estimate))

    observed = float(change(xy[others].sum() / xx[others].sum()))
    extreme = 0
    for size in block_sizes(num_resamples, drawn):
        pick = rng.choice(others, (size, drawn))
        estimate = (xy[inside].sum() + xy[pick].sum(1)) / (xx[inside].sum() + xx[pick].sum(1))
        extreme += int((np.abs(change(estimate)) >= abs(observed)).sum())
    return observed, (1 + extreme) / (1 + num_resamples)
