"""Tests of the model against the same from raw columns."""

from __future__ import annotations

import math
import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from mrscale.stats import specification
from mrscale.stats.specification import ControlFunction, TestResult

_helpers = runpy.run_path(str(Path(__file__).parents[2] / "canonical.py"))
canonical, design, homoskedastic = (
    _helpers[name] for name in ("canonical", "design", "homoskedastic")
)


def wooldridge(problem):
    control = ControlFunction.of(problem.reduced)
    scores = control.scores(problem.z, problem.traits, problem.reduced.zx)
    return specification.wooldridge(control, problem.outer(scores))


def test_results_read_as_sentences():
    chi2, f = TestResult.chi_square("Sargan", 9.488, 4), TestResult.f("Wu-Hausman", 4.0, (1, 1200))
    assert str(chi2) == "Sargan: chi2(4) = 9.488, p = 0.05"
    assert str(f).startswith("Wu-Hausman: F(1, 1,200) = 4, p = 0.0457")
    absent = TestResult.not_applicable("Sargan", "no more instruments than exposures")
    assert str(absent) == "Sargan: not applicable (no more instruments than exposures)"
    assert math.isnan(absent.statistic)
    assert math.isnan(absent.pvalue)


def test_small_pvalues_keep_their_digits():
    assert_allclose(TestResult.chi_square("J", 100.0, 1).pvalue, 1.5239706048321e-23, rtol=1e-10)


@pytest.mark.parametrize(
    "test",
    [
        specification.sargan,
        specification.anderson_rubin_overidentification,
    ],
)
def test_just_identified_models_have_no_overidentification(test):
    reduced = canonical(design(0, m=2, p=2)).reduced
    assert "no more instruments" in test(reduced).reason


def test_hansen_needs_instruments_to_spare_and_groups():
    just, few = canonical(design(0, m=1)), canonical(design(0, m=6, num_clusters=6), True)
    found = specification.hansen_j(just.reduced, just.meats)
    assert "no more instruments" in found.reason
    found = specification.hansen_j(few.reduced, few.meats)
    assert "too few people or clusters" in found.reason


def test_hansen_with_homoskedastic_meats_is_sargan_up_to_scale():
    """``g'(s2 I)^-1 g`` with s2 = u'Mu / dof, not u'u / N."""
    reduced = canonical(design(1, p=2, m=5)).reduced
    j = specification.hansen_j(reduced, homoskedastic(reduced))
    sargan = specification.sargan(reduced).statistic
    assert_allclose(j.statistic, reduced.dof * sargan / (reduced.count - sargan), rtol=1e-9)
    assert j.dof == 3


@pytest.mark.parametrize("p", [1, 2])
def test_control_function_is_the_regression_on_exposures_and_first_stage_residuals(p):
    problem = canonical(design(2, p=p))
    x, y = problem.traits[:, :-1], problem.traits[:, -1]
    v = x - problem.z @ (problem.z.T @ x)
    coefficients = np.linalg.lstsq(np.column_stack([x, v]), y)[0]
    control = ControlFunction.of(problem.reduced)
    assert_allclose(control.projected, coefficients[:p], rtol=1e-9)
    assert_allclose(control.contrast, coefficients[p:], rtol=1e-9)
    assert_allclose(
        control.scores(problem.z, problem.traits, problem.reduced.zx).sum(0), 0, atol=1e-8
    )


def test_wu_hausman_is_the_f_test_of_the_first_stage_residuals():
    problem = canonical(design(3, p=2))
    x, y = problem.traits[:, :-1], problem.traits[:, -1]
    both = np.column_stack([x, x - problem.z @ (problem.z.T @ x)])
    rss = [((y - a @ np.linalg.lstsq(a, y)[0]) ** 2).sum() for a in (x, both)]
    dof = len(y) - 3 - 4
    found = specification.wu_hausman(problem.reduced)
    assert found.dof == (2, dof)
    assert_allclose(found.statistic, (rss[0] - rss[1]) / 2 / (rss[1] / dof), rtol=1e-9)


def test_confounding_is_found_where_it_is_and_not_where_it_is_not():
    confounded, clean = (
        canonical(design(4, n=3000, strength=0.5, confounding=c)) for c in (1.0, 0.0)
    )
    for test in (lambda q: specification.wu_hausman(q.reduced), wooldridge):
        assert test(confounded).pvalue < 1e-6
        assert test(clean).pvalue > 0.01


def test_clusters_of_size_one_are_robust_errors():
    columns = design(5, p=2)
    alone = columns._replace(clusters=np.random.default_rng(0).permutation(len(columns.y)))
    robust, clustered = canonical(columns), canonical(alone, clustered=True)
    assert_allclose(wooldridge(clustered).statistic, wooldridge(robust).statistic, rtol=1e-9)
    found = [specification.hansen_j(q.reduced, q.meats).statistic for q in (robust, clustered)]
    assert_allclose(found[0], found[1], rtol=1e-9)


def test_too_few_people_for_the_f_test():
    reduced = canonical(design(0, n=7, m=2, p=2, k=2)).reduced
    assert "few people" in specification.wu_hausman(reduced).reason


def test_too_few_clusters_for_the_robust_tests():
    problem = canonical(design(0, m=3, p=2, num_clusters=2), clustered=True)
    assert "clusters than exposures" in wooldridge(problem).reason


def test_a_singular_covariance_of_the_moments_has_no_j():
    problem = canonical(design(1, m=5))
    traits = problem.meats.traits.copy()
    traits[..., -1, :] = traits[..., -1] = 0  # nobody's residual meets the last instrument
    found = specification.hansen_j(problem.reduced, replace(problem.meats, traits=traits))
    assert "too few people or clusters" in found.reason


@pytest.mark.parametrize("clustered", [False, True])
@pytest.mark.parametrize("p", [1, 2])
def test_hansen_of_the_meat_of_dense_residuals_is_that_of_meats(p, clustered):
    problem = canonical(design(6, m=5, p=p), clustered)
    x, y = problem.traits[:, :-1], problem.traits[:, -1]
    fitted = problem.z @ (problem.z.T @ x)
    u = y - x @ np.linalg.lstsq(fitted, y)[0]
    meat = problem.outer(problem.z * u[:, None])
    groups = problem.meats.num_groups
    found = specification.hansen_j_of(problem.reduced, meat, groups)
    by_meats = specification.hansen_j(problem.reduced, problem.meats)
    assert_allclose(found.statistic, by_meats.statistic, rtol=1e-9)
    # least squares of the moments in the metric of the meat: min_b g(b)' S^-1 g(b)
    inverse, zx, zy = np.linalg.inv(meat), problem.z.T @ x, problem.z.T @ y
    b = np.linalg.solve(zx.T @ inverse @ zx, zx.T @ inverse @ zy)
    g = zy - zx @ b
    assert_allclose(found.statistic, g @ inverse @ g, rtol=1e-9)
    assert found.dof == 5 - p


@pytest.mark.parametrize(
    ("m", "groups", "reason"),
    [
        (1, 300, "no more instruments"),
        (4, 4, "too few people or clusters"),
        (4, 5, ""),
    ],
)
def test_hansen_of_a_meat_needs_instruments_to_spare_and_one_group_more(m, groups, reason):
    problem = canonical(design(7, m=m))
    meat = problem.meats.of_residual(np.array([-0.5, 1.0]))
    found = specification.hansen_j_of(problem.reduced, meat, groups)
    assert reason in found.reason
    assert np.isfinite(found.statistic) == (not reason)
