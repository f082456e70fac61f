"""Weak-instrument sets and tests of the model against ivmodels, linearmodels and saved numbers."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from ivmodels.confidence_set import ConfidenceSet as TheirSet
from ivmodels.tests import (
    anderson_rubin_test as their_anderson_rubin_test,
)
from ivmodels.tests import (
    conditional_likelihood_ratio_test as their_clr_test,
)
from ivmodels.tests import (
    inverse_anderson_rubin_test,
    inverse_conditional_likelihood_ratio_test,
)
from linearmodels.datasets import card, mroz
from linearmodels.iv import IV2SLS, IVGMM, IVLIML
from numpy.testing import assert_allclose

from mrscale.stats import specification
from mrscale.stats.clr import clr, clr_test
from mrscale.stats.first_stage import first_stage
from mrscale.stats.specification import ControlFunction
from mrscale.stats.weak import anderson_rubin, anderson_rubin_test

_helpers = runpy.run_path(str(Path(__file__).parents[1] / "canonical.py"))
canonical, design, Columns = (_helpers[name] for name in ("canonical", "design", "Columns"))

RTOL = 1e-8
SHAPES = {
    "just-identified": {"m": 1},
    "over-identified": {"m": 5},
    "weak": {"m": 5, "strength": 0.03},
    "two exposures": {"m": 4, "p": 2},
    "two exposures, just": {"m": 2, "p": 2},
    "three exposures": {"m": 6, "p": 3, "strength": 0.6},
    "few people": {"n": 30, "m": 3, "k": 1, "num_clusters": 12},
    "no covariates": {"m": 3, "k": 0},
}
shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
errors = pytest.mark.parametrize("clustered", [False, True], ids=["robust", "clustered"])


def fit(columns, clustered=None):
    model = IV2SLS(columns.y, columns.controls, columns.x, columns.z)
    if clustered is None:
        return model.fit(cov_type="unadjusted")
    if clustered:
        return model.fit(cov_type="clustered", clusters=columns.clusters)
    return model.fit(cov_type="robust")


def same(test, theirs):
    assert_allclose(test.statistic, theirs.stat, rtol=RTOL)
    assert_allclose(test.pvalue, theirs.pval, rtol=RTOL)


def check_tests(columns):
    reduced, theirs = canonical(columns).reduced, fit(columns)
    same(specification.wu_hausman(reduced), theirs.wu_hausman())
    if reduced.num_instruments > reduced.num_exposures:
        same(specification.sargan(reduced), theirs.sargan)
        liml = IVLIML(columns.y, columns.controls, columns.x, columns.z).fit()
        same(specification.anderson_rubin_overidentification(reduced), liml.anderson_rubin)


def check_robust_tests(columns, clustered):
    problem, theirs = canonical(columns, clustered), fit(columns, clustered)
    control = ControlFunction.of(problem.reduced)
    meat = problem.outer(control.scores(problem.z, problem.traits, problem.reduced.zx))
    found = specification.wooldridge(control, meat)
    same(found, theirs.wooldridge_regression)
    if problem.reduced.num_instruments > problem.reduced.num_exposures:
        data = columns.y, columns.controls, columns.x, columns.z
        weight = {"clusters": columns.clusters} if clustered else {}
        kind = "clustered" if clustered else "robust"
        gmm = IVGMM(*data, weight_type=kind, **weight).fit()
        same(specification.hansen_j(problem.reduced, problem.meats), gmm.j_stat)


def check_first_stage(columns, clustered):
    problem, theirs = canonical(columns, clustered), fit(columns, clustered).first_stage
    reduced, groups = problem.reduced, problem.meats.num_groups
    found, table = first_stage(reduced, problem.meats), theirs.diagnostics
    assert_allclose(found.partial_r2, table["partial.rsquared"], rtol=RTOL)
    assert_allclose(found.shea_r2, table["shea.rsquared"], rtol=RTOL)
    # theirs is a chi-square Wald statistic without small-sample factor
    factor = (reduced.count - 1) / reduced.dof * groups / (groups - 1)
    wald = found.f_robust * reduced.num_instruments * factor
    assert_allclose(wald, table["f.stat"], rtol=RTOL)
    assert_allclose(found.kleibergen_paap_f, theirs.kleibergen_paap_f, rtol=RTOL)
    assert_allclose(found.cragg_donald_f, theirs.cragg_donald_f, rtol=RTOL)


@shapes
def test_classical_tests_equal_linearmodels(shape):
    check_tests(design(11, **shape))


@shapes
@errors
def test_robust_tests_equal_linearmodels(shape, clustered):
    check_robust_tests(design(12, **shape), clustered)


@shapes
@errors
def test_first_stage_equals_linearmodels(shape, clustered):
    check_first_stage(design(13, **shape), clustered)


@pytest.mark.parametrize("p", [1, 2])
def test_classical_f_equals_linearmodels_with_its_small_sample_factor(p):
    columns = design(14, p=p)
    model = IV2SLS(columns.y, columns.controls, columns.x, columns.z)
    theirs = model.fit(cov_type="unadjusted", debiased=True).first_stage.diagnostics
    assert_allclose(first_stage(canonical(columns).reduced).f, theirs["f.stat"], rtol=RTOL)


def labour():
    """Mroz (1987): returns to schooling, parents' schooling as instruments."""
    data = mroz.load().dropna()
    covariates = data[["exper", "expersq"]].to_numpy()
    return Columns(
        data[["motheduc", "fatheduc"]].to_numpy(),
        data[["educ"]].to_numpy(dtype=float),
        np.log(data["wage"].to_numpy()),
        covariates,
        data["age"].to_numpy(),
    )


def college():
    """Card (1995): returns to schooling, nearness of colleges as instruments."""
    data = card.load().dropna(subset=["lwage", "educ", "nearc2", "nearc4"])
    covariates = ["exper", "expersq", "black", "smsa", "south"]
    return Columns(
        data[["nearc2", "nearc4"]].to_numpy(float),
        data[["educ"]].to_numpy(dtype=float),
        data["lwage"].to_numpy(),
        data[covariates].to_numpy(dtype=float),
        data["age"].to_numpy(),
    )


@pytest.mark.parametrize("load", [labour, college])
def test_data_of_linearmodels(load):
    columns = load()
    check_tests(columns)
    for clustered in (False, True):
        check_robust_tests(columns, clustered)
        check_first_stage(columns, clustered)
    compare_sets(columns)


def housing(shared_data):
    data = pd.read_csv(shared_data("reference/housing_hsng2.csv"))
    regions = pd.get_dummies(data["region"], dtype=float).iloc[:, 1:]
    return Columns(
        np.column_stack([data["faminc"], regions]),
        data[["hsngval"]].to_numpy(dtype=float),
        data["rent"].to_numpy(dtype=float),
        data[["pcturban"]].to_numpy(),
        pd.factorize(data["division"])[0],
    )


def test_housing(shared_data):
    columns = housing(shared_data)
    saved = json.loads(shared_data("reference/expected_iv.json").read_text())
    reduced = canonical(columns).reduced
    sargan = specification.sargan(reduced)
    assert_allclose([sargan.statistic, sargan.pvalue], saved["hsng2|sargan"], rtol=RTOL)
    found, first = first_stage(reduced), saved["hsng2|first_stage"]
    assert_allclose(found.partial_r2, first["partial.rsquared"], rtol=RTOL)
    # saved without the small-sample factor
    assert_allclose(found.f * reduced.count / reduced.dof, first["f.stat"], rtol=RTOL)
    check_tests(columns)
    for clustered in (False, True):
        check_robust_tests(columns, clustered)
        check_first_stage(columns, clustered)
    compare_sets(columns)


def test_course_data(shared_data):
    data = pd.read_csv(shared_data("reference/coursedata_individual.csv"))
    saved = json.loads(shared_data("reference/expected_iv.json").read_text())
    columns = Columns(
        data[["g1", "g2", "g3", "g4"]].to_numpy(dtype=float),
        data[["x"]].to_numpy(),
        data["y"].to_numpy(),
        np.zeros((len(data), 0)),
        np.arange(len(data)) // 4,
    )
    problem = canonical(columns)
    sargan = specification.sargan(problem.reduced)
    assert_allclose([sargan.statistic, sargan.pvalue], saved["coursedata|sargan"], rtol=RTOL)
    found, first = first_stage(problem.reduced, problem.meats), saved["coursedata|first_stage"]
    assert_allclose(found.partial_r2, first["partial.rsquared"], rtol=RTOL)
    wald = found.f_robust * 4 * problem.reduced.count / problem.reduced.dof
    assert_allclose(wald, first["f.stat"], rtol=RTOL)
    compare_sets(columns)


def partition(columns, j):
    """Their names: X of interest, W the other exposures, C covariates (intercept added)."""
    rest = np.delete(columns.x, j, axis=1)
    return {
        "Z": columns.z,
        "X": columns.x[:, [j]],
        "y": columns.y,
        "W": rest if rest.shape[1] else None,
        "C": columns.w if columns.w.shape[1] else None,
    }


def same_intervals(found, theirs, rtol):
    if not isinstance(theirs, TheirSet):
        theirs = TheirSet.from_quadric(theirs)
    expected = sorted(theirs.boundaries)
    assert len(found.intervals) == len(expected)
    if expected:
        assert_allclose(found.intervals, np.array(expected, dtype=float), rtol=rtol)


def compare_sets(columns):
    reduced = canonical(columns).reduced
    for j in range(columns.x.shape[1]):
        data = partition(columns, j)
        for reference in ("f", "chi2"):
            theirs = inverse_anderson_rubin_test(**data, critical_values=reference)
            found = anderson_rubin(reduced, exposure=j, reference=reference)
            same_intervals(found, theirs, RTOL)
        theirs = inverse_conditional_likelihood_ratio_test(**data, tol=1e-10)
        # their roots are to the tolerance of their quadrature, rounded to 12 decimals
        same_intervals(clr(reduced, exposure=j), theirs, 1e-6)


BOUNDED = [
    {"m": 1, "strength": 0.8},
    {"m": 5},
    {"m": 5, "strength": 0.2, "n": 1000},
    {"m": 6, "p": 2, "strength": 0.5},
    {"m": 6, "p": 3, "strength": 0.6},
    {"n": 40, "m": 3, "k": 1, "strength": 1.0},
    {"m": 3, "k": 0},
]


@pytest.mark.parametrize("shape", BOUNDED)
@pytest.mark.parametrize("seed", [21, 22])
def test_sets_equal_ivmodels(shape, seed):
    compare_sets(design(seed, **shape))


@pytest.mark.parametrize("shape", [{"m": 1, "strength": 0.02}, {"m": 5, "strength": 0.02}])
@pytest.mark.parametrize("seed", range(4))
def test_unbounded_anderson_rubin_sets_equal_ivmodels(shape, seed):
    columns = design(seed, **shape)
    theirs = inverse_anderson_rubin_test(**partition(columns, 0))
    found = anderson_rubin(canonical(columns).reduced, reference="chi2")
    same_intervals(found, theirs, RTOL)


@pytest.mark.parametrize("strength", [0.3, 0.1])
@pytest.mark.parametrize("value", [-20.0, -0.5, 0.4, 3.0])
def test_one_of_three_exposures_is_where_their_test_accepts(strength, value):
    """Their sets are not used: with a profile unbounded below, ivmodels 0.10 cuts the line."""
    columns = design(36, m=6, p=3, strength=strength)
    reduced = canonical(columns).reduced
    for j in range(3):
        data = partition(columns, j)
        value_ = np.array([value])
        _, p = their_anderson_rubin_test(**data, beta=value_, critical_values="f")
        assert (value in anderson_rubin(reduced, exposure=j)) == (p >= 0.05)
        _, p = their_clr_test(**data, beta=value_, critical_values="moreira2003conditional")
        assert (value in clr(reduced, exposure=j)) == (p >= 0.05)


@shapes
@pytest.mark.parametrize("reference", ["f", "chi2"])
def test_anderson_rubin_test_equals_ivmodels(shape, reference):
    columns = design(31, **shape)
    value = np.linspace(0.2, 1.0, columns.x.shape[1])
    controls = columns.w if columns.w.shape[1] else None
    theirs = their_anderson_rubin_test(
        columns.z, columns.x, columns.y, value, C=controls, critical_values=reference
    )
    found = anderson_rubin_test(canonical(columns).reduced, value, reference=reference)
    assert_allclose(found.statistic, theirs[0], rtol=RTOL)
    # theirs is one less a distribution function
    assert_allclose(found.pvalue, theirs[1], rtol=RTOL, atol=1e-14)


@pytest.mark.parametrize("m", [1, 2, 5, 30])
@pytest.mark.parametrize("strength", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("value", [-1.0, 0.45, 2.0])
def test_clr_test_equals_ivmodels(m, strength, value):
    columns = design(41, m=m, strength=strength)
    data = partition(columns, 0)
    statistic, pvalue = their_clr_test(**data, beta=np.array([value]), tol=1e-12)
    found = clr_test(canonical(columns).reduced, value)
    assert_allclose(found.statistic, statistic, rtol=RTOL, atol=1e-11)
    # theirs is one less an integral
    assert_allclose(found.pvalue, pvalue, rtol=RTOL, atol=1e-11)
