"""``split_iv`` against dense computations by hand, and what it refuses."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import dask
import dask.array as da
import numpy as np
import pandas as pd
import pytest
from linearmodels.iv import IV2SLS
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import chi2

from mrscale.errors import InputError
from mrscale.stats.moments import Moments
from mrscale.store.reader import open_store
from mrscale.workflow.iv import iv
from mrscale.workflow.iv_data import Data
from mrscale.workflow.split_iv import fit_split, group_moments, split_iv
from mrscale.workflow.store_data import StoreData


def people(seed=0, n=600, m=5, k=2, p=1, strength=0.4):
    rng = np.random.default_rng(seed)
    z, w, u = rng.binomial(2, 0.3, (n, m)), rng.normal(5, 2, (n, k)), rng.normal(size=(n, 1))
    x = z @ rng.uniform(0, strength, (m, p)) + w.sum(1, keepdims=True) + u
    x = x + rng.normal(size=(n, p))
    y = x.sum(1) + w[:, :1].sum(1) + (2 + z[:, 0]) * u[:, 0] + rng.normal(size=n)
    return y, x, z, w, rng.integers(0, 3, n)


def predictions(x, z, w, groups):
    """Exposures as the instruments of each person, less what the covariates say of these, predict
    them in everybody else's regressions."""
    found = np.empty(x.shape)
    w = np.column_stack([w, np.ones(len(w))])
    for group in np.unique(groups):
        own, other = groups == group, groups != group
        h = np.column_stack([z, w])[other]
        pi = np.linalg.lstsq(h, x[other], rcond=None)[0][: z.shape[1]]
        found[own] = (z[own] - w[own] @ np.linalg.lstsq(w[other], z[other], rcond=None)[0]) @ pi
    return found


def shared_scores(r, x, z, w, groups, clusters):
    """``sum (z_i'A_g z_j) (z_j'A_h z_i) r_i x_jp r_j x_iq`` over pairs of people of groups g and h
    (clusters, which lie in one group), A_g from the people outside g; shape (P, P)."""
    w = np.column_stack([w, np.ones(len(w))])
    z, x = (a - w @ np.linalg.lstsq(w, a, rcond=None)[0] for a in (z, x))
    which = clusters == np.unique(clusters)[:, None]
    group = np.array([groups[one][0] for one in which])
    a = np.array([z[one].T @ r[one] for one in which])
    b = np.array([z[one].T @ x[one] for one in which])
    inverse = {}
    for g in np.unique(groups):
        other = z[groups != g]
        inverse[g] = np.linalg.inv((other - other.mean(0)).T @ (other - other.mean(0)))
    left = np.zeros((x.shape[1], len(a), len(a)))
    for g in np.unique(groups):
        left[:, group == g] = np.einsum("il,lm,jmp->pij", a[group == g], inverse[g], b)
    left[:, group[:, None] == group] = 0
    return np.einsum("pij,qji->pq", left, left)


def by_hand(y, x, z, w, groups, clusters=None):
    """``(Xh'X)^-1 Xh'y`` with covariates among both, and its robust covariance."""
    rest = np.column_stack([w, np.ones(len(y))])
    predicted = predictions(x, z, w, groups)
    a, r = np.column_stack([predicted, rest]), np.column_stack([x, rest])
    bread = np.linalg.inv(a.T @ r)
    b = bread @ (a.T @ y)
    alone = np.arange(len(y)) if clusters is None else clusters
    scores = a * (y - r @ b)[:, None]
    sums = np.array([scores[alone == one].sum(0) for one in np.unique(alone)])
    meat = sums.T @ sums
    p = x.shape[1]
    meat[:p, :p] += shared_scores(y - r @ b, x, z, w, groups, alone)
    return b, bread @ meat @ bread.T


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("num_groups", [2, 5])
def test_estimates_and_errors_are_those_of_a_dense_computation(p, num_groups):
    y, x, z, w, _ = people(p, p=p)
    groups = np.random.default_rng(0).integers(0, num_groups, len(y))
    fit = split_iv(y, x, z, w, groups=groups)
    b, cov = by_hand(y, x, z, w, groups)
    assert_allclose(fit.params, b, rtol=1e-10)
    assert_allclose(fit.cov, cov, rtol=1e-9, atol=1e-9 * np.abs(cov).max())
    assert fit.estimator == "split-sample 2sls"
    assert fit.instruments == tuple(f"instrument_{i}" for i in range(5))
    assert fit.num_instruments == 5


@pytest.mark.parametrize("errors", ["classical", "robust", "cluster"])
@pytest.mark.parametrize("small_sample", [False, True])
def test_everything_else_is_2sls_with_the_predictions_as_instruments(errors, small_sample):
    y, x, z, w, groups = people(3)
    alone, clusters = np.arange(len(y)), None
    if errors == "cluster":
        clusters = alone = groups + 3 * np.random.default_rng(0).integers(0, 60, len(y))
    options = {"errors": errors, "clusters": clusters, "small_sample": small_sample}
    fit = split_iv(y, x, z, w, groups=groups, **options)
    made = predictions(x, z, w, groups)
    kind = {"classical": "unadjusted", "robust": "robust", "cluster": "clustered"}[errors]
    given = {"clusters": clusters} if errors == "cluster" else {}
    exog = np.column_stack([np.ones(len(y)), w])
    oracle = IV2SLS(y, exog, x, made).fit(cov_type=kind, debiased=small_sample, **given)
    assert_allclose(fit.params, oracle.params.to_numpy()[[3, 1, 2, 0]], rtol=1e-8)
    inside = made - exog @ np.linalg.lstsq(exog, made, rcond=None)[0]
    shared = shared_scores(oracle.resids.to_numpy(), x, z, w, groups, alone)
    more = (shared / (inside.T @ x) ** 2).item()
    n, k = len(y), 4
    scale = {"classical": n, "robust": n, "cluster": n - 1}[errors] / (n - k)
    if errors == "cluster":
        scale *= len(np.unique(clusters)) / (len(np.unique(clusters)) - 1)
    expected = oracle.cov.iloc[3, 3] + more * (scale if small_sample else 1)
    assert_allclose(fit.std_errors["exposure"], expected**0.5, rtol=1e-8)
    same = iv(y, x, made, w, **options)
    assert_allclose(fit.first_stage, same.first_stage, rtol=1e-9, equal_nan=True)
    assert_allclose(fit.endogeneity.statistic, same.endogeneity.statistic, rtol=1e-8)


def test_the_anderson_rubin_set_ends_where_its_test_does():
    y, x, z, w, groups = people(3)
    ((lower, upper),) = split_iv(y, x, z, w, groups=groups).anderson_rubin().intervals
    rest = np.column_stack([w, np.ones(len(y))])
    columns = (predictions(x, z, w, groups)[:, 0], x[:, 0], y)
    made, own, out = (a - rest @ np.linalg.lstsq(rest, a, rcond=None)[0] for a in columns)
    for value in (lower, upper):
        u = out - own * value
        variance = (made * u) @ (made * u)
        variance += shared_scores(u, x, z, w, groups, np.arange(len(y))).item()
        assert_allclose((made @ u) ** 2 / variance, chi2.isf(0.05, 1), rtol=1e-7)


def test_labels_of_groups_may_be_text_and_rows_in_any_order():
    y, x, z, w, groups = people(4)
    expected = split_iv(y, x, z, w, groups=groups)
    labels = pd.Series(np.array(["a", "b", "c"])[groups])
    order = np.random.default_rng(0).permutation(len(y))
    found = split_iv(y[order], x[order], z[order], w[order], groups=labels.to_numpy()[order])
    assert_allclose(found.params, expected.params, rtol=1e-10)
    assert_allclose(found.cov, expected.cov, rtol=1e-10)
    assert_array_equal(split_iv(y, x, z, w, groups=labels).params, expected.params)


def test_dask_columns_give_the_same_bits_in_other_processes_too():
    y, x, z, w, _ = people(5, n=17_000)
    groups, clusters = np.arange(len(y)) // 4 % 5, np.arange(len(y)) // 4
    options = {"groups": groups, "errors": "cluster", "clusters": clusters}
    expected = split_iv(y, x, z, w, **options)
    chunked = [da.from_array(c, chunks=(5000, *c.shape[1:])) for c in (y, x, z, w)]
    found = [split_iv(*chunked, **options)]
    spawning = get_context("spawn")
    with (
        ProcessPoolExecutor(1, mp_context=spawning) as pool,
        dask.config.set(scheduler="processes", pool=pool),
    ):
        found.append(split_iv(*chunked, **options))
    for fit in found:
        assert_array_equal(fit.params, expected.params)
        assert_array_equal(fit.cov, expected.cov)


@pytest.mark.parametrize("clustered", [False, True])
def test_rows_of_a_store_give_what_columns_give(small_store, clustered):
    store = open_store(small_store)
    data = StoreData.read(store, None, ["exposure"], "outcome", ["age"], clustered=clustered)
    fold = data.fold.astype(np.int64)
    errors = "cluster" if clustered else "robust"
    found = fit_split(data, fold, group_moments(data, fold), errors=errors)
    layout = store.layout
    rows = np.concatenate([data.rows.of(layout.chunk(i)) for i in range(layout.num_chunks)])
    z, w, x, y = np.split(rows, np.cumsum([30, data.covariates.width, 1]), axis=1)
    expected = split_iv(y[:, 0], x, z, w, groups=fold, errors=errors, clusters=data.codes)
    assert_allclose(found.params, expected.params, rtol=1e-9)
    assert_allclose(found.cov, expected.cov, rtol=1e-9)


def test_moments_of_groups_may_come_from_elsewhere():
    y, x, z, w, groups = people(6)
    data = Data.of(y, x, z, w, clusters=None, weights=None, intercept=True)
    rows = np.column_stack([z, w, x, y])
    moments = [Moments.from_block(rows[groups == group]) for group in range(3)]
    found = fit_split(data, groups, moments, errors="robust")
    assert_allclose(found.params, split_iv(y, x, z, w, groups=groups).params, rtol=1e-10)


def test_integer_weights_are_repetitions():
    y, x, z, w, groups = people(7)
    times = np.random.default_rng(0).integers(1, 4, len(y))
    data = Data.of(y, x, z, w, clusters=None, weights=times, intercept=True)
    moments = group_moments(data, groups)
    found = fit_split(data, groups, moments, errors="robust")
    # a person repeated is a cluster
    y, x, z, w, groups, alone = (
        np.repeat(column, times, 0) for column in (y, x, z, w, groups, np.arange(len(y)))
    )
    expected = split_iv(y, x, z, w, groups=groups, errors="cluster", clusters=alone)
    assert_allclose(found.params, expected.params, rtol=1e-9)
    assert_allclose(found.cov, expected.cov, rtol=1e-8)


def test_many_weak_instruments_bias_2sls_and_not_the_split_sample():
    plain, split, errors, covered, inside = [], [], [], [], []
    for seed in range(80):
        rng = np.random.default_rng(seed)
        z, u = rng.normal(size=(600, 20)), rng.normal(size=600)
        x = z @ np.full(20, 0.1) + u + 0.5 * rng.normal(size=600)
        y = u + 0.5 * rng.normal(size=600)
        on = z @ np.linalg.lstsq(z, x, rcond=None)[0]
        plain.append(on @ y / (on @ x))
        fit = split_iv(y, x, z, groups=np.arange(600) % 5)
        split.append(fit.params["exposure"])
        errors.append(fit.std_errors["exposure"])
        covered.append(abs(split[-1]) < 1.96 * errors[-1])
        inside.append(any(low < 0 < high for low, high in fit.anderson_rubin().intervals))
    # the truth is zero, ordinary least squares goes to 0.7
    assert np.mean(plain) > 0.1
    assert abs(np.median(split)) < 0.05
    # Monte Carlo error of 80 replicates: 2.4 points of coverage, 8 % of a standard deviation
    assert np.mean(covered) > 0.87
    assert np.mean(inside) > 0.87
    assert 0.75 < np.median(errors) / np.std(split) < 1.25


def test_the_result_says_what_it_is():
    y, x, z, w, groups = people(8)
    fit = split_iv(y, x, z, w, groups=groups)
    assert fit.overidentification.reason
    assert "SPLIT-SAMPLE 2SLS" in fit.summary()
    assert "out of sample" in fit.summary()
    assert fit.first_stage["f"].iloc[0] != pytest.approx(iv(y, x, z, w).first_stage["f"].iloc[0])
    assert fit.to_dict()["estimator"] == "split-sample 2sls"


def test_collinear_covariates_are_left_out_and_noted():
    y, x, z, w, groups = people(8)
    twice = split_iv(y, x, z, np.column_stack([w, w[:, 0]]), groups=groups)
    assert "left out" in " ".join(twice.notes)
    assert_allclose(twice.params, split_iv(y, x, z, w, groups=groups).params, rtol=1e-9)


def test_clusters_in_several_groups_are_noted():
    y, x, z, w, groups = people(9)
    families = np.arange(len(y)) // 3
    mixed = split_iv(y, x, z, w, groups=groups, errors="cluster", clusters=families)
    assert "several groups" in " ".join(mixed.notes)
    whole = split_iv(y, x, z, w, groups=families % 4, errors="cluster", clusters=families)
    assert "several groups" not in " ".join(whole.notes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"groups": np.zeros(600)}, "needs two to 100 groups of people; found <=20"),
        ({"groups": np.arange(600)}, "needs two to 100 groups of people; found 600"),
        ({"groups": np.where(np.arange(600) < 592, 1, 2)}, "found <=20 people outside"),
        ({"groups": [*["a"] * 300, *["b"] * 295, *[None] * 5]}, "no group for <=20 people"),
        ({"groups": np.arange(599) % 2}, "one row per person each"),
        ({"errors": "cluster"}, "needs to know the clusters"),
        ({"errors": "hc1"}, "errors must be one of"),
        ({"instruments": np.zeros((600, 2))}, "no instrument varies"),
        ({"exposure": np.r_[np.nan, np.ones(599)]}, "finite numbers for everybody"),
        ({"outcome": np.zeros(600)}, "outcome must vary"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(changes, message):
    y, x, z, w, groups = people(10)
    given = {"outcome": y, "exposure": x, "instruments": z, "covariates": w, "groups": groups}
    with pytest.raises(InputError, match=message):
        split_iv(**{**given, **changes})


def test_a_variance_that_comes_out_negative_is_refused():
    rng = np.random.default_rng(24)
    z, x, groups = rng.normal(size=(200, 20)), rng.normal(size=200), np.arange(200) % 2
    # no first stage, and residuals that go with the exposure here and against it there
    with pytest.raises(InputError, match="variance came out negative"):
        split_iv(np.where(groups == 0, x, -x), x, z, groups=groups)
