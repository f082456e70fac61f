"""Steiger's test: do the variants explain more of the exposure than of the outcome?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from mrscale.stats.moments import Floats


@dataclass(frozen=True)
class Steiger:
    """The direction that the variances explained speak for.

    Attributes
    ----------
    r2_exposure, r2_outcome : float
        Variance that the variants explain together.
    forward : bool
        Whether they explain more of the exposure than of the outcome.
    statistic, pvalue : float
        Difference of Fisher's z in standard errors; two-sided.
    """

    r2_exposure: float
    r2_outcome: float
    forward: bool
    statistic: float
    pvalue: float


def explained(beta: Floats, se: Floats, num_obs: float | None, frequency: Floats | None) -> Floats:
    """Variance that each variant explains, shape (M,).

    Notes
    -----
    ``2 f (1 - f) beta^2`` where frequencies are given, right for a trait of unit variance;
    otherwise ``t^2 / (t^2 + n - 2)``, whatever the unit.
    """
    if frequency is not None:
        return 2 * frequency * (1 - frequency) * beta**2
    assert num_obs is not None
    t2 = (beta / se) ** 2
    return np.asarray(t2 / (t2 + num_obs - 2))


def steiger(
    explained_exposure: Floats,
    explained_outcome: Floats,
    num_obs_exposure: float,
    num_obs_outcome: float,
) -> Steiger:
    """Compare the summed variances explained, in two independent samples.

    Notes
    -----
    ``z = (atanh r_x - atanh r_y) / sqrt(1 / (n_x - 3) + 1 / (n_y - 3))`` with r the square roots
    of the sums. Hemani, Tilling and Davey Smith (2017), *PLoS Genetics* 13.
    """
    r2_x, r2_y = float(np.sum(explained_exposure)), float(np.sum(explained_outcome))
    error = math.sqrt(1 / (num_obs_exposure - 3) + 1 / (num_obs_outcome - 3))
    z = float(np.arctanh(math.sqrt(r2_x)) - np.arctanh(math.sqrt(r2_y))) / error
    return Steiger(r2_x, r2_y, r2_x > r2_y, z, 2 * float(stats.norm.sf(abs(z))))
