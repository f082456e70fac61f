"""Misfit checks: what they see, and that they equal the same regression on rows."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose

from mrscale.stats.design import indicators
from mrscale.stats.misfit import RIDGE, Misfit, RandomFeatures, misfit
from mrscale.stats.moments import Moments

NUM_FOLDS, NUM_ENVIRONMENTS, NUM_TARGETS = 3, 4, 5  # basis of two latents, degree 2


def people(rng, num_people=6000):
    fold = rng.integers(0, NUM_FOLDS, num_people)
    environment = rng.integers(0, NUM_ENVIRONMENTS, num_people).astype(np.int16)
    remainder = rng.normal(size=(num_people, 2)) + 0.5 * environment[:, None]
    return fold, environment, remainder, rng.normal(size=(num_people, 2))


def design(remainder, latent, environment, count=40):
    features = RandomFeatures.draw(remainder.shape[1], np.random.default_rng(0), count)
    return features.rows(latent, remainder, indicators(environment, NUM_ENVIRONMENTS))


def groups(rows, fold, environment):
    return {
        (f, e): Moments.from_block(rows[(fold == f) & (environment == e)])
        for f in range(NUM_FOLDS)
        for e in range(NUM_ENVIRONMENTS)
        if ((fold == f) & (environment == e)).any()
    }


def check(fold, environment, remainder, latent):
    return misfit(groups(design(remainder, latent, environment), fold, environment), 5, 2)


def test_an_independent_latent_passes():
    found = check(*people(np.random.default_rng(1)))
    assert found.passed
    assert -0.05 < found.r2 < 0.01


@pytest.mark.parametrize(
    "dependence",
    [
        lambda g, h, e: g + 0.5 * h,
        lambda g, h, e: g + 0.5 * e[:, None],
        lambda g, h, e: g + np.sin(2 * h),
        lambda g, h, e: g + 0.8 * h * (e == 1)[:, None],
    ],
    ids=["remainder", "environment", "smooth", "interaction"],
)
def test_a_latent_whose_mean_depends_on_the_rest_fails(dependence):
    fold, environment, remainder, latent = people(np.random.default_rng(2))
    found = check(fold, environment, remainder, dependence(latent, remainder, environment))
    assert found.r2 > 0.02
    assert not found.passed


def test_a_latent_whose_spread_depends_on_the_environment_fails():
    fold, environment, remainder, latent = people(np.random.default_rng(3))
    found = check(fold, environment, remainder, latent * (0.5 + environment[:, None]))
    assert found.likelihood_ratio > 0.1
    assert not found.passed


def test_both_checks_must_be_passed():
    assert Misfit(0.009, 0.009).passed
    assert not Misfit(0.011, 0.009).passed
    assert not Misfit(0.009, 0.011).passed


def ridge(rows, targets, train):
    """Out-of-sample residuals of every target from a dense ridge on standardised features."""
    mean, features = rows[train].mean(0), rows[train][:, targets:]
    scale = np.sqrt(((features - features.mean(0)) ** 2).sum(0))
    scale[scale == 0] = 1
    standard = (rows - mean)[:, targets:] / scale
    a, b = standard[train], (rows - mean)[train][:, :targets]
    coefficients = np.linalg.solve(a.T @ a + RIDGE * np.eye(a.shape[1]), a.T @ b)
    return (rows - mean)[:, :targets] - standard @ coefficients


def log_density(residuals, covariance):
    inverse = np.linalg.inv(covariance)
    quadratic = np.einsum("ij,jk,ik->i", residuals, inverse, residuals)
    return -0.5 * (quadratic + np.linalg.slogdet(covariance)[1])


def test_both_statistics_equal_those_of_a_dense_ridge_regression():
    fold, environment, remainder, latent = people(np.random.default_rng(4), 900)
    latent = latent + 0.3 * remainder
    rows = design(remainder, latent, environment, count=20)
    found = misfit(groups(rows, fold, environment), NUM_TARGETS, 2)
    left, ratio = np.zeros(NUM_TARGETS), 0.0
    for f in range(NUM_FOLDS):
        test, train = fold == f, fold != f
        residuals = ridge(rows, NUM_TARGETS, train)
        left += (residuals[test] ** 2).sum(0)
        g, r = (rows - rows[train].mean(0))[:, :2], residuals[:, :2]
        ratio -= log_density(g[test], g[train].T @ g[train] / train.sum()).sum()
        for e in range(NUM_ENVIRONMENTS):
            fitted, judged = (r[rows & (environment == e)] for rows in (train, test))
            ratio += log_density(judged, fitted.T @ fitted / len(fitted)).sum()
    total = ((rows - rows.mean(0)) ** 2).sum(0)[:NUM_TARGETS]
    assert_allclose(found.r2, np.mean(1 - left / total), rtol=1e-8)
    assert_allclose(found.likelihood_ratio, ratio / len(rows), rtol=1e-8)


def test_features_are_bounded_where_the_remainder_is_extreme():
    features = RandomFeatures.draw(2, np.random.default_rng(0), 10)
    far = features.rows(np.zeros((1, 2)), np.full((1, 2), 1e6), np.zeros((1, 3)))
    near = features.rows(np.zeros((1, 2)), np.full((1, 2), 5.0), np.zeros((1, 3)))
    assert_allclose(far, near)


def test_an_environment_seen_in_one_part_is_judged_by_what_all_the_others_say():
    fold, environment, remainder, latent = people(np.random.default_rng(5), 900)
    kept = (environment != 3) | (fold == 1)
    fold, environment, remainder, latent = (
        values[kept] for values in (fold, environment, remainder, latent)
    )
    rows = design(remainder, latent + 0.3 * remainder, environment, count=20)
    found = misfit(groups(rows, fold, environment), NUM_TARGETS, 2)
    left, ratio = np.zeros(NUM_TARGETS), 0.0
    for f in range(NUM_FOLDS):
        test, train = fold == f, fold != f
        residuals = ridge(rows, NUM_TARGETS, train)
        left += (residuals[test] ** 2).sum(0)
        g, r = (rows - rows[train].mean(0))[:, :2], residuals[:, :2]
        ratio -= log_density(g[test], g[train].T @ g[train] / train.sum()).sum()
        for e in range(NUM_ENVIRONMENTS):
            known, judged = train & (environment == e), test & (environment == e)
            fitted = r[known if known.any() else train]
            ratio += log_density(r[judged], fitted.T @ fitted / len(fitted)).sum()
    total = ((rows - rows.mean(0)) ** 2).sum(0)[:NUM_TARGETS]
    assert_allclose(found.r2, np.mean(1 - left / total), rtol=1e-8)
    assert_allclose(found.likelihood_ratio, ratio / len(rows), rtol=1e-8)


@pytest.mark.parametrize("size", [0, 1, 2, 3, 5, 12, 20])
def test_a_small_environment_neither_breaks_the_checks_nor_sways_them(size):
    """A covariance of three people would make its others look impossible, and a misfit pass."""
    fold, environment, remainder, latent = people(np.random.default_rng(6), 1500)
    latent = latent * (0.7 + 0.3 * environment[:, None])
    kept = (environment != 2) | (np.cumsum(environment == 2) <= size)
    found, without = (
        check(*(values[rows] for values in (fold, environment, remainder, latent)))
        for rows in (kept, environment != 2)
    )
    assert np.isfinite(found.r2)
    assert abs(found.likelihood_ratio - without.likelihood_ratio) < 0.03
    assert found.likelihood_ratio > 0.03


@pytest.mark.parametrize("value", [0.0, 0.1, 1e3 / 7])
def test_a_latent_that_does_not_vary_is_no_misfit_and_no_number_is_missing(value):
    fold, environment, remainder, latent = people(np.random.default_rng(7), 1200)
    remainder[:, 1] = value
    one = check(fold, environment, remainder, np.column_stack([latent[:, 0], np.full(1200, value)]))
    assert np.isfinite([one.r2, one.likelihood_ratio]).all()
    assert one.passed
    none = check(fold, environment, remainder, np.full((1200, 2), value))
    assert (none.r2, none.likelihood_ratio) == (0, 0)


def test_a_latent_that_varies_in_some_environments_only_is_a_misfit():
    fold, environment, remainder, latent = people(np.random.default_rng(8), 1200)
    found = check(fold, environment, remainder, latent * (environment > 0)[:, None])
    assert 0.1 < found.likelihood_ratio < np.inf


def test_a_latent_given_twice_is_judged_once():
    fold, environment, remainder, latent = people(np.random.default_rng(9), 1200)
    spread = latent[:, :1] * (0.5 + environment[:, None])
    twice = check(fold, environment, remainder, np.hstack([spread, spread]))
    rows = design(remainder, spread, environment)
    once = misfit(groups(rows, fold, environment), 2, 1)
    assert_allclose(twice.likelihood_ratio, once.likelihood_ratio, rtol=1e-5)


def test_units_of_the_latent_do_not_matter_to_the_likelihood():
    fold, environment, remainder, latent = people(np.random.default_rng(10), 1200)
    one, other = (check(fold, environment, remainder, latent * s) for s in ([1, 1], [1e-4, 50]))
    assert_allclose(one.likelihood_ratio, other.likelihood_ratio, rtol=1e-6)


def test_one_part_alone_cannot_be_judged():
    _, environment, remainder, latent = people(np.random.default_rng(11), 300)
    found = check(np.zeros(300, int), environment, remainder, latent)
    assert np.isnan([found.r2, found.likelihood_ratio]).all()
    assert not found.passed
