"""Figures made from people: no cell of 1 to 20 is drawn, and what is drawn is what they have."""

from __future__ import annotations

import numpy as np

from mrscale.plots import people
from mrscale.stats.invariance import profile

NAMES = ["AFR", "EUR"]


def _latent(width: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    return rng.standard_normal((30_000, width)), np.repeat([0, 1], 15_000)


def test_a_panel_per_environment_of_cells_above_twenty() -> None:
    values, environment = _latent(2)
    values[:7] = [2.9, 2.9]  # a cell of seven people far from the others
    panels = people.latent(values, environment, NAMES)
    assert [ax.get_title() for ax in panels] == NAMES
    for code, ax in enumerate(panels):
        (cells,) = ax.collections
        counts = cells.get_array()
        assert counts.min() > 20
        inside = values[environment == code]
        assert 0.8 * len(inside) < counts.sum() < len(inside)
        far = np.linalg.norm(cells.get_offsets() - [2.9, 2.9], axis=1)
        assert far.min() > 0.5


def test_one_dimension_is_drawn_as_bars_of_shares() -> None:
    values, environment = _latent(1)
    panels = people.latent(values, environment, NAMES)
    (stairs,) = panels[0].patches
    heights, edges, _ = stairs.get_data()
    shares = heights * np.diff(edges)
    assert 0.98 < shares.sum() <= 1
    drawn = shares[shares > 0]
    assert (drawn * 15_000).min() > 20


def test_no_bar_of_one_to_twenty_people() -> None:
    values = np.repeat([0.0, 1.0, 2.0, -2.0], [100, 20, 20, 21])[:, None]
    (ax,) = people.latent(values, np.zeros(161, int), ["EUR"])
    heights, edges, _ = ax.patches[0].get_data()
    counts = np.rint(heights * np.diff(edges) * 161).astype(int)
    assert sorted(counts[counts > 0]) == [21, 100]


def test_invariance_shows_means_before_and_after() -> None:
    values, environment = _latent(2)
    before = values + 2.0 * environment[:, None]
    panels = people.invariance(*(profile(v, environment, 2) for v in (before, values)), NAMES)
    assert [t.get_text() for t in panels[0].get_yticklabels()] == NAMES
    means = [[np.mean(c.lines[0].get_xdata()) for c in ax.containers] for ax in panels]
    assert np.allclose(means[0], [0, 2], atol=0.05)
    assert np.allclose(means[1], [0, 0], atol=0.05)


def test_an_environment_of_twenty_has_no_moments() -> None:
    values, environment = np.zeros((120, 1)), np.repeat([0, 1], [100, 20])
    panels = people.invariance(*[profile(values, environment, 2)] * 2, NAMES)
    assert [len(ax.containers) for ax in panels] == [1, 1]


def test_many_environments_fill_rows_of_panels() -> None:
    values = np.random.default_rng(0).standard_normal((700, 2))
    panels = people.latent(values, np.arange(700) % 7, [f"site {i}" for i in range(7)])
    assert panels.shape == (7,)
    visible = [ax for ax in panels[0].figure.axes if ax.axison]
    assert len(visible) == 7


def test_titles_and_labels_of_hexagons_are_inside_the_figure() -> None:
    environment = np.repeat(np.arange(5), 400)
    values = np.random.default_rng(0).normal(size=(2000, 2))
    panels = people.latent(values, environment, ["north", "south", "west", "east", "centre"])
    figure = panels[0].figure
    figure.draw_without_rendering()
    for ax in panels:
        box = ax.get_tightbbox()
        assert box.y0 >= 0
        assert box.y1 <= figure.bbox.y1


def test_those_who_are_hidden_cannot_be_counted():
    """3,000 people in bars, 9 in a bin of their own: the sum of the others would tell of them."""
    values = np.repeat([-2.0, 0.1, 1.3, 3.1], [1500, 25, 1475, 9])[:, None]
    (ax,) = people.latent(values, np.zeros(len(values), int), ["north"])
    heights, edges, _ = ax.patches[0].get_data()
    shown = round(float((heights * np.diff(edges)).sum() * len(values)))
    assert len(values) - shown == 9 + 25
