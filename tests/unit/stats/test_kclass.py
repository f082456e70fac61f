"""k-class estimators and the way back to all parameters, against dense algebra."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
from linearmodels.iv import IV2SLS, IVLIML
from numpy.testing import assert_allclose

from mrscale.stats.kclass import (
    Influence,
    all_parameters,
    fit_kclass,
    kappa_of,
    liml_kappa,
    normal_matrix,
    parameter_map,
)
from mrscale.stats.moments import Moments
from mrscale.stats.reduced import Columns, reduce_design

dense = runpy.run_path(str(Path(__file__).parents[2] / "canonical.py"))


@pytest.fixture(params=[1, 2])
def columns(request):
    return dense["design"](3, p=request.param)


def reduced_of(columns, intercept=True):
    rows = np.column_stack([columns.z, columns.w, columns.x, columns.y])
    kinds = Columns(columns.z.shape[1], columns.w.shape[1], columns.x.shape[1])
    return reduce_design(Moments.from_block(rows), kinds, intercept=intercept)


def test_kappas_are_those_of_their_estimators(columns):
    reduced, _ = reduced_of(columns)
    oracle = IVLIML(columns.y, columns.controls, columns.x, columns.z).fit()
    assert kappa_of("ols", reduced) == 0
    assert kappa_of("2sls", reduced) == 1
    assert_allclose(kappa_of("liml", reduced), oracle.kappa, rtol=1e-12)
    assert_allclose(kappa_of("fuller", reduced), oracle.kappa - 1 / (300 - 3 - 4), rtol=1e-12)
    four = IVLIML(columns.y, columns.controls, columns.x, columns.z, fuller=4).fit()
    assert_allclose(kappa_of("fuller", reduced, 4.0), four.kappa, rtol=1e-12)


def test_the_kappa_of_a_just_identified_model_is_one():
    columns = dense["design"](3, m=2, p=2)
    assert_allclose(liml_kappa(reduced_of(columns)[0]), 1, rtol=1e-12)


@pytest.mark.parametrize("kappa", [0.0, 0.5, 1.0, 1.01])
def test_estimates_solve_the_normal_equations(columns, kappa):
    reduced, _ = reduced_of(columns)
    problem = dense["canonical"](columns)
    x, y = problem.traits[:, :-1], problem.traits[:, -1]
    off = x - problem.z @ (problem.z.T @ x)
    expected = np.linalg.solve((x - kappa * off).T @ x, (x - kappa * off).T @ y)
    fit = fit_kclass(reduced, kappa)
    assert_allclose(fit.estimate, expected, rtol=1e-10)
    assert_allclose(fit.bread @ normal_matrix(reduced, kappa), np.eye(len(expected)), atol=1e-10)
    assert_allclose(fit.residual_ss, ((y - x @ expected) ** 2).sum(), rtol=1e-10)
    assert_allclose(problem.traits @ fit.residual_weights, y - x @ expected, atol=1e-10)


@pytest.mark.parametrize("intercept", [True, False])
def test_all_parameters_and_their_covariance(columns, intercept):
    reduced, basis = reduced_of(columns, intercept)
    fit = fit_kclass(reduced, 1.0)
    exogenous = np.column_stack([columns.w, np.ones((300, int(intercept)))])
    oracle = IV2SLS(columns.y, exogenous, columns.x, columns.z).fit(cov_type="unadjusted")
    p, k = columns.x.shape[1], exogenous.shape[1]
    order = [*range(k, k + p), *range(k)]  # linearmodels has the exposures last
    found = all_parameters(basis, fit.estimate)
    assert_allclose(found, oracle.params.to_numpy()[order], rtol=1e-9)
    to = parameter_map(basis, fit.bread)
    middle = np.eye(p + k)
    middle[:p, :p] = normal_matrix(reduced, 1.0)
    cov = fit.residual_ss / 300 * to @ middle @ to.T
    assert_allclose(cov, oracle.cov.to_numpy()[np.ix_(order, order)], rtol=1e-8, atol=1e-14)


@pytest.mark.parametrize("kappa", [0.0, 1.0])
def test_squared_influences_are_the_robust_variance(columns, kappa):
    reduced, basis = reduced_of(columns)
    rows = np.column_stack([columns.z, columns.w, columns.x, columns.y])
    influence = Influence.of(fit_kclass(reduced, kappa), reduced, basis).of_rows(rows)
    if kappa:
        oracle = IV2SLS(columns.y, columns.controls, columns.x, columns.z).fit()
    else:
        regressors = np.column_stack([columns.controls, columns.x])
        oracle = IV2SLS(columns.y, regressors, None, None).fit()
    p = columns.x.shape[1]
    assert_allclose(influence.T @ influence, oracle.cov.to_numpy()[-p:, -p:], rtol=1e-9)
    assert_allclose(influence.sum(axis=0), 0, atol=1e-10)
