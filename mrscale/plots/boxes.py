"""Box plots of estimates over simulated data sets, a panel for each design."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from mrscale.plots.figure import Figure
from mrscale.plots.style import FRAMED, INK, PALE, look

_COLUMNS = 2
_MOST = 1.5
"""The axis ends there: beyond it an estimator is of no use, and others could not be told apart."""


def boxes(
    table: pd.DataFrame, value: str, *, labels: Mapping[str, str], reference: float
) -> Figure:
    """Draw quartiles and all data sets of each estimator.

    Parameters
    ----------
    table : DataFrame
        A row per data set and estimator: ``design``, ``estimator`` and the value.
    value : str
        Name of its column, and of the vertical axis.
    labels : mapping of str to str
        Estimators in their order, and what they are called.
    reference : float
        Where a dashed line stands.

    Returns
    -------
    Figure
        Boxes from quartile to quartile with whiskers to 1.5 times their distance; a dot for each
        data set. Dots that lie far beyond the axis are drawn at its end, as triangles.
    """
    designs = list(table["design"].unique())
    num_rows = -(-len(designs) // _COLUMNS)
    with mpl.rc_context(FRAMED):
        figure = Figure(figsize=(9.6, 2.3 * num_rows), layout="constrained")
        panels = figure.subplots(num_rows, _COLUMNS, squeeze=False, sharex=True, sharey=True)
        for panel, design in zip(panels.flat, designs, strict=False):
            _panel(panel, table[table["design"] == design], value, labels, reference)
            panel.axhline(reference, color=INK, linestyle="--", linewidth=0.8)
            panel.set_title(design, fontsize=9, loc="left")
        for panel in panels.flat[len(designs) :]:
            panel.set_visible(False)
        for row in panels:
            row[0].set_ylabel(value)
        _limit(panels[0, 0], table[value] - reference, reference)
    return figure


def _panel(
    ax: Axes, table: pd.DataFrame, value: str, labels: Mapping[str, str], reference: float
) -> None:
    for x, key in enumerate(labels):
        found = table.loc[table["estimator"] == key, value].dropna().to_numpy()
        if not len(found):
            continue
        colour, _ = look(key)
        ax.boxplot(
            found,
            positions=[x],
            widths=0.6,
            showfliers=False,
            manage_ticks=False,
            boxprops={"color": colour},
            whiskerprops={"color": colour},
            capprops={"color": colour},
            medianprops={"color": colour, "linewidth": 2},
        )
        beside = x + 0.25 * np.linspace(-1, 1, len(found) + 2)[1:-1]
        beyond = np.abs(found - reference) > _MOST
        ax.plot(beside[~beyond], found[~beyond], ".", color=colour, markersize=3, alpha=0.6)
        for sign, marker in ((1, "^"), (-1, "v")):
            far = beyond & (np.sign(found - reference) == sign)
            ends = np.full(far.sum(), reference + sign * _MOST)
            ax.plot(beside[far], ends, marker, color=colour, markersize=4)
    ax.set_xticks(range(len(labels)), list(labels.values()), rotation=35, ha="right")
    ax.grid(axis="y", color=PALE, linewidth=0.8)
    ax.set_axisbelow(True)


def _limit(ax: Axes, distance: pd.Series, reference: float) -> None:
    low, high = distance.min(), distance.max()
    margin = 0.05 * (min(high, _MOST) - max(low, -_MOST))
    ax.set_ylim(reference + max(low, -_MOST) - margin, reference + min(high, _MOST) + margin)
