"""How strong a violation of the instruments' assumptions would explain an estimate away.

Robustness values ask it of any omitted variable; leakage asks it of the confounded part of the
genotypes, which a learned instrument is meant to leave out.

Legend: N people, L instruments, one exposure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from mrscale.stats.reduced import Reduced
from mrscale.stats.weak import on_and_off

_ROUNDING = 1e-13
"""Explained share of a difference's terms that is rounding."""


@dataclass(frozen=True)
class Robustness:
    """Shares of residual variance (given covariates) in [0, 1]; larger is more robust.

    Attributes
    ----------
    estimate : float
        What an omitted variable must explain of both instrument and outcome for the estimate to
        be the null.
    interval : float
        The same for the confidence set to include the null; 0 if it does already.
    extreme : float
        What it must explain of the instrument for the set to include the null, if it explains all
        that is left of the outcome.
    """

    estimate: float
    interval: float
    extreme: float


def iv_robustness(reduced: Reduced, null: float = 0.0, level: float = 0.95) -> Robustness:
    """Robustness values of an instrumental-variable estimate.

    Parameters
    ----------
    reduced : Reduced
        One exposure. Several instruments are judged by their joint Anderson-Rubin test; for the
        2SLS estimate itself pass ``fitted_instrument(reduced)``.
    null : float, default 0
        The effect that would change the conclusion.
    level : float, default 0.95
        Of the confidence set.

    Notes
    -----
    Cinelli and Hazlett (2025), An omitted variable bias framework for sensitivity analysis of
    instrumental variables, *Biometrika*: the robustness value of the regression of ``y - null x``
    (the outcome of the attributes above) on the instruments, or that of the first stage if it is
    smaller, because a first stage that may vanish leaves the effect unbounded.

    Warnings
    --------
    Errors are homoskedastic.
    """
    on, off = on_and_off(reduced)
    total = np.abs(reduced.total)

    def f(weights: tuple[float, float]) -> float:
        explained, residual = (float(np.array(weights) @ m @ weights) for m in (on, off))
        if explained <= _ROUNDING * float(np.abs(weights) @ total @ np.abs(weights)):
            return 0.0
        if residual <= 0:
            return math.inf
        return explained / residual * reduced.dof / reduced.num_instruments

    # robustness values increase with F
    weakest, dof, num = min(f((-null, 1.0)), f((1.0, 0.0))), reduced.dof, reduced.num_instruments
    return Robustness(
        estimate=robustness_value(weakest, dof, num),
        interval=robustness_value(weakest, dof, num, level),
        extreme=extreme_robustness_value(weakest, dof, num, level),
    )


def fitted_instrument(reduced: Reduced) -> Reduced:
    """The same problem with 2SLS's one instrument, the exposure that the first stage fits.

    Its estimate is that of the many. The first-stage coefficients count as known.
    """
    x = reduced.zx[:, 0]
    strength = math.sqrt(float(x @ x))
    return replace(
        reduced, zx=np.array([[strength]]), zy=np.array([float(x @ reduced.zy) / strength])
    )


def robustness_value(f: float, dof: float, num_instruments: int = 1, level: float = 0.0) -> float:
    """Share of both instrument and outcome that an omitted variable must explain.

    Parameters
    ----------
    f : float
        F statistic of the instruments in the regression of the outcome; the squared t statistic
        of one.
    dof : float
        Residual degrees of freedom of that regression.
    num_instruments : int, default 1
    level : float, default 0
        To make the statistic insignificant at 1 - level; with 0, to make the coefficients zero.

    Returns
    -------
    float
        r: some variable with partial R2 of r with the instruments, and with the outcome given
        them, would do; none with less in both would.

    Notes
    -----
    With ``h = sqrt(L F / dof)`` and ``h* = sqrt(L F* / (dof - 1))`` for the critical value F* of
    F(L, dof - 1) (the omitted variable costs a degree of freedom), and ``k = h - h*``:

        0 if k <= 0;  otherwise  (sqrt(k^4 + 4 k^2) - k^2) / 2,  or the extreme value if h h* > 1.

    Cinelli and Hazlett (2020), *Journal of the Royal Statistical Society B* 82, and (2025) for one
    instrument. It carries over to several with L F for the squared t: the most harmful variable
    lies, within the span of the instruments, in the direction of the fitted outcome, so that the
    other directions stay without effect.
    """
    h, critical = _effect_sizes(f, dof, num_instruments, level)
    if h <= critical:
        return 0.0
    if h * critical > 1:
        return extreme_robustness_value(f, dof, num_instruments, level)
    # the formula above without its cancellation
    return 2 / (1 + math.sqrt(1 + 4 / (h - critical) ** 2))


def extreme_robustness_value(
    f: float, dof: float, num_instruments: int = 1, level: float = 0.0
) -> float:
    """Share of the instrument alone, if all that is left of the outcome is explained.

    Parameters are those of :func:`robustness_value`.

    Notes
    -----
    ``max(0, (h^2 - h*^2) / (1 + h^2))`` in the same notation and from the same sources.
    """
    h, critical = _effect_sizes(f, dof, num_instruments, level)
    if h <= critical:
        return 0.0
    return 1.0 if math.isinf(h) else (h**2 - critical**2) / (1 + h**2)


def _effect_sizes(f: float, dof: float, num: int, level: float) -> tuple[float, float]:
    """h and h*; the latter is zero where significance is not asked for."""
    h = math.sqrt(num * f / dof)
    if not level:  # isf(1) is 0 but for rounding
        return h, 0.0
    if dof <= 1:  # nothing is significant once the omitted variable has taken the last one
        return h, math.inf
    return h, math.sqrt(num * float(stats.f.isf(1 - level, num, dof - 1)) / (dof - 1))


def leakage_to_explain(estimate: float, naive: float, strength: float, null: float = 0.0) -> float:
    """R2 of the confounded part in the learned instrument, if the true effect were the null.

    Parameters
    ----------
    estimate, naive : float
        2SLS with the learned instrument and with all genotypes, with the same controls.
    strength : float
        Partial R2 of the learned instrument in the first stage over that of all genotypes.
    null : float, default 0

    Returns
    -------
    float
        In [0, 1]. NaN if ``strength`` is not below 1 or the naive estimate is the null: the two
        instruments then do not tell a confounded part apart.

    Notes
    -----
    Let g0 and c be the exogenous and the confounded part, uncorrelated and of unit variance. The
    naive instrument (the exposure that all genotypes fit) is ``sqrt(1 - s) g0 + sqrt(s) c``, the
    learned one ``sqrt(1 - rho) g0 + sqrt(rho) c``; the outcome net of the null varies with c
    alone. The bias of either is the covariance of this outcome with the instrument over that of
    the exposure, hence

        r = (estimate - null) / (naive - null)
          = sqrt(rho / s) / (sqrt((1 - rho)(1 - s)) + sqrt(rho s)),

    which grows with the root of rho: with half of the naive instrument confounded, 1 % of leakage
    is 18 % of the naive bias. If c leaks with the sign opposite to its sign in the naive
    instrument, the last term is subtracted and the bias changes sign. The share s follows from q,
    the strength, for the instruments are at an angle of cosine ``sqrt(q)``, and

        rho = r^2 q (1 - q) / (1 - 2 r q + r^2 q).

    The learned instrument is taken to be a function of the genotypes that the naive one does not
    beat.
    """
    if not 0 < strength < 1 or naive == null:
        return math.nan
    r, q = (estimate - null) / (naive - null), strength
    return r**2 * q * (1 - q) / (1 - 2 * r * q + r**2 * q)
