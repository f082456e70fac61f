"""Agreement of environments against regressions with interactions."""

from __future__ import annotations

import math

import numpy as np
from numpy.testing import assert_allclose
from scipy import stats

from mrscale.stats.heterogeneity import (
    first_stage_heterogeneity,
    joint_heterogeneity,
)
from mrscale.stats.moments import Moments
from mrscale.stats.pooling import meta_analysis
from mrscale.stats.reduced import Columns

COLUMNS = Columns(3, 2, 2)


def environments(seed=0, sizes=(150, 220, 400), shift=0.0):
    """Design rows [Z | W | X | y] of each environment; ``shift`` moves the first stage."""
    rng = np.random.default_rng(seed)
    found = []
    for e, n in enumerate(sizes):
        z, w, u = rng.normal(e, 1, (n, 3)), rng.normal(size=(n, 2)), rng.normal(size=(n, 1))
        pi = np.array([[0.5, 0.1], [0.4, 0.6], [0.1, 0.5]]) + shift * e
        x = z @ pi + w[:, [0]] + u + rng.normal(size=(n, 2)) * (1 + e)
        y = x @ [0.5, -0.3] + u[:, 0] + w[:, 1] + rng.normal(size=n) * (1 + np.abs(z[:, 0]))
        found.append(np.column_stack([z, w, x, y]))
    return found


def test_one_parameter_is_a_meta_analysis():
    b, se = np.array([0.5, 0.3, 0.7]), np.array([0.1, 0.05, 0.2])
    found, expected = (
        joint_heterogeneity(b[:, None], se[:, None, None] ** -2.0),
        meta_analysis(b, se),
    )
    assert_allclose(found.pooled, expected.estimate, rtol=1e-12)
    assert_allclose([found.q, found.pvalue, found.i2], [expected.q, expected.q_pvalue, expected.i2])
    assert found.dof == 2


def test_vectors_are_generalised_least_squares():
    rng = np.random.default_rng(1)
    roots = rng.normal(size=(4, 3, 3))
    precisions, b = roots @ roots.transpose(0, 2, 1), rng.normal(size=(4, 3))
    found = joint_heterogeneity(b, precisions)
    stacked = np.vstack([root.T for root in roots])
    target = np.concatenate([root.T @ one for root, one in zip(roots, b, strict=True)])
    pooled, rss, *_ = np.linalg.lstsq(stacked, target, rcond=None)
    assert_allclose(found.pooled, pooled, rtol=1e-8)
    assert_allclose(found.q, rss[0], rtol=1e-8)
    assert found.dof == 9
    assert_allclose(found.pvalue, stats.chi2.sf(rss[0], 9), rtol=1e-8)


def test_an_environment_that_is_silent_about_a_parameter_costs_its_degree_of_freedom():
    precisions = np.array([np.diag([4.0, 0.0]), np.diag([1.0, 2.0]), np.diag([1.0, 1.0])])
    b = np.array([[1.0, 99.0], [2.0, 0.0], [0.0, 0.0]])
    found = joint_heterogeneity(b, precisions)
    assert found.dof == 3
    assert_allclose(found.pooled, [1.0, 0.0], atol=1e-12)
    assert_allclose(found.q, 2.0)


def test_one_environment_has_nothing_to_compare():
    found = joint_heterogeneity(np.array([[1.0, 2.0]]), np.eye(2)[None])
    assert found.dof == 0
    assert math.isnan(found.q)
    assert math.isnan(found.pvalue)


def test_the_first_stage_test_is_the_wald_test_of_the_interactions():
    parts = environments(shift=0.4)
    found = first_stage_heterogeneity([Moments.from_block(p) for p in parts], COLUMNS)
    for i in range(2):
        pi, inverse = [], []
        for rows in parts:
            h = np.column_stack([rows[:, :5], np.ones(len(rows))])
            x = rows[:, 5 + i]
            b, rss, *_ = np.linalg.lstsq(h, x, rcond=None)
            cov = np.linalg.inv(h.T @ h)[:3, :3] * rss[0] / (len(rows) - 6)
            pi.append(b[:3])
            inverse.append(np.linalg.inv(cov))
        mean = np.linalg.solve(sum(inverse), sum(v @ b for v, b in zip(inverse, pi, strict=True)))
        q = sum((b - mean) @ v @ (b - mean) for v, b in zip(inverse, pi, strict=True))
        assert_allclose(found[i].q, q, rtol=1e-8)
        assert_allclose(found[i].pooled, mean, rtol=1e-8)
        assert found[i].dof == 6
        assert found[i].pvalue < 1e-3


def test_equal_first_stages_are_rejected_at_the_nominal_rate():
    rejected = 0
    for seed in range(400):
        parts = [Moments.from_block(p) for p in environments(seed, (60, 80, 100))]
        rejected += first_stage_heterogeneity(parts, COLUMNS)[0].pvalue < 0.05
    # variances are estimated in small environments, so that chi-square rejects a little more
    assert 0.02 < rejected / 400 < 0.11


def test_a_variant_that_varies_in_one_environment_only_is_no_obstacle():
    parts = environments()
    parts[0][:, 1] = 0.0
    found = first_stage_heterogeneity([Moments.from_block(p) for p in parts], COLUMNS)
    assert found[0].dof == 5
    assert np.isfinite(found[0].q)
