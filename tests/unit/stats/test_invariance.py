"""The permutation MMD test: its formulas in double loops, what it sees, and that it is valid."""

from __future__ import annotations

from itertools import combinations, permutations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from mrscale.errors import InputError
from mrscale.stats.embedding import PermutationTest, balanced_subsample, embed
from mrscale.stats.invariance import invariance_test, profile


def people(seed, counts=(100, 60, 140), num_latents=2):
    rng = np.random.default_rng(seed)
    environment = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    return rng.normal(size=(len(environment), num_latents)), environment


def mmd2(kernel, a, b):
    """Mean of the kernel within each of two groups, less twice that between them; double loops."""

    def mean(rows, columns):
        total = 0.0
        for i in rows:
            for j in columns:
                total += kernel[i, j]
        return total / (len(rows) * len(columns))

    return mean(a, a) + mean(b, b) - 2 * mean(a, b)


def statistics(kernel, labels):
    """T, and the squared distance of every pair."""
    n, groups = len(labels), [np.flatnonzero(labels == c) for c in np.unique(labels)]
    pairs = [(a, b, mmd2(kernel, a, b)) for a, b in combinations(groups, 2)]
    total = sum(len(a) * len(b) / n**2 * d for a, b, d in pairs)
    sizes = np.array([len(a) * len(b) / (len(a) + len(b)) for a, b, _ in pairs])
    return total, np.array([d for *_, d in pairs]), sizes


def test_statistics_and_pvalues_equal_double_loops_over_people():
    latent, environment = people(0, (15, 30, 9))
    latent = latent + 0.2 * environment[:, None]
    codes = np.array([7, 3, 5])[environment]
    found = invariance_test(latent, codes, np.random.default_rng(4), permutations=25, max_people=36)
    rng = np.random.default_rng(4)
    rows = balanced_subsample(codes, 36, rng)
    features = embed(latent[rows], rng)
    kernel, labels = features @ features.T, codes[rows]
    assert len(rows) == 12 + 9 + 12
    drawn = rng.permuted(np.tile(np.unique(labels, return_inverse=True)[1], (25, 1)), axis=1)
    total, distance, sizes = statistics(kernel, labels)
    permuted = [statistics(kernel, one) for one in drawn]
    joint = np.array([t for t, *_ in permuted])
    largest = np.array([(d * s).max() for _, d, s in permuted])
    chance = np.trace(kernel) / (len(rows) - 1)  # of one person's features
    assert_array_equal(found.pairs, [[3, 5], [3, 7], [5, 7]])
    assert_allclose(found.joint.statistic, total - 2 * chance / len(rows), atol=1e-12)
    assert_allclose(found.joint.z, (total - joint.mean()) / joint.std(), rtol=1e-8)
    assert_allclose(found.joint.pvalue, (1 + (joint >= total).sum()) / 26)
    assert_allclose(found.pair_statistic, distance - chance / sizes, atol=1e-12)
    exceeded = [(1 + (largest >= d * s).sum()) / 26 for d, s in zip(distance, sizes, strict=True)]
    assert_allclose(found.pair_pvalue, exceeded)


def test_what_chance_gives_is_the_mean_over_all_permutations():
    """So that statistics are zero where nothing differs, exactly and not only for many people."""
    latent, _ = people(1, (7,))
    labels = np.array([0, 0, 0, 1, 1, 2, 2])
    features = embed(latent, np.random.default_rng(0))
    kernel = features @ features.T
    every = [statistics(kernel, labels[list(order)]) for order in set(permutations(range(7)))]
    one = np.trace(kernel) / 6
    assert_allclose(np.mean([t for t, *_ in every]), one * 2 / 7)
    distance, sizes = np.mean([d for _, d, _ in every], axis=0), every[0][2]
    assert_allclose(distance, one / sizes)


def test_environments_that_share_nothing_give_one_at_most():
    rng = np.random.default_rng(2)
    environment = np.repeat([0, 1], 200)
    latent = 1e6 * environment[:, None] + rng.normal(size=(400, 1)) * 1e-3
    found = invariance_test(latent, environment, np.random.default_rng(0))
    assert 0.7 < found.joint.statistic <= 1
    assert found.joint.pvalue == 1 / 200


@pytest.mark.parametrize(
    "change",
    [
        lambda g: g + 0.5,
        lambda g: g * 1.5,
        lambda g: np.sign(g) * np.sqrt(np.abs(g)),
        lambda g: np.column_stack([g[:, 0], 0.7 * g[:, 0] + np.sqrt(0.51) * g[:, 1]]),
        lambda g: (g**2 - 1) / np.sqrt(2),
    ],
    ids=["mean", "scale", "shape", "covariance", "skewness"],
)
def test_one_environment_with_another_law_is_seen_and_named(change):
    latent, environment = people(3, (400, 400, 400, 400))
    latent[environment == 2] = change(latent[environment == 2])
    found = invariance_test(latent, environment, np.random.default_rng(0))
    assert found.joint.pvalue == 1 / 200
    guilty = (found.pairs == 2).any(axis=1)
    assert (found.pair_pvalue[guilty] < 0.05).all()
    assert found.pair_statistic[guilty].min() > found.pair_statistic[~guilty].max()


def test_equal_laws_are_rejected_as_often_as_the_level_says():
    """Jointly and for any pair; environments of unequal size, heavy tails and ties."""
    rng, joint, any_pair = np.random.default_rng(0), [], []
    environment = np.repeat([0, 1, 2, 3], [4, 20, 50, 60])
    for _ in range(300):
        latent = np.round(rng.standard_t(2, size=(134, 2)))
        found = invariance_test(latent, environment, rng, permutations=19)
        joint.append(found.joint.pvalue)
        any_pair.append(found.pair_pvalue.min())
    for level in (0.05, 0.1, 0.5):
        error = np.sqrt(level * (1 - level) / 300)
        for pvalues in (joint, any_pair):
            share = np.mean(np.array(pvalues) <= level + 1e-9)
            assert share == pytest.approx(level, abs=3.5 * error)


def test_one_environment_is_refused():
    latent, _ = people(4, (20,))
    with pytest.raises(InputError, match="at least two environments; found 1; give"):
        invariance_test(latent, np.full(20, 3), np.random.default_rng(0))


def test_a_latent_that_does_not_vary_has_one_law():
    _, environment = people(5, (10, 20))
    for value in (0.0, 0.1, -1e9 / 7):
        found = invariance_test(np.full((30, 2), value), environment, np.random.default_rng(0))
        assert found.joint == PermutationTest(0.0, 0.0, 1.0)
        assert_array_equal(found.pair_statistic, 0)
        assert_array_equal(found.pair_pvalue, 1)


def test_environments_of_one_person_each_cannot_differ():
    latent, _ = people(6, (12,))
    found = invariance_test(latent, np.arange(12), np.random.default_rng(0))
    assert (found.joint.z, found.joint.pvalue) == (0, 1)
    assert found.joint.statistic == pytest.approx(0, abs=1e-12)
    assert np.isfinite(found.pair_statistic).all()


def test_an_environment_of_one_person_is_one_more_pair():
    latent, environment = people(7, (1, 40, 60))
    found = invariance_test(latent, environment, np.random.default_rng(0))
    assert found.pairs.shape == (3, 2)
    assert found.pair_pvalue.min() > 0.05
    outlier = np.where(environment[:, None] == 0, 1e6, latent)
    far = invariance_test(outlier, environment, np.random.default_rng(0))
    assert np.isfinite(far.pair_statistic).all()
    assert far.pair_pvalue[:2].max() < 0.05


def test_people_given_many_times_do_no_harm():
    latent, environment = (np.repeat(v, 20, axis=0) for v in people(8, (2, 2)))
    found = invariance_test(latent, environment, np.random.default_rng(0))
    assert np.isfinite([found.joint.statistic, found.joint.z]).all()
    assert np.isfinite(found.pair_statistic).all()


def test_equal_seeds_give_equal_results_and_inputs_are_left_alone():
    latent, environment = people(9)
    before = latent.copy(), environment.copy()
    one, two = (invariance_test(latent, environment, np.random.default_rng(3)) for _ in range(2))
    assert one.joint == two.joint
    assert_array_equal(one.pair_pvalue, two.pair_pvalue)
    assert_array_equal(latent, before[0])
    assert_array_equal(environment, before[1])


def test_a_profile_has_the_moments_of_each_environment_of_more_than_twenty():
    rng = np.random.default_rng(3)
    environment = np.repeat([0, 1, 3], [40, 20, 21])
    values = rng.normal(size=(81, 2)) + environment[:, None]
    means, deviations = profile(values, environment, 4)
    for code in (0, 3):
        inside = values[environment == code]
        np.testing.assert_allclose(means[code], inside.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(deviations[code], inside.std(axis=0), rtol=1e-12)
    assert np.isnan(means[[1, 2]]).all()
    assert np.isnan(deviations[[1, 2]]).all()
