"""Figures made from people: never a point for a person, only cells and moments of many."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from mrscale import disclosure
from mrscale.plots.figure import Figure
from mrscale.plots.style import BLUE, FAINT, FRAMED, GREY, ORANGE, PALE, shortened

_REACH = 3.2
"""Standard deviations shown to either side."""
_COLUMNS = 5


def latent(
    values: NDArray[Any], environment: NDArray[Any], names: Sequence[str]
) -> NDArray[np.object_]:
    """Where people lie in the first two latent dimensions (or in one), a panel per environment.

    Parameters
    ----------
    values : ndarray, shape (N, L)
        Latent instruments.
    environment : ndarray of int, shape (N,)
        Codes into ``names``.
    names : sequence of str

    Returns
    -------
    ndarray of Axes, shape (E,)
        Hexagons (bars, for one dimension) hold shares of the environment's people; those with 1 to
        20 people are left white, and the next smallest too if these are 1 to 20 people together.
        Alike in all panels if the latent is invariant.
    """
    is_plane = values.shape[1] > 1
    with mpl.rc_context(FRAMED):
        panels = _panels(len(names))
        for code, (ax, name) in enumerate(zip(panels, names, strict=True)):
            people = values[environment == code]
            _hexagons(ax, people) if is_plane else _bars(ax, people[:, 0])
            ax.set_title(shortened(name, 24), fontsize=9, parse_math=False)
            ax.set_xlim(-_REACH, _REACH)
            ax.set_xlabel("latent 1")
        panels[0].set_ylabel("latent 2" if is_plane else "density")
    return panels


def invariance(
    before: tuple[NDArray[Any], NDArray[Any]],
    after: tuple[NDArray[Any], NDArray[Any]],
    names: Sequence[str],
    *,
    title: str = "principal components",
) -> NDArray[np.object_]:
    """Means and spreads per environment of what latents are made of, and of the latents.

    Parameters
    ----------
    before, after : tuple of ndarray, shapes (E, p) and (E, p)
        Means and standard deviations of p columns in every environment, from
        :func:`mrscale.stats.invariance.profile`; before, the columns have mean 0 and variance 1
        over all people.
    names : sequence of str
        Of the environments.
    title : str
        What the columns before are.

    Returns
    -------
    ndarray of Axes, shape (2,)
        Points are means, bars one standard deviation to either side, a mark per coordinate; the
        grey band is that of a standard normal, which invariant latents have everywhere.
    """
    sides = {title: (before, GREY, "s"), "latent instruments": (after, ORANGE, "o")}
    with mpl.rc_context(FRAMED):
        figure = Figure(figsize=(9.6, 1.3 + 0.42 * len(names)), layout="constrained")
        panels = cast(NDArray[np.object_], figure.subplots(1, 2, sharex=True, sharey=True))
        for ax, (name, (moments, colour, marker)) in zip(panels, sides.items(), strict=True):
            _moments(ax, *moments, colour, marker)
            ax.set_title(name, fontsize=9)
            ax.set_xlabel("mean and standard deviation")
        panels[0].set_yticks(range(len(names)), [shortened(n, 24) for n in names], parse_math=False)
        panels[0].set_ylim(len(names) - 0.5, -0.5)
    return panels


def _moments(
    ax: Axes, means: NDArray[Any], spreads: NDArray[Any], colour: str, marker: str
) -> None:
    width = means.shape[1]
    ax.axvspan(-1, 1, color=PALE, zorder=0, linewidth=0)
    ax.axvline(0, color=FAINT, linewidth=0.8, zorder=1)
    offsets = 0.6 * (np.arange(width) - (width - 1) / 2) / max(width, 2)
    for code, (mean, spread) in enumerate(zip(means, spreads, strict=True)):
        if np.isfinite(mean).all():
            heights = code + offsets
            ax.errorbar(mean, heights, xerr=spread, fmt=marker, color=colour, ms=4, linewidth=1)


def _panels(number: int) -> NDArray[np.object_]:
    columns = min(number, _COLUMNS)
    rows = -(-number // columns)
    figure = Figure(figsize=(1.95 * columns + 1.3, 2.2 * rows + 0.3), layout="compressed")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for spare in grid[number:]:
        spare.set_axis_off()
    return cast(NDArray[np.object_], grid[:number])


def _least_shown(counts: NDArray[Any], num_people: int) -> int:
    """The fewest people of a cell that is drawn: those in none are nobody, or too many to hide."""
    least = disclosure.policy().limit + 1
    while (drawn := counts[counts >= least]).size:
        if not disclosure.is_small(num_people - int(drawn.sum())):
            break
        least = int(drawn.min()) + 1
    return least


def _hexagons(ax: Axes, people: NDArray[Any]) -> None:
    draw = partial(
        ax.hexbin,
        people[:, 0],
        people[:, 1],
        gridsize=18,
        extent=(-_REACH, _REACH, -_REACH, _REACH),
        cmap="Blues",
        linewidths=0.2,
    )
    every = draw(mincnt=1)
    every.remove()
    draw(mincnt=_least_shown(np.asarray(every.get_array()), len(people)))
    ax.set_ylim(-_REACH, _REACH)
    ax.set_aspect("equal")


def _bars(ax: Axes, people: NDArray[Any]) -> None:
    edges = np.linspace(-_REACH, _REACH, 25)
    counts, _ = np.histogram(people, edges)
    counts[counts < _least_shown(counts, len(people))] = 0
    shown = counts / (max(len(people), 1) * np.diff(edges))
    ax.stairs(shown, edges, fill=True, color=BLUE, alpha=0.85)
