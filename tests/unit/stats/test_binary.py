"""Logistic second stages against statsmodels, and errors against a numerical stacked sandwich."""

from __future__ import annotations

from functools import reduce

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from numpy.testing import assert_allclose
from scipy.special import expit

from mrscale.stats.binary import (
    SecondStage,
    case_control_note,
    case_control_weights,
    two_stage_logistic,
)
from mrscale.stats.logistic import LogisticSums, maximise
from mrscale.stats.moments import Moments, pool
from mrscale.stats.reduced import Columns, reduce_design
from mrscale.stats.scores import OuterSums

METHODS = ["2sri", "logistic"]


def people(seed=0, n=1500, m=4, k=2, p=1, effect=0.5):
    rng = np.random.default_rng(seed)
    z, w, u = rng.binomial(2, 0.3, (n, m)), rng.normal(20, 3, (n, k)), rng.normal(size=n)
    x = z @ rng.uniform(0.3, 0.8, (m, p)) + 0.2 * w[:, :1].sum(1, keepdims=True) + u[:, None]
    x = x + rng.normal(size=(n, p)) * (1 + z[:, [0]])
    eta = effect * (x - x.mean(0)).sum(1) - u - 0.5 + 0.1 * (w - 20).sum(1)
    y = rng.random(n) < expit(eta)
    return np.column_stack([z, w, x, y])


def fit(rows, columns, method, weights=None, num_blocks=3):
    cuts = np.array_split(np.arange(len(rows)), num_blocks)
    given = [None if weights is None else weights[cut] for cut in cuts]
    parts = [Moments.from_block(rows[c], w) for c, w in zip(cuts, given, strict=True)]
    stage = SecondStage.from_first_stage(*reduce_design(pool(parts), columns), method)

    def evaluate(theta):
        blocks = [stage.sums(rows[c], theta, w) for c, w in zip(cuts, given, strict=True)]
        return reduce(LogisticSums.combine, blocks)

    return two_stage_logistic(stage, evaluate)


def pieces(rows, columns):
    m, k, p = columns.num_instruments, columns.num_covariates, columns.num_exposures
    z, w, x = rows[:, :m], rows[:, m : m + k], rows[:, m + k : m + k + p]
    return z, np.column_stack([w, np.ones(len(rows))]), x, rows[:, -1]


def regressors(z, w, x, pi, method):
    fitted = np.column_stack([z, w]) @ pi
    return np.column_stack([x, x - fitted, w] if method == "2sri" else [fitted, w])


def stacked_sandwich(rows, columns, method, theta, weights=None):
    """Influence of each person on (first stage, second stage), by numerical derivatives."""
    z, w, x, y = pieces(rows, columns)
    h, sample = np.column_stack([z, w]), np.ones(len(y)) if weights is None else weights
    pi = np.linalg.lstsq(h * np.sqrt(sample)[:, None], x * np.sqrt(sample)[:, None], rcond=None)[0]
    both = np.concatenate([pi.ravel(), theta])

    def equations(parameters):
        first = parameters[: pi.size].reshape(pi.shape)
        d = regressors(z, w, x, first, method)
        r = y - expit(d @ parameters[pi.size :])
        one = np.einsum("nj,np->njp", h, x - h @ first).reshape(len(y), -1)
        return sample[:, None] * np.column_stack([one, d * r[:, None]])

    slope = np.empty((len(both), len(both)))
    for j, size in enumerate(1e-5 * np.maximum(1, np.abs(both))):
        step = np.zeros(len(both))
        step[j] = size
        slope[:, j] = (equations(both + step) - equations(both - step)).sum(0) / (2 * size)
    return -np.linalg.solve(slope, equations(both).T).T[:, pi.size :]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("m", "k", "p"), [(1, 0, 1), (4, 2, 1), (5, 2, 2)])
def test_coefficients_are_those_of_statsmodels_and_errors_of_the_stacked_sandwich(method, m, k, p):
    rows, columns = people(m, m=m, k=k, p=p), Columns(m, k, p)
    found = fit(rows, columns, method)
    assert found.reason == ""
    z, w, x, y = pieces(rows, columns)
    pi = np.linalg.lstsq(np.column_stack([z, w]), x, rcond=None)[0]
    oracle = sm.Logit(y, regressors(z, w, x, pi, method)).fit(disp=0, method="newton", tol=1e-14)
    reported = 2 * p if method == "2sri" else p
    both = np.concatenate([found.estimate, found.control])
    assert_allclose(both, oracle.params[:reported], rtol=1e-8)
    psi = found.influence(rows)
    expected = stacked_sandwich(rows, columns, method, oracle.params)[:, :reported]
    # the oracle's derivatives are central differences
    assert_allclose(psi.T @ psi, expected.T @ expected, rtol=1e-5)
    assert_allclose(psi.sum(0), 0, atol=1e-8)


def test_ignoring_the_first_stage_gives_other_errors():
    rows, columns = people(1, effect=1.0), Columns(4, 2, 1)
    found = fit(rows, columns, "2sri")
    psi = found.influence(rows)
    z, w, x, y = pieces(rows, columns)
    pi = np.linalg.lstsq(np.column_stack([z, w]), x, rcond=None)[0]
    naive = sm.Logit(y, regressors(z, w, x, pi, "2sri")).fit(disp=0, cov_type="HC0")
    assert abs((psi**2).sum(0)[0] ** 0.5 / naive.bse[0] - 1) > 0.02


@pytest.mark.parametrize("method", METHODS)
def test_weights_are_repetitions(method):
    rows, columns = people(2), Columns(4, 2, 1)
    weights = np.random.default_rng(0).integers(1, 4, len(rows))
    found = fit(rows, columns, method, weights.astype(float))
    repeated = fit(np.repeat(rows, weights, 0), columns, method)
    assert_allclose(found.estimate, repeated.estimate, rtol=1e-8)
    psi = found.influence(rows, weights.astype(float))
    # a person repeated is a cluster
    code = np.repeat(np.arange(len(rows)), weights)
    again = repeated.influence(np.repeat(rows, weights, 0))
    clustered = OuterSums.from_block([again], code, weights).totals[0]
    assert_allclose(psi.T @ psi, clustered, rtol=1e-7)


@pytest.mark.parametrize("method", METHODS)
def test_the_cut_into_blocks_changes_nothing(method):
    rows, columns = people(3), Columns(4, 2, 1)
    one, many = (fit(rows, columns, method, num_blocks=b) for b in (1, 7))
    assert_allclose(one.estimate, many.estimate, rtol=1e-12)
    assert one.num_passes == many.num_passes
    assert one.num_passes < 10


def test_collinear_instruments_and_covariates_change_nothing():
    rows = people(4)
    once = fit(rows, Columns(4, 2, 1), "2sri")
    twice = np.column_stack([rows[:, :4], rows[:, 0], rows[:, 4:6], rows[:, 4], rows[:, 6:]])
    found = fit(twice, Columns(5, 3, 1), "2sri")
    assert_allclose(found.estimate, once.estimate, rtol=1e-8)
    assert_allclose(found.influence(twice).std(0), once.influence(rows).std(0), rtol=1e-7)


@pytest.mark.parametrize("method", METHODS)
def test_scaling_the_exposure_scales_the_log_odds_ratio(method):
    rows, columns = people(5), Columns(4, 2, 1)
    scaled = rows * np.array([1, 1, 1, 1e3, 1, 1e-6, 1e9, 1])
    assert_allclose(
        1e9 * fit(scaled, columns, method).estimate,
        fit(rows, columns, method).estimate,
        rtol=1e-7,
    )


def test_course_data_equal_statsmodels(shared_data):
    people = pd.read_csv(shared_data("reference/coursedata_individual.csv"))
    rows = people[["g1", "g2", "g3", "g4", "x", "y_bin"]].to_numpy(dtype=float)
    columns = Columns(4, 0, 1)
    z, w, x, y = pieces(rows, columns)
    pi = np.linalg.lstsq(np.column_stack([z, w]), x, rcond=None)[0]
    for method in METHODS:
        oracle = sm.Logit(y, regressors(z, w, x, pi, method)).fit(disp=0, tol=1e-14)
        assert_allclose(fit(rows, columns, method).estimate, oracle.params[:1], rtol=1e-8)


def test_residual_inclusion_finds_the_conditional_odds_ratio():
    rng = np.random.default_rng(6)
    n = 60_000
    z, v = rng.binomial(2, 0.3, (n, 3)), rng.normal(size=n)
    x = z @ [0.5, 0.7, 0.4] + v
    y = rng.random(n) < expit(0.4 * x - 0.8 * v - 1)
    rows, columns = np.column_stack([z, x, y]), Columns(3, 0, 1)
    found = fit(rows, columns, "2sri")
    error = (found.influence(rows) ** 2).sum(0) ** 0.5
    assert abs(found.estimate[0] - 0.4) < 3 * error[0]
    assert abs(found.control[0] + 0.8) < 3 * error[1]
    # what is not conditioned on attenuates the odds ratio
    assert fit(rows, columns, "logistic").estimate[0] < found.estimate[0]


@pytest.mark.parametrize("method", METHODS)
def test_case_control_weights_recover_the_population(method):
    rng = np.random.default_rng(7)
    n = 400_000
    z, v = rng.binomial(2, 0.3, (n, 2)), rng.normal(size=n)
    x = z @ [0.5, 0.7] + v
    y = rng.random(n) < expit(0.6 * x - 0.8 * v - 3.5)
    population, columns = np.column_stack([z, x, y]), Columns(2, 0, 1)
    cases = np.flatnonzero(y)
    controls = rng.choice(np.flatnonzero(~y), len(cases), replace=False)
    sample = population[rng.permutation(np.r_[cases, controls])]
    weights = case_control_weights(sample[:, -1], y.mean(), 0.5)
    assert_allclose(weights.mean(), 1, rtol=1e-12)
    found, truth = fit(sample, columns, method, weights), fit(population, columns, method)
    error = (found.influence(sample, weights) ** 2).sum(0) ** 0.5
    assert abs(found.estimate - truth.estimate)[0] < 3 * error[0]


def test_intervals_cover():
    covered = []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        z, v = rng.binomial(2, 0.3, (800, 3)), rng.normal(size=800)
        x = z @ [0.8, 0.8, 0.8] + v
        y = rng.random(800) < expit(0.5 * x - v - 0.5)
        rows = np.column_stack([z, x, y])
        found = fit(rows, Columns(3, 0, 1), "2sri", num_blocks=1)
        error = (found.influence(rows) ** 2).sum(0)[0] ** 0.5
        covered.append(abs(found.estimate[0] - 0.5) < 1.96 * error)
    # Monte Carlo error of 300 replicates is 1.3 points
    assert 0.91 < np.mean(covered) < 0.985


def test_separation_is_said():
    rows = people(8)
    rows[:, -1] = rows[:, 6] > np.median(rows[:, 6])
    found = fit(rows, Columns(4, 2, 1), "2sri")
    assert "separation" in found.reason
    assert np.isnan(found.estimate).all()


def test_quasi_separation_is_said():
    rows = people(9)
    carrier = np.arange(len(rows)) < 30
    rows[:, 4] = carrier
    rows[carrier, -1] = 1
    found = fit(rows, Columns(4, 2, 1), "logistic")
    assert "separation" in found.reason


def test_a_rare_outcome_is_not_separation():
    rows = people(10, n=40_000)
    rng = np.random.default_rng(0)
    rows[:, -1] = rng.random(len(rows)) < expit(0.3 * rows[:, 6] - 9)
    assert 10 < rows[:, -1].sum() < 400
    assert fit(rows, Columns(4, 2, 1), "logistic").reason == ""


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_an_outcome_without_variation_is_said(value):
    rows = people(11)
    rows[:, -1] = value
    assert "outcome 1 and with outcome 0" in fit(rows, Columns(4, 2, 1), "2sri").reason


def test_instruments_that_explain_the_exposure_entirely_leave_no_residual_to_include():
    rows = people(12)
    rows[:, 6] = rows[:, :4].sum(1)
    assert "entirely" in fit(rows, Columns(4, 2, 1), "2sri").reason
    assert fit(rows, Columns(4, 2, 1), "logistic").reason == ""


def test_overshooting_steps_are_halved():
    # heavy tails: some full steps go far past the maximum
    rng = np.random.default_rng(349)
    n, k = rng.integers(20, 80), rng.integers(1, 4)
    d = np.column_stack([rng.standard_t(rng.choice([0.5, 0.8, 1.0]), size=(n, k)), np.ones(n)])
    uniform = rng.random(n)
    y = (uniform < expit(d[:, 0] * rng.normal() - 4)).astype(float)
    seen = []

    def evaluate(theta):
        seen.append(LogisticSums.from_block(d, y, theta, d, np.ones(n)))
        return seen[-1]

    found = maximise(evaluate, k + 1)
    likelihoods = np.array([sums.log_likelihood for sums in seen])
    assert (np.diff(likelihoods) < -1).any()
    assert found.reason == ""
    assert_allclose(found.sums.log_likelihood, likelihoods.max(), rtol=1e-12)
    assert_allclose(found.sums.gradient / np.abs(d).sum(0), 0, atol=1e-12)


def test_the_note_says_what_was_assumed():
    assert "0.012" in case_control_note(0.012)
    assert "prevalence" in case_control_note(None)
