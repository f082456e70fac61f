"""Mode-based estimates: consistent while the largest group of like-minded variants is valid.

Legend: M variants, B resamples, G candidate effects.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from mrscale.stats.moments import Floats
from mrscale.stats.summary.associations import Associations, SummaryEstimate, wald
from mrscale.stats.summary.resampling import block_sizes

MAD_SCALE = 1.4826
"""Makes the median absolute deviation a standard deviation under normality."""
CANDIDATES = 64
STEPS = 100


def median_absolute_deviation(values: Floats) -> Floats:
    """Scaled median absolute deviation over the last axis."""
    centre = np.median(values, axis=-1, keepdims=True)
    return np.asarray(MAD_SCALE * np.median(np.abs(values - centre), axis=-1))


def bandwidth(ratios: Floats, factor: float) -> Floats:
    """Modified Silverman rule ``factor 0.9 min(sd, mad) / M^(1/5)`` over the last axis."""
    spread = np.minimum(ratios.std(-1, ddof=1), median_absolute_deviation(ratios))
    # most ratios equal: any bandwidth finds them, zero finds nothing
    tiny = 1e-8 * np.abs(ratios).max(-1) + np.finfo(np.float64).tiny
    return np.asarray(np.maximum(factor * 0.9 * spread / ratios.shape[-1] ** 0.2, tiny))


@dataclass(frozen=True, eq=False)
class Mode:
    """Finds the highest point of Gaussian kernel densities of M ratios.

    Attributes
    ----------
    weights : ndarray, shape (M,)
    candidates : ndarray, shape (G,)
        Variants near whose ratios the maximum is looked for.
    factor : float
        Multiplies the bandwidth.
    grid : int or None
        None finds the maximum itself. A number takes the best of that many points spread evenly
        over the range and three bandwidths beyond, as R's ``density`` does with 512: where one
        weak variant has a far ratio those points are far apart, and the estimate depends on it.
    """

    weights: Floats
    candidates: NDArray[np.intp]
    factor: float
    grid: int | None

    def find(self, ratios: Floats) -> Floats:
        """Modes of ratios of shape (B, M), shape (B,)."""
        width = bandwidth(ratios, self.factor)
        if self.grid is None:
            points = ratios[:, self.candidates]
        else:
            low, high = ratios.min(1) - 3 * width, ratios.max(1) + 3 * width
            points = np.linspace(low, high, self.grid, axis=1)
        u = (points[:, :, None] - ratios[:, None, :]) / width[:, None, None]
        best = np.argmax(np.exp(-(u**2) / 2) @ self.weights, axis=1)
        highest = points[np.arange(len(points)), best]
        return highest if self.grid is not None else self._climb(highest, ratios, width)

    def _climb(self, at: Floats, ratios: Floats, width: Floats) -> Floats:
        """Newton's method where the density is concave, a mean-shift step where it is not."""
        for _ in range(STEPS):
            u = (ratios - at[:, None]) / width[:, None]
            kernel = self.weights * np.exp(-(u**2) / 2)
            slope, curvature = (kernel * u).sum(1), (kernel * (1 - u**2)).sum(1)
            down = np.where(curvature > 0, curvature, kernel.sum(1))
            step = np.clip(slope / down, -1, 1) * width
            at = at + step
            if np.all(np.abs(step) <= 1e-12 * width):
                break
        return at


def spread_out(ratio: Floats, weights: Floats) -> NDArray[np.intp]:
    """Variants that stand for all: at most 64, at even steps of weight in the order of ratios."""
    if len(ratio) <= CANDIDATES:
        return np.arange(len(ratio))
    order = np.argsort(ratio, kind="stable")
    share = np.cumsum(weights[order]) / weights.sum()
    return order[np.unique(np.searchsorted(share, (np.arange(CANDIDATES) + 0.5) / CANDIDATES))]


def mode_estimate(
    a: Associations,
    weights: Floats,
    level: float,
    rng: Generator,
    num_resamples: int,
    *,
    second_order: bool = True,
    factor: float = 1.0,
    grid: int | None = None,
    dof: float,
) -> SummaryEstimate:
    """Mode of the smoothed distribution of the ratios; its error is the bootstrap's scaled MAD.

    Notes
    -----
    Ratios are drawn anew from their errors, of second order by default as in MendelianRandomization
    (``stderror="delta"``) and TwoSampleMR; weights stay as they are.
    Hartwig, Davey Smith and Bowden (2017), *International Journal of Epidemiology* 46.
    """
    ratio, error, m = a.ratio, a.ratio_error(second_order=second_order), a.num_variants
    mode = Mode(weights, spread_out(ratio, weights), factor, grid)
    modes = np.concatenate(
        [
            mode.find(rng.normal(ratio, error, (size, m)))
            for size in block_sizes(num_resamples, m * (grid or len(mode.candidates)))
        ]
    )
    estimate = float(mode.find(ratio[None])[0])
    spread = float(median_absolute_deviation(modes))
    return wald(estimate, spread, m, level=level, dof=dof)
