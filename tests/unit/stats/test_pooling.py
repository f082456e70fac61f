"""Meta-analysis, replicated encoders and intervals against the formulas and scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats
from statsmodels.stats.meta_analysis import combine_effects

from mrscale.stats.pooling import interval, meta_analysis, random_effects, replicate_mean

ESTIMATES = np.array([0.52, 0.31, 0.70, 0.44])
ERRORS = np.array([0.10, 0.08, 0.21, 0.05])


def test_meta_analysis_is_weighted_least_squares_on_a_constant():
    found = meta_analysis(ESTIMATES, ERRORS)
    root = 1 / ERRORS[:, None]
    expected, rss, *_ = np.linalg.lstsq(root, ESTIMATES / ERRORS, rcond=None)
    assert_allclose(found.estimate, expected[0], rtol=1e-12)
    assert_allclose(found.std_error, np.linalg.inv(root.T @ root)[0, 0] ** 0.5, rtol=1e-12)
    assert_allclose(found.q, rss[0], rtol=1e-10)
    assert_allclose(found.q_pvalue, stats.chi2.sf(rss[0], 3), rtol=1e-10)
    assert_allclose(found.i2, 1 - 3 / rss[0], rtol=1e-10)


def test_equal_estimates_are_homogeneous():
    found = meta_analysis(np.full(3, 0.4), ERRORS[:3])
    assert_allclose([found.estimate, found.q, found.q_pvalue, found.i2], [0.4, 0, 1, 0], atol=1e-12)


def test_one_estimate_has_no_heterogeneity_to_test():
    found = meta_analysis(ESTIMATES[:1], ERRORS[:1])
    assert_allclose([found.estimate, found.std_error], [0.52, 0.10])
    assert math.isnan(found.q_pvalue)


def test_no_estimates_give_nothing():
    found = meta_analysis(np.array([]), np.array([]))
    assert all(math.isnan(value) for value in vars(found).values())


def test_far_tail_probabilities_do_not_vanish():
    assert 0 < meta_analysis(np.array([0.0, 14.2]), np.ones(2)).q_pvalue < 1e-20
    assert 0 < interval(10.0, 1.0)[2] < 1e-20


def test_replicates_add_their_spread_to_the_sampling_error():
    found = replicate_mean(ESTIMATES, within_variance=0.01)
    assert_allclose(found.estimate, ESTIMATES.mean())
    assert found.dof == 3
    assert_allclose(found.std_error**2, 0.01 + stats.sem(ESTIMATES) ** 2, rtol=1e-12)
    assert_allclose(found.between_variance, ESTIMATES.var(ddof=1))


@pytest.mark.parametrize("dof", [1, 3, 30, math.inf])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_intervals_are_those_of_scipy(dof, level):
    reference = stats.norm if math.isinf(dof) else stats.t(dof)
    low, high, pvalue = interval(0.3, 0.2, level=level, dof=dof)
    span = reference.ppf(0.5 + level / 2) * 0.2
    assert_allclose([low, high], [0.3 - span, 0.3 + span], rtol=1e-9)
    assert_allclose(pvalue, 2 * reference.cdf(-1.5), rtol=1e-9)


@pytest.mark.parametrize(("within", "least", "most"), [(0.0, 0.94, 0.96), (0.5, 0.95, 1.0)])
def test_the_mean_of_replicates_covers_at_its_level(within, least, most):
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(2000):
        shared = rng.normal(0, within)
        found = replicate_mean(shared + rng.normal(0, 2.0, 4), within**2)
        low, high, _ = interval(found.estimate, found.std_error, dof=found.dof)
        covered += low <= 0 <= high
    # with a known part in the error, t(S - 1) is wider than it need be
    assert least < covered / 2000 < most


@pytest.mark.parametrize(
    ("method", "name", "digits"),
    [("dersimonian-laird", "dl", 1e-8), ("paule-mandel", "iterated", 1e-5)],
)
@pytest.mark.parametrize("seed", [2, 3, 4, 6])
def test_random_effects_equal_statsmodels(method, name, digits, seed):
    rng = np.random.default_rng(seed)
    errors = rng.uniform(0.05, 0.3, 6)
    estimates = rng.normal(0.3, 0.3, 6) + rng.normal(0, errors)
    found = random_effects(estimates, errors, method=method)
    # it does not truncate at zero: these seeds have a positive variance; asked for more digits of
    # an iteration, it gives zero where rounding makes the last step too long
    oracle = combine_effects(estimates, errors**2, method_re=name)
    assert_allclose(found.tau2, oracle.tau2, rtol=digits)
    assert_allclose(found.estimate, oracle.mean_effect_re, rtol=digits)
    assert_allclose(found.std_error, oracle.sd_eff_w_re, rtol=digits)
    half = stats.t.isf(0.025, 4) * math.sqrt(found.tau2 + found.std_error**2)
    assert_allclose(found.prediction, [found.estimate - half, found.estimate + half], rtol=1e-10)


@pytest.mark.parametrize("method", ["dersimonian-laird", "paule-mandel"])
def test_random_effects_of_homogeneous_estimates_are_fixed_effects(method):
    found, fixed = (
        random_effects(np.array([0.4, 0.41, 0.42]), ERRORS[:3], method=method),
        meta_analysis(np.array([0.4, 0.41, 0.42]), ERRORS[:3]),
    )
    assert found.tau2 == 0
    assert_allclose([found.estimate, found.std_error], [fixed.estimate, fixed.std_error])


def test_paule_mandel_solves_its_equation():
    # statsmodels' iteration falls to zero here
    rng = np.random.default_rng(0)
    errors = rng.uniform(0.05, 0.3, 6)
    estimates = rng.normal(0.3, 0.3, 6) + rng.normal(0, errors)
    found = random_effects(estimates, errors, method="paule-mandel")
    assert found.tau2 > 0
    assert_allclose(meta_analysis(estimates, np.sqrt(errors**2 + found.tau2)).q, 5, rtol=1e-10)


def test_random_effects_of_few_estimates():
    one = random_effects(ESTIMATES[:1], ERRORS[:1])
    assert (one.estimate, one.tau2) == (ESTIMATES[0], 0)
    two = random_effects(ESTIMATES[:2], ERRORS[:2])
    assert two.tau2 > 0
    assert all(math.isnan(end) for end in two.prediction)
    assert math.isnan(random_effects(np.array([]), np.array([])).estimate)


def test_prediction_intervals_cover_a_new_environment():
    rng = np.random.default_rng(2)
    covered = 0
    for _ in range(1000):
        errors = rng.uniform(0.05, 0.15, 8)
        estimates = rng.normal(0.5, 0.3, 8) + rng.normal(0, errors)
        low, high = random_effects(estimates, errors).prediction
        covered += low <= rng.normal(0.5, 0.3) <= high
    assert 0.92 < covered / 1000 < 0.97


def test_an_estimate_without_error_outweighs_all_others():
    found = random_effects(np.array([0.0, 5.0]), np.array([1e-9, 1.0]))
    # sum w - sum w^2 / sum w is 2 w1 w2 / (w1 + w2)
    assert_allclose(found.tau2, (25 - 1) / 2, rtol=1e-12)
    assert interval(1.0, 0.0) == (1.0, 1.0, 0.0)
    assert math.isnan(interval(0.0, 0.0)[2])
