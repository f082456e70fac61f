"""Appended traits: visible all at once, to every reader, and nothing else changes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pandas as pd
import pytest

from mrscale import places
from mrscale.errors import InputError, StoreError
from mrscale.store import append as appending
from mrscale.store.append import append
from mrscale.store.reader import open_dataset, open_store
from mrscale.store.verify import verify


@pytest.fixture(params=["local", "memory"])
def place(request, tmp_path, values, write):
    path = str(tmp_path / "s") if request.param == "local" else f"memory://{tmp_path.name}/s"
    write(path, values)
    return path


@pytest.fixture
def traits():
    rng = np.random.default_rng(11)
    return {
        "exposure": (["bmi", "height"], rng.normal(size=(150, 2)).astype(np.float32)),
        "covariate": (["PC1"], rng.normal(size=(150, 1)).astype(np.float32)),
    }


def test_appended_traits_come_after_the_others_in_every_reader(place, values, traits):
    before = open_store(place)
    order = np.random.default_rng(2).permutation(150)[:140]
    table = {kind: (names, matrix[order]) for kind, (names, matrix) in traits.items()}
    done = append(place, values["sample_id"][order], table, provenance={"people": "f"})
    assert (done.num_absent, done.is_new) == (10, True)
    store = open_store(place)
    expected = np.full((150, 2), np.nan, dtype=np.float32)
    expected[order] = traits["exposure"][1][order]
    assert store.names("exposures") == ["exposures-0", "bmi", "height"]
    assert store.names("outcomes") == ["outcomes-0", "outcomes-1"]
    exposure = np.concatenate([values["exposure"], expected], axis=1)
    np.testing.assert_array_equal(store.array("exposure"), exposure)
    np.testing.assert_array_equal(store.array("exposure", slice(60, 70)), exposure[60:70])
    np.testing.assert_array_equal(store.array("outcome"), values["outcome"])
    assert store.array("covariate").shape == (150, 1)
    dataset = open_dataset(place)
    np.testing.assert_array_equal(dataset["exposure"].values, exposure)
    assert dataset["exposures"].values.tolist() == ["exposures-0", "bmi", "height"]
    assert dataset["covariates"].values.tolist() == ["PC1"]
    np.testing.assert_array_equal(dataset["call_dosage"].values, values["call_dosage"])
    assert dataset["exposure"].chunks
    assert store.genotype_digest == before.genotype_digest
    assert store.digest != before.digest
    # whoever opened it before the append still reads what it was
    np.testing.assert_array_equal(before.array("exposure"), values["exposure"])
    verify(place)


def test_the_ids_of_an_open_dataset_are_taken(place, values, traits):
    ids = open_dataset(place)["sample_id"]
    assert append(place, ids, traits).num_absent == 0
    np.testing.assert_array_equal(open_store(place).array("exposure")[:, 1:], traits["exposure"][1])


def test_the_same_content_again_is_nothing_to_do(place, values, traits):
    first = append(place, values["sample_id"], traits)
    files = places.files(place)
    again = append(
        place, values["sample_id"][::-1], {k: (n, m[::-1]) for k, (n, m) in traits.items()}
    )
    assert not again.is_new
    assert again.store.manifest == first.store.manifest
    assert places.files(place) == files


def test_many_appends_one_after_another_and_at_once(place, values):
    append(place, values["sample_id"], {"outcome": (["y"], np.zeros((150, 1)))})
    barrier = Barrier(6)

    def add(index):
        barrier.wait()
        table = {"exposure": ([f"x{index // 2}"], np.full((150, 1), index // 2))}
        return append(place, values["sample_id"], table).is_new

    with ThreadPoolExecutor(6) as pool:
        new = list(pool.map(add, range(6)))
    store = open_store(place)
    assert sum(new) == 3
    assert store.manifest["version"] == 5
    names = store.names("exposures")
    assert sorted(names) == ["exposures-0", "x0", "x1", "x2"]
    for column, name in enumerate(names[1:], start=1):
        assert (store.array("exposure")[:, column] == int(name[1])).all()
    verify(place)


def test_a_name_that_is_taken_is_refused(place, values, traits):
    append(place, values["sample_id"], traits)
    files = places.files(place)
    for name in ("bmi", "exposures-0"):
        for kind in ("exposure", "outcome"):
            with pytest.raises(InputError, match=f"the store has the exposure '{name}' already"):
                append(place, values["sample_id"], {kind: ([name], np.zeros((150, 1)))})
    assert places.files(place) == files


def test_a_killed_append_is_invisible_and_can_be_repeated(place, values, traits, monkeypatch):
    before = open_store(place)

    class KilledError(Exception):
        pass

    def die(*_):
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(appending.zarrs, "consolidate", die)
        with pytest.raises(KilledError):
            append(place, values["sample_id"], traits)
    assert open_store(place) == before
    assert open_dataset(place).sizes["exposures"] == 1
    verify(place)
    assert append(place, values["sample_id"], traits).is_new
    verify(place)


@pytest.mark.parametrize(
    ("ids", "table", "message"),
    [
        (
            ["a", "b"],
            {"exposure": (["x"], np.zeros((2, 1)))},
            r"no id of the table \(<=20 people\)",
        ),
        (
            ["a", "a"],
            {"exposure": (["x"], np.zeros((2, 1)))},
            "<=20 rows of the table repeat an id",
        ),
        ([], {"exposure": (["x"], np.zeros((0, 1)))}, r"no id of the table \(0 people\)"),
        (["sample_id-0"], {"exposure": ([], np.zeros((1, 0)))}, "give at least one exposure"),
        (["sample_id-0"], {"outcome": (["x", "x"], np.zeros((1, 2)))}, "one is given twice"),
        (
            ["sample_id-0"],
            {"outcome": (["x"], np.zeros((1, 1))), "covariate": (["x"], np.zeros((1, 1)))},
            "one is given twice",
        ),
        (["sample_id-0"], {"outcome": (["x"], np.full((1, 1), np.inf))}, "has infinite values"),
        (
            ["sample_id-0"],
            {"outcome": (["x"], np.zeros((2, 1)))},
            r"\(1\); found other rows",
        ),
        (["sample_id-0"], {"outcome": (["x"], np.zeros(1))}, "found other columns"),
        (
            ["sample_id-0"],
            {"outcome": (["x", "y"], np.zeros((1, 1)))},
            r"\(2\); found other columns",
        ),
        (["sample_id-0"], {"outcome": ("x", np.zeros((1, 1)))}, "must be a list; found 'x'"),
        (["sample_id-0"], {"outcomes": (["x"], np.zeros((1, 1)))}, "found 'outcomes'"),
        (["sample_id-0"], {"outcome": ([5], np.zeros((1, 1)))}, "must be text; found 5"),
        (["sample_id-0"], {"outcome": ([""], np.zeros((1, 1)))}, "must be text; found ''"),
        (["sample_id-0"], {"outcome": (["x"], np.array([["much"]]))}, "outcome must be numbers"),
        (["sample_id-0"], {"outcome": pd.DataFrame({"x": [0.0]})}, "as a pair: the names"),
        (
            ["sample_id-0", "sample_id-1"],
            {"outcome": (["x"], pd.DataFrame({"x": [0.0, 1]}, ["sample_id-1", "sample_id-0"]))},
            "are the ids in another order",
        ),
    ],
)
def test_a_table_that_does_not_fit_is_refused(store, ids, table, message):
    before = places.files(store)
    with pytest.raises(InputError, match=message):
        append(store, np.array(ids, dtype=str), table)
    assert places.files(store) == before


def test_what_is_masked_is_missing(store):
    table = np.ma.masked_less(np.array([[-1.0], [2.0]]), 0)
    ids = ["sample_id-0", "sample_id-1"]
    found = append(store, ids, {"outcome": (pd.Index(["masked"]), table)}).store
    column = found.array("outcome")[:, found.names("outcomes").index("masked")]
    by_id = dict(zip(found.array("sample_id"), column, strict=True))
    assert np.isnan(by_id["sample_id-0"])
    assert by_id["sample_id-1"] == 2


def test_only_a_finished_store_can_be_appended_to(tmp_path):
    with pytest.raises(StoreError, match="there is no genotype store at"):
        append(tmp_path / "none", np.array(["a"]), {"exposure": (["x"], np.zeros((1, 1)))})
