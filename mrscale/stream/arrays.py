"""Reductions over the rows of arrays that users hold: numpy in memory, dask anywhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import dask
import dask.array as da
import numpy as np
from numpy.typing import NDArray

from mrscale.stats.moments import tree_combine
from mrscale.stream.reduce import one_blas_thread, reduce_blocks

T = TypeVar("T")

BLOCK_ROWS = 8192
"""Rows of a block. Fixed: results then have the same bits however the arrays are chunked."""


def is_dask(array: Any) -> bool:
    """Whether an array is computed by dask."""
    return isinstance(array, da.Array)


def reduce_rows(
    arrays: Sequence[Any],
    from_rows: Callable[..., T],
    combine: Callable[[T, T], T],
    *,
    order: NDArray[np.intp] | None = None,
) -> T:
    """Compute ``from_rows`` on every block of rows of several arrays and combine the results.

    Parameters
    ----------
    arrays : sequence of ndarray or dask.array.Array, shapes (N, ...)
        Read in blocks of :data:`BLOCK_ROWS` rows. If one is a dask array, dask runs the
        reduction: on its threads, or on the cluster of the active ``distributed.Client``.
    from_rows : callable
        Takes one block of each array, as ndarrays.
    combine : callable
        Joins two partial results; must change neither.
    order : ndarray of int, shape (N,), optional
        Take the rows in this order; for arrays in memory only.

    Returns
    -------
    T
        The same bits for any chunking and any number of workers, BLAS held to one thread.
    """
    starts = range(0, len(arrays[0]), BLOCK_ROWS)
    if any(is_dask(array) for array in arrays):
        leaf, join = dask.delayed(_held(from_rows)), dask.delayed(combine)
        columns = [_delayed_blocks(array) for array in arrays]
        leaves = [leaf(*blocks) for blocks in zip(*columns, strict=True)]
        return tree_combine(leaves, join).compute()

    def from_block(rows: slice) -> T:
        chosen = rows if order is None else order[rows]
        return from_rows(*(array[chosen] for array in arrays))

    blocks = [slice(start, start + BLOCK_ROWS) for start in starts]
    return reduce_blocks(None, blocks, from_block, combine)


def _delayed_blocks(array: Any) -> list[Any]:
    if not is_dask(array):
        array = da.from_array(array, chunks=(BLOCK_ROWS, *array.shape[1:]))
    whole = dict.fromkeys(range(1, array.ndim), -1)
    return list(array.rechunk({0: BLOCK_ROWS, **whole}).to_delayed().ravel())


def _held(from_rows: Callable[..., T]) -> Callable[..., T]:
    def held(*blocks: Any) -> T:
        with one_blas_thread():
            return from_rows(*blocks)

    return held
