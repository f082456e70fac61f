"""Leaving out, by downdating or by recombining, is the same as never having had it."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from mrscale.stats.kclass import fit_kclass
from mrscale.stats.moments import Moments
from mrscale.stats.reduced import Columns, reduce_design
from mrscale.stats.resampling import (
    block_jackknife,
    instrument_directions,
    leave_each_out,
    leave_one_instrument_out,
)
from mrscale.stats.split_sample import cross_fit

relaxed = settings(deadline=None, max_examples=40)


@st.composite
def designs(draw):
    """Rows [Z | W | X | y] with correlated instruments on different scales, maybe collinear."""
    m, k, p = draw(st.integers(3, 8)), draw(st.integers(0, 3)), draw(st.integers(1, 2))
    n = draw(st.integers(60, 200))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    z = rng.normal(size=(n, m)) @ (np.eye(m) + 0.3 * rng.uniform(-1, 1, (m, m)))
    if draw(st.booleans()):
        z[:, -1] = z[:, 0] - z[:, 1]
    w, u = rng.normal(size=(n, k)), rng.normal(size=n)
    pi = rng.uniform(0.5, 1.5, (m, p)) * rng.choice([-1, 1], (m, p))
    x = z @ pi + w.sum(1)[:, None] + u[:, None] + rng.normal(size=(n, p))
    y = x.sum(1) + w.sum(1) - u + rng.normal(size=n)
    return np.column_stack([z * 10.0 ** rng.integers(-2, 3, m), w, x, y]), Columns(m, k, p)


def two_stage(moments, columns):
    reduced, _ = reduce_design(moments, columns)
    fit = fit_kclass(reduced, 1.0)
    return fit.estimate, np.sqrt(np.diag(fit.bread) * fit.residual_ss / reduced.count)


def assert_close(found, expected):
    # relative to the larger of the two parameters' sizes: one may be zero by chance
    assert np.all(np.abs(found - expected) <= 1e-8 * np.abs(expected).max())


@relaxed
@given(designs())
def test_without_an_instrument_is_a_fit_without_its_column(design):
    rows, columns = design
    m = columns.num_instruments
    moments = Moments.from_block(rows)
    reduced, basis = reduce_design(moments, columns)
    found = leave_one_instrument_out(reduced, instrument_directions(moments, basis))
    fewer = Columns(m - 1, columns.num_covariates, columns.num_exposures)
    for j in range(m):
        others = moments.select(np.delete(np.arange(columns.width), j))
        if not found.identified[j]:
            assert reduce_design(others, fewer)[0].num_instruments <= columns.num_exposures
            continue
        estimate, std_error = two_stage(others, fewer)
        assert_close(found.estimate[j], estimate)
        assert_allclose(found.std_error[j], std_error, rtol=1e-7)


@relaxed
@given(designs(), st.integers(2, 6))
def test_without_a_block_is_a_fit_of_the_other_rows(design, num_blocks):
    rows, columns = design
    blocks = np.array_split(rows, num_blocks)
    found = block_jackknife(
        [Moments.from_block(b) for b in blocks], lambda moments: two_stage(moments, columns)[0]
    )
    for g in range(num_blocks):
        others = Moments.from_block(np.vstack(blocks[:g] + blocks[g + 1 :]))
        assert_close(found.left_out[g], two_stage(others, columns)[0])
    assert_close(found.estimate, two_stage(Moments.from_block(rows), columns)[0])


@relaxed
@given(st.lists(st.text(max_size=2), min_size=2, max_size=12))
def test_leave_each_out_of_any_monoid(parts):
    expected = ["".join(parts[:i] + parts[i + 1 :]) for i in range(len(parts))]
    assert leave_each_out(parts, str.__add__) == expected


@relaxed
@given(designs(), st.integers(0, 99))
def test_cross_fitting_does_not_see_the_order_of_people_or_units(design, seed):
    rows, columns = design
    rng = np.random.default_rng(seed)
    halves = np.array_split(rows, 2)
    scale = np.ones(columns.width)
    scale[: columns.num_instruments] = 10.0 ** rng.integers(-2, 3, columns.num_instruments)
    changed = [rng.permutation(half) * scale for half in halves]
    found, expected = (
        cross_fit([Moments.from_block(half) for half in some], columns)
        for some in (changed, halves)
    )
    assert_close(
        two_stage(found.moments, found.columns)[0], two_stage(expected.moments, found.columns)[0]
    )
