"""Instruments for a binary outcome: a logistic second stage, fitted by Newton's method.

The first stage is linear and comes from moments. Each Newton step is one pass over the people:
block -> :class:`LogisticSums` -> ``combine`` -> :func:`maximise`. Errors account for the first
stage by stacking the estimating equations of both, in one last pass.

Legend: N people, C design columns, L instruments, P exposures, R covariates, D second-stage
parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special

from mrscale.stats.linalg import RANK_TOLERANCE
from mrscale.stats.logistic import LogisticSums, maximise
from mrscale.stats.moments import Floats
from mrscale.stats.reduced import Basis, Reduced

SecondStageName = Literal["2sri", "logistic"]


@dataclass(frozen=True, eq=False)
class SecondStage:
    """The regressors of a logistic second stage, as a linear map of design rows [Z | W | X | y].

    Attributes
    ----------
    method : {"2sri", "logistic"}
        Two-stage residual inclusion: exposures, their first-stage residuals, covariates.
        ``"logistic"``, two-stage predictor substitution: predicted exposures, covariates.
    basis : Basis
        With the intercept.
    regressors : ndarray, shape (C, D - 1)
        From ``row - origin`` to [X | V | W] or [X-hat | W]; the constant comes last.
    residuals : ndarray, shape (C, P)
        From ``row - origin`` to first-stage residuals.
    """

    method: SecondStageName
    basis: Basis
    regressors: Floats
    residuals: Floats

    @classmethod
    def from_first_stage(
        cls, reduced: Reduced, basis: Basis, method: SecondStageName
    ) -> SecondStage:
        """From the canonical form of the design, whose outcome column is not used."""
        predicted = basis.instruments @ reduced.zx
        exposures = basis.traits[:, :-1]
        left = np.diag(reduced.xx) - np.sum(reduced.zx**2, axis=0)
        # what the first stage leaves of an exposure that it explains is rounding, not a residual
        residuals = (exposures - predicted) * (left > RANK_TOLERANCE * np.diag(reduced.xx))
        first = [exposures, residuals] if method == "2sri" else [predicted]
        regressors = np.column_stack([*first, basis.covariates])
        return cls(method, basis, regressors, residuals)

    @property
    def num_exposures(self) -> int:
        """P."""
        return self.basis.columns.num_exposures

    @property
    def num_parameters(self) -> int:
        """D."""
        return int(self.regressors.shape[1]) + 1

    @property
    def generated(self) -> tuple[slice, int]:
        """Parameters of the regressors that the first stage makes, and the sign with which they
        change when it predicts more."""
        p = self.num_exposures
        return (slice(p, 2 * p), -1) if self.method == "2sri" else (slice(0, p), 1)

    def parts(self, rows: Floats, theta: Floats) -> tuple[Floats, Floats, Floats]:
        """Centred rows (N, C), regressors (N, D) and linear predictor (N,)."""
        centred = rows - self.basis.origin
        d = np.column_stack([centred @ self.regressors, np.ones(len(rows))])
        return centred, d, d @ theta

    def sums(self, rows: Floats, theta: Floats, weights: Floats | None = None) -> LogisticSums:
        """One block's part of a Newton step.

        Parameters
        ----------
        rows : ndarray, shape (N, C)
            Design rows; the last column is the outcome, 0 or 1.
        theta : ndarray, shape (D,)
        weights : ndarray, shape (N,), optional
            The same as in the moments of the first stage.
        """
        w = np.ones(len(rows)) if weights is None else weights
        centred, d, _ = self.parts(rows, theta)
        return LogisticSums.from_block(d, rows[:, -1], theta, centred, w)


@dataclass(frozen=True, eq=False)
class LogisticIV:
    """Log odds ratios from a two-stage fit.

    Attributes
    ----------
    estimate : ndarray, shape (P,)
        Log odds ratio per unit of each exposure; NaN where there is a reason.
    control : ndarray, shape (P,) or (0,)
        2SRI: coefficients of the first-stage residuals, zero for an exogenous exposure.
    stage : SecondStage
    theta : ndarray, shape (D,)
    own, through_first_stage : ndarray of shape (J, D), ndarray of shape (P, J, C)
        Maps of people's scores to their influence on ``[estimate | control]``, J of them.
    num_passes : int
    reason : str
    """

    estimate: Floats
    control: Floats
    stage: SecondStage
    theta: Floats
    own: Floats
    through_first_stage: Floats
    num_passes: int
    reason: str

    def influence(self, rows: Floats, weights: Floats | None = None) -> Floats:
        """Influence of each person on ``[estimate | control]``, shape (N, J).

        The sum of their products (summed by cluster first, for clustered errors) is the
        covariance; the block for the control function tests whether the exposures are exogenous.
        """
        centred, d, eta = self.stage.parts(rows, self.theta)
        score = d * (rows[:, -1] - special.expit(eta))[:, None]
        v = centred @ self.stage.residuals
        first = np.einsum("nc,pjc,np->nj", centred, self.through_first_stage, v, optimize=True)
        found = score @ self.own.T + first
        return np.asarray(found if weights is None else found * weights[:, None])


def two_stage_logistic(
    stage: SecondStage, evaluate: Callable[[Floats], LogisticSums]
) -> LogisticIV:
    """Fit a logistic second stage.

    Parameters
    ----------
    stage : SecondStage
    evaluate : callable
        One pass over all people: from parameters (D,) to the combined ``stage.sums``.

    Returns
    -------
    LogisticIV
        With NaN and a reason if the likelihood has no maximum; never NaN without one.

    Notes
    -----
    Stacked estimating equations: with s = +1 for a predicted exposure g and -1 for a residual,
    ``theta-hat - theta = H^-1 sum_i [d_i r_i + sum_p C_p z_i v_ip]``,
    ``C_p = s (e_g sum_i r_i z_i' - theta_g sum_i mu_i (1 - mu_i) d_i z_i')``,
    for canonical instruments z, first-stage residuals v, ``r = y - mu`` and H the information.
    Newey and McFadden (1994), *Handbook of Econometrics* 4, section 6; Terza, Basu and Rathouz
    (2008), *Journal of Health Economics* 27, for 2SRI.

    Warnings
    --------
    Odds ratios are not collapsible. Predictor substitution gives a log odds ratio averaged over
    (so closer to zero than given) what else moves the outcome; residual inclusion conditions on
    the part of it that is in the residuals, and is consistent only if that is all there is to
    confounding. Neither is the linear model's difference in risk.
    """
    fit = maximise(evaluate, stage.num_parameters)
    p, (generated, sign) = stage.num_exposures, stage.generated
    reported = generated.stop
    nothing = np.full((reported, stage.num_parameters), np.nan)
    theta = nothing[0] if fit.reason else fit.theta
    inverse = nothing if fit.reason else fit.sums.inverse_information[:reported]
    onto = stage.basis.instruments @ stage.basis.instruments.T
    residuals, curvature = fit.sums.row_residuals, inverse @ fit.sums.row_information
    through = [
        sign * (np.outer(inverse[:, g], residuals) - theta[g] * curvature) @ onto
        for g in range(generated.start, generated.stop)
    ]
    return LogisticIV(
        estimate=theta[:p],
        control=theta[p:reported],
        stage=stage,
        theta=theta,
        own=inverse,
        through_first_stage=np.array(through),
        num_passes=fit.num_passes,
        reason=fit.reason,
    )


def case_control_weights(
    outcome: NDArray[np.float64], prevalence: float, case_share: float
) -> Floats:
    """Weights that make a case-control sample look like its population, shape (N,).

    Parameters
    ----------
    outcome : ndarray, shape (N,)
        0 or 1.
    prevalence : float
        Of cases in the population, in (0, 1).
    case_share : float
        Of cases in the whole sample, in (0, 1).

    Notes
    -----
    ``prevalence / case_share`` for cases and ``(1 - prevalence) / (1 - case_share)`` for the
    others (Manski and Lerman, 1977, *Econometrica* 45). They are for both stages: where cases are
    over-represented, even the first stage among everybody is not the population's. The sandwich
    error with these weights is a little too large: it takes the number of cases as random.
    """
    cases, others = prevalence / case_share, (1 - prevalence) / (1 - case_share)
    return np.where(outcome > 0, cases, others)


def case_control_note(prevalence: float | None) -> str:
    """What to say of a binary outcome whose cases may have been sampled on purpose."""
    if prevalence is None:
        return (
            "Cases and controls are taken as a random sample of the population. If cases were "
            "sampled on purpose, the first stage and risk differences are those of the sample; "
            "give the population's prevalence to weight them back."
        )
    return f"People are weighted to a population prevalence of {prevalence:.3g}."
