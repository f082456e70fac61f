"""``result.json`` and ``estimates.tsv``: whole, strict JSON, and read back equal."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mrscale.disclosure import show_count
from mrscale.errors import RunError
from mrscale.report import export, load_result, write_report
from mrscale.results import StudyResult


def _normal(result: StudyResult) -> str:
    return repr(export.to_json(result))


def test_round_trip_is_equal(study: StudyResult, tmp_path: Path) -> None:
    paths = write_report(study, tmp_path / "run")
    read = load_result(paths["result"])
    assert _normal(read) == _normal(study)
    assert read.pairs[0].diagnostics[:3] == study.pairs[0].diagnostics[:3]
    assert replace(read, pairs=()) == replace(study, pairs=())
    assert read.pairs[1].anderson_rubin == ((-math.inf, -1.2), (0.1, math.inf))
    assert math.isnan(read.pairs[1]["flow_controls"].estimate)
    assert read.pairs[0]["flow_controls"] == study.pairs[0]["flow_controls"]
    assert math.isnan(read.pairs[0]["ols"].j_pvalue)
    assert sorted(p.name for p in paths.values()) == sorted(
        p.name for p in (tmp_path / "run").iterdir()
    )


def test_json_is_strict_and_nan_is_null(study: StudyResult) -> None:
    raw = export.to_json(replace(study, encoders={"flow": {"q": np.float32(math.nan), "d": (1,)}}))
    json.dumps(raw, allow_nan=False)
    assert raw["pairs"][0]["estimates"][0]["first_stage_f"] is None
    assert raw["pairs"][1]["anderson_rubin"] == [["-inf", -1.2], [0.1, "inf"]]
    assert raw["encoders"]["flow"] == {"q": None, "d": [1]}


def test_suppressed_counts_survive_the_round_trip(study: StudyResult, tmp_path: Path) -> None:
    small = replace(
        study,
        environments={"a": 19_989, "b": 11},
        people={"kept": 20_000, "dropped": 3},
        encoders={},
    )
    paths = write_report(small, tmp_path)
    read = load_result(paths["result"])
    assert show_count(read.environments["b"]) == "<=20"
    assert show_count(read.num_people) == "<=20,009"
    before = {k: p.read_bytes() for k, p in paths.items()}
    write_report(read, tmp_path)
    assert {k: p.read_bytes() for k, p in paths.items()} == before
    assert b'"b": "<=20"' in before["result"]


def test_estimates_table_suppresses_people(study: StudyResult) -> None:
    few = replace(study.pairs[0].estimates[0], num_obs=9)
    small = replace(study, pairs=(replace(study.pairs[0], estimates=(few,), headline="ols"),))
    table = pd.read_csv(io.StringIO(export.estimates_tsv(small)), sep="\t")
    assert table["num_obs"].tolist() == ["<=20"]
    assert table["headline"].tolist() == [True]
    assert table["first_stage_f"].isna().all()


def test_no_result_is_explained(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="run the estimate verb first"):
        load_result(tmp_path / "result.json")


@pytest.mark.parametrize("text", ["{", "[]", '{"schema_version": "1.1"}'])
def test_damaged_result_is_explained(tmp_path: Path, text: str) -> None:
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(RunError, match=r"must be a result\.json as mrscale writes it"):
        load_result(tmp_path / "result.json")


def test_other_schema_version_is_refused(study: StudyResult) -> None:
    with pytest.raises(RunError, match=r"schema version '1\.1' and has '9'"):
        export.from_json(export.to_json(study) | {"schema_version": "9"})


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("num_people",), None),
        (("variants", "kept"), "many"),
        (("pairs", 0, "headline"), "no such estimate"),
        (("pairs", 0, "trust"), "blue"),
        (("pairs", 0, "truth"), "0.3 or so"),
        (("pairs", 0, "estimates", 0, "label"), 3),
        (("pairs", 0, "estimates", 0, "estimate"), 10**400),
        (("pairs", 0, "anderson_rubin"), [[0.1, 0.2, 0.3]]),
        (("pairs", 0, "diagnostics", 0, "verdict"), "perhaps"),
        (("encoders", "flow", "folds", 0, "history"), [[1.0, 2.0]]),
        (("encoders", "flow", "folds", 0, "best_step"), None),
        (("encoders", "flow", "factors"), None),
        (("encoders", "flow", "profile", "latent", "mean"), [["a"]]),
        (("encoders", "flow", "profile", "latent", "mean"), [[0.1], [0.1, 0.2]]),
        (("encoders", "flow", "profile", "remainder", "deviation"), [[1.0]]),
    ],
)
def test_result_that_no_page_could_be_made_of_is_refused(
    study: StudyResult, tmp_path: Path, where: tuple[str | int, ...], value: Any
) -> None:
    raw = export.to_json(study)
    inside: Any = raw
    for key in where[:-1]:
        inside = inside[key]
    assert inside[where[-1]] != value
    inside[where[-1]] = value
    (tmp_path / "result.json").write_text(json.dumps(raw))
    with pytest.raises(RunError, match=r"must be a result\.json as mrscale writes it"):
        load_result(tmp_path / "result.json")
