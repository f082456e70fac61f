"""Robustness values against regressions with an omitted variable, and leakage against people."""

from __future__ import annotations

import math
import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import optimize, stats

from mrscale.stats.kclass import fit_kclass
from mrscale.stats.sensitivity import (
    Robustness,
    extreme_robustness_value,
    fitted_instrument,
    iv_robustness,
    leakage_to_explain,
    robustness_value,
)

_helpers = runpy.run_path(str(Path(__file__).parents[2] / "canonical.py"))
canonical, design = _helpers["canonical"], _helpers["design"]


def regression(seed, num=1, n=80, k=2, strength=0.5):
    """Outcome (N,), instruments (N, L) and controls (N, 1 + K)."""
    rng = np.random.default_rng(seed)
    w = np.column_stack([np.ones(n), rng.normal(size=(n, k))])
    z = rng.normal(size=(n, num)) + w[:, 1:] @ rng.normal(size=(k, num))
    return strength * z.sum(1) + w.sum(1) + rng.normal(size=n), z, w


def off(values, controls):
    return values - controls @ np.linalg.lstsq(controls, values)[0]


def f_statistic(y, z, controls):
    """Of z in the regression of y on z and controls, with its degrees of freedom."""
    full = np.column_stack([z, controls])
    short, long = (float((off(y, a) ** 2).sum()) for a in (controls, full))
    dof = len(y) - full.shape[1]
    return (short - long) / z.shape[1] / (long / dof), dof


def omitted(y, z, controls, with_instrument, with_outcome):
    """A variable with these partial R2, against the effect: along the fitted outcome within the
    span of the instruments, along the residual outside it."""
    partial = off(z, controls)
    fitted = partial @ np.linalg.lstsq(partial, off(y, controls))[0]
    residual = off(y, np.column_stack([z, controls]))
    rng = np.random.default_rng(0)
    other = off(rng.normal(size=len(y)), np.column_stack([z, controls, residual]))
    unit = [v / np.linalg.norm(v) for v in (fitted, residual, other)]
    outside = math.sqrt(with_outcome) * unit[1] + math.sqrt(1 - with_outcome) * unit[2]
    return math.sqrt(with_instrument) * unit[0] + math.sqrt(1 - with_instrument) * outside


def partial_r2(a, b, controls):
    """Of b, one or more columns, with a."""
    first, second = off(a, controls), off(b, controls)
    fitted = second @ np.linalg.lstsq(second, first)[0]
    return float((fitted**2).sum() / (first**2).sum())


@pytest.mark.parametrize("num", [1, 3])
def test_a_variable_as_strong_as_the_robustness_value_explains_the_effect_away(num):
    y, z, w = regression(1, num)
    f, dof = f_statistic(y, z, w)
    r = robustness_value(f, dof, num)
    with_it = np.column_stack([w, omitted(y, z, w, r, r)])
    assert_allclose(partial_r2(with_it[:, -1], z, w), r, rtol=1e-10)
    assert_allclose(partial_r2(y, with_it[:, -1:], np.c_[z, w]), r, rtol=1e-10)
    assert partial_r2(y, z, with_it) < 1e-24
    weaker = np.column_stack([w, omitted(y, z, w, 0.99 * r, 0.99 * r)])
    assert partial_r2(y, z, weaker) > 1e-6


@pytest.mark.parametrize("num", [1, 3])
@pytest.mark.parametrize("strength", [0.25, 0.5, 1.5])
def test_at_a_level_it_makes_the_effect_just_insignificant(num, strength):
    y, z, w = regression(2, num, strength=strength)
    f, dof = f_statistic(y, z, w)
    r = robustness_value(f, dof, num, 0.95)
    assert 0 < r < robustness_value(f, dof, num)
    found, left = f_statistic(y, z, np.column_stack([w, omitted(y, z, w, r, r)]))
    assert left == dof - 1
    assert_allclose(stats.f.sf(found, num, left), 0.05, rtol=1e-8)


@pytest.mark.parametrize("num", [1, 2])
def test_a_variable_that_leaves_nothing_of_the_outcome_needs_the_extreme_value(num):
    y, z, w = regression(3, num)
    f, dof = f_statistic(y, z, w)
    r = extreme_robustness_value(f, dof, num)
    assert r < robustness_value(f, dof, num)
    columns = np.column_stack([z, w, omitted(y, z, w, r, 1)])
    assert_allclose(np.linalg.lstsq(columns, y)[0][:num], 0, atol=1e-9)


def least_ratio(h, with_instrument, with_outcome):
    """Smallest ``|t| / sqrt(dof - 1)`` that an omitted variable of this partial R2 with the
    instrument, and at most that with the outcome, leaves: Cinelli and Hazlett (2020), eq. 7-8."""

    def ratio(v):
        bias = math.sqrt(v * with_instrument / (1 - with_instrument))
        return (h - bias) / math.sqrt((1 - v) / (1 - with_instrument))

    best = optimize.minimize_scalar(
        ratio, bounds=(0, with_outcome), method="bounded", options={"xatol": 1e-12}
    )
    return min(best.fun, ratio(with_outcome * (1 - 1e-15)))


@pytest.mark.parametrize("f", [5.0, 20.0, 90.0, 400.0])
@pytest.mark.parametrize("dof", [4, 10, 100])
def test_no_weaker_variable_would_do(f, dof):
    """Searching both strengths up to a bound, by root finding; few degrees of freedom are the case
    in which a variable does more harm by leaving the outcome alone."""
    h, critical = math.sqrt(f / dof), math.sqrt(stats.f.isf(0.05, 1, dof - 1) / (dof - 1))
    found = [g(f, dof, 1, 0.95) for g in (robustness_value, extreme_robustness_value)]
    if h <= critical:
        assert found == [0, 0]
        return
    expected = [
        optimize.brentq(lambda r, v=v: least_ratio(h, r, v or r) - critical, 1e-12, 1 - 1e-6)
        for v in (None, 1 - 1e-9)
    ]
    assert_allclose(found, expected, rtol=1e-5)


def test_published_example_of_darfur():
    """Cinelli and Hazlett (2020), table 1: t = 4.18 with 783 degrees of freedom."""
    f = (0.09731582 / 0.02325654) ** 2
    assert robustness_value(f, 783) == pytest.approx(0.138776, abs=2e-6)
    assert robustness_value(f, 783, level=0.95) == pytest.approx(0.076255, abs=2e-5)
    assert extreme_robustness_value(f, 783) == pytest.approx(0.02187, abs=1e-5)


def test_robustness_grows_with_the_statistic_and_falls_with_the_level():
    values = [robustness_value(f, 50, 2, 0.9) for f in np.linspace(0, 1e4, 500)]
    assert (np.diff(values) >= 0).all()
    assert values[0] == 0
    assert values[-1] < 1
    levels = [robustness_value(30.0, 50, 2, level) for level in (0.0, 1e-9, 0.5, 0.95, 1 - 1e-15)]
    assert (np.diff(levels) <= 0).all()
    assert levels[1] == pytest.approx(levels[0], rel=1e-3)


def test_small_statistics_keep_their_digits():
    """sqrt(k^4 + 4 k^2) - k^2 over 2, without cancellation, is k to first order."""
    assert_allclose(robustness_value(1e-20, 1), 1e-10, rtol=1e-9)
    assert_allclose(robustness_value(1e20, 1), 1, rtol=1e-9)


@pytest.mark.parametrize("level", [0.0, 0.95])
def test_a_perfect_fit_is_robust_to_everything(level):
    assert robustness_value(math.inf, 20, 2, level) == 1
    assert extreme_robustness_value(math.inf, 20, 2, level) == 1


def test_nothing_is_significant_without_degrees_of_freedom():
    assert robustness_value(1e9, 1, level=0.95) == 0
    assert extreme_robustness_value(1e9, 1, level=0.95) == 0
    assert robustness_value(1e9, 1) > 0.99


@pytest.mark.parametrize("null", [0.0, 0.4, -2.0])
@pytest.mark.parametrize("num", [1, 4])
def test_robustness_of_an_estimate_is_that_of_the_weaker_regression(null, num):
    columns = design(0, m=num)
    found = iv_robustness(canonical(columns).reduced, null)
    f_reduced, dof = f_statistic(columns.y - null * columns.x[:, 0], columns.z, columns.controls)
    f_first, _ = f_statistic(columns.x[:, 0], columns.z, columns.controls)
    f = min(f_reduced, f_first)
    assert_allclose(found.estimate, robustness_value(f, dof, num), rtol=1e-8)
    assert_allclose(found.interval, robustness_value(f, dof, num, 0.95), rtol=1e-8, atol=1e-12)
    assert_allclose(
        found.extreme, extreme_robustness_value(f, dof, num, 0.95), rtol=1e-8, atol=1e-12
    )


def test_the_estimate_itself_is_no_robust_null():
    reduced = canonical(design(1, m=1)).reduced
    found = iv_robustness(reduced, null=float(fit_kclass(reduced, 1.0).estimate[0]))
    assert found.estimate == pytest.approx(0, abs=1e-6)
    assert (found.interval, found.extreme) == (0, 0)


def test_a_weak_first_stage_is_what_is_fragile():
    weak = canonical(design(2, m=1, strength=0.02)).reduced
    exact = replace(weak, zy=np.array([10.0]))
    assert iv_robustness(exact).estimate == pytest.approx(iv_robustness(exact, 1e9).estimate)


def test_an_outcome_that_the_null_explains_whole_is_not_robust():
    reduced = canonical(design(3, m=2)).reduced
    whole = replace(reduced, zy=reduced.zx[:, 0], xy=reduced.xx[:, 0], yy=float(reduced.xx[0, 0]))
    assert iv_robustness(whole, null=1.0) == Robustness(0.0, 0.0, 0.0)
    nothing = replace(reduced, zy=np.zeros(2), xy=np.zeros(1), yy=0.0)
    assert iv_robustness(nothing) == Robustness(0.0, 0.0, 0.0)


def test_an_outcome_without_error_is_robust_to_everything_but_the_first_stage():
    reduced = canonical(design(3, m=1)).reduced
    exact = replace(reduced, yy=float(reduced.zy @ reduced.zy))
    strength = float(reduced.zx[0, 0] ** 2)
    f = strength / (float(reduced.xx[0, 0]) - strength) * reduced.dof
    assert_allclose(iv_robustness(exact).estimate, robustness_value(f, reduced.dof), rtol=1e-8)


def test_the_fitted_exposure_is_one_instrument_with_the_estimate_of_the_many():
    problem = canonical(design(4, m=5))
    one = fitted_instrument(problem.reduced)
    fitted = problem.z @ problem.reduced.zx[:, 0]
    unit = fitted / np.linalg.norm(fitted)
    assert_allclose(one.zx, [[unit @ problem.traits[:, 0]]], rtol=1e-10)
    assert_allclose(one.zy, [unit @ problem.traits[:, 1]], rtol=1e-10)
    assert one.dof == problem.reduced.dof + 4
    both = (fit_kclass(r, 1.0).estimate for r in (one, problem.reduced))
    assert_allclose(*both, rtol=1e-10)


def instruments(leakage, share, n=400):
    """Exogenous, confounded, naive and learned instrument, orthonormal where they are to be."""
    q = np.linalg.qr(np.random.default_rng(0).normal(size=(n, 4)))[0]
    exogenous, confounded = q[:, 0], q[:, 1]
    naive = math.sqrt(1 - share) * exogenous + math.sqrt(share) * confounded
    learned = math.sqrt(1 - leakage) * exogenous + math.sqrt(leakage) * confounded
    return confounded, naive, learned, q[:, 2:]


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("leakage", "share"), [(0.01, 0.5), (0.3, 0.6), (0.7, 0.2)])
def test_leakage_that_explains_an_estimate_is_the_one_that_made_it(leakage, share, sign):
    """No effect but the null's; the confounded part may leak with either sign."""
    confounded, naive, learned, noise = instruments(leakage, share)
    learned = learned + (sign - 1) * confounded * math.sqrt(leakage)
    exposure = 2 * naive + noise[:, 0]
    outcome = -0.3 * exposure + 3 * confounded
    estimate, biased = (g @ outcome / (g @ exposure) for g in (learned, naive))
    strength = (learned @ exposure) ** 2 / (naive @ exposure) ** 2
    found = leakage_to_explain(estimate, biased, strength, null=-0.3)
    assert_allclose(found, leakage, rtol=1e-8)


def test_leakage_is_a_share_whatever_the_estimates():
    rng = np.random.default_rng(0)
    for estimate, naive, strength in rng.normal(size=(500, 3)) * [5, 1, 1]:
        found = leakage_to_explain(estimate, naive, stats.norm.cdf(strength))
        assert 0 <= found <= 1
    assert leakage_to_explain(0.0, 0.6, 0.5) == 0


def test_instruments_that_do_not_differ_tell_nothing_apart():
    for strength in (0.0, 1.0, 1.2, math.nan):
        assert math.isnan(leakage_to_explain(0.1, 0.6, strength))
    assert math.isnan(leakage_to_explain(0.1, 0.6, 0.5, null=0.6))
