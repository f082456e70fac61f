"""The permutation HSIC test: its formula in double loops, what it sees, and that it is valid."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
from numpy.testing import assert_allclose

from mrscale.stats.embedding import PermutationTest, balanced_subsample, embed
from mrscale.stats.independence import independence_test


def people(seed, num_people=300, num_environments=3):
    rng = np.random.default_rng(seed)
    environment = rng.integers(0, num_environments, num_people)
    remainder = rng.normal(size=(num_people, 2)) * (1 + environment[:, None]) + environment[:, None]
    return rng.normal(size=(num_people, 2)), remainder, environment


def test_statistic_z_and_pvalue_equal_double_loops_over_people():
    latent, remainder, environment = people(0, 60)
    latent = latent + 0.3 * remainder
    found = independence_test(
        latent, remainder, environment, np.random.default_rng(5), permutations=12, max_people=45
    )
    rng = np.random.default_rng(5)
    rows = balanced_subsample(environment, 45, rng)
    e = environment[rows]

    def features(values):
        standard = np.empty(values.shape)
        for code in set(e.tolist()):
            group = values[e == code]
            standard[e == code] = (group - group.mean(0)) / group.std(0)
        found = embed(standard, rng)
        return found - np.stack([found[e == code].mean(0) for code in e])

    def v(phi, psi):
        """sum_ij k_g(i, j) k_h(i, j) (1{e_i = e_j} + 1)"""
        total = 0.0
        for i in range(len(e)):
            for j in range(len(e)):
                total += (phi[i] @ phi[j]) * (psi[i] @ psi[j]) * (1 + (e[i] == e[j]))
        return total

    phi, psi = features(latent[rows]), features(remainder[rows])
    raw = [v(phi, psi)]
    for _ in range(12):
        moved = phi.copy()
        for code in np.unique(e):
            moved[e == code] = moved[e == code][rng.permutation((e == code).sum())]
        raw.append(v(moved, psi))
    null = np.array(raw[1:])
    assert_allclose(found.statistic, (raw[0] - null.mean()) / np.sqrt(v(phi, phi) * v(psi, psi)))
    assert_allclose(found.z, (raw[0] - null.mean()) / null.std(), rtol=1e-8)
    assert_allclose(found.pvalue, (1 + (null >= raw[0]).sum()) / 13)


def test_statistic_of_a_latent_with_itself_is_nearly_one():
    latent, _, environment = people(1)
    found = independence_test(latent, latent, environment, np.random.default_rng(0))
    assert 0.8 < found.statistic <= 1
    assert found.pvalue == 1 / 200
    assert found.z > 20


@pytest.mark.parametrize(
    "dependence",
    [
        lambda g, h, e: g + 0.4 * h,
        lambda g, h, e: g + 0.4 * h * np.where(e == 1, 1, -1)[:, None],
        lambda g, h, e: g * np.exp(0.4 * h),
        lambda g, h, e: g + np.cos(3 * h),
    ],
    ids=["mean", "mean, with a sign by environment", "spread", "waves"],
)
def test_dependence_within_environments_is_seen(dependence):
    latent, remainder, environment = people(2, 1200)
    noise = np.random.default_rng(3).normal(size=remainder.shape)
    found = independence_test(
        dependence(latent, noise, environment), noise, environment, np.random.default_rng(0)
    )
    assert found.pvalue == 1 / 200


def test_dependence_through_the_environment_alone_is_not_seen():
    latent, remainder, environment = people(4, 1200)
    moved = latent * (1 + environment[:, None]) - 5 * environment[:, None]
    assert np.corrcoef(moved[:, 0], remainder[:, 0])[0, 1] < -0.3
    found = independence_test(moved, remainder, environment, np.random.default_rng(0))
    assert found.pvalue > 0.05
    assert abs(found.statistic) < 0.02


def test_independent_latents_are_rejected_as_often_as_the_level_says():
    """Laws differ between environments, one of which is small; heavy tails and ties."""
    rng, pvalues = np.random.default_rng(0), []
    environment = np.repeat([0, 1, 2], [8, 40, 60])
    for _ in range(300):
        latent = np.round(rng.standard_t(2, size=(108, 1)) * (1 + environment[:, None]))
        remainder = rng.exponential(size=(108, 1)) * environment[:, None]
        test = independence_test(latent, remainder, environment, rng, permutations=19)
        pvalues.append(test.pvalue)
    for level in (0.05, 0.1, 0.5):
        assert np.mean(np.array(pvalues) <= level + 1e-9) == pytest.approx(
            level, abs=3.5 * np.sqrt(level * (1 - level) / 300)
        )


def test_pvalue_is_close_to_that_of_all_permutations():
    """Two environments of four and three people have 24 * 6 permutations."""
    rng = np.random.default_rng(1)
    g, h = rng.normal(size=(2, 7, 1))
    g = g + 0.7 * h
    e = np.repeat([0, 1], [4, 3])
    found = independence_test(g, h, e, np.random.default_rng(2), permutations=4000)
    rng = np.random.default_rng(2)
    rows = balanced_subsample(e, 10_000, rng)

    def features(values):
        groups = [values[:4], values[4:]]
        both = embed(np.concatenate([(v - v.mean(0)) / v.std(0) for v in groups]), rng)
        return both - np.repeat([both[:4].mean(0), both[4:].mean(0)], [4, 3], axis=0)

    phi, psi = features(g[rows]), features(h[rows])
    weight = (psi @ psi.T) * (1 + (e[:, None] == e))
    kernel = phi @ phi.T
    values = []
    for first, last in product(permutations(range(4)), permutations(range(4, 7))):
        order = np.array([*first, *last])
        values.append((kernel[np.ix_(order, order)] * weight).sum())
    exact = np.mean(np.array(values) >= values[0] - 1e-12)
    assert len(values) == 144
    assert found.pvalue == pytest.approx(exact, abs=4 * np.sqrt(0.25 / 4000))


def test_no_remainder_leaves_nothing_to_depend_on():
    latent, remainder, environment = people(5)
    found = independence_test(latent, remainder[:, :0], environment, np.random.default_rng(0))
    assert found == PermutationTest(0.0, 0.0, 1.0)


def test_one_environment_is_enough():
    latent, _, _ = people(6)
    found = independence_test(
        latent[:, :1], latent[:, :1] ** 2, np.zeros(300, int), np.random.default_rng(0)
    )
    assert found.pvalue == 1 / 200


@pytest.mark.parametrize("constant", ["latent", "remainder", "both"])
def test_what_does_not_vary_is_independent_of_everything(constant):
    latent, remainder, environment = people(7, 60)
    latent[:] = 0.1 if constant != "remainder" else latent
    remainder[:] = 1e6 / 3 if constant != "latent" else remainder
    found = independence_test(latent, remainder, environment, np.random.default_rng(0))
    assert found == PermutationTest(0.0, 0.0, 1.0)


def test_environments_of_one_person_say_nothing():
    latent, remainder, environment = people(8, 40)
    alone = independence_test(latent, remainder, np.arange(40), np.random.default_rng(0))
    assert alone == PermutationTest(0.0, 0.0, 1.0)
    mixed = np.concatenate([environment, 10 + np.arange(3)])
    more = np.random.default_rng(1).normal(size=(3, 2))
    found = independence_test(
        np.vstack([latent, more]), np.vstack([remainder, more]), mixed, np.random.default_rng(0)
    )
    assert np.isfinite([found.statistic, found.z, found.pvalue]).all()


def test_people_given_many_times_do_no_harm():
    latent, remainder, environment = (np.repeat(v, 10, axis=0) for v in people(9, 6))
    found = independence_test(latent, remainder, environment, np.random.default_rng(0))
    assert np.isfinite([found.statistic, found.z, found.pvalue]).all()
    same = independence_test(latent, np.ones((60, 1)), environment, np.random.default_rng(0))
    assert same.pvalue == 1


def test_equal_seeds_give_equal_results_and_inputs_are_left_alone():
    latent, remainder, environment = people(10)
    before = latent.copy(), remainder.copy(), environment.copy()
    one, two = (
        independence_test(latent, remainder, environment, np.random.default_rng(3))
        for _ in range(2)
    )
    assert one == two
    for now, then in zip((latent, remainder, environment), before, strict=True):
        assert (now == then).all()
