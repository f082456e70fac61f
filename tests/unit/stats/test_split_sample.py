"""Split-sample instruments against the formulas of Angrist and Krueger (1995) on the data."""

from __future__ import annotations

import numpy as np
import pytest
from linearmodels.iv import IV2SLS
from numpy.testing import assert_allclose

from mrscale.stats.kclass import fit_kclass
from mrscale.stats.moments import Moments
from mrscale.stats.reduced import Columns, reduce_design
from mrscale.stats.split_sample import OtherFirstStage, cross_fit, overlap_warning


def people(seed, n=600, m=5, k=2, p=1, strength=0.4):
    rng = np.random.default_rng(seed)
    z, w, u = rng.binomial(2, 0.3, (n, m)), rng.normal(5, 2, (n, k)), rng.normal(size=(n, 1))
    x = z @ rng.uniform(0, strength, (m, p)) + w.sum(1, keepdims=True) + u
    x = x + rng.normal(size=(n, p))
    y = x.sum(1) + w[:, :1].sum(1) + 2 * u[:, 0] + rng.normal(size=n)
    return np.column_stack([z, w, x, y])


def predicted(train, test, columns):
    """``(z - G'w)' Pi`` of the test people, everything fitted in the training people."""
    m, k, p = columns.num_instruments, columns.num_covariates, columns.num_exposures
    w = np.column_stack([train[:, m : m + k], np.ones(len(train))])
    wt = np.column_stack([test[:, m : m + k], np.ones(len(test))])
    g = np.linalg.lstsq(w, train[:, :m], rcond=None)[0]
    h = np.column_stack([train[:, :m], w])
    pi = np.linalg.lstsq(h, train[:, m + k : m + k + p], rcond=None)[0][:m]
    return (test[:, :m] - wt @ g) @ pi


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("num_groups", [2, 5])
def test_cross_fitting_is_2sls_with_predictions_from_the_others(p, num_groups):
    rows, columns = people(p, p=p), Columns(5, 2, p)
    groups = np.array_split(rows, num_groups)
    found = cross_fit([Moments.from_block(group) for group in groups], columns)
    others = [np.vstack(groups[:g] + groups[g + 1 :]) for g in range(num_groups)]
    pairs = list(zip(others, groups, strict=True))
    instruments = np.vstack([predicted(train, test, columns) for train, test in pairs])
    exog = np.column_stack([np.ones(len(rows)), rows[:, 5:7]])
    oracle = IV2SLS(rows[:, -1], exog, rows[:, 7 : 7 + p], instruments).fit(cov_type="robust")
    reduced, basis = reduce_design(found.moments, found.columns)
    fit = fit_kclass(reduced, 1.0)
    assert_allclose(fit.estimate, oracle.params.to_numpy()[-p:], rtol=1e-8)
    stages = zip(found.first_stages, groups, strict=True)
    new = np.vstack([stage.rows(group) for stage, group in stages])
    assert_allclose(new[:, :p], instruments, atol=1e-10)
    assert_allclose(new[:, p:], rows[:, 5:], rtol=1e-14)
    centred = new - basis.origin
    residual = centred @ basis.traits @ fit.residual_weights
    scores = centred @ basis.instruments @ reduced.zx * residual[:, None]
    cov = fit.bread @ scores.T @ scores @ fit.bread
    assert_allclose(cov, oracle.cov.to_numpy()[-p:, -p:], rtol=1e-7)


def test_one_way_split_sample_is_that_of_angrist_and_krueger():
    rows, columns = people(3, k=0), Columns(5, 0, 1)
    train, test = rows[:300], rows[300:]
    stage = OtherFirstStage.fit(Moments.from_block(train), columns)
    moments = stage.moments(Moments.from_block(test))
    z, x, y = (a - a.mean(0) for a in (predicted(train, test, columns), test[:, [5]], test[:, 6]))
    fit = fit_kclass(reduce_design(moments, stage.columns)[0], 1.0)
    assert_allclose(fit.estimate[0], z[:, 0] @ y / (z[:, 0] @ x[:, 0]), rtol=1e-9)
    # SSIV: ordinary least squares on the prediction
    ssiv = fit_kclass(reduce_design(moments.select([0, 2]), Columns(0, 0, 1))[0], 0.0)
    assert_allclose(ssiv.estimate[0], z[:, 0] @ y / (z[:, 0] @ z[:, 0]), rtol=1e-9)


def test_weights_carry_through():
    rows, columns = people(4), Columns(5, 2, 1)
    weights = np.random.default_rng(0).integers(1, 4, len(rows)).astype(float)
    repeated = [np.repeat(rows[s], weights[s].astype(int), 0) for s in np.s_[:300, 300:]]
    weighted = [Moments.from_block(rows[s], weights[s]) for s in np.s_[:300, 300:]]
    found, expected = (
        cross_fit(groups, columns).moments
        for groups in (weighted, [Moments.from_block(part) for part in repeated])
    )
    assert_allclose(found.cross, expected.cross, rtol=1e-8, atol=1e-8)
    assert found.weight == expected.weight


def test_many_weak_instruments_bias_2sls_and_not_the_split_sample():
    plain, split = [], []
    columns = Columns(40, 0, 1)
    for seed in range(60):
        rng = np.random.default_rng(seed)
        z, u = rng.normal(size=(1000, 40)), rng.normal(size=1000)
        x = z @ np.full(40, 0.05) + u + 0.5 * rng.normal(size=1000)
        rows = np.column_stack([z, x, u + 0.5 * rng.normal(size=1000)])
        groups = [Moments.from_block(part) for part in np.array_split(rows, 10)]
        crossed = cross_fit(groups, columns)
        plain.append(fit_kclass(reduce_design(Moments.from_block(rows), columns)[0], 1.0).estimate)
        fit = fit_kclass(reduce_design(crossed.moments, crossed.columns)[0], 1.0)
        split.append(fit.estimate)
    # the truth is zero; OLS goes to about 0.75
    assert np.median(plain) > 0.2
    assert abs(np.median(split)) < 0.06


def test_the_overlap_warning_says_what_to_do_and_how_much():
    assert "split-sample" in overlap_warning()
    assert "1/F" not in overlap_warning()
    assert "1/F = 0.05" in overlap_warning(20.0)
