"""One encoder for all people: what it gives, how it is judged, kept and refused."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.axes import Axes
from safetensors.numpy import save_file
from scipy import stats

import mrscale as mr
from mrscale.errors import InputError
from mrscale.stats.misfit import Misfit
from mrscale.train.encoder import Encoder
from mrscale.workflow.encoder_checks import check_encoder, diagnostics
from mrscale.workflow.learned_encoder import DIAGNOSTICS

TINY: dict[str, Any] = {"factors": 3, "steps": 20, "restarts": 2, "device": "cpu"}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def people():
    """One latent that stays and two that move, mixed linearly, in five environments."""
    return mr.simulate_latent("linear", num_exogenous=1, num_people=2000, seed=3)


@pytest.fixture(scope="module")
def linear(people):
    return mr.fit_encoder(people, method="linear", factors=3)


@pytest.fixture(scope="module")
def flow(people):
    x, environment = people.x.to_numpy()[:1000], people.environment.to_numpy()[:1000]
    table = pd.DataFrame(x, columns=["rs1", "rs2", "rs3"])
    places = np.array(list("abcde"))[environment]
    return mr.fit_encoder(table, places, method="flow", **TINY)


def test_a_linear_mixing_is_undone_by_the_linear_encoder(people, linear):
    latent, rest = linear.transform(people), linear.rest(people)
    assert (latent.shape, rest.shape) == ((2000, 1), (2000, 2))
    assert (latent.dtype, rest.dtype) == (np.float32, np.float32)
    truth = people.z_exogenous.to_numpy()[:, 0]
    assert np.corrcoef(latent[:, 0], truth)[0, 1] ** 2 > 0.98
    assert abs(rest.mean(0)).max() < 1e-4
    assert abs(rest.std(0) - 1).max() < 1e-4


def test_the_bounded_latent_is_its_normal_distribution_function(people, linear):
    bounded = linear.bounded(people)
    assert bounded.min() > 0
    assert bounded.max() < 1
    np.testing.assert_allclose(bounded, stats.norm.cdf(linear.transform(people)), rtol=1e-5)


def test_auto_takes_the_linear_encoder_where_it_suffices(people):
    encoder = mr.fit_encoder(people, latent_dim=1, **TINY)
    assert encoder.method == "linear"
    assert "1 of the linear directions is invariant by the permutation test" in encoder.reason
    assert encoder.latent_dim_path.empty


def test_auto_takes_the_flow_where_no_linear_direction_is_invariant():
    mixed = mr.simulate_latent("mlp", num_exogenous=1, num_people=1500, seed=5)
    encoder = mr.fit_encoder(mixed, latent_dim=2, **TINY)
    assert encoder.method == "flow"
    assert encoder.reason.startswith("flow: ")
    assert "2 needed" in encoder.reason


def test_flows_choose_the_latent_dimension(people):
    encoder = mr.fit_encoder(people, method="flow", **TINY)
    path = encoder.latent_dim_path
    assert path.index.tolist() == [0, 1, 2]
    assert path["chosen"].tolist() == [d == encoder.latent_dim for d in range(3)]
    assert isinstance(encoder.plot_latent_dim(), Axes)
    gain = encoder.diagnostics.set_index("name")["statistic"]
    found = gain["held-out likelihood of a model without invariance"]
    expected = path["log_likelihood"][0] - path["log_likelihood"][encoder.latent_dim]
    assert found == pytest.approx(expected)


@pytest.mark.parametrize("method", ["kernel", "flow"])
def test_equal_seeds_give_equal_encoders(people, method):
    one, same, other = (
        mr.fit_encoder(people, method=method, latent_dim=1, seed=seed, **TINY).transform(people)
        for seed in (1, 1, 2)
    )
    assert one.tobytes() == same.tobytes()
    assert (one != other).any()


def test_every_check_is_said_with_what_it_can_tell(flow):
    table = flow.diagnostics
    assert tuple(table.columns) == DIAGNOSTICS
    assert len(table) == 10
    assert set(table["verdict"]) <= {"pass", "warn", "fail", "info"}
    assert table["meaning"].str.len().min() > 60
    tested = table["name"].str.contains("invariance over|worst pair|independence")
    assert table["pvalue"].notna().tolist() == tested.tolist()
    worst = table["name"][1]
    assert set(worst.removeprefix("invariance, worst pair: ").split(" and ")) <= set("abcde")


def test_two_environments_fail_and_too_few_warn():
    def verdict(number: int) -> str:
        data = mr.simulate_latent(
            "linear", num_exogenous=1, num_environments=number, num_people=900, seed=2
        )
        table = mr.fit_encoder(data, method="linear", factors=3, latent_dim=1).diagnostics
        return table["verdict"][table["name"].str.startswith("environments, 5 for 2")].item()

    assert [verdict(number) for number in (2, 3, 5)] == ["fail", "warn", "pass"]


def test_a_small_environment_is_said_without_its_number(people):
    environment = people.environment.to_numpy()
    few = np.flatnonzero(environment == 4)[:22]
    rows = np.concatenate([np.flatnonzero(environment < 4), few])
    x, codes = people.x.to_numpy()[rows], environment[rows]
    encoder = mr.fit_encoder(x, codes, method="linear", factors=3, latent_dim=1)
    row = encoder.diagnostics.set_index("name").loc["people in the smallest environment"]
    assert row["verdict"] == "fail"
    assert math.isnan(row["statistic"])
    assert "20 or fewer" in row["meaning"]


def test_misfit_fails_and_a_gain_of_the_free_model_warns(people, linear):
    from mrscale.workflow.cohorts import fill_of
    from mrscale.workflow.learned_data import instruments_of
    from mrscale.workflow.learning import training_blocks
    from mrscale.workflow.preparing import prepare

    cohort, _ = instruments_of(people)
    starts = prepare(None, cohort, fill_of(cohort), 1, factors=3)
    (block,) = training_blocks(cohort, starts, 0)
    found = check_encoder(cohort, block, linear.encoder, 0)
    assert found.check.linear_suffices
    bad = replace(found, check=replace(found.check, misfit=Misfit(0.02, 0.1), dependence_gain=0.1))
    assert not bad.check.linear_suffices
    verdicts = diagnostics(bad, list("abcde")).set_index("name")["verdict"]
    assert verdicts["predictability of the latent (R2)"] == "fail"
    assert verdicts["law of the latent given the rest (log-likelihood ratio)"] == "fail"
    assert verdicts["held-out likelihood of a model without invariance"] == "warn"


def test_a_saved_encoder_is_the_same_encoder(flow, people, tmp_path):
    path = tmp_path / "encoder.safetensors"
    flow.save(path)
    loaded = mr.load_encoder(path)
    x = people.x.to_numpy()
    assert loaded.transform(x).tobytes() == flow.transform(x).tobytes()
    assert loaded.rest(x).tobytes() == flow.rest(x).tobytes()
    pd.testing.assert_frame_equal(loaded.diagnostics, flow.diagnostics)
    pd.testing.assert_frame_equal(loaded.latent_dim_path, flow.latent_dim_path)
    for name in ("reason", "instruments", "environments", "provenance", "method", "num_factors"):
        assert getattr(loaded, name) == getattr(flow, name)
    loaded.save(path)
    assert repr(mr.load_encoder(path)) == repr(flow)


def test_a_file_that_is_no_encoder_of_ours_is_refused(flow, tmp_path):
    path = tmp_path / "file.safetensors"
    with pytest.raises(InputError, match=r"there is no encoder at .*file\.safetensors; correct"):
        mr.load_encoder(path)
    path.write_bytes(b"no safetensors at all")
    with pytest.raises(InputError, match=r"must be an encoder that was saved .* something else"):
        mr.load_encoder(path)
    save_file({"weight": np.zeros(3)}, path)
    with pytest.raises(InputError, match="must be an encoder that was saved"):
        mr.load_encoder(path)
    flow.encoder.save(path)
    with pytest.raises(InputError, match="must be an encoder that was saved"):
        mr.load_encoder(path)


def test_an_encoder_of_another_schema_is_refused(flow, tmp_path, monkeypatch):
    path = tmp_path / "encoder.safetensors"
    monkeypatch.setattr("mrscale.train.encoder.SCHEMA", 99)
    flow.save(path)
    monkeypatch.undo()
    with pytest.raises(InputError, match=r"encoder of schema \d+; found schema 99; train it again"):
        mr.load_encoder(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t[["rs1", "rs2"]], r"the 3 instruments .* \(rs1, rs2, rs3\).*; found 2; select"),
        (lambda t: t.rename(columns={"rs2": "rs9"}), "in their order; found no rs2; select them"),
        (lambda t: t[["rs2", "rs1", "rs3"]], "found them in another order; select them by name"),
        (lambda t: t.assign(rs1=np.inf), r"instrument must hold finite numbers.*\(rs1\); fill"),
        (lambda t: t.iloc[:0], "latent instruments need people; found instruments without any"),
    ],
)
def test_other_instruments_than_those_of_the_training_are_refused(flow, people, change, message):
    table = pd.DataFrame(people.x.to_numpy(), columns=["rs1", "rs2", "rs3"])
    with pytest.raises(InputError, match=message):
        flow.transform(change(table))


def test_instruments_without_names_go_by_position(flow, linear, people):
    x = people.x.to_numpy()
    table = pd.DataFrame(x, columns=["rs1", "rs2", "rs3"])
    np.testing.assert_array_equal(flow.transform(x), flow.transform(table))
    np.testing.assert_array_equal(linear.transform(table), linear.transform(x))


def with_nan(x: np.ndarray) -> np.ndarray:
    changed = x.copy()
    changed[5, 1] = np.nan
    return changed


REFUSED = {
    "one environment": (lambda x, e: (x, 0 * e, {}), "at least two environments.*found 1"),
    "missing environment": (
        lambda x, e: (x, np.where(e == 0, np.nan, e), {}),
        "every person needs an environment; found 400 without one",
    ),
    "no environment": (lambda x, e: (x, None, {}), "an array of instruments needs environment="),
    "small environments": (
        lambda x, e: (x, np.arange(len(x)) // 10, {}),
        "more than 20 people; found fewer in 200 of 200 environments; merge",
    ),
    "few judges": (
        lambda x, e: (x[:300], e[:300], {}),
        "judged by 15 % of the people.*20 or more in at least two environments; found 0 such",
    ),
    "lengths": (lambda x, e: (x, e[1:], {}), "instrument and environment must have one row"),
    "latent_dim": (
        lambda x, e: (x, e, {"latent_dim": 3}),
        "latent_dim must be below the number of factors, 3, .*found 3; lower it",
    ),
    "factors": (lambda x, e: (x, e, {"factors": 4}), "at least 4 varying variants.*found 3"),
    "missing value": (
        lambda x, e: (with_nan(x), e, {}),
        r"instrument must hold finite numbers.*1 of 3 columns \(instrument_1\); fill them in",
    ),
    "constant": (
        lambda x, e: (x * [0, 0, 1], e, {}),
        "at least two instruments that vary between people; found 1 of 3; give more",
    ),
    "wide": (
        lambda x, e: (np.tile(x[:60], (1, 20)), e[:60], {}),
        "more people than instruments; found 60 instruments and 60 people; give a shorter",
    ),
    "method": (lambda x, e: (x, e, {"method": "flows"}), "method must be one of.*'flow'"),
    "latent_dim 0": (
        lambda x, e: (x, e, {"latent_dim": 0}),
        "latent_dim must be auto or a whole number from 1 on; found 0; leave it out",
    ),
    "restarts": (
        lambda x, e: (x, e, {"restarts": "auto"}),
        "restarts must be a whole number from 1 on; found 'auto'; correct it",
    ),
    "steps": (lambda x, e: (x, e, {"steps": 1.5}), "steps must be auto or a whole number from 1"),
    "seed": (
        lambda x, e: (x, e, {"seed": -1}),
        r"seed must be a whole number from 0 to \d+; found -1",
    ),
    "device": (
        lambda x, e: (x, e, {"device": "abacus"}),
        "device must be one that torch has on this machine.*found 'abacus'; leave it out",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_refused_in_one_sentence(people, name):
    change, message = REFUSED[name]
    x, environment, options = change(people.x.to_numpy(), people.environment.to_numpy())
    with pytest.raises(InputError, match=message) as raised:
        mr.fit_encoder(x, environment, **{"method": "linear", "factors": 3} | options)
    assert "\n" not in str(raised.value)


def test_a_dataset_of_another_kind_is_refused(people):
    with pytest.raises(InputError, match=r"a dataset must be that of a genotype store .* without"):
        mr.fit_encoder(people[["x"]])
    with pytest.raises(InputError, match="has its environments in it; found environment= as well"):
        mr.fit_encoder(people, people.environment)


def test_a_store_its_path_and_its_dataset_train_the_same_encoder(small, small_store):
    options = {"method": "linear", "factors": 3, "latent_dim": 1}
    of_store, of_path, of_dataset = (
        mr.fit_encoder(data, **options) for data in (small, small_store, mr.open(small_store))
    )
    assert of_store.environments == ("north", "south", "west")
    assert of_store.instruments[:2] == ("variant-0_C", "variant-1_C") == of_dataset.instruments[:2]
    latent = of_store.transform(small)
    assert latent.shape == (900, 1)
    np.testing.assert_array_equal(of_path.transform(small_store), latent)
    np.testing.assert_allclose(of_dataset.transform(mr.open(small_store)), latent, atol=2e-5)
    # people are grouped by environment in stores, missing calls filled with their means
    fold = Encoder.encode(
        of_store.encoder, small.expected_dosage(slice(None)), small.array("environment")
    )
    np.testing.assert_array_equal(fold[0], latent)


def test_variants_that_count_the_other_allele_are_others(small, small_store):
    encoder = mr.fit_encoder(small, method="linear", factors=3, latent_dim=1)
    swapped = mr.open(small_store).load()
    swapped["variant_effect_allele"][3] = "A"
    with pytest.raises(InputError, match="found no variant-3_C; select them by name"):
        encoder.transform(swapped)


def test_negative_whole_numbers_are_numbers(people):
    x, environment = people.x.to_numpy(), people.environment.to_numpy()
    whole = np.rint(10 * x).astype(np.int64)
    as_integers = mr.fit_encoder(whole, environment, method="linear", factors=3)
    as_floats = mr.fit_encoder(whole.astype(float), environment, method="linear", factors=3)
    np.testing.assert_array_equal(as_integers.transform(whole), as_floats.transform(whole))


def test_it_is_shown_in_a_notebook(flow):
    page = flow._repr_html_()
    assert "<table" in page
    assert flow.reason in page
    assert "<script>" not in replace(flow, reason="<script>alert(1)</script>")._repr_html_()
    assert "1 latent" in repr(flow) or f"{flow.latent_dim} latent" in repr(flow)


def test_an_environment_that_nobody_judges_is_no_error(people):
    """Of 25 people chance may keep nobody aside."""
    x, environment = people.x.to_numpy()[:1225], np.repeat([0, 1, 2, 3], [400, 400, 400, 25])
    found = mr.fit_encoder(x, environment, method="linear", factors=3, seed=26)
    shown = found.diagnostics.set_index("name").loc["people in the smallest environment"]
    assert (shown["statistic"], shown["verdict"]) == (100, "warn")


def test_people_who_trained_are_not_told_exactly(linear):
    """Beside the size of the environment, it would tell how many judged."""
    shown = linear.diagnostics.set_index("name")["statistic"]
    assert shown["people in the smallest environment"] % 100 == 0


@pytest.mark.parametrize("method", ["kernel", "flow"])
def test_a_seed_may_be_a_time_to_the_second(people, method):
    tiny = TINY | {"steps": 2, "latent_dim": 1, "seed": 20261129120000}
    assert mr.fit_encoder(people, method=method, **tiny).method == method


def test_a_selection_of_people_of_a_store_may_lack_an_environment(small_store):
    data = mr.open(small_store)
    chosen = data.isel(samples=np.flatnonzero(data.environment.to_numpy() != 1))
    found = mr.fit_encoder(chosen, method="linear", factors=3)
    assert found.environments == ("north", "west")


def test_an_encoder_may_be_kept_under_a_url(flow, people, tmp_path):
    url = f"memory://{tmp_path.name}/encoder.safetensors"
    flow.save(url)
    assert mr.load_encoder(url).transform(people).tobytes() == flow.transform(people).tobytes()
    with pytest.raises(InputError, match=r"/proc/nowhere/e\.safetensors cannot be written"):
        flow.save("/proc/nowhere/e.safetensors")


def test_a_story_that_lacks_something_is_no_encoder(flow, tmp_path):
    path = tmp_path / "e.safetensors"
    own = {"reason": "lost the rest"}
    replace(flow.encoder, story={**flow.encoder.story, "fit_encoder": own}).save(path)
    with pytest.raises(InputError, match="must be an encoder that was saved"):
        mr.load_encoder(path)
