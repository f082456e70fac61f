"""Figures of a result as elements of a page and as files: equal results give equal bytes."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import IO, Any, cast

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mrscale.plots.style import STYLE
from mrscale.results import PairResult


def to_svg(ax: Axes, prefix: str) -> str:
    """The figure of ``ax`` as an ``<svg>`` element for a page: equal input gives equal bytes.

    Parameters
    ----------
    ax : Axes
    prefix : str
        Put before every id, so that several figures can stand in one page.
    """
    buffer = io.StringIO()
    save(_figure(ax), buffer, "svg")
    svg = buffer.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", svg)
    return svg[svg.index("<svg") :].replace("<svg", '<svg aria-hidden="true"', 1)


def save_forest(pair: PairResult, path: str | Path) -> None:
    """Write the forest plot of a pair as a picture; the suffix says which kind (.svg, .png)."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    save(_figure(pair.plot_forest()), path, path.suffix.lstrip("."))


def save(figure: Figure, target: Path | IO[Any], kind: str) -> None:
    """Write a figure as a picture of this kind (svg, png) that has no date and no version."""
    metadata = {"svg": {"Date": None, "Creator": None}, "png": {"Software": None}}
    with mpl.rc_context(STYLE):
        figure.savefig(target, format=kind, dpi=160, facecolor="white", metadata=metadata.get(kind))


def _figure(ax: Axes) -> Figure:
    return cast(Figure, ax.get_figure(root=True))
