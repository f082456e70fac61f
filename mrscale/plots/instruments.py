"""Figures of instruments: their strength, and their associations with exposure and outcome."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from mrscale.plots import numbers
from mrscale.plots.forest import plot_forest
from mrscale.plots.style import (
    BLUE,
    FAINT,
    FRAMED,
    GREY,
    INK,
    PALE,
    STYLE,
    axes,
    curve_look,
    shortened,
)


def first_stage(strength: pd.Series, weak_f: float, ax: Axes | None = None) -> Axes:
    """First-stage F statistics on a logarithmic axis, a dashed line where weak instruments begin.

    Parameters
    ----------
    strength : pandas.Series
        F by name; what is not positive or missing is left out.
    weak_f : float
        F below which instruments are called weak.
    ax : Axes, optional
        Where to draw; by default the only axes of a new figure.
    """
    shown = strength[(strength > 0) & np.isfinite(strength)]
    range_shown = [weak_f, *shown]
    with mpl.rc_context(STYLE):
        ax = axes(ax, 7.2, 1.1 + 0.34 * max(len(shown), 1))
        ax.set_xscale("log")
        for y, value in enumerate(shown):
            weak = value < weak_f
            ax.plot(value, y, "o", color=BLUE, mfc="white" if weak else BLUE, ms=7, zorder=3)
            ax.annotate(
                numbers.f_statistic(value),
                (value, y),
                (9, 0),
                textcoords="offset points",
                va="center_baseline",
            )
        ax.set_yticks(range(len(shown)), [shortened(str(n)) for n in shown.index], parse_math=False)
        ax.set_ylim(len(shown) - 0.4, -0.6)
        ax.set_xlim(min(1.0, min(range_shown) / 2), 3 * max(range_shown))
        ax.tick_params(axis="y", length=0)
        ax.grid(axis="x", color=PALE, linewidth=0.8)
        ax.set_axisbelow(True)
        ax.axvline(weak_f, color=INK, linewidth=1.2, linestyle=(0, (4, 3)), zorder=2)
        ax.set_xlabel(f"first-stage F (dashed: {weak_f:.0f}, below which instruments are weak)")
    return ax


def plot_scatter(
    data: pd.DataFrame, estimates: pd.DataFrame | None = None, ax: Axes | None = None
) -> Axes:
    """Associations of variants with the outcome against those with the exposure.

    Parameters
    ----------
    data : pandas.DataFrame
        Of :func:`mrscale.scatter_data`.
    estimates : pandas.DataFrame, optional
        Of :func:`mrscale.summary_mr`; each row with an estimate is drawn as a line. A handful is
        best: choose ``methods``.
    ax : Axes, optional
        Where to draw; by default the only axes of a new figure.

    Returns
    -------
    Axes
        Bars are 95 % intervals of each association.

    Examples
    --------
    >>> import mrscale as mr
    >>> summary = ([0.1, 0.2, 0.3], [0.01] * 3, [0.05, 0.1, 0.16], [0.02] * 3)
    >>> lines = mr.summary_mr(*summary, methods=["ivw", "egger"])
    >>> ax = mr.plot_scatter(mr.scatter_data(*summary), lines)
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['ivw', 'egger']
    """
    with mpl.rc_context(FRAMED):
        ax = axes(ax, 5.6, 4.2)
        ax.errorbar(
            data["beta_exposure"],
            data["beta_outcome"],
            xerr=1.96 * data["se_exposure"],
            yerr=1.96 * data["se_outcome"],
            fmt="o",
            color=GREY,
            ecolor=FAINT,
            markersize=3.5,
            linewidth=0.8,
        )
        ax.axhline(0, color=FAINT, linewidth=0.8, zorder=0)
        ax.set_xlim(0)
        low, high = ax.get_xlim()
        for row, look in _lines(estimates):
            start = 0.0 if math.isnan(row["intercept"]) else row["intercept"]
            heights = start + row["estimate"] * low, start + row["estimate"] * high
            ax.plot((low, high), heights, label=row["method"], **look)
        ax.set_xlim(low, high)
        ax.set_xlabel("association with the exposure, per effect allele")
        ax.set_ylabel("association with the outcome")
        if ax.get_legend_handles_labels()[0]:
            ax.legend(frameon=False)
    return ax


def plot_funnel(
    data: pd.DataFrame, estimates: pd.DataFrame | None = None, ax: Axes | None = None
) -> Axes:
    """Precision of each variant's Wald ratio against the ratio; symmetric without pleiotropy.

    Parameters
    ----------
    data : pandas.DataFrame
        Of :func:`mrscale.funnel_data`.
    estimates : pandas.DataFrame, optional
        Of :func:`mrscale.summary_mr`; each row with an estimate is drawn as a line.
    ax : Axes, optional
        Where to draw; by default the only axes of a new figure.

    Returns
    -------
    Axes

    Examples
    --------
    >>> import mrscale as mr
    >>> data = mr.funnel_data([0.1, 0.2], [0.01, 0.01], [0.05, 0.1], [0.02, 0.02])
    >>> mr.plot_funnel(data).get_ylabel()
    'precision (1 / standard error)'
    """
    with mpl.rc_context(FRAMED):
        ax = axes(ax, 5.6, 4.2)
        ax.plot(data["estimate"], data["precision"], "o", color=GREY, markersize=3.5)
        for row, look in _lines(estimates):
            ax.axvline(row["estimate"], label=row["method"], **look)
        ax.set_ylim(0)
        ax.set_xlabel("Wald ratio of the variant")
        ax.set_ylabel("precision (1 / standard error)")
        if ax.get_legend_handles_labels()[0]:
            ax.legend(frameon=False)
    return ax


def plot_leave_one_out(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Forest plot of the estimates without each variant (or environment), and with all.

    Parameters
    ----------
    table : pandas.DataFrame
        Of :func:`mrscale.leave_one_out`, or ``leave_one_environment_out`` or
        ``leave_one_instrument_out`` of a :class:`CohortResult`.
    ax : Axes, optional
        Where to draw; by default the only axes of a new figure.

    Returns
    -------
    Axes

    Examples
    --------
    >>> import mrscale as mr
    >>> table = mr.leave_one_out([0.1, 0.2], [0.01, 0.01], [0.05, 0.1], [0.02, 0.02])
    >>> ax = mr.plot_leave_one_out(table)
    >>> [text.get_text() for text in ax.get_yticklabels()]
    ['without 1', 'without 2', 'all']
    """
    names = table["variant"] if "variant" in table else table["label"]
    is_all = names == "all"
    labels = names.astype(str).where(is_all, "without " + names.astype(str))
    ends = table.filter(["exposure", "outcome", "estimate", "ci_lower", "ci_upper"])
    return plot_forest(ends.assign(label=labels, headline=is_all), ax)


def _lines(estimates: pd.DataFrame | None) -> Iterator[tuple[pd.Series, dict[str, Any]]]:
    """Estimates to be drawn as lines, with the look of each."""
    if estimates is None:
        return
    for i, (_, row) in enumerate(estimates.dropna(subset=["estimate"]).iterrows()):
        colour, line = curve_look(i)
        yield row, {"color": colour, "linestyle": line, "linewidth": 1.5}
