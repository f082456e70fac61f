"""IVW, MR-Egger and multivariable regressions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mrscale.stats.summary.associations import Associations
from mrscale.stats.summary.multivariable import conditional_f, mvmr_egger, mvmr_ivw
from mrscale.stats.summary.regression import (
    egger,
    egger_bootstrap,
    ivw,
    leave_one_out_ivw,
    wald_ratio,
    weighted_fit,
)

from .conftest import Make


def test_ivw_is_the_meta_analysis_of_ratios(make: Make) -> None:
    a = make(1)
    weight = a.ratio_error() ** -2
    row = ivw(a, 0.95, random=False)
    assert row.estimate == pytest.approx(weight @ a.ratio / weight.sum(), rel=1e-12)
    assert row.std_error == pytest.approx(weight.sum() ** -0.5, rel=1e-12)
    assert row.q == pytest.approx(weight @ (a.ratio - row.estimate) ** 2, rel=1e-10)


def test_random_effects_only_widen(make: Make) -> None:
    for a, wider in ((make(2), False), (make(1, pleiotropy=0.1), True)):
        fixed, random = (ivw(a, 0.95, random=r) for r in (False, True))
        excess = max(1.0, fixed.q / fixed.q_dof)
        assert (excess > 1) is wider
        assert random.std_error == pytest.approx(fixed.std_error * excess**0.5, rel=1e-12)
        assert random.estimate == fixed.estimate


def test_correlated_ivw_is_generalised_least_squares(make: Make) -> None:
    rho = 0.6 ** np.abs(np.subtract.outer(np.arange(20), np.arange(20)))
    a = replace(make(2), correlation=rho)
    inverse = np.linalg.inv(rho * np.outer(a.sy, a.sy))
    row = ivw(a, 0.95, random=False)
    assert row.estimate == pytest.approx(a.bx @ inverse @ a.by / (a.bx @ inverse @ a.bx), rel=1e-9)
    assert row.std_error == pytest.approx((a.bx @ inverse @ a.bx) ** -0.5, rel=1e-9)


def test_rotation_keeps_the_correlated_estimate(make: Make) -> None:
    rho = 0.4 + 0.6 * np.eye(20)
    a = replace(make(2), correlation=rho)
    turned, _ = a.decorrelated()
    one, other = ivw(a, 0.95), ivw(turned, 0.95)
    assert one.estimate == pytest.approx(other.estimate, rel=1e-10)
    assert one.std_error == pytest.approx(other.std_error, rel=1e-10)


def test_egger_finds_directional_pleiotropy(make: Make) -> None:
    a = make(3, 200, effect=0.4)
    push = np.where(a.bx < 0, -0.05, 0.05)
    row = egger(replace(a, by=a.by + push), 0.95)
    assert row.intercept == pytest.approx(0.05, abs=4 * row.intercept_std_error)
    assert row.intercept_pvalue < 1e-6
    assert row.estimate == pytest.approx(0.4, abs=4 * row.std_error)


def test_egger_bootstrap_agrees_with_the_analytic_error(make: Make) -> None:
    a = make(4, 30, strength=30)
    analytic, drawn = egger(a, 0.95), egger_bootstrap(a, 0.95, np.random.default_rng(0), 20_000)
    fixed = analytic.std_error / max(1, (analytic.q / analytic.q_dof) ** 0.5)
    # strong variants: errors of bx add ``effect^2 sx^2``, a few percent; MC error 0.5 %
    assert drawn.std_error == pytest.approx(fixed, rel=0.08)
    assert drawn.estimate == pytest.approx(analytic.estimate, abs=0.05 * analytic.std_error + 0.01)


def test_equal_exposure_associations_have_no_slope(make: Make) -> None:
    a = make(1)
    row = egger(replace(a, bx=np.full(20, 0.1)), 0.95)
    assert np.isnan(row.estimate)
    assert row.note == "not applicable: the exposure associations are all equal"


def test_one_variant_is_its_ratio(make: Make) -> None:
    a = make(1).select(np.array([3]))
    row = wald_ratio(a, 0.95)
    assert row.estimate == pytest.approx(a.by[0] / a.bx[0])
    assert row.std_error == pytest.approx(a.sy[0] / abs(a.bx[0]))


def test_leave_one_out_equals_single_fits(make: Make) -> None:
    a = make(5)
    left = leave_one_out_ivw(a.bx, a.by, a.sy**-2)
    singles = [ivw(a.select(np.delete(np.arange(20), i)), 0.95).estimate for i in range(20)]
    np.testing.assert_allclose(left, singles, rtol=1e-11)


def two_exposures(make: Make) -> Associations:
    first, second = make(6), make(7)
    by = 0.4 * first.bx - 0.3 * second.bx + np.random.default_rng(8).normal(0, first.sy)
    bx, sx = np.stack([first.bx, second.bx], 1), np.stack([first.sx, second.sx], 1)
    return Associations(bx, sx, by, first.sy)


def test_multivariable_ivw_is_weighted_least_squares(make: Make) -> None:
    a = two_exposures(make)
    x, y = a.bx / a.sy[:, None], a.by / a.sy
    coef, rss = np.linalg.lstsq(x, y)[:2]
    error = np.sqrt(np.diag(np.linalg.inv(x.T @ x)) * max(1, rss[0] / 18))
    rows = mvmr_ivw(a, 0.95)
    np.testing.assert_allclose([row.estimate for row in rows], coef, rtol=1e-10)
    np.testing.assert_allclose([row.std_error for row in rows], error, rtol=1e-10)
    assert rows[0].q == pytest.approx(rss[0])


def test_collinear_exposures_are_not_applicable(make: Make) -> None:
    a = two_exposures(make)
    a = replace(a, bx=np.stack([a.bx[:, 0], 2 * a.bx[:, 0]], 1))
    for rows in (mvmr_ivw(a, 0.95), mvmr_egger(a, 0.95)):
        assert [row.note for row in rows] == [
            "not applicable: the associations with the exposures are collinear"
        ] * 2


def test_conditional_f_is_one_where_nothing_is_left() -> None:
    rng, m = np.random.default_rng(9), 20_000
    sx = np.full((m, 2), 0.01)
    shared = rng.normal(0, 0.1, m)
    noisy = Associations(np.stack([shared, shared], 1) + rng.normal(0, sx), sx, shared, np.ones(m))
    # standard error of a mean of 20,000 chi-squares is 0.01
    np.testing.assert_allclose(conditional_f(noisy), 1, atol=0.04)


def test_weighted_fit_does_not_depend_on_units(make: Make) -> None:
    a = make(1)
    design = np.stack([a.bx, np.ones(20)], 1)
    fit, scaled = weighted_fit(design, a), weighted_fit(design * [1e-9, 1], a)
    assert fit is not None
    assert scaled is not None
    np.testing.assert_allclose(scaled.coef * [1e-9, 1], fit.coef, rtol=1e-9)
