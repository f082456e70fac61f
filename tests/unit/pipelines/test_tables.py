"""Reading tables: separators, compression, ids as text."""

from __future__ import annotations

import gzip

import pandas as pd
import pytest

from mrscale.errors import InputError
from pipelines.tables import read_table, require_columns

TABLE = pd.DataFrame({"person_id": ["007", "010"], "bmi": [21.5, 30.0]})


@pytest.mark.parametrize("sep", ["\t", ",", ";", " "])
def test_separators_and_leading_zeros(tmp_path, sep):
    TABLE.to_csv(tmp_path / "t.txt", sep=sep, index=False)
    found = read_table(tmp_path / "t.txt", text=["person_id"])
    assert found["person_id"].tolist() == ["007", "010"]
    assert found["bmi"].tolist() == [21.5, 30.0]


def test_gzip_is_recognised_whatever_the_name(tmp_path):
    text = TABLE.to_csv(sep="\t", index=False)
    (tmp_path / "t.tsv.bgz").write_bytes(gzip.compress(text.encode()))
    assert read_table(tmp_path / "t.tsv.bgz", text=["person_id"])["person_id"][0] == "007"


@pytest.mark.parametrize("ids", [[1001, 1002], [1001.0, None], ["1001", None]])
def test_parquet_ids_become_text(tmp_path, ids):
    pd.DataFrame({"person_id": ids, "bmi": [1.0, 2.0]}).to_parquet(tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet", text=["person_id"])["person_id"][0] == "1001"


def test_no_such_file(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_table(tmp_path / "none.tsv")


def test_not_a_table(tmp_path):
    (tmp_path / "t.parquet").write_bytes(b"nonsense")
    with pytest.raises(InputError, match=r"t\.parquet cannot be read as a table"):
        read_table(tmp_path / "t.parquet")


def test_an_absent_column_names_the_nearest():
    with pytest.raises(InputError, match=r"no column 'person'; did you mean 'person_id'\?"):
        require_columns(TABLE, ["bmi", "person"], file="t.tsv")
