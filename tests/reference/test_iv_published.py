"""``mrscale.iv`` against numbers that other software printed.

Conventions: Stata's ``ivregress, small`` scales variances as ``small_sample=True`` does (for
clusters by ``(N - 1) / (N - K) G / (G - 1)``); its p-values with clusters are from t(G - 1), as
ours. Its LIML kappa and GMM J are ours. GMM weights follow the errors.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

import mrscale as mr

ERRORS = {"unadjusted": "classical", "robust": "robust", "cluster": "cluster"}
# hsngval, pcturban, _cons in Stata's order are the parameters in ours
ORDER = ["hsngval", "pcturban", "const"]


@pytest.fixture(scope="module")
def housing(shared_data: Callable[[str], Path]) -> Callable[..., mr.results.IVResult]:
    """Rent on urban share and house value of the fifty states, Stata's hsng2."""
    data = pd.read_csv(shared_data("reference/housing_hsng2.csv"))
    regions = pd.get_dummies(data["region"], drop_first=True)
    instruments = regions.assign(faminc=data["faminc"])

    def fit(estimator: str, errors: str, small: bool) -> mr.results.IVResult:
        return mr.iv(
            data["rent"],
            data["hsngval"],
            instruments,
            data["pcturban"],
            estimator=estimator,
            errors=ERRORS[errors],
            clusters=data["division"] if errors == "cluster" else None,
            small_sample=small,
        )

    return fit


@pytest.fixture(scope="module")
def course(shared_data: Callable[[str], Path]) -> Callable[..., mr.results.IVResult]:
    """A thousand people and four variants."""
    data = pd.read_csv(shared_data("reference/coursedata_individual.csv"))

    def fit(estimator: str = "2sls", errors: str = "classical", small: bool = False):
        variants = data[["g1", "g2", "g3", "g4"]]
        return mr.iv(
            data["y"],
            data["x"],
            variants,
            estimator=estimator,
            errors=errors,
            small_sample=small,
        )

    return fit


@pytest.fixture(scope="module")
def expected(shared_data: Callable[[str], Path]) -> dict[str, Any]:
    return json.loads(shared_data("reference/expected_iv.json").read_text())


def stata_tables(text: str) -> dict[str, dict[str, Any]]:
    """Every block of Stata's log: parameters, t statistics, variance and scalars, by its title."""
    tables = {}
    for title, body in re.findall(r"#{5,} !([\w-]+)! #{5,}\n(.*?)(?=#{5,}|\Z)", text, re.S):
        top, variance = re.split(r"\*+ Variance \*+", body.split("********* GMM")[0])
        lines = [line.split("\t") for line in top.splitlines()]
        lines = [line for line in lines if len(line) == 2 and _is_number(line[1])]
        tables[title] = {
            "scalars": {name: float(value) for name, value in lines if name},
            "t": [float(value) for name, value in lines if not name],
            "cov": np.array(
                [[float(v) for v in row.split("\t")[1:]] for row in variance.splitlines()[3:6]]
            ),
        }
    return tables


def _is_number(text: str) -> bool:
    return re.fullmatch(r"-?\.?\d[\d.]*(e-?\d+)?", text) is not None


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("errors", ERRORS)
@pytest.mark.parametrize("estimator", ["2sls", "liml", "gmm"])
def test_stata_housing_tables(housing, shared_data, estimator, errors, small):
    log = shared_data("reference/housing_hsng2_stata_results.txt").read_text()
    table = stata_tables(log)[f"{estimator}-{errors}-{'small' if small else 'asymptotic'}"]
    found = housing(estimator, errors, small)
    assert list(found.params.index) == ORDER
    scalars = table["scalars"]
    params = [scalars["hsngval"], scalars["pcturban"], scalars["_cons"]]
    # tolerances are half a unit of the last digit that Stata printed
    assert_allclose(found.params, params, rtol=5e-9)
    assert_allclose(found.tstats, table["t"], rtol=5e-9)
    size = np.outer(found.std_errors, found.std_errors)
    assert_allclose(found.cov / size, table["cov"] / size, rtol=3e-7)
    assert_allclose(np.sqrt(found.residual_variance), scalars["rmse"], rtol=1e-9)
    if estimator == "liml":
        assert_allclose(found.kappa, scalars["kappa"], rtol=1e-9)
    if estimator == "gmm":
        assert_allclose(found.overidentification.statistic, scalars["J"], rtol=1e-9)


def test_the_log_holds_all_tables(shared_data):
    log = shared_data("reference/housing_hsng2_stata_results.txt").read_text()
    assert len(stata_tables(log)) == 18
    assert all(len(table["t"]) == 3 for table in stata_tables(log).values())


@pytest.mark.parametrize("estimator", ["2sls", "liml"])
def test_housing_values_to_all_digits(housing, expected, estimator):
    keys = [key for key in expected if key.startswith(f"hsng2|{estimator}|")]
    assert len(keys) == 6
    for key in keys:
        _, _, errors, sample = key.split("|")
        found = housing(estimator, errors.replace("clustered", "cluster"), sample == "small")
        assert_allclose(found.params["hsngval"], expected[key]["coef"], rtol=1e-8)
        assert_allclose(found.std_errors["hsngval"], expected[key]["se"], rtol=1e-8)
        assert found.num_obs == expected[key]["nobs"]


def test_housing_first_stage_and_sargan(housing, expected):
    found = housing("2sls", "unadjusted", False)
    sargan = found.overidentification
    assert_allclose([sargan.statistic, sargan.pvalue], expected["hsng2|sargan"], rtol=1e-8)
    first, published = found.first_stage.loc["hsngval"], expected["hsng2|first_stage"]
    assert_allclose(first["partial_r2"], published["partial.rsquared"], rtol=1e-8)
    assert_allclose(first["shea_r2"], published["shea.rsquared"], rtol=1e-8)
    # linearmodels' F without small-sample scaling is N / (N - K) times the classical one
    assert_allclose(first["f"], published["f.stat"] * 44 / 50, rtol=1e-8)


@pytest.mark.parametrize("errors", ["unadjusted", "unadjusted_debiased", "robust"])
def test_course_data(course, expected, errors):
    kind, _, debiased = errors.partition("_")
    found = course("2sls", ERRORS[kind], bool(debiased))
    published = expected[f"coursedata|g1-4|2sls|{errors}"]
    assert_allclose(found.params["x"], published["coef"], rtol=1e-8)
    assert_allclose(found.std_errors["x"], published["se"], rtol=1e-8)
    assert found.num_obs == published["nobs"]


def test_course_data_liml_first_stage_and_sargan(course, expected):
    liml, published = course("liml", small=True), expected["coursedata|liml|unadjusted_debiased"]
    assert_allclose(liml.kappa, published["kappa"], rtol=1e-10)
    assert_allclose(liml.params["x"], published["coef"], rtol=1e-8)
    assert_allclose(liml.std_errors["x"], published["se"], rtol=1e-8)
    found, published = course(), expected["coursedata|first_stage"]
    first, sargan = found.first_stage.loc["x"], found.overidentification
    assert_allclose([sargan.statistic, sargan.pvalue], expected["coursedata|sargan"], rtol=1e-8)
    assert_allclose(first["partial_r2"], published["partial.rsquared"], rtol=1e-8)
    # published with robust errors: a chi-square(4) Wald statistic without small-sample factors
    wald = course(errors="robust").first_stage.loc["x", "f_robust"] * 4 * 1000 / 995
    assert_allclose(wald, published["f.stat"], rtol=1e-8)


def test_jackknife_estimates(housing, course, shared_data):
    published = json.loads(shared_data("reference/expected_jive.json").read_text())
    jive = published["housing_jive"]
    order = [jive["order"].index(name) for name in ORDER]
    for errors, key in (("unadjusted", "se_unadj"), ("robust", "se_robust")):
        found = housing("jive", errors, False)
        assert_allclose(found.params, np.array(jive["coef"])[order], rtol=1e-8)
        assert_allclose(found.std_errors, np.array(jive[key])[order], rtol=1e-8)
    estimate, classical, robust = published["coursedata_jive"]
    for errors, expected_error in (("classical", classical), ("robust", robust)):
        found = course("jive", errors)
        assert_allclose(found.params["x"], estimate, rtol=1e-8)
        assert_allclose(found.std_errors["x"], expected_error, rtol=1e-8)
