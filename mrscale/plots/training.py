"""How encoders were trained, and from what."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from mrscale.plots.style import FRAMED, GREY, ORANGE, PALE, axes, curve_look


def training(history: Sequence[Mapping[str, Any]], ax: Axes | None = None) -> Axes:
    """Held-out log-likelihood per step, one curve per fold, a dot at the state that was kept.

    Parameters
    ----------
    history : sequence of mappings
        One per fold: ``fold``, ``best_step`` and ``history``, rows of
        (step, training, held-out log-likelihood per person in nats).
    ax : Axes, optional
        Where to draw; by default the only axes of a new figure.
    """
    with mpl.rc_context(FRAMED):
        ax = axes(ax, 9.6, 3.0)
        for i, fold in enumerate(history):
            _curve(ax, fold, *curve_look(i))
        _skip_start(ax)
        ax.set_xlabel("optimiser step")
        ax.set_ylabel("held-out log-likelihood\nper person (nats)")
        if len(history) > 1:
            ax.legend(frameon=False, ncols=2, loc="lower right")
        ax.grid(axis="y", color=PALE, linewidth=0.8)
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
    with mpl.rc_context(FRAMED):
        ax = axes(ax, 9.6, 2.6)
        for i, fold in enumerate(folds):
            colour, line = curve_look(i)
            values = fold["eigenvalues"]
            number = range(1, len(values) + 1)
            ax.plot(number, values, line, color=colour, label=f"fold {fold['fold']}", linewidth=1.2)
            ax.plot(number[:factors], values[:factors], "o", color=colour, markersize=4)
        ax.axvline(factors + 0.5, color=GREY, linestyle=":", linewidth=1)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set_xlabel("principal component")
        ax.set_ylabel("eigenvalue")
        ax.legend(frameon=False, ncols=2, loc="upper right")
    return ax


def latent_dim(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Held-out log-likelihood over latent dimensions, the chosen one marked.

    Parameters
    ----------
    table : pandas.DataFrame
        From :func:`mrscale.results.latent_dim.path_table`.
    ax : Axes, optional
        Where to draw; by default the only axes of a new figure.

    Returns
    -------
    Axes
        Bars are two standard errors of the difference from the best. Too large a dimension drops
        clearly, too small a one hardly.
    """
    with mpl.rc_context(FRAMED):
        ax = axes(ax, 5.6, 3.4)
        error = 2 * table["std_error"].fillna(0)
        ax.errorbar(table.index, table["from_best"], error, fmt="o-", color=GREY)
        best = table[table["chosen"].astype(bool)]
        ax.plot(best.index, best["from_best"], "D", color=ORANGE, label="chosen", zorder=3)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set_xlabel("latent dimension (0: nothing is invariant)")
        ax.set_ylabel("held-out log-likelihood\nper person, from the best (nats)")
        ax.legend(frameon=False)
    return ax


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
