"""The result of an estimate with learned instruments, as people read it."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from matplotlib.figure import Figure

from mrscale.plots import training
from mrscale.results import Diagnostic, Estimate, PairResult
from mrscale.results.latent_dim import path_table
from mrscale.results.learned import LearnedIVResult
from mrscale.stats.pooling import interval

PATH = {"0": [-3.0, -3.2], "1": [-2.5, -2.6], "2": [-2.4, -2.6], "3": [-2.7, -math.inf]}


def estimate(key: str, value: float, *, dof: float = math.inf, **changes) -> Estimate:
    low, high, pvalue = interval(value, 0.1, dof=dof)
    fields = {"estimate": value, "std_error": 0.1, "pvalue": pvalue}
    return Estimate(
        key, f"The {key}", **fields, ci_lower=low, ci_upper=high, **{"num_obs": 400} | changes
    )


@pytest.fixture
def result() -> LearnedIVResult:
    pair = PairResult(
        exposure="bmi",
        outcome="sbp",
        estimates=(
            estimate("ols", 0.9),
            estimate("tsls_pc", 0.6, first_stage_f=33.3),
            estimate("flow_controls", 0.5, dof=3, first_stage_f=50.0, j_pvalue=0.2),
        ),
        headline="flow_controls",
        trust="green",
        reasons=("it <looks> well",),
        diagnostics=(Diagnostic("Flow: F", 50.0, ">= 10", "pass", "strength"),),
        per_environment=(estimate("north", 0.7),),
        anderson_rubin=((-math.inf, -1.0), (0.2, math.inf)),
    )
    return LearnedIVResult(
        pair=pair,
        dof=3,
        latent_dim=2,
        num_factors=4,
        num_blocks=4,
        environments=("north", "south"),
        num_clusters=None,
        latent_dim_path=path_table({}, 2),
        provenance={},
    )


def test_numbers_are_those_of_the_headline(result):
    assert (result.estimate, result.std_error, result.trust) == (0.5, 0.1, "green")
    best = result.pair["flow_controls"]
    assert result.conf_int() == (best.ci_lower, best.ci_upper)
    assert result.pvalue == best.pvalue
    with pytest.raises(FrozenInstanceError, match="cannot assign to field 'dof'"):
        result.dof = 1


def test_the_table_shows_counts_that_may_leave(result):
    few = replace(result.pair, estimates=(*result.pair.estimates, estimate("x", 1, num_obs=12)))
    table = replace(result, pair=few).table
    assert table.index.tolist() == ["ols", "tsls_pc", "flow_controls", "x"]
    assert table["num_obs"].tolist() == [400, 400, 400, "<=20"]
    assert table["headline"].tolist() == [False, False, True, False]
    assert result.per_environment.loc["north", "estimate"] == 0.7
    assert result.diagnostics["verdict"].tolist() == ["pass"]


def test_the_summary_says_what_why_and_which(result):
    lines = result.summary().splitlines()
    assert lines[0].startswith("Effect of bmi on sbp: 0.5 (95 % interval 0.18")
    assert lines[0].endswith("by: The flow_controls")
    assert lines[1].startswith("Trust in the learned instruments: green. 400 people, 2 env")
    assert lines[2] == "Why: it <looks> well"
    assert next(line for line in lines if line.startswith("The flow_controls")).endswith("*")
    assert repr(result) == result.summary()
    assert "Anderson" not in result.summary()


def test_the_rival_as_headline_comes_with_its_anderson_rubin_set(result):
    rival = replace(result, pair=replace(result.pair, headline="tsls_pc"), dof=math.inf)
    assert "(Anderson-Rubin): -inf to -1 and 0.2 to inf" in rival.summary()
    assert rival.anderson_rubin == result.pair.anderson_rubin
    empty = replace(rival, pair=replace(rival.pair, anderson_rubin=()))
    assert "(Anderson-Rubin): no effect fits" in empty.summary()


def test_a_notebook_gets_tables_and_escaped_text(result):
    page = result._repr_html_()
    assert page.count("<table") == 3
    assert "it &lt;looks&gt; well" in page


def test_a_path_tells_the_distance_from_the_best_with_its_error():
    table = path_table(PATH, 2)
    assert table.index.tolist() == [0, 1, 2, 3]
    assert table["chosen"].tolist() == [False, False, True, False]
    np.testing.assert_allclose(table["log_likelihood"], [-3.1, -2.55, -2.5, np.nan])
    np.testing.assert_allclose(table["from_best"], [-0.6, -0.05, 0, np.nan], atol=1e-12)
    # differences of dimension 1 from 2 are -0.1 and 0
    assert table["std_error"][1] == pytest.approx(0.1 / 2)
    assert path_table({d: w[:1] for d, w in PATH.items()}, 1)["std_error"].isna().all()


def test_without_a_store_there_are_no_variants_to_draw(result):
    assert "with the exposure" in result.pair.plot_scatter().get_xlabel()


def test_the_path_is_drawn_on_given_or_new_axes():
    table = path_table(PATH, 2)
    given = Figure().add_subplot()
    assert training.latent_dim(table, given) is given
    marked = training.latent_dim(table).get_lines()[-1]
    assert marked.get_xydata().tolist() == [[2.0, 0.0]]
    assert training.latent_dim(path_table({}, 1)).get_xlabel().startswith("latent dimension")


def test_a_path_of_flows_that_diverged_in_different_blocks_has_no_best():
    table = path_table({"0": [np.nan, 1.0], "1": [1.0, np.nan]}, 1)
    assert table["from_best"].isna().all()
