"""The report's figures, drawn with matplotlib's objects: no pyplot, no global settings changed."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mrscale.report import words
from mrscale.results import Estimate, PairResult

STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "mrscale",
}
# Okabe and Ito's colours, told apart by colour-blind readers; the markers tell them apart in grey
_PLAIN = ("#5f6368", "s")
_ADJUSTED = ("#0072b2", "o")
_LEARNED = ("#d55e00", "D")
_ORACLE = ("#009e73", "^")
_LOOKS = {
    "ols": _PLAIN,
    "tsls": _PLAIN,
    "tsls_pc": _ADJUSTED,
    "meta": _ADJUSTED,
    "oracle": _ORACLE,
}
_FOLD_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#5f6368", "#e69f00")
_FOLD_LINES = ("-", "--", "-.", ":")
_LONGEST_LABEL = 48
_POINTS_PER_CHARACTER = 5.6


def forest(pair: PairResult, ax: Axes | None = None) -> Axes:
    """Forest plot of all estimators: 95 % intervals, first-stage F, the headline emphasised.

    Parameters
    ----------
    pair : PairResult
    ax : Axes, optional
        Where to draw; by default the only axes of a new figure.

    Returns
    -------
    Axes
        One row per estimate, in their order; a dashed line at the truth when it is known. An
        interval or estimate beyond the axis ends in an arrow, its numbers still at the right.
    """
    with mpl.rc_context(STYLE):
        ax = ax or _new_axes(len(pair.estimates))
        rows = [
            _Row(e.label, e, _LOOKS.get(e.key, _LEARNED), e.key == pair.headline)
            for e in pair.estimates
        ]
        _draw(ax, pair, rows)
        if pair.truth is not None:
            _reference(ax, pair.truth, f"truth {words.number(pair.truth, words.decimals(pair))}")
        ax.set_xlabel(
            f"change of {_short(pair.outcome)} per unit of {_short(pair.exposure)}",
            parse_math=False,
        )
    return ax


def environments(pair: PairResult, ax: Axes | None = None) -> Axes:
    """Forest plot of 2SLS inside each environment; a dashed line at the headline estimate."""
    with mpl.rc_context(STYLE):
        ax = ax or _new_axes(len(pair.per_environment))
        _draw(ax, pair, [_Row(e.key, e, _PLAIN) for e in pair.per_environment])
        best = pair[pair.headline].estimate
        if not math.isnan(best):
            _reference(ax, best, f"headline {words.number(best, words.decimals(pair))}")
        ax.set_xlabel("2SLS estimate inside the environment")
    return ax


def training(history: Sequence[Mapping[str, Any]], ax: Axes | None = None) -> Axes:
    """Held-out log-likelihood per step, one curve per fold, a dot at the state that was kept.

    Parameters
    ----------
    history : sequence of mappings
        One per fold: ``fold``, ``best_step`` and ``history``, rows of
        (step, training, held-out log-likelihood per person in nats).
    ax : Axes, optional
    """
    with mpl.rc_context(STYLE | {"axes.spines.left": True}):
        ax = ax or Figure(figsize=(9.6, 3.0), layout="constrained").add_subplot()
        for i, fold in enumerate(history):
            _curve(ax, fold, _FOLD_COLOURS[i % len(_FOLD_COLOURS)], _FOLD_LINES[i // 6 % 4])
        _skip_start(ax)
        ax.set_xlabel("optimiser step")
        ax.set_ylabel("held-out log-likelihood\nper person (nats)")
        ax.legend(frameon=False, ncols=2, loc="lower right")
        ax.grid(axis="y", color="#e8eaed", linewidth=0.8)
        ax.set_axisbelow(True)
    return ax


def scree(folds: Sequence[Mapping[str, Any]], factors: int, ax: Axes | None = None) -> Axes:
    """Largest eigenvalues of the correlation matrix of instruments, one curve per fold; filled
    markers are the components that encoders see.

    Parameters
    ----------
    folds : sequence of mappings
        One per fold: ``fold`` and ``eigenvalues``, in decreasing order.
    factors : int
    ax : Axes, optional
    """
    with mpl.rc_context(STYLE | {"axes.spines.left": True}):
        ax = ax or Figure(figsize=(9.6, 2.6), layout="constrained").add_subplot()
        for i, fold in enumerate(folds):
            colour, line = _FOLD_COLOURS[i % len(_FOLD_COLOURS)], _FOLD_LINES[i // 6 % 4]
            values = fold["eigenvalues"]
            number = range(1, len(values) + 1)
            ax.plot(number, values, line, color=colour, label=f"fold {fold['fold']}", linewidth=1.2)
            ax.plot(number[:factors], values[:factors], "o", color=colour, markersize=4)
        ax.axvline(factors + 0.5, color="#5f6368", linestyle=":", linewidth=1)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set_xlabel("principal component")
        ax.set_ylabel("eigenvalue")
        ax.legend(frameon=False, ncols=2, loc="upper right")
    return ax


def to_svg(ax: Axes, prefix: str) -> str:
    """The figure of ``ax`` as an ``<svg>`` element for a page: equal input gives equal bytes.

    Parameters
    ----------
    ax : Axes
    prefix : str
        Put before every id, so that several figures can stand in one page.
    """
    buffer = io.StringIO()
    _save(ax, buffer, "svg")
    svg = buffer.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", svg)
    return svg[svg.index("<svg") :].replace("<svg", '<svg aria-hidden="true"', 1)


def save_forest(pair: PairResult, path: str | Path) -> None:
    """Write the forest plot of a pair as a picture; the suffix says which kind (.svg, .png)."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _save(forest(pair), path, path.suffix.lstrip("."))


def _save(ax: Axes, target: Path | io.StringIO, kind: str) -> None:
    # a date or a version in the file would make equal results differ
    metadata = {"svg": {"Date": None, "Creator": None}, "png": {"Software": None}}
    with mpl.rc_context(STYLE):
        cast(Figure, ax.get_figure(root=True)).savefig(
            target, format=kind, dpi=160, facecolor="white", metadata=metadata.get(kind)
        )


def _new_axes(num_rows: int) -> Axes:
    figure = Figure(figsize=(9.6, 1.35 + 0.36 * num_rows))
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.1)
    return figure.add_subplot()


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_LABEL else text[: _LONGEST_LABEL - 1] + "…"


@dataclass(frozen=True)
class _Row:
    """One line of a forest plot: an estimate, its name and its looks."""

    name: str
    estimate: Estimate
    look: tuple[str, str]
    is_headline: bool = False


def _draw(ax: Axes, pair: PairResult, rows: Sequence[_Row]) -> None:
    best = pair[pair.headline]
    shown = [best.estimate, best.ci_lower, best.ci_upper, pair.truth, 0.0]
    _set_limits(ax, rows, [v for v in shown if v is not None and math.isfinite(v)])
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.axvline(0, color="#9aa0a6", linewidth=1, zorder=1)
    for y, row in enumerate(rows):
        _draw_row(ax, y, row)
    ax.set_yticks(range(len(rows)), [_short(row.name) for row in rows], parse_math=False)
    ax.tick_params(axis="y", length=0, pad=8)
    ax.xaxis.set_major_locator(MaxNLocator(7))
    for text, row in zip(ax.get_yticklabels(), rows, strict=True):
        text.set_fontweight("bold" if row.is_headline else "normal")
    _write_columns(ax, rows, words.decimals(pair))


def _draw_row(ax: Axes, y: int, row: _Row) -> None:
    low, high = ax.get_xlim()
    colour, marker = row.look
    e, bold = row.estimate, row.is_headline
    if bold:
        ax.axhspan(y - 0.45, y + 0.45, color="#fff1e0", zorder=0, linewidth=0)
    if e.ci_upper > low and e.ci_lower < high:
        ends = np.clip([e.ci_lower, e.ci_upper], low, high)
        ax.plot(ends, [y, y], color=colour, linewidth=2.6 if bold else 1.5, zorder=3)
    reach = [v for v in (e.estimate, e.ci_lower, e.ci_upper) if not math.isnan(v)]
    if min(reach, default=low) < low:
        ax.plot(low, y, "<", color=colour, markersize=7, clip_on=False, zorder=4)
    if max(reach, default=high) > high:
        ax.plot(high, y, ">", color=colour, markersize=7, clip_on=False, zorder=4)
    if low <= e.estimate <= high:
        fill, size = (colour, 8) if bold else ("white", 6.5)
        ax.plot(e.estimate, y, marker, color=colour, mfc=fill, mew=1.6, ms=size, zorder=5)


def _set_limits(ax: Axes, rows: Sequence[_Row], shown: Sequence[float]) -> None:
    """Show ``shown`` and every estimate but those that are far out and say little.

    An estimate that is far from the others and precise is the message of the figure; one that is
    far from them because its interval is huge must not flatten the rest.
    """
    finite = [r.estimate for r in rows if math.isfinite(r.estimate.estimate)]
    points = np.array([e.estimate for e in finite] or [0.0])
    widths = np.array([e.ci_upper - e.ci_lower for e in finite] or [1.0])
    usual = float(np.nanmedian(widths))
    distance = np.abs(points - np.median(points))
    near = points[(distance <= 3 * usual) | (widths <= 3 * usual)]
    low, high = min(*near, *shown), max(*near, *shown)
    pad = max(0.3 * (high - low), usual)
    ends = [v for r in rows for v in (r.estimate.ci_lower, r.estimate.ci_upper)]
    low = min([low, *(v for v in ends if low - pad <= v)])
    high = max([high, *(v for v in ends if v <= high + pad)])
    margin = 0.04 * (high - low) or 1.0
    ax.set_xlim(low - margin, high + margin)


def _write_columns(ax: Axes, rows: Sequence[_Row], places: int) -> None:
    cells = [_numbers(row.estimate, places) for row in rows]
    header = "estimate (95 % interval)"
    right = 50 + _POINTS_PER_CHARACTER * max(len(c) for c in [*cells, header])
    _cell(ax, -0.75, 16, header, False)
    _cell(ax, -0.75, right, "F", False)
    for y, (row, cell) in enumerate(zip(rows, cells, strict=True)):
        _cell(ax, y, 16, cell, row.is_headline)
        _cell(ax, y, right, words.f_statistic(row.estimate.first_stage_f), row.is_headline)


def _numbers(estimate: Estimate, places: int) -> str:
    if math.isnan(estimate.estimate):
        return "not available"
    span = words.interval(estimate.ci_lower, estimate.ci_upper, places)
    return f"{words.number(estimate.estimate, places)}  ({span})"


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
        color="#202124" if y >= 0 else "#5f6368",
        annotation_clip=False,
    )


def _reference(ax: Axes, value: float, label: str) -> None:
    ax.axvline(value, color="#202124", linewidth=1.2, linestyle=(0, (4, 3)), zorder=2, label=label)
    ax.annotate(
        label,
        xy=(value, 1),
        xycoords=ax.get_xaxis_transform(),
        xytext=(0, 3),
        textcoords="offset points",
        ha="center",
        va="bottom",
    )


def _skip_start(ax: Axes) -> None:
    """Let the vertical axis start where the curves are after a tenth of the steps."""
    curves = [np.asarray(line.get_xydata()) for line in ax.get_lines()]
    late = [y for xy in curves for x, y in xy if x >= 0.1 * xy[-1, 0] and math.isfinite(y)]
    if late and max(late) > min(late):
        margin = 0.08 * (max(late) - min(late))
        ax.set_ylim(min(late) - margin, max(late) + margin)


def _curve(ax: Axes, fold: Mapping[str, Any], colour: str, line: str) -> None:
    rows = np.array([[math.nan if v is None else v for v in r] for r in fold["history"]], float)
    steps, held_out = rows[:, 0], rows[:, 2]
    ax.plot(steps, held_out, line, color=colour, linewidth=1.5, label=f"fold {fold['fold']}")
    kept = np.flatnonzero(steps == fold["best_step"])
    if kept.size:
        ax.plot(steps[kept[0]], held_out[kept[0]], "o", color=colour, markersize=5)
