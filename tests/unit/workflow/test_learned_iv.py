"""Estimates with learned instruments: their table, their errors, and what is refused."""

from __future__ import annotations

import math
import pickle
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.axes import Axes

import mrscale as mr
from mrscale.errors import InputError
from mrscale.results.learned import LearnedIVResult
from mrscale.stats.sensitivity import fitted_instrument, iv_robustness
from mrscale.workflow.cohorts import fill_of
from mrscale.workflow.learned_data import pair_cohort
from mrscale.workflow.preparing import prepare

LINEAR: dict[str, Any] = {"method": "linear", "factors": 3, "latent_dim": 1, "blocks": 3}
TINY: dict[str, Any] = {"factors": 3, "latent_dim": 2, "blocks": 2, "steps": 10, "device": "cpu"}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def columns(**changes: Any) -> dict[str, Any]:
    design = {"num_exogenous": 1, "num_people": 1500, "seed": 3} | changes
    data = mr.simulate_latent("linear", **design)
    names = ("outcome", "exposure", "environment")
    return {"instruments": data.x.to_numpy()} | {n: data[n].to_numpy() for n in names}


@pytest.fixture(scope="module")
def data() -> dict[str, Any]:
    """One latent that stays and two that move, mixed linearly, in five environments; effect 1."""
    return columns()


@pytest.fixture(scope="module")
def linear(data: dict[str, Any]) -> LearnedIVResult:
    return mr.learned_iv(**data, **LINEAR)


def test_the_headline_is_a_row_of_the_table_with_its_t_interval(linear):
    row = linear.table.loc[linear.headline]
    assert (linear.headline, linear.dof) == ("linear_controls", 2)
    assert linear.trust in ("green", "amber", "red")
    assert (linear.estimate, linear.std_error) == (row["estimate"], row["std_error"])
    assert linear.conf_int() == (row["ci_lower"], row["ci_upper"])
    assert row["headline"]
    assert linear.table["headline"].sum() == 1
    low, high = linear.conf_int(0.5)
    assert row["ci_lower"] < low < linear.estimate < high < row["ci_upper"]
    with pytest.raises(InputError, match="level must lie between 0 and 1; found 95"):
        linear.conf_int(95)


def test_what_the_encoders_were_is_said(linear):
    assert (linear.latent_dim, linear.num_factors, linear.num_blocks) == (1, 3, 3)
    assert linear.environments == tuple("01234")
    assert linear.num_clusters is None
    assert linear.latent_dim_path.empty
    assert linear.provenance["settings"]["method"] == "linear"
    assert len(linear.per_environment) == 5


def test_rivals_equal_regressions_on_the_same_columns(data, linear):
    ours, y, x, z = linear.table, data["outcome"], data["exposure"], data["instruments"]
    dummies = pd.get_dummies(data["environment"], drop_first=True).add_prefix("e")
    rivals = {
        "ols": mr.iv(y, x, None, estimator="ols"),
        "tsls": mr.iv(y, x, z),
        "tsls_pc": mr.iv(y, x, z, dummies),
    }
    for key, fit in rivals.items():
        assert ours.loc[key, "estimate"] == pytest.approx(fit.params["exposure"], rel=1e-9)
        assert ours.loc[key, "std_error"] == pytest.approx(fit.std_errors["exposure"], rel=1e-9)
    overidentified = rivals["tsls_pc"].overidentification.pvalue
    assert ours.loc["tsls_pc", "j_pvalue"] == pytest.approx(overidentified, rel=1e-6)


def test_principal_components_are_the_rivals_controls(data):
    rng = np.random.default_rng(0)
    people = len(data["outcome"])
    w = pd.DataFrame({"age": rng.normal(size=people), "PC1": data["instruments"][:, 0]})
    w["PC1"] += rng.normal(size=people)
    table = mr.learned_iv(**data, covariates=w, **LINEAR).table
    assert table.loc["tsls_pc", "label"] == "2SLS, PCs and environment adjusted"
    y, x, z = data["outcome"], data["exposure"], data["instruments"]
    dummies = pd.get_dummies(data["environment"], drop_first=True).add_prefix("e")
    plain, adjusted = mr.iv(y, x, z, w[["age"]]), mr.iv(y, x, z, w.join(dummies))
    assert table.loc["tsls", "estimate"] == pytest.approx(plain.params["exposure"], rel=1e-9)
    assert table.loc["tsls_pc", "estimate"] == pytest.approx(adjusted.params["exposure"], rel=1e-9)


def test_every_restart_and_a_smaller_dimension_are_in_the_table(data):
    fit = mr.learned_iv(**data, method="flow", restarts=3, **TINY)
    learned = fit.table.index[4:].tolist()
    assert learned == [
        "flow",
        "flow_controls",
        "flow_restart_2_controls",
        "flow_restart_3_controls",
        "flow_smaller_controls",
    ]
    assert fit.table.loc[learned[-1], "label"] == "Learned, flow, latent dimension 1 with controls"
    assert fit.table.loc[learned, "estimate"].nunique() == 5
    union = fit.sensitivity.set_index("name").loc["union of intervals"]
    shown = fit.table.loc[learned[1:]]
    assert union["lower"] == shown["ci_lower"].min()
    assert union["upper"] == shown["ci_upper"].max()


def test_auto_trains_all_three_encoders(data):
    fit = mr.learned_iv(**data, restarts=1, **TINY | {"latent_dim": 1})
    keys = ["linear", "kernel", "flow"]
    assert fit.table.index[4:].tolist() == [f"{k}{c}" for k in keys for c in ("", "_controls")]


def test_flows_choose_the_latent_dimension(data):
    fit = mr.learned_iv(**data, method="flow", restarts=1, **TINY | {"latent_dim": "auto"})
    assert fit.latent_dim_path.index.tolist() == [0, 1, 2]
    assert fit.latent_dim_path["std_error"].notna().all()
    assert isinstance(fit.plot_latent_dim(), Axes)


@pytest.mark.parametrize("method", ["linear", "flow"])
def test_equal_seeds_give_equal_numbers(data, method):
    options = TINY | {"method": method, "restarts": 1, "latent_dim": 1}
    one, same, other = (mr.learned_iv(**data, seed=seed, **options) for seed in (1, 1, 2))
    pd.testing.assert_frame_equal(one.table, same.table, check_exact=True)
    learned = f"{method}_controls"
    assert one.table.loc[learned, "estimate"] != other.table.loc[learned, "estimate"]


def test_the_same_columns_in_other_containers_give_the_same_numbers(data, linear):
    x, names = data["instruments"], ["rs1", "rs2", "rs3"]
    places = np.array(["a", "b", "c", "d", "e"])[data["environment"]]
    other = mr.learned_iv(
        pd.Series(data["outcome"], name="sbp"),
        da.from_array(data["exposure"], chunks=400),
        pd.DataFrame(x, columns=names),
        pd.Categorical(places),
        **LINEAR,
    )
    assert (other.pair.exposure, other.pair.outcome) == ("exposure", "sbp")
    pd.testing.assert_frame_equal(other.table, linear.table, check_exact=True)


def test_a_cluster_shares_a_block_and_errors_are_clustered(data):
    family = np.arange(1500) // 3
    environment = np.repeat(data["environment"][::3], 3)
    changed = data | {"environment": environment}
    args = (changed[n] for n in ("outcome", "exposure", "instruments", "environment"))
    cohort = pair_cohort(*args, None, family, blocks=2, seed=0)
    fold = cohort.arrays["fold"]
    assert (fold.reshape(500, 3) == fold[::3, None]).all()
    fit = mr.learned_iv(**changed, clusters=family, **LINEAR)
    assert fit.num_clusters == 500
    assert "500 clusters" in fit.summary()
    y, x, z = (data[name] for name in ("outcome", "exposure", "instruments"))
    expected = mr.iv(y, x, z, errors="cluster", clusters=family).std_errors["exposure"]
    assert fit.table.loc["tsls", "std_error"] == pytest.approx(expected, rel=1e-9)


def test_with_two_environments_the_adjusted_rival_is_the_headline():
    data = columns(num_environments=2)
    fit = mr.learned_iv(**data, **LINEAR)
    assert fit.headline == "tsls_pc"
    assert fit.trust != "green"
    assert math.isinf(fit.dof)
    assert "Anderson-Rubin" in fit.summary()
    y, x, z = (data[name] for name in ("outcome", "exposure", "instruments"))
    adjusted = mr.iv(y, x, z, data["environment"])
    interval = adjusted.conf_int().loc["exposure"]
    assert fit.conf_int() == pytest.approx((interval["lower"], interval["upper"]), rel=1e-9)
    found = fit.sensitivity.set_index("name")["value"]
    expected = iv_robustness(fitted_instrument(adjusted._reduced))
    assert found["robustness value, estimate"] == pytest.approx(expected.estimate, rel=1e-9)
    assert found["robustness value, interval"] == pytest.approx(expected.interval, rel=1e-9)


def test_leakage_is_what_turns_no_effect_into_the_estimate(linear):
    leakage = linear.sensitivity.set_index("name").loc["leakage that would explain it", "value"]
    # naive 2SLS is about 1.6 where the latent gives 1: the latent must be confounded in large part
    assert 0.05 < leakage < 0.4


def test_the_result_holds_numbers_only(linear):
    assert len(pickle.dumps(linear)) < 40_000, "1,500 people would be more"


def with_value(array: np.ndarray, value: float) -> np.ndarray:
    changed = array.astype(float)
    changed[7] = value
    return changed


REFUSED = {
    "lengths": (lambda d: {"environment": d["environment"][1:]}, "outcome and environment must"),
    "missing outcome": (
        lambda d: {"outcome": with_value(d["outcome"], np.nan)},
        r"outcome must hold finite numbers.*1 of 1 columns \(outcome\)",
    ),
    "infinite instrument": (
        lambda d: {"instruments": with_value(d["instruments"], np.inf)},
        "instrument must hold finite numbers.*3 of 3 columns",
    ),
    "missing covariate": (
        lambda d: {"covariates": with_value(d["outcome"], np.nan)},
        "covariate must hold finite numbers",
    ),
    "one environment": (
        lambda d: {"environment": np.zeros(1500)},
        "at least two environments.*found 1",
    ),
    "missing environment": (
        lambda d: {"environment": with_value(d["environment"], np.nan)},
        "every person needs an environment; found <=20 without one",
    ),
    "small environments": (
        lambda d: {"environment": np.arange(1500) // 50},
        r"more than 20 people for each of the 3 blocks; found fewer in 30 of 30 environments; "
        r"merge .* or ask for fewer blocks",
    ),
    "constant": (
        lambda d: {"instruments": d["instruments"] * [1, 0, 0]},
        "at least two instruments that vary between people; found 1 of 3",
    ),
    "wide": (
        lambda d: {"instruments": np.tile(d["instruments"], (1, 500))},
        "more people than instruments; found 1,500 instruments and 1,500 people",
    ),
    "two exposures": (
        lambda d: {"exposure": np.c_[d["exposure"], d["outcome"]]},
        r"one exposure at a time; found 2 \(exposure_0, exposure_1\); estimate them one by one",
    ),
    "exposure of one value": (
        lambda d: {"exposure": np.full(1500, 0.1)},
        "the exposure must vary between people",
    ),
    "latent_dim": (lambda d: {"latent_dim": 3}, "latent_dim must be below the number of factors"),
    "blocks": (lambda d: {"blocks": 1}, "blocks must be auto or a whole number from 2 to 100"),
    "method": (lambda d: {"method": "lineal"}, "method must be one of .*; did you mean 'linear'"),
    "missing cluster": (
        lambda d: {"clusters": with_value(np.arange(1500), np.nan)},
        "clusters must be known for everybody; found none for <=20 people",
    ),
    "few clusters": (
        lambda d: {"clusters": d["environment"]},
        "clusters stay together; found a block with fewer",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_refused_in_one_sentence(data, name):
    change, message = REFUSED[name]
    with pytest.raises(InputError, match=message) as raised:
        mr.learned_iv(**data | LINEAR | change(data))
    assert "\n" not in str(raised.value)


def test_a_guided_front_end_finds_what_components_miss_under_mendelian_sampling():
    people = mr.simulate_latent("mendelian", num_people=4000, seed=142)
    columns = [people[name] for name in ("outcome", "exposure", "x", "environment")]
    shared = {"method": "linear", "latent_dim": 1, "quiet": True}
    plain = mr.learned_iv(*columns, **shared)
    guided = mr.learned_iv(*columns, **shared, front_end="guided")
    assert plain.trust == "red"
    assert guided.num_factors == plain.num_factors + 1
    low, high = guided.conf_int()
    assert low < people.attrs["effect"] < high < low + 0.5
    assert abs(plain.table.loc["linear_controls", "estimate"] - people.attrs["effect"]) > 0.3
    assert guided.provenance["settings"]["front_end"] == "guided"


def test_the_score_is_learned_in_the_block_of_its_encoder(data):
    cohort = pair_cohort(**data, covariates=None, clusters=None, blocks=2, seed=0)
    fill = fill_of(cohort)
    before = prepare(None, cohort, fill, 2, factors=2, guided=True)
    cohort.arrays["exposure"][cohort.arrays["fold"] == 1] *= -3
    after = prepare(None, cohort, fill, 2, factors=2, guided=True)
    np.testing.assert_array_equal(before[0].front.projection, after[0].front.projection)
    assert not np.allclose(before[1].front.projection, after[1].front.projection)


def test_a_score_beside_all_components_is_refused(data):
    two = data | {"instruments": data["instruments"][:, :2]}
    with pytest.raises(InputError, match='found none beside the components; use front_end="comp'):
        mr.learned_iv(**two, front_end="guided", **LINEAR | {"factors": 2, "latent_dim": 1})
    constant = data | {"exposure": np.r_[np.arange(5.0), np.zeros(1495)]}
    with pytest.raises(InputError, match="an exposure that varies in every block"):
        mr.learned_iv(**constant, front_end="guided", **LINEAR | {"factors": 2, "blocks": 6})


def test_clusters_that_leave_an_environment_few_people_in_a_block_are_refused(data):
    site = np.arange(1500) % 200 + 1
    site[data["environment"] == 0] = 0
    with pytest.raises(InputError, match="clusters stay together; found a block with fewer"):
        mr.learned_iv(**data, clusters=site, **LINEAR)
