"""``mrscale.iv`` against linearmodels: every estimator, error and test, and random designs."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

oracle = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "iv_oracle.py")))


@pytest.mark.parametrize("errors", oracle.COVARIANCES)
@pytest.mark.parametrize("estimator", ["ols", "2sls", "liml", "fuller", "gmm", "jive"])
@pytest.mark.parametrize("num_exposures", [1, 2])
def test_estimates_and_errors_equal_linearmodels(num_exposures, estimator, errors):
    design = oracle.simulated(p=num_exposures)
    for small in (False, True):
        oracle.assert_same_fit(design, estimator, errors, small)
    if (estimator, errors) == ("gmm", "classical"):
        return  # linearmodels takes the variance of the residuals for their mean square
    oracle.assert_same_fit(oracle.weighted(design), estimator, errors, True)
    oracle.assert_same_fit(replace(design, intercept=False), estimator, errors, True)


@pytest.mark.parametrize("errors", ["robust", "cluster"])
@pytest.mark.parametrize("num_exposures", [1, 2])
def test_cue_equals_linearmodels_to_its_optimiser(num_exposures, errors):
    design = oracle.simulated(p=num_exposures, strength=2.0)
    # linearmodels' optimiser takes the columns as they are, and needs them alike
    design = replace(design, w=(design.w - design.w.mean(axis=0)) / design.w.std(axis=0))
    for one in (design, oracle.weighted(design), replace(design, intercept=False)):
        # linearmodels stops where J hardly changes: parameters within some 1e-4 standard errors,
        # J, which is quadratic in the distance, far closer
        found, expected = oracle.assert_same_fit(one, "cue", errors, False, rtol=1e-3)
        j = found.overidentification
        assert_allclose(j.statistic, expected.j_stat.stat, rtol=1e-6)
        assert j.statistic <= expected.j_stat.stat * (1 + 1e-11)


def test_classical_cue_is_liml():
    design = oracle.simulated(p=2)
    cue, liml = design.fit("cue", "classical"), design.fit("liml", "classical")
    # BFGS stops at a gradient of 1e-8 standard errors
    assert (np.abs(cue.params - liml.params) / liml.std_errors).max() < 1e-6


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("num_exposures", [1, 2])
def test_specification_tests_equal_linearmodels(num_exposures, small):
    for design in (
        oracle.simulated(p=num_exposures),
        oracle.weighted(oracle.simulated(p=num_exposures)),
    ):
        found, theirs = (f("2sls", "classical", small) for f in (design.fit, design.oracle))
        oracle.assert_test(found.overidentification, theirs.sargan)
        oracle.assert_test(found.endogeneity, theirs.wu_hausman())
        liml, theirs = (f("liml", "classical", small) for f in (design.fit, design.oracle))
        oracle.assert_test(liml.overidentification, theirs.anderson_rubin)
        assert_allclose(liml.kappa, theirs.kappa, rtol=1e-12)
        for errors in ("robust", "cluster"):
            found, theirs = (f("2sls", errors, small) for f in (design.fit, design.oracle))
            oracle.assert_test(found.endogeneity, theirs.wooldridge_regression)
            # J is of two-step GMM: the same whichever estimator is reported
            j = design.oracle("gmm", errors, small).j_stat
            oracle.assert_test(found.overidentification, j)
            oracle.assert_test(design.fit("gmm", errors, small).overidentification, j)
            oracle.assert_test(design.fit("liml", errors, small).overidentification, j)


@pytest.mark.parametrize("errors", oracle.COVARIANCES)
@pytest.mark.parametrize("num_exposures", [1, 2])
def test_first_stages_equal_linearmodels(num_exposures, errors):
    for design in (
        oracle.simulated(p=num_exposures),
        oracle.weighted(oracle.simulated(p=num_exposures)),
    ):
        found = design.fit("2sls", errors).first_stage
        first = design.oracle("2sls", errors).first_stage
        expected = first.diagnostics
        n, m = design.z.shape
        dof = n - m - design.exogenous.shape[1]
        assert_allclose(found["partial_r2"], expected["partial.rsquared"], rtol=oracle.RTOL)
        assert_allclose(found["shea_r2"], expected["shea.rsquared"], rtol=oracle.RTOL)
        classical = design.oracle("2sls", "classical", True).first_stage.diagnostics["f.stat"]
        assert_allclose(found["f"], classical, rtol=oracle.RTOL)
        assert_allclose(found["cragg_donald_f"], first.cragg_donald_f, rtol=oracle.RTOL)
        if errors != "classical":
            # linearmodels: a chi-square Wald statistic, not scaled for small samples
            groups = len(np.unique(design.clusters)) if errors == "cluster" else n
            scale = (n - 1) / dof * groups / (groups - 1)
            assert_allclose(found["f_robust"] * scale * m, expected["f.stat"], rtol=oracle.RTOL)
            assert_allclose(found["kleibergen_paap_f"], first.kleibergen_paap_f, rtol=oracle.RTOL)


@st.composite
def designs(draw) -> oracle.Design:
    """Any shape, strength, scale and condition number up to 1e4."""
    p = draw(st.integers(1, 2))
    m, k = draw(st.integers(p, p + 4)), draw(st.integers(0, 3))
    n = draw(st.integers(m + k + 2 * p + 5, 150))
    exponent = draw(st.floats(0, 4))
    strength = draw(st.sampled_from([0.05, 0.5, 3.0]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    columns = oracle.with_condition(rng, n, m + k, 10**exponent)
    columns += rng.uniform(-2, 2, m + k)  # more, and linearmodels loses digits: it does not centre
    columns *= 10.0 ** rng.integers(-3, 4, m + k)
    z, w = columns[:, :m], columns[:, m:]
    sizes = draw(st.sampled_from(["alone", "few", "many"]))
    clusters = (
        np.arange(n) if sizes == "alone" else rng.integers(0, n // 2 if sizes == "many" else 9, n)
    )
    u, signal = rng.normal(size=n), (z - z.mean(axis=0)) / z.std(axis=0)
    x = strength * signal @ rng.normal(size=(m, p)) + u[:, None] + rng.normal(size=(n, p))
    y = x @ rng.normal(size=p) + u * (1 + np.abs(signal[:, 0]) / 2) + rng.normal(size=n)
    weights = rng.uniform(0.2, 5, n) if draw(st.booleans()) else None
    return oracle.Design(y, x, z, w, clusters, weights, draw(st.booleans()))


@settings(deadline=None, max_examples=80)
@given(
    design=designs(),
    estimator=st.sampled_from(["ols", "2sls", "liml", "fuller", "gmm", "jive"]),
    errors=st.sampled_from(list(oracle.COVARIANCES)),
    small=st.booleans(),
)
def test_random_designs_equal_linearmodels(design, estimator, errors, small):
    assume(estimator != "gmm" or errors == "robust")  # few clusters: a singular weight
    found = design.fit(estimator, errors, small)
    # two exposures that the instruments hardly tell apart are a condition of their own, and so is
    # an exposure the instruments hardly move: both enter what is inverted
    kappa = 1.0 if np.isnan(found.kappa) else found.kappa
    condition = found.condition_number**2 * projected_condition(design, kappa)
    rtol = max(oracle.RTOL, 10 * np.finfo(float).eps * condition)
    oracle.assert_same_fit(design, estimator, errors, small, rtol)


def projected_condition(design: oracle.Design, kappa: float) -> float:
    """Of ``(1 - k) X'X + k X'PX`` against ``X'X``, covariates partialled out: what is inverted."""
    root = 1 if design.weights is None else np.sqrt(design.weights)[:, None]
    q = np.linalg.qr(annihilate(design.x * root, design.exogenous * root))[0]
    z = np.linalg.qr(annihilate(design.z * root, design.exogenous * root))[0]
    left = (1 - kappa) * np.eye(q.shape[1]) + kappa * (q.T @ z) @ (z.T @ q)
    return float((1 + abs(kappa)) / np.abs(np.linalg.eigvalsh(left)).min())


def annihilate(columns, controls):
    return columns - controls @ np.linalg.lstsq(controls, columns)[0] if controls.size else columns
