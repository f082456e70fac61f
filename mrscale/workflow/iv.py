"""``mrscale.iv``: every instrumental-variable estimator on columns that users hold.

Two passes over the rows: moments, from which the estimate follows, and products of scores, from
which robust and clustered errors and all weak-instrument inference follow. GMM takes one pass
more, JIVE one more, CUE one for each step of its optimiser.

Legend: N people, L instruments, P exposures, K parameters.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from scipy.linalg import LinAlgError

from mrscale.errors import InputError
from mrscale.results.iv import IVResult
from mrscale.stats.first_stage import first_stage
from mrscale.stats.identification import listed
from mrscale.stats.linalg import condition_number
from mrscale.stats.moments import Floats
from mrscale.stats.reduced import design_cross, reduce_design
from mrscale.stats.small_sample import SmallSample, reference_dof, small_sample_scale
from mrscale.stats.specification import TestResult
from mrscale.workflow.columns import (
    require_choice,
    require_small_sample,
    require_unique_names,
)
from mrscale.workflow.iv_data import Data
from mrscale.workflow.iv_fits import Errors, Fit, Problem

EstimatorName = Literal["ols", "2sls", "liml", "fuller", "gmm", "cue", "jive", "ujive"]
_ILL_CONDITIONED = 1e4
"""Above this, moments leave fewer than eight digits of an estimate."""
_NO_FINITE_NUMBER = (
    "the estimate came out as no finite number: columns are too nearly collinear or too different "
    "in scale, or instruments vary among too few people or clusters for robust errors; rescale "
    "columns, or leave out the redundant and the rare ones"
)


def iv(
    outcome: Any,
    exposure: Any,
    instruments: Any,
    covariates: Any = None,
    *,
    estimator: EstimatorName = "2sls",
    errors: Errors = "robust",
    clusters: Any = None,
    weights: Any = None,
    small_sample: SmallSample = False,
    intercept: bool = True,
) -> IVResult:
    """Estimate the effect of exposures on an outcome with instruments.

    Parameters
    ----------
    outcome : array-like, shape (N,)
        numpy, dask, xarray or pandas. A 0/1 outcome gives a linear probability model.
    exposure : array-like, shape (N,) or (N, P)
        Several columns: multivariable MR.
    instruments : array-like, shape (N,) or (N, M)
        Excluded instruments, such as dosages. Collinear ones are used up to their rank.
    covariates : array-like, shape (N,) or (N, K), optional
        Partialled out of everything. Those that are combinations of earlier ones are left out,
        with a note.
    estimator : str, default "2sls"
        ``"ols"`` (the instruments are not used, and may be None), ``"2sls"``, ``"liml"``,
        ``"fuller"`` (Fuller's constant 1), ``"gmm"`` (two-step), ``"cue"``, ``"jive"`` (JIVE1) or
        ``"ujive"``.
    errors : str, default "robust"
        ``"classical"``, ``"robust"`` (HC0) or ``"cluster"``.
    clusters : array-like, shape (N,), optional
        Cluster of each person, for ``errors="cluster"``: families, or sites.
    weights : array-like, shape (N,), optional
        Positive weights of people; only their ratios matter.
    small_sample : bool or "n-k", default False
        Scale variances by N / (N - K), for clusters also by G / (G - 1) (N - 1) / N, and take
        p-values from t(N - K), for G clusters from t(G - 1): Stata's ``small``. ``"n-k"`` takes
        t(N - K) with clusters too, as linearmodels' ``debiased``, and covers too seldom if they
        are few. Overidentification tests stay as they are.
    intercept : bool, default True

    Returns
    -------
    IVResult
        ``params``, ``std_errors``, ``cov``, ``pvalues``, ``conf_int()``, ``first_stage``,
        ``overidentification``, ``endogeneity``, ``anderson_rubin()``, ``clr()``, ``summary()``.

    Raises
    ------
    InputError
        If lengths differ, values are missing, a trait does not vary, people are too few, the
        instruments do not identify the effects (it names the exposures), a covariate is an
        instrument, or there are fewer than two clusters.

    Notes
    -----
    Everything is a function of cross-products of rows, taken in blocks of fixed size along a
    fixed tree: the same bits for any number of threads and any chunking of dask arrays.
    References are with the formulas in :mod:`mrscale.stats`.

    Examples
    --------
    >>> import numpy as np, mrscale as mr
    >>> rng = np.random.default_rng(0)
    >>> z, u = rng.binomial(2, 0.3, (5000, 3)), rng.normal(size=5000)
    >>> x = z @ [0.3, 0.2, 0.4] + u + rng.normal(size=5000)
    >>> fit = mr.iv(0.5 * x - u + rng.normal(size=5000), x, z)
    >>> fit.params["exposure"].round(1)
    np.float64(0.5)
    """
    require_choice("estimator", estimator, get_args(EstimatorName))
    require_choice("errors", errors, get_args(Errors))
    require_small_sample(small_sample)
    require_clusters(errors, clusters)
    _require_instruments(estimator, instruments)
    data = Data.of(
        outcome,
        exposure,
        None if estimator == "ols" else instruments,
        covariates,
        clusters=clusters,
        weights=weights,
        intercept=intercept,
    )
    moments = data.moments()
    reduced, basis = reduce_design(moments, data.columns, intercept=intercept)
    data.require_usable(moments, reduced, instrumented=estimator != "ols")
    problem = Problem(data, moments, reduced, basis, errors)
    return iv_result(problem, fit_problem(problem, estimator), estimator, small_sample)


def fit_problem(problem: Problem, estimator: EstimatorName) -> Fit:
    """Fit a design by any of the estimators."""
    with _singular_is_refused():
        if estimator == "gmm" or estimator == "cue":
            return problem.gmm(continuous=estimator == "cue")
        if estimator == "jive" or estimator == "ujive":
            return problem.jive(unbiased=estimator == "ujive")
        return problem.k_class(estimator)


def iv_result(
    problem: Problem, fit: Fit, estimator: EstimatorName, small_sample: SmallSample
) -> IVResult:
    """A fit as users hold it."""
    data, reduced, moments = problem.data, problem.reduced, problem.moments
    names = _parameter_names(problem)
    robust = None if problem.errors == "classical" else fit.meats
    n, k = moments.count, len(names)
    cov = fit.cov * (small_sample_scale(n, k, data.num_clusters) if small_sample else 1.0)
    require_finite_fit(fit.params, cov)
    instrumented = estimator != "ols"
    design = np.r_[data.columns.instruments, data.columns.covariates]
    condition = condition_number(design_cross(moments.select(design), intercept=data.intercept))
    table, reasons = first_stage_table(problem, fit)
    return IVResult(
        params=pd.Series(fit.params, names, name="estimate"),
        cov=pd.DataFrame((cov + cov.T) / 2, names, names),
        outcome=data.outcome.names[0],
        exposures=tuple(data.exposures.names),
        instruments=tuple(data.instruments.names),
        estimator=estimator,
        errors=problem.errors,
        small_sample=bool(small_sample),
        dof=reference_dof(n, k, data.num_clusters, small_sample),
        num_obs=n,
        num_instruments=reduced.num_instruments,
        num_clusters=data.num_clusters,
        kappa=fit.kappa,
        residual_variance=fit.residual_ss / (n - fit.num_alone - (k if small_sample else 0)),
        first_stage=table,
        first_stage_reasons=reasons,
        overidentification=fit.overidentification,
        endogeneity=_small_sample_test(problem, fit) if small_sample else fit.endogeneity,
        condition_number=condition,
        notes=(*fit.notes, *design_notes(problem, condition)),
        _reduced=reduced if instrumented else None,
        _meats=robust,
    )


def first_stage_table(problem: Problem, fit: Fit) -> tuple[pd.DataFrame, dict[str, str]]:
    """A row per exposure, and why a column is NaN; what concerns all of them together stands in
    every row."""
    if fit.meats is None:
        return pd.DataFrame(), {}
    form = fit.meats.reduced_form if problem.reduced.num_exposures == 1 else None
    with _singular_is_refused():
        measures = first_stage(problem.reduced, fit.meats, reduced_form=form)
    fields = {name: value for name, value in vars(measures).items() if name != "reasons"}
    index = pd.Index(problem.data.exposures.names, name="exposure")
    return pd.DataFrame(fields, index), measures.reasons


def _parameter_names(problem: Problem) -> list[str]:
    data = problem.data
    kept = [data.covariates.names[i] for i in problem.basis.kept_covariates]
    names = [*data.exposures.names, *kept, *(["const"] if data.intercept else [])]
    require_unique_names(names)
    return names


def _small_sample_test(problem: Problem, fit: Fit) -> TestResult:
    """Wooldridge's test with the errors of its own regression, which has P parameters more; the
    F of Wu and Hausman is for small samples as it is."""
    test = fit.endogeneity
    if test.reason or problem.errors == "classical":
        return test
    parameters = problem.basis.num_parameters + problem.reduced.num_exposures
    scale = small_sample_scale(problem.moments.count, parameters, problem.data.num_clusters)
    return TestResult.chi_square(test.name, test.statistic / scale, problem.reduced.num_exposures)


def design_notes(problem: Problem, condition: float) -> list[str]:
    """What a reader needs to know of a design: columns dropped, digits lost."""
    data, reduced, notes = problem.data, problem.reduced, []
    dropped = np.setdiff1d(np.arange(data.covariates.width), problem.basis.kept_covariates)
    if len(dropped):
        names = listed([data.covariates.names[i] for i in dropped])
        notes.append(f"covariates that are combinations of earlier ones were left out: {names}")
    given = data.instruments.width
    if reduced.num_instruments < given:
        notes.append(
            f"the {given} instruments hold {reduced.num_instruments} independent ones given the "
            "covariates, and these were used"
        )
    if condition > _ILL_CONDITIONED:
        digits = max(0, int(-np.log10(np.finfo(np.float64).eps * condition**2)))
        notes.append(
            f"instruments and covariates are nearly collinear (condition number {condition:.1g}): "
            f"about {digits} digits of the estimates are exact"
        )
    return notes


def require_finite_fit(params: Floats, cov: Floats) -> None:
    """Refuse an estimate or a covariance that is not finite."""
    if not (np.isfinite(params).all() and np.isfinite(cov).all()):
        raise InputError(_NO_FINITE_NUMBER)


@contextmanager
def _singular_is_refused() -> Iterator[None]:
    try:
        yield
    except LinAlgError:
        raise InputError(_NO_FINITE_NUMBER) from None


def _require_instruments(estimator: EstimatorName, instruments: Any) -> None:
    if instruments is None and estimator != "ols":
        raise InputError(
            f"estimator={estimator!r} needs instruments; found none; give them, or choose "
            "estimator='ols'"
        )


def require_clusters(errors: Errors, clusters: Any) -> None:
    """Refuse clusters without clustered errors, and the other way round."""
    if errors == "cluster" and clusters is None:
        raise InputError(
            "errors='cluster' needs to know the clusters; give clusters= (a family or site for "
            "each person), or errors='robust'"
        )
    if errors != "cluster" and clusters is not None:
        raise InputError(
            f"clusters are used by errors='cluster' only; found errors={errors!r}; "
            "choose errors='cluster', or leave clusters out"
        )
