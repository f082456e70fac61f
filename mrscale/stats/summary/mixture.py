"""The contamination mixture: the effect that most variants, by likelihood, agree on.

Legend: M variants, S segments of effects within which the same variants count as valid.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

from mrscale.stats.moments import Floats
from mrscale.stats.summary.associations import Associations, SummaryEstimate, not_applicable


def contamination_mixture(a: Associations, level: float) -> SummaryEstimate:
    """Maximum and likelihood-ratio set of a two-component profile likelihood.

    Notes
    -----
    Each variant is valid, ``ratio ~ N(b, s^2)`` with ``s = sy / |bx|``, or not,
    ``ratio ~ N(0, psi^2 + s^2)``, whichever is likelier; psi is 1.5 times the standard deviation
    of the ratios. Between the points where a variant changes sides the log-likelihood is
    quadratic, so maximum and set are exact (MendelianRandomization searches a grid of step
    0.01). Twice the log-likelihood is divided by the dispersion of the valid variants,
    ``max(1, Q / (number - 1))``, for the set and the p-value alike; MendelianRandomization 0.10
    gives the same set, but multiplies for the p-value. The set may be a union of intervals:
    ``ci_lower`` and ``ci_upper`` are its ends and the note says so. No standard error.

    References
    ----------
    Burgess, Foley, Allara, Staley and Howson (2020), *Nature Communications* 11.
    """
    ratio, error = a.ratio, a.ratio_error()
    gain, half = _gains(ratio, error)
    if not half.any():
        return not_applicable("the ratios are all zero", a.num_variants)
    edges = np.unique(np.concatenate([ratio - half, ratio + half]))
    low, high = edges[:-1], edges[1:]
    valid = np.abs((low + high)[:, None] / 2 - ratio) < half
    weight = valid / error**2
    total = weight.sum(-1)
    # where no variant is valid any effect is as good, and the log-likelihood is zero
    centre = np.where(total > 0, weight @ ratio / np.where(total > 0, total, 1.0), low)
    lost = (weight * (ratio - centre[:, None]) ** 2).sum(-1)
    at = np.clip(centre, low, high)
    loglik = valid @ gain - (lost + total * (at - centre) ** 2) / 2
    best = int(np.argmax(loglik))
    agreeing = int(valid[best].sum())
    dispersion = max(1.0, -2 * float(loglik[best] - valid[best] @ gain) / max(agreeing - 1, 1))
    lowest = float(loglik[best]) - dispersion * float(stats.chi2.isf(1 - level, 1)) / 2
    reach = 2 * (valid @ gain - lowest) - lost
    intervals = _intervals(low, high, centre, total, reach)
    if lowest <= 0:
        intervals = [(-math.inf, math.inf)]
    zero = float(np.where(np.abs(ratio) < half, gain - (ratio / error) ** 2 / 2, 0.0).sum())
    return SummaryEstimate(
        estimate=float(at[best]),
        ci_lower=intervals[0][0],
        ci_upper=intervals[-1][1],
        pvalue=float(stats.chi2.sf(2 * (float(loglik[best]) - zero) / dispersion, 1)),
        num_variants=a.num_variants,
        note=_words(intervals),
    )


def _gains(ratio: Floats, error: Floats) -> tuple[Floats, Floats]:
    """Log-likelihood that each variant gains by being valid at its own ratio, and how far from
    there being valid is still the likelier."""
    outer = (1.5 * ratio.std(ddof=1)) ** 2 + error**2
    gain = (ratio**2 / outer + np.log(outer / error**2)) / 2
    return gain, error * np.sqrt(2 * gain)


def _intervals(
    low: Floats, high: Floats, centre: Floats, total: Floats, reach: Floats
) -> list[tuple[float, float]]:
    """Where ``total (b - centre)^2 <= reach`` segment by segment, touching intervals joined."""
    half = np.sqrt(np.maximum(reach, 0.0) / np.where(total > 0, total, 1.0))
    half = np.where(total > 0, half, math.inf)
    start, end = np.maximum(low, centre - half), np.minimum(high, centre + half)
    joined: list[tuple[float, float]] = []
    for i in np.flatnonzero((reach >= 0) & (start <= end)):
        if joined and start[i] <= joined[-1][1]:
            joined[-1] = (joined[-1][0], float(end[i]))
        else:
            joined.append((float(start[i]), float(end[i])))
    return joined


def _words(intervals: list[tuple[float, float]]) -> str:
    if len(intervals) == 1:
        return ""
    parts = ", ".join(f"[{a:.4g}, {b:.4g}]" for a, b in intervals)
    return f"the confidence set is the union of {parts}"
