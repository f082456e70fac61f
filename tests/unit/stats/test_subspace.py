"""Front end and stationary subspaces on models whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.linalg import subspace_angles

from mrscale.errors import InputError
from mrscale.stats.moments import Moments
from mrscale.stats.subspace import (
    MAX_FACTORS,
    SCORE_RIDGE,
    add_score,
    count_factors,
    count_invariant,
    fit_front_end,
    stationary_subspace,
)

NUM_ENVIRONMENTS = 5


def factor_dosages(rng, num_people, num_variants, num_factors):
    """Dosages whose logit frequencies follow independent factors."""
    factors = rng.normal(size=(num_people, num_factors))
    loadings = rng.normal(size=(num_factors, num_variants))
    loadings *= 0.9 / np.linalg.norm(loadings, axis=0)
    logit = rng.uniform(-1, 1, num_variants) + factors @ loadings
    return rng.binomial(2, 1 / (1 + np.exp(-logit))).astype(float)


def linear_mixture(rng, num_people, still=2, moving=2, environments=NUM_ENVIRONMENTS):
    """Mixed sources, environment codes, and the mixing matrix (still columns first)."""
    environment = rng.integers(0, environments, num_people).astype(np.int16)
    shift = rng.normal(0, 1.5, (environments, moving))[environment]
    spread = rng.uniform(0.5, 2, (environments, moving))[environment]
    exogenous = rng.normal(size=(num_people, still))
    confounded = shift + spread * rng.normal(size=(num_people, moving))
    mixing = rng.normal(size=(still + moving, still + moving))
    return np.c_[exogenous, confounded] @ mixing.T, environment, mixing


def by_environment(rows, environment):
    return [Moments.from_block(rows[environment == e]) for e in np.unique(environment)]


def test_scores_are_uncorrelated_with_unit_variance():
    rng = np.random.default_rng(0)
    dosage = factor_dosages(rng, 3000, 40, 3)
    dosage[:, 7] = 1  # does not vary
    front = fit_front_end(Moments.from_block(dosage), 5)
    scores = front.scores(dosage)
    assert front.num_factors == 5
    assert_allclose(scores.mean(axis=0), 0, atol=1e-10)
    assert_allclose(np.cov(scores.T), np.eye(5), atol=1e-8)
    assert (front.projection[7] == 0).all()


def test_the_front_end_keeps_the_largest_principal_components():
    rng = np.random.default_rng(1)
    dosage = factor_dosages(rng, 500, 12, 2)
    front = fit_front_end(Moments.from_block(dosage), 3)
    correlation = np.corrcoef(dosage.T)
    assert_allclose(front.eigenvalues, np.sort(np.linalg.eigvalsh(correlation))[::-1], rtol=1e-8)
    standard = (dosage - dosage.mean(0)) / dosage.std(0, ddof=1)
    u, s, _ = np.linalg.svd(standard, full_matrices=False)
    assert max(subspace_angles(front.scores(dosage), u[:, :3] * s[:3])) < 1e-6


def test_units_of_a_variant_do_not_matter():
    dosage = factor_dosages(np.random.default_rng(2), 400, 10, 2)
    one = fit_front_end(Moments.from_block(dosage), 2).scores(dosage)
    scaled = 3 * dosage - 1
    two = fit_front_end(Moments.from_block(scaled), 2).scores(scaled)
    assert_allclose(one, two, atol=1e-8)


@pytest.mark.parametrize(("people", "variants", "factors"), [(5000, 100, 4), (2000, 60, 3)])
def test_the_number_of_factors_is_found(people, variants, factors):
    for seed in range(3):
        dosage = factor_dosages(np.random.default_rng(seed), people, variants, factors)
        assert fit_front_end(Moments.from_block(dosage)).num_factors == factors


def test_noise_has_the_least_number_of_factors_and_many_are_capped():
    rng = np.random.default_rng(3)
    noise = np.linalg.eigvalsh(np.corrcoef(rng.normal(size=(2000, 50)).T))[::-1]
    assert count_factors(noise, 2000) == 2
    steps = np.r_[np.full(40, 50.0), np.full(60, 0.1)]
    assert 2 <= count_factors(steps, 10_000) <= MAX_FACTORS


def test_too_few_varying_variants_are_refused():
    dosage = factor_dosages(np.random.default_rng(4), 100, 6, 2)
    with pytest.raises(InputError, match=r"at least 7 varying variants.*found 6"):
        fit_front_end(Moments.from_block(dosage), 7)
    dosage[:, 1:] = 0
    with pytest.raises(InputError, match=r"at least 2 varying variants.*found 1"):
        fit_front_end(Moments.from_block(dosage))


def test_a_copy_of_a_variant_is_no_factor():
    dosage = factor_dosages(np.random.default_rng(4), 100, 4, 2)
    twice = np.c_[dosage, 2 - dosage[:, :1], dosage[:, 1:2]]
    with pytest.raises(InputError, match=r"none of them a copy.*found 4"):
        fit_front_end(Moments.from_block(twice), 5)


@pytest.mark.parametrize("features", [2, 4, 8])
def test_all_of_a_few_features_without_noise_are_factors(features):
    rng = np.random.default_rng(features)
    for _ in range(5):
        mixed = rng.normal(size=(4000, features)) @ rng.normal(size=(features, features))
        assert fit_front_end(Moments.from_block(mixed)).num_factors == features


def test_a_few_variants_that_are_noise_beyond_one_factor_keep_the_least_number():
    for seed in range(5):
        dosage = np.random.default_rng(seed).binomial(2, 0.3, (4000, 8)).astype(float)
        assert fit_front_end(Moments.from_block(dosage)).num_factors == 2


@pytest.mark.parametrize("seed", range(5))
def test_stationary_directions_of_a_linear_mixture_are_found(seed):
    rows, environment, mixing = linear_mixture(np.random.default_rng(seed), 20_000)
    found = stationary_subspace(by_environment(rows, environment))
    # a direction v is stationary when v'x holds exogenous sources alone
    truth = np.linalg.inv(mixing).T[:, :2]
    assert max(subspace_angles(found.directions[:, :2], truth)) < 0.1
    assert (np.diff(found.nonstationarity) >= 0).all()
    assert found.nonstationarity[2] > 20 * found.nonstationarity[1]


def test_directions_have_unit_variance_within_environments():
    rows, environment, _ = linear_mixture(np.random.default_rng(7), 5000)
    parts = by_environment(rows, environment)
    directions = stationary_subspace(parts).directions
    weights = [part.count / len(rows) for part in parts]
    within = np.tensordot(weights, [part.covariance for part in parts], axes=1)
    assert_allclose(directions.T @ within @ directions, np.eye(4), atol=1e-4)  # ridge 1e-6


def test_rotating_the_scores_changes_nothing():
    rng = np.random.default_rng(8)
    rows, environment, _ = linear_mixture(rng, 5000)
    rotation, _ = np.linalg.qr(rng.normal(size=(4, 4)))
    one = stationary_subspace(by_environment(rows, environment))
    two = stationary_subspace(by_environment(rows @ rotation, environment))
    assert_allclose(one.nonstationarity, two.nonstationarity, rtol=1e-6, atol=1e-9)
    turned = rotation @ two.directions
    for j in range(4):
        assert max(subspace_angles(one.directions[:, [j]], turned[:, [j]])) < 1e-5


def test_the_result_equals_the_formula():
    rows, environment, _ = linear_mixture(np.random.default_rng(9), 800)
    groups = [rows[environment == e] for e in range(NUM_ENVIRONMENTS)]
    weights = np.array([len(g) for g in groups]) / len(rows)
    covariances = np.stack([np.cov(g.T) for g in groups])
    average = np.tensordot(weights, covariances, axes=1)
    moving = sum(
        w * np.outer(d := g.mean(0) - rows.mean(0), d)
        + w / 2 * (s - average) @ np.linalg.solve(average, s - average)
        for w, g, s in zip(weights, groups, covariances, strict=True)
    )
    expected = np.sort(np.linalg.eigvals(np.linalg.solve(average, moving)).real)
    found = stationary_subspace(by_environment(rows, environment), ridge=0)
    assert_allclose(found.nonstationarity, expected, rtol=1e-8)


@pytest.mark.parametrize(("still", "moving"), [(2, 2), (1, 3), (3, 1)])
def test_invariant_directions_are_counted(still, moving):
    for seed in range(2):
        rng = np.random.default_rng([still, seed])
        rows, environment, _ = linear_mixture(rng, 6000, still, moving)
        front = fit_front_end(Moments.from_block(rows), 4)
        assert count_invariant(front.scores(rows), environment, rng) == still


def test_no_invariant_direction_is_found_where_there_is_none():
    rng = np.random.default_rng(11)
    rows, environment, _ = linear_mixture(rng, 6000, 0, 4)
    assert count_invariant(rows, environment, rng) == 0


def test_a_first_stage_score_stands_beside_the_components():
    rng = np.random.default_rng(5)
    x = rng.binomial(2, 0.3, (3000, 12)).astype(float)
    exposure = x @ rng.normal(size=12) + rng.normal(size=3000)
    moments = Moments.from_block(np.c_[x, exposure])
    plain = fit_front_end(moments.select(range(12)), 2)
    guided = add_score(plain, moments)

    scores = guided.scores(x)
    assert_allclose(np.cov(scores.T), np.eye(3), atol=1e-10)
    # by the definition, on data instead of moments
    standard = (x - x.mean(0)) / x.std(0)
    response = (exposure - exposure.mean()) / exposure.std()
    penalised = standard.T @ standard + SCORE_RIDGE * len(x) * np.eye(12)
    ridge = standard @ np.linalg.solve(penalised, standard.T @ response)
    wanted = np.c_[plain.scores(x), ridge]
    assert subspace_angles(scores, wanted - wanted.mean(0)).max() < 1e-7
    assert_allclose(guided.eigenvalues, plain.eigenvalues)


def test_a_variant_that_does_not_vary_has_no_part_in_the_score():
    rng = np.random.default_rng(6)
    x = np.c_[rng.binomial(2, 0.3, (500, 5)), np.ones(500)].astype(float)
    moments = Moments.from_block(np.c_[x, x[:, 0] + rng.normal(size=500)])
    guided = add_score(fit_front_end(moments.select(range(6)), 2), moments)
    assert np.isfinite(guided.projection).all()
    assert (guided.projection[5] == 0).all()


@pytest.mark.parametrize("value", [1.0, 0.1, 37.2])
def test_a_variant_that_does_not_vary_takes_no_part(value):
    dosage = factor_dosages(np.random.default_rng(2), 9_000, 10, 2)
    exposure = dosage @ np.linspace(0, 1, 10) + np.random.default_rng(3).normal(size=9_000)
    more = np.column_stack([dosage, np.full(len(dosage), value)])

    def guided(columns):
        moments = Moments.from_block(np.column_stack([columns, exposure]))
        return add_score(fit_front_end(moments.select(range(columns.shape[1])), 2), moments)

    front = guided(more)
    assert_array_equal(front.projection[-1], 0)
    assert_allclose(front.scores(more), guided(dosage).scores(dosage), atol=1e-8)
