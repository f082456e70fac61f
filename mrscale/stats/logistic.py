"""Logistic regression by Newton's method, one pass over the people per step.

Legend: N people, C columns, D parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import linalg, special

from mrscale.stats.linalg import RANK_TOLERANCE, standardised, whitening
from mrscale.stats.moments import Floats

MAX_PASSES = 30
CONVERGED = 1e-18
"""Squared length of a Newton step in standard errors at which the fit is done."""
SEPARATED = 1e-6
"""Share of the information without regressors below which a direction has run off to infinity."""


@dataclass(frozen=True, eq=False)
class LogisticSums:
    """Sums over people at one parameter vector; a monoid under ``combine``.

    Attributes
    ----------
    weight, cases : float
        Weight of all people, and of those with outcome 1.
    log_likelihood : float
    margin : float
        Smallest ``+-eta`` on the side of the person's own outcome: positive if the outcome is
        predicted without error.
    gradient : ndarray, shape (D,)
    information : ndarray, shape (D, D)
    row_residuals : ndarray, shape (C,)
        ``sum (y - mu) row`` for any other columns of the people's rows.
    row_information : ndarray, shape (D, C)
        ``sum mu (1 - mu) d row'``, d the regressors.
    """

    weight: float
    cases: float
    log_likelihood: float
    margin: float
    gradient: Floats
    information: Floats
    row_residuals: Floats
    row_information: Floats

    @classmethod
    def from_block(
        cls, regressors: Floats, outcome: Floats, theta: Floats, rows: Floats, weights: Floats
    ) -> LogisticSums:
        """Sums of a block: regressors (N, D), outcome (N,) 0 or 1, rows (N, C), weights (N,)."""
        eta = regressors @ theta
        own = np.where(outcome > 0, eta, -eta)
        residual = weights * (outcome - special.expit(eta))
        weighted = (weights * special.expit(eta) * special.expit(-eta))[:, None] * regressors
        return cls(
            weight=float(weights.sum()),
            cases=float(weights @ outcome),
            log_likelihood=float(weights @ special.log_expit(own)),
            margin=float(own.min(initial=math.inf)),
            gradient=residual @ regressors,
            information=weighted.T @ regressors,
            row_residuals=residual @ rows,
            row_information=weighted.T @ rows,
        )

    def combine(self, other: LogisticSums) -> LogisticSums:
        """Sums over the people of both."""
        return LogisticSums(
            self.weight + other.weight,
            self.cases + other.cases,
            self.log_likelihood + other.log_likelihood,
            min(self.margin, other.margin),
            self.gradient + other.gradient,
            self.information + other.information,
            self.row_residuals + other.row_residuals,
            self.row_information + other.row_information,
        )

    @property
    def inverse_information(self) -> Floats:
        """Shape (D, D), whatever the units of the regressors."""
        root, _ = whitening(self.information, 0.0)
        return np.asarray(root @ root.T)


@dataclass(frozen=True, eq=False)
class Maximum:
    """Where Newton's method ended.

    Attributes
    ----------
    theta : ndarray, shape (D,)
    sums : LogisticSums
        At ``theta``.
    num_passes : int
    reason : str
        Why there is no estimate; empty if there is one.
    """

    theta: Floats
    sums: LogisticSums
    num_passes: int
    reason: str = ""


def maximise(evaluate: Callable[[Floats], LogisticSums], num_parameters: int) -> Maximum:
    """Newton's method with step halving, from zero.

    Parameters
    ----------
    evaluate : callable
        One pass over all people: from parameters (D,) to their combined sums.
    num_parameters : int

    Returns
    -------
    Maximum
    """
    theta = np.zeros(num_parameters)
    start = best = evaluate(theta)
    step = np.zeros(num_parameters)
    for num_passes in range(1, MAX_PASSES + 1):
        found = evaluate(theta + step) if num_passes > 1 else start
        if found.log_likelihood < best.log_likelihood * (1 + 1e-9):
            step = step / 2
            continue
        theta, best = theta + step, found
        reason = _no_maximum(best, start)
        if reason:
            return Maximum(theta, best, num_passes, reason)
        step = best.inverse_information @ best.gradient
        if best.gradient @ step < CONVERGED:
            return Maximum(theta, best, num_passes)
    reason = f"the logistic regression did not converge in {MAX_PASSES} passes"
    return Maximum(theta, best, MAX_PASSES, reason)


def _no_maximum(sums: LogisticSums, start: LogisticSums) -> str:
    """Why the likelihood has no finite maximum, or an empty string."""
    if not 0 < sums.cases < sums.weight:
        return "a logistic regression needs people with outcome 1 and with outcome 0"
    share = sums.cases / sums.weight
    null, scale = standardised(start.information * 4 * share * (1 - share))
    if not linalg.eigvalsh(null)[0] > RANK_TOLERANCE:
        return (
            "the regressors are linear combinations of each other: the instruments explain some "
            "combination of the exposures entirely, or not at all"
        )
    left = sums.information * np.outer(scale, scale)
    if sums.margin > 0 or not linalg.eigh(left, null, eigvals_only=True)[0] > SEPARATED:
        return (
            "some combination of exposures and covariates predicts the outcome without error "
            "(separation), so that no finite odds ratio fits; use fewer covariates or the linear "
            "probability model"
        )
    return ""
