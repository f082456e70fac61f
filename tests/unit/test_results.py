"""Results as users hold them."""

from __future__ import annotations

import dataclasses
import math

import pytest

from mrscale.results import Estimate, PairResult, StudyResult


def estimate(key, value, **changes):
    fields = {"std_error": 0.1, "ci_lower": value - 0.2, "ci_upper": value + 0.2, "pvalue": 0.01}
    return Estimate(key=key, label=f"The {key}", estimate=value, num_obs=400, **fields | changes)


@pytest.fixture
def result():
    def pair(outcome, **changes):
        estimates = (estimate("ols", 0.9), estimate("tsls_pc", 0.5, first_stage_f=33.33))
        return PairResult("bmi", outcome, estimates, "tsls_pc", "amber", ("why",), **changes)

    pairs = (pair("sbp", truth=0.45), pair("ldl"))
    return StudyResult("Study", pairs, {"a": 300, "b": 100}, 400, 12, 0.01)


def test_the_summary_marks_the_headline_and_shows_intervals(result):
    lines = result.summary().splitlines()
    assert lines[0] == "bmi -> sbp  (trust in learned: amber)"
    assert lines[1].startswith("   The ols ")
    assert "F" not in lines[1]
    assert lines[2].startswith(" * The tsls_pc ")
    assert lines[2].endswith("0.500 [ 0.300,  0.700]  F 33.3")
    assert lines[3] == "   Why: why"
    assert lines[4].split()[-1] == "0.450"
    assert "Truth" not in "".join(lines[5:]), "there is no truth for the second pair"
    assert repr(result) == result.summary()


def test_tables_have_one_row_per_estimator(result):
    table = result.to_dataframe()
    assert table[["exposure", "outcome", "key"]].values.tolist() == [
        ["bmi", "sbp", "ols"],
        ["bmi", "sbp", "tsls_pc"],
        ["bmi", "ldl", "ols"],
        ["bmi", "ldl", "tsls_pc"],
    ]
    assert table["headline"].tolist() == [False, True, False, True]
    assert math.isnan(table["first_stage_f"][0])


def test_estimates_are_found_by_key_and_absent_ones_named(result):
    pair = result.pairs[0]
    assert pair["ols"].estimate == 0.9
    with pytest.raises(KeyError, match=r"no estimate 'flow'; there are: \['ols', 'tsls_pc'\]"):
        pair["flow"]


def test_notebooks_show_a_table(result):
    page = result._repr_html_()
    assert page.count("<tr") == 5
    assert "0.5000" in page


def test_results_cannot_be_changed(result):
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.pairs[0].estimates[0].estimate = 0.0
