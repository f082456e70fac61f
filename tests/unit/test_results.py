"""Results as users hold them."""

from __future__ import annotations

import dataclasses
import json
import math
import pickle

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from scipy import stats

import mrscale as mr
from mrscale.errors import InputError
from mrscale.results import Estimate, PairResult, StudyResult


def estimate(key, value, **changes):
    fields = {"std_error": 0.1, "ci_lower": value - 0.2, "ci_upper": value + 0.2, "pvalue": 0.01}
    return Estimate(key=key, label=f"The {key}", estimate=value, num_obs=400, **fields | changes)


@pytest.fixture
def result():
    def pair(outcome, **changes):
        estimates = (estimate("ols", 0.9), estimate("tsls_pc", 0.5, first_stage_f=33.33))
        return PairResult("bmi", outcome, estimates, "tsls_pc", "amber", ("why",), **changes)

    pairs = (pair("sbp", truth=0.45), pair("ldl"))
    return StudyResult("Study", pairs, {"a": 300, "b": 100}, 400, 12, 0.01)


def test_the_summary_marks_the_headline_and_shows_intervals(result):
    lines = result.summary().splitlines()
    assert lines[0] == "bmi -> sbp  (trust in learned: amber)"
    assert lines[1].startswith("   The ols ")
    assert "F" not in lines[1]
    assert lines[2].startswith(" * The tsls_pc ")
    assert lines[2].endswith("0.50 [ 0.30,  0.70]  F 33.3")
    assert lines[3] == "   Why: why"
    assert lines[4].split()[-1] == "0.45"
    assert "Truth" not in "".join(lines[5:]), "there is no truth for the second pair"
    assert repr(result) == result.summary()


def test_tables_have_one_row_per_estimator(result):
    table = result.to_dataframe()
    assert table[["exposure", "outcome", "key"]].values.tolist() == [
        ["bmi", "sbp", "ols"],
        ["bmi", "sbp", "tsls_pc"],
        ["bmi", "ldl", "ols"],
        ["bmi", "ldl", "tsls_pc"],
    ]
    assert table["headline"].tolist() == [False, True, False, True]
    assert math.isnan(table["first_stage_f"][0])


def test_estimates_are_found_by_key_and_absent_ones_named(result):
    pair = result.pairs[0]
    assert pair["ols"].estimate == 0.9
    with pytest.raises(KeyError, match=r"no estimate 'flow'; there are: \['ols', 'tsls_pc'\]"):
        pair["flow"]


def test_notebooks_show_a_table(result):
    page = result._repr_html_()
    assert page.count("<tr") == 5
    assert "0.5000" in page


def test_results_cannot_be_changed(result):
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.pairs[0].estimates[0].estimate = 0.0


def fitted(num_people=400, *, num_exposures=1, **options):
    rng = np.random.default_rng(0)
    z, u = rng.normal(size=(num_people, 3)), rng.normal(size=num_people)
    x = z @ np.eye(3)[:, :num_exposures] + u[:, None] + rng.normal(size=(num_people, num_exposures))
    y = pd.Series(x.sum(1) - u + rng.normal(size=num_people), name="sbp")
    exposures = pd.DataFrame(x, columns=["bmi", "ldl"][:num_exposures])
    age = pd.Series(rng.normal(size=num_people), name="age")
    if options.get("errors") == "cluster":
        options["clusters"] = np.arange(num_people) // 4
    return mr.iv(y, exposures, z, age, **options)


def test_fits_have_named_numbers():
    fit = fitted()
    names = ["bmi", "age", "const"]
    for found in (fit.params, fit.std_errors, fit.tstats, fit.pvalues):
        assert list(found.index) == names
    assert fit.cov.columns.tolist() == fit.cov.index.tolist() == names
    assert_allclose(fit.std_errors**2, np.diag(fit.cov))
    assert_allclose(fit.tstats, fit.params / fit.std_errors)
    assert_allclose(fit.pvalues, 2 * stats.norm.sf(np.abs(fit.tstats)))
    assert_allclose(fit.conf_int()["upper"] - fit.params, stats.norm.isf(0.025) * fit.std_errors)
    assert (fit.conf_int(0.8)["lower"] > fit.conf_int(0.95)["lower"]).all()
    assert fit.first_stage.index.tolist() == ["bmi"]
    assert (fit.num_obs, fit.num_instruments, fit.num_clusters) == (400, 3, None)


def test_small_samples_take_the_t_distribution():
    fit = fitted(60, small_sample=True)
    assert_allclose(fit.pvalues, 2 * stats.t(57).sf(np.abs(fit.tstats)))
    assert_allclose(fit.conf_int()["upper"] - fit.params, stats.t(57).isf(0.025) * fit.std_errors)


def test_tiny_pvalues_are_not_zero():
    fit = fitted(2000)
    assert 0 < fit.pvalues["bmi"] < 1e-100


def test_tables_have_a_row_per_parameter():
    fit = fitted()
    table = fit.to_dataframe(0.9)
    assert table.columns.tolist() == [
        "estimate",
        "std_error",
        "tstat",
        "pvalue",
        "ci_lower",
        "ci_upper",
    ]
    assert_allclose(table["ci_lower"], fit.conf_int(0.9)["lower"])
    assert table.index.tolist() == ["bmi", "age", "const"]


def test_the_summary_says_it_all():
    text = fitted(errors="cluster").summary()
    assert text.startswith("2SLS of sbp, cluster errors: 400 people, 3 instruments, 100 clusters\n")
    for part in ("bmi", "age", "const", "First stage", "effective_f", "Hansen J: chi2(2)", "Wool"):
        assert part in text
    assert repr(fitted(estimator="ols")).startswith("OLS of sbp, robust errors: 400 people, 0 inst")
    assert "First stage" not in fitted(estimator="ols").summary()


def test_notebooks_show_the_fit():
    page = fitted()._repr_html_()
    assert page.count("<table") == 2
    assert "Hansen J" in page
    assert "bmi" in page
    assert fitted(estimator="ols")._repr_html_().count("<table") == 1


def test_small_numbers_of_people_are_not_told():
    fit = fitted(16, errors="cluster")
    text = fit.summary()
    assert "<=20 people" in text
    assert "<=20 clusters" in text
    classical = fitted(16, errors="classical")
    found = classical.to_dict()
    assert found["num_obs"] == "<=20"
    many = fitted(errors="classical").to_dict()
    assert many["endogeneity"]["dof"] == [1, 396]
    # intervals over errors, F over R2, degrees of freedom: each would tell how many
    for name in ("dof", "estimates", "first_stage", "endogeneity", "clr"):
        assert many[name] is not None or name == "dof"
        assert found[name] is None
    for shown in (classical.summary(), classical._repr_html_()):
        assert "these are not shown" in shown
        assert "bmi " not in shown


@pytest.mark.parametrize("errors", ["classical", "cluster"])
def test_robust_sets_come_from_the_fit_alone(errors):
    fit = fitted(errors=errors)
    for found in (fit.anderson_rubin(), fit.clr()):
        ((low, high),) = found.intervals
        assert low < fit.params["bmi"] < high
        assert found.level == 0.95
    wide, narrow = fit.anderson_rubin(0.99).intervals[0], fit.anderson_rubin(0.5).intervals[0]
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_each_exposure_has_its_set():
    fit = fitted(num_exposures=2, errors="classical")
    first, second = fit.anderson_rubin(exposure="bmi"), fit.anderson_rubin(exposure="ldl")
    assert first == fit.anderson_rubin()
    assert first != second
    for name, found in (("bmi", fit.clr(exposure="bmi")), ("ldl", fit.clr(exposure="ldl"))):
        assert fit.params[name] in found
    with pytest.raises(InputError, match="no exposure 'hdl' in this fit; choose one of bmi, ldl"):
        fit.clr(exposure="hdl")
    robust = fitted(num_exposures=2)
    assert not robust.anderson_rubin().is_bounded
    assert "one exposure" in robust.anderson_rubin().reason


def test_ols_has_no_robust_set():
    fit = fitted(estimator="ols")
    for found in (fit.anderson_rubin(), fit.clr()):
        assert not found.is_bounded
        assert found.reason == "OLS uses no instruments"


@pytest.mark.parametrize("level", [0, 1, 95, -0.5, math.nan])
def test_levels_are_shares(level):
    fit = fitted()
    for of in (fit.conf_int, fit.to_dataframe, fit.anderson_rubin, fit.clr, fit.to_dict):
        with pytest.raises(InputError, match="between 0 and 1; found"):
            of(level)


@pytest.mark.parametrize("estimator", ["ols", "2sls", "liml", "gmm", "jive"])
@pytest.mark.parametrize("num_exposures", [1, 2])
def test_machines_read_json(estimator, num_exposures):
    fit = fitted(estimator=estimator, num_exposures=num_exposures)
    found = json.loads(json.dumps(fit.to_dict(0.9), allow_nan=False))
    assert [row["parameter"] for row in found["estimates"]] == fit.params.index.tolist()
    assert [row["estimate"] for row in found["estimates"]] == fit.params.tolist()
    assert found["num_obs"] == 400
    assert found["level"] == 0.9
    assert set(found["clr"]) == set(fit.exposures)
    if estimator == "ols":
        assert found["overidentification"]["statistic"] is None
        assert found["overidentification"]["reason"] == "OLS uses no instruments"
        assert found["anderson_rubin"]["bmi"]["intervals"] == [[None, None]]
        return
    for row in found["first_stage"]:
        assert row["f"] > 10
        for name in (name for name, value in row.items() if value is None):
            assert found["first_stage_reasons"][name]
    if num_exposures == 1:
        assert found["anderson_rubin"]["bmi"]["reason"] == ""
        assert found["anderson_rubin"]["bmi"]["intervals"] == [
            list(interval) for interval in fit.anderson_rubin(0.9).intervals
        ]


def test_fits_travel_and_cannot_be_changed():
    fit = fitted()
    again = pickle.loads(pickle.dumps(fit))
    assert again.summary() == fit.summary()
    assert again.clr() == fit.clr()
    with pytest.raises(dataclasses.FrozenInstanceError):
        fit.estimator = "liml"


def test_fits_hold_no_data():
    sizes = [len(pickle.dumps(fitted(n, errors="cluster"))) for n in (400, 40_000)]
    assert abs(sizes[1] - sizes[0]) < 100
