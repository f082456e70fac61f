"""How strong the instruments are.

Legend: N people, L instruments, P exposures; V the first-stage residuals and
``W[p, q] = c Z'(v_p v_q')Z``, shape (P, P, L, L), the covariance of the first-stage coefficients of
exposures p and q, with the small-sample factor c.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import linalg, optimize, stats

from mrscale.stats.linalg import scaled_inverse, whitening
from mrscale.stats.moments import Floats
from mrscale.stats.reduced import Meats, Reduced
from mrscale.stats.sets import ProjectiveLine
from mrscale.stats.specification import FEW_GROUPS

WEAK_F = 10.0
"""F below which instruments are called weak: Staiger and Stock's rule of thumb, *Econometrica* 65
(1997)."""
ONE_EXPOSURE = "the critical value is for one exposure; see the conditional F"
TWO_EXPOSURES = "the conditional F is for two exposures or more"


@dataclass(frozen=True, eq=False)
class FirstStage:
    """Strength of the instruments, per exposure and jointly.

    Attributes
    ----------
    partial_r2 : ndarray, shape (P,)
        Share of the exposure, given covariates, that the instruments explain: Bound, Jaeger and
        Baker (1995).
    shea_r2 : ndarray, shape (P,)
        The share that is not used up by the other exposures: Shea (1997).
    f : ndarray, shape (P,)
        Classical F(L, N - controls - L).
    f_robust : ndarray, shape (P,)
        Wald statistic with robust or clustered errors over L.
    effective_f, effective_f_critical : ndarray, shape (P,)
        See :func:`effective_f` and :func:`critical_effective_f`.
    conditional_f : ndarray, shape (P,)
        Sanderson and Windmeijer's; see :func:`conditional_f`.
    cragg_donald_f, kleibergen_paap_f : float
        Rank statistics of all exposures together; see :func:`cragg_donald_f` and
        :func:`kleibergen_paap_f`.
    reasons : dict of str to str
        Why a field is NaN, by its name.
    """

    partial_r2: Floats
    shea_r2: Floats
    f: Floats
    f_robust: Floats
    effective_f: Floats
    effective_f_critical: Floats
    conditional_f: Floats
    cragg_donald_f: float
    kleibergen_paap_f: float
    reasons: dict[str, str]


def first_stage(
    reduced: Reduced, meats: Meats | None = None, *, reduced_form: Floats | None = None
) -> FirstStage:
    """All measures of instrument strength.

    Parameters
    ----------
    reduced : Reduced
        With N > controls + L and L >= P.
    meats : Meats, optional
        For errors that are heteroskedastic or clustered; without it they are homoskedastic and
        the robust statistics equal their classical counterparts.
    reduced_form : ndarray, shape (2, 2, L, L), optional
        As ``Meats.first_stage`` but for the residuals of both traits [x | y] on the instruments
        (one exposure). With it the critical value of the effective F is the exact one for 2SLS;
        without it, the larger one that holds for any outcome.

    Notes
    -----
    The small-sample factor is ``c = (N - 1) / (N - controls - L) * G / (G - 1)`` for G clusters,
    and the same with G = N for people: Stata's and ivreg2's. linearmodels' ``f.stat`` with robust
    errors is a chi-square Wald statistic, ``c L`` times ``f_robust``, or without ``c`` if debiased.
    """
    p, num = reduced.num_exposures, reduced.num_instruments
    covariance = first_stage_covariance(reduced, meats)
    explained = reduced.zx.T @ reduced.zx
    shares = np.diag(explained) / np.diag(reduced.xx)
    blank = np.full(p, math.nan)
    reasons: dict[str, str] = {}
    critical = blank
    ranks = [whitening(covariance[j, j])[1] for j in range(p)]
    usable = min(ranks) == num and (meats is None or meats.num_groups > num)
    if not usable:
        reasons.update(f_robust=FEW_GROUPS, kleibergen_paap_f=FEW_GROUPS)
    if p > 1:
        reasons["effective_f_critical"] = ONE_EXPOSURE
    else:
        reasons["conditional_f"] = TWO_EXPOSURES
        bound = 1.0 if reduced_form is None else worst_bias(reduced_form)
        critical = np.array([critical_effective_f(covariance[0, 0], bound=bound)])
    return FirstStage(
        partial_r2=shares,
        shea_r2=_inverse_diagonal(reduced.xx) / _inverse_diagonal(explained),
        f=classical_f(reduced),
        f_robust=_wald_f(reduced, covariance) if usable else blank,
        effective_f=effective_f(reduced, covariance),
        effective_f_critical=critical,
        conditional_f=conditional_f(reduced) if p > 1 else blank,
        cragg_donald_f=cragg_donald_f(reduced),
        kleibergen_paap_f=kleibergen_paap_f(reduced, covariance) if usable else math.nan,
        reasons=reasons,
    )


def classical_f(reduced: Reduced) -> Floats:
    """F of the excluded instruments for each exposure, shape (P,).

    Notes
    -----
    ``(x'Px / L) / (x'Mx / (N - controls - L))``: Wooldridge (2010), section 5.2.
    """
    explained = np.sum(reduced.zx**2, axis=0)
    unexplained = np.maximum(np.diag(reduced.xx) - explained, np.finfo(np.float64).tiny)
    return np.asarray(explained / reduced.num_instruments / (unexplained / reduced.dof))


def first_stage_covariance(reduced: Reduced, meats: Meats | None) -> Floats:
    """W, shape (P, P, L, L); see :func:`first_stage` for the scale."""
    if meats is None:
        residual = reduced.xx - reduced.zx.T @ reduced.zx
        return np.asarray(
            np.multiply.outer(residual / reduced.dof, np.eye(reduced.num_instruments))
        )
    groups = meats.num_groups
    factor = (reduced.count - 1) / reduced.dof * groups / (groups - 1)
    return np.asarray(factor * meats.first_stage)


def effective_f(reduced: Reduced, covariance: Floats) -> Floats:
    """The effective F of each exposure, shape (P,).

    Notes
    -----
    ``x'Px / tr W``: Montiel Olea and Pflueger (2013), *Journal of Business & Economic Statistics*
    31. Equal to the classical F with homoskedastic errors and to the robust F with one instrument.
    """
    strength = np.einsum("lp,lp->p", reduced.zx, reduced.zx)
    return np.asarray(strength / np.einsum("ppll->p", covariance))


def critical_effective_f(
    covariance: Floats, *, tolerance: float = 0.1, level: float = 0.05, bound: float = 1.0
) -> float:
    """What the effective F must exceed for the 2SLS bias to be small.

    Parameters
    ----------
    covariance : ndarray, shape (L, L)
        W of the exposure.
    tolerance : float, default 0.1
        Nagar bias that is tolerated, as a share of the worst case (tau).
    level : float, default 0.05
        Size of the test whose hypothesis is a larger bias.
    bound : float, default 1
        Largest Nagar bias over the worst case: 1 holds for any outcome (the paper's simplified
        test); :func:`worst_bias` is exact (its generalised test, what ``weakivtest`` prints).

    Notes
    -----
    Patnaik's approximation: with ``x = bound / tau``, the upper ``level`` point of
    chi-square(k, noncentrality x k) / k for
    ``k = tr(W)^2 (1 + 2 x) / (tr(W W) + 2 x tr(W) maxeig(W))``. Montiel Olea and Pflueger (2013),
    section 3; 23.1 with one instrument.
    """
    values = linalg.eigvalsh(covariance)
    values = values / values.sum()
    x = bound / tolerance
    k = (1 + 2 * x) / (values @ values + 2 * x * values[-1])
    return float(stats.ncx2.isf(level, k, x * k) / k)


def worst_bias(reduced_form: Floats) -> float:
    """Largest Nagar bias of 2SLS over the worst case, whatever the effect and the first stage.

    Parameters
    ----------
    reduced_form : ndarray, shape (2, 2, L, L)
        Meat of the residuals of [x | y] on the instruments; any scale.

    Notes
    -----
    ``sup_b max_c |tr S12 - 2 c'S12 c| / sqrt(tr S1 tr S2)`` for unit vectors c, with
    ``S12 = Wxy - b Wxx``, ``S1 = Wyy - b (Wxy + Wyx) + b^2 Wxx`` and ``S2 = Wxx``; at most 1. A
    search over 128 angles, the best refined.
    """
    traces = np.einsum("cdll->cd", reduced_form)
    line = ProjectiveLine(
        traces[0, 1] / traces[0, 0],
        math.sqrt(max(traces[1, 1] / traces[0, 0] - (traces[0, 1] / traces[0, 0]) ** 2, 1e-12)),
    )

    symmetric = (reduced_form[0] + reduced_form[0].transpose(0, 2, 1)) / 2

    def biases(angles: Floats) -> Floats:
        w = np.array([line.weights(angle) for angle in angles])
        values = np.linalg.eigvalsh(np.einsum("ad,dij->aij", w, symmetric))
        worst = np.abs(values.sum(axis=1, keepdims=True) - 2 * values[:, [0, -1]]).max(axis=1)
        trace = np.einsum("ac,cd,ad->a", w, traces, w)
        # zero where the outcome's residuals are those of the exposure, and then of either sign
        digits = np.finfo(float).eps * np.einsum("ac,cd,ad->a", abs(w), abs(traces), abs(w))
        return np.asarray(worst / np.sqrt(np.maximum(trace, digits) * traces[0, 0]))

    angles = np.linspace(-math.pi / 2, math.pi / 2, 128, endpoint=False)
    found = biases(angles)
    best, step = angles[int(np.argmax(found))], math.pi / 128
    refined = optimize.minimize_scalar(
        lambda angle: -biases(np.array([angle]))[0], bounds=(best - step, best + step)
    )
    return min(1.0, max(float(found.max()), float(-refined.fun)))


def conditional_f(reduced: Reduced) -> Floats:
    """Strength for each exposure once the others are accounted for, shape (P,); P >= 2.

    Notes
    -----
    With v the residual of the 2SLS regression of exposure j on the others,
    ``(v'Pv / (L - P + 1)) / (v'Mv / (N - controls - L))``: Sanderson and Windmeijer (2016),
    *Journal of Econometrics* 190.
    """
    p = reduced.num_exposures
    num = reduced.num_instruments - p + 1
    explained = reduced.zx.T @ reduced.zx
    found = np.empty(p)
    for j in range(p):
        rest = np.delete(np.arange(p), j)
        weights = np.zeros(p)
        weights[j] = 1
        weights[rest] = -linalg.lstsq(reduced.zx[:, rest], reduced.zx[:, j])[0]
        on = weights @ explained @ weights
        found[j] = on / num / ((weights @ reduced.xx @ weights - on) / reduced.dof)
    return found


def cragg_donald_f(reduced: Reduced) -> float:
    """Smallest eigenvalue of ``(X'MX)^-1 X'PX`` times ``(N - controls - L) / L``.

    The F whose critical values Stock and Yogo (2005) give, for homoskedastic errors; the
    classical F with one exposure. Cragg and Donald (1993).
    """
    share = _canonical(reduced)[1][-1] ** 2
    return float(share / (1 - share) * reduced.dof / reduced.num_instruments)


def kleibergen_paap_f(reduced: Reduced, covariance: Floats) -> float:
    """The rank statistic of the first stage for heteroskedastic or clustered errors, over L.

    Notes
    -----
    The Wald statistic of the smallest singular value of ``Z'X R^-1``, ``R'R = X'X``, over L, with
    W as covariance; the robust F with one exposure. Kleibergen and Paap (2006), *Journal of
    Econometrics* 133; scaled as in Stata's ``ivreg2``.
    """
    left, _, right = _canonical(reduced)
    left, right = left[:, reduced.num_exposures - 1 :], right[:, -1]
    variance = np.einsum("p,q,pqij->ij", right, right, covariance)
    theta = left.T @ reduced.zx @ right
    wald = theta @ linalg.solve(left.T @ variance @ left, theta, assume_a="pos")
    return float(wald / reduced.num_instruments)


def _canonical(reduced: Reduced) -> tuple[Floats, Floats, Floats]:
    """U, S and ``R^-1 V`` of ``Z'X R^-1 = U S V'``: S are canonical correlations of Z and X."""
    root = linalg.cholesky(reduced.xx)
    inverse = linalg.solve_triangular(root, np.eye(len(root)))
    u, s, vt = linalg.svd(reduced.zx @ inverse)
    return u, s, inverse @ vt.T


def _wald_f(reduced: Reduced, covariance: Floats) -> Floats:
    statistics = [
        x @ linalg.solve(covariance[j, j], x, assume_a="pos") for j, x in enumerate(reduced.zx.T)
    ]
    return np.array(statistics) / reduced.num_instruments


def _inverse_diagonal(matrix: Floats) -> Floats:
    return np.diag(scaled_inverse(matrix))
