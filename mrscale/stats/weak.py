"""The Anderson-Rubin test and its confidence set: right however weak the instruments are.

Legend: N people, L instruments, P exposures, r = [X | y], g = Z'u and S its meat, for the
residual u = y - X b = r w with weights w = (-b, 1); P and M project on and off the instruments.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from scipy import linalg, stats

from mrscale.stats.linalg import whitening
from mrscale.stats.moments import Floats
from mrscale.stats.reduced import Reduced, TraitMeats
from mrscale.stats.sets import ConfidenceSet, Intervals, ProjectiveLine, where_quadratic_nonpositive
from mrscale.stats.specification import FEW_GROUPS, TestResult

Reference = Literal["f", "chi2"]
_METHOD = "anderson-rubin"
_COARSE = 64
"""Angles at which robust sets are looked at besides those between computed crossings."""


def anderson_rubin_test(
    reduced: Reduced, value: Floats, *, meats: TraitMeats | None = None, reference: Reference = "f"
) -> TestResult:
    """Test that the effects of all exposures are ``value``, jointly.

    Parameters
    ----------
    reduced : Reduced
    value : ndarray, shape (P,)
    meats : TraitMeats, optional
        For errors that are heteroskedastic or clustered; without it they are homoskedastic.
    reference : {"f", "chi2"}, default "f"
        Distribution of the homoskedastic statistic: F(L, N - controls - L), exact with normal
        errors, or chi-square(L) / L (the default of ivmodels). With ``meats`` always chi-square.

    Returns
    -------
    TestResult

    Notes
    -----
    ``(u'Pu / L) / (u'Mu / (N - controls - L))``; with meats ``g'S^-1 g``. Anderson and Rubin
    (1949); Stock and Wright (2000) for the robust form, S at the hypothesis and not centred.
    """
    name, weights = "Anderson-Rubin", np.append(-value, 1.0)
    num = reduced.num_instruments
    if meats is not None:
        statistic = robust_statistic(reduced, meats, weights)
        return TestResult.chi_square(name, statistic, num)
    on, off = on_and_off(reduced)
    statistic = float(weights @ on @ weights / (weights @ off @ weights) * reduced.dof / num)
    if reference == "chi2":
        return TestResult(name, statistic, num, float(stats.chi2.sf(statistic * num, num)))
    return TestResult.f(name, statistic, (num, reduced.dof))


def anderson_rubin(
    reduced: Reduced,
    level: float = 0.95,
    *,
    meats: TraitMeats | None = None,
    exposure: int = 0,
    reference: Reference = "f",
) -> ConfidenceSet:
    """Anderson-Rubin confidence set of one exposure's effect.

    Parameters
    ----------
    reduced : Reduced
    level : float, default 0.95
    meats : TraitMeats, optional
        For errors that are heteroskedastic or clustered (one exposure only).
    exposure : int, default 0
        Which of the P exposures.
    reference : {"f", "chi2"}, default "f"
        As in :func:`anderson_rubin_test`.

    Returns
    -------
    ConfidenceSet
        The whole line with a reason where the test cannot be made: fewer instruments than
        exposures, no more groups than instruments, or robust errors with several exposures.

    Notes
    -----
    Homoskedastic: a quadratic inequality in b. With several exposures the others' effects are
    those that fit best (a Schur complement of the quadratic form) and L - P + 1 takes the place
    of L: Guggenberger, Kleibergen, Mavroeidis and Chen (2012), valid under homoskedasticity.

    Robust: ``g'S^-1 g <= q`` holds where ``S - g g' / q`` is positive semi-definite, a matrix
    quadratic in b; the set changes only at real roots of its determinant, which are eigenvalues
    of a companion matrix of order 2 L. All crossings are found, those at infinity too.
    """
    why = inapplicable(reduced, meats)
    if why:
        return ConfidenceSet.not_applicable(_METHOD, level, why)
    num = reduced.num_instruments - reduced.num_exposures + 1
    quantile = float(stats.chi2.isf(1 - level, num))
    if meats is not None:
        intervals = _where_robust_below(reduced, meats, quantile)
        return ConfidenceSet(intervals, level, _METHOD)
    if reference == "f":
        quantile = num * float(stats.f.isf(1 - level, num, reduced.dof))
    intervals = where_ratio_below(reduced, quantile / reduced.dof, exposure)
    return ConfidenceSet(intervals, level, _METHOD)


def on_and_off(reduced: Reduced) -> tuple[Floats, Floats]:
    """``r'Pr`` and ``r'Mr``, each of shape (P + 1, P + 1)."""
    zr = np.column_stack([reduced.zx, reduced.zy])
    on = zr.T @ zr
    return on, reduced.total - on


def where_ratio_below(reduced: Reduced, ratio: float, exposure: int = 0) -> Intervals:
    """Where the least ``u'Pu / u'Mu`` over the other exposures' effects is at most ``ratio``."""
    on, off = on_and_off(reduced)
    form = on - ratio * off
    rest = np.delete(np.arange(reduced.num_exposures), exposure)
    kept = np.array([exposure, reduced.num_exposures])
    inner = form[np.ix_(kept, kept)]
    if len(rest):
        try:
            factor = linalg.cho_factor(form[np.ix_(rest, rest)])
        except linalg.LinAlgError:
            # some combination of the others makes the form as negative as one likes
            return ((-math.inf, math.inf),)
        inner = inner - form[np.ix_(kept, rest)] @ linalg.cho_solve(
            factor, form[np.ix_(rest, kept)]
        )
    return where_quadratic_nonpositive(
        float(inner[0, 0]), float(-inner[0, 1] - inner[1, 0]), float(inner[1, 1])
    )


def solve_semidefinite(matrix: Floats, right: Floats) -> Floats:
    """``A^+ B`` for a positive semi-definite A."""
    try:
        factor = linalg.cho_factor(matrix, check_finite=False)
        return np.asarray(linalg.cho_solve(factor, right, check_finite=False))
    except linalg.LinAlgError:
        root = whitening(matrix)[0]
        return root @ (root.T @ right)


def line_around(reduced: Reduced, meats: TraitMeats) -> ProjectiveLine:
    """Centred at the 2SLS estimate of one exposure's effect, its robust error the scale."""
    x = reduced.zx[:, 0]
    strength = float(x @ x)
    estimate = float(x @ reduced.zy) / strength
    meat = meats.of_residual(np.array([-estimate, 1.0]))
    return ProjectiveLine(estimate, math.sqrt(float(x @ meat @ x)) / strength)


def robust_statistic(reduced: Reduced, meats: TraitMeats, weights: Floats) -> float:
    """``g'S^-1 g`` of the residual ``[X | y] @ weights``."""
    g = np.column_stack([reduced.zx, reduced.zy]) @ weights
    return float(g @ solve_semidefinite(meats.of_residual(weights), g))


def inapplicable(reduced: Reduced, meats: TraitMeats | None) -> str:
    """Why there is no weak-instrument test, or nothing."""
    if reduced.num_instruments < reduced.num_exposures:
        return "fewer instruments than exposures"
    if meats is None:
        return "" if reduced.dof > 0 else "no more people than instruments and covariates"
    if reduced.num_exposures > 1:
        return "the robust set is for one exposure; classical errors give one for each of several"
    weights = np.array([-line_around(reduced, meats).centre, 1.0])
    rank = whitening(meats.of_residual(weights))[1]
    return FEW_GROUPS if min(rank, meats.num_groups - 1) < reduced.num_instruments else ""


def _where_robust_below(reduced: Reduced, meats: TraitMeats, quantile: float) -> Intervals:
    line = line_around(reduced, meats)
    crossings = _possible_crossings(reduced, meats, quantile, line)
    coarse = np.linspace(-math.pi / 2, math.pi / 2, _COARSE, endpoint=False)
    marks = np.unique(np.concatenate([crossings, coarse]))
    between = (marks + np.append(marks[1:], marks[0] + math.pi)) / 2
    return line.where_nonpositive(
        lambda angle: robust_statistic(reduced, meats, line.weights(angle)) - quantile, between
    )


def _possible_crossings(
    reduced: Reduced, meats: TraitMeats, quantile: float, line: ProjectiveLine
) -> Floats:
    """Angles in [-pi/2, pi/2) of the roots of ``det(S - g g' / q)`` that are or may be real."""
    zr = np.column_stack([reduced.zx, reduced.zy])
    pencil = meats.traits - np.einsum("ic,jd->cdij", zr, zr) / quantile

    def at(first: Floats, second: Floats) -> Floats:
        half = np.einsum("c,d,cdij->ij", first, second, pencil)
        return np.asarray((half + half.T) / 2)

    turns = np.linspace(0, math.pi, 8, endpoint=False)
    values = [np.abs(linalg.eigvalsh(at(w, w))) for w in map(line.weights, turns)]
    turn = turns[int(np.argmax([v.min() / v.max() for v in values]))]
    u, v = line.weights(turn), line.weights(turn + math.pi / 2)
    # along u t + v, t the cotangent of the angle from u, the matrix is t^2 lead + t middle + last
    num = len(zr)
    solved = linalg.solve(at(u, u), np.hstack([at(v, v), 2 * at(u, v)]), assume_a="sym")
    companion = np.block([[np.zeros((num, num)), np.eye(num)], [-solved]])
    t = linalg.eigvals(companion)
    # a candidate that is no root costs an evaluation, a root left out would cost an interval
    t = t[np.abs(t.imag) <= 0.01 * (1 + np.abs(t) ** 2)].real
    return np.asarray((turn + np.arctan2(1.0, t) + math.pi / 2) % math.pi - math.pi / 2)
