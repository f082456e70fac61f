"""Estimates from the likelihood of the associations: maximum likelihood, debiased IVW.

Legend: M variants.
"""

from __future__ import annotations

import math

import numpy as np

from mrscale.stats.summary.associations import (
    Associations,
    SummaryEstimate,
    not_applicable,
    wald,
    with_heterogeneity,
)
from mrscale.stats.summary.profile import distances, polish, starts


def maximum_likelihood(a: Associations, level: float) -> SummaryEstimate:
    """Effect that maximises the likelihood of both sets of associations, true ones profiled out.

    Notes
    -----
    Minimises ``sum (by - b bx)^2 / (sy^2 + b^2 sx^2)``; the minimum is Q. The error is that of
    the observed information times ``max(1, sqrt(Q / (M - 1)))``. Correlated variants are rotated
    to independent ones first. Of several minima the lowest is taken.

    References
    ----------
    Thompson et al. (2005), *Statistics in Medicine* 24; Burgess et al. (2013).
    """
    independent, _ = a.decorrelated()
    candidates = starts(independent)
    best = candidates[np.argmin(distances(candidates, independent).sum(-1))]
    theta, information = polish(np.asarray(best), independent)
    if not information > 0:
        return not_applicable("the likelihood has no maximum", a.num_variants)
    q, dof = float(distances(theta, independent).sum()), a.num_variants - 1
    error = math.sqrt(max(1.0, q / dof) / float(information))
    return with_heterogeneity(wald(float(theta), error, a.num_variants, level=level), q, dof)


def debiased_ivw(a: Associations, level: float) -> SummaryEstimate:
    """IVW with the bias of weak instruments removed, balanced pleiotropy allowed for.

    Notes
    -----
    With ``w = 1 / sy^2``: ``b = sum w bx by / sum w (bx^2 - sx^2)``,
    ``tau^2 = max(0, sum w ((by - b bx)^2 - sy^2 - b^2 sx^2) / sum w)`` and variance
    ``sum (w (1 + tau^2 w) bx^2 + b^2 w^2 sx^2 (bx^2 + sx^2)) / (sum w (bx^2 - sx^2))^2``.
    The instruments are strong enough where
    ``kappa sqrt(M) = sum (bx^2 - sx^2) / sx^2 / sqrt(M)`` exceeds 20.

    References
    ----------
    Ye, Shao and Kang (2021), *Annals of Statistics* 49.
    """
    w = 1 / a.sy**2
    signal = float(w @ (a.bx**2 - a.sx**2))
    if signal <= 0:
        return not_applicable("the exposure associations are all noise", a.num_variants)
    b = float(w @ (a.bx * a.by)) / signal
    excess = (a.by - b * a.bx) ** 2 - a.sy**2 - b**2 * a.sx**2
    tau2 = max(0.0, float(w @ excess) / float(w.sum()))
    spread = w * (1 + tau2 * w) * a.bx**2 + b**2 * w**2 * a.sx**2 * (a.bx**2 + a.sx**2)
    strength = float(np.sum((a.bx / a.sx) ** 2 - 1)) / math.sqrt(a.num_variants)
    note = f"instrument strength {strength:.1f}; below 20 is too weak" if strength < 20 else ""
    error = math.sqrt(float(spread.sum())) / signal
    return wald(b, error, a.num_variants, level=level, note=note)
