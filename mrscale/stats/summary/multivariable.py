"""Multivariable Mendelian randomization: direct effects of several exposures.

Legend: M variants, P exposures.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from scipy import linalg

from mrscale.stats.moments import Floats
from mrscale.stats.summary.associations import (
    Associations,
    SummaryEstimate,
    not_applicable,
    wald,
    with_heterogeneity,
)
from mrscale.stats.summary.regression import WeightedFit, weighted_fit


def mvmr_ivw(
    a: Associations, level: float, *, random: bool = True, student: bool = False
) -> list[SummaryEstimate]:
    """Multivariable IVW: one row per exposure.

    Notes
    -----
    ``by`` is regressed on all exposure associations without intercept, weights ``1 / sy^2``;
    errors are multiplied by ``max(1, sqrt(Q / (M - P)))``; ``student`` refers to t(M - P).
    Burgess and Thompson (2015), *American Journal of Epidemiology* 181.
    """
    fit = weighted_fit(a.bx, a)
    if fit is None:
        return _collinear(a)
    return _rows(a, fit, level, random=random, student=student)


def mvmr_egger(a: Associations, level: float, *, student: bool = False) -> list[SummaryEstimate]:
    """Multivariable MR-Egger: the same with an intercept.

    Notes
    -----
    Alleles are oriented to a positive association with the first exposure, and the result depends
    on which that is. Rees, Wood and Burgess (2017), *Statistics in Medicine* 36.
    """
    a = a.oriented()
    fit = weighted_fit(np.column_stack([a.bx, np.ones(a.num_variants)]), a)
    if fit is None:
        return _collinear(a)
    dof = fit.dof if student else math.inf
    error = float(fit.std_errors(random=True)[-1])
    test = wald(float(fit.coef[-1]), error, a.num_variants, level=level, dof=dof)
    return [
        replace(
            row,
            intercept=test.estimate,
            intercept_std_error=test.std_error,
            intercept_pvalue=test.pvalue,
        )
        for row in _rows(a, fit, level, random=True, student=student)
    ]


def _rows(
    a: Associations, fit: WeightedFit, level: float, *, random: bool, student: bool
) -> list[SummaryEstimate]:
    dof = fit.dof if student else math.inf
    errors = fit.std_errors(random=random)
    num_exposures = a.bx.shape[1]
    independent = a.correlation is None
    strengths = conditional_f(a) if independent else np.full(num_exposures, math.nan)
    rows = [
        wald(float(fit.coef[p]), float(errors[p]), a.num_variants, level=level, dof=dof)
        for p in range(num_exposures)
    ]
    return [
        replace(with_heterogeneity(row, fit.q, fit.dof), f_statistic=float(f))
        for row, f in zip(rows, strengths, strict=True)
    ]


def _collinear(a: Associations) -> list[SummaryEstimate]:
    reason = "the associations with the exposures are collinear"
    return [not_applicable(reason, a.num_variants)] * a.bx.shape[1]


def conditional_f(a: Associations) -> Floats:
    """Strength of the variants for each exposure given the others, shape (P,).

    Notes
    -----
    With delta the unweighted regression of ``bx_k`` on the other exposures,
    ``F_k = sum (bx_k - bx_o delta)^2 / (sx_k^2 + sx_o^2 delta^2) / (M - P + 1)``: the two-sample
    form of Sanderson and Windmeijer's F for exposures measured in different people (estimation
    errors uncorrelated). Sanderson, Spiller and Bowden (2021), *Statistics in Medicine* 40.
    """
    num_exposures = a.bx.shape[1]
    strengths = np.empty(num_exposures)
    for k in range(num_exposures):
        others = [p for p in range(num_exposures) if p != k]
        delta = linalg.lstsq(a.bx[:, others], a.bx[:, k])[0]
        variance = a.sx[:, k] ** 2 + a.sx[:, others] ** 2 @ delta**2
        residual = a.bx[:, k] - a.bx[:, others] @ delta
        strengths[k] = np.sum(residual**2 / variance) / (a.num_variants - num_exposures + 1)
    return strengths
