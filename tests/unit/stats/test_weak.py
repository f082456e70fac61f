"""Anderson-Rubin: sets are where the test accepts, whatever their shape."""

from __future__ import annotations

import math
import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import optimize

from mrscale.stats.kclass import characteristic_roots, fit_kclass, liml_kappa
from mrscale.stats.reduced import Meats
from mrscale.stats.weak import (
    anderson_rubin,
    anderson_rubin_test,
    on_and_off,
    where_ratio_below,
)

_helpers = runpy.run_path(str(Path(__file__).parents[2] / "canonical.py"))
canonical, design, homoskedastic = (
    _helpers[name] for name in ("canonical", "design", "homoskedastic")
)
LINE = np.tan(np.linspace(-math.pi / 2, math.pi / 2, 1501)[1:-1])


def accepted(reduced, level=0.95, **options):
    tests = [anderson_rubin_test(reduced, np.array([b]), **options) for b in LINE]
    return np.array([test.pvalue >= 1 - level for test in tests])


def agrees(found, inside):
    """Membership at every point of the line, except next to an end."""
    members = np.array([b in found for b in LINE])
    ends = np.array([end for pair in found.intervals for end in pair])
    near = np.abs(np.subtract.outer(LINE, ends)) <= 1e-9 * (1 + np.abs(LINE[:, None]))
    return np.all((members == inside) | near.any(axis=1))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("m", "strength"), [(1, 0.3), (1, 0.02), (3, 0.1), (6, 0.03), (6, 0.4)])
@pytest.mark.parametrize("clustered", [False, True])
def test_robust_set_is_where_the_robust_test_accepts(seed, m, strength, clustered):
    problem = canonical(design(seed, m=m, strength=strength), clustered)
    found = anderson_rubin(problem.reduced, meats=problem.meats)
    assert agrees(found, accepted(problem.reduced, meats=problem.meats))


@pytest.mark.parametrize("level", [0.3, 0.5, 0.8, 0.99])
def test_robust_sets_of_any_level_and_of_several_pieces(level):
    pieces = 0
    for seed in range(6):
        problem = canonical(design(seed, n=40, m=3, strength=0.1, k=0))
        found = anderson_rubin(problem.reduced, level, meats=problem.meats)
        assert agrees(found, accepted(problem.reduced, level, meats=problem.meats))
        pieces = max(pieces, len(found.intervals))
    assert level > 0.5 or pieces >= 2  # such sets were met, unions included


@pytest.mark.parametrize("reference", ["f", "chi2"])
@pytest.mark.parametrize("strength", [0.4, 0.05, 0.0])
def test_classical_set_is_where_the_classical_test_accepts(reference, strength):
    reduced = canonical(design(3, strength=strength)).reduced
    found = anderson_rubin(reduced, reference=reference)
    assert agrees(found, accepted(reduced, reference=reference))


def test_robust_set_with_homoskedastic_meats_is_the_classical_one():
    reduced = canonical(design(1)).reduced
    robust = anderson_rubin(reduced, meats=homoskedastic(reduced))
    classical = anderson_rubin(reduced, reference="chi2")
    assert_allclose(robust.intervals, classical.intervals, rtol=1e-9)


def test_clusters_of_size_one_are_robust_errors():
    columns = design(5)
    alone = columns._replace(clusters=np.random.default_rng(0).permutation(len(columns.y)))
    robust, clustered = canonical(columns), canonical(alone, clustered=True)
    assert_allclose(
        anderson_rubin(clustered.reduced, meats=clustered.meats).intervals,
        anderson_rubin(robust.reduced, meats=robust.meats).intervals,
        rtol=1e-9,
    )


def test_strong_instruments_that_disagree_give_the_empty_set():
    columns = design(2, strength=1.0)
    problem = canonical(columns._replace(y=columns.y + 20 * columns.z[:, 1]))
    assert anderson_rubin(problem.reduced).is_empty
    assert anderson_rubin(problem.reduced, 0.9, meats=problem.meats).is_empty


@pytest.mark.parametrize("exposure", [0, 1])
@pytest.mark.parametrize("strength", [0.5, 0.15])
def test_set_of_one_of_two_exposures_profiles_the_other(exposure, strength):
    reduced = canonical(design(4, p=2, strength=strength)).reduced
    on, off = on_and_off(reduced)
    ratio = 0.03

    def least(b):
        weights = np.array([0.0, 0.0, 1.0])
        weights[exposure] = -b

        def at(tangent):
            weights[1 - exposure] = -math.tan(tangent)
            return weights @ on @ weights / (weights @ off @ weights)

        starts = np.linspace(-1.5, 1.5, 61)
        start = starts[int(np.argmin([at(t) for t in starts]))]
        return optimize.minimize_scalar(at, bounds=(start - 0.05, start + 0.05)).fun

    found = where_ratio_below(reduced, ratio, exposure)
    for b in np.linspace(-4, 4, 33):
        assert any(low <= b <= high for low, high in found) == (least(b) <= ratio)


def test_least_ratio_is_at_the_liml_estimate():
    reduced = canonical(design(6, p=2)).reduced
    kappa = liml_kappa(reduced)
    roots = characteristic_roots(reduced)
    assert_allclose(roots[0], kappa - 1, rtol=1e-10)
    assert np.all(np.diff(roots) >= 0)
    weights = fit_kclass(reduced, kappa).residual_weights
    on, off = on_and_off(reduced)
    assert_allclose(weights @ on @ weights / (weights @ off @ weights), roots[0], rtol=1e-8)


@pytest.mark.parametrize(
    ("change", "robust", "reason"),
    [
        ({"m": 1, "p": 2}, False, "fewer instruments than exposures"),
        ({"m": 4, "p": 2}, True, "one exposure"),
        ({"m": 6, "num_clusters": 5}, True, "too few people or clusters"),
        ({"n": 7, "m": 4, "k": 2}, False, "people than instruments and covariates"),
    ],
)
def test_where_there_is_no_test_nothing_is_excluded(change, robust, reason):
    problem = canonical(design(0, **change), clustered=robust)
    found = anderson_rubin(problem.reduced, meats=problem.meats if robust else None)
    assert reason in found.reason
    assert not found.is_bounded


def test_one_carrier_of_an_instrument_leaves_the_test_defined():
    """Where the carrier's residual vanishes the meat is singular, and the statistic finite."""
    columns = design(8, m=2, k=0)
    z = columns.z.copy()
    z[:, 1] = 0
    z[0, 1] = 1
    problem = canonical(columns._replace(z=z))
    reduced, meats = problem.reduced, problem.meats
    singular = replace(meats, traits=np.zeros_like(meats.traits))
    assert anderson_rubin_test(reduced, np.array([0.5]), meats=singular).statistic == 0
    assert agrees(anderson_rubin(reduced, meats=meats), accepted(reduced, meats=meats))


def test_meat_of_a_residual_is_the_sum_of_outer_products():
    problem = canonical(design(9, p=2), clustered=True)
    weights = np.array([-0.4, 0.3, 1.0])
    scores = problem.z * (problem.traits @ weights)[:, None]
    assert isinstance(problem.meats, Meats)
    assert_allclose(problem.meats.of_residual(weights), problem.outer(scores), rtol=1e-10)
