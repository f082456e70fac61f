"""2SLS, OLS and Anderson-Rubin from moments against linearmodels and dense formulas."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from linearmodels.iv import IV2SLS, IVGMM
from numpy.testing import assert_allclose

from mrscale.errors import InputError
from mrscale.stats.iv import ordinary_least_squares, two_stage_least_squares
from mrscale.stats.moments import Moments
from mrscale.stats.specification import hansen_j_of


def design(seed, n=400, m=3, k=2, effect=0.7):
    rng = np.random.default_rng(seed)
    z, w, u = rng.normal(size=(n, m)), rng.normal(size=(n, k)), rng.normal(size=n)
    z[:, 0] += 0.5 * w.sum(1)
    x = z @ rng.uniform(0.2, 0.6, m) + w.sum(1) + u + rng.normal(size=n)
    y = effect * x + w @ np.arange(k) + u + rng.normal(size=n) * (1 + np.abs(z[:, 0]))
    return z, w, x, y


def stack(z, w, x, y):
    return np.column_stack([z, w, x, y])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("m", "k"), [(1, 0), (1, 2), (3, 0), (5, 4)])
def test_2sls_equals_linearmodels(seed, m, k):
    z, w, x, y = design(seed, m=m, k=k)
    rows = stack(z, w, x, y)
    fit = two_stage_least_squares(Moments.from_block(rows), m)
    exog = np.column_stack([np.ones(len(y)), w])
    robust = IV2SLS(y, exog, x, z).fit(cov_type="robust")
    classical = IV2SLS(y, exog, x, z).fit(cov_type="unadjusted")
    assert_allclose(fit.estimate, robust.params["endog"], rtol=1e-8)
    assert_allclose((fit.influence(rows) ** 2).sum() ** 0.5, robust.std_errors["endog"], rtol=1e-8)
    f = classical.first_stage.diagnostics["f.stat"].iloc[0]
    n = len(y)  # linearmodels scales F by n, not by the residual degrees of freedom
    assert_allclose(fit.first_stage_f, f * (n - 1 - k - m) / n, rtol=1e-8)


def test_ols_equals_linearmodels():
    _, w, x, y = design(1)
    rows = np.column_stack([w, x, y])
    fit = ordinary_least_squares(Moments.from_block(rows))
    oracle = IV2SLS(y, np.column_stack([np.ones(len(y)), w, x]), None, None).fit(cov_type="robust")
    assert_allclose(fit.estimate, oracle.params.iloc[-1], rtol=1e-8)
    assert_allclose((fit.influence(rows) ** 2).sum() ** 0.5, oracle.std_errors.iloc[-1], rtol=1e-8)
    assert math.isnan(fit.first_stage_f)


def test_course_data_published_values(shared_data):
    people = pd.read_csv(shared_data("reference/coursedata_individual.csv"))
    expected = json.loads(shared_data("reference/expected_iv.json").read_text())
    rows = people[["g1", "g2", "g3", "g4", "x", "y"]].to_numpy()
    fit = two_stage_least_squares(Moments.from_block(rows), 4)
    robust = expected["coursedata|g1-4|2sls|robust"]
    assert_allclose(fit.estimate, robust["coef"], rtol=1e-8)
    assert_allclose((fit.influence(rows) ** 2).sum() ** 0.5, robust["se"], rtol=1e-8)


def test_stata_housing_values(shared_data):
    data = pd.read_csv(shared_data("reference/housing_hsng2.csv"))
    expected = json.loads(shared_data("reference/expected_iv.json").read_text())
    regions = pd.get_dummies(data["region"], drop_first=True, dtype=float)
    rows = np.column_stack(
        [data["faminc"], regions, data["pcturban"], data["hsngval"], data["rent"]]
    ).astype(float)
    fit = two_stage_least_squares(Moments.from_block(rows), 1 + regions.shape[1])
    published = expected["hsng2|2sls|robust|asymptotic"]
    assert_allclose(fit.estimate, published["coef"], rtol=1e-7)
    assert_allclose((fit.influence(rows) ** 2).sum() ** 0.5, published["se"], rtol=1e-7)
    f = expected["hsng2|first_stage"]["f.stat"] * 44 / 50  # linearmodels scales F by n
    assert_allclose(fit.first_stage_f, f, rtol=1e-7)


def test_duplicated_instrument_changes_nothing():
    z, w, x, y = design(2)
    once = two_stage_least_squares(Moments.from_block(stack(z, w, x, y)), 3)
    twice = two_stage_least_squares(Moments.from_block(stack(np.c_[z, z[:, 0]], w, x, y)), 4)
    assert twice.num_instruments == 3
    assert_allclose(twice.estimate, once.estimate, rtol=1e-10)
    assert_allclose(twice.first_stage_f, once.first_stage_f, rtol=1e-8)


def test_scaling_the_exposure_scales_the_effect():
    z, w, x, y = design(3)
    one = two_stage_least_squares(Moments.from_block(stack(z, w, x, y)), 3)
    scaled = two_stage_least_squares(Moments.from_block(stack(1e4 * z, w, 10 * x, y)), 3)
    assert_allclose(scaled.estimate * 10, one.estimate, rtol=1e-10)


def test_as_many_instruments_as_people_is_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(InputError, match=r"more people than instruments.*--instruments"):
        two_stage_least_squares(Moments.from_block(rng.normal(size=(50, 52))), 50)


def test_exposure_explained_by_covariates_is_refused():
    rng = np.random.default_rng(0)
    z, w, y = rng.normal(size=(100, 2)), rng.normal(size=(100, 1)), rng.normal(size=100)
    with pytest.raises(InputError, match="exposure does not vary once the covariates"):
        two_stage_least_squares(Moments.from_block(np.column_stack([z, w, 2 * w, y])), 2)


def test_instruments_without_variation_are_refused():
    rng = np.random.default_rng(0)
    rows = np.column_stack([np.ones((100, 2)), rng.normal(size=(100, 2))])
    with pytest.raises(InputError, match="no instrument varies"):
        two_stage_least_squares(Moments.from_block(rows), 2)


def gmm(z, w, x, y, **options):
    """Two-step GMM, whose weights are those of the 2SLS residuals."""
    exog = np.column_stack([np.ones(len(y)), w])
    return IVGMM(y, exog, x, z, **options).fit(iter_limit=2)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("m", "k"), [(2, 0), (3, 2), (6, 4)])
def test_scores_give_hansens_j_of_linearmodels(seed, m, k):
    z, w, x, y = design(seed, m=m, k=k)
    rows = stack(z, w, x, y)
    fit = two_stage_least_squares(Moments.from_block(rows), m)
    scores = fit.scores(rows)
    found = hansen_j_of(fit.reduced, scores.T @ scores, len(y))
    expected = gmm(z, w, x, y, weight_type="robust").j_stat
    assert_allclose(found.statistic, expected.stat, rtol=1e-7)
    assert_allclose(found.pvalue, expected.pval, rtol=1e-7)
    assert found.dof == m - 1


def test_scores_summed_over_families_give_the_clustered_j_of_linearmodels():
    z, w, x, y = design(4)
    family = np.random.default_rng(0).integers(0, 60, len(y))
    y = y + np.random.default_rng(1).normal(size=60)[family]
    rows = stack(z, w, x, y)
    fit = two_stage_least_squares(Moments.from_block(rows), 3)
    sums = np.stack([fit.scores(rows[family == code]).sum(0) for code in range(60)])
    found = hansen_j_of(fit.reduced, sums.T @ sums, 60)
    expected = gmm(z, w, x, y, weight_type="clustered", clusters=family).j_stat
    assert_allclose(found.statistic, expected.stat, rtol=1e-7)


def test_scores_are_orthonormal_instruments_times_the_residual():
    z, w, x, y = design(5)
    rows = stack(z, w, x, y)
    fit = two_stage_least_squares(Moments.from_block(rows), 3)
    controls = np.column_stack([np.ones(len(y)), w])

    def off(v):
        return v - controls @ np.linalg.lstsq(controls, v)[0]

    residual = off(y) - fit.estimate * off(x)
    instruments = fit.scores(rows) / residual[:, None]
    assert_allclose(instruments.T @ instruments, np.eye(3), atol=1e-9)
    q = np.linalg.qr(off(z))[0]
    assert_allclose(q @ (q.T @ instruments), instruments, atol=1e-9)
    # of blocks they are the rows of the whole, and they see the residual of 2SLS
    assert_allclose(fit.scores(rows[:7]), fit.scores(rows)[:7], rtol=1e-12)
    assert_allclose(fit.reduced.zx.T @ fit.scores(rows).sum(0), 0, atol=1e-8)


def test_scores_of_a_person_do_not_depend_on_units_or_copies_of_instruments():
    z, w, x, y = design(6)
    plain, other = stack(z, w, x, y), stack(np.c_[1e3 * z, z[:, 0]], w, x, y)
    meats = []
    for rows, m in ((plain, 3), (other, 4)):
        fit = two_stage_least_squares(Moments.from_block(rows), m)
        scores = fit.scores(rows)
        assert scores.shape == (len(y), 3)
        meats.append(hansen_j_of(fit.reduced, scores.T @ scores, len(y)).statistic)
    assert_allclose(*meats, rtol=1e-8)


def test_scores_of_a_regression_without_instruments_are_empty():
    _, w, x, y = design(7)
    rows = np.column_stack([w, x, y])
    assert ordinary_least_squares(Moments.from_block(rows)).scores(rows).shape == (400, 0)
