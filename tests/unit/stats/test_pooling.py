"""Meta-analysis, replicated encoders and intervals against the formulas and scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats

from mrscale.stats.pooling import interval, meta_analysis, replicate_mean

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
