"""Forest plots: estimates with their intervals, one row each, and their numbers beside them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from mrscale.plots import numbers
from mrscale.plots.figure import Figure
from mrscale.plots.style import FAINT, GREY, INK, PLAIN, STYLE, shortened

_POINTS_PER_CHARACTER = 5.6


@dataclass(frozen=True)
class Row:
    """One line of a forest plot: an estimate, its interval, its first-stage F, and its looks."""

    name: str
    estimate: float
    ci_lower: float
    ci_upper: float
    first_stage_f: float = math.nan
    look: tuple[str, str] = PLAIN
    is_headline: bool = False


def forest(
    rows: Sequence[Row],
    *,
    places: int,
    reference: tuple[float, str] | None = None,
    label: str = "",
    level: float = 0.95,
    ax: Axes | None = None,
) -> Axes:
    """Draw rows of estimates with their intervals, the headline emphasised.

    Parameters
    ----------
    rows : sequence of Row
    places : int
        Decimals of the numbers at the right.
    reference : (float, str), optional
        Where a dashed line stands, and what it is.
    label : str
        Of the horizontal axis.
    level : float, default 0.95
        Of the intervals.
    ax : Axes, optional
        Where to draw; by default the only axes of a new figure.

    Returns
    -------
    Axes
        An interval or estimate beyond the axis ends in an arrow, its numbers still at the right.
    """
    with mpl.rc_context(STYLE):
        ax = ax or _new_axes(len(rows))
        important = [v for r in rows if r.is_headline for v in (r.estimate, r.ci_lower, r.ci_upper)]
        shown = [*important, 0.0, *(reference[:1] if reference else ())]
        _set_limits(ax, rows, [v for v in shown if math.isfinite(v)])
        ax.set_ylim(len(rows) - 0.4, -0.6)
        ax.axvline(0, color=FAINT, linewidth=1, zorder=1)
        for y, row in enumerate(rows):
            _draw_row(ax, y, row)
        ax.set_yticks(range(len(rows)), [shortened(row.name) for row in rows], parse_math=False)
        ax.tick_params(axis="y", length=0, pad=8)
        ax.xaxis.set_major_locator(MaxNLocator(7))
        for text, row in zip(ax.get_yticklabels(), rows, strict=True):
            text.set_fontweight("bold" if row.is_headline else "normal")
        _write_columns(ax, rows, places, level)
        if reference is not None:
            _reference(ax, *reference)
        ax.set_xlabel(label, parse_math=False)
    return ax


def plot_forest(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Forest plot of a table of estimates.

    Parameters
    ----------
    table : pandas.DataFrame
        With ``estimate``, ``ci_lower`` and ``ci_upper`` (of 95 %, or of ``attrs["level"]``), such
        as those of :func:`mrscale.summary_mr`, :func:`mrscale.forest_data` or
        :attr:`LearnedIVResult.table`.
        Rows are named by ``label``, or by ``variant`` and ``method``, or by the index.
        ``first_stage_f`` and ``headline`` are shown where there are such columns.
    ax : Axes, optional
        Where to draw; by default the only axes of a new figure.

    Returns
    -------
    Axes
        One row per estimate, in their order. Intervals beyond the axis end in arrows.

    Examples
    --------
    >>> import mrscale as mr
    >>> table = mr.summary_mr([0.1, 0.2], [0.01, 0.01], [0.05, 0.1], [0.02, 0.02], methods="ivw")
    >>> ax = mr.plot_forest(table)
    >>> [text.get_text() for text in ax.get_yticklabels()]
    ['ivw']
    """
    headline = table["headline"] if "headline" in table else np.zeros(len(table), bool)
    strength = table["first_stage_f"] if "first_stage_f" in table else [math.nan] * len(table)
    ends = table[["estimate", "ci_lower", "ci_upper"]].astype(float).to_numpy()
    rows = [
        Row(name, estimate, low, high, float(f), is_headline=bool(best))
        for name, (estimate, low, high), f, best in zip(
            row_names(table), ends.tolist(), strength, headline, strict=True
        )
    ]
    widths = ends[:, 2] - ends[:, 1]
    typical = np.median(widths[np.isfinite(widths)]) / 4 if np.isfinite(widths).any() else math.nan
    places, level = numbers.decimals(float(typical)), table.attrs.get("level", 0.95)
    return forest(rows, places=places, label="estimate", level=level, ax=ax)


def row_names(table: pd.DataFrame) -> list[str]:
    """What the rows of a table of estimates are called, one from another."""
    told = [c for c in ("exposure", "outcome") if c in table and table[c].nunique() > 1]
    lines = zip(table[told].astype(str).to_numpy().tolist(), _own_names(table), strict=True)
    return [", ".join([*pair, name]) for pair, name in lines]


def _own_names(table: pd.DataFrame) -> list[str]:
    columns = ["label"] if "label" in table else [n for n in ("variant", "method") if n in table]
    if not columns:
        return [str(name) for name in table.index]
    lines = table[columns].astype(str).to_numpy()
    # a variant's ratio needs no method beside it
    return [parts[-1] if parts[0] == "all" else parts[0] for parts in lines]


def _new_axes(num_rows: int) -> Axes:
    figure = Figure(figsize=(9.6, 1.35 + 0.36 * num_rows))
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.1)
    return figure.add_subplot()


def _draw_row(ax: Axes, y: int, row: Row) -> None:
    low, high = ax.get_xlim()
    colour, marker = row.look
    bold = row.is_headline
    if bold:
        ax.axhspan(y - 0.45, y + 0.45, color="#fff1e0", zorder=0, linewidth=0)
    if row.ci_upper > low and row.ci_lower < high:
        ends = np.clip([row.ci_lower, row.ci_upper], low, high)
        ax.plot(ends, [y, y], color=colour, linewidth=2.6 if bold else 1.5, zorder=3)
    reach = [v for v in (row.estimate, row.ci_lower, row.ci_upper) if not math.isnan(v)]
    if min(reach, default=low) < low:
        ax.plot(low, y, "<", color=colour, markersize=7, clip_on=False, zorder=4)
    if max(reach, default=high) > high:
        ax.plot(high, y, ">", color=colour, markersize=7, clip_on=False, zorder=4)
    if low <= row.estimate <= high:
        fill, size = (colour, 8) if bold else ("white", 6.5)
        ax.plot(row.estimate, y, marker, color=colour, mfc=fill, mew=1.6, ms=size, zorder=5)


def _set_limits(ax: Axes, rows: Sequence[Row], shown: Sequence[float]) -> None:
    """Show ``shown`` and every estimate but those that are far out and say little.

    An estimate that is far from the others and precise is the message of the figure; one that is
    far from them because its interval is huge must not flatten the rest.
    """
    finite = [r for r in rows if math.isfinite(r.estimate)]
    points = np.array([e.estimate for e in finite] or [0.0])
    widths = np.array([e.ci_upper - e.ci_lower for e in finite] or [1.0])
    known = widths[np.isfinite(widths)]
    usual = float(np.median(known)) if len(known) else 1.0
    distance = np.abs(points - np.median(points))
    near = [*points[(distance <= 3 * usual) | (widths <= 3 * usual)], *shown]
    low, high = min(near), max(near)
    pad = max(0.3 * (high - low), usual)
    ends = [v for r in rows for v in (r.ci_lower, r.ci_upper) if math.isfinite(v)]
    low = min([low, *(v for v in ends if low - pad <= v)])
    high = max([high, *(v for v in ends if v <= high + pad)])
    margin = 0.04 * (high - low) or 1.0
    ax.set_xlim(low - margin, high + margin)


def _write_columns(ax: Axes, rows: Sequence[Row], places: int, level: float) -> None:
    cells = [_numbers(row, places) for row in rows]
    header = f"estimate ({100 * level:g} % interval)"
    right = 50 + _POINTS_PER_CHARACTER * max(len(c) for c in [*cells, header])
    has_f = any(not math.isnan(row.first_stage_f) for row in rows)
    _cell(ax, -0.75, 16, header, False)
    if has_f:
        _cell(ax, -0.75, right, "F", False)
    for y, (row, cell) in enumerate(zip(rows, cells, strict=True)):
        _cell(ax, y, 16, cell, row.is_headline)
        if has_f:
            _cell(ax, y, right, numbers.f_statistic(row.first_stage_f), row.is_headline)


def _numbers(row: Row, places: int) -> str:
    if math.isnan(row.estimate):
        return "not available"
    span = numbers.interval(row.ci_lower, row.ci_upper, places)
    return f"{numbers.number(row.estimate, places)}  ({span})"


def _cell(ax: Axes, y: float, offset: float, text: str, bold: bool) -> None:
    ax.annotate(
        text,
        xy=(1, y),
        xycoords=ax.get_yaxis_transform(),
        xytext=(offset, 0),
        textcoords="offset points",
        ha="left" if offset == 16 else "right",
        va="center_baseline" if y >= 0 else "bottom",
        fontweight="bold" if bold else "normal",
        color=INK if y >= 0 else GREY,
        annotation_clip=False,
    )


def _reference(ax: Axes, value: float, label: str) -> None:
    ax.axvline(value, color=INK, linewidth=1.2, linestyle=(0, (4, 3)), zorder=2, label=label)
    ax.annotate(
        label,
        xy=(value, 1),
        xycoords=ax.get_xaxis_transform(),
        xytext=(0, 3),
        textcoords="offset points",
        ha="center",
        va="bottom",
    )
