"""Tests of the model: do the instruments agree, and was there confounding to correct.

Legend: N people, L instruments, P exposures; u = y - X b the 2SLS residual, ``Xh = P X`` and
``V = M X`` the exposures projected on and off the instruments.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from mrscale.stats.kclass import fit_kclass, liml_kappa
from mrscale.stats.linalg import scaled_inverse, whitening
from mrscale.stats.moments import Floats
from mrscale.stats.reduced import Meats, Reduced

FEW_GROUPS = "too few people or clusters for the covariance of so many instruments"
_JUST_IDENTIFIED = "no more instruments than exposures"


@dataclass(frozen=True)
class TestResult:
    """A test statistic and its p-value.

    Attributes
    ----------
    name : str
    statistic : float
        NaN where the test does not apply.
    dof : int or (int, int)
        Degrees of freedom of the chi-square reference distribution, or of the F.
    pvalue : float
    reason : str
        Why the test does not apply, or empty.
    """

    __test__ = False  # not a class of tests, whatever pytest makes of the name

    name: str
    statistic: float
    dof: int | tuple[int, int]
    pvalue: float
    reason: str = ""

    @classmethod
    def not_applicable(cls, name: str, reason: str) -> TestResult:
        """NaN, and why."""
        return cls(name, math.nan, 0, math.nan, reason)

    @classmethod
    def chi_square(cls, name: str, statistic: float, dof: int) -> TestResult:
        """Of a statistic that is chi-square under the hypothesis."""
        return cls(name, statistic, dof, float(stats.chi2.sf(statistic, dof)))

    @classmethod
    def f(cls, name: str, statistic: float, dof: tuple[int, int]) -> TestResult:
        """Of a statistic that is F under the hypothesis."""
        return cls(name, statistic, dof, float(stats.f.sf(statistic, *dof)))

    def __str__(self) -> str:
        if self.reason:
            return f"{self.name}: not applicable ({self.reason})"
        if isinstance(self.dof, tuple):
            reference = f"F({self.dof[0]:,}, {self.dof[1]:,})"
        else:
            reference = f"chi2({self.dof:,})"
        return f"{self.name}: {reference} = {self.statistic:.4g}, p = {self.pvalue:.3g}"


def sargan(reduced: Reduced) -> TestResult:
    """Whether the instruments agree on the effects, for homoskedastic errors.

    Notes
    -----
    ``N u'Pu / u'u``, chi-square(L - P): Sargan (1958).
    """
    name, dof = "Sargan", reduced.num_instruments - reduced.num_exposures
    if dof <= 0:
        return TestResult.not_applicable(name, _JUST_IDENTIFIED)
    return TestResult.chi_square(name, reduced.count * _explained_share(reduced), dof)


def anderson_rubin_overidentification(reduced: Reduced) -> TestResult:
    """The likelihood ratio test that the instruments agree, at the LIML estimate.

    Notes
    -----
    ``N log kappa``, chi-square(L - P): Anderson and Rubin (1950).
    """
    name, dof = "Anderson-Rubin overidentification", reduced.num_instruments - reduced.num_exposures
    if dof <= 0:
        return TestResult.not_applicable(name, _JUST_IDENTIFIED)
    return TestResult.chi_square(name, reduced.count * math.log(liml_kappa(reduced)), dof)


def hansen_j(reduced: Reduced, meats: Meats) -> TestResult:
    """Whether the instruments agree on the effects, for heteroskedastic or clustered errors.

    Notes
    -----
    ``g'S^-1 g``, chi-square(L - P), for ``g = Z'(y - X b2)`` and b2 the two-step GMM estimate; S
    is the meat, not centred, at the 2SLS estimate (the defaults of linearmodels' ``IVGMM`` and of
    Stata's ``gmm``). Instruments and covariates as moments give the same: the covariates are
    concentrated out. Hansen (1982), *Econometrica* 50.
    """
    meat = meats.of_residual(fit_kclass(reduced, 1.0).residual_weights)
    return hansen_j_of(reduced, meat, meats.num_groups)


def hansen_j_of(reduced: Reduced, meat: Floats, num_groups: int) -> TestResult:
    """:func:`hansen_j` given ``S = sum_g (Z'u)_g (Z'u)_g'``, shape (L, L), u the 2SLS residual."""
    name, dof = "Hansen J", reduced.num_instruments - reduced.num_exposures
    if dof <= 0:
        return TestResult.not_applicable(name, _JUST_IDENTIFIED)
    root, rank = whitening(meat)
    if min(rank, num_groups - 1) < reduced.num_instruments:
        return TestResult.not_applicable(name, FEW_GROUPS)
    # J is what least squares of the whitened moments leaves
    y, q = root.T @ reduced.zy, np.linalg.qr(root.T @ reduced.zx)[0]
    rest = y - q @ (q.T @ y)
    return TestResult.chi_square(name, float(rest @ rest), dof)


def wu_hausman(reduced: Reduced) -> TestResult:
    """Whether OLS would have done, for homoskedastic errors, with a small-sample F.

    Notes
    -----
    The F test of V added to the OLS regression: with d the fall of the residual sum of squares,
    ``(d / P) / ((rss - d) / (N - controls - 2 P))``. Wu (1973); Hausman (1978).
    """
    p = reduced.num_exposures
    dof = reduced.count - reduced.num_controls - 2 * p
    name = "Wu-Hausman"
    if dof <= 0:
        return TestResult.not_applicable(name, "too few people")
    fall, rss = _endogeneity_contrast(reduced)
    return TestResult.f(name, fall / p / ((rss - fall) / dof), (p, dof))


@dataclass(frozen=True, eq=False)
class ControlFunction:
    """The regression of y on [X | V], as one on the orthogonal [Xh | V].

    Attributes
    ----------
    projected, remaining : ndarray, shape (P,)
        Coefficients of Xh (the 2SLS estimate) and of V. Their difference is the coefficient of V
        beside X, zero without confounding.
    projected_inverse, remaining_inverse : ndarray, shape (P, P)
        ``(Xh'Xh)^-1`` and ``(V'V)^-1``.
    """

    projected: Floats
    remaining: Floats
    projected_inverse: Floats
    remaining_inverse: Floats

    @classmethod
    def of(cls, reduced: Reduced) -> ControlFunction:
        """From the moments."""
        explained = reduced.zx.T @ reduced.zx
        inside, outside = scaled_inverse(explained), scaled_inverse(reduced.xx - explained)
        return cls(
            projected=inside @ (reduced.zx.T @ reduced.zy),
            remaining=outside @ (reduced.xy - reduced.zx.T @ reduced.zy),
            projected_inverse=inside,
            remaining_inverse=outside,
        )

    @property
    def contrast(self) -> Floats:
        """Coefficients of V beside X, shape (P,)."""
        return self.remaining - self.projected

    def scores(self, z: Floats, traits: Floats, zx: Floats) -> Floats:
        """``[Xh | V] e`` of a block of people, e this regression's residual; shape (N, 2 P).

        Parameters
        ----------
        z : ndarray, shape (N, L)
            Canonical instruments.
        traits : ndarray, shape (N, P + 1)
            [X | y], covariates partialled out.
        zx : ndarray, shape (L, P)
            First-stage coefficients.
        """
        x, y = traits[:, :-1], traits[:, -1]
        inside = z @ zx
        outside = x - inside
        residual = y - inside @ self.projected - outside @ self.remaining
        return np.column_stack([inside, outside]) * residual[:, None]


def wooldridge(control: ControlFunction, meat: Floats) -> TestResult:
    """Whether OLS would have done, for heteroskedastic or clustered errors.

    Parameters
    ----------
    control : ControlFunction
    meat : ndarray, shape (2 P, 2 P)
        Sum over people, or over clusters of their sums, of the outer products of
        :meth:`ControlFunction.scores`.

    Notes
    -----
    The Wald test, chi-square(P), of V added to the OLS regression, errors HC0 or clustered:
    Wooldridge (2010), section 6.3.1 (linearmodels' ``wooldridge_regression``). That V is estimated
    changes nothing under the hypothesis.
    """
    name, contrast = "Wooldridge", control.contrast
    to = np.hstack([-control.projected_inverse, control.remaining_inverse])
    root, rank = whitening(to @ meat @ to.T)
    if rank < len(contrast):
        return TestResult.not_applicable(name, "no more people or clusters than exposures")
    whitened = root.T @ contrast
    return TestResult.chi_square(name, float(whitened @ whitened), rank)


def _explained_share(reduced: Reduced) -> float:
    """``u'Pu / u'u``."""
    fit = fit_kclass(reduced, 1.0)
    g = reduced.zy - reduced.zx @ fit.estimate
    return float(g @ g) / fit.residual_ss


def _endogeneity_contrast(reduced: Reduced) -> tuple[float, float]:
    """Fall of the OLS residual sum of squares when V is added, and that sum."""
    control = ControlFunction.of(reduced)
    variance = control.projected_inverse + control.remaining_inverse
    contrast = control.contrast
    fall = float(contrast @ scaled_inverse(variance) @ contrast)
    return fall, fit_kclass(reduced, 0.0).residual_ss
