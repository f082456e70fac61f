"""What all figures share: type, colours, and axes of their own where none are given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "mrscale",
}
FRAMED: Any = STYLE | {"axes.spines.left": True}
"""With a vertical axis."""
GREY, BLUE, ORANGE, GREEN = "#5f6368", "#0072b2", "#d55e00", "#009e73"
COLOURS = (BLUE, ORANGE, GREEN, "#cc79a7", GREY, "#e69f00")
LINES = ("-", "--", "-.", ":")
INK, FAINT, PALE = "#202124", "#9aa0a6", "#e8eaed"
PLAIN = (GREY, "s")
_LEARNED = (ORANGE, "D")
_LOOKS = {
    "ols": PLAIN,
    "tsls": PLAIN,
    "egger": PLAIN,
    "tsls_pc": (BLUE, "o"),
    "meta": (BLUE, "o"),
    "oracle": (GREEN, "^"),
}


def axes(ax: Axes | None, width: float, height: float) -> Axes:
    """The axes given, or the only ones of a new figure of this size in inches."""
    from mrscale.plots.figure import Figure

    return ax or Figure(figsize=(width, height), layout="constrained").add_subplot()


def look(key: str) -> tuple[str, str]:
    """Colour and marker of the estimator of this key; those of the keys not known are learned."""
    return _LOOKS.get(key, _LEARNED)


def curve_look(index: int) -> tuple[str, str]:
    """Colour and line style of the curve of this number."""
    return COLOURS[index % len(COLOURS)], LINES[index // len(COLOURS) % len(LINES)]


def shortened(text: str, longest: int = 48) -> str:
    """A name that fits beside a figure."""
    return text if len(text) <= longest else text[: longest - 1] + "…"
