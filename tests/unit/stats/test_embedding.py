"""Mean embeddings against kernels in double loops, subsamples, and permutation p-values."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from mrscale.stats.embedding import (
    PermutationTest,
    balanced_subsample,
    embed,
    permutation_pvalue,
    standardise,
)
from mrscale.stats.misfit import RandomFeatures

NUM_SMOOTH = 50


def parts(rows, seed=0):
    features = embed(rows, np.random.default_rng(seed))
    return features[:, :NUM_SMOOTH], features[:, NUM_SMOOTH:]


def test_smooth_features_are_the_centred_cosines_of_the_definition():
    rows = np.random.default_rng(1).normal(3, 5, size=(40, 2))
    found, _ = parts(rows, seed=9)
    drawn = RandomFeatures.draw(2, np.random.default_rng(9), NUM_SMOOTH)
    standard = (rows - rows.mean(0)) / rows.std(0)
    expected = np.empty((40, NUM_SMOOTH))
    for i in range(40):
        for j in range(NUM_SMOOTH):
            angle = sum(standard[i, k] * drawn.frequencies[k, j] for k in range(2))
            expected[i, j] = np.cos(angle + drawn.phases[j])
    expected -= expected.mean(0)
    expected /= np.sqrt(2 * (expected**2).sum() / 40)
    assert_allclose(found, expected, atol=1e-12)


def test_random_frequencies_are_those_of_gaussian_kernels_of_three_bandwidths():
    """Twice the mean product of cosines is the mean of exp(-s^2 |x - y|^2 / 2), s sqrt(K) being
    1/2, 1 and 2."""
    rng = np.random.default_rng(2)
    points = rng.normal(size=(6, 3))
    drawn = RandomFeatures.draw(3, rng, 200_000)
    smooth = np.cos(points @ drawn.frequencies + drawn.phases)
    for i in range(6):
        for j in range(6):
            square = ((points[i] - points[j]) ** 2).sum() / 3
            kernel = np.mean([np.exp(-(s**2) * square / 2) for s in (0.5, 1.0, 2.0)])
            assert 2 * np.mean(smooth[i] * smooth[j]) == pytest.approx(kernel, abs=0.01)


def test_polynomial_features_have_the_kernel_of_a_projection_on_cubics():
    """Their products are the hat matrix of the regression on the basis, clipped at four sd."""
    rows = np.random.default_rng(3).standard_t(3, size=(300, 2))
    _, found = parts(rows)
    a, b = (np.clip((c - c.mean()) / c.std(), -4, 4) for c in rows.T)
    basis = np.column_stack([a, b, a**2, b**2, a**3, b**3, a * b])
    q = np.linalg.qr(basis - basis.mean(0))[0]
    assert np.abs(np.c_[a, b]).max() == 4
    assert_allclose(found @ found.T, q @ q.T * 300 / 14, atol=1e-9)


@pytest.mark.parametrize("rows", [np.eye(30)[:, :2], np.random.default_rng(4).normal(size=(30, 3))])
def test_features_are_centred_and_each_half_has_half_of_the_variance(rows):
    for half in parts(rows):
        assert_allclose(half.sum(0), 0, atol=1e-12)
        assert (half**2).sum() / 30 == pytest.approx(0.5)


def test_units_and_origins_do_not_matter():
    rows = np.random.default_rng(5).normal(size=(60, 2))
    moved = rows * [1e-3, 1e4] + [7.0, -1e5]
    assert_allclose(np.hstack(parts(moved)), np.hstack(parts(rows)), atol=1e-7)


@pytest.mark.parametrize("value", [0.0, 0.1, -1e9 / 3])
def test_columns_that_do_not_vary_are_nothing(value):
    assert_array_equal(np.hstack(parts(np.full((20, 2), value))), 0)
    rows = np.random.default_rng(6).normal(size=(20, 2))
    rows[:, 1] = value
    assert_array_equal(standardise(rows)[:, 1], 0)
    assert_allclose((np.hstack(parts(rows)) ** 2).sum() / 20, 1)


@pytest.mark.parametrize("num_people", [1, 2, 3])
def test_a_handful_of_people_have_finite_features(num_people):
    rows = np.random.default_rng(7).normal(size=(num_people, 4))
    assert np.isfinite(embed(rows, np.random.default_rng(0))).all()


def test_people_given_twice_have_the_features_of_the_original():
    rows = np.random.default_rng(8).normal(size=(25, 2))
    once, twice = np.hstack(parts(rows)), np.hstack(parts(np.repeat(rows, 2, axis=0)))
    assert_allclose(twice[::2], twice[1::2])
    assert_allclose(twice[::2] @ twice[::2].T, once @ once.T, atol=1e-10)


def test_subsamples_are_balanced_sorted_and_without_repeats():
    environment = np.repeat([5, 2, 9], [500, 30, 200])
    rows = balanced_subsample(environment, 300, np.random.default_rng(0))
    assert len(np.unique(rows)) == len(rows)
    assert_array_equal(np.unique(environment[rows], return_counts=True)[1], [30, 100, 100])
    assert (np.diff(environment[rows]) >= 0).all()
    everybody = balanced_subsample(environment, 10_000, np.random.default_rng(0))
    assert_array_equal(np.sort(everybody), np.arange(730))
    assert len(balanced_subsample(environment, 2, np.random.default_rng(0))) == 3


def test_everybody_of_an_environment_is_as_likely_to_be_drawn():
    environment, drawn = np.repeat([0, 1], [12, 5]), np.zeros(17)
    for seed in range(2000):
        drawn[balanced_subsample(environment, 6, np.random.default_rng(seed))] += 1
    assert np.abs(drawn[:12] / 2000 - 3 / 12).max() < 4.5 * np.sqrt(3 / 16 / 2000)
    assert np.abs(drawn[12:] / 2000 - 3 / 5).max() < 4.5 * np.sqrt(6 / 25 / 2000)


def test_pvalues_count_the_permuted_that_are_as_large():
    permuted = np.array([3.0, 1.0, 2.0, 2.0])
    assert_allclose(permutation_pvalue(np.array([4.0, 2.0, 0.5]), permuted), [0.2, 0.8, 1.0])
    assert permutation_pvalue(2.0 * (1 + 1e-15), permuted) == 0.8
    assert permutation_pvalue(2.0 * (1 + 1e-8), permuted) == 0.4
    assert permutation_pvalue(0.0, np.zeros(3)) == 1


def test_pvalues_of_exchangeable_values_are_below_each_level_as_often_as_it_says():
    draws = np.random.default_rng(0).exponential(size=(4000, 20))
    found = np.array([permutation_pvalue(one[0], one[1:]) for one in draws])
    for level in (0.05, 0.1, 0.5):
        assert np.mean(found <= level + 1e-12) == pytest.approx(
            level, abs=4 * np.sqrt(level / 4000)
        )


def test_z_is_the_distance_in_permuted_standard_deviations():
    found = PermutationTest.of(0.25, np.array([5.0, 1.0, 3.0]))
    assert (found.statistic, found.z) == (0.25, 3.0)
    assert found.pvalue == pytest.approx(1 / 3)


def test_z_is_zero_where_permuting_changes_rounding_only():
    raw = 1 + np.array([4, 1, -2, 3, 0]) * np.finfo(float).eps
    assert PermutationTest.of(0.0, raw) == PermutationTest(0.0, 0.0, 1.0)
