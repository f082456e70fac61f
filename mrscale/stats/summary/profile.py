"""The profile likelihood of the causal effect, and its maximum.

Legend: M variants; leading axes are independent problems.
"""

from __future__ import annotations

import numpy as np

from mrscale.stats.moments import Floats
from mrscale.stats.summary.associations import Associations

TINY = float(np.finfo(np.float64).tiny)


def distances(theta: Floats, a: Associations) -> Floats:
    """Twice the negative profile log-likelihood of each variant, shape (..., M).

    Parameters
    ----------
    theta : ndarray, shape (...)
    a : Associations
        ``bx`` and ``by`` of shape (M,) or (..., M).

    Notes
    -----
    ``(by - theta bx)^2 / (sy^2 + theta^2 sx^2)``: the true exposure associations are profiled out.
    """
    t = theta[..., None]
    return np.asarray((a.by - t * a.bx) ** 2 / (a.sy**2 + t**2 * a.sx**2))


def derivatives(theta: Floats, a: Associations, keep: Floats) -> tuple[Floats, Floats]:
    """First and second derivative in theta of half the kept distances, each of shape (...)."""
    t = theta[..., None]
    s2, e = a.sy**2 + t**2 * a.sx**2, a.by - t * a.bx
    slope = a.bx * a.sy**2 + t * a.sx**2 * a.by
    first = -e * slope / s2**2
    second = (a.bx * slope - e * a.by * a.sx**2) / s2**2 + 4 * e * slope * t * a.sx**2 / s2**3
    return (first * keep).sum(-1), (second * keep).sum(-1)


def polish(
    theta: Floats, a: Associations, keep: Floats | float = 1.0, *, steps: int = 100
) -> tuple[Floats, Floats]:
    """Minima of the kept distances near a start, and the information there, each of shape (...).

    Parameters
    ----------
    theta : ndarray, shape (...)
        Starts.
    a : Associations
    keep : ndarray, shape (..., M), or 1
        One for variants that count, zero for the others.
    steps : int
        At most.

    Notes
    -----
    Newton's method inside the range of the ratios; where it would not descend, the step is halved.
    """
    shape = (*theta.shape, a.bx.shape[-1])
    mask = np.broadcast_to(np.asarray(keep, dtype=np.float64), shape)
    low, high = a.ratio.min(-1), a.ratio.max(-1)
    objective = (distances(theta, a) * mask).sum(-1)
    damping = np.ones_like(theta)
    for _ in range(steps):
        first, second = derivatives(theta, a, mask)
        newton = theta - damping * first / np.maximum(np.abs(second), TINY)
        trial = np.clip(newton, low, high)
        value = (distances(trial, a) * mask).sum(-1)
        # near the minimum the objective is flat to rounding, and Newton's step still improves
        down = value <= objective + 1e-13 * (1 + objective)
        moved = np.abs(trial - theta) > 1e-15 * np.maximum(np.abs(low), np.abs(high))
        theta, objective = np.where(down, trial, theta), np.where(down, value, objective)
        damping = np.where(down, 1.0, damping / 2)
        if not moved.any():
            break
    return theta, derivatives(theta, a, mask)[1]


def starts(a: Associations) -> Floats:
    """Effects at which to look for the best minimum, ascending, shape (..., 257).

    Notes
    -----
    IVW, and 256 points that lie as densely as the ratios do (interpolated between them by rank).
    """
    weight = 1 / a.sy**2
    pooled = np.asarray((weight * a.bx * a.by).sum(-1) / (weight * a.bx**2).sum(-1))
    ratio = np.sort(a.ratio, axis=-1)
    rank = np.linspace(0, ratio.shape[-1] - 1, 256)
    below = np.minimum(rank.astype(np.intp), ratio.shape[-1] - 2)
    low, high = ratio[..., below], ratio[..., below + 1]
    points = low + (rank - below) * (high - low)
    return np.sort(np.concatenate([pooled[..., None], points], axis=-1), axis=-1)
