"""GMM, CUE and JIVE against linearmodels, Stata and published numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from linearmodels.iv import IV2SLS, IVGMM, IVGMMCUE, IVJIVE
from numpy.testing import assert_allclose
from scipy import linalg

from mrscale.stats import gmm, jive

RTOL = 1e-8
ERRORS = ["unadjusted", "robust", "clustered"]


@dataclass
class Problem:
    """Dense columns, regressors ordered as linearmodels has them: covariates, then exposures."""

    outcome: np.ndarray
    covariates: np.ndarray
    exposures: np.ndarray
    instruments: np.ndarray
    clusters: np.ndarray

    @property
    def regressors(self) -> np.ndarray:
        return np.column_stack([self.covariates, self.exposures])

    @property
    def basis(self) -> np.ndarray:
        """An orthonormal basis of all instruments, in which A'A is the identity."""
        return linalg.qr(np.column_stack([self.covariates, self.instruments]), mode="economic")[0]

    @property
    def columns(self) -> tuple[np.ndarray, ...]:
        return self.outcome, self.covariates, self.exposures, self.instruments

    def products(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        a = self.basis
        return a.T @ a, a.T @ self.regressors, a.T @ self.outcome, len(a)

    def groups(self, errors: str) -> np.ndarray:
        alone = np.arange(len(self.outcome))
        return self.clusters if errors == "clustered" else alone

    def callables(self, errors: str) -> tuple[gmm.Meat, gmm.Slope]:
        a, r, y, codes = self.basis, self.regressors, self.outcome, self.groups(errors)
        if errors == "unadjusted":
            classical = gmm.ClassicalMeat(a.T @ a, r.T @ r, r.T @ y, float(y @ y), len(y))
            return classical.meat, classical.slope

        def outer(rows: np.ndarray) -> np.ndarray:
            sums = np.zeros((codes.max() + 1, rows.shape[1]))
            np.add.at(sums, codes, rows)
            return sums.T @ sums

        def meat(theta: np.ndarray) -> np.ndarray:
            return outer(gmm.score_rows(a, y - r @ theta))

        def slope(theta: np.ndarray, multiplier: np.ndarray) -> np.ndarray:
            return outer(gmm.slope_rows(a, r, y - r @ theta, multiplier))[0, 1:]

        return meat, slope

    def scale(self, errors: str) -> float:
        n, k, g = len(self.outcome), self.regressors.shape[1], len(np.unique(self.clusters))
        return (n - 1) / (n - k) * g / (g - 1) if errors == "clustered" else n / (n - k)

    def config(self, errors: str) -> dict[str, np.ndarray]:
        return {"clusters": self.clusters} if errors == "clustered" else {}


@pytest.fixture(scope="module")
def housing(shared_data: Callable[[str], Path]) -> Problem:
    """Rent on urban share and house value, Stata's hsng2."""
    data = pd.read_csv(shared_data("reference/housing_hsng2.csv"))
    regions = pd.get_dummies(data["region"], drop_first=True).to_numpy(float)
    return Problem(
        data["rent"].to_numpy(float),
        np.column_stack([np.ones(len(data)), data["pcturban"]]),
        data[["hsngval"]].to_numpy(float),
        np.column_stack([data["faminc"], regions]),
        data["division"].astype("category").cat.codes.to_numpy(np.int64),
    )


@pytest.fixture(scope="module")
def coursedata(shared_data: Callable[[str], Path]) -> Problem:
    """Thousand people, four variants."""
    data = pd.read_csv(shared_data("reference/coursedata_individual.csv"))
    return Problem(
        data["y"].to_numpy(),
        np.ones((len(data), 1)),
        data[["x"]].to_numpy(),
        data[["g1", "g2", "g3", "g4"]].to_numpy(float),
        np.arange(len(data)) // 7,
    )


@pytest.fixture(scope="module")
def simulated() -> Problem:
    """Two exposures, heteroskedastic and correlated in families of unequal size."""
    rng = np.random.default_rng(5)
    n = 700
    clusters = np.sort(rng.integers(0, 90, n))
    family = rng.normal(size=(90, 2))[clusters]
    z = rng.binomial(2, 0.3, size=(n, 7)).astype(float)
    w = np.column_stack([np.ones(n), rng.normal(size=(n, 2))])
    common = rng.normal(size=(n, 1))
    x = z @ rng.normal(size=(7, 2)) * 0.4 + w @ rng.normal(size=(3, 2)) + common
    x += rng.normal(size=(n, 2)) + 0.5 * family
    u = (common[:, 0] + rng.normal(size=n) + family[:, 0]) * (0.5 + z[:, 0])
    return Problem(x @ [0.3, -0.2] + w @ [5.0, 1.0, 0.5] + u, w, x, z, clusters)


PROBLEMS = ["housing", "coursedata", "simulated"]


@pytest.mark.parametrize("errors", ERRORS)
@pytest.mark.parametrize("name", PROBLEMS)
def test_two_step_gmm_equals_linearmodels(
    name: str, errors: str, request: pytest.FixtureRequest
) -> None:
    problem: Problem = request.getfixturevalue(name)
    config = problem.config(errors)
    model = IVGMM(*problem.columns, weight_type=errors, center=False, **config)
    expected = model.fit(cov_type=errors, **config)
    found = gmm.two_step(*problem.products(), problem.callables(errors)[0])
    assert_allclose(found.params, expected.params, rtol=RTOL)
    assert_allclose(found.cov, expected.cov, rtol=RTOL)
    assert_allclose(found.j_statistic, expected.j_stat.stat, rtol=RTOL)
    assert found.j_dof == expected.j_stat.df


def test_two_step_gmm_weight_equals_linearmodels(simulated: Problem) -> None:
    expected = IVGMM(*simulated.columns, weight_type="robust").fit()
    meat, _ = simulated.callables("robust")
    found = gmm.two_step(*simulated.products(), meat)
    columns = np.column_stack([simulated.covariates, simulated.instruments])
    to_columns = np.linalg.inv(simulated.basis.T @ columns)
    assert_allclose(to_columns @ found.weight @ to_columns.T, expected.weight_matrix, rtol=RTOL)


@pytest.mark.parametrize("errors", ERRORS)
@pytest.mark.parametrize("name", ["coursedata", "simulated"])
def test_cue_equals_linearmodels(name: str, errors: str, request: pytest.FixtureRequest) -> None:
    problem: Problem = request.getfixturevalue(name)
    config = problem.config(errors)
    model = IVGMMCUE(*problem.columns, weight_type=errors, center=False, **config)
    expected = model.fit(cov_type=errors, **config)
    found = gmm.continuously_updated(*problem.products(), *problem.callables(errors))
    assert found.converged
    assert found.j_statistic <= expected.j_stat.stat * (1 + 1e-12)
    # linearmodels minimises with numerical gradients, and stops within about 1e-5 standard errors
    errors_of = np.sqrt(np.diag(found.cov))
    assert_allclose((found.params - expected.params) / errors_of, 0, atol=1e-4)
    assert_allclose(errors_of, expected.std_errors, rtol=1e-4)
    assert_allclose(found.j_statistic, expected.j_stat.stat, rtol=1e-8)


@pytest.mark.parametrize("errors", ERRORS)
@pytest.mark.parametrize("name", PROBLEMS)
def test_jive_equals_linearmodels(name: str, errors: str, request: pytest.FixtureRequest) -> None:
    problem: Problem = request.getfixturevalue(name)
    expected = IVJIVE(*problem.columns).fit(cov_type=errors, **problem.config(errors))
    params, cov = _jive(problem, errors)
    assert_allclose(params, expected.params, rtol=RTOL)
    assert_allclose(cov, expected.cov, rtol=RTOL)


@pytest.mark.parametrize("errors", ERRORS)
@pytest.mark.parametrize("name", ["coursedata", "simulated"])
def test_ujive_is_iv_with_its_instruments(
    name: str, errors: str, request: pytest.FixtureRequest
) -> None:
    problem: Problem = request.getfixturevalue(name)
    controls = linalg.qr(problem.covariates, mode="economic")[0]
    rows = jive.LeaveOutRows(problem.basis, problem.exposures, controls, problem.outcome)
    first = jive.FirstStage(problem.basis.T @ problem.exposures, controls.T @ problem.exposures)
    instruments = jive.leave_out_instruments(first, rows)
    model = IV2SLS(problem.outcome, controls, problem.exposures, instruments)
    expected = model.fit(cov_type=errors, debiased=False, **problem.config(errors))
    order = np.r_[-problem.exposures.shape[1] : 0, : controls.shape[1]]
    fit = jive.leave_out_fit(jive.leave_out_block(first, rows))
    cov = fit.classical_cov
    if errors != "unadjusted":
        cov = _clustered(jive.leave_out_scores(first, fit, rows), problem.groups(errors))
    assert_allclose(fit.params, expected.params.iloc[order], rtol=RTOL)
    assert_allclose(cov, expected.cov.iloc[order, order], rtol=RTOL, atol=1e-16)


def test_jive_published(
    housing: Problem, coursedata: Problem, shared_data: Callable[[str], Path]
) -> None:
    expected = json.loads(shared_data("reference/expected_jive.json").read_text())
    for errors, key in [("unadjusted", "se_unadj"), ("robust", "se_robust")]:
        params, cov = _jive(housing, errors)
        assert_allclose(params, expected["housing_jive"]["coef"], rtol=RTOL)
        assert_allclose(np.sqrt(np.diag(cov)), expected["housing_jive"][key], rtol=RTOL)
    estimate, unadjusted, robust = expected["coursedata_jive"]
    for errors, std_error in [("unadjusted", unadjusted), ("robust", robust)]:
        params, cov = _jive(coursedata, errors)
        assert_allclose(params[-1], estimate, rtol=RTOL)
        assert_allclose(cov[-1, -1] ** 0.5, std_error, rtol=RTOL)


STATA_GMM = {
    # hsngval, pcturban, _cons; their t statistics with the option "small"; J
    "unadjusted": (
        [0.00223983298, 0.08151596819, 120.70651454],
        [6.6118735487, 0.26453102725, 7.6849434508],
        11.287665072,
    ),
    "robust": (
        [0.00146432787, 0.76154815601, 112.12271295],
        [3.1741830844, 2.5503338526, 10.063282685],
        6.8364006463,
    ),
    "clustered": (
        [0.00192718161, 0.63495496019, 100.873596],
        [5.0369192337, 1.5407643664, 6.5765712323],
        3.6677640329,
    ),
}


@pytest.mark.parametrize("errors", ERRORS)
def test_two_step_gmm_equals_stata(housing: Problem, errors: str) -> None:
    params, t_statistics, j = STATA_GMM[errors]
    meat, _ = housing.callables(errors)
    found = gmm.two_step(*housing.products(), meat)
    std_errors = np.sqrt(housing.scale(errors) * np.diag(found.cov))
    order = [2, 1, 0]
    # Stata prints nine to eleven digits
    assert_allclose(found.params[order], params, rtol=5e-9)
    assert_allclose((found.params / std_errors)[order], t_statistics, rtol=5e-9)
    assert_allclose(found.j_statistic, j, rtol=5e-9)


def _jive(problem: Problem, errors: str) -> tuple[np.ndarray, np.ndarray]:
    """Estimates and covariance, covariates first."""
    rows = jive.LeaveOutRows(problem.basis, problem.exposures, problem.covariates, problem.outcome)
    first = jive.FirstStage(problem.basis.T @ problem.exposures)
    fit = jive.leave_out_fit(jive.leave_out_block(first, rows))
    cov = fit.classical_cov
    if errors != "unadjusted":
        cov = _clustered(jive.leave_out_scores(first, fit, rows), problem.groups(errors))
    p = problem.exposures.shape[1]
    order = np.r_[p : len(cov), :p]
    return fit.params[order], cov[np.ix_(order, order)]


def _clustered(scores: np.ndarray, codes: np.ndarray) -> np.ndarray:
    sums = np.zeros((codes.max() + 1, scores.shape[1]))
    np.add.at(sums, codes, scores)
    return sums.T @ sums
