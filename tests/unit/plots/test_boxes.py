"""Box plots of estimates: a panel for each design, every data set in it."""

from __future__ import annotations

import numpy as np
import pandas as pd

from mrscale.plots.boxes import boxes

LABELS = {"tsls": "2SLS", "egger": "MR-Egger", "flow": "flow"}


def table(errors: dict[str, list[float]], design: str = "mlp") -> pd.DataFrame:
    rows = [(design, key, error) for key, values in errors.items() for error in values]
    return pd.DataFrame(rows, columns=["design", "estimator", "error"])


def test_medians_and_data_sets_are_where_they_are() -> None:
    drawn = table({"tsls": [0.5, 0.6, 0.7], "flow": [-0.1, 0.0, 0.1]})
    (ax,) = [a for a in boxes(drawn, "error", labels=LABELS, reference=0).axes if a.get_visible()]
    medians = [line.get_ydata()[0] for line in ax.lines if line.get_linewidth() == 2]
    assert medians == [0.6, 0.0]
    dots = np.concatenate([line.get_ydata() for line in ax.lines if line.get_marker() == "."])
    assert sorted(dots) == [-0.1, 0.0, 0.1, 0.5, 0.6, 0.7]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == list(LABELS.values())


def test_what_lies_far_away_is_drawn_at_the_end_of_the_axis() -> None:
    drawn = table({"egger": [-40.0, 0.1, 55.0], "flow": [0.0, 0.1, 0.2]})
    ax = boxes(drawn, "error", labels=LABELS, reference=0).axes[0]
    low, high = ax.get_ylim()
    ends = {line.get_marker(): line.get_ydata() for line in ax.lines if len(line.get_ydata()) == 1}
    assert low < ends["v"][0] < -1
    assert 1 < ends["^"][0] < high < 2


def test_a_panel_for_each_design() -> None:
    both = pd.concat([table({"flow": [0.0, 0.1]}, name) for name in ("mlp", "tanh", "poly2")])
    axes = [ax for ax in boxes(both, "error", labels=LABELS, reference=0).axes if ax.get_visible()]
    assert [ax.get_title(loc="left") for ax in axes] == ["mlp", "tanh", "poly2"]
