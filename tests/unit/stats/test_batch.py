"""Kernels of the batched engine against dense computations, one pair at a time."""

from __future__ import annotations

from functools import reduce

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

from mrscale.stats.associations import associations
from mrscale.stats.batch import (
    FIXED_EXPOSURE,
    FIXED_OUTCOME,
    NO_INSTRUMENT,
    NOBODY,
    TOO_FEW,
    UNRELATED,
    fit_pairs,
)
from mrscale.stats.crosses import Crosses, PairMoments
from mrscale.stats.moments import Moments
from mrscale.stats.pair_scores import PairScores
from mrscale.stats.patterns import first_pairs, members, pattern_labels, refine

M, K, P, Q = 6, 2, 3, 4


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def design(rng, num_people=400):
    z = rng.binomial(2, 0.3, (num_people, M)).astype(float)
    w = rng.normal(size=(num_people, K)) * [1.0, 50.0] + [0.0, 1950.0]
    return np.concatenate([z, w], axis=1)


def traits(rng, zw, missing=0.0):
    u = rng.normal(size=(len(zw), 1))
    x = zw[:, :M] @ rng.uniform(0.2, 0.6, (M, P)) + 0.01 * zw[:, [M + 1]] + u
    x += rng.normal(size=x.shape)
    y = x @ rng.normal(size=(P, Q)) + 0.02 * zw[:, [M + 1]] - u + rng.normal(size=(len(zw), Q))
    for table in (x, y):
        table[rng.random(table.shape) < missing] = np.nan
    return x, y


def pair_moments(zw, x, y, cuts=()):
    """From blocks of rows."""
    parts = zip(*(np.split(a, cuts) for a in (zw, x, y)), strict=True)
    blocks = [
        PairMoments.from_block(
            a, b, c, pattern_labels(np.isfinite(b), np.isfinite(c)), classical=True
        )
        for a, b, c in parts
    ]
    return reduce(PairMoments.combine, blocks)


def labels_of(has_x, has_y):
    """Patterns, by brute force."""
    sets = {}
    both = has_x[:, :, None] & has_y[:, None, :]
    return [
        [sets.setdefault(both[:, p, q].tobytes(), len(sets)) for q in range(both.shape[2])]
        for p in range(both.shape[1])
    ]


def same_partition(a, b):
    pairs = set(zip(np.ravel(a).tolist(), np.ravel(b).tolist(), strict=True))
    return len(pairs) == len(set(np.ravel(a).tolist())) == len(set(np.ravel(b).tolist()))


def test_pairs_that_use_the_same_people_share_a_label(rng):
    has_x, has_y = rng.random((50, 5)) < 0.95, rng.random((50, 6)) < 0.95
    has_x[:, 1], has_y[:, 2], has_y[:, 3] = has_x[:, 0], has_x[:, 0], True
    labels = pattern_labels(has_x, has_y)
    assert same_partition(labels, labels_of(has_x, has_y))
    for s, (p, q) in enumerate(first_pairs(labels)):
        assert labels[p, q] == s
        exposures, outcomes = members(labels)[s]
        assert p in exposures
        assert q in outcomes


def test_refined_labels_agree_in_both_blocks(rng):
    has_x, has_y = rng.random((40, 4)) < 0.97, rng.random((40, 4)) < 0.97
    halves = [pattern_labels(has_x[i : i + 20], has_y[i : i + 20]) for i in (0, 20)]
    labels, sources = refine(*halves)
    assert same_partition(labels, labels_of(has_x, has_y))
    for s, (i, j) in enumerate(sources):
        assert (halves[0][labels == s] == i).all()
        assert (halves[1][labels == s] == j).all()


@pytest.mark.parametrize("missing", [0.0, 0.02, 0.7])
@pytest.mark.parametrize("cuts", [(), (150,), (3, 200, 201)])
def test_moments_of_every_pair_are_those_of_the_people_with_both(rng, missing, cuts):
    zw = design(rng)
    x, y = traits(rng, zw, missing)
    found = pair_moments(zw, x, y, cuts)
    for s, one in enumerate(found.crosses):
        for p, q in np.argwhere(found.labels == s):
            keep = np.isfinite(x[:, p]) & np.isfinite(y[:, q])
            dense = Moments.from_block(np.column_stack([zw, x[:, p], y[:, q]])[keep])
            part = one.select(np.array([p]), np.array([q]))
            size = np.sqrt(np.diag(dense.cross))
            assert part.count == dense.count
            # of a mean that happens to be next to zero, digits count against a spread of one
            assert_allclose(part.design_mean, dense.mean[: M + K], rtol=1e-12, atol=1e-14)
            assert_allclose(part.trait_mean, dense.mean[M + K :], rtol=1e-12, atol=1e-13)
            scale = 1e-12 * np.outer(size, size)
            assert (np.abs(part.design - dense.cross[:-2, :-2]) <= scale[:-2, :-2]).all()
            assert (np.abs(part.traits - dense.cross[:-2, -2:]) <= scale[:-2, -2:]).all()
            assert_allclose(part.squares, np.diag(dense.cross)[-2:], rtol=1e-12)
            assert abs(part.pairs[0, 0] - dense.cross[-2, -1]) <= scale[-2, -1]


def test_a_variant_that_a_pattern_does_not_carry_has_no_variance(rng):
    zw = design(rng)
    zw[:, 0] = 0
    zw[:5, 0] = 1
    x, y = traits(rng, zw)
    x[:5, 0] = np.nan
    found = pair_moments(zw, x, y)
    pattern = found.crosses[found.labels[0, 0]]
    assert pattern.design[0, 0] == 0
    assert found.crosses[found.labels[1, 0]].design[0, 0] > 1


@pytest.mark.parametrize("outlier", [1e4, 1e8])
def test_an_outlier_among_those_left_out_takes_no_digits_away(rng, outlier):
    zw = design(rng)
    zw[7, -1] = outlier
    x, y = traits(rng, zw)
    x[:, 0] = rng.normal(size=len(x))
    x[7, 0] = np.nan
    found = pair_moments(zw, x, y)
    part = found.crosses[found.labels[0, 0]]
    dense = Moments.from_block(np.delete(zw, 7, axis=0))
    size = np.sqrt(np.diag(dense.cross))
    assert (np.abs(part.design - dense.cross) <= 1e-11 * np.outer(size, size)).all()


def dense_2sls(zw, x, y, used, keep):
    """One pair, by projections of columns."""
    n = keep.sum()
    w = np.column_stack([np.ones(n), zw[keep, M:]])
    q, _ = np.linalg.qr(w)
    z, x, y = (a - q @ (q.T @ a) for a in (zw[keep][:, used], x[keep], y[keep]))
    d = z @ np.linalg.lstsq(z, x, rcond=None)[0]
    b = d @ y / (d @ x)
    dof = n - K - 1 - len(used)
    return b, d, x, y, (d @ d / len(used)) / ((x @ x - d @ d) / dof)


@pytest.mark.parametrize("missing", [0.0, 0.05])
def test_fits_equal_those_of_single_pairs_with_their_own_instruments(rng, missing):
    zw = design(rng)
    x, y = traits(rng, zw, missing)
    sets = [np.array([0, 1, 2, 3]), np.array([2, 5]), np.array([0, 1, 2, 3])]
    found = pair_moments(zw, x, y, (100, 300))
    for s, crosses in enumerate(found.crosses):
        fit = fit_pairs(crosses, M, sets)
        for p, q in np.argwhere(found.labels == s):
            i, j = np.searchsorted(crosses.exposures, p), np.searchsorted(crosses.outcomes, q)
            keep = np.isfinite(x[:, p]) & np.isfinite(y[:, q])
            b, d, xp, yq, f = dense_2sls(zw, x[:, p], y[:, q], sets[p], keep)
            assert_allclose(fit.estimate[i, j], b, rtol=1e-10)
            assert_allclose(fit.explained[i], d @ d, rtol=1e-10)
            assert_allclose(fit.first_stage_f[i], f, rtol=1e-10)
            assert_allclose(fit.residual_ss[i, j], np.sum((yq - b * xp) ** 2), rtol=1e-10)
            assert (fit.num_instruments[i], fit.num_controls) == (len(sets[p]), K + 1)
            rows = fit.partialled(zw, x, y, keep)
            assert_allclose(rows[0][keep, i], d, atol=1e-10)
            assert_allclose(rows[1][keep, i], xp, atol=1e-10)
            assert_allclose(rows[2][keep, j], yq, atol=1e-10)
            assert not rows[0][~keep].any()


def test_collinear_instruments_and_covariates_count_once(rng):
    zw = design(rng)
    zw[:, 1] = zw[:, 0]
    zw[:, M + 1] = 3 * zw[:, M] - 7
    x, y = traits(rng, zw)
    fit = fit_pairs(pair_moments(zw, x, y).crosses[0], M, [np.arange(M)] * P)
    assert (fit.num_instruments == M - 1).all()
    assert fit.num_controls == 2
    assert (fit.note == 0).all()


def test_every_reason_for_no_estimate_is_given(rng):
    zw = design(rng)
    zw[:, 0] = 0.1  # a constant whose mean is not exact
    zw[:, 1] = zw[:, M]
    x, y = traits(rng, zw)
    x[:, 0], y[:, 0] = 0.3, 0.7
    x[:, 2] = rng.permutation(np.r_[np.ones(200), -np.ones(200)])
    on_rest = np.column_stack([np.ones(400), zw[:, 1:]])
    x[:, 2] -= on_rest @ np.linalg.lstsq(on_rest, x[:, 2], rcond=None)[0]
    crosses = pair_moments(zw, x, y).crosses[0]
    note = fit_pairs(crosses, M, [np.arange(2, M)] * P).note
    assert (note[0] == FIXED_EXPOSURE).all()
    assert_array_equal(note[1], [FIXED_OUTCOME, 0, 0, 0])
    assert_array_equal(note[2], [FIXED_OUTCOME] + [UNRELATED] * 3)
    note = fit_pairs(crosses, M, [np.array([0, 1])] * P).note
    assert_array_equal(note[1], [FIXED_OUTCOME] + [NO_INSTRUMENT] * 3)
    few = pair_moments(zw[:8], x[:8], y[:8]).crosses[0]
    assert (fit_pairs(few, M, [np.arange(M)] * P).note == TOO_FEW).all()
    y[:, 3] = np.nan
    apart = pair_moments(zw, x, y)
    none = apart.crosses[apart.labels[1, 3]]
    fit = fit_pairs(none, M, [np.arange(M)] * P)
    assert (fit.note == NOBODY).all()
    assert np.isnan(fit.estimate).all()


def scores(rng, num_people):
    d, x = rng.normal(size=(2, num_people, P))
    y = rng.normal(size=(num_people, Q))
    keep = rng.random(num_people) < 0.9
    d[~keep] = 0
    return d, x, y, keep


def brute_meat(d, x, y, codes, b):
    total = np.zeros((P, Q))
    for code in np.unique(codes):
        inside = codes == code
        a = d[inside].T @ y[inside]
        total += (a - b * np.sum(d[inside] * x[inside], axis=0)[:, None]) ** 2
    return total


def test_robust_sums_are_those_over_people(rng):
    d, x, y, keep = scores(rng, 300)
    b = rng.normal(size=(P, Q))
    halves = [PairScores.of_people(*(a[i : i + 150] for a in (d, x, y, keep))) for i in (0, 150)]
    found = halves[0].combine(halves[1])
    assert_allclose(found.meat(b), brute_meat(d, x, y, np.arange(300), b), rtol=1e-12)
    assert found.num_groups == keep.sum()


@pytest.mark.parametrize("scattered", [False, True])
@pytest.mark.parametrize("num_blocks", [1, 2, 7])
def test_clustered_sums_are_those_over_clusters_of_any_size_anywhere(rng, scattered, num_blocks):
    sizes = np.r_[np.ones(40, int), np.full(30, 2), np.full(20, 3), 9, 40, 150]
    codes = np.repeat(np.arange(len(sizes)), sizes)
    if scattered:
        codes = rng.permutation(codes)
    d, x, y, keep = scores(rng, len(codes))
    keep[codes == 0], d[codes == 0] = False, 0
    b = rng.normal(size=(P, Q))
    parts = []
    for rows in np.array_split(np.arange(len(codes)), num_blocks):
        rows = rows[np.argsort(codes[rows], kind="stable")]
        block = (a[rows] for a in (d, x, y, keep))
        parts.append(PairScores.of_clusters(*block, codes[rows], sizes))
    found = reduce(lambda a, c: a.combine(c, sizes), parts)
    assert not len(found.code)
    assert_allclose(found.meat(b), brute_meat(d, x, y, codes, b), rtol=1e-11)
    assert found.num_groups == len(np.unique(codes[keep]))


def test_a_meat_that_is_all_rounding_is_none(rng):
    d, x, _, keep = scores(rng, 100)
    found = PairScores.of_people(d, x, 2 * x, keep)
    assert np.isnan(found.meat(np.full((P, P), 2.0))[np.diag_indices(P)]).all()


def test_associations_are_regressions_on_one_instrument_at_a_time(rng):
    zw = design(rng)
    x, y = traits(rng, zw)
    t = np.concatenate([x, y], axis=1)
    moments = Moments.from_block(np.concatenate([zw, t], axis=1))
    found = associations(Crosses.from_moments(moments, P + Q), M)
    for m in range(M):
        columns = np.column_stack([zw[:, m], np.ones(len(zw)), zw[:, M:] - zw[:, M:].mean(axis=0)])
        inverse = np.linalg.inv(columns.T @ columns)
        b = inverse @ columns.T @ t
        rss = np.sum((t - columns @ b) ** 2, axis=0)
        se = np.sqrt(rss / (len(zw) - K - 2) * inverse[0, 0])
        assert_allclose(found.beta[m], b[0], rtol=1e-9)
        assert_allclose(found.std_error[m], se, rtol=1e-9)
        assert_allclose(found.pvalue[m], 2 * stats.t.sf(abs(b[0] / se), found.dof), rtol=1e-8)
    assert_allclose(np.diag(found.correlation), 1)
    assert found.dof == len(zw) - K - 2


def test_an_instrument_without_variance_has_no_association(rng):
    zw = design(rng)
    zw[:, 2], zw[:, 3] = 1, zw[:, M]
    x, y = traits(rng, zw)
    y[:, 0] = 0.1
    moments = Moments.from_block(np.concatenate([zw, x, y], axis=1))
    found = associations(Crosses.from_moments(moments, P + Q), M)
    absent = np.isnan(found.beta)
    assert absent[[2, 3]].all()
    assert absent[:, P].all()
    assert not np.delete(np.delete(absent, [2, 3], axis=0), P, axis=1).any()
    assert_array_equal(absent, np.isnan(found.std_error))
