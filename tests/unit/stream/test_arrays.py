"""Reductions over rows: dask or memory, any chunking, one result."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from mrscale.stats.moments import Moments
from mrscale.stream.arrays import BLOCK_ROWS, is_dask, reduce_rows

NUM_ROWS = 2 * BLOCK_ROWS + 100
ROWS = np.random.default_rng(0).normal(size=(NUM_ROWS, 4)) * 10.0 ** np.arange(4)


def moments(rows: np.ndarray, extra: np.ndarray) -> Moments:
    return Moments.from_block(np.column_stack([rows, extra]))


@pytest.fixture(scope="module")
def expected() -> Moments:
    return reduce_rows([ROWS[:, :3], ROWS[:, 3]], moments, Moments.combine)


def test_blocks_and_tree_are_fixed():
    blocks = [Moments.from_block(ROWS[i : i + BLOCK_ROWS]) for i in range(0, NUM_ROWS, BLOCK_ROWS)]
    by_hand = blocks[0].combine(blocks[1]).combine(blocks[2])
    found = reduce_rows([ROWS], Moments.from_block, Moments.combine)
    assert_array_equal(found.cross, by_hand.cross)
    assert_array_equal(found.mean, by_hand.mean)


@pytest.mark.parametrize("rows", [999, BLOCK_ROWS, 3 * BLOCK_ROWS])
@pytest.mark.parametrize("columns", [1, 3])
def test_chunks_do_not_change_a_bit(expected, rows, columns):
    lazy = da.from_array(ROWS[:, :3], chunks=(rows, columns))
    for other in (ROWS[:, 3], da.from_array(ROWS[:, 3], chunks=rows // 2)):
        found = reduce_rows([lazy, other], moments, Moments.combine)
        assert isinstance(found, Moments)
        assert found.count == NUM_ROWS
        assert_array_equal(found.cross, expected.cross)
        assert_array_equal(found.mean, expected.mean)


def test_rows_are_taken_in_the_order_asked_for():
    order = np.random.default_rng(1).permutation(NUM_ROWS)
    found = reduce_rows([np.arange(NUM_ROWS)], list, lambda a, b: [*a, *b], order=order)
    assert_array_equal(found, order)


def test_types_reach_the_function_as_they_are():
    dosage = np.ones((10, 3), np.int8)
    for array in (dosage, da.from_array(dosage, chunks=4)):
        assert reduce_rows([array], lambda rows: {rows.dtype}, set.union) == {np.dtype(np.int8)}
    assert is_dask(da.ones(3))
    assert not is_dask(dosage)


def test_errors_of_a_block_come_through():
    def broken(rows: np.ndarray) -> int:
        raise ValueError("no such block")

    for array in (ROWS, da.from_array(ROWS, chunks=5000)):
        with pytest.raises(ValueError, match="no such block"):
            reduce_rows([array], broken, lambda a, b: a + b)
