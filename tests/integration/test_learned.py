"""Learned instruments from end to end: the effect is found; arrays and stores are one."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import mrscale as mr
from mrscale.store.reader import GenotypeStore, open_store
from mrscale.store.schema import Layout
from mrscale.workflow.cohorts import ArrayCohort
from mrscale.workflow.learned_iv import learned_pair
from mrscale.workflow.learned_options import LearnOptions

ARRAYS = ("environment", "fold", "family", "cluster", "exposure", "outcome", "covariate")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def in_memory(store: GenotypeStore, layout: Layout | None = None) -> ArrayCohort:
    """The people of a store as arrays, their rows cut as asked for."""
    cohort = ArrayCohort(
        store.expected_dosage(slice(None)),
        {name: store.array(name) for name in (*ARRAYS, "variant_allele_frequency")},
        {
            kind: store.names(kind)
            for kind in ("exposures", "outcomes", "covariates", "environments")
        },
    )
    if layout is None:
        return cohort

    class Cut(ArrayCohort):
        layout: Any = None

    Cut.layout = layout
    return Cut(cohort.instruments, cohort.arrays, cohort.named)


def options(method: str, **changes: Any) -> LearnOptions:
    settings: dict[str, Any] = {
        "latent_dim": 1,
        "factors": 3,
        "restarts": 2,
        "seed": 4,
        "device": "cpu",
        "steps": 20,
        "batch_size": "auto",
    }
    return LearnOptions(method=method, **settings | changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["linear", "flow"])
def test_arrays_and_a_store_give_the_same_numbers(small_store, method):
    store = open_store(small_store)
    chosen = options(method, latent_dim="auto")
    of_store = learned_pair(store, chosen)
    of_arrays = learned_pair(in_memory(store, store.layout), chosen)
    pd.testing.assert_frame_equal(of_arrays.table, of_store.table, rtol=1e-10, atol=0)
    pd.testing.assert_frame_equal(of_arrays.diagnostics, of_store.diagnostics, rtol=1e-10, atol=0)
    pd.testing.assert_frame_equal(of_arrays.sensitivity, of_store.sensitivity, rtol=1e-10, atol=0)
    pd.testing.assert_frame_equal(
        of_arrays.latent_dim_path, of_store.latent_dim_path, rtol=1e-10, atol=0
    )
    assert (of_arrays.headline, of_arrays.trust) == (of_store.headline, of_store.trust)


def test_rows_cut_elsewhere_change_last_digits_only(small_store):
    store = open_store(small_store)
    one, other = (learned_pair(c, options("linear")).table for c in (store, in_memory(store)))
    # latents are float32
    pd.testing.assert_frame_equal(one, other, rtol=1e-4, atol=1e-8)


def test_a_linear_mixing_needs_no_training_to_find_the_effect():
    people = mr.simulate_latent("linear", num_exogenous=1, num_people=6000, seed=11)
    fit = mr.learned_iv(
        people.outcome, people.exposure, people.x, people.environment, factors=3, method="linear"
    )
    naive = fit.table.loc["tsls", "estimate"]
    assert naive > 1.4
    assert fit.headline == "linear_controls"
    assert abs(fit.estimate - 1) < 0.15 * (naive - 1)
    low, high = fit.conf_int()
    assert low < 1 < high


def test_a_short_flow_finds_the_effect_through_a_non_linear_mixing():
    people = mr.simulate_latent("mlp", num_exogenous=1, num_confounded=1, num_people=6000, seed=12)
    fit = mr.learned_iv(
        people.outcome,
        people.exposure,
        people.x,
        people.environment,
        method="flow",
        factors=2,
        latent_dim=1,
        blocks=3,
        restarts=1,
        steps=300,
    )
    naive = fit.table.loc["tsls", "estimate"] - 1
    error = fit.table.loc["flow_controls", "estimate"] - 1
    assert naive > 0.3
    assert abs(error) < 0.2 * naive
    assert abs(error) < 0.5 * abs(fit.table.loc["tsls_pc", "estimate"] - 1)


def test_an_encoder_carries_its_latent_to_other_people():
    people = mr.simulate_latent("linear", num_exogenous=1, num_people=8000, seed=13)
    train, new = people.isel(samples=slice(4000)), people.isel(samples=slice(4000, None))
    encoder = mr.fit_encoder(train, method="linear", factors=3)
    latent = encoder.transform(new)
    truth = new.z_exogenous.to_numpy()[:, 0]
    assert np.corrcoef(latent[:, 0], truth)[0, 1] ** 2 > 0.98
    dummies = pd.get_dummies(new.environment.to_numpy(), drop_first=True).add_prefix("e")
    controls = np.c_[dummies, encoder.rest(new)]
    fit = mr.iv(new.outcome, new.exposure, latent, controls)
    assert fit.params["exposure"] == pytest.approx(1, abs=0.15)
    assert fit.to_dataframe(level=0.8).attrs["level"] == 0.8
    carried = mr.encode(new, encoder)
    assert set(carried.data_vars) == {"latent", "remainder"}
    same = mr.iv(new.outcome, new.exposure, carried.latent, np.c_[dummies, carried.remainder])
    assert same.params["exposure"] == fit.params["exposure"]


def test_simulate_stays_a_function_when_its_package_is_imported():
    code = "import mrscale as mr; mr.simulate_latent, mr.simulate; print(callable(mr.simulate))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
