"""MR-cML: constrained maximum likelihood, averaged over the number of invalid variants.

Legend: M variants, K numbers of invalid variants (0 to M - 2), B perturbations.
"""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from mrscale.stats.moments import Floats
from mrscale.stats.summary.associations import Associations, SummaryEstimate, wald
from mrscale.stats.summary.profile import distances, polish, starts
from mrscale.stats.summary.resampling import BLOCK, draws

ROUNDS = 50
PERTURBATIONS = 200


def best_subsets(a: Associations) -> tuple[Floats, Floats, Floats]:
    """Effect, its fixed-effect error and the least distance for each K, each of shape (..., K).

    Parameters
    ----------
    a : Associations
        ``bx`` and ``by`` of shape (M,) or (B, M).

    Notes
    -----
    A variant with a free pleiotropic effect fits exactly, so with k invalid variants the profile
    likelihood is that of the M - k nearest: a trimmed sum. From its lowest value over a set of
    starts it goes downhill by turns: choose the nearest, move to their minimum.
    """
    m = a.by.shape[-1]
    rest = m - np.arange(m - 1)
    wide = Associations(a.bx[..., None, :], a.sx, a.by[..., None, :], a.sy)
    candidates = starts(a)
    trimmed = np.cumsum(np.sort(distances(candidates, wide), axis=-1), axis=-1)[..., rest - 1]
    theta, keep = np.take_along_axis(candidates, np.argmin(trimmed, axis=-2), axis=-1), None
    for _ in range(ROUNDS):
        order = np.argsort(distances(theta, wide), axis=-1, kind="stable")
        nearest = (np.argsort(order, axis=-1) < rest[:, None]).astype(np.float64)
        if keep is not None and np.array_equal(nearest, keep):
            break
        keep = nearest
        theta, _ = polish(theta, wide, keep, steps=4)
    theta, information = polish(theta, wide, nearest, steps=16)
    least = (distances(theta, wide) * nearest).sum(-1)
    # two noisy variants may have no maximum: no information, and no weight in the average
    found = information > 0
    return theta, np.where(found, information, 1.0) ** -0.5, np.where(found, least, np.inf)


def model_average(a: Associations, num_obs: int) -> tuple[Floats, Floats]:
    """Estimate and error averaged over K with weights ``exp(-BIC / 2)``, each of shape (...).

    Notes
    -----
    ``BIC_k = least distance + k log(num_obs)``; with model weights w,
    ``b = sum w b_k`` and ``se = sum w sqrt(se_k^2 + (b_k - b)^2)``.
    """
    theta, error, least = best_subsets(a)
    bic = least + np.log(num_obs) * np.arange(theta.shape[-1])
    weight = np.exp(-(bic - bic.min(-1, keepdims=True)) / 2)
    weight /= weight.sum(-1, keepdims=True)
    mean = (weight * theta).sum(-1)
    spread = np.sqrt(error**2 + (theta - mean[..., None]) ** 2)
    return mean, (weight * spread).sum(-1)


def cml(a: Associations, num_obs: int, level: float) -> SummaryEstimate:
    """cML-MA-BIC: correlated and uncorrelated pleiotropy of fewer than half of the variants.

    Parameters
    ----------
    a : Associations
        Independent variants.
    num_obs : int
        Sample size of the penalty: the smaller of the two studies, as its authors advise.
    level : float
        Coverage of the interval.

    References
    ----------
    Xue, Shen and Pan (2021), *American Journal of Human Genetics* 108.
    """
    estimate, error = model_average(a, num_obs)
    return wald(float(estimate), float(error), a.num_variants, level=level)


def cml_perturbed(a: Associations, num_obs: int, level: float, rng: Generator) -> SummaryEstimate:
    """cML-MA-BIC-DP: mean and spread of cML over perturbed data.

    Notes
    -----
    The error accounts for the choice of valid variants. Associations are perturbed 200 times by
    their standard errors, as in MendelianRandomization.
    """
    parts = []
    size = max(1, BLOCK // (a.num_variants * max(a.num_variants, 257)))
    for bx, by in draws(a, rng, PERTURBATIONS):
        for i in range(0, len(bx), size):
            block = Associations(bx[i : i + size], a.sx, by[i : i + size], a.sy)
            parts.append(model_average(block, num_obs)[0])
    estimates = np.concatenate(parts)
    error = float(estimates.std(ddof=1))
    return wald(float(estimates.mean()), error, a.num_variants, level=level)
