"""Moments are a commutative monoid, and any cut of the rows gives those of all rows."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from mrscale.stats.moments import Moments, pool

relaxed = settings(deadline=None, max_examples=60)


@st.composite
def matrices(draw, num_columns=None):
    shape = draw(st.integers(0, 50)), num_columns or draw(st.integers(1, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    offset = 10.0 ** draw(st.integers(-2, 3)) * rng.normal(size=shape[1])
    scale = 10.0 ** rng.integers(-2, 3, size=shape[1])
    return rng.normal(size=shape) * scale + offset


def assert_close(found, expected):
    assert found.count == expected.count
    # relative to the spread and the offset of each column: cross-products may cancel to zero
    size = np.sqrt(np.diag(expected.cross)) + np.abs(expected.mean)
    assert np.all(np.abs(found.mean - expected.mean) <= 1e-10 * size)
    assert np.all(np.abs(found.cross - expected.cross) <= 1e-10 * np.outer(size, size) + 1e-300)


@relaxed
@given(rows=matrices(), data=st.data())
def test_any_cut_gives_the_moments_of_all_rows(rows, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(rows)), max_size=8)))
    parts = [Moments.from_block(part) for part in np.split(rows, cuts)]
    assert_close(pool(parts), Moments.from_block(rows))


@relaxed
@given(rows=matrices(), seed=st.integers(0, 99))
def test_the_order_of_the_rows_does_not_matter(rows, seed):
    shuffled = np.random.default_rng(seed).permutation(rows)
    assert_close(Moments.from_block(shuffled), Moments.from_block(rows))


@relaxed
@given(st.data())
def test_combine_is_associative_and_commutative(data):
    a, b, c = (Moments.from_block(data.draw(matrices(num_columns=3))) for _ in range(3))
    assert_close(a.combine(b), b.combine(a))
    assert_close(a.combine(b).combine(c), a.combine(b.combine(c)))


@relaxed
@given(rows=matrices())
def test_empty_changes_nothing(rows):
    moments, empty = Moments.from_block(rows), Moments.empty(rows.shape[1])
    for found in (moments.combine(empty), empty.combine(moments)):
        assert found.count == moments.count
        assert_allclose(found.mean, moments.mean, rtol=0)
        assert_allclose(found.cross, moments.cross, rtol=0)


@relaxed
@given(rows=matrices(num_columns=5), data=st.data())
def test_select_and_transform_commute_with_taking_moments(rows, data):
    columns = data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=6))
    moments = Moments.from_block(rows)
    assert_close(moments.select(columns), Moments.from_block(rows[:, columns]))
    if len(rows):
        chosen = np.eye(5)[:, columns]
        origin = rows[0]
        dense = Moments.from_block((rows - origin) @ chosen)
        found = moments.transform(chosen, origin)
        assert_allclose(found.cross, moments.select(columns).cross, rtol=1e-10, atol=1e-300)
        assert_allclose(found.mean, dense.mean, rtol=1e-9, atol=1e-9 * np.abs(rows).max())
