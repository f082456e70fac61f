"""Frames, fits and checks from blocks, against the same on the whole matrix."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import zarr
from linearmodels.iv import IV2SLS, IVGMM
from numpy.testing import assert_allclose, assert_array_equal

from mrscale.errors import InputError
from mrscale.sampling.plan import blocks
from mrscale.stats.design import indicators, polynomial_basis
from mrscale.stats.iv import two_stage_least_squares
from mrscale.stats.misfit import RandomFeatures, misfit
from mrscale.stats.moments import Moments
from mrscale.store.reader import open_store
from mrscale.stream.engine import engine
from mrscale.stream.products import mean_dosage
from mrscale.workflow.checks import misfits
from mrscale.workflow.designs import GENOTYPE, PairData
from mrscale.workflow.fitting import (
    fit,
    fit_within,
    fit_without,
    frame_moments,
    select,
    with_errors,
)
from mrscale.workflow.iv import iv
from mrscale.workflow.latents import Latents
from mrscale.workflow.pair import fit_pair
from mrscale.workflow.truth import true_latents


@pytest.fixture(scope="module")
def client():
    with engine() as found:
        yield found


NO_LATENTS = Latents({}, ())


def pair_data(store, latents=NO_LATENTS, oracle=None, drop=False, clustered=False):
    fill = mean_dosage(store)
    return PairData(store, fill, drop, 0, 0, latents, oracle, clustered=clustered)


def cuts(store):
    return blocks(store.num_samples, store.layout.chunk_rows)


def estimate(client, data, keys):
    """Estimates with robust errors of some estimators, over everybody."""
    store, known = data.store, {one.key: one for one in data.estimators()}
    moments = frame_moments(client, cuts(store), data)
    fitted = [fit(moments, known[key]) for key in keys]
    return with_errors(client, cuts(store), data, fitted)[0]


def whole(store):
    """Filled dosages, covariates, indicators, exposure and outcome of everybody."""
    environment = store.array("environment")
    dosage, fill = store.dosage(slice(None)).astype(float), mean_dosage(store)
    dosage = np.where(dosage < 0, fill[environment], dosage)
    covariates = store.array("covariate").astype(float)
    x, y = (store.array(name)[:, 0].astype(float) for name in ("exposure", "outcome"))
    return dosage, covariates, indicators(environment, len(fill)), x, y


def test_estimators_are_those_of_the_whole_matrix(client, small):
    dosage, covariates, dummies, x, y = whole(small)
    one = np.ones((len(x), 1))
    age = covariates[:, :1]
    models = {
        "ols": IV2SLS(y, np.c_[one, age, x], None, None),
        "tsls": IV2SLS(y, np.c_[one, age], x, dosage),
        "tsls_pc": IV2SLS(y, np.c_[one, covariates, dummies], x, dosage),
    }
    found = estimate(client, pair_data(small), models)
    for one, model in zip(found, models.values(), strict=True):
        expected = model.fit(cov_type="robust")
        assert_allclose(one.estimate, expected.params.iloc[-1], rtol=1e-7)
        assert_allclose(one.std_error, expected.std_errors.iloc[-1], rtol=1e-7)
        assert one.pooled is None
    assert [len(fitted.fits) for fitted in found] == [1, 1, 1]


def test_hansens_test_of_many_variants_is_that_of_two_step_gmm(client, small):
    dosage, covariates, _, x, y = whole(small)
    ols, found = estimate(client, pair_data(small), ["ols", "tsls"])
    exog = np.c_[np.ones((len(x), 1)), covariates[:, :1]]
    expected = IVGMM(y, exog, x, dosage).fit(iter_limit=2, cov_type="robust").j_stat
    assert found.overidentification.dof == expected.df == 29
    assert_allclose(found.overidentification.statistic, expected.stat, rtol=1e-6)
    assert_allclose(found.result(900).j_pvalue, expected.pval, rtol=1e-6)
    assert np.isnan(ols.result(900).j_pvalue)


@pytest.mark.parametrize("clustered", [False, True])
def test_the_anderson_rubin_set_has_the_errors_of_the_estimate(client, small, clustered):
    dosage, covariates, dummies, x, y = whole(small)
    found = fit_pair(client, pair_data(small, clustered=clustered), {}).anderson_rubin
    cluster = small.array("cluster")
    own = np.where(cluster < 0, cluster.max() + 1 + np.arange(len(cluster)), cluster)
    errors = {"errors": "cluster", "clusters": own} if clustered else {"errors": "robust"}
    expected = iv(y, x, dosage, np.c_[covariates, dummies], **errors).anderson_rubin()
    assert_allclose(found, expected.intervals, rtol=1e-6)
    assert len(np.unique(own)) < len(own)


@pytest.mark.parametrize("clustered", [False, True])
def test_estimates_vary_together_as_their_influences_do(client, small, clustered):
    family = small.array("family")
    unit = np.where(family >= 0, family, 1000 + np.arange(len(family)))
    code = np.unique(unit, return_inverse=True)[1]
    data = pair_data(small, clustered=clustered)
    known = {one.key: one for one in data.estimators()}
    moments = frame_moments(client, cuts(small), data)
    fitted = [fit(moments, known[key]) for key in ("ols", "tsls", "tsls_pc")]
    found, covariance = with_errors(client, cuts(small), data, fitted)
    ((_, frame),) = data.frames(slice(0, small.num_samples))
    influence = np.stack(
        [one.fits[0].influence(frame.matrix[:, one.estimator.columns]) for one in fitted], axis=1
    )
    if clustered:
        influence = np.stack([np.bincount(code, column) for column in influence.T], axis=1)
    assert_allclose(covariance, influence.T @ influence, rtol=1e-9)
    assert_allclose([one.variance for one in found], np.diag(covariance), rtol=1e-12)


def test_within_an_environment_only_its_people_count(client, small):
    dosage, covariates, _, x, y = whole(small)
    data = pair_data(small)
    moments = frame_moments(client, cuts(small), data)
    naive = next(one for one in data.estimators() if one.key == "tsls")
    fitted, _ = with_errors(client, cuts(small), data, fit_within(moments, naive, range(3)))
    for code, one in enumerate(fitted):
        inside = small.array("environment") == code
        exog = np.c_[np.ones(inside.sum()), covariates[inside, :1]]
        expected = IV2SLS(y[inside], exog, x[inside], dosage[inside]).fit(cov_type="robust")
        assert_allclose(one.estimate, expected.params.iloc[-1], rtol=1e-7)
        assert_allclose(one.std_error, expected.std_errors.iloc[-1], rtol=1e-7)
        assert select(moments, GENOTYPE, (code,)).count == inside.sum()


def test_without_an_environment_the_others_people_count(client, small):
    dosage, covariates, _, x, y = whole(small)
    data = pair_data(small)
    moments = frame_moments(client, cuts(small), data)
    naive = next(one for one in data.estimators() if one.key == "tsls")
    fitted, _ = with_errors(client, cuts(small), data, fit_without(moments, naive, range(3)))
    assert [one.environments for one in fitted] == [(1, 2), (0, 2), (0, 1)]
    for code, one in enumerate(fitted):
        others = small.array("environment") != code
        exog = np.c_[np.ones(others.sum()), covariates[others, :1]]
        expected = IV2SLS(y[others], exog, x[others], dosage[others]).fit(cov_type="robust")
        assert_allclose(one.estimate, expected.params.iloc[-1], rtol=1e-7)
        assert_allclose(one.std_error, expected.std_errors.iloc[-1], rtol=1e-7)


def test_people_without_a_trait_or_covariate_are_left_out(client, small, changed_store):
    traits = {name: small.array(name).copy() for name in ("exposure", "outcome", "covariate")}
    traits["exposure"][::7, 0] = np.nan
    traits["outcome"][1::7, 0] = np.nan
    traits["covariate"][2::7, 1] = np.nan
    store = open_store(changed_store(**traits))
    keep = np.arange(store.num_samples) % 7 > 2
    data = pair_data(store)
    everyone = slice(0, store.num_samples)
    assert_array_equal(data.complete(everyone, store.expected_dosage(everyone)), keep)
    dosage, covariates, dummies, x, y = (part[keep] for part in whole(store))
    (found,) = estimate(client, data, ["tsls_pc"])
    exog = np.c_[np.ones(len(x)), covariates, dummies]
    expected = IV2SLS(y, exog, x, dosage).fit(cov_type="robust")
    assert_allclose(found.estimate, expected.params.iloc[-1], rtol=1e-7)
    assert_allclose(found.std_error, expected.std_errors.iloc[-1], rtol=1e-7)


def test_people_with_a_missing_call_can_be_left_out(client, small):
    keep = (small.array("call_dosage") >= 0).all(axis=1)
    assert 0 < keep.sum() < small.num_samples
    dosage, covariates, dummies, x, y = (part[keep] for part in whole(small))
    (found,) = estimate(client, pair_data(small, drop=True), ["tsls_pc"])
    exog = np.c_[np.ones(len(x)), covariates, dummies]
    expected = IV2SLS(y, exog, x, dosage).fit(cov_type="robust")
    assert_allclose(found.estimate, expected.params.iloc[-1], rtol=1e-7)
    assert_allclose(found.std_error, expected.std_errors.iloc[-1], rtol=1e-7)


def test_clusters_are_those_of_people_in_the_estimates(small, changed_store):
    complete = (small.array("call_dosage") >= 0).all(axis=1)
    cluster = np.where(complete, 0, 1 + np.arange(small.num_samples)).astype(np.int32)
    store = open_store(changed_store(cluster=cluster))
    assert pair_data(store, clustered=True).num_clusters() == 1 + (~complete).sum()
    assert pair_data(store, drop=True, clustered=True).num_clusters() == 1


def test_nobody_with_all_traits_is_refused(client, small, changed_store):
    exposure, outcome = small.array("exposure").copy(), small.array("outcome").copy()
    exposure[::2], outcome[1::2] = np.nan, np.nan
    data = pair_data(open_store(changed_store(exposure=exposure, outcome=outcome)))
    moments = frame_moments(client, cuts(small), data)
    with pytest.raises(InputError, match="nobody with all of them; choose traits"):
        fit(moments, data.estimators()[0])


def test_environments_with_too_few_people_are_left_out_of_fits_within(client, small, changed_store):
    exposure = small.array("exposure").copy()
    exposure[small.array("environment") == 0] = np.nan
    west = np.flatnonzero(small.array("environment") == 2)
    exposure[west[25:]] = np.nan  # fewer than instruments
    data = pair_data(open_store(changed_store(exposure=exposure)))
    moments = frame_moments(client, cuts(small), data)
    naive = next(one for one in data.estimators() if one.key == "tsls")
    assert [one.environments for one in fit_within(moments, naive, range(3))] == [(1,)]


@pytest.fixture(scope="module")
def encoded(small, tmp_path_factory):
    """Latents of two encoders, each absent for its own fold, as the encode stage leaves them."""
    rng = np.random.default_rng(5)
    path = tmp_path_factory.mktemp("latents") / "latents.zarr"
    exposure = small.array("exposure").astype(float)
    shape = 2, small.num_samples, 1
    latent = 0.5 * exposure + rng.normal(size=shape)
    remainder = rng.normal(size=shape)
    for s in range(2):
        latent[s, small.array("fold") == s] = np.nan
    remainder[np.isnan(latent)] = np.nan
    group = zarr.open_group(str(path), mode="w")
    for name, values in {"linear_latent": latent, "linear_remainder": remainder}.items():
        group.create_array(name, data=values.astype("float32"))
    latents = Latents.open(path, ["linear", "flow"])
    return latents, latent.astype("float32").astype(float), remainder.astype("float32")


def learned_rows(small, latent, remainder):
    """Design of the estimator with controls for the people of one encoder, and who they are."""
    _, covariates, dummies, x, y = whole(small)
    inside = np.flatnonzero(~np.isnan(latent[:, 0]))
    g, h = latent[inside], remainder[inside].astype(float)
    controls = np.c_[covariates[inside, :1], dummies[inside], polynomial_basis(h, 3)]
    return np.c_[polynomial_basis(g, 2), controls, x[inside], y[inside]], inside


def test_replicated_encoders_are_averaged_with_their_shared_errors(client, small, encoded):
    latents, latent, remainder = encoded
    (found,) = estimate(client, pair_data(small, latents), ["linear_controls"])
    influence = np.zeros((2, small.num_samples))
    estimates = []
    for s in range(2):
        rows, inside = learned_rows(small, latent[s], remainder[s])
        single = two_stage_least_squares(Moments.from_block(rows), 2)
        influence[s, inside] = single.influence(rows)
        estimates.append(single.estimate)
    within = (influence.mean(axis=0) ** 2).sum()
    assert_allclose(found.estimate, np.mean(estimates), rtol=1e-8)
    assert_allclose(found.variance, within, rtol=1e-7)
    assert_allclose(found.std_error**2, within + np.var(estimates, ddof=1) / 2, rtol=1e-7)
    result = found.result(small.num_samples)
    assert_allclose(result.ci_upper - result.estimate, 12.7062 * found.std_error, rtol=1e-5)


def test_misfit_checks_equal_those_of_the_whole_matrix(client, small, encoded):
    latents, latent, remainder = encoded
    found = misfits(client, small, latents, seed=4)["linear"]
    environment, family = small.array("environment"), small.array("family")
    unit = np.where(family >= 0, family, np.arange(len(family)))
    part = np.array([(int(u) * 2654435761 % 2**32 >> 16) % 3 for u in unit])
    assert np.bincount(part, minlength=3).min() > 270
    features = RandomFeatures.draw(1, np.random.default_rng(4))
    checks = []
    for s in range(2):
        rows = features.rows(latent[s], remainder[s].astype(float), indicators(environment, 3))
        unseen = small.array("fold") != s
        groups = {
            (p, e): Moments.from_block(rows[unseen & (part == p) & (environment == e)])
            for p in range(3)
            for e in range(3)
        }
        checks.append(misfit(groups, 2, 1))
    assert_allclose(found.r2, np.mean([c.r2 for c in checks]), rtol=1e-6)
    assert_allclose(
        found.likelihood_ratio, np.mean([c.likelihood_ratio for c in checks]), rtol=1e-6
    )


def test_the_oracle_stands_in_the_stores_order(client, small, tmp_path):
    people = small.array("sample_id")
    latents = pd.DataFrame({"person_id": people, "z": np.arange(len(people), dtype=float)})
    latents.sample(frac=1, random_state=0).to_parquet(tmp_path / "latents.parquet")
    oracle = true_latents(small, tmp_path / "latents.parquet", ["z"])
    assert_array_equal(oracle[:, 0], np.arange(len(people)))
    (found,) = estimate(client, pair_data(small, oracle=oracle / len(people)), ["oracle"])
    assert found.fits[0].num_instruments == 2
