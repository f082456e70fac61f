"""Estimates from a store equal those of the same columns held in memory."""

from __future__ import annotations

import math
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from linearmodels.iv import IV2SLS
from numpy.testing import assert_allclose, assert_array_equal
from statsmodels.stats.meta_analysis import combine_effects

import mrscale as mr
from mrscale.store.reader import GenotypeStore, open_store
from mrscale.stream.products import mean_dosage
from mrscale.workflow.logistic_iv import logistic_iv
from mrscale.workflow.split_iv import split_iv

ERRORS = ["classical", "robust", "cluster"]
LINEARMODELS = {"classical": "unadjusted", "robust": "robust", "cluster": "clustered"}


def columns_of(store, exposures=("ldl",), outcome="chd", covariates=("age", "PC1")):
    """The design of a store's people who have all traits, as arrays and tables in memory."""
    names = [store.names(kind) for kind in ("exposures", "outcomes", "covariates")]
    chosen = [
        store.array(kind)[:, [there.index(name) for name in wanted]].astype(float)
        for kind, there, wanted in zip(
            ("exposure", "outcome", "covariate"),
            names,
            (exposures, [outcome], covariates),
            strict=True,
        )
    ]
    keep = np.isfinite(np.concatenate(chosen, axis=1)).all(axis=1)
    x, y, w = (part[keep] for part in chosen)
    environment = store.array("environment")[keep]
    codes = store.dosage(slice(None))[keep]
    dosage = np.where(codes == store.code.missing, np.nan, codes / store.code.per_allele)
    dosage = np.where(np.isnan(dosage), mean_dosage(store)[environment], dosage)
    cluster = store.array("cluster")[keep].astype(int)
    alone = cluster < 0
    cluster[alone] = 10**6 + np.flatnonzero(alone)
    there = np.unique(environment)
    names = store.names("environments")
    dummies = (environment[:, None] == there[1:]).astype(float)
    columns = [*covariates, *(f"environment {names[code]}" for code in there[1:])]
    return SimpleNamespace(
        y=y[:, 0],
        x=pd.DataFrame(x, columns=list(exposures)),
        z=pd.DataFrame(dosage, columns=store.array("variant_id").astype(str)),
        w=pd.DataFrame(np.c_[w, dummies], columns=columns),
        plain=w,
        environment=environment,
        names=names,
        cluster=cluster,
        fold=store.array("fold")[keep],
        keep=keep,
    )


def in_memory(c, rows=slice(None), instruments=None, **options):
    """``mr.iv`` on some of the people."""
    clusters = c.cluster[rows] if options.get("errors") == "cluster" else None
    z = c.z if instruments is None else c.z.iloc[:, instruments]
    tables = (part.loc[rows].reset_index(drop=True) for part in (c.x, z, c.w))
    return mr.iv(c.y[rows], *tables, clusters=clusters, **options)


@pytest.mark.parametrize("exposures", [["ldl"], ["ldl", "bmi"]], ids=["one", "two"])
@pytest.mark.parametrize("small_sample", [False, True])
@pytest.mark.parametrize("errors", ERRORS)
def test_everybody_equals_a_regression_in_memory(rich, errors, small_sample, exposures):
    options = {"errors": errors, "small_sample": small_sample}
    found = mr.estimate(rich, exposure=exposures, outcome="stroke", **options)
    expected = in_memory(columns_of(rich, exposures, "stroke"), **options)
    assert list(found.fit.params.index) == list(expected.params.index)
    assert_allclose(found.fit.params, expected.params, rtol=1e-10)
    assert_allclose(found.fit.cov, expected.cov, rtol=1e-9, atol=1e-16)
    assert_allclose(found.fit.first_stage, expected.first_stage, rtol=1e-8, equal_nan=True)
    for test in ("overidentification", "endogeneity"):
        a, b = getattr(found.fit, test), getattr(expected, test)
        assert_allclose([a.statistic, a.pvalue], [b.statistic, b.pvalue], rtol=1e-8)
    ends = [fit.anderson_rubin().intervals for fit in (found.fit, expected)]
    assert_allclose(ends[0], ends[1], rtol=1e-7)
    table = found.estimates
    assert table["exposure"].tolist() == exposures
    assert_allclose(table["estimate"], expected.params[exposures], rtol=1e-10)
    assert_allclose(table["std_error"], expected.std_errors[exposures], rtol=1e-10)
    assert_allclose(table[["ci_lower", "ci_upper"]], expected.conf_int().loc[exposures], rtol=1e-9)


@pytest.mark.parametrize("estimator", ["ols", "liml", "fuller", "gmm", "jive", "ujive"])
def test_other_estimators_equal_those_in_memory(rich, estimator):
    found = mr.estimate(rich, exposure="ldl", outcome="chd", estimator=estimator)
    expected = in_memory(columns_of(rich), estimator=estimator)
    assert_allclose(found.fit.params, expected.params, rtol=1e-9)
    assert_allclose(found.fit.std_errors, expected.std_errors, rtol=1e-9)


@pytest.mark.parametrize("estimator", ["2sls", "ols"])
@pytest.mark.parametrize("small_sample", [False, "n-k"])
@pytest.mark.parametrize("errors", ERRORS)
def test_each_environment_equals_linearmodels(rich, errors, small_sample, estimator):
    options = {"errors": errors, "small_sample": small_sample, "estimator": estimator}
    found = mr.estimate(rich, exposure="ldl", outcome="chd", by="environment", **options)
    c = columns_of(rich)
    assert found.by_environment["label"].tolist() == c.names
    for code, row in enumerate(found.by_environment.itertuples()):
        inside = c.environment == code
        one = np.c_[np.ones(inside.sum()), c.plain[inside]]
        x, z = c.x[inside].to_numpy(), c.z[inside].to_numpy()
        model = (
            IV2SLS(c.y[inside], np.c_[one, x], None, None)
            if estimator == "ols"
            else IV2SLS(c.y[inside], one, x, z)
        )
        more = {"clusters": c.cluster[inside]} if errors == "cluster" else {}
        expected = model.fit(cov_type=LINEARMODELS[errors], debiased=bool(small_sample), **more)
        low, high = expected.conf_int().iloc[-1]
        wanted = [expected.params.iloc[-1], expected.std_errors.iloc[-1], low, high]
        got = [row.estimate, row.std_error, row.ci_lower, row.ci_upper]
        assert_allclose(got, wanted, rtol=1e-8)
        assert row.num_obs == inside.sum()


@pytest.mark.parametrize("errors", ERRORS)
def test_without_each_environment_equals_a_refit(rich, errors):
    exposures = ["ldl", "bmi"]
    options = {"errors": errors, "small_sample": True, "estimator": "liml"}
    found = mr.estimate(rich, exposure=exposures, outcome="stroke", by="environment", **options)
    c = columns_of(rich, exposures, "stroke")
    table = found.leave_one_environment_out
    assert table["label"].tolist() == np.repeat(c.names, 2).tolist()
    for code, name in enumerate(c.names):
        expected = in_memory(c, c.environment != code, **options)
        rows = table[table["label"] == name]
        assert_allclose(rows["estimate"], expected.params[exposures], rtol=1e-9)
        assert_allclose(rows["std_error"], expected.std_errors[exposures], rtol=1e-9)
        assert_allclose(rows["pvalue"], expected.pvalues[exposures], rtol=1e-7)
        assert_allclose(rows["first_stage_f"], expected.first_stage["f"], rtol=1e-9)
        assert set(rows["num_obs"]) == {expected.num_obs}


@pytest.mark.parametrize("errors", ERRORS)
def test_without_each_instrument_equals_a_refit(rich, errors):
    found = mr.estimate(rich, exposure=["ldl", "bmi"], outcome="stroke", errors=errors)
    c = columns_of(rich, ["ldl", "bmi"], "stroke")
    table = found.leave_one_instrument_out
    for left_out in (0, 7, 29):
        kept = np.delete(np.arange(30), left_out)
        expected = in_memory(c, instruments=kept, errors=errors)
        rows = table[table["label"] == f"variant-{left_out}"]
        assert_allclose(rows["estimate"], expected.params[["ldl", "bmi"]], rtol=1e-8)
        assert_allclose(rows["std_error"], expected.std_errors[["ldl", "bmi"]], rtol=1e-8)
        assert set(rows["num_instruments"]) == {29}


def test_the_jackknife_equals_brute_force(rich):
    found = mr.estimate(rich, exposure="ldl", outcome="chd").jackknife.iloc[0]
    c = columns_of(rich)
    blocks = [(e, f) for e in range(3) for f in range(2)]
    inside = [(c.environment == e) & (c.fold == f) for e, f in blocks]
    whole = in_memory(c).params["ldl"]
    h = np.array([len(c.y) / one.sum() for one in inside])
    pseudo = h * whole - (h - 1) * [in_memory(c, ~one).params["ldl"] for one in inside]
    corrected = (pseudo / h).sum()
    assert_allclose(found["bias_corrected"], corrected, rtol=1e-9)
    variance = np.mean((pseudo - corrected) ** 2 / (h - 1))
    assert_allclose(found["std_error"], math.sqrt(variance), rtol=1e-9)


def test_meta_analysis_equals_statsmodels(rich):
    found = mr.estimate(rich, exposure="ldl", outcome="chd", by="environment")
    table, meta = found.by_environment, found.meta.set_index("label")
    expected = combine_effects(table["estimate"], table["std_error"] ** 2, method_re="dl")
    means = expected.mean_effect_fe, expected.mean_effect_re
    assert_allclose(meta["estimate"], means, rtol=1e-10)
    errors = expected.sd_eff_w_fe, expected.sd_eff_w_re
    assert_allclose(meta["std_error"], errors, rtol=1e-10)
    assert_allclose(meta["Q"], expected.q, rtol=1e-10)
    assert_allclose(meta["tau2"], expected.tau2, rtol=1e-10)


def test_variants_one_at_a_time_equal_univariable_regressions(rich):
    found = mr.estimate(rich, exposure="ldl", outcome="chd", by="environment").per_variant
    c = columns_of(rich)
    assert list(found["environment"].unique()) == ["", *c.names]
    for environment, rows, controls in [
        ("", slice(None), c.w.to_numpy()),
        ("south", c.environment == 1, c.plain),
    ]:
        w = controls[rows] if environment else controls
        for trait, values in (("ldl", c.x["ldl"].to_numpy()), ("chd", c.y)):
            design = np.c_[c.z["variant-3"][rows], w, np.ones(len(w))]
            expected = sm.OLS(values[rows], design).fit()
            row = found[
                (found["environment"] == environment)
                & (found["instrument"] == "variant-3")
                & (found["trait"] == trait)
            ].iloc[0]
            wanted = [expected.params[0], expected.bse[0], expected.pvalues[0]]
            assert_allclose(row[["beta", "std_error", "pvalue"]].astype(float), wanted, rtol=1e-8)
            assert row["num_obs"] == len(w)


def test_associations_feed_the_summary_panel(rich):
    found = mr.estimate(rich, exposure="ldl", outcome="chd").per_variant
    x, y = (found[found["trait"] == trait] for trait in ("ldl", "chd"))
    panel = mr.summary_mr(
        x["beta"].to_numpy(),
        x["std_error"].to_numpy(),
        y["beta"].to_numpy(),
        y["std_error"].to_numpy(),
        methods="ivw",
    )
    ratio, weight = y["beta"].to_numpy() / x["beta"].to_numpy(), x["beta"].to_numpy() ** 2
    weight /= y["std_error"].to_numpy() ** 2
    assert_allclose(panel["estimate"], np.average(ratio, weights=weight), rtol=1e-9)


def test_first_stages_are_compared_between_environments(rich):
    found = mr.estimate(rich, exposure="ldl", outcome="chd", by="environment")
    c = columns_of(rich)
    fits = []
    for code in range(3):
        inside = c.environment == code
        design = np.c_[c.z[inside], c.plain[inside], np.ones(inside.sum())]
        fits.append(sm.OLS(c.x["ldl"][inside].to_numpy(), design).fit())
    b = np.array([fit.params[:30] for fit in fits])
    weights = [np.linalg.inv(fit.cov_params()[:30, :30]) for fit in fits]
    mean = np.linalg.solve(sum(weights), sum(w @ one for w, one in zip(weights, b, strict=True)))
    q = sum((one - mean) @ w @ (one - mean) for w, one in zip(weights, b, strict=True))
    row = found.first_stage_heterogeneity.iloc[0]
    assert (row["exposure"], row["dof"]) == ("ldl", 60)
    assert_allclose(row["Q"], q, rtol=1e-8)


@pytest.mark.parametrize("by", [None, "environment"])
def test_the_dosages_are_read_twice(rich, monkeypatch, by):
    read, rows_read = GenotypeStore.dosage, []

    def counting(self, rows):
        rows_read.append((rows.start, rows.stop))
        return read(self, rows)

    monkeypatch.setattr(GenotypeStore, "dosage", counting)
    mr.estimate(rich, exposure="ldl", outcome="chd", by=by, errors="cluster")
    layout = rich.layout
    chunks = [(layout.chunk(i).start, layout.chunk(i).stop) for i in range(layout.num_chunks)]
    assert sorted(rows_read) == sorted(chunks * 2)


def test_people_of_an_environment_without_traits_are_said_to_be_nobody(rich, changed_from):
    exposure = rich.array("exposure")
    exposure[rich.array("environment") == 0] = np.nan
    store = changed_from(rich, exposure=exposure)
    found = mr.estimate(store, exposure="ldl", outcome="chd", by="environment")
    expected = in_memory(columns_of(store))
    assert_allclose(found.fit.params, expected.params, rtol=1e-10)
    table = found.by_environment.set_index("label")
    assert table.loc["north", "num_obs"] == 0
    assert table.loc["north", "note"].startswith("nobody here has the exposure")
    assert found.leave_one_environment_out["label"].tolist() == ["south", "west"]
    assert found.meta["num_environments"].tolist() == [2, 2]
    assert "north: nobody here" in found.summary()


def test_an_environment_with_too_few_people_has_a_note(rich, changed_from):
    exposure = rich.array("exposure")
    north = np.flatnonzero(rich.array("environment") == 0)
    exposure[north[30:]] = np.nan  # no more than instruments
    found = mr.estimate(
        changed_from(rich, exposure=exposure), exposure="ldl", outcome="chd", by="environment"
    )
    row = found.by_environment.set_index("label").loc["north"]
    assert math.isnan(row["estimate"])
    assert row["note"].startswith("there are hardly more people here than instruments")
    # its people count for everybody, and everybody else can be estimated without it
    assert found.leave_one_environment_out["estimate"].notna().all()
    assert len(found.first_stage_heterogeneity) == 1


def test_one_environment_is_a_plain_regression(rich, changed_from):
    exposure = rich.array("exposure")
    exposure[rich.array("environment") != 2] = np.nan
    store = changed_from(rich, exposure=exposure)
    found = mr.estimate(store, exposure="ldl", outcome="chd", by="environment")
    assert list(found.fit.params.index) == ["ldl", "age", "PC1", "const"]
    west = found.by_environment.set_index("label").loc["west"]
    assert_allclose(west["estimate"], found.estimates["estimate"].iloc[0], rtol=1e-10)
    assert_allclose(west["std_error"], found.estimates["std_error"].iloc[0], rtol=1e-10)
    assert not len(found.leave_one_environment_out)
    assert not len(found.first_stage_heterogeneity)
    assert "Between environments" not in found.summary()


def test_without_covariates_environments_are_still_compared_within(rich):
    found = mr.estimate(rich, exposure="ldl", outcome="chd", covariates=[])
    expected = in_memory(columns_of(rich, covariates=[]))
    assert list(found.fit.params.index)[1:] == ["environment south", "environment west", "const"]
    assert_allclose(found.fit.params, expected.params, rtol=1e-10)


def test_appended_traits_are_traits(rich, tmp_path):
    path = tmp_path / "more.zarr"
    shutil.copytree(rich.path, path)
    rng = np.random.default_rng(2)
    crp = rng.normal(size=(rich.num_samples, 1)) + rich.array("exposure")[:, :1]
    smoking = rng.integers(0, 2, (rich.num_samples, 1)).astype(float)
    values = {"exposure": (["crp"], crp), "covariate": (["smoking"], smoking)}
    mr.append(path, rich.array("sample_id"), values)
    store = open_store(path)
    found = mr.estimate(store, exposure="crp", outcome="chd", covariates=["smoking", "age"])
    expected = in_memory(columns_of(store, ["crp"], "chd", ["smoking", "age"]))
    assert_allclose(found.fit.params, expected.params, rtol=1e-10)
    assert_allclose(found.fit.std_errors, expected.std_errors, rtol=1e-10)


def test_a_split_first_stage_is_that_of_the_other_folds(rich):
    options = {"errors": "cluster"}
    found = mr.estimate(rich, exposure="ldl", outcome="chd", first_stage="split", **options)
    c = columns_of(rich)
    expected = split_iv(c.y, c.x, c.z, c.w, groups=c.fold, clusters=c.cluster, **options)
    assert_allclose(found.fit.params, expected.params, rtol=1e-9)
    assert_allclose(found.fit.std_errors, expected.std_errors, rtol=1e-9)
    assert found.fit.estimator == "split-sample 2sls"
    assert len(found.per_variant)


@pytest.mark.parametrize("prevalence", [None, 0.1])
@pytest.mark.parametrize("model", ["2sri", "logistic"])
def test_log_odds_ratios_equal_those_in_memory(rich, model, prevalence):
    options = {"prevalence": prevalence}
    found = mr.estimate(rich, exposure="ldl", outcome="case", outcome_model=model, **options)
    c = columns_of(rich, outcome="case")
    expected = logistic_iv(c.y, c.x, c.z, c.w, method=model, **options)
    assert_allclose(found.fit.params, expected.params, rtol=1e-9)
    assert_allclose(found.fit.std_errors, expected.std_errors, rtol=1e-8)
    assert_allclose(found.estimates["estimate"], expected.params["ldl"], rtol=1e-9)
    assert "log odds ratio" in found.summary()
    assert "linear probability" not in found.summary()


def test_quiet_or_not_the_result_is_the_same(rich):
    found = [mr.estimate(rich, exposure="ldl", outcome="chd", quiet=q) for q in (True, False)]
    assert_array_equal(found[0].fit.params, found[1].fit.params)
