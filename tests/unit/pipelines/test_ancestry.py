"""The workbench's table of ancestry: labels, components, strict lists."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mrscale.errors import InputError
from pipelines.ancestry import read_ancestry

FEATURES = ["[0.1, -2e-3]", "[1,2]", None]


def write(path, features=FEATURES, ids=("001", "002", "003"), column="research_id"):
    pd.DataFrame(
        {
            column: ids,
            "ancestry_pred": ["afr", "eur", "eur"],
            "probabilities": ["[1.0, 0.0]"] * 3,
            "pca_features": features,
            "ancestry_pred_other": ["afr", "eur", "oth"],
        }
    ).to_csv(path, sep="\t", index=False)
    return path


@pytest.mark.parametrize("column", ["research_id", "s", "eid"])
def test_labels_and_components(tmp_path, column):
    file = write(tmp_path / "a.tsv", column=column)
    found = read_ancestry(file, ["ancestry_pred", "PC2"], "eid")
    assert found.index.tolist() == ["001", "002", "003"]
    assert found["ancestry_pred_other"].tolist() == ["afr", "eur", "oth"]
    np.testing.assert_array_equal(
        found[["PC1", "PC2"]].to_numpy(), [[0.1, -0.002], [1, 2], [np.nan, np.nan]]
    )


def test_components_are_not_parsed_for_nothing(tmp_path):
    file = write(tmp_path / "a.tsv", features=["broken"] * 3)
    assert "PC1" not in read_ancestry(file, ["ancestry_pred"], "eid")


BAD = ["0.1, 0.2", "[0.1, __import__('os')]", "[0.1]", "[]", "[0.1, nan]", "[0.1, 0.2", "[[1, 2]]"]


@pytest.mark.parametrize("cell", BAD)
def test_what_is_no_list_of_numbers_is_refused_by_count(tmp_path, cell):
    file = write(tmp_path / "a.tsv", features=["[1, 2]", "[3, 4]", cell])
    with pytest.raises(InputError, match=r"<=20 rows of pca_features.*lists of 2 finite") as caught:
        read_ancestry(file, ["PC1"], "eid")
    assert cell not in str(caught.value)


def test_only_bad_lists(tmp_path):
    with pytest.raises(InputError, match=r"<=20 rows of pca_features.*lists of finite numbers"):
        read_ancestry(write(tmp_path / "a.tsv", features=["x"] * 3), ["PC1"], "eid")


def test_nobody_with_components(tmp_path):
    found = read_ancestry(write(tmp_path / "a.tsv", features=[None] * 3), ["PC1"], "eid")
    assert found.columns.tolist() == ["ancestry_pred", "ancestry_pred_other"]


def test_a_person_twice_is_refused(tmp_path):
    file = write(tmp_path / "a.tsv", ids=["PLANTED"] * 3)
    with pytest.raises(InputError, match="repeat an id of the table of ancestry") as caught:
        read_ancestry(file, [], "eid")
    assert "PLANTED" not in str(caught.value)


def test_no_column_of_ids(tmp_path):
    file = write(tmp_path / "a.tsv", column="who")
    with pytest.raises(InputError, match="has no column of ids; expected eid or one of"):
        read_ancestry(file, [], "eid")
