"""Two-stage logistic regressions against statsmodels and a complex-step stacked sandwich."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from numpy.testing import assert_allclose
from statsmodels.tools.numdiff import approx_fprime_cs

from mrscale.stats.binary import case_control_weights
from mrscale.workflow.logistic_iv import logistic_iv
from mrscale.workflow.split_iv import split_iv

RTOL = 1e-8


@pytest.fixture(scope="module")
def course(shared_data):
    people = pd.read_csv(shared_data("reference/coursedata_individual.csv"))
    return people[["g1", "g2", "g3", "g4"]], people["x"], people["y_bin"], people["y"]


def second_stage(pi, h, x, method):
    fitted = h @ pi
    columns = [x, x - fitted] if method == "2sri" else [fitted]
    return np.column_stack([*columns, np.ones(len(x))])


@pytest.mark.parametrize("method", ["2sri", "logistic"])
@pytest.mark.parametrize("prevalence", [None, 0.02])
def test_course_data_equal_statsmodels_and_the_stacked_sandwich(course, method, prevalence):
    instruments, exposure, outcome, _ = course
    fit = logistic_iv(outcome, exposure, instruments, method=method, prevalence=prevalence)
    h, x, y = sm.add_constant(instruments.to_numpy(float)), exposure.to_numpy(), outcome.to_numpy()
    weights = np.ones(len(y))
    if prevalence is not None:
        weights = case_control_weights(y, prevalence, y.mean())
    pi = sm.WLS(x, h, weights).fit().params
    d = second_stage(pi, h, x, method)
    oracle = sm.GLM(y, d, sm.families.Binomial(), freq_weights=weights).fit(tol=1e-14)
    theta, kept = oracle.params, len(fit.params)
    assert_allclose(fit.params, theta[:kept], rtol=RTOL)

    def equations(both):
        first, second = both[: len(pi)], both[len(pi) :]
        columns = second_stage(first, h, x, method)
        r = y - 1 / (1 + np.exp(-columns @ second))
        return weights[:, None] * np.column_stack(
            [h * (x - h @ first)[:, None], columns * r[:, None]]
        )

    both = np.concatenate([pi, theta])
    slope = approx_fprime_cs(both, lambda at: equations(at).sum(axis=0))
    psi = np.linalg.solve(slope, equations(both).T)[len(pi) :][:kept]
    assert_allclose(fit.cov, psi @ psi.T, rtol=RTOL)
    assert_allclose(fit.exogeneity.statistic, fit.tstats.iloc[-1] ** 2 if kept > 1 else np.nan)


def test_course_data_named_odds_ratio(course):
    instruments, exposure, outcome, _ = course
    fit = logistic_iv(outcome, exposure, instruments)
    assert list(fit.params.index) == ["x", "residual x"]
    assert list(fit.odds_ratios().index) == ["x"]
    assert fit.num_obs == 1000
    assert fit.num_cases == outcome.sum()


def test_without_confounding_both_methods_find_the_odds_ratio_of_logit():
    rng = np.random.default_rng(0)
    n = 50_000
    z = rng.binomial(2, 0.3, (n, 3))
    x = z @ [0.5, 0.7, 0.4] + 0.3 * rng.normal(size=n)
    y = rng.random(n) < 1 / (1 + np.exp(1 - 0.5 * x))
    truth = sm.Logit(y, sm.add_constant(x)).fit(disp=0)
    for method in ("2sri", "logistic"):
        fit = logistic_iv(y, x, z, method=method)
        assert abs(fit.params["exposure"] - truth.params[1]) < 3 * fit.std_errors["exposure"]
        assert abs(fit.params["exposure"] - 0.5) < 3 * fit.std_errors["exposure"]


def test_course_data_split_sample_agrees_with_two_stage_least_squares(course):
    instruments, exposure, _, outcome = course
    fit = split_iv(outcome, exposure, instruments, groups=np.arange(1000) % 10)
    whole = sm.OLS(exposure, sm.add_constant(instruments)).fit().fittedvalues
    two_stage = np.cov(whole, outcome)[0, 1] / np.cov(whole, exposure)[0, 1]
    assert abs(fit.params["x"] - two_stage) < fit.std_errors["x"]
