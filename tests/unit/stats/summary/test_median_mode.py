"""Medians and modes of the ratios."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from mrscale.stats.summary.median import median_estimate, penalised_weights, weighted_median
from mrscale.stats.summary.mode import Mode, bandwidth, mode_estimate, spread_out

from .conftest import Make


def test_equal_weights_give_the_median() -> None:
    values = np.random.default_rng(0).normal(size=(50, 9))
    for width in (8, 9):
        found = weighted_median(values[:, :width], np.ones(width))
        np.testing.assert_allclose(found, np.median(values[:, :width], axis=1), rtol=1e-12)


def test_weighted_median_interpolates() -> None:
    # shares (0.1, 0.35, 0.75): half lies 0.375 of the way from the second to the third
    found = weighted_median(np.array([3.0, 1.0, 2.0]), np.array([0.5, 0.2, 0.3]))
    assert found == pytest.approx(2 + (0.5 - 0.35) / (0.75 - 0.35))


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_variant_with_all_of_the_weight_is_the_median(place: int) -> None:
    assert weighted_median(np.array([1.0, 2.0, 3.0]), np.eye(3)[place]) == place + 1


def test_penalty_spares_agreeing_variants(make: Make) -> None:
    a = make(1, 30)
    by = a.by.copy()
    by[3] += 1
    weights = a.ratio_error() ** -2
    share = penalised_weights(type(a)(a.bx, a.sx, by, a.sy), weights) / weights
    assert share[3] < 1e-10
    assert np.median(share) == 1


def test_median_error_is_that_of_repeated_studies(make: Make) -> None:
    a = make(2, 30)
    rng = np.random.default_rng(0)
    row = median_estimate(a, a.ratio_error() ** -2, 0.95, rng, 4000, math.inf)
    again = make(3, 30)
    other = median_estimate(again, again.ratio_error() ** -2, 0.95, rng, 4000, math.inf)
    assert row.estimate == pytest.approx(0.4, abs=4 * row.std_error)
    # two studies of one design: errors agree to the spread of their designs
    assert row.std_error == pytest.approx(other.std_error, rel=0.3)


@pytest.mark.parametrize("num_variants", [12, 150])
def test_mode_is_the_highest_point(num_variants: int) -> None:
    rng = np.random.default_rng(num_variants)
    ratio = np.r_[rng.normal(0, 1, num_variants - 5), rng.normal(60, 1, 5)]
    weights = rng.uniform(0.5, 2, num_variants)
    found = Mode(weights, spread_out(ratio, weights), 1.0, None).find(ratio[None])[0]
    width = bandwidth(ratio, 1.0)
    grid = np.linspace(ratio.min(), ratio.max(), 20_001)
    density = stats.norm.pdf((grid[:, None] - ratio) / width) @ weights
    assert found == pytest.approx(grid[np.argmax(density)], abs=grid[1] - grid[0])


def test_a_fine_grid_finds_the_mode_itself(make: Make) -> None:
    ratio = make(5, 25).ratio
    weights = np.ones(25)
    start = spread_out(ratio, weights)
    exact, grid = (Mode(weights, start, 1.0, g).find(ratio[None])[0] for g in (None, 4096))
    width = np.ptp(ratio) + 6 * bandwidth(ratio, 1.0)
    assert grid == pytest.approx(exact, abs=2 * width / 4096)


def test_equal_ratios_are_the_mode() -> None:
    ratio = np.array([0.5, 0.5, 0.5, 0.5, 7.0])
    mode = Mode(np.ones(5), np.arange(5), 1.0, None)
    assert mode.find(ratio[None])[0] == pytest.approx(0.5, rel=1e-12)


def test_mode_ignores_a_minority_that_agrees_on_something_else(make: Make) -> None:
    a = make(6, 40, effect=0.4)
    by = a.by + np.where(np.arange(40) < 15, 2 * a.bx, 0)
    moved = type(a)(a.bx, a.sx, by, a.sy)
    rng = np.random.default_rng(1)
    row = mode_estimate(moved, a.ratio_error() ** -2, 0.95, rng, 1000, dof=math.inf)
    assert row.estimate == pytest.approx(0.4, abs=3 * row.std_error)
