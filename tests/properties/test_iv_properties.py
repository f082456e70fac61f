"""What every instrumental-variable estimate must satisfy, whatever the data."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

import mrscale as mr

relaxed = settings(deadline=None, max_examples=15)
ESTIMATORS = ["ols", "2sls", "liml", "fuller", "gmm", "jive", "ujive"]
estimators = st.sampled_from(ESTIMATORS)
error_kinds = st.sampled_from(["classical", "robust", "cluster"])


@st.composite
def columns(draw, num_exposures=None) -> dict[str, Any]:
    """Arguments of ``mr.iv``: strong instruments, confounded and heteroskedastic traits."""
    p = num_exposures or draw(st.integers(1, 2))
    m, k = draw(st.integers(p, 5)), draw(st.integers(1, 3))
    n = draw(st.integers(60, 200))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    z, w, u = rng.binomial(2, 0.4, (n, m)), rng.normal(size=(n, k)), rng.normal(size=n)
    effects = np.eye(m, p) + rng.uniform(-0.3, 0.3, (m, p))
    x = z @ effects + w[:, :1] + u[:, None] + rng.normal(size=(n, p))
    y = x @ [0.5, -0.3][:p] + w.sum(1) + u * (1 + z[:, 0]) + rng.normal(size=n)
    clusters = rng.integers(0, 30, n)
    return {"outcome": y, "exposure": x, "instruments": z, "covariates": w, "clusters": clusters}


def fit(data: dict[str, Any], errors: str = "robust", **options: Any) -> mr.results.IVResult:
    if errors != "cluster":
        data = {name: value for name, value in data.items() if name != "clusters"}
    return mr.iv(**data, errors=errors, **options)


def assert_same(found, expected, rtol, *, scale=1.0):
    """Parameters within a share of their standard errors, covariances relative to them."""
    errors = expected.std_errors.to_numpy()
    assert (np.abs(found.params.to_numpy() * scale - expected.params) <= rtol * errors).all()
    size = np.broadcast_to(scale, errors.shape)
    difference = np.abs(found.cov.to_numpy() * np.outer(size, size) - expected.cov)
    assert (difference <= rtol * np.outer(errors, errors)).all(axis=None)


@relaxed
@given(columns(), estimators, error_kinds, st.integers(0, 99))
def test_the_order_of_people_does_not_matter(data, estimator, errors, seed):
    order = np.random.default_rng(seed).permutation(len(data["outcome"]))
    shuffled = {name: value[order] for name, value in data.items()}
    expected = fit(data, errors, estimator=estimator)
    found = fit(shuffled, errors, estimator=estimator)
    assert_same(found, expected, 1e-12)
    assert_allclose(found.first_stage, expected.first_stage, rtol=1e-10)
    assert_allclose(found.endogeneity.statistic, expected.endogeneity.statistic, rtol=1e-10)


@relaxed
@given(columns(), st.sampled_from(["ols", "2sls", "liml", "gmm"]), error_kinds)
def test_a_covariate_is_one_partialled_out_of_everything(data, estimator, errors):
    n = len(data["outcome"])
    controls = np.linalg.qr(np.column_stack([np.ones(n), data["covariates"]]))[0]

    def off(values: np.ndarray) -> np.ndarray:
        return values - controls @ (controls.T @ values)

    whole = fit(data, errors, estimator=estimator)
    partialled = {name: off(data[name]) for name in ("outcome", "exposure", "instruments")}
    partialled |= {"clusters": data["clusters"]}
    alone = fit(partialled, errors, estimator=estimator, intercept=False)
    names = list(whole.exposures)
    assert_allclose(alone.params[names], whole.params[names], rtol=1e-9, atol=1e-10)
    if estimator != "gmm":  # whose residuals do not meet the covariates' conditions exactly
        assert_allclose(alone.cov, whole.cov.loc[names, names], rtol=1e-8, atol=1e-12)


@relaxed
@given(columns(), estimators, error_kinds, st.floats(-6, 6), st.floats(-6, 6))
def test_scaled_columns_scale_their_coefficients(data, estimator, errors, of_x, of_y):
    a, b = 10**of_x, -(10**of_y)
    scaled = data | {
        "exposure": data["exposure"] * a,
        "outcome": data["outcome"] * b,
        "instruments": data["instruments"] * [1e5, 1e-5, 1, -1, 3][: data["instruments"].shape[1]],
    }
    expected = fit(data, errors, estimator=estimator)
    found = fit(scaled, errors, estimator=estimator)
    scale = np.full(len(expected.params), 1 / b)
    scale[: len(expected.exposures)] *= a
    assert_same(found, expected, 1e-9, scale=scale)


@relaxed
@given(columns(), estimators, st.booleans())
def test_clusters_of_one_person_are_robust_errors(data, estimator, small):
    alone = data | {"clusters": np.arange(len(data["outcome"]))[::-1]}
    clustered = fit(alone, "cluster", estimator=estimator, small_sample=small)
    robust = fit(data, "robust", estimator=estimator, small_sample=small)
    assert_same(clustered, robust, 1e-10)


@relaxed
@given(columns(), st.sampled_from(["ols", "2sls", "liml"]), st.integers(0, 99))
def test_integer_weights_are_repeated_people(data, estimator, seed):
    times = np.random.default_rng(seed).integers(1, 4, len(data["outcome"]))
    plain = {name: value for name, value in data.items() if name != "clusters"}
    repeated = {name: np.repeat(value, times, axis=0) for name, value in plain.items()}
    found = fit(plain | {"weights": times}, "classical", estimator=estimator)
    expected = fit(repeated, "classical", estimator=estimator)
    assert_allclose(found.params, expected.params, rtol=1e-8, atol=1e-9)
    # errors count people, not weights
    assert_allclose(found.cov * len(times) / times.sum(), expected.cov, rtol=1e-8, atol=1e-12)


@relaxed
@given(columns(), estimators, error_kinds, st.floats(-3, 3))
def test_only_ratios_of_weights_matter(data, estimator, errors, exponent):
    weights = np.random.default_rng(0).uniform(0.5, 2, len(data["outcome"]))
    one = fit(data | {"weights": weights}, errors, estimator=estimator)
    other = fit(data | {"weights": 10**exponent * weights}, errors, estimator=estimator)
    assert_same(other, one, 1e-9)
    assert_allclose(other.residual_variance, one.residual_variance, rtol=1e-9)


@relaxed
@given(columns(), estimators, st.sampled_from(["classical", "cluster"]))
def test_weights_multiply_columns_by_their_root(data, estimator, errors):
    """For the jackknife estimators too: leverages are then those of the weighted regression."""
    n = len(data["outcome"])
    weights = np.random.default_rng(0).uniform(0.5, 2, n)
    root = np.sqrt(weights / weights.mean())
    controls = np.column_stack([data["covariates"], np.ones(n)])
    columns = data | {"covariates": controls, "instruments": data["instruments"].astype(float)}
    multiplied = {name: (value.T * root).T for name, value in columns.items()}
    multiplied["clusters"] = data["clusters"]
    expected = fit(multiplied, errors, estimator=estimator, intercept=False)
    found = fit(data | {"weights": weights}, errors, estimator=estimator)
    assert_same(found, expected, 1e-9)


@relaxed
@given(columns(), estimators)
def test_instruments_may_be_recombined(data, estimator):
    """Estimates depend on what instruments span, not on which basis is given."""
    m = data["instruments"].shape[1]
    turn = np.random.default_rng(1).normal(size=(m, m)) + 3 * np.eye(m)
    expected = fit(data, estimator=estimator)
    found = fit(data | {"instruments": data["instruments"] @ turn}, estimator=estimator)
    assert_same(found, expected, 1e-8)
