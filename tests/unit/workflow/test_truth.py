"""The truth of a simulation: read early, in the store's order, or refused in one sentence."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from mrscale.errors import InputError
from mrscale.study_file import parse_study
from mrscale.workflow.preview import preview_run
from mrscale.workflow.study import run
from mrscale.workflow.truth import Truth, true_latents


@pytest.mark.parametrize("content", ["{}", "[]", "not json", '{"effect": 1, "latents": 2}'])
def test_a_truth_that_is_none_is_refused(tmp_path, content):
    (tmp_path / "truth.json").write_text(content)
    with pytest.raises(InputError, match=r"\[simulation\] truth must be a truth\.json"):
        Truth.load(str(tmp_path / "truth.json"))


def test_an_absent_truth_is_refused_before_anything_is_done(tmp_path):
    truth = tmp_path / "truth.json"
    asked = parse_study({"run": str(tmp_path / "run"), "simulation": {"truth": str(truth)}})
    with pytest.raises(InputError, match=r"no such file .*remove the section"):
        run(asked, quiet=True)
    latents = {"file": "latents.parquet", "exogenous": ["z_i_1"]}
    truth.write_text(json.dumps({"effect": 1, "latents": latents}))
    for refused in (lambda: run(asked, quiet=True), lambda: preview_run(asked)):
        with pytest.raises(InputError, match=r"latents\.parquet must lie beside .*copy it there"):
            refused()
    assert not (tmp_path / "run").exists()


def test_latents_without_the_columns_of_the_truth_are_refused(small, tmp_path):
    file = tmp_path / "latents.parquet"
    pd.DataFrame({"person_id": small.array("sample_id"), "other": 1.0}).to_parquet(file)
    with pytest.raises(InputError, match=r"latents\.parquet has not the columns that it names"):
        true_latents(small, file, ["z_i_1"])


def test_latents_of_other_people_are_refused_without_an_id(small, tmp_path):
    people = small.array("sample_id")
    table = pd.DataFrame({"person_id": people[30:], "z": 0.5})
    table.to_parquet(tmp_path / "latents.parquet")
    with pytest.raises(InputError, match=r"but 30 of them are not in latents\.parquet") as caught:
        true_latents(small, tmp_path / "latents.parquet", ["z"])
    assert "person-" not in str(caught.value)
