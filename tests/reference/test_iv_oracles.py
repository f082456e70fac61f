"""``mrscale.iv`` against linearmodels and ivmodels, on random designs and on known data sets."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from ivmodels import KClass
from ivmodels.confidence_set import ConfidenceSet
from ivmodels.tests import (
    inverse_anderson_rubin_test,
    inverse_conditional_likelihood_ratio_test,
)
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
            small_sample=small,
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
    expected = design.oracle(estimator, errors, small)
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


# ---------------------------------------------------------------------------- every combination


@pytest.mark.parametrize("errors", COVARIANCES)
@pytest.mark.parametrize("estimator", ["ols", "2sls", "liml", "fuller", "gmm", "jive"])
@pytest.mark.parametrize("num_exposures", [1, 2])
def test_estimates_and_errors_equal_linearmodels(num_exposures, estimator, errors):
    design = simulated(p=num_exposures)
    for small in (False, True):
        assert_same_fit(design, estimator, errors, small)
    if (estimator, errors) == ("gmm", "classical"):
        return  # linearmodels takes the variance of the residuals for their mean square
    assert_same_fit(weighted(design), estimator, errors, True)
    assert_same_fit(replace(design, intercept=False), estimator, errors, True)


@pytest.mark.parametrize("errors", ["robust", "cluster"])
@pytest.mark.parametrize("num_exposures", [1, 2])
def test_cue_equals_linearmodels_to_its_optimiser(num_exposures, errors):
    design = simulated(p=num_exposures, strength=2.0)
    # linearmodels' optimiser takes the columns as they are, and needs them alike
    design = replace(design, w=(design.w - design.w.mean(axis=0)) / design.w.std(axis=0))
    for one in (design, weighted(design), replace(design, intercept=False)):
        # linearmodels stops where J hardly changes: parameters within some 1e-4 standard errors,
        # J, which is quadratic in the distance, far closer
        found, expected = assert_same_fit(one, "cue", errors, False, rtol=1e-3)
        j = found.overidentification
        assert_allclose(j.statistic, expected.j_stat.stat, rtol=1e-6)
        assert j.statistic <= expected.j_stat.stat * (1 + 1e-11)


def test_classical_cue_is_liml():
    design = simulated(p=2)
    cue, liml = design.fit("cue", "classical"), design.fit("liml", "classical")
    # BFGS stops at a gradient of 1e-8 standard errors
    assert (np.abs(cue.params - liml.params) / liml.std_errors).max() < 1e-6


# ------------------------------------------------------------------------------- specification


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("num_exposures", [1, 2])
def test_specification_tests_equal_linearmodels(num_exposures, small):
    for design in (simulated(p=num_exposures), weighted(simulated(p=num_exposures))):
        found, oracle = (f("2sls", "classical", small) for f in (design.fit, design.oracle))
        assert_test(found.overidentification, oracle.sargan)
        assert_test(found.endogeneity, oracle.wu_hausman())
        liml, oracle = (f("liml", "classical", small) for f in (design.fit, design.oracle))
        assert_test(liml.overidentification, oracle.anderson_rubin)
        assert_allclose(liml.kappa, oracle.kappa, rtol=1e-12)
        for errors in ("robust", "cluster"):
            found, oracle = (f("2sls", errors, small) for f in (design.fit, design.oracle))
            assert_test(found.endogeneity, oracle.wooldridge_regression)
            # J is of two-step GMM: the same whichever estimator is reported
            j = design.oracle("gmm", errors, small).j_stat
            assert_test(found.overidentification, j)
            assert_test(design.fit("gmm", errors, small).overidentification, j)
            assert_test(design.fit("liml", errors, small).overidentification, j)


def assert_test(found, expected):
    assert_allclose(found.statistic, expected.stat, rtol=RTOL)
    assert_allclose(found.pvalue, expected.pval, rtol=1e-7)  # a tail: t dt, as above
    dof = found.dof if isinstance(found.dof, tuple) else (found.dof,)
    assert dof[0] == expected.df
    assert dof[1:] == (() if expected.df_denom is None else (expected.df_denom,))


@pytest.mark.parametrize("errors", COVARIANCES)
@pytest.mark.parametrize("num_exposures", [1, 2])
def test_first_stages_equal_linearmodels(num_exposures, errors):
    for design in (simulated(p=num_exposures), weighted(simulated(p=num_exposures))):
        found = design.fit("2sls", errors).first_stage
        first = design.oracle("2sls", errors).first_stage
        expected = first.diagnostics
        n, m = design.z.shape
        dof = n - m - design.exogenous.shape[1]
        assert_allclose(found["partial_r2"], expected["partial.rsquared"], rtol=RTOL)
        assert_allclose(found["shea_r2"], expected["shea.rsquared"], rtol=RTOL)
        classical = design.oracle("2sls", "classical", True).first_stage.diagnostics["f.stat"]
        assert_allclose(found["f"], classical, rtol=RTOL)
        assert_allclose(found["cragg_donald_f"], first.cragg_donald_f, rtol=RTOL)
        if errors != "classical":
            # linearmodels: a chi-square Wald statistic, not scaled for small samples
            groups = len(np.unique(design.clusters)) if errors == "cluster" else n
            scale = (n - 1) / dof * groups / (groups - 1)
            assert_allclose(found["f_robust"] * scale * m, expected["f.stat"], rtol=RTOL)
            assert_allclose(found["kleibergen_paap_f"], first.kleibergen_paap_f, rtol=RTOL)


# ------------------------------------------------------------------------------ random designs


@st.composite
def designs(draw) -> tuple[Design, float]:
    """A design, and the condition number asked for."""
    p = draw(st.integers(1, 2))
    m, k = draw(st.integers(p, p + 4)), draw(st.integers(0, 3))
    n = draw(st.integers(m + k + 2 * p + 5, 150))
    exponent = draw(st.floats(0, 4))
    strength = draw(st.sampled_from([0.05, 0.5, 3.0]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    columns = with_condition(rng, n, m + k, 10**exponent)
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
    return Design(y, x, z, w, clusters, weights, draw(st.booleans())), 10**exponent


def with_condition(rng, n, num, condition):
    """Columns whose standardised condition number is about ``condition``."""
    q = np.linalg.qr(rng.normal(size=(n, num)))[0]
    turn = np.linalg.qr(rng.normal(size=(num, num)))[0]
    columns = q * np.geomspace(1, 1 / condition, num) @ turn.T
    return columns / columns.std(axis=0)


@settings(deadline=None, max_examples=80)
@given(
    design_and_condition=designs(),
    estimator=st.sampled_from(["ols", "2sls", "liml", "fuller", "gmm", "jive"]),
    errors=st.sampled_from(list(COVARIANCES)),
    small=st.booleans(),
)
def test_random_designs_equal_linearmodels(design_and_condition, estimator, errors, small):
    design, _ = design_and_condition
    assume(estimator != "gmm" or errors == "robust")  # few clusters: a singular weight
    found = design.fit(estimator, errors, small)
    # two exposures that the instruments hardly tell apart are a condition of their own, and so is
    # an exposure the instruments hardly move: both enter what is inverted
    kappa = 1.0 if np.isnan(found.kappa) else found.kappa
    condition = found.condition_number**2 * projected_condition(design, kappa)
    rtol = max(RTOL, 10 * np.finfo(float).eps * condition)
    assert_same_fit(design, estimator, errors, small, rtol)


def projected_condition(design: Design, kappa: float) -> float:
    """Of ``(1 - k) X'X + k X'PX`` against ``X'X``, covariates partialled out: what is inverted."""
    root = 1 if design.weights is None else np.sqrt(design.weights)[:, None]
    q = np.linalg.qr(annihilate(design.x * root, design.exogenous * root))[0]
    z = np.linalg.qr(annihilate(design.z * root, design.exogenous * root))[0]
    left = (1 - kappa) * np.eye(q.shape[1]) + kappa * (q.T @ z) @ (z.T @ q)
    return float((1 + abs(kappa)) / np.abs(np.linalg.eigvalsh(left)).min())


def annihilate(columns, controls):
    return columns - controls @ np.linalg.lstsq(controls, columns)[0] if controls.size else columns


# ------------------------------------------------------------------------------ hard designs


def test_collinear_instruments_count_by_their_rank():
    design = simulated()
    extra = np.column_stack([design.z, design.z @ [1, 2, 0, -1], design.z[:, 0] + design.w[:, 0]])
    for estimator in ("2sls", "liml", "gmm", "jive"):
        found = replace(design, z=extra).fit(estimator, "robust")
        expected = design.oracle(estimator, "robust")
        assert found.num_instruments == 4
        assert any("4 independent ones" in note for note in found.notes)
        assert_allclose(found.params.iloc[0], expected.params.iloc[-1], rtol=RTOL)
        assert_allclose(found.std_errors.iloc[0], expected.std_errors.iloc[-1], rtol=RTOL)


def test_collinear_covariates_are_left_out_and_named():
    design = simulated()
    extra = pd.DataFrame(design.w, columns=["age", "sex"])
    extra = extra.assign(both=extra["age"] - extra["sex"], one=0.1)
    found = mr.iv(design.y, design.x, design.z, extra, small_sample=True)
    assert list(found.params.index) == ["exposure", "age", "sex", "const"]
    assert any(note.endswith("left out: both, one") for note in found.notes)
    assert_allclose(found.std_errors, design.fit("2sls", "robust", True).std_errors, rtol=1e-12)


@pytest.mark.parametrize("condition", [1e2, 1e3, 1e4])
def test_ill_conditioned_designs_keep_their_digits(condition):
    rng = np.random.default_rng(8)
    columns = with_condition(rng, 400, 7, condition)
    u = rng.normal(size=400)
    x = columns[:, :4] @ rng.normal(size=4) + u + rng.normal(size=400)
    y = 0.5 * x + columns[:, 4:].sum(1) + u * (1 + np.abs(columns[:, 0]))
    design = Design(y, x[:, None], columns[:, :4], columns[:, 4:], np.arange(400) // 3)
    for errors in COVARIANCES:
        found, _ = assert_same_fit(design, "2sls", errors, True, RTOL)
    assert 0.3 * condition < found.condition_number < 3 * condition


def test_weak_instruments_equal_linearmodels():
    design = simulated(5, strength=0.01)
    assert design.fit("2sls", "robust").first_stage["f"].item() < 3
    for estimator in ("2sls", "liml", "fuller", "jive"):
        assert_same_fit(design, estimator, "robust", False)


def test_tiny_samples_equal_linearmodels():
    design = simulated(2, n=9, m=2, k=1, num_clusters=5)
    for estimator in ("ols", "2sls", "liml", "fuller", "gmm", "jive"):
        for small in (False, True):
            assert_same_fit(design, estimator, "robust", small)


# ---------------------------------------------------------------------------------- data sets


def dataset(name, outcome, exposures, instruments, covariates, clusters=None) -> Design:
    data = import_module(f"linearmodels.datasets.{name}").load()
    data.columns = data.columns.str.strip()
    columns = [outcome, *exposures, *instruments, *covariates]
    data = data.dropna(subset=columns)[:3000]
    codes = data[clusters] if clusters else pd.Series(np.arange(len(data)) // 4)
    return Design(
        data[outcome].to_numpy(float),
        data[exposures].to_numpy(float),
        data[instruments].to_numpy(float),
        data[covariates].to_numpy(float),
        codes.to_numpy(),
    )


REGIONS = ["black", "south", "smsa", "smsa66", *(f"reg{i}" for i in range(662, 670))]
DATASETS = {
    "card": ("lwage", ["educ"], ["nearc2", "nearc4"], ["exper", "expersq", *REGIONS]),
    "mroz": ("lwage", ["educ"], ["fatheduc", "motheduc"], ["exper", "expersq"]),
    "mroz hours": (
        "hours",
        ["lwage", "educ"],
        ["exper", "expersq", "motheduc", "fatheduc"],
        ["age", "kidslt6"],
    ),
    "wage": ("lwage", ["educ"], ["sibs", "brthord"], ["exper", "married"]),
    "fertility": ("kids", ["educ"], ["meduc", "feduc"], ["age", "agesq", "black", "farm"], "year"),
    "meps": (
        "ldrugexp",
        ["hi_empunion"],
        ["ssiratio", "lowincome", "multlc", "firmsz"],
        ["totchr", "age", "female", "blhisp", "linc"],
    ),
    "birthweight": ("bwght", ["packs"], ["cigprice", "cigtax"], ["faminc", "parity", "male"]),
    "jobtraining": ("lscrap", ["hrsemp"], ["grant"], ["lemploy", "lsales"], "fcode"),
    "fringe": ("hrearn", ["tenure"], ["age", "depends"], ["educ", "male", "white", "union"]),
    "wage_panel": ("lwage", ["union"], ["married", "hours"], ["educ", "exper", "expersq"], "nr"),
    "munnell": ("GSP", ["P_CAP"], ["HWY", "WATER"], ["PC", "EMP", "UNEMP"], "STATE"),
    "french": ("S1V1", ["MktRF", "SMB"], ["NoDur", "Durbl", "Manuf", "Hlth"], ["HML", "Mom"]),
}


@pytest.mark.parametrize("name", DATASETS)
def test_known_data_sets_equal_linearmodels(name):
    design = dataset(name.split()[0], *DATASETS[name])
    condition = design.fit("2sls", "robust").condition_number
    assert condition < 1e4
    for errors in COVARIANCES:
        for estimator in ("2sls", "liml"):
            assert_same_fit(design, estimator, errors, True)
        num_moments = design.z.shape[1] + design.exogenous.shape[1]
        if errors != "classical" and len(np.unique(design.clusters)) > 2 * num_moments:
            assert_same_fit(design, "gmm", errors, False)
    found, oracle = design.fit("2sls", "classical"), design.oracle("2sls", "classical")
    if design.z.shape[1] > design.x.shape[1]:
        assert_test(found.overidentification, oracle.sargan)
    else:
        assert found.overidentification.reason == "no more instruments than exposures"
    assert_test(found.endogeneity, oracle.wu_hausman())


# ----------------------------------------------------------------------------------- ivmodels


@pytest.mark.parametrize("data", ["card", "mroz", "weak", "birthweight"])
def test_liml_and_robust_sets_equal_ivmodels(data):
    design = simulated(5, strength=0.02) if data == "weak" else dataset(data, *DATASETS[data])
    found = design.fit("liml", "classical")
    with warnings.catch_warnings():
        # ivmodels 0.10 calls a deprecated scipy interface
        warnings.simplefilter("ignore")
        model = KClass(kappa="liml").fit(design.x, design.y, design.z, C=design.w)
        sets = [
            inverse_anderson_rubin_test(
                design.z, design.x, design.y, 1 - level, C=design.w, critical_values="f"
            )
            for level in (0.9, 0.95)
        ]
        clr = inverse_conditional_likelihood_ratio_test(
            design.z, design.x, design.y, 0.05, C=design.w
        )
    assert_allclose(found.params.iloc[0], model.coef_[0], rtol=RTOL)
    assert_allclose(found.kappa, model.kappa_, rtol=RTOL)
    for level, expected in zip((0.9, 0.95), sets, strict=True):
        assert_same_set(found.anderson_rubin(level), expected, RTOL)
    # ivmodels finds the bounds by bisection to a tolerance of 1e-6
    assert_same_set(found.clr(), clr, 1e-5, atol=1e-5 * found.std_errors.iloc[0])


def assert_same_set(found, expected, rtol, atol=0.0):
    assert_allclose(found.intervals, intervals_of(expected), rtol=rtol, atol=atol)


def intervals_of(expected):
    """ivmodels gives a confidence set, or the quadric that bounds it."""
    if not hasattr(expected, "boundaries"):
        expected = ConfidenceSet.from_quadric(expected)
    return sorted(expected.boundaries)
