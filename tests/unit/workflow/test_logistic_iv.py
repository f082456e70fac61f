"""``logistic_iv`` against dense computations by hand, and what it refuses."""

from __future__ import annotations

import json
import pickle
import shutil

import dask.array as da
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import expit

from mrscale.errors import InputError
from mrscale.stats.binary import case_control_weights
from mrscale.store.append import append
from mrscale.store.reader import open_store
from mrscale.workflow.iv import iv
from mrscale.workflow.logistic_iv import fit_logistic, logistic_iv
from mrscale.workflow.store_data import StoreData

METHODS = ["2sri", "logistic"]


def people(seed=0, n=1500, m=4, k=2, p=1):
    rng = np.random.default_rng(seed)
    z, w, u = rng.binomial(2, 0.3, (n, m)), rng.normal(20, 3, (n, k)), rng.normal(size=n)
    x = z @ rng.uniform(0.3, 0.8, (m, p)) + 0.2 * w[:, :1].sum(1, keepdims=True) + u[:, None]
    x = x + rng.normal(size=(n, p)) * (1 + z[:, [0]])
    eta = 0.5 * (x - x.mean(0)).sum(1) - u - 0.5 + 0.1 * (w - 20).sum(1)
    return rng.random(n) < expit(eta), x, z, w


def by_hand(y, x, z, w, method, weights=None, clusters=None):
    """Both stages on all rows, and the sandwich of their stacked estimating equations."""
    n, p = x.shape
    one = np.ones(n) if weights is None else weights
    h = np.column_stack([z, w, np.ones(n)])
    pi = np.linalg.solve(h.T @ (one[:, None] * h), h.T @ (one[:, None] * x))
    v, fitted = x - h @ pi, h @ pi
    first, at, sign = ([x, v], p, -1) if method == "2sri" else ([fitted], 0, 1)
    d = np.column_stack([*first, w, np.ones(n)])
    theta = np.zeros(d.shape[1])
    for _ in range(25):
        mu = expit(d @ theta)
        information = (d * (one * mu * (1 - mu))[:, None]).T @ d
        theta = theta + np.linalg.solve(information, d.T @ (one * (y - mu)))
    mu = expit(d @ theta)
    r, curvature = one * (y - mu), one * mu * (1 - mu)
    psi = d * r[:, None]
    for j in range(p):
        unit = np.eye(len(theta))[at + j]
        slope = sign * (np.outer(unit, r @ h) - theta[at + j] * (d.T @ (curvature[:, None] * h)))
        own = np.linalg.solve(h.T @ (one[:, None] * h), (h * (one * v[:, j])[:, None]).T)
        psi = psi + (slope @ own).T
    psi = np.linalg.solve((d * curvature[:, None]).T @ d, psi.T).T[:, : at + p]
    if clusters is not None:
        psi = np.array([psi[clusters == c].sum(0) for c in np.unique(clusters)])
    return theta[: at + p], psi.T @ psi


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("p", [1, 2])
def test_estimates_and_errors_are_those_of_a_dense_computation(method, p):
    y, x, z, w = people(p, p=p)
    fit = logistic_iv(y, x, z, w, method=method)
    theta, cov = by_hand(y, x, z, w, method)
    assert_allclose(fit.params, theta, rtol=1e-10)
    assert_allclose(fit.cov, cov, rtol=1e-9, atol=1e-9 * np.abs(cov).max())
    assert fit.num_obs == len(y)
    assert fit.num_cases == y.sum()


@pytest.mark.parametrize("method", METHODS)
def test_clustered_errors_sum_influence_inside_clusters(method):
    y, x, z, w = people(3)
    clusters = np.random.default_rng(0).integers(0, 300, len(y))
    fit = logistic_iv(y, x, z, w, method=method, errors="cluster", clusters=clusters)
    theta, cov = by_hand(y, x, z, w, method, clusters=clusters)
    assert_allclose(fit.params, theta, rtol=1e-10)
    assert_allclose(fit.cov, cov, rtol=1e-9)
    assert fit.num_clusters == len(np.unique(clusters))
    alone = logistic_iv(y, x, z, w, method=method, errors="cluster", clusters=np.arange(len(y)))
    assert_allclose(alone.cov, logistic_iv(y, x, z, w, method=method).cov, rtol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_a_prevalence_weights_both_stages(method):
    y, x, z, w = people(4)
    weights = case_control_weights(y, 0.05, y.mean())
    fit = logistic_iv(y, x, z, w, method=method, prevalence=0.05)
    theta, cov = by_hand(y, x, z, w, method, weights)
    assert_allclose(fit.params, theta, rtol=1e-10)
    assert_allclose(fit.cov, cov, rtol=1e-9)
    expected = iv(y, x, z, w, weights=weights).first_stage
    assert_allclose(fit.first_stage, expected, rtol=1e-9, equal_nan=True)
    assert "0.05" in " ".join(fit.notes)
    assert fit.prevalence == 0.05


@pytest.mark.parametrize("p", [1, 2])
def test_the_first_stage_is_that_of_the_linear_model(p):
    y, x, z, w = people(5, p=p)
    expected = iv(y, x, z, w)
    fit = logistic_iv(y, x, z, w)
    assert_allclose(fit.first_stage, expected.first_stage, rtol=1e-10, equal_nan=True)
    assert fit.first_stage_reasons == expected.first_stage_reasons


def test_exogeneity_is_the_wald_test_of_the_residuals():
    y, x, z, w = people(6, p=2)
    fit = logistic_iv(y, x, z, w)
    names = ["residual exposure_0", "residual exposure_1"]
    b, v = fit.params[names].to_numpy(), fit.cov.loc[names, names].to_numpy()
    assert_allclose(fit.exogeneity.statistic, b @ np.linalg.solve(v, b), rtol=1e-9)
    assert fit.exogeneity.dof == 2
    assert fit.exogeneity.pvalue < 0.05
    single = logistic_iv(y, x[:, 0], z, w)
    assert_allclose(single.exogeneity.pvalue, single.pvalues["residual exposure"], rtol=1e-9)
    assert "2sri" in logistic_iv(y, x, z, w, method="logistic").exogeneity.reason


def test_an_exogenous_exposure_is_seldom_called_confounded():
    pvalues = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        z, x = rng.binomial(2, 0.3, (600, 2)), rng.normal(size=600)
        x = x + z.sum(1)
        fit = logistic_iv(rng.random(600) < expit(0.5 * x - 1), x, z)
        pvalues.append(fit.exogeneity.pvalue)
    # Monte Carlo error of 60 replicates is 2.8 points
    assert np.mean(np.array(pvalues) < 0.05) < 0.14


def test_intervals_cover():
    covered, odds = [], []
    for seed in range(80):
        rng = np.random.default_rng(seed)
        z, v = rng.binomial(2, 0.3, (800, 3)), rng.normal(size=800)
        x = z @ [0.8, 0.8, 0.8] + v
        fit = logistic_iv(rng.random(800) < expit(0.5 * x - v - 0.5), x, z)
        lower, upper = fit.conf_int().loc["exposure"]
        covered.append(lower < 0.5 < upper)
        odds.append(fit.params["exposure"])
    # Monte Carlo error: 2.4 points, and a ninth of the spread
    assert 0.87 < np.mean(covered) <= 1
    assert abs(np.mean(odds) - 0.5) < 0.3 * np.std(odds)


@pytest.mark.parametrize("given", ["dask", "pandas", "integers", "objects"])
def test_what_holds_the_outcome_changes_nothing(given):
    y, x, z, w = people(7, n=9000)
    expected = logistic_iv(y, x, z, w)
    if given == "dask":
        columns = [da.from_array(c, chunks=(2500, *c.shape[1:])) for c in (y, x, z, w)]
    elif given == "pandas":
        tables = zip("xzw", (x, z, w), strict=True)
        columns = [pd.Series(y), *(pd.DataFrame(c).add_prefix(name) for name, c in tables)]
    else:
        columns = [y.astype(np.int8 if given == "integers" else object), x, z, w]
    found = logistic_iv(*columns)
    # the layout of a table in memory may move the last bit
    tolerance = 1e-12 if given == "pandas" else 0
    assert_allclose(found.params, expected.params, rtol=tolerance)
    assert_allclose(found.cov, expected.cov, rtol=tolerance)
    if given == "pandas":
        assert list(found.params.index) == ["x0", "residual x0"]


def test_rows_of_a_store_give_what_columns_give(small_store, tmp_path):
    path = tmp_path / "store.zarr"
    shutil.copytree(small_store, path)
    store = open_store(path)
    continuous = store.array("outcome")[:, 0]
    case = (continuous > np.median(continuous)).astype(np.float32)
    case[::50] = np.nan
    store = append(path, store.array("sample_id"), {"outcome": (["case"], case[:, None])}).store
    data = StoreData.read(store, None, ["exposure"], "case", ["age"], clustered=True)
    found = fit_logistic(data, data.moments(), "2sri", "cluster", 0.3)
    layout = store.layout
    rows = np.concatenate([data.rows.of(layout.chunk(i)) for i in range(layout.num_chunks)])
    z, w, x, y = np.split(rows, np.cumsum([30, data.covariates.width, 1]), axis=1)
    expected = logistic_iv(y[:, 0], x, z, w, errors="cluster", clusters=data.codes, prevalence=0.3)
    assert found.num_obs == 882
    assert_allclose(found.params, expected.params, rtol=1e-9)
    assert_allclose(found.cov, expected.cov, rtol=1e-9)


@pytest.mark.parametrize("value", [2.0, -1.0, 0.5])
@pytest.mark.parametrize("prevalence", [None, 0.1])
def test_an_outcome_that_is_not_binary_is_refused(value, prevalence):
    y, x, z, w = people(8)
    y = y.astype(float)
    y[-1] = value
    with pytest.raises(InputError, match="0 for controls and 1 for cases") as refused:
        logistic_iv(pd.Series(y, name="stroke"), x, z, w, prevalence=prevalence)
    assert "stroke" in str(refused.value)
    assert str(value) not in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "2srii"}, "did you mean '2sri'"),
        ({"errors": "classical"}, "errors must be one of robust, cluster"),
        ({"errors": "cluster"}, "needs to know the clusters"),
        ({"clusters": np.zeros(1500)}, "errors='cluster' only"),
        ({"errors": "cluster", "clusters": np.zeros(1500)}, "two clusters or more"),
        ({"prevalence": 5}, "between 0 and 1 .* found 5"),
        ({"prevalence": 1.0}, "between 0 and 1"),
        ({"prevalence": float("nan")}, "between 0 and 1"),
        ({"outcome": np.ones(1500)}, "outcome must vary"),
        ({"outcome": np.full(1500, np.nan)}, "finite numbers for everybody"),
        ({"outcome": ["yes", "no"] * 750}, "outcome must be numbers"),
        ({"instruments": np.zeros((1500, 2))}, "no instrument varies"),
        ({"exposure": np.ones(1500)}, "exposure must vary"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(changes, message):
    y, x, z, w = people(9)
    given = {"outcome": y, "exposure": x, "instruments": z, "covariates": w}
    with pytest.raises(InputError, match=message):
        logistic_iv(**{**given, **changes})


def test_separation_is_refused():
    _, x, z, w = people(10)
    with pytest.raises(InputError, match=r"cannot be estimated: .*separation"):
        logistic_iv(x[:, 0] > np.median(x), x, z, w)


def test_an_exposure_that_the_instruments_explain_entirely_is_refused():
    y, _, z, w = people(11)
    with pytest.raises(InputError, match="instruments determine the exposure"):
        logistic_iv(y, z.sum(1), z, w)


def test_odds_ratios_are_of_exposures_only():
    y, x, z, w = people(12, p=2)
    fit = logistic_iv(y, x, z, w)
    table = fit.odds_ratios(0.9)
    assert list(table.index) == list(fit.exposures)
    assert_allclose(np.log(table["odds_ratio"]), fit.params[:2])
    assert_allclose(np.log(table["ci_upper"]), fit.conf_int(0.9)["upper"][:2])
    tiny = logistic_iv(y, x * 1e-6, z, w).odds_ratios()
    assert tiny["odds_ratio"].max() == np.inf


def test_the_result_says_what_it_is():
    y, x, z, w = people(13)
    fit = logistic_iv(pd.Series(y, name="<b>"), x, z, np.column_stack([w, w[:, 0]]))
    text = fit.summary()
    assert repr(fit) == text
    for said in ("residual inclusion", "1,500 people", "not collapsible", "prevalence", "left out"):
        assert said in text
    assert "<b>" not in fit._repr_html_()
    assert "&lt;b&gt;" in fit._repr_html_()
    table = fit.to_dataframe()
    assert_allclose(table["tstat"] ** 2, fit.params**2 / np.diag(fit.cov))
    machine = json.loads(json.dumps(fit.to_dict(), allow_nan=False))
    assert machine["num_cases"] == y.sum()
    assert_allclose(machine["estimates"][0]["estimate"], fit.params.iloc[0])
    assert_allclose(machine["odds_ratios"][0]["odds_ratio"], np.exp(fit.params.iloc[0]))
    assert machine["exogeneity"]["dof"] == [1]
    again = pickle.loads(pickle.dumps(fit))
    assert_array_equal(again.params, fit.params)
    with pytest.raises(InputError, match="coverage of an interval"):
        fit.conf_int(95)


@pytest.mark.parametrize("flip", [False, True])
def test_few_cases_or_controls_are_not_counted_out(flip):
    y, x, z, _ = people(14, k=0)
    rare = np.zeros(len(y), dtype=bool)
    rare[np.random.default_rng(0).choice(len(y), 15, replace=False)] = True
    fit = logistic_iv(rare ^ flip, x, z)
    machine = json.dumps(fit.to_dict())
    assert f"<=20 {'controls' if flip else 'cases'}" in fit.summary()
    assert fit.to_dict()["num_cases"] == (None if flip else "<=20")
    for text in (fit.summary(), fit._repr_html_(), machine):
        assert "1,485" not in text
        assert "1485" not in text


def test_few_people_are_told_by_no_number():
    rng = np.random.default_rng(4)
    z = rng.binomial(2, 0.4, (20, 1)).astype(float)
    x = z[:, 0] + rng.normal(size=20)
    y = (rng.random(20) < 0.5).astype(float)
    few = logistic_iv(y, x, z)
    told = few.to_dict()
    assert told["num_obs"] == "<=20"
    for name in ("estimates", "odds_ratios", "first_stage", "exogeneity", "condition_number"):
        assert told[name] is None
    for text in (few.summary(), few._repr_html_()):
        assert "so few people" in text
        assert not any(f"{value:.5g}" in text for value in [*few.params, *few.first_stage["f"]])
