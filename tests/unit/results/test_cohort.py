"""A result of a store as people and machines read it: nothing that may not leave."""

from __future__ import annotations

import itertools
import json
import math
import pickle
import re
import shutil
from dataclasses import FrozenInstanceError

import numpy as np
import pandas as pd
import pytest

import mrscale as mr
from mrscale.results.cohort import ESTIMATES, CohortResult
from mrscale.store import writer
from mrscale.store.reader import open_store
from mrscale.workflow.cohort_tables import shown_people, shown_total

NUMBER = re.compile(r"(?<![\d.e+=-])\d[\d,]*(?![\d.e])")
"""A whole number that is no bound."""


@pytest.fixture(scope="module")
def result(small_store):
    return mr.estimate(small_store, by="environment", errors="classical")


def with_counts(store_path, tmp_path, north, west=None):
    """The small store with the exposure kept for so many people of the north (and west)."""
    store = open_store(store_path)
    exposure, environment = store.array("exposure"), store.array("environment")
    exposure[np.flatnonzero(environment == 0)[north:]] = np.nan
    if west is not None:
        exposure[np.flatnonzero(environment == 2)[west:]] = np.nan
    path = tmp_path / "few.zarr"
    shutil.copytree(store_path, path)
    writer.write_array(path, "exposure", exposure)
    return open_store(path)


def test_tables_have_the_columns_of_estimates(result):
    for table in (result.estimates, result.by_environment, result.leave_one_environment_out):
        assert tuple(table.columns) == ESTIMATES
    frame = result.to_dataframe()
    assert list(frame.columns) == ["group", *ESTIMATES]
    assert frame["group"].tolist() == [
        "all", *["environment"] * 3, *["meta-analysis"] * 2, *["without"] * 3
    ]  # fmt: skip
    assert frame["num_obs"].tolist()[0] == 900


def test_a_result_is_strict_json(result):
    text = json.dumps(result.to_dict(), allow_nan=False)
    found = json.loads(text)
    assert found["people"] == 900
    assert found["fit"]["estimates"][0]["parameter"] == "exposure"
    assert len(found["per_variant"]) == 30 * 2 * 4
    assert len(found["leave_one_instrument_out"]) == 30
    assert found["leave_one_instrument_out"][0]["first_stage_f"] is None


def test_a_summary_says_what_there_is(result):
    text = result.summary()
    assert text.startswith("exposure -> outcome, genotype instruments, 900 people\n")
    for words in ("north", "random effects", "Between environments (exposure): Q =", "Sargan"):
        assert words in text
    assert repr(result) == text
    assert "Wu-Hausman: F(1, 893)" in text


def test_figures_of_several_exposures_tell_them_apart(small_store, tmp_path):
    path = tmp_path / "s.zarr"
    shutil.copytree(small_store, path)
    exposure = open_store(path).array("exposure")
    noise = np.random.default_rng(0).normal(size=exposure.shape)
    mr.append(path, open_store(path).array("sample_id"), {"exposure": (["bmi"], exposure + noise)})
    found = mr.estimate(path, exposure=["exposure", "bmi"], by="environment")
    for ax in (found.plot_forest(), found.plot_first_stage(), found.plot_leave_one_out()):
        shown = [text.get_text() for text in ax.get_yticklabels() if text.get_text()]
        assert len(shown) == len(set(shown)) >= 6
        assert {name.partition(", ")[0] for name in shown} == {"exposure", "bmi"}


def test_html_is_escaped():
    table = pd.DataFrame(
        [{"label": "<b>x</b>", "exposure": "x", "estimate": 1.0}], columns=list(ESTIMATES)
    )
    found = CohortResult("y", ("x",), "latent", table, notes=("a < b",))._repr_html_()
    assert "<b>" not in found
    assert "a &lt; b" in found


def test_a_result_is_frozen_and_travels(result):
    with pytest.raises(FrozenInstanceError, match="cannot assign"):
        result.people = 3  # type: ignore[misc]
    again = pickle.loads(pickle.dumps(result))
    assert again.summary() == result.summary()
    assert len(pickle.dumps(result)) < 200_000  # of 900 people


@pytest.mark.parametrize("errors", ["classical", "cluster"])
@pytest.mark.parametrize(("north", "west"), [(7, None), (20, 9), (0, None), (285, None)])
def test_no_small_count_is_shown_or_follows(small_store, tmp_path, north, west, errors):
    store = with_counts(small_store, tmp_path, north, west)
    found = mr.estimate(store, by="environment", errors=errors)
    exact, sizes = (np.bincount(e, minlength=3) for e in (used(store), store.array("environment")))
    hidden = {e for e in range(3) if 1 <= exact[e] <= 20 or 1 <= sizes[e] - exact[e] <= 20}
    unions = [c for k in (1, 2, 3) for c in itertools.combinations(range(3), k)]
    texts = [
        json.dumps(found.to_dict()),
        found.to_dataframe().to_string(),
        found.summary(),
        found._repr_html_(),
        *(t.to_string() for t in vars(found).values() if isinstance(t, pd.DataFrame)),
    ]
    shown = {int(n.replace(",", "")) for text in texts for n in NUMBER.findall(text)}
    secret = {int(exact[list(union)].sum()) for union in unions if hidden & set(union)}
    secret -= {int(sizes[list(union)].sum()) for union in unions}
    # up to 31 there are numbers of instruments, blocks and degrees of freedom
    assert not (secret - set(range(32))) & shown
    if hidden:
        assert any("<=" in str(n) for n in found.to_dataframe()["num_obs"])
        assert "<=" in found.summary().splitlines()[0]
    assert "person-" not in "".join(texts)


def used(store):
    """Environments of the people who have the exposure."""
    keep = np.isfinite(store.array("exposure")[:, 0])
    return store.array("environment")[keep]


def test_seven_people_are_at_most_twenty(small_store, tmp_path):
    found = mr.estimate(with_counts(small_store, tmp_path, 7), by="environment")
    table = found.by_environment.set_index("label")
    sizes = np.bincount(open_store(small_store).array("environment"))
    assert table["num_obs"].tolist() == ["<=20", sizes[1], sizes[2]]
    total = f"<={20 + sizes[1] + sizes[2]}"
    assert found.people == total
    assert found.estimates["num_obs"].tolist() == [total]
    without = found.leave_one_environment_out.set_index("label")["num_obs"]
    assert without["north"] == sizes[1] + sizes[2]
    assert without["south"] == f"<={20 + sizes[2]}"
    assert found.meta["num_obs"].tolist() == [sizes[1] + sizes[2]] * 2
    assert set(found.leave_one_instrument_out["num_obs"]) == {total}
    assert found.to_dict()["fit"] is None  # its F and R2 together tell the number


def test_degrees_of_freedom_that_would_tell_are_left_out(small_store, tmp_path):
    store = with_counts(small_store, tmp_path, 7)
    found = mr.estimate(store, by="environment", errors="classical", small_sample=True)
    assert re.search(r"^Wu-Hausman: p = ", found.summary(), re.MULTILINE)
    tables = [found.estimates, found.by_environment, found.leave_one_environment_out]
    for table in [*tables, found.per_variant]:
        hidden = table["num_obs"].map(lambda n: isinstance(n, str))
        assert hidden.any()
        # the interval over the standard error is a quantile of t, which tells N
        for column in {"ci_lower", "ci_upper", "pvalue"} & set(table):
            assert table.loc[hidden, column].isna().all()
            assert table.loc[~hidden, column].notna().all()
    assert mr.estimate(store, by="environment").estimates["ci_lower"].notna().all()


def test_few_without_a_trait_do_not_follow_from_the_size_of_an_environment(small_store, tmp_path):
    sizes = np.bincount(open_store(small_store).array("environment"))
    found = mr.estimate(with_counts(small_store, tmp_path, int(sizes[0]) - 3), by="environment")
    assert found.by_environment["num_obs"].iloc[0] == f"<={sizes[0] - 1}"
    assert found.people == f"<={sizes.sum() - 1}"


def test_counts_control_one_another(small_store):
    store = open_store(small_store)
    sizes = np.bincount(store.array("environment"))
    people = shown_people(store, {0: 0, 1: 30})
    assert [int(n) for n in people.values()] == [0, 30, 0]
    assert shown_total(people) == 30
    people = shown_people(store, {0: 5, 1: int(sizes[1])})
    assert shown_total(people, ["north"]) == "<=20"
    assert shown_total(people, ["south", "west"]) == sizes[1]


def test_an_estimate_that_is_not_there_is_none_in_json(small_store, tmp_path):
    found = mr.estimate(with_counts(small_store, tmp_path, 7), by="environment").to_dict()
    north = next(row for row in found["estimates"] if row["label"] == "north")
    assert north["estimate"] is None
    assert north["num_obs"] == "<=20"
    assert "seven" not in north["note"]
    assert not any(
        isinstance(v, float) and not math.isfinite(v) for row in found["meta"] for v in row.values()
    )
