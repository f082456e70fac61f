"""Association of every instrument with every trait, one at a time, from moments.

Legend: N people, M instruments, K covariates, T traits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from mrscale.stats.batch import partial_out
from mrscale.stats.crosses import Crosses
from mrscale.stats.moments import Floats


@dataclass(frozen=True, eq=False)
class Associations:
    """Univariable regressions of T traits on M instruments, covariates partialled out.

    Attributes
    ----------
    beta, std_error, pvalue : ndarray, shape (M, T)
        Per unit of the instrument, and two-sided from t; NaN for an instrument or a trait that
        the covariates leave without variance, and where people are too few.
    correlation : ndarray, shape (M, M)
        Of the instruments given the covariates: the LD that correlated summary methods need.
    count : int
        People N.
    dof : int
        Residual degrees of freedom, N - K - 2 for covariates of full rank.
    """

    beta: Floats
    std_error: Floats
    pvalue: Floats
    correlation: Floats
    count: int
    dof: int


def associations(crosses: Crosses, num_instruments: int) -> Associations:
    """Regress each trait on each instrument, the covariates and an intercept.

    Parameters
    ----------
    crosses : Crosses
        Of the instruments, covariates and traits; :meth:`Crosses.from_moments` makes them from the
        moments of [Z | W | T].
    num_instruments : int
        M.

    Returns
    -------
    Associations

    Notes
    -----
    With z and t partialled on W: ``beta = z't / z'z`` and
    ``se^2 = (t't - beta z't) / (z'z (N - K - 2))``, the homoskedastic errors of a genome-wide
    association study.
    """
    left = partial_out(crosses, num_instruments)
    zz, tt = _positive(np.diag(left.zz)), _positive(left.squares)
    dof = crosses.count - left.num_controls - 1
    beta = np.where(np.isfinite(tt) & (dof > 0), left.zt / zz[:, None], np.nan)
    unexplained = np.maximum(tt - beta * left.zt, 0)
    std_error = np.sqrt(unexplained / zz[:, None] / max(dof, 1))
    with np.errstate(divide="ignore"):  # a trait that is an instrument has no error
        statistic = np.abs(beta) / std_error
    return Associations(
        beta=beta,
        std_error=std_error,
        pvalue=2 * stats.t.sf(statistic, max(dof, 1)),
        correlation=left.zz / np.sqrt(np.outer(zz, zz)),
        count=crosses.count,
        dof=dof,
    )


def _positive(values: Floats) -> Floats:
    return np.where(values > 0, values, np.nan)
