"""Figures show every estimate, keep their scale, and are equal for equal input."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure

from mrscale.plots import training
from mrscale.plots.style import STYLE
from mrscale.report import figures
from mrscale.results import PairResult, StudyResult


def _labels(ax: mpl.axes.Axes) -> list[str]:
    return [text.get_text() for text in ax.get_yticklabels()]


def test_one_row_per_estimate_and_a_truth_line(green_pair: PairResult) -> None:
    ax = green_pair.plot_forest()
    assert _labels(ax) == [e.label for e in green_pair.estimates]
    texts = [t.get_text() for t in ax.texts]
    assert "truth 0.500" in texts
    assert "1,204" in texts
    assert any(list(line.get_xdata()) == [0.5, 0.5] for line in ax.get_lines())
    weights = [t.get_fontweight() for t in ax.get_yticklabels()]
    assert weights.count("bold") == 1


def test_no_truth_line_without_truth(red_pair: PairResult) -> None:
    assert not any("truth" in t.get_text() for t in red_pair.plot_forest().texts)


def test_a_huge_interval_is_clipped_with_arrows(red_pair: PairResult) -> None:
    ax = red_pair.plot_forest()
    low, high = ax.get_xlim()
    assert -0.5 < low < 0
    assert 0.45 < high < 1
    assert {line.get_marker() for line in ax.get_lines()} >= {"<", ">"}


@pytest.mark.parametrize("end", [math.inf, math.nan])
def test_odd_intervals_are_drawn(green_pair: PairResult, end: float) -> None:
    odd = replace(green_pair.estimates[0], ci_lower=-end, ci_upper=end)
    pair = replace(green_pair, estimates=(odd, *green_pair.estimates[1:]))
    assert figures.to_svg(pair.plot_forest(), "a").startswith("<svg")


def test_names_are_text_and_not_markup(green_pair: PairResult) -> None:
    strange = replace(green_pair, exposure=r"$\frac{$ <b>", outcome="y" * 200)
    ax = strange.plot_forest()
    assert len(ax.get_xlabel()) < 150
    assert "<b>" not in figures.to_svg(ax, "a")


def test_environments_and_training(study: StudyResult) -> None:
    ax = study.pairs[0].plot_environments()
    assert _labels(ax) == [f"env{i}" for i in range(1, 6)]
    curves = training.training(study.encoders["flow"]["folds"])
    assert [t.get_text() for t in curves.get_legend().get_texts()] == [
        f"fold {i}" for i in range(4)
    ]


def test_the_scree_plot_marks_what_the_encoder_sees(study: StudyResult) -> None:
    ax = training.scree(study.encoders["flow"]["folds"], factors=4)
    assert [t.get_text() for t in ax.get_legend().get_texts()] == [f"fold {i}" for i in range(4)]
    curve, seen = ax.lines[:2]
    assert curve.get_ydata()[:5].tolist() == [4.0, 2.5, 2.0, 1.5, 0.6]
    assert seen.get_ydata().tolist() == [4.0, 2.5, 2.0, 1.5]


def test_draws_into_axes_given_and_leaves_settings_alone(green_pair: PairResult) -> None:
    before = {key: mpl.rcParams[key] for key in STYLE}
    ax = Figure().add_subplot()
    assert green_pair.plot_forest(ax) is ax
    assert {key: mpl.rcParams[key] for key in STYLE} == before


def test_svg_is_deterministic_and_ids_are_prefixed(green_pair: PairResult) -> None:
    first, second = (figures.to_svg(green_pair.plot_forest(), "p0") for _ in range(2))
    assert first == second
    assert 'id="p0-' in first
    assert 'href="#p0-' in first
    assert "<metadata" not in first


@pytest.mark.parametrize(("name", "magic"), [("f.svg", b"<?xml"), ("f.png", b"\x89PNG")])
def test_save_forest(green_pair: PairResult, tmp_path: Path, name: str, magic: bytes) -> None:
    paths = [tmp_path / "a" / name, tmp_path / "b" / name]
    for path in paths:
        figures.save_forest(green_pair, path)
    assert paths[0].read_bytes().startswith(magic)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_environments_left_out_stand_beside_all(green_pair: PairResult) -> None:
    ax = green_pair.plot_leave_one_out()
    assert _labels(ax) == [*(f"without env{i}" for i in range(1, 6)), "all"]
    assert ax.get_yticklabels()[-1].get_fontweight() == "bold"


def test_variants_are_turned_to_raise_the_exposure(green_pair: PairResult) -> None:
    ax = green_pair.plot_scatter()
    points = np.asarray(ax.containers[0].lines[0].get_xydata())
    assert len(points) == 7  # that of unknown frequency is there, too
    np.testing.assert_allclose(points, [[0.1, 0.05]] * len(points))
    lines = [h.get_label() for h in ax.get_legend_handles_labels()[0]]
    assert lines == [green_pair["tsls_pc"].label, green_pair["flow_controls"].label]
