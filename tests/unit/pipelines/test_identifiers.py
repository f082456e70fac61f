"""Ids: which column holds them, lists of them, and how they are described without naming one."""

from __future__ import annotations

import gzip

import pandas as pd
import pytest

from mrscale.errors import InputError
from pipelines.identifiers import describe_ids, read_ids

MANY = range(1, 31)
FORMS = {
    "7 digits": [f"{i:07d}" for i in MANY],
    "'prefix_' + 7 digits": [f"prefix_{i:07d}" for i in MANY],
    "digits": [str(i) for i in MANY],
    "'NA' + 5 digits": [f"NA{i:05d}" for i in MANY],
    "2 letters + 2 digits": [f"{'NA' if i % 2 else 'HG'}{i:02d}" for i in MANY],
    "2 digits + '_' + 2 digits": [f"{i:02d}_{i:02d}" for i in MANY],
    "of mixed form": ["a1", *[str(i) for i in MANY]],
    "too few to describe": ["0001"] * 20,
    "absent": [],
}


@pytest.mark.parametrize(("form", "ids"), FORMS.items(), ids=FORMS)
def test_ids_are_described_by_what_all_have_in_common(form, ids):
    expected = form.replace("'prefix_'", "'prefix' + '_'")
    assert describe_ids(ids) == expected


@pytest.mark.parametrize("column", ["research_id", "sample_id", "sample_id.s", "s", "person_id"])
def test_ids_of_a_table(tmp_path, column):
    pd.DataFrame({"x": [1, 2, 3], column: ["007", "010", "007"]}).to_csv(
        tmp_path / "t.tsv", sep="\t", index=False
    )
    assert read_ids(tmp_path / "t.tsv", "person_id").tolist() == ["007", "010"]


def test_the_study_name_of_the_column_comes_first(tmp_path):
    (tmp_path / "t.csv").write_text("s,eid\n1,007\n")
    assert read_ids(tmp_path / "t.csv", "eid").tolist() == ["007"]


def test_a_table_with_one_column_and_a_header(tmp_path):
    (tmp_path / "t.tsv").write_text("s\n007\n")
    assert read_ids(tmp_path / "t.tsv", "person_id").tolist() == ["007"]


def test_a_plain_list(tmp_path):
    (tmp_path / "withdrawn.txt.gz").write_bytes(gzip.compress(b"007\n010\n\n"))
    assert read_ids(tmp_path / "withdrawn.txt.gz", "person_id").tolist() == ["007", "010"]


def test_a_parquet_file_of_one_column(tmp_path):
    pd.DataFrame({"withdrawn": ["007", "010", None]}).to_parquet(tmp_path / "w.parquet")
    assert read_ids(tmp_path / "w.parquet", "person_id").tolist() == ["007", "010"]


def test_an_empty_list(tmp_path):
    (tmp_path / "nobody.txt").write_text("")
    assert len(read_ids(tmp_path / "nobody.txt", "person_id")) == 0


def test_several_columns_without_ids_are_refused(tmp_path):
    (tmp_path / "t.txt").write_text("1000001 1000001\n1000002 1000002\n")
    with pytest.raises(InputError, match="has no column of ids; expected person_id or") as caught:
        read_ids(tmp_path / "t.txt", "person_id")
    assert "100000" not in str(caught.value)
