"""``mrscale.logistic_iv``: log odds ratios for a 0/1 outcome, by two stages.

Passes over the rows: moments (once more with case-control weights), one for each Newton step of
the logistic second stage (about six), and one for errors and the strength of the instruments.

Legend: N people, P exposures, K covariates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from mrscale.errors import InputError
from mrscale.results.logistic import LogisticIVResult
from mrscale.stats.binary import (
    LogisticIV,
    SecondStage,
    SecondStageName,
    case_control_note,
    case_control_weights,
    two_stage_logistic,
)
from mrscale.stats.identification import listed
from mrscale.stats.linalg import condition_number, whitening
from mrscale.stats.logistic import LogisticSums
from mrscale.stats.moments import Floats, Moments
from mrscale.stats.reduced import reduce_design
from mrscale.stats.scores import canonical_rows, iv_scores, meats
from mrscale.stats.specification import TestResult
from mrscale.workflow.columns import require_choice, require_unique_names
from mrscale.workflow.iv import (
    design_notes,
    first_stage_table,
    require_clusters,
    require_finite_fit,
)
from mrscale.workflow.iv_data import Data
from mrscale.workflow.iv_fits import Fit, Problem

LogisticErrors = Literal["robust", "cluster"]


def logistic_iv(
    outcome: Any,
    exposure: Any,
    instruments: Any,
    covariates: Any = None,
    *,
    method: SecondStageName = "2sri",
    errors: LogisticErrors = "robust",
    clusters: Any = None,
    prevalence: float | None = None,
) -> LogisticIVResult:
    """Estimate the effect of exposures on a binary outcome as a log odds ratio.

    The first stage is linear, the second a logistic regression. For the difference in risk use
    :func:`mrscale.iv`, which takes a 0/1 outcome as a linear probability model.

    Parameters
    ----------
    outcome : array-like, shape (N,)
        0 and 1, or False and True: numpy, dask, xarray or pandas.
    exposure : array-like, shape (N,) or (N, P)
        Several columns: multivariable MR.
    instruments : array-like, shape (N,) or (N, M)
        Excluded instruments, such as dosages. Collinear ones are used up to their rank.
    covariates : array-like, shape (N,) or (N, K), optional
        Of both stages.
    method : {"2sri", "logistic"}, default "2sri"
        Two-stage residual inclusion (exposures and their first-stage residuals in the second
        stage), or ``"logistic"``: two-stage predictor substitution (predicted exposures).
    errors : {"robust", "cluster"}, default "robust"
        Both from the stacked estimating equations of the two stages, so that they account for the
        first.
    clusters : array-like, shape (N,), optional
        Cluster of each person, for ``errors="cluster"``: families, or sites.
    prevalence : float, optional
        Share of cases in the population, where cases were sampled on purpose: people are then
        weighted back to it in both stages.

    Returns
    -------
    LogisticIVResult
        ``params``, ``std_errors``, ``cov``, ``pvalues``, ``conf_int()``, ``odds_ratios()``,
        ``exogeneity``, ``first_stage``, ``notes``, ``summary()``.

    Raises
    ------
    InputError
        If the outcome is not 0 and 1, if the likelihood has no maximum (some combination of
        columns predicts the outcome without error), and where :func:`mrscale.iv` raises it.

    Warnings
    --------
    Odds ratios are not collapsible; see :func:`mrscale.stats.binary.two_stage_logistic` for what
    each method estimates and when it is consistent. There is no confidence set here that holds
    for weak instruments: read ``mrscale.iv(...).anderson_rubin()``, whose test of no effect is
    right for a binary outcome too.

    Examples
    --------
    >>> import numpy as np, mrscale as mr
    >>> rng = np.random.default_rng(0)
    >>> z, u = rng.binomial(2, 0.3, (20_000, 3)), rng.normal(size=20_000)
    >>> x = z @ [0.5, 0.4, 0.6] + u
    >>> case = rng.logistic(size=20_000) < 0.4 * x - 0.8 * u - 1
    >>> mr.logistic_iv(case, x, z).params["exposure"].round(1)
    np.float64(0.4)
    """
    require_choice("method", method, get_args(SecondStageName))
    require_choice("errors", errors, get_args(LogisticErrors))
    require_clusters(errors, clusters)
    data = Data.of(
        outcome, exposure, instruments, covariates, clusters=clusters, weights=None, intercept=True
    )
    return fit_logistic(data, data.moments(), method, errors, prevalence)


def fit_logistic(
    data: Data,
    moments: Moments,
    method: SecondStageName,
    errors: LogisticErrors,
    prevalence: float | None,
) -> LogisticIVResult:
    """Fit :func:`logistic_iv` to columns or to the rows of a store.

    Parameters
    ----------
    data : Data
        With an intercept and without weights.
    moments : Moments
        Of its design.
    method, errors, prevalence
        As for :func:`logistic_iv`.
    """
    _require_prevalence(prevalence)
    reduced, basis = reduce_design(moments, data.columns)
    data.require_usable(moments, reduced)
    sampling = Sampling(data.outcome.names[0], float(moments.mean[-1]), prevalence)
    if prevalence is not None:
        weighted = data.sums(sampling.moments, Moments.combine)
        reduced, basis = reduce_design(weighted, data.columns)
    problem = Problem(data, moments, reduced, basis, errors)
    stage = SecondStage.from_first_stage(reduced, basis, method)

    def evaluate(theta: Floats) -> LogisticSums:
        def kernel(rows: Floats, _: Floats | None) -> LogisticSums:
            return stage.sums(rows, theta, sampling.weights(rows))

        found: LogisticSums = data.sums(kernel, LogisticSums.combine)
        return found

    fit = two_stage_logistic(stage, evaluate)
    if fit.reason:
        raise InputError(
            f"the log odds ratio of {sampling.outcome} per unit of "
            f"{listed(data.exposures.names)} cannot be estimated: {fit.reason} "
            "(mrscale.iv fits the linear probability model)"
        )
    return _result(problem, fit, sampling)


@dataclass(frozen=True)
class Sampling:
    """How people came into the sample, as their outcome tells.

    Attributes
    ----------
    outcome : str
        Its name.
    case_share : float
        Of the sample.
    prevalence : float or None
        Of the population; None for a random sample of it.
    """

    outcome: str
    case_share: float
    prevalence: float | None

    def weights(self, rows: Floats) -> Floats | None:
        """Weights of a block's people, whose outcome is the last column.

        Raises
        ------
        InputError
            If it is not 0 or 1.
        """
        y = rows[:, -1]
        if not ((y == 0) | (y == 1)).all():
            raise InputError(
                "a logistic model needs an outcome of 0 for controls and 1 for cases (or False "
                f"and True); found other numbers in {self.outcome}; recode it, or use mrscale.iv "
                "for an outcome that is measured on a scale"
            )
        if self.prevalence is None:
            return None
        return case_control_weights(y, self.prevalence, self.case_share)

    def moments(self, rows: Floats, _: Floats | None) -> Moments:
        """Weighted moments of a block."""
        return Moments.from_block(rows, self.weights(rows))


def _result(problem: Problem, fit: LogisticIV, sampling: Sampling) -> LogisticIVResult:
    data, reduced, basis, moments = problem.data, problem.reduced, problem.basis, problem.moments
    unfitted = np.append(np.zeros(reduced.num_exposures), 1.0)

    def scores(rows: Floats, _: Floats | None) -> tuple[Floats, ...]:
        weights = sampling.weights(rows)
        canonical = canonical_rows(rows, basis, weights)
        return (
            fit.influence(rows, weights),
            *iv_scores(*canonical, reduced, unfitted)[1:],
        )

    sums = data.outer_sums(scores)
    cov = sums.totals[0]
    params = np.concatenate([fit.estimate, fit.control])
    require_finite_fit(params, cov)
    strength = Fit(params, cov, math.nan, meats=meats(sums, reduced, problem.num_groups))
    exposures = data.exposures.names
    names = [*exposures, *(f"residual {name}" for name in exposures[: len(fit.control)])]
    require_unique_names(names)
    table, reasons = first_stage_table(problem, strength)
    design = np.r_[data.columns.instruments, data.columns.covariates]
    condition = condition_number(moments.select(design).cross)
    return LogisticIVResult(
        params=pd.Series(params, names, name="estimate"),
        cov=pd.DataFrame((cov + cov.T) / 2, names, names),
        outcome=sampling.outcome,
        exposures=tuple(exposures),
        instruments=tuple(data.instruments.names),
        method=fit.stage.method,
        errors=problem.errors,
        num_obs=moments.count,
        num_cases=round(sampling.case_share * moments.count),
        num_instruments=reduced.num_instruments,
        num_clusters=data.num_clusters,
        prevalence=sampling.prevalence,
        first_stage=table,
        first_stage_reasons=reasons,
        exogeneity=_exogeneity(fit, cov),
        condition_number=condition,
        notes=(
            _MEANING[fit.stage.method],
            case_control_note(sampling.prevalence),
            *design_notes(problem, condition),
        ),
    )


def _exogeneity(fit: LogisticIV, cov: Floats) -> TestResult:
    """Wald test that all coefficients of first-stage residuals are zero, chi-square(P)."""
    name, num = "Exogeneity of the exposures", len(fit.control)
    if not num:
        reason = "predictor substitution has no first-stage residuals; use method='2sri'"
        return TestResult.not_applicable(name, reason)
    root, rank = whitening(cov[-num:, -num:])
    if rank < num:
        return TestResult.not_applicable(name, "no more people or clusters than exposures")
    whitened = root.T @ fit.control
    return TestResult.chi_square(name, float(whitened @ whitened), rank)


def _require_prevalence(prevalence: float | None) -> None:
    if prevalence is not None and not 0 < prevalence < 1:
        raise InputError(
            "prevalence must be the share of cases in the population, between 0 and 1 (0.01 for "
            f"one in a hundred); found {prevalence!r}"
        )


_MEANING = {
    "2sri": (
        "the estimate is a log odds ratio given the covariates and the first-stage residuals, and "
        "causal if these hold all confounding; odds ratios are not collapsible: one given more, or "
        "less, is another number even without confounding"
    ),
    "logistic": (
        "the estimate is a log odds ratio given the covariates and averaged over all else that "
        "moves the outcome, so closer to zero than one given that too (odds ratios are not "
        "collapsible)"
    ),
}
