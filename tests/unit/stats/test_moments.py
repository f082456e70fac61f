"""Selecting, transforming and combining moments, against the same on the rows."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from mrscale.stats.moments import Moments, combine_keyed, pool, tree_combine


@pytest.fixture
def rows():
    rng = np.random.default_rng(3)
    return rng.normal(size=(60, 5)) @ rng.normal(size=(5, 5)) + [1e3, 0, -5, 2, 0]


def assert_same(found, expected, **tolerance):
    assert found.count == expected.count
    assert_allclose(found.mean, expected.mean, **tolerance)
    assert_allclose(found.cross, expected.cross, **tolerance)


def test_covariance_is_that_of_numpy(rows):
    assert_allclose(Moments.from_block(rows).covariance, np.cov(rows.T), rtol=1e-10)


def test_selected_columns_are_those_of_the_rows(rows):
    columns = np.array([4, 0, 2])
    whole = Moments.from_block(rows)
    assert_same(whole.select(columns), Moments.from_block(rows[:, columns]), rtol=1e-12)
    assert_same(whole.select([-1]), Moments.from_block(rows[:, [-1]]), rtol=1e-12)


def test_transformed_rows_have_the_transformed_moments(rows):
    matrix, origin = np.random.default_rng(4).normal(size=(5, 3)), rows[0]
    found = Moments.from_block(rows).transform(matrix, origin)
    assert_same(found, Moments.from_block((rows - origin) @ matrix), rtol=1e-9)


def test_cross_products_of_dosages_are_exact(rows):
    dosage = np.random.default_rng(0).integers(0, 3, size=(4096, 6))
    parts = [Moments.from_block(part) for part in np.split(dosage, 64)]
    centred = dosage - dosage.mean(axis=0)
    assert_allclose(pool(parts).cross, centred.T @ centred, rtol=1e-13, atol=1e-9)


def test_weighted_moments_are_those_of_numpy(rows):
    weights = np.random.default_rng(5).uniform(0.1, 3, len(rows))
    found = Moments.from_block(rows, weights)
    assert_allclose(found.mean, np.average(rows, axis=0, weights=weights), rtol=1e-12)
    expected = np.cov(rows.T, aweights=weights, ddof=0) * weights.sum()
    assert_allclose(found.cross, expected, rtol=1e-10)
    assert (found.count, found.weight) == (60, weights.sum())


def test_weighted_moments_combine(rows):
    weights = np.random.default_rng(5).uniform(0.1, 3, len(rows))
    whole = Moments.from_block(rows, weights)
    cuts = zip(np.split(rows, [7, 40]), np.split(weights, [7, 40]), strict=True)
    found = pool([Moments.from_block(*part) for part in cuts])
    assert_same(found, whole, rtol=1e-10)
    assert_allclose(found.weight, whole.weight, rtol=1e-14)
    assert_allclose(found.about_zero, (rows * weights[:, None]).T @ rows, rtol=1e-10)
    for same in (whole.combine(Moments.empty(5)), Moments.empty(5).combine(whole)):
        assert same is whole


def test_integer_weights_are_repeated_rows(rows):
    times = np.random.default_rng(6).integers(1, 4, len(rows))
    found = Moments.from_block(rows, times.astype(float))
    repeated = Moments.from_block(np.repeat(rows, times, axis=0))
    assert_allclose(found.mean, repeated.mean, rtol=1e-12)
    assert_allclose(found.cross, repeated.cross, rtol=1e-10)
    assert found.weight == repeated.weight == repeated.count


def test_weights_stay_with_selected_and_transformed_columns(rows):
    weights = np.full(len(rows), 2.0)
    whole = Moments.from_block(rows, weights)
    assert whole.select([0, 1]).weight == whole.transform(np.eye(5)).weight == 120


def test_unweighted_moments_weigh_what_they_count(rows):
    assert Moments.from_block(rows).weight == 60
    assert Moments.empty(3).weight == 0


def test_columns_of_one_value_are_known(rows):
    wide = np.column_stack([rows, np.full(60, 0.1), np.full(60, 1e8 + 0.3), np.zeros(60)])
    parts = [Moments.from_block(part) for part in np.split(wide, [11, 12, 50])]
    assert np.flatnonzero(pool(parts).constant).tolist() == [5, 6, 7]


def test_single_precision_rows_are_accumulated_in_double(rows):
    shifted = (rows - rows.mean(0) + 1e4).astype(np.float32)
    expected = np.cov(shifted.astype(np.float64).T)
    assert_allclose(Moments.from_block(shifted).covariance, expected, rtol=1e-10)


def test_a_block_without_rows_is_empty(rows):
    empty = Moments.from_block(rows[:0])
    assert_same(empty, Moments.empty(5))
    assert_array_equal(empty.covariance, np.zeros((5, 5)))


@pytest.mark.parametrize("num_parts", [1, 2, 3, 7, 8])
def test_the_tree_keeps_order_and_pairs_neighbours(num_parts):
    parts = [str(i) for i in range(num_parts)]
    found = tree_combine(parts, lambda a, b: f"({a}{b})")
    assert found.replace("(", "").replace(")", "") == "".join(parts)
    assert found == {1: "0", 2: "(01)", 3: "((01)2)"}.get(num_parts, found)
    depth = max(found[:i].count("(") - found[:i].count(")") for i in range(len(found)))
    assert depth == int(np.ceil(np.log2(num_parts)))


def test_keyed_groups_combine_key_by_key(rows):
    one = {"a": Moments.from_block(rows[:20]), "b": Moments.from_block(rows[20:30])}
    two = {"c": Moments.from_block(rows[30:40]), "a": Moments.from_block(rows[40:])}
    found = combine_keyed(one, two)
    assert list(found) == ["a", "b", "c"]
    assert_same(found["a"], Moments.from_block(np.r_[rows[:20], rows[40:]]), rtol=1e-10)
    assert found["b"] is one["b"]
    assert found["c"] is two["c"]


@pytest.mark.parametrize("value", [0.1, 37.2, 2.0000001, 170.3])
@pytest.mark.parametrize("weighted", [False, True])
def test_many_people_of_one_value_have_that_mean_and_no_spread(rows, value, weighted):
    # their sum over their number is another value, and spread of it would pass for a column's own
    block = np.column_stack([np.full(65_536, value), np.resize(rows[:, 0], 65_536)])
    weights = np.random.default_rng(6).uniform(0.1, 3, len(block)) if weighted else None
    found = Moments.from_block(block, weights)
    assert found.mean[0] == value
    assert_array_equal(found.cross[0], 0)
    assert found.constant.tolist() == [True, False]
