"""``mrscale.iv`` against linearmodels and ivmodels on hard designs and on known data sets."""

from __future__ import annotations

import runpy
import warnings
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from ivmodels import KClass
from ivmodels.confidence_set import ConfidenceSet
from ivmodels.tests import (
    inverse_anderson_rubin_test,
    inverse_conditional_likelihood_ratio_test,
)
from numpy.testing import assert_allclose

import mrscale as mr

oracle = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "iv_oracle.py")))


def test_collinear_instruments_count_by_their_rank():
    design = oracle.simulated()
    extra = np.column_stack([design.z, design.z @ [1, 2, 0, -1], design.z[:, 0] + design.w[:, 0]])
    for estimator in ("2sls", "liml", "gmm", "jive"):
        found = replace(design, z=extra).fit(estimator, "robust")
        expected = design.oracle(estimator, "robust")
        assert found.num_instruments == 4
        assert any("4 independent ones" in note for note in found.notes)
        assert_allclose(found.params.iloc[0], expected.params.iloc[-1], rtol=oracle.RTOL)
        assert_allclose(found.std_errors.iloc[0], expected.std_errors.iloc[-1], rtol=oracle.RTOL)


def test_collinear_covariates_are_left_out_and_named():
    design = oracle.simulated()
    extra = pd.DataFrame(design.w, columns=["age", "sex"])
    extra = extra.assign(both=extra["age"] - extra["sex"], one=0.1)
    found = mr.iv(design.y, design.x, design.z, extra, small_sample=True)
    assert list(found.params.index) == ["exposure", "age", "sex", "const"]
    assert any(note.endswith("left out: both, one") for note in found.notes)
    assert_allclose(found.std_errors, design.fit("2sls", "robust", True).std_errors, rtol=1e-12)


@pytest.mark.parametrize("condition", [1e2, 1e3, 1e4])
def test_ill_conditioned_designs_keep_their_digits(condition):
    rng = np.random.default_rng(8)
    columns = oracle.with_condition(rng, 400, 7, condition)
    u = rng.normal(size=400)
    x = columns[:, :4] @ rng.normal(size=4) + u + rng.normal(size=400)
    y = 0.5 * x + columns[:, 4:].sum(1) + u * (1 + np.abs(columns[:, 0]))
    design = oracle.Design(y, x[:, None], columns[:, :4], columns[:, 4:], np.arange(400) // 3)
    for errors in oracle.COVARIANCES:
        found, _ = oracle.assert_same_fit(design, "2sls", errors, True, oracle.RTOL)
    assert 0.3 * condition < found.condition_number < 3 * condition


def test_weak_instruments_equal_linearmodels():
    design = oracle.simulated(5, strength=0.01)
    assert design.fit("2sls", "robust").first_stage["f"].item() < 3
    for estimator in ("2sls", "liml", "fuller", "jive"):
        oracle.assert_same_fit(design, estimator, "robust", False)


def test_tiny_samples_equal_linearmodels():
    design = oracle.simulated(2, n=9, m=2, k=1, num_clusters=5)
    for estimator in ("ols", "2sls", "liml", "fuller", "gmm", "jive"):
        for small in (False, True):
            oracle.assert_same_fit(design, estimator, "robust", small)


def dataset(name, outcome, exposures, instruments, covariates, clusters=None) -> oracle.Design:
    data = import_module(f"linearmodels.datasets.{name}").load()
    data.columns = data.columns.str.strip()
    columns = [outcome, *exposures, *instruments, *covariates]
    data = data.dropna(subset=columns)[:3000]
    codes = data[clusters] if clusters else pd.Series(np.arange(len(data)) // 4)
    return oracle.Design(
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
    for errors in oracle.COVARIANCES:
        for estimator in ("2sls", "liml"):
            oracle.assert_same_fit(design, estimator, errors, True)
        num_moments = design.z.shape[1] + design.exogenous.shape[1]
        if errors != "classical" and len(np.unique(design.clusters)) > 2 * num_moments:
            oracle.assert_same_fit(design, "gmm", errors, False)
    found, theirs = design.fit("2sls", "classical"), design.oracle("2sls", "classical")
    if design.z.shape[1] > design.x.shape[1]:
        oracle.assert_test(found.overidentification, theirs.sargan)
    else:
        assert found.overidentification.reason == "no more instruments than exposures"
    oracle.assert_test(found.endogeneity, theirs.wu_hausman())


@pytest.mark.parametrize("data", ["card", "mroz", "weak", "birthweight"])
def test_liml_and_robust_sets_equal_ivmodels(data):
    design = (
        oracle.simulated(5, strength=0.02) if data == "weak" else dataset(data, *DATASETS[data])
    )
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
    assert_allclose(found.params.iloc[0], model.coef_[0], rtol=oracle.RTOL)
    assert_allclose(found.kappa, model.kappa_, rtol=oracle.RTOL)
    for level, expected in zip((0.9, 0.95), sets, strict=True):
        assert_same_set(found.anderson_rubin(level), expected, oracle.RTOL)
    # ivmodels finds the bounds by bisection to a tolerance of 1e-6
    assert_same_set(found.clr(), clr, 1e-5, atol=1e-5 * found.std_errors.iloc[0])


def assert_same_set(found, expected, rtol, atol=0.0):
    assert_allclose(found.intervals, intervals_of(expected), rtol=rtol, atol=atol)


def intervals_of(expected):
    """ivmodels gives a confidence set, or the quadric that bounds it."""
    if not hasattr(expected, "boundaries"):
        expected = ConfidenceSet.from_quadric(expected)
    return sorted(expected.boundaries)
