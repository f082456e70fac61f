"""Moreira's conditional likelihood ratio test and its confidence set.

As valid as Anderson-Rubin however weak the instruments are, and as short as the usual interval
when they are strong. Legend as in :mod:`mrscale.stats.weak`.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import optimize, special, stats

from mrscale.stats.kclass import characteristic_roots
from mrscale.stats.moments import Floats
from mrscale.stats.reduced import Meats, Reduced
from mrscale.stats.sets import EVERYTHING, ConfidenceSet, Intervals, ProjectiveLine
from mrscale.stats.specification import TestResult
from mrscale.stats.weak import (
    inapplicable,
    line_around,
    on_and_off,
    robust_statistic,
    solve_semidefinite,
    where_ratio_below,
)

_METHOD = "clr"
_NODES, _NODE_WEIGHTS = np.polynomial.legendre.leggauss(400)
# from pi/2, near which the tail bends within sqrt(z / L): nodes crowd there by a cubic
_ANGLES = math.pi / 2 * ((_NODES + 1) / 2) ** 3
_STEPS = _NODE_WEIGHTS * (3 * math.pi / 4) * ((_NODES + 1) / 2) ** 2
_COS2, _SIN2 = np.sin(_ANGLES) ** 2, np.cos(_ANGLES) ** 2
_GRID = 256
_INFINITE = 1e12
_DETERMINED = "the instruments determine the outcome or an exposure"


def conditional_pvalue(statistic: float, strength: float, num_instruments: int) -> float:
    """Tail of the likelihood ratio given the strength of the instruments.

    Parameters
    ----------
    statistic : float
        Likelihood ratio.
    strength : float
        What is conditioned on: about (L - 1 + concentration parameter), not negative.
    num_instruments : int
        L.

    Notes
    -----
    ``P = c int_0^(pi/2) sin^(L-2)(a) P(chi2_L > z / (1 - t / (z + t) sin^2 a)) da`` with z the
    statistic, t the strength and c = 2 / B((L - 1) / 2, 1 / 2), by Gauss-Legendre: Andrews,
    Moreira and Stock (2007), *Journal of Econometrics* 139. From chi-square with L degrees of
    freedom at no strength to one degree of freedom at any.
    """
    if statistic <= 0:
        return 1.0
    if num_instruments == 1:
        return float(stats.chi2.sf(statistic, 1))
    share = strength / (statistic + strength)
    tails = special.gammaincc(num_instruments / 2, statistic / 2 / (_COS2 + (1 - share) * _SIN2))
    density = _SIN2 ** (num_instruments / 2 - 1) * 2 / special.beta((num_instruments - 1) / 2, 0.5)
    return float((_STEPS * density) @ tails)


def clr_test(reduced: Reduced, value: float, *, meats: Meats | None = None) -> TestResult:
    """Test that the effect of the one exposure is ``value``.

    Parameters
    ----------
    reduced : Reduced
    value : float
    meats : Meats, optional
        For errors that are heteroskedastic or clustered; without it they are homoskedastic.

    Returns
    -------
    TestResult
        The degrees of freedom are L: of the tail where the instruments say nothing.

    Notes
    -----
    ``LR = (N - controls - L) (u'Pu / u'Mu - least such ratio)``: Moreira (2003), *Econometrica*
    71. With meats, Kleibergen's (2005, *Econometrica* 73) quasi-likelihood ratio
    ``(AR - rk + sqrt((AR - rk)^2 + 4 K rk)) / 2`` given the rank statistic rk, which is
    asymptotically independent of AR and K; Andrews and Guggenberger (2019). Meats are not
    centred, as in the Anderson-Rubin test.
    """
    weights = np.array([-value, 1.0])
    if meats is None:
        on, off = on_and_off(reduced)
        ratio = float(weights @ on @ weights / (weights @ off @ weights))
        statistic, strength = _likelihood_ratio(reduced, reduced.dof * ratio)
    else:
        statistic, strength = _quasi_likelihood_ratio(reduced, meats, weights)
    num = reduced.num_instruments
    return TestResult("CLR", statistic, num, conditional_pvalue(statistic, strength, num))


def clr(
    reduced: Reduced, level: float = 0.95, *, meats: Meats | None = None, exposure: int = 0
) -> ConfidenceSet:
    """Conditional likelihood ratio confidence set of one exposure's effect; it is never empty.

    Parameters
    ----------
    reduced : Reduced
    level : float, default 0.95
    meats : Meats, optional
        For errors that are heteroskedastic or clustered (one exposure only).
    exposure : int, default 0
        Which of the P exposures.

    Returns
    -------
    ConfidenceSet
        The whole line with a reason where :func:`mrscale.stats.weak.anderson_rubin` gives it.

    Notes
    -----
    Homoskedastic: statistic and strength sum to a constant, so that the p-value is a decreasing
    function of the Anderson-Rubin ratio alone, and the set is where the ratio is below the one
    value at which the p-value is 1 - level: Mikusheva (2010), *Journal of Econometrics* 157. With
    several exposures the others' effects are those that fit best and L - P + 1 takes the place of
    L, an upper bound of the critical value (as in ivmodels).

    Robust: a search over the projective line on two grids of 256 points, in units of standard
    errors around the 2SLS estimate and around the least Anderson-Rubin statistic, with every
    crossing refined. A part of the set much narrower than a standard error could be missed.
    """
    why = inapplicable(reduced, meats)
    if why:
        return ConfidenceSet.not_applicable(_METHOD, level, why)
    if meats is None:
        if not characteristic_roots(reduced)[1] < _INFINITE:
            return ConfidenceSet.not_applicable(_METHOD, level, _DETERMINED)
        intervals = _where_accepted(reduced, 1 - level, exposure)
    else:
        intervals = _where_robust_accepted(reduced, meats, 1 - level)
    return ConfidenceSet(intervals, level, _METHOD)


def _likelihood_ratio(reduced: Reduced, scaled_ratio: float) -> tuple[float, float]:
    """Statistic and strength where the Anderson-Rubin ratio times its degrees of freedom is so."""
    least, next_least = reduced.dof * characteristic_roots(reduced)[:2]
    return scaled_ratio - float(least), max(float(least + next_least) - scaled_ratio, 0.0)


def _where_accepted(reduced: Reduced, alpha: float, exposure: int) -> Intervals:
    num = reduced.num_instruments - reduced.num_exposures + 1
    least, next_least = (float(r) for r in reduced.dof * characteristic_roots(reduced)[:2])

    def excess(scaled_ratio: float) -> float:
        return (
            conditional_pvalue(scaled_ratio - least, least + next_least - scaled_ratio, num) - alpha
        )

    # with b free the ratio lies between the two roots
    if excess(next_least) >= 0:
        return EVERYTHING
    highest = optimize.brentq(excess, least, next_least, xtol=1e-13 * next_least, rtol=1e-14)
    return where_ratio_below(reduced, highest / reduced.dof, exposure)


def _quasi_likelihood_ratio(reduced: Reduced, meats: Meats, weights: Floats) -> tuple[float, float]:
    """Kleibergen's statistic and the rank statistic, for a residual ``[x | y] @ weights``.

    Any other direction than the residual's gives the same D up to scale: the orthogonal one is
    taken, so that infinite effects are nothing special.
    """
    zr = np.column_stack([reduced.zx, reduced.zy])
    other = np.array([weights[1], -weights[0]])
    g, h = zr @ weights, zr @ other
    meat = meats.of_residual(weights)
    cross = np.einsum("c,d,cdij->ij", other, weights, meats.traits)
    on_g = solve_semidefinite(meat, np.column_stack([cross.T, g]))
    d = h - cross @ on_g[:, -1]
    variance = meats.of_residual(other) - cross @ on_g[:, :-1]
    on_d = solve_semidefinite(meat, d)
    ar, k = float(g @ on_g[:, -1]), float(g @ on_d) ** 2 / float(d @ on_d)
    rk = float(d @ solve_semidefinite(variance, d))
    root = math.sqrt((ar - rk) ** 2 + 4 * k * rk)
    # the form that does not cancel
    statistic = (ar - rk + root) / 2 if ar >= rk else 2 * k * rk / (root + rk - ar)
    return statistic, rk


def _where_robust_accepted(reduced: Reduced, meats: Meats, alpha: float) -> Intervals:
    num = reduced.num_instruments
    line = line_around(reduced, meats)

    def rejected(angle: float) -> float:
        ratio = _quasi_likelihood_ratio(reduced, meats, line.weights(angle))
        return alpha - conditional_pvalue(*ratio, num)

    return line.where_nonpositive(rejected, _search_angles(reduced, meats, line))


def _search_angles(reduced: Reduced, meats: Meats, line: ProjectiveLine) -> Floats:
    """Uniform around the 2SLS estimate and around the least Anderson-Rubin statistic."""

    def statistic(angle: float) -> float:
        return robust_statistic(reduced, meats, line.weights(angle))

    even = np.linspace(-math.pi / 2, math.pi / 2, _GRID, endpoint=False)
    start, step = even[int(np.argmin([statistic(a) for a in even]))], math.pi / _GRID
    best = optimize.minimize_scalar(statistic, bounds=(start - step, start + step)).x
    weights = line.weights(best) / math.cos(best)
    information = reduced.zx[:, 0] @ solve_semidefinite(
        meats.of_residual(weights), reduced.zx[:, 0]
    )
    error = float(information) ** -0.5 / line.scale
    return np.unique(np.concatenate([even, np.arctan(math.tan(best) + error * np.tan(even[1:]))]))
