"""The conditional likelihood ratio: its tail, its test and its set."""

from __future__ import annotations

import math
import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import integrate, stats

from mrscale.stats.clr import clr, clr_test, conditional_pvalue
from mrscale.stats.kclass import fit_kclass, liml_kappa
from mrscale.stats.weak import anderson_rubin, anderson_rubin_test

_helpers = runpy.run_path(str(Path(__file__).parents[2] / "canonical.py"))
canonical, design, homoskedastic = (
    _helpers[name] for name in ("canonical", "design", "homoskedastic")
)


@pytest.mark.parametrize("k", [2, 3, 10, 200])
@pytest.mark.parametrize("statistic", [0.01, 3.84, 60.0])
def test_tail_runs_from_k_degrees_of_freedom_to_one(k, statistic):
    none, all_ = conditional_pvalue(statistic, 0.0, k), conditional_pvalue(statistic, 1e12, k)
    assert_allclose(none, stats.chi2.sf(statistic, k), rtol=1e-10)
    # at any finite strength the tail is still a little above its limit
    assert_allclose(all_, stats.chi2.sf(statistic, 1), rtol=1e-7)


@pytest.mark.parametrize("k", [2, 5, 64, 500])
@pytest.mark.parametrize("statistic", [0.003, 2.0, 12.0])
@pytest.mark.parametrize("strength", [0.5, 30.0, 4e3])
def test_tail_equals_adaptive_quadrature(k, statistic, strength):
    beta = stats.beta((k - 1) / 2, 0.5)
    share = strength / (statistic + strength)

    def integrand(a):
        x = math.sin(a) ** 2
        jacobian = 2 * math.sin(a) * math.cos(a)
        return stats.chi2.sf(statistic / (1 - share * x), k) * beta.pdf(x) * jacobian

    expected = integrate.quad(
        integrand, 0, math.pi / 2 - 1e-12, points=[1.2, 1.5], epsabs=1e-13, epsrel=1e-11, limit=500
    )[0]
    # hundreds of instruments and next to no excess: the integrand is a step, the p-value near 1
    rtol = 1e-5 if k == 500 and statistic < 0.1 else 1e-8
    assert_allclose(conditional_pvalue(statistic, strength, k), expected, rtol=rtol)


def test_tail_equals_simulation():
    rng, k, strength = np.random.default_rng(0), 4, 7.0
    one, rest = rng.chisquare(1, 400_000), rng.chisquare(k - 1, 400_000)
    total = one + rest - strength
    ratio = (total + np.sqrt((one + rest + strength) ** 2 - 4 * rest * strength)) / 2
    for statistic in (1.0, 4.0, 9.0):
        p = conditional_pvalue(statistic, strength, k)
        assert abs((ratio > statistic).mean() - p) < 4 * math.sqrt(p / 400_000)


def test_no_excess_is_no_evidence():
    assert conditional_pvalue(0.0, 3.0, 5) == 1


@pytest.mark.parametrize("strength", [0.5, 0.1, 0.05])
@pytest.mark.parametrize("robust", [False, True])
def test_ends_have_p_of_one_less_level(strength, robust):
    problem = canonical(design(4, n=500, m=5, strength=strength))
    meats = problem.meats if robust else None
    found = clr(problem.reduced, 0.9, meats=meats)
    for end in (e for pair in found.intervals for e in pair if math.isfinite(e)):
        assert_allclose(clr_test(problem.reduced, end, meats=meats).pvalue, 0.1, rtol=1e-8)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("strength", [0.3, 0.08, 0.02])
@pytest.mark.parametrize("clustered", [None, False, True])
def test_set_is_where_the_test_accepts(seed, strength, clustered):
    problem = canonical(design(seed, m=4, strength=strength), bool(clustered))
    meats = None if clustered is None else problem.meats
    found = clr(problem.reduced, meats=meats)
    ends = [end for pair in found.intervals for end in pair]
    for b in np.tan(np.linspace(-math.pi / 2, math.pi / 2, 302)[1:-1]):
        if not any(math.isclose(b, end, rel_tol=1e-9) for end in ends):
            test = clr_test(problem.reduced, float(b), meats=meats)
            assert (b in found) == (test.pvalue >= 0.05)


def test_quasi_likelihood_ratio_with_homoskedastic_meats_is_moreiras():
    reduced = canonical(design(7)).reduced
    meats = homoskedastic(reduced)
    for b in (-3.0, 0.1, 0.5, 40.0):
        quasi, exact = clr_test(reduced, b, meats=meats), clr_test(reduced, b)
        assert_allclose(quasi.statistic, exact.statistic, rtol=1e-8)
        assert_allclose(quasi.pvalue, exact.pvalue, rtol=1e-7)
    assert_allclose(clr(reduced, meats=meats).intervals, clr(reduced).intervals, rtol=1e-8)


def test_one_instrument_gives_anderson_rubin():
    problem = canonical(design(3, m=1))
    reduced, meats = problem.reduced, problem.meats
    classical = anderson_rubin(reduced, reference="chi2").intervals
    assert_allclose(clr(reduced).intervals, classical, rtol=1e-9)
    robust = anderson_rubin(reduced, meats=meats).intervals
    assert_allclose(clr(reduced, meats=meats).intervals, robust, rtol=1e-9)
    test = anderson_rubin_test(reduced, np.array([0.2]), meats=meats)
    assert_allclose(clr_test(reduced, 0.2, meats=meats).statistic, test.statistic, rtol=1e-9)


def test_the_liml_estimate_is_always_inside():
    columns = design(2, strength=1.0)
    for y in (columns.y, columns.y + 20 * columns.z[:, 1]):
        reduced = canonical(columns._replace(y=y)).reduced
        assert fit_kclass(reduced, liml_kappa(reduced)).estimate[0] in clr(reduced)


def test_strong_instruments_give_nearly_the_usual_interval():
    problem = canonical(design(1, n=20_000, m=3, strength=1.0, confounding=0.3))
    found = clr(problem.reduced, meats=problem.meats)
    x, b = problem.reduced.zx[:, 0], problem.reduced
    estimate = float(x @ b.zy / (x @ x))
    meat = problem.meats.of_residual(np.array([-estimate, 1.0]))
    error = math.sqrt(x @ meat @ x) / (x @ x)
    # the efficient weight and the hypothesis move the ends by a share of an error
    assert_allclose(found.intervals[0], estimate + 1.96 * error * np.array([-1, 1]), atol=error / 2)


def test_where_there_is_no_test_nothing_is_excluded():
    problem = canonical(design(0, m=6, num_clusters=5), clustered=True)
    found = clr(problem.reduced, meats=problem.meats)
    assert "too few people or clusters" in found.reason
    assert not found.is_bounded


def test_an_outcome_that_the_instruments_determine_has_no_set():
    problem = canonical(design(0))
    z = problem.z
    traits = np.column_stack([problem.traits[:, 0], z @ np.array([2.0, 1.0, 0, 0])])
    reduced = replace(
        problem.reduced,
        zy=z.T @ traits[:, 1],
        xy=traits[:, :1].T @ traits[:, 1],
        yy=float(traits[:, 1] @ traits[:, 1]),
    )
    found = clr(reduced)
    assert "the instruments determine the outcome" in found.reason
