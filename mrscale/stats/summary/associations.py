"""What every summary-data method takes, and what it gives back.

Legend: M variants, P exposures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, stats

from mrscale.stats.moments import Floats
from mrscale.stats.pooling import interval


@dataclass(frozen=True, eq=False)
class Associations:
    """Per-variant associations with exposure and outcome, all for the same effect allele.

    Attributes
    ----------
    bx, sx : ndarray, shape (M,), or (M, P) in multivariable Mendelian randomization
        Associations with the exposure and their standard errors.
    by, sy : ndarray, shape (M,)
        Associations with the outcome and their standard errors.
    correlation : ndarray, shape (M, M), or None
        Correlation of the variants (signed by effect alleles); None means uncorrelated.
    """

    bx: Floats
    sx: Floats
    by: Floats
    sy: Floats
    correlation: Floats | None = None

    @property
    def num_variants(self) -> int:
        """M."""
        return len(self.by)

    @property
    def ratio(self) -> Floats:
        """Wald ratios ``by / bx``, shape (M,)."""
        return self.by / self.bx

    def ratio_error(self, *, second_order: bool = False) -> Floats:
        """Standard errors of the ratios by the delta method, shape (M,).

        Notes
        -----
        First order ``sy / |bx|``; second order ``sqrt(sy^2 / bx^2 + by^2 sx^2 / bx^4)``.
        """
        first = self.sy / np.abs(self.bx)
        return np.hypot(first, self.ratio * self.sx / self.bx) if second_order else first

    def select(self, keep: NDArray[np.bool_] | NDArray[np.intp]) -> Associations:
        """The associations of some of the variants."""
        rho = self.correlation
        return Associations(
            self.bx[keep],
            self.sx[keep],
            self.by[keep],
            self.sy[keep],
            None if rho is None else rho[keep][:, keep],
        )

    def oriented(self) -> Associations:
        """The same for the alleles that raise the exposure (the first of several)."""
        column = self.bx if self.bx.ndim == 1 else self.bx[:, 0]
        sign = np.where(column < 0, -1.0, 1.0)
        rho = self.correlation
        return replace(
            self,
            bx=(self.bx.T * sign).T,
            by=self.by * sign,
            correlation=None if rho is None else rho * np.outer(sign, sign),
        )

    def decorrelated(self) -> tuple[Associations, Floats]:
        """An equivalent problem with independent variants, and the rotation V' that made it.

        Notes
        -----
        With ``Sx = sx sx' o rho`` and ``Sy = sy sy' o rho``, the generalised eigenvectors V have
        ``V' Sy V = I`` and ``V' Sx V`` diagonal: any Gaussian likelihood of (bx, by) is that of
        independent (V'bx, V'by). Not defined for several exposures.
        """
        if self.correlation is None:
            return self, np.eye(self.num_variants)
        variances, v = linalg.eigh(
            self.correlation * np.outer(self.sx, self.sx),
            self.correlation * np.outer(self.sy, self.sy),
        )
        turned = Associations(
            v.T @ self.bx, np.sqrt(variances), v.T @ self.by, np.ones(self.num_variants)
        )
        return turned, v.T

    def mean_f(self) -> float:
        """Mean F statistic of the variants, ``bx' Sx^-1 bx / M``; NaN for several exposures."""
        if self.bx.ndim > 1:
            return math.nan
        independent, _ = self.decorrelated()
        return float(np.mean((independent.bx / independent.sx) ** 2))


@dataclass(frozen=True)
class SummaryEstimate:
    """One row of the panel; NaN where a number does not apply.

    Attributes
    ----------
    estimate, std_error, ci_lower, ci_upper, pvalue : float
        Causal effect of the exposure on the outcome, in units of ``by / bx``.
    num_variants : int
        Variants used, outliers removed.
    q, q_dof, q_pvalue, i2 : float
        Heterogeneity around the fit (chi-square), and ``max(0, 1 - dof / Q)``.
    intercept, intercept_std_error, intercept_pvalue, i2_gx : float
        MR-Egger only: mean pleiotropic effect; and the share of the spread of the exposure
        associations that is not estimation error.
    f_statistic : float
        Mean F of the variants; the conditional F in multivariable Mendelian randomization.
    note : str
        Reason why it does not apply, or what a reader must know.
    """

    estimate: float = math.nan
    std_error: float = math.nan
    ci_lower: float = math.nan
    ci_upper: float = math.nan
    pvalue: float = math.nan
    num_variants: int = 0
    q: float = math.nan
    q_dof: float = math.nan
    q_pvalue: float = math.nan
    i2: float = math.nan
    intercept: float = math.nan
    intercept_std_error: float = math.nan
    intercept_pvalue: float = math.nan
    i2_gx: float = math.nan
    f_statistic: float = math.nan
    note: str = ""


def not_applicable(reason: str, num_variants: int) -> SummaryEstimate:
    """A row without numbers that says why."""
    return SummaryEstimate(num_variants=num_variants, note=f"not applicable: {reason}")


def wald(
    estimate: float,
    std_error: float,
    num_variants: int,
    *,
    level: float,
    dof: float = math.inf,
    note: str = "",
) -> SummaryEstimate:
    """A row whose interval and p-value come from ``estimate / std_error ~ t(dof)``."""
    lower, upper, pvalue = interval(estimate, std_error, level=level, dof=dof)
    return SummaryEstimate(
        estimate, std_error, lower, upper, pvalue, num_variants=num_variants, note=note
    )


def with_heterogeneity(row: SummaryEstimate, q: float, dof: int) -> SummaryEstimate:
    """The row with Q, its chi-square p-value and I2; without them where dof is zero."""
    if dof < 1:
        return row
    share = max(0.0, 1 - dof / q) if q > 0 else 0.0
    return replace(row, q=q, q_dof=float(dof), q_pvalue=float(stats.chi2.sf(q, dof)), i2=share)
