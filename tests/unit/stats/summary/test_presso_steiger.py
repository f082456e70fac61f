"""MR-PRESSO and Steiger's test."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mrscale.stats.summary.presso import presso
from mrscale.stats.summary.regression import ivw
from mrscale.stats.summary.resampling import BLOCK, block_sizes
from mrscale.stats.summary.steiger import explained, steiger

from .conftest import Make


def test_statistic_is_a_sum_over_single_fits(make: Make) -> None:
    a = make(1, 8)
    total = 0.0
    for i in range(8):
        slope = ivw(a.select(np.delete(np.arange(8), i)), 0.95).estimate
        total += (a.by[i] - slope * a.bx[i]) ** 2 / a.sy[i] ** 2
    found = presso(a, np.random.default_rng(0), 200)
    assert found.statistic == pytest.approx(total, rel=1e-11)


def test_global_pvalue_equals_a_plain_loop(make: Make) -> None:
    a = make(2, 10, pleiotropy=0.012)
    found = presso(a, np.random.default_rng(0), 4000)
    rng, exceed = np.random.default_rng(1), 0
    others = [np.delete(np.arange(10), i) for i in range(10)]

    def slopes(bx: np.ndarray, by: np.ndarray) -> np.ndarray:
        w = a.sy**-2
        return np.array([(w * bx * by)[o].sum() / (w * bx * bx)[o].sum() for o in others])

    centre = slopes(a.bx, a.by) * a.bx
    for _ in range(1000):
        bx, by = rng.normal(a.bx, a.sx), rng.normal(centre, a.sy)
        exceed += ((by - slopes(bx, by) * bx) ** 2 / a.sy**2).sum() >= found.statistic
    # Monte Carlo error of a share over 1,000: at most 0.016
    assert found.global_pvalue == pytest.approx(exceed / 1000, abs=0.064)


def test_outlier_is_found_and_distorts(make: Make) -> None:
    a = make(3, 25)
    by = a.by.copy()
    by[4] += 0.5 * np.sign(a.bx[4])
    found = presso(replace(a, by=by), np.random.default_rng(0), 10_000)
    assert found.global_pvalue == pytest.approx(1 / 10_001)
    assert np.flatnonzero(found.outliers).tolist() == [4]
    assert found.outlier_pvalues[4] == pytest.approx(25 / 10_001)
    assert found.distortion > 0
    assert found.distortion_pvalue < 0.05


def test_no_outliers_are_looked_for_without_heterogeneity(make: Make) -> None:
    found = presso(make(4), np.random.default_rng(0), 1000)
    assert found.global_pvalue > 0.05
    assert np.isnan(found.outlier_pvalues).all()
    assert not found.outliers.any()
    assert np.isnan(found.distortion_pvalue)


def test_global_pvalue_is_uniform_without_pleiotropy(make: Make) -> None:
    rng = np.random.default_rng(5)
    pvalues = [presso(make(rng, 15), rng, 200).global_pvalue for _ in range(300)]
    # standard error of the mean of 300 uniform numbers: 0.017
    assert np.mean(pvalues) == pytest.approx(0.5, abs=0.07)


def test_blocks_cover_the_resamples() -> None:
    assert sum(block_sizes(10_000, 3000)) == 10_000
    assert max(block_sizes(10_000, 3000)) == BLOCK // 3000
    assert list(block_sizes(3, 10 * BLOCK)) == [1, 1, 1]


def test_steiger_compares_correlations() -> None:
    found = steiger(np.array([0.03, 0.02]), np.array([0.005]), 10_000, 20_000)
    z = np.arctanh(0.05**0.5) - np.arctanh(0.005**0.5)
    assert found.forward
    assert found.statistic == pytest.approx(z / (1 / 9997 + 1 / 19997) ** 0.5)


def test_explained_by_t_is_the_squared_correlation() -> None:
    rng = np.random.default_rng(0)
    g = rng.binomial(2, 0.3, 500)
    y = 0.2 * g + rng.normal(size=500)
    centred = g - g.mean()
    beta = centred @ y / (centred @ centred)
    rss = np.sum((y - y.mean() - beta * centred) ** 2)
    se = (rss / 498 / (centred @ centred)) ** 0.5
    found = explained(np.array([beta]), np.array([se]), 500, None)
    assert found[0] == pytest.approx(np.corrcoef(g, y)[0, 1] ** 2, rel=1e-10)
