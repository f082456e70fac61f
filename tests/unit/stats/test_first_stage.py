"""Strength of instruments, against the same quantities from raw columns."""

from __future__ import annotations

import math
import runpy
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from mrscale.stats.first_stage import (
    critical_effective_f,
    first_stage,
    first_stage_covariance,
    worst_bias,
)

_helpers = runpy.run_path(str(Path(__file__).parents[2] / "canonical.py"))
canonical, design = (_helpers[name] for name in ("canonical", "design"))


def residuals(y, x):
    return y - x @ np.linalg.lstsq(x, y)[0]


@pytest.mark.parametrize("p", [1, 2, 3])
def test_classical_f_and_shares_from_sums_of_squares(p):
    columns = design(0, p=p)
    found = first_stage(canonical(columns).reduced)
    controls = columns.controls
    for j in range(p):
        x = columns.x[:, j]
        small = (residuals(x, controls) ** 2).sum()
        large = (residuals(x, np.column_stack([controls, columns.z])) ** 2).sum()
        dof = len(x) - controls.shape[1] - 4
        assert_allclose(found.f[j], (small - large) / 4 / (large / dof), rtol=1e-10)
        assert_allclose(found.partial_r2[j], 1 - large / small, rtol=1e-10)


def test_homoskedastic_errors_make_the_robust_statistics_classical():
    found = first_stage(canonical(design(1, p=2)).reduced)
    assert_allclose(found.f_robust, found.f, rtol=1e-12)
    assert_allclose(found.effective_f, found.f, rtol=1e-12)
    assert_allclose(found.kleibergen_paap_f, found.cragg_donald_f, rtol=1e-10)


@pytest.mark.parametrize("clustered", [False, True])
def test_one_exposure_has_one_robust_rank_statistic(clustered):
    problem = canonical(design(2), clustered)
    found = first_stage(problem.reduced, problem.meats)
    assert_allclose(found.kleibergen_paap_f, found.f_robust[0], rtol=1e-10)
    assert_allclose(found.cragg_donald_f, found.f[0], rtol=1e-10)
    assert_allclose(found.shea_r2, found.partial_r2, rtol=1e-10)


@pytest.mark.parametrize("clustered", [False, True])
def test_one_instrument_has_one_robust_f(clustered):
    problem = canonical(design(2, m=1), clustered)
    found = first_stage(problem.reduced, problem.meats)
    assert_allclose(found.effective_f, found.f_robust, rtol=1e-12)


def test_clusters_of_size_one_are_robust_errors():
    columns = design(5, p=2)
    alone = columns._replace(clusters=np.random.default_rng(0).permutation(len(columns.y)))
    robust, clustered = canonical(columns), canonical(alone, clustered=True)
    a = first_stage(robust.reduced, robust.meats)
    b = first_stage(clustered.reduced, clustered.meats)
    assert_allclose(a.f_robust, b.f_robust, rtol=1e-10)
    assert_allclose(a.kleibergen_paap_f, b.kleibergen_paap_f, rtol=1e-10)


@pytest.mark.parametrize("clustered", [False, True])
def test_effective_f_from_the_raw_columns(clustered):
    """``x'P x / tr(Sigma Z'Z)``, Sigma the robust covariance of the first-stage coefficients."""
    columns = design(3, m=5)
    problem = canonical(columns, clustered)
    z, x = residuals(columns.z, columns.controls), residuals(columns.x, columns.controls)[:, 0]
    inverse = np.linalg.inv(z.T @ z)
    coefficients = inverse @ (z.T @ x)
    scores = z * (x - z @ coefficients)[:, None]
    n, groups = len(x), problem.meats.num_groups
    scale = (n - 1) / (n - 3 - 5) * groups / (groups - 1)
    covariance = scale * inverse @ problem.outer(scores) @ inverse
    expected = coefficients @ z.T @ z @ coefficients / np.trace(covariance @ z.T @ z)
    found = first_stage(problem.reduced, problem.meats)
    assert_allclose(found.effective_f, expected, rtol=1e-10)
    wald = coefficients @ np.linalg.solve(covariance, coefficients) / 5
    assert_allclose(found.f_robust, wald, rtol=1e-10)


@pytest.mark.parametrize(("tolerance", "published"), [(0.05, 37.418), (0.1, 23.109), (0.2, 15.062)])
def test_critical_value_of_one_instrument_is_the_published_one(tolerance, published):
    """What ``weakivtest`` prints for one instrument, whatever the data."""
    found = critical_effective_f(np.array([[3.7]]), tolerance=tolerance)
    assert_allclose(found, published, atol=5e-4)


def test_critical_value_depends_on_the_spread_of_the_variances():
    even, one = np.eye(10), np.diag([1.0] + [1e-9] * 9)
    assert_allclose(critical_effective_f(one), critical_effective_f(np.eye(1)), rtol=1e-6)
    assert 11 < critical_effective_f(even) < 15
    assert critical_effective_f(even, bound=0.8) < critical_effective_f(even)
    assert_allclose(critical_effective_f(7 * even), critical_effective_f(even), rtol=1e-12)


@pytest.mark.parametrize("m", [1, 3])
def test_worst_bias_where_the_outcome_has_the_exposures_residuals(m):
    rng = np.random.default_rng(m)
    for scale in 10.0 ** np.arange(-6, 7):
        root, ratio = rng.normal(size=(m, m)), rng.normal()
        meat = scale * root @ root.T
        found = worst_bias(np.array([[meat, ratio * meat], [ratio * meat, ratio**2 * meat]]))
        assert 0 < found <= 1  # no root of a rounded zero


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("m", [2, 5])
def test_worst_bias_is_the_supremum(seed, m):
    form = canonical(design(seed, m=m), clustered=True).reduced_form
    found = worst_bias(form)
    effects = np.tan(np.linspace(-math.pi / 2, math.pi / 2, 20_001)[1:-1])
    wxx, wxy, wyx, wyy = form[0, 0], form[0, 1], form[1, 0], form[1, 1]
    s12 = wxy - effects[:, None, None] * wxx
    values = np.linalg.eigvalsh((s12 + s12.transpose(0, 2, 1)) / 2)
    trace = values.sum(1)
    s1 = np.trace(wyy) - effects * np.trace(wxy + wyx) + effects**2 * np.trace(wxx)
    worst = np.abs(trace[:, None] - 2 * values).max(1) / np.sqrt(s1 * np.trace(wxx))
    assert found >= worst.max() * (1 - 1e-9)
    assert_allclose(found, worst.max(), rtol=1e-5)  # the grid of this test is coarse
    assert found <= 1 + 1e-12


def test_the_exact_critical_value_is_below_the_one_for_any_outcome():
    problem = canonical(design(1, m=4))
    any_outcome = first_stage(problem.reduced, problem.meats)
    exact = first_stage(problem.reduced, problem.meats, reduced_form=problem.reduced_form)
    assert exact.effective_f_critical[0] < any_outcome.effective_f_critical[0]
    covariance = first_stage_covariance(problem.reduced, problem.meats)[0, 0]
    expected = critical_effective_f(covariance, bound=worst_bias(problem.reduced_form))
    assert_allclose(exact.effective_f_critical, expected)


@pytest.mark.parametrize("p", [2, 3])
def test_conditional_f_from_regressions(p):
    columns = design(4, m=5, p=p)
    z, x = residuals(columns.z, columns.controls), residuals(columns.x, columns.controls)
    fitted = x - residuals(x, z)
    found = first_stage(canonical(columns).reduced).conditional_f
    for j in range(p):
        rest = np.delete(np.arange(p), j)
        delta = np.linalg.lstsq(fitted[:, rest], x[:, j])[0]
        v = x[:, j] - x[:, rest] @ delta
        unexplained = residuals(v, z)
        explained = v @ v - unexplained @ unexplained
        dof = len(v) - 3 - 5
        expected = explained / (5 - p + 1) / (unexplained @ unexplained / dof)
        assert_allclose(found[j], expected, rtol=1e-8)


@pytest.mark.parametrize(
    ("change", "clustered", "missing"),
    [
        ({}, False, {"conditional_f"}),
        ({"p": 2}, False, {"effective_f_critical"}),
        (
            {"m": 6, "num_clusters": 6},
            True,
            {"conditional_f", "f_robust", "kleibergen_paap_f"},
        ),
    ],
)
def test_what_does_not_apply_is_nan_with_a_reason(change, clustered, missing):
    problem = canonical(design(0, **change), clustered)
    found = first_stage(problem.reduced, problem.meats)
    nan = {name for name, v in vars(found).items() if name != "reasons" and np.isnan(v).all()}
    assert nan == missing == set(found.reasons)
