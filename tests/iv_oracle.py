"""Regressions that mrscale and linearmodels both fit, and how close their results must be.

Test files of several folders load it by path (``runpy``): with ``--import-mode=importlib`` the
folder of tests is not a package.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from linearmodels.iv import IV2SLS, IVGMM, IVGMMCUE, IVJIVE, IVLIML
from numpy.testing import assert_allclose

import mrscale as mr

RTOL = 1e-8
COVARIANCES = {"classical": "unadjusted", "robust": "robust", "cluster": "clustered"}
MODELS = {
    "2sls": IV2SLS,
    "liml": IVLIML,
    "fuller": IVLIML,
    "gmm": IVGMM,
    "cue": IVGMMCUE,
    "jive": IVJIVE,
}


@dataclass
class Design:
    """Columns of a regression, and how it is to be fitted."""

    y: np.ndarray
    x: np.ndarray
    z: np.ndarray
    w: np.ndarray
    clusters: np.ndarray
    weights: np.ndarray | None = None
    intercept: bool = True

    @property
    def exogenous(self) -> np.ndarray:
        """Covariates and the constant, in the order of mrscale's parameters."""
        one = np.ones((len(self.y), int(self.intercept)))
        return np.column_stack([self.w, one])

    def fit(self, estimator: str, errors: str, small: bool = False) -> mr.results.IVResult:
        return mr.iv(
            self.y,
            self.x,
            self.z,
            self.w if self.w.shape[1] else None,
            estimator=estimator,
            errors=errors,
            clusters=self.clusters if errors == "cluster" else None,
            weights=self.weights,
            # linearmodels takes t(N - K) with clusters too
            small_sample="n-k" if small else False,
            intercept=self.intercept,
        )

    def oracle(self, estimator: str, errors: str, small: bool = False) -> Any:
        covariance: dict[str, Any] = {"cov_type": COVARIANCES[errors], "debiased": small}
        if errors == "cluster":
            covariance["clusters"] = self.clusters
        exogenous = self.exogenous if self.exogenous.shape[1] else None
        if estimator == "ols":
            regressors = np.column_stack([self.x, self.exogenous])
            return IV2SLS(self.y, regressors, None, None, weights=self.weights).fit(**covariance)
        options: dict[str, Any] = {"fuller": 1} if estimator == "fuller" else {}
        if estimator in ("gmm", "cue"):
            options["weight_type"] = COVARIANCES[errors]
            if errors == "cluster":
                options["clusters"] = self.clusters
        if estimator == "cue":
            options["center"] = False  # mrscale does not centre; linearmodels' CUE does by default
        columns = (self.y, exogenous, self.x, self.z)
        return MODELS[estimator](*columns, weights=self.weights, **options).fit(**covariance)


def order_of(found: mr.results.IVResult, num_exogenous: int) -> np.ndarray:
    """linearmodels has the exposures last, mrscale first."""
    p = len(found.params) - num_exogenous
    return np.r_[num_exogenous : num_exogenous + p, :num_exogenous]


def assert_same_fit(design: Design, estimator: str, errors: str, small: bool, rtol: float = RTOL):
    """Parameters within a share of a standard error, which a parameter near zero needs, and
    everything else relative to itself."""
    found = design.fit(estimator, errors, small)
    # no estimate depends on the scale of instruments, but linearmodels loses digits by it
    alike = replace(design, z=design.z / np.abs(design.z).max(0))
    expected = alike.oracle(estimator, errors, small)
    order = slice(None)
    if estimator != "ols":
        order = order_of(found, design.exogenous.shape[1])
    params, cov = expected.params.to_numpy()[order], expected.cov.to_numpy()[order][:, order]
    errors_expected = np.sqrt(np.diag(cov))
    assert np.abs((found.params - params) / errors_expected).max() < rtol
    assert_allclose(found.std_errors, errors_expected, rtol=rtol)
    assert np.abs((found.cov - cov) / np.outer(errors_expected, errors_expected)).max().max() < rtol
    # a tail probability moves by t dt; those of many standard errors say nothing but "tiny"
    near = np.abs(params / errors_expected) < 8
    assert_allclose(found.pvalues[near], expected.pvalues.to_numpy()[order][near], rtol=20 * rtol)
    for level in (0.8, 0.95):
        bounds = expected.conf_int(level).to_numpy()[order]
        assert np.abs((found.conf_int(level) - bounds) / errors_expected[:, None]).max().max() < (
            10 * rtol
        )
    assert_allclose(found.residual_variance, expected.s2, rtol=rtol)
    return found, expected


def simulated(seed=0, n=300, m=4, p=1, k=2, *, strength=0.5, num_clusters=40) -> Design:
    """Confounded, heteroskedastic, with errors that clusters share."""
    rng = np.random.default_rng(seed)
    clusters = rng.integers(0, num_clusters, n)
    w = rng.normal(size=(n, k)) * 10.0 ** rng.integers(-2, 3, k) + rng.normal(size=k)
    z = rng.normal(size=(n, m)) + 0.3 * (w / np.maximum(w.std(0), 1e-3)) @ rng.normal(size=(k, m))
    common = rng.normal(size=n) + 0.5 * rng.normal(size=num_clusters)[clusters]
    x = strength * z @ rng.normal(size=(m, p)) + common[:, None] + rng.normal(size=(n, p))
    y = (
        x @ np.linspace(0.5, -0.3, p)
        + w.sum(1)
        + common
        + rng.normal(size=n) * (0.5 + np.abs(z[:, 0]))
    )
    return Design(y, x, z, w, clusters)


def weighted(design: Design, seed: int = 1) -> Design:
    draws = np.random.default_rng(seed).uniform(0.2, 5, len(design.y))
    return replace(design, weights=draws)


def assert_test(found, expected):
    assert_allclose(found.statistic, expected.stat, rtol=RTOL)
    assert_allclose(found.pvalue, expected.pval, rtol=1e-7)  # a tail: t dt, as above
    dof = found.dof if isinstance(found.dof, tuple) else (found.dof,)
    assert dof[0] == expected.df
    assert dof[1:] == (() if expected.df_denom is None else (expected.df_denom,))


def with_condition(rng, n, num, condition):
    """Columns whose standardised condition number is about ``condition``."""
    q = np.linalg.qr(rng.normal(size=(n, num)))[0]
    turn = np.linalg.qr(rng.normal(size=(num, num)))[0]
    columns = q * np.geomspace(1, 1 / condition, num) @ turn.T
    return columns / columns.std(axis=0)
