"""Leave-one-out and the jackknife equal refitting from the data."""

from __future__ import annotations

import numpy as np
import pytest
from linearmodels.iv import IV2SLS
from numpy.testing import assert_allclose

from mrscale.stats.kclass import fit_kclass
from mrscale.stats.moments import Moments
from mrscale.stats.reduced import Columns, Meats, reduce_design
from mrscale.stats.resampling import (
    block_jackknife,
    instrument_directions,
    jackknife,
    leave_each_out,
    leave_one_instrument_out,
)


def design(seed, n=500, m=6, k=2, p=1):
    rng = np.random.default_rng(seed)
    z, w, u = rng.normal(size=(n, m)), rng.normal(size=(n, k)), rng.normal(size=n)
    z += w[:, :1].sum(1, keepdims=True) + 0.3 * z[:, [-1]]
    x = z @ rng.uniform(0.2, 0.6, (m, p)) + w.sum(1)[:, None] + u[:, None]
    x += rng.normal(size=(n, p))
    y = x @ np.arange(1, p + 1) + w @ np.ones(k) + u + rng.normal(size=n) * (1 + np.abs(z[:, 0]))
    return z, w, x, y


def without_each(z, w, x, y, errors, **options):
    """Estimates and errors of the exposures from linearmodels, without each instrument."""
    exog = np.column_stack([np.ones(len(y)), w])
    p = x.shape[1]
    fits = [
        IV2SLS(y, exog, x, np.delete(z, j, axis=1)).fit(cov_type=errors, **options)
        for j in range(z.shape[1])
    ]
    estimates = np.array([fit.params.to_numpy()[-p:] for fit in fits])
    return estimates, np.array([fit.std_errors.to_numpy()[-p:] for fit in fits])


def dense_meats(rows, basis, clusters):
    """``sum_g (sum_i z_i r_i)(sum_i z_i r_i)'`` with nothing but the definition."""
    z, r = ((rows - basis.origin) @ to for to in (basis.instruments, basis.traits))
    sums = np.zeros((clusters.max() + 1, r.shape[1], z.shape[1]))
    np.add.at(sums, clusters, np.einsum("nc,nl->ncl", r, z))
    return Meats(np.einsum("gck,gdl->cdkl", sums, sums), len(sums), np.zeros((0, 0, 0, 0)))


def downdated(z, w, x, y, errors="classical", clusters=None):
    rows = np.column_stack([z, w, x, y])
    moments = Moments.from_block(rows)
    columns = Columns(z.shape[1], w.shape[1], x.shape[1])
    reduced, basis = reduce_design(moments, columns)
    directions = instrument_directions(moments, basis)
    if errors == "classical":
        return leave_one_instrument_out(reduced, directions)
    clusters = np.arange(len(rows)) if clusters is None else clusters
    return leave_one_instrument_out(reduced, directions, dense_meats(rows, basis, clusters))


@pytest.mark.parametrize(("m", "k", "p"), [(2, 0, 1), (6, 2, 1), (6, 2, 2)])
def test_without_each_instrument_equals_refitting(m, k, p):
    data = design(m + p, m=m, k=k, p=p)
    found = downdated(*data)
    estimate, std_error = without_each(*data, "unadjusted")
    assert_allclose(found.estimate, estimate, rtol=1e-10)
    assert_allclose(found.std_error, std_error, rtol=1e-10)
    assert found.identified.all()
    assert not found.redundant.any()


@pytest.mark.parametrize("p", [1, 2])
def test_without_each_instrument_robust_errors_need_no_other_pass(p):
    data = design(3, p=p)
    found = downdated(*data, errors="robust")
    assert_allclose(found.std_error, without_each(*data, "robust")[1], rtol=1e-10)


def test_without_each_instrument_clustered_errors():
    data = design(4)
    clusters = np.random.default_rng(0).integers(0, 60, len(data[-1]))
    found = downdated(*data, errors="cluster", clusters=clusters)
    expected = without_each(*data, "clustered", clusters=clusters)[1]
    assert_allclose(found.std_error, expected, rtol=1e-10)


@pytest.mark.parametrize("errors", ["classical", "robust"])
def test_without_a_redundant_instrument_nothing_changes(errors):
    z, w, x, y = design(5, m=4)
    twice = np.column_stack([z, z[:, 0] - 2 * z[:, 1], np.full(len(y), 3.0), w[:, 0]])
    found = downdated(twice, w, x, y, errors)
    once = downdated(z, w, x, y, errors)
    moments = Moments.from_block(np.column_stack([z, w, x, y]))
    full = fit_kclass(reduce_design(moments, Columns(4, 2, 1))[0], 1.0)
    assert found.redundant.tolist() == [True, True, False, False, True, True, True]
    assert_allclose(found.estimate[found.redundant, 0], full.estimate[0], rtol=1e-10)
    assert_allclose(found.estimate[2:4], once.estimate[2:4], rtol=1e-10)
    assert_allclose(found.std_error[2:4], once.std_error[2:4], rtol=1e-10)


def test_ill_conditioned_instruments_are_not_called_redundant():
    z, w, x, y = design(6, m=4)
    z[:, 1] = z[:, 0] + 1e-3 * z[:, 1]
    found = downdated(z, w, x, y)
    assert not found.redundant.any()
    # the condition number is about 3e3, and moments square it
    assert_allclose(found.estimate, without_each(z, w, x, y, "unadjusted")[0], rtol=1e-8)


def test_without_a_needed_instrument_there_is_no_estimate():
    alone = downdated(*design(7, m=1))
    assert np.isnan(alone.estimate).all()
    assert np.isnan(alone.std_error).all()
    pair = downdated(*design(7, m=2, p=2), errors="robust")
    assert not pair.identified.any()


def test_weighted_moments_give_weighted_leave_one_out():
    z, w, x, y = design(8)
    weights = np.random.default_rng(1).integers(1, 4, len(y)).astype(float)
    moments = Moments.from_block(np.column_stack([z, w, x, y]), weights)
    reduced, basis = reduce_design(moments, Columns(6, 2, 1))
    found = leave_one_instrument_out(reduced, instrument_directions(moments, basis))
    exog = np.column_stack([np.ones(len(y)), w])
    for j in range(6):
        fit = IV2SLS(y, exog, x, np.delete(z, j, 1), weights=weights).fit()
        assert_allclose(found.estimate[j], fit.params.iloc[-1], rtol=1e-10)


@pytest.mark.parametrize("num_parts", [2, 3, 4, 9])
def test_leave_each_out_keeps_the_order_of_the_others(num_parts):
    parts = [str(i) for i in range(num_parts)]
    expected = ["".join(parts[:i] + parts[i + 1 :]) for i in range(num_parts)]
    assert leave_each_out(parts, str.__add__) == expected


def two_stage(columns):
    return lambda moments: fit_kclass(reduce_design(moments, columns)[0], 1.0).estimate


@pytest.mark.parametrize("p", [1, 2])
def test_the_jackknife_equals_refitting_without_each_block(p):
    z, w, x, y = design(9, n=600, p=p)
    rows = np.column_stack([z, w, x, y])
    blocks = np.split(rows, [50, 180, 200, 340, 500])
    estimate = two_stage(Columns(6, 2, p))
    found = block_jackknife([Moments.from_block(block) for block in blocks], estimate)

    def refit(some):
        exog, p0 = np.column_stack([np.ones(len(some)), some[:, 6:8]]), 8 + p
        return IV2SLS(some[:, -1], exog, some[:, 8:p0], some[:, :6]).fit().params.to_numpy()[-p:]

    left = np.array([refit(np.vstack(blocks[:g] + blocks[g + 1 :])) for g in range(len(blocks))])
    assert_allclose(found.left_out, left, rtol=1e-10)
    assert_allclose(found.estimate, refit(rows), rtol=1e-10)
    # Busing et al. (1999), equations 9 and 11, written out
    n, sizes, g = len(rows), np.array([len(b) for b in blocks]), len(blocks)
    corrected = g * refit(rows) - sum((1 - m / n) * b for m, b in zip(sizes, left, strict=True))
    assert_allclose(found.bias_corrected, corrected, rtol=1e-8)
    pseudo = [n / m * refit(rows) - (n / m - 1) * b for m, b in zip(sizes, left, strict=True)]
    variance = sum(
        (value - corrected) ** 2 / (n / m - 1) for m, value in zip(sizes, pseudo, strict=True)
    )
    assert_allclose(found.std_error, np.sqrt(variance / g), rtol=1e-8)


def test_the_jackknife_of_a_mean_is_the_standard_error_of_the_mean():
    values = np.random.default_rng(2).normal(3, 2, 40)
    found = block_jackknife([Moments.from_block([[v]]) for v in values], lambda m: m.mean)
    assert_allclose(found.std_error, values.std(ddof=1) / np.sqrt(40), rtol=1e-10)
    assert_allclose(found.bias_corrected, values.mean(), rtol=1e-12)


def test_the_jackknife_removes_the_bias_of_a_variance():
    values = np.random.default_rng(3).normal(size=25)
    left = np.array([[np.delete(values, i).var()] for i in range(25)])
    found = jackknife(np.array([values.var()]), left, np.ones(25))
    assert_allclose(found.bias_corrected, values.var(ddof=1), rtol=1e-12)


def test_the_jackknife_error_of_two_stage_least_squares_is_about_the_robust_one():
    z, w, x, y = design(10, n=20_000)
    rows = np.column_stack([z, w, x, y])
    blocks = [Moments.from_block(part) for part in np.array_split(rows, 200)]
    found = block_jackknife(blocks, two_stage(Columns(6, 2, 1)))
    robust = IV2SLS(y, np.column_stack([np.ones(len(y)), w]), x, z).fit(cov_type="robust")
    # 200 blocks: the relative error of a standard deviation is about 1 / sqrt(400)
    assert_allclose(found.std_error, robust.std_errors.iloc[-1], rtol=0.15)
