"""Traits: numbers, codes of missing values, and what is refused."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest

from mrscale.config import People, Traits
from mrscale.errors import InputError
from pipelines.traits import read_traits

IDS = [f"{i:07d}" for i in range(30)]


def traits(tmp_path, columns, *, parquet=False, **people):
    path = tmp_path / "people"
    frame = pd.DataFrame({"person_id": IDS[: len(next(iter(columns.values())))]} | columns)
    frame.to_parquet(path) if parquet else frame.to_csv(path, sep="\t", index=False)
    names = {"exposure": [name for name in columns if name != "person_id"]}
    return read_traits(People(phenotypes=str(path), **people), Traits(**names))


def test_traits_alone_need_no_environment(tmp_path):
    found = traits(tmp_path, {"bmi": [20.5, None, 31.0], "age": [50, 60, 70]})
    assert found.sample_id.tolist() == IDS[:3]
    names, values = found.values["exposure"]
    assert names == ("bmi", "age")
    np.testing.assert_array_equal(values, np.float32([[20.5, 50], [np.nan, 60], [31, 70]]))
    assert values.dtype == np.float32
    assert found.values["outcome"][0] == ()
    assert found.values["outcome"][1].shape == (3, 0)


@pytest.mark.parametrize("parquet", [False, True])
def test_codes_of_missing_values(tmp_path, parquet):
    cells = ["-9", "-9.0", "-9e0", "NA_custom", " NA ", "", "-99", "9", "1.5"]
    found = traits(tmp_path, {"bmi": cells}, parquet=parquet, missing_values=["-9.00", "NA_custom"])
    expected = np.float32([np.nan] * 6 + [-99, 9, 1.5])
    np.testing.assert_array_equal(found.values["exposure"][1][:, 0], expected)


def test_a_code_that_single_precision_rounds(tmp_path):
    columns = {"bmi": np.float32([-99.9, 20, 30])}
    found = traits(tmp_path, columns, parquet=True, missing_values="-99.9")
    np.testing.assert_array_equal(np.isnan(found.values["exposure"][1][:, 0]), [True, False, False])


def test_a_code_is_not_taken_for_an_id(tmp_path):
    found = traits(tmp_path, {"person_id": ["-9", "0"], "bmi": [1.0, 2.0]}, missing_values="-9")
    assert found.sample_id.tolist() == ["-9", "0"]


BAD = {
    "text": ({"bmi": ["PLANTED", "1"]}, "exposure 'bmi' has cells that are not numbers.*missing_v"),
    "infinite": ({"bmi": ["1", "inf"]}, "'bmi' has infinite values"),
    "too large": ({"bmi": ["1", "1e300"]}, "'bmi' has infinite values"),
    "missing": ({"bmi": ["NA", ""]}, "'bmi' is missing for everyone"),
    "twice": ({"person_id": ["PLANTED"] * 2, "bmi": [1, 2]}, "<=20 rows repeat an id of column"),
}


@pytest.mark.parametrize(("columns", "message"), BAD.values(), ids=BAD)
def test_bad_traits_are_refused(tmp_path, columns, message):
    with pytest.raises(InputError, match=message) as caught:
        traits(tmp_path, columns)
    assert "PLANTED" not in str(caught.value)


def test_no_traits_are_refused():
    with pytest.raises(InputError, match="needs a table of people and the names of some columns"):
        read_traits(People(phenotypes="people.tsv"), Traits())


SENTINELS = {
    "bmi -9": ([21, 35, -9], -9),
    "bmi 999": ([21, 35, 999], 999),
    "binary 9": ([0, 1, 9], 9),
    "binary -9": ([1, 2, -9], -9),
    "year 9999": ([1920, 1999, 9999], 9999),
    "age 99": ([20, 98, 99], None),
    "count 9": ([0, 8, 9], None),
    "score -9": ([-8, 12, -9], None),
    "all codes": ([9, 9, -9], None),
    "standardised -9": ([-4.9, *(0.4 * i for i in range(20)), *[-9] * 4], -9),
    "whole numbers, -9 no rarer": ([-8, *[-9] * 4, *[0, 3, 9] * 5], None),
}


@pytest.mark.parametrize(("values", "code"), SENTINELS.values(), ids=SENTINELS)
def test_what_seems_to_be_a_code_is_warned_of(tmp_path, caplog, values, code):
    with caplog.at_level(logging.WARNING):
        traits(tmp_path, {"x": values})
    expected = [] if code is None else [f"exposure 'x' seems to hold {code} for missing values"]
    assert [r.getMessage().split(";")[0] for r in caplog.records] == expected
