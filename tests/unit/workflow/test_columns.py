"""Columns that users hand over, whatever holds them."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from numpy.testing import assert_array_equal

from mrscale.errors import InputError
from mrscale.workflow.columns import (
    named_columns,
    named_vector,
    require_choice,
    require_finite,
    require_same_rows,
    require_unique_names,
)

VALUES = np.arange(6.0).reshape(3, 2)


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (VALUES, ["trait_0", "trait_1"]),
        (VALUES.tolist(), ["trait_0", "trait_1"]),
        (da.from_array(VALUES, chunks=1), ["trait_0", "trait_1"]),
        (pd.DataFrame(VALUES), ["trait_0", "trait_1"]),
        (pd.DataFrame(VALUES, columns=["a", "b"]), ["a", "b"]),
        (pd.DataFrame(VALUES, columns=[2020, 2021]), ["2020", "2021"]),
        (pd.DataFrame(VALUES, columns=["a", "b"]).convert_dtypes(), ["a", "b"]),
        (pd.DataFrame({"a": VALUES[:, 0], "b": VALUES[:, 1].astype(int)}), ["a", "b"]),
        (xr.DataArray(VALUES, dims=("samples", "traits")), ["trait_0", "trait_1"]),
        (
            xr.DataArray(VALUES, dims=("samples", "traits"), coords={"traits": ["a", "b"]}),
            ["a", "b"],
        ),
        (VALUES.astype(object), ["trait_0", "trait_1"]),
        (np.ma.masked_array(VALUES), ["trait_0", "trait_1"]),
    ],
)
def test_tables(given, names):
    found = named_columns(given, "trait")
    assert found.names == names
    assert (len(found), found.width, found.kind) == (3, 2, "trait")
    assert_array_equal(np.asarray(found.values), VALUES)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (VALUES[:, 0], "trait"),
        (VALUES[:, :1], "trait"),
        (pd.Series(VALUES[:, 0]), "trait"),
        (pd.Series(VALUES[:, 0], name="bmi"), "bmi"),
        (pd.Series(VALUES[:, 0], name="bmi").astype("category"), "bmi"),
        (pd.DataFrame({"bmi": VALUES[:, 0]}), "bmi"),
        (xr.DataArray(VALUES[:, 0], dims="samples"), "trait"),
        (xr.DataArray(VALUES[:, 0], dims="samples", name="bmi"), "bmi"),
    ],
)
def test_single_columns(given, name):
    found = named_columns(given, "trait")
    assert found.names == [name]
    assert_array_equal(found.values, VALUES[:, :1])


def test_types_are_kept_where_they_are_numbers():
    assert named_columns(np.ones((3, 2), np.int8), "z").values.dtype == np.int8
    assert named_columns(pd.DataFrame(np.ones((3, 2), np.int8)), "z").values.dtype == np.int8
    assert named_columns(np.ones(3, np.float32), "z").values.dtype == np.float32
    assert named_columns(np.ones(3, bool), "z").values.dtype == np.float64
    lazy = named_columns(da.ones((3, 2), dtype=np.uint8), "z").values
    assert isinstance(lazy, da.Array)
    assert lazy.dtype == np.uint8


def test_missing_values_of_any_kind_are_nan():
    for given in (
        pd.Series([1, None, 3], dtype="Int64"),
        pd.Series([True, None, False], dtype="boolean").to_frame(),
        pd.Series([1.0, np.nan, 3.0]),
        np.ma.masked_array([1, 2, 3], mask=[False, True, False]),
        np.array([1, None, 3], dtype=object),
        np.array([1, pd.NA, 3], dtype=object),
        da.from_array(np.ma.masked_array([1, 2, 3], mask=[False, True, False]), chunks=2),
    ):
        found = np.asarray(named_columns(given, "z").values)
        assert_array_equal(np.isnan(found[:, 0]), [False, True, False])


@pytest.mark.parametrize(
    "given",
    [
        ["a", "b"],
        ["1", "2"],
        pd.Series(["1", "2"]),
        pd.Series(["1", "2"], dtype="category"),
        pd.DataFrame({"x": [1.0, 2.0], "y": ["1", "2"]}),
        pd.to_datetime(pd.Series(["2020-01-01", "2020-01-02"])),
        np.array([1 + 1j, 2]),
        [[1, 2], [3]],
        np.array([object(), object()]),
        da.from_array(np.array(["1", "2"]), chunks=1),
        xr.Dataset({"x": ("samples", [1.0, 2.0])}),
        [10**400, 1],
    ],
)
def test_what_is_no_number_is_refused(given):
    with pytest.raises(InputError, match="age must be numbers; found text, dates or mixed"):
        named_columns(given, "age")


def test_missing_calls_of_a_store_are_missing():
    calls = np.array([[0, -1], [2, 1]], dtype=np.int8)
    for held in (calls, da.from_array(calls, chunks=1)):
        opened = xr.DataArray(held, dims=("samples", "variants"), name="call_dosage")
        found = np.asarray(named_columns(opened, "instrument").values)
        assert_array_equal(found, [[0, np.nan], [2, 1]])
        # -1 of any other array is a number
        other = named_columns(opened.rename("change"), "instrument")
        assert_array_equal(np.asarray(other.values), calls)


def test_other_shapes_are_refused():
    with pytest.raises(InputError, match=r"one column or a table.*shape \(<=20, 3, 3\)"):
        named_columns(np.ones((3, 3, 3)), "z")
    with pytest.raises(InputError, match=r"found an array of shape \(\)"):
        named_columns(3.0, "z")
    unknown = da.ones((30, 2), chunks=10)
    unknown = unknown[unknown[:, 0] > 0]
    with pytest.raises(InputError, match=r"shape \(unknown, 2\).*compute_chunk_sizes"):
        named_columns(unknown, "z")


def test_vectors_may_be_text_and_lazy():
    labels = ["x", "y", "x"]
    for given in (labels, pd.Series(labels), xr.DataArray(labels, dims="samples")):
        assert list(named_vector(given, "clusters").values) == labels
    assert list(named_vector(da.arange(3, chunks=2), "clusters").values) == [0, 1, 2]
    with pytest.raises(InputError, match=r"clusters must be one column.*\(<=20, 2\)"):
        named_vector(VALUES, "clusters")


def test_rows_must_match_in_number_and_in_labels():
    people = ["p1", "p2", "p3"]
    x = named_columns(pd.Series([1.0, 2, 3], people), "exposure")
    same = named_columns(pd.DataFrame(VALUES, people), "covariate")
    plain = named_columns(VALUES, "instrument")
    unlabelled = named_columns(pd.Series([1.0, 2, 3]), "outcome")
    require_same_rows([unlabelled, x, same, plain])
    turned = named_columns(pd.DataFrame(VALUES, people[::-1]), "covariate")
    with pytest.raises(InputError, match=r"exposure and covariate must have the same people") as no:
        require_same_rows([unlabelled, x, plain, turned])
    assert "p1" not in str(no.value)
    labelled = xr.DataArray(VALUES, dims=("samples", "k"), coords={"samples": people[::-1]})
    with pytest.raises(InputError, match="row labels"):
        require_same_rows([x, named_columns(labelled, "covariate")])
    filtered = named_columns(pd.Series([1.0, 2, 3], [0, 2, 5]), "outcome")
    with pytest.raises(InputError, match="outcome and exposure must have the same people"):
        require_same_rows([filtered, x])
    shuffled = named_columns(pd.DataFrame(VALUES, [2, 0, 1]), "covariate")
    require_same_rows([plain, shuffled])
    with pytest.raises(InputError, match="outcome and covariate must have the same people"):
        require_same_rows([unlabelled, plain, shuffled])
    counted = named_columns(pd.DataFrame(VALUES, pd.Index([0, 1, 2], dtype="Int64")), "covariate")
    require_same_rows([unlabelled, counted])
    text = named_columns(pd.Series([1.0, 2, 3], pd.Index(people, dtype="string")), "outcome")
    require_same_rows([x, text])
    with pytest.raises(
        InputError, match=r"one row per person each; found <=20 rows and another number"
    ):
        require_same_rows([x, named_columns(np.ones(30), "outcome")])


def test_names_must_be_unique():
    require_unique_names(["a", "b"])
    with pytest.raises(InputError, match="found a, b more than once; rename"):
        require_unique_names(["a", "b", "a", "c", "b"])


def test_columns_with_missing_values_are_named_up_to_five():
    part = named_columns(pd.DataFrame(np.ones((2, 8)), columns=list("abcdefgh")), "covariate")
    require_finite(part, np.ones(8), "fill them")
    sums = np.where(np.arange(8) > 1, np.nan, 1.0)
    with pytest.raises(InputError, match=r"in 6 of 8 columns \(c, d, e, f, g\); fill them"):
        require_finite(part, sums, "fill them")


def test_options_that_are_near_are_named():
    require_choice("errors", "robust", ["classical", "robust"])
    with pytest.raises(InputError, match=r"errors must be one of .*; did you mean 'robust'\?"):
        require_choice("errors", "robst", ["classical", "robust"])
    with pytest.raises(InputError, match=r"found 'zzz'$"):
        require_choice("errors", "zzz", ["classical", "robust"])
