"""MR-RAPS: the robust adjusted profile score, with overdispersion.

Legend: M variants.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from scipy import integrate, optimize, stats

from mrscale.stats.moments import Floats
from mrscale.stats.summary.associations import (
    Associations,
    SummaryEstimate,
    not_applicable,
    wald,
)
from mrscale.stats.summary.profile import distances, polish, starts

Loss = Literal["l2", "huber", "tukey"]
Score = Callable[[Floats], Floats]


def _huber(t: Floats) -> Floats:
    return np.clip(t, -1.345, 1.345)


def _tukey(t: Floats) -> Floats:
    return np.asarray(t * np.maximum(1 - (t / 4.685) ** 2, 0.0) ** 2)


SCORES: dict[Loss, Score] = {"l2": lambda t: t, "huber": _huber, "tukey": _tukey}
"""Derivatives of the losses; the constants give 95 % efficiency under normal errors."""


@dataclass(frozen=True)
class Constants:
    """Expectations over T ~ N(0, 1) of a score function psi.

    Attributes
    ----------
    delta : float
        E[T psi(T)], which is E[psi'(T)] as well.
    c1, c2, c3 : float
        E[psi^2], Var(T psi) and E[T^2 psi'] = E[T^3 psi] - 2 delta (Stein's identity).
    """

    delta: float
    c1: float
    c2: float
    c3: float

    @classmethod
    @cache
    def of(cls, loss: Loss) -> Constants:
        """By numerical integration, broken where the losses have corners."""
        score = SCORES[loss]

        def mean(power: int, of: int) -> float:
            def integrand(t: float) -> float:
                return float(t**power * score(np.asarray(t)) ** of * stats.norm.pdf(t))

            return 2 * float(integrate.quad(integrand, 0, 12, points=(1.345, 4.685))[0])

        delta = mean(1, 1)
        return cls(delta, mean(0, 2), mean(2, 2) - delta**2, mean(3, 1) - 2 * delta)


def raps(a: Associations, level: float, *, loss: Loss = "huber") -> SummaryEstimate:
    """Effect with many weak instruments and pleiotropy ``N(0, tau^2)`` with a few outliers.

    Parameters
    ----------
    a : Associations
        Independent variants.
    level : float
        Coverage of the interval.
    loss : {"huber", "tukey", "l2"}
        TwoSampleMR takes "huber" with overdispersion, as here.

    Notes
    -----
    With ``s^2 = sy^2 + tau^2 + b^2 sx^2``, ``t = (by - b bx) / s`` and ``u = -dt/db``, solves
    ``sum psi(t) u = 0`` and ``sum sx^2 (t psi(t) - delta) / s^2 = 0`` (tau^2 = 0 where that is
    negative there). Since u is independent of t, the sandwich of the two scores has
    ``A = [[-delta V, -delta sum b sx^2 / s^4], [0, -(delta + c3) / 2 sum sx^2 / s^4]]`` and
    ``B = diag(c1 (V + sum sx^2 (sy^2 + tau^2) / s^4), c2 sum sx^4 / s^4)``,
    ``V = sum gamma^2 / s^2`` with the debiased ``gamma^2``.

    References
    ----------
    Zhao, Wang, Hemani, Bowden and Small (2020), *Annals of Statistics* 48.
    """
    candidates = starts(a)
    best = candidates[np.argmin(np.minimum(distances(candidates, a), 2.0).sum(-1))]
    beta, tau2 = float(polish(np.asarray(best), a)[0]), 0.0
    for name in ("huber", loss) if loss == "tukey" else (loss,):  # Tukey's has many roots
        score, constants = SCORES[name], Constants.of(name)
        solved = _solve(a, score, constants, beta, tau2)
        if solved is None:
            return not_applicable(
                "the score equations have no solution near the data", a.num_variants
            )
        beta, tau2 = solved
    variance = _variance(a, constants, beta, tau2)
    if not variance > 0:
        return not_applicable("the exposure associations are all noise", a.num_variants)
    note = f"overdispersion tau = {math.sqrt(tau2):.4g}"
    return wald(beta, math.sqrt(variance), a.num_variants, level=level, note=note)


def scores(
    a: Associations, score: Score, delta: float, beta: float, tau2: float
) -> tuple[float, float]:
    """The two estimating functions, for the effect and for the overdispersion."""
    v = a.sy**2 + tau2
    s2 = v + beta**2 * a.sx**2
    t = (a.by - beta * a.bx) / np.sqrt(s2)
    u = (a.bx * v + a.by * beta * a.sx**2) / s2**1.5
    return float(score(t) @ u), float((a.sx**2 / s2) @ (t * score(t) - delta))


def _solve(
    a: Associations, score: Score, constants: Constants, beta: float, tau2: float
) -> tuple[float, float] | None:
    """Alternate between the two equations until neither moves."""
    for _ in range(1000):
        before = beta, tau2
        tau2 = _overdispersion(a, score, constants.delta, beta)
        root = _effect(a, score, beta, tau2)
        if root is None:
            return None
        beta = root
        still = abs(beta - before[0]) <= 1e-11 * _unit(a, beta, tau2)
        if still and math.isclose(tau2, before[1], rel_tol=1e-11):
            return beta, tau2
    return None


def _unit(a: Associations, beta: float, tau2: float) -> float:
    """About the standard error of the effect: the scale for steps and tolerances."""
    return 1 / math.sqrt(float(np.sum(a.bx**2 / (a.sy**2 + tau2 + beta**2 * a.sx**2))))


def _overdispersion(a: Associations, score: Score, delta: float, beta: float) -> float:
    def equation(tau2: float) -> float:
        return scores(a, score, delta, beta, tau2)[1]

    if equation(0.0) <= 0:
        return 0.0
    high = float(np.mean((a.by - beta * a.bx) ** 2 + a.sy**2))
    while equation(high) > 0:
        high *= 4
    return float(optimize.brentq(equation, 0.0, high, xtol=1e-16 * high, rtol=1e-14))


def _effect(a: Associations, score: Score, beta: float, tau2: float) -> float | None:
    """The root in the effect nearest to a start, by a widening bracket; None without one."""

    def equation(b: float) -> float:
        return scores(a, score, 0.0, b, tau2)[0]

    unit = _unit(a, beta, tau2)
    for width in unit * 2.0 ** np.arange(-2, 12):
        low, high = beta - width, beta + width
        if equation(low) >= 0 >= equation(high):
            return float(optimize.brentq(equation, low, high, xtol=1e-14 * unit, rtol=1e-14))
    return None


def _variance(a: Associations, c: Constants, beta: float, tau2: float) -> float:
    """Sandwich variance of the effect."""
    v, sx2 = a.sy**2 + tau2, a.sx**2
    s4 = (v + beta**2 * sx2) ** 2
    signal = float(np.sum(((a.bx**2 - sx2) * v + (a.by**2 - v) * sx2) / s4))
    a11, a12 = -c.delta * signal, -c.delta * beta * float(np.sum(sx2 / s4))
    a22 = -(c.delta + c.c3) / 2 * float(np.sum(sx2 / s4))
    b11, b22 = c.c1 * (signal + float(np.sum(sx2 * v / s4))), c.c2 * float(np.sum(sx2**2 / s4))
    if signal <= 0:
        return math.nan
    return (b11 + (a12 / a22) ** 2 * b22) / a11**2
