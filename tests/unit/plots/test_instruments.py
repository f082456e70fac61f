"""Figures of instruments show every variant and the lines of the estimates asked for."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

import mrscale as mr
from mrscale.plots import instruments, people
from mrscale.stats.first_stage import WEAK_F

EXPOSURE = np.array([0.1, 0.2, 0.3, 0.15])
SUMMARY = (EXPOSURE, np.full(4, 0.01), 0.5 * EXPOSURE + 0.02, np.full(4, 0.02))


def test_scatter_draws_points_and_a_line_with_its_intercept() -> None:
    lines = mr.summary_mr(*SUMMARY, methods=["ivw", "egger"])
    ax = mr.plot_scatter(mr.scatter_data(*SUMMARY), lines)
    points = np.asarray(ax.containers[0].lines[0].get_xydata())
    drawn = {h.get_label(): np.asarray(h.get_xydata()) for h in ax.get_legend_handles_labels()[0]}
    assert np.allclose(points[:, 1], 0.5 * points[:, 0] + 0.02)
    for _, row in lines.iterrows():
        line = drawn[row["method"]]
        slope = np.diff(line[:, 1]) / np.diff(line[:, 0])
        start = 0 if math.isnan(row["intercept"]) else row["intercept"]
        assert slope[0] == pytest.approx(row["estimate"])
        assert line[0, 1] - slope[0] * line[0, 0] == pytest.approx(start)


def test_funnel_has_a_point_per_variant_and_a_line_per_estimate() -> None:
    lines = mr.summary_mr(*SUMMARY, methods="ivw")
    ax = mr.plot_funnel(mr.funnel_data(*SUMMARY), lines)
    points, line = ax.get_lines()
    assert len(points.get_xdata()) == 4
    assert line.get_xdata()[0] == lines["estimate"].iloc[0]


def test_leave_one_out_ends_with_all() -> None:
    ax = mr.plot_leave_one_out(mr.leave_one_out(*SUMMARY))
    names = [t.get_text() for t in ax.get_yticklabels()]
    assert names == ["without 1", "without 2", "without 3", "without 4", "all"]


def test_forest_of_a_table_names_its_rows() -> None:
    table = mr.forest_data(*SUMMARY, methods=["ivw"])
    ax = mr.plot_forest(table)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["1", "2", "3", "4", "ivw"]


def test_weak_instruments_are_hollow_and_absent_ones_left_out() -> None:
    ax = instruments.first_stage(
        pd.Series({"all": 3.0, "learned": 1200.0, "none": math.nan}), WEAK_F
    )
    assert [t.get_text() for t in ax.get_yticklabels()] == ["all", "learned"]
    weak, strong = ax.get_lines()[:2]
    assert weak.get_markerfacecolor() == "white"
    assert strong.get_markerfacecolor() != "white"
    low, high = ax.get_xlim()
    assert low <= 1.5 < 1200 < high


def test_without_instruments_the_first_stage_is_an_empty_axis_around_ten() -> None:
    low, high = instruments.first_stage(pd.Series(dtype=float), WEAK_F).get_xlim()
    assert 0 < low < WEAK_F < high


def test_a_figure_that_ends_a_cell_of_a_notebook_is_a_picture() -> None:
    figures = [
        mr.plot_forest(mr.forest_data(*SUMMARY)).figure,
        mr.plot_funnel(mr.funnel_data(*SUMMARY)).figure,
        *(ax.figure for ax in people.latent(np.zeros((40, 1)), np.repeat([0, 1], 20), "ab")),
    ]
    assert all(figure._repr_png_().startswith(b"\x89PNG") for figure in figures)
