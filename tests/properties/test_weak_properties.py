"""Weak-instrument inference does not depend on units, order, coding or redundant columns."""

from __future__ import annotations

import math
import runpy
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from mrscale.stats import specification
from mrscale.stats.clr import clr, clr_test
from mrscale.stats.first_stage import first_stage
from mrscale.stats.sets import where_quadratic_nonpositive
from mrscale.stats.weak import anderson_rubin, anderson_rubin_test

_helpers = runpy.run_path(str(Path(__file__).parents[1] / "canonical.py"))
canonical, design = (_helpers[name] for name in ("canonical", "design"))

relaxed = settings(deadline=None, max_examples=20)
RTOL = 1e-7


@st.composite
def designs(draw):
    """Just- and over-identified, weak and strong, few people, with and without covariates."""
    m, k = draw(st.integers(1, 5)), draw(st.integers(0, 2))
    return design(
        draw(st.integers(0, 2**32)),
        n=draw(st.integers(m + k + 12, 120)),
        m=m,
        k=k,
        strength=draw(st.sampled_from([0.0, 0.05, 0.3, 1.0])),
        num_clusters=30,
    )


errors = st.sampled_from(["classical", "robust", "clustered"])


def sets(columns, kind):
    problem = canonical(columns, kind == "clustered")
    meats = None if kind == "classical" else problem.meats
    return anderson_rubin(problem.reduced, meats=meats), clr(problem.reduced, meats=meats)


def statistics(columns, kind):
    problem = canonical(columns, kind == "clustered")
    found = first_stage(problem.reduced, None if kind == "classical" else problem.meats)
    model = [specification.wu_hausman(problem.reduced), specification.sargan(problem.reduced)]
    strength = [found.f, found.f_robust, found.effective_f, found.effective_f_critical]
    return np.array([*np.concatenate(strength), *(test.statistic for test in model)])


def close(a, b, scale=1.0):
    assert_allclose(np.array(a.intervals) * scale, np.array(b.intervals), rtol=RTOL, atol=RTOL)


@relaxed
@given(columns=designs(), kind=errors, seed=st.integers(0, 99))
def test_order_of_people_and_coding_of_instruments_change_nothing(columns, kind, seed):
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(columns.y))
    z = columns.z @ (rng.normal(size=(columns.z.shape[1],) * 2) + 3 * np.eye(columns.z.shape[1]))
    changed = columns._replace(z=np.column_stack([z, z[:, 0] - columns.w.sum(1), 7 + 0 * z[:, 0]]))
    changed = type(columns)(*(column[order] for column in changed))
    for one, other in zip(sets(columns, kind), sets(changed, kind), strict=True):
        close(one, other)
    assert_allclose(statistics(columns, kind), statistics(changed, kind), rtol=1e-6)


@relaxed
@given(columns=designs(), kind=errors, power=st.integers(-3, 3))
def test_units_of_the_exposure_scale_the_sets(columns, kind, power):
    scaled = columns._replace(x=columns.x * 10.0**power)
    for one, other in zip(sets(columns, kind), sets(scaled, kind), strict=True):
        close(other, one, 10.0**power)
    assert_allclose(statistics(columns, kind), statistics(scaled, kind), rtol=1e-6)


@relaxed
@given(columns=designs(), kind=errors, shift=st.floats(-5, 5))
def test_an_effect_added_to_the_outcome_moves_the_sets(columns, kind, shift):
    moved = columns._replace(y=columns.y + shift * columns.x[:, 0])
    for one, other in zip(sets(columns, kind), sets(moved, kind), strict=True):
        shifted = [[low + shift, high + shift] for low, high in one.intervals]
        # ends far out lose the digits that their distance takes
        assert_allclose(np.array(other.intervals), np.array(shifted), rtol=1e-6, atol=1e-6)


@relaxed
@given(columns=designs(), robust=st.booleans())
def test_ends_are_where_the_test_is_undecided(columns, robust):
    problem = canonical(columns)
    reduced, meats = problem.reduced, problem.meats if robust else None
    for end in (e for pair in anderson_rubin(reduced, meats=meats).intervals for e in pair):
        if math.isfinite(end):
            test = anderson_rubin_test(reduced, np.array([end]), meats=meats)
            assert_allclose(test.pvalue, 0.05, rtol=1e-6)
    for end in (e for pair in clr(reduced, meats=meats).intervals for e in pair):
        if math.isfinite(end):
            assert_allclose(clr_test(reduced, end, meats=meats).pvalue, 0.05, rtol=1e-6)


@relaxed
@given(columns=designs())
def test_higher_levels_give_larger_sets(columns):
    problem = canonical(columns)
    for meats in (None, problem.meats):
        for make in (anderson_rubin, clr):
            small, large = (make(problem.reduced, level, meats=meats) for level in (0.8, 0.95))
            ends = [end for pair in small.intervals for end in pair if math.isfinite(end)]
            assert all(end in large for end in ends)


finite = st.floats(-100, 100).map(lambda v: round(v, 3))


@settings(deadline=None, max_examples=300)
@given(a2=finite, a1=finite, a0=finite)
def test_quadratic_is_nonpositive_inside_and_positive_outside(a2, a1, a0):
    found = where_quadratic_nonpositive(a2, a1, a0)
    for b in np.tan(np.linspace(-1.57, 1.57, 101)):
        value = a2 * b**2 + a1 * b + a0
        if abs(value) > 1e-9 * (abs(a2) * b**2 + abs(a1 * b) + abs(a0)):
            assert any(low <= b <= high for low, high in found) == (value < 0)
