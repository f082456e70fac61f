"""``mrscale.iv``: what it takes, what it refuses, and that engines do not change a bit of it."""

from __future__ import annotations

import copy
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from distributed import Client, LocalCluster
from numpy.testing import assert_allclose, assert_array_equal

import mrscale as mr
from mrscale.errors import InputError
from mrscale.stream.arrays import BLOCK_ROWS

ESTIMATORS = ["ols", "2sls", "liml", "fuller", "gmm", "cue", "jive", "ujive"]


def fit(data: dict[str, Any], **changes: Any) -> mr.results.IVResult:
    return mr.iv(**data | changes)


def assert_same_bits(found, expected):
    assert_array_equal(found.params, expected.params)
    assert_array_equal(found.cov, expected.cov)
    assert_array_equal(found.first_stage, expected.first_stage)
    assert found.overidentification == expected.overidentification
    assert found.endogeneity == expected.endogeneity


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_pandas_xarray_dask_and_numpy_give_the_same_bits(data, estimator):
    expected = fit(data, estimator=estimator, errors="robust")
    people = pd.Index([f"p{i}" for i in range(400)])
    frames = {
        "outcome": pd.Series(data["outcome"], people, name="sbp"),
        "exposure": pd.DataFrame({"bmi": data["exposure"]}, people),
        "instruments": pd.DataFrame(data["instruments"], people, ["rs1", "rs2", "rs3"]),
        "covariates": pd.DataFrame(data["covariates"], people, ["age", "sex"]),
    }
    found = fit(frames, estimator=estimator)
    assert_same_bits(found, expected)
    assert list(found.params.index) == ["bmi", "age", "sex", "const"]
    assert found.outcome == "sbp"
    assert found.instruments == (() if estimator == "ols" else ("rs1", "rs2", "rs3"))
    dosage = xr.DataArray(
        data["instruments"], dims=("samples", "variants"), coords={"variants": ["a", "b", "c"]}
    )
    found = fit(data, estimator=estimator, instruments=dosage.chunk(samples=33))
    assert_same_bits(found, expected)
    assert list(found.params.index) == ["exposure", "covariate_0", "covariate_1", "const"]
    assert found.instruments == (() if estimator == "ols" else ("a", "b", "c"))
    lazy = {name: da.from_array(value, chunks=97) for name, value in data.items()}
    assert_same_bits(fit(lazy, estimator=estimator), expected)


@pytest.mark.parametrize("errors", ["robust", "cluster"])
def test_any_chunking_gives_the_same_bits(errors, made):
    data = made(3 * BLOCK_ROWS + 123)
    # families of three are side by side, and some of them across two blocks
    clusters = np.arange(len(data["outcome"])) // 3 if errors == "cluster" else None
    expected = fit(data, errors=errors, clusters=clusters)
    for rows in (BLOCK_ROWS, 5000, 100_000):
        lazy = {
            name: da.from_array(value, chunks=(rows, *[2] * (value.ndim - 1)))
            for name, value in data.items()
        }
        assert_same_bits(fit(lazy, errors=errors, clusters=clusters), expected)
    mixed = data | {"instruments": da.from_array(data["instruments"], chunks=(1000, 3))}
    assert_same_bits(fit(mixed, errors=errors, clusters=clusters), expected)


def test_any_number_of_workers_gives_the_same_bits(made):
    data = made(2 * BLOCK_ROWS + 77)
    options = {"errors": "cluster", "clusters": np.arange(len(data["outcome"])) // 3}
    lazy = {name: da.from_array(value, chunks=4000) for name, value in data.items()}
    for estimator in ("2sls", "gmm", "ujive"):
        expected = fit(data, estimator=estimator, **options)
        assert_same_bits(fit(lazy, estimator=estimator, **options), expected)
    with (
        LocalCluster(
            n_workers=1,
            threads_per_worker=1,
            processes=True,
            protocol="tcp",
            host="127.0.0.1",
            dashboard_address=None,
        ) as cluster,
        Client(cluster) as client,
    ):
        assert_same_bits(fit(lazy, estimator="ujive", **options), expected)
        cluster.scale(3)
        client.wait_for_workers(3)
        assert_same_bits(fit(lazy, estimator="ujive", **options), expected)


def test_scattered_clusters_are_the_same_beyond_rounding(made):
    data = made(2 * BLOCK_ROWS)
    clusters = np.random.default_rng(0).integers(0, 3000, len(data["outcome"]))
    expected = fit(data, errors="cluster", clusters=clusters)
    lazy = data | {"instruments": da.from_array(data["instruments"], chunks=(1000, 3))}
    found = fit(lazy, errors="cluster", clusters=clusters)
    assert_allclose(found.cov, expected.cov, rtol=1e-12)


def test_clusters_may_be_text_series_or_lazy(data):
    codes = np.arange(400) // 5
    expected = fit(data, errors="cluster", clusters=codes)
    assert expected.num_clusters == 80
    text = np.array([f"family {code}" for code in codes])
    for clusters in (
        text,
        pd.Series(text, name="family"),
        pd.Series(text).astype("category"),
        da.from_array(codes, chunks=50),
        xr.DataArray(codes, dims="samples"),
        codes[:, None],
    ):
        assert_same_bits(fit(data, errors="cluster", clusters=clusters), expected)


def test_columns_without_names_of_their_own_get_one(data):
    frames = {name: pd.DataFrame(value) for name, value in data.items()}
    found = fit(frames)
    assert list(found.params.index) == ["exposure", "covariate_0", "covariate_1", "const"]
    assert found.instruments == ("instrument_0", "instrument_1", "instrument_2")
    assert found.outcome == "outcome"
    two = fit(
        data,
        exposure=np.c_[data["exposure"], data["outcome"]],
        outcome=data["covariates"][:, 0],
        covariates=None,
    )
    assert two.exposures == ("exposure_0", "exposure_1")


def test_ols_needs_no_instruments(data):
    expected = fit(data, estimator="ols")
    assert_same_bits(fit(data, estimator="ols", instruments=None), expected)
    assert expected.num_instruments == 0
    assert expected.first_stage.empty
    assert expected.overidentification.reason == "OLS uses no instruments"


def test_a_constant_column_of_any_value_is_left_out(data):
    for value in (1.0, 0.1, 1 / 3, -12345.678):
        extra = np.column_stack([data["covariates"], np.full(400, value)])
        found = fit(data, covariates=extra)
        assert list(found.params.index) == ["exposure", "covariate_0", "covariate_1", "const"]
        assert_allclose(found.cov, fit(data).cov, rtol=1e-11)
        instruments = np.column_stack([data["instruments"], np.full(400, value)])
        found = fit(data, instruments=instruments)
        assert found.num_instruments == 3
        assert_allclose(found.params, fit(data).params, rtol=1e-11)


def test_the_constant_may_be_a_covariate(data):
    own = np.column_stack([data["covariates"], np.ones(400)])
    found = fit(data, covariates=own, intercept=False)
    assert_allclose(found.params.to_numpy(), fit(data).params.to_numpy(), rtol=1e-10)
    assert_allclose(found.cov.to_numpy(), fit(data).cov.to_numpy(), rtol=1e-9)


def test_one_instrument_per_exposure_is_enough(data):
    found = fit(data, instruments=data["instruments"][:, 0])
    assert found.num_instruments == 1
    assert found.overidentification.reason == "no more instruments than exposures"
    for estimator in ("liml", "gmm", "cue"):
        other = fit(data, instruments=data["instruments"][:, 0], estimator=estimator)
        assert_allclose(other.params, found.params, rtol=1e-7)  # CUE is an optimiser's


def test_reasons_stand_beside_what_does_not_apply(data):
    found = fit(data)
    assert found.first_stage["conditional_f"].isna().all()
    assert "two exposures" in found.first_stage_reasons["conditional_f"]
    few = fit(data, errors="cluster", clusters=np.arange(400) // 200)
    assert few.first_stage["f_robust"].isna().all()
    assert "clusters" in few.first_stage_reasons["f_robust"]
    assert "clusters" in few.overidentification.reason


def test_near_collinearity_is_said(data):
    close = data["covariates"] @ [[1, 1], [0, 6e-5]]
    found = fit(data, covariates=close)
    assert found.condition_number > 1e4
    assert any("nearly collinear" in note for note in found.notes)


def test_what_is_given_is_not_changed(data):
    before = copy.deepcopy(data)
    weights = np.full(400, 2.0)
    fit(data, weights=weights, errors="cluster", clusters=np.arange(400) // 4)
    for name, value in data.items():
        assert_array_equal(value, before[name])
    assert (weights == 2).all()


@pytest.mark.parametrize("value", [0.1, 37.2])
def test_a_column_of_one_value_is_found_among_many_people(value):
    # the sum of so many equal numbers, over their number, is another one
    rng = np.random.default_rng(5)
    z = rng.binomial(2, 0.3, (20_000, 3)).astype(float)
    x = z @ [0.3, 0.2, 0.4] + rng.normal(size=20_000)
    y = 0.5 * x + rng.normal(size=20_000)
    same = np.full((20_000, 1), value)
    expected, found = mr.iv(y, x, z), mr.iv(y, x, np.hstack([z, same]))
    assert found.num_instruments == 3
    assert_allclose(found.params, expected.params, rtol=1e-12)
    assert_allclose(mr.iv(y, x, z, same).params, expected.params, rtol=1e-12)
    for outcome, exposure in ((same, x), (y, same)):
        with pytest.raises(InputError, match="must vary between people"):
            mr.iv(outcome, exposure, z)


def test_people_whom_jive_leaves_out_are_in_no_variance(data):
    # one person alone has the last instrument
    alone = np.zeros((400, 1))
    alone[17] = 1
    z = np.hstack([data["instruments"], alone])
    found = fit(data, instruments=z, estimator="jive")
    rest = np.delete(np.arange(400), 17)
    without = mr.iv(
        data["outcome"][rest],
        data["exposure"][rest],
        data["instruments"][rest],
        data["covariates"][rest],
        estimator="jive",
    )
    assert_allclose(found.params, without.params, rtol=1e-8)
    assert found.residual_variance == pytest.approx(without.residual_variance, rel=1e-8)
    assert "num_obs counts them" in found.notes[0]


def test_masked_weights_are_missing(data):
    weights = np.ma.masked_array(np.ones(400), mask=np.arange(400) == 3)
    with pytest.raises(InputError, match="weights must be finite"):
        fit(data, weights=weights)


def test_units_of_exposures_do_not_matter_to_the_tests(data, recwarn):
    other = data["instruments"][:, 1] + np.random.default_rng(6).normal(size=400)
    both = np.column_stack([data["exposure"], other])
    found, scaled = (fit(data, exposure=both * [1, unit]) for unit in (1.0, 1e10))
    assert scaled.endogeneity.statistic == pytest.approx(found.endogeneity.statistic, rel=1e-8)
    assert_allclose(scaled.first_stage["conditional_f"], found.first_stage["conditional_f"], 1e-8)
    assert not recwarn.list
