"""Families from pairs of relatives and from names."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest

from mrscale.errors import InputError
from pipelines.relatives import cluster_codes, family_codes, read_kinship

HEADERS = [
    ("i.s", "j.s", "kin"),
    ("ID1", "ID2", "Kinship"),
    ("IID1", "IID2", "KINSHIP"),
    ("#IID1", "IID2", "KINSHIP"),
    ("sample_id_1", "sample_id_2", "kinship"),
]


def text(*values):
    return pd.Series(values, dtype="string")


@pytest.mark.parametrize("header", HEADERS)
def test_pairs_above_the_threshold(tmp_path, header):
    rows = [("01", "02", 0.25), ("01", "03", 0.05), ("04", "05", 0.0884), ("06", "07", None)]
    pd.DataFrame(rows, columns=header).to_csv(tmp_path / "k.kin0", sep="\t", index=False)
    found = read_kinship(tmp_path / "k.kin0", 0.0884)
    assert found.to_numpy().tolist() == [["01", "02"], ["04", "05"]]


def test_family_columns_of_king_are_not_taken_for_ids(tmp_path):
    (tmp_path / "k.kin0").write_text("FID1 ID1 FID2 ID2 Kinship\n9 01 9 02 0.2\n")
    assert read_kinship(tmp_path / "k.kin0", 0.1).to_numpy().tolist() == [["01", "02"]]


@pytest.mark.parametrize("header", ["i.s,j.s", "01,02,0.25", "a,b,kin"])
def test_a_table_without_pairs_is_refused(tmp_path, header):
    (tmp_path / "k.csv").write_text(header + "\n")
    with pytest.raises(
        InputError, match=r"not a table of kinship: expected columns i\.s, j\.s and"
    ):
        read_kinship(tmp_path / "k.csv", 0.1)


def test_kinship_must_be_numbers(tmp_path):
    (tmp_path / "k.csv").write_text("i.s,j.s,kin\n01,02,PLANTED\n")
    with pytest.raises(
        InputError, match=r"column 'kin' .* has cells that are not numbers"
    ) as error:
        read_kinship(tmp_path / "k.csv", 0.1)
    assert "PLANTED" not in str(error.value)


def test_families_are_connected_components_of_pairs_and_names():
    sample = text("a", "b", "c", "d", "e", "f", "g")
    names = text(None, "x", "x", None, None, "alone", None)
    pairs = pd.DataFrame({"first": ["c", "d", "e", "g"], "second": ["a", "absent", "absent", "g"]})
    found = family_codes(sample, names, pairs)
    np.testing.assert_array_equal(found, [0, 0, 0, -1, -1, -1, -1])
    assert found.dtype == np.int32


def test_someone_outside_the_study_connects_nobody():
    pairs = pd.DataFrame({"first": ["a", "b"], "second": ["out", "out"]})
    assert family_codes(text("a", "b"), text(None, None), pairs).tolist() == [-1, -1]


def test_a_kinship_table_of_other_people_is_warned_of(caplog):
    sample = text(*[f"{i:07d}" for i in range(30)])
    others = [f"P{i}" for i in range(100, 130)]
    pairs = pd.DataFrame({"first": others, "second": others})
    with caplog.at_level(logging.WARNING):
        family_codes(sample, text(*[None] * 30), pairs)
    assert "'P' + 3 digits, those of the study 7 digits" in caplog.text
    assert not any(one in caplog.text for one in [*sample, *others])


def test_clusters_are_coded_by_name_and_missing_ones_stand_alone():
    assert cluster_codes(text("b", None, "a", "b")).tolist() == [1, -1, 0, 1]


def test_the_family_named_zero_is_none():
    assert family_codes(text("a", "b", "c"), text("0", "0", None), None).tolist() == [-1, -1, -1]


def test_a_family_too_large_for_folds_is_warned_of(caplog):
    sample = text(*[f"{i:03d}" for i in range(200)])
    family_codes(sample, text(*["one"] * 20, *[None] * 180), None)
    assert not caplog.records
    family_codes(sample, text(*["one"] * 30, *[None] * 170), None)
    assert "one family has more than 10 % of all people" in caplog.text
