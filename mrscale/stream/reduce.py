"""Map blocks of rows and combine what comes back along one fixed tree."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures as threads
from contextlib import contextmanager
from functools import partial
from threading import Event, Lock
from typing import Any, Generic, TypeVar

from dask.system import CPU_COUNT
from distributed import Client, as_completed
from threadpoolctl import threadpool_limits

from mrscale.holding import Held
from mrscale.progress import Advance, silent

T = TypeVar("T")


def reduce_blocks(
    client: Client | None,
    blocks: Sequence[slice],
    from_block: Callable[[slice], T],
    combine: Callable[[T, T], T],
    *,
    progress: Advance = silent,
) -> T:
    """Compute ``from_block`` on every block and combine the results.

    Parameters
    ----------
    client : distributed.Client or None
        None: threads of this process, without starting any engine.
    blocks : sequence of slice
        Rows of each block, at least one.
    from_block : callable
        Takes a slice of rows, reads what it needs and returns a partial result.
    combine : callable
        Joins two partial results; must change neither.
    progress : Advance
        Told of every finished block; the amounts sum to 1.

    Returns
    -------
    T
        Combined along the tree of :func:`mrscale.stats.moments.tree_combine`, which depends on
        the number of blocks only: the same bits for any number of workers, any order of execution
        and after the loss of a worker, on one type of machine.

    Notes
    -----
    BLAS is held to one thread while a block is computed. Neighbours are combined as soon as both
    are there, so that the partial results in memory are as many as workers plus the depth of the
    tree, not as many as blocks.
    """
    if client is None:
        with one_blas_thread():
            return _reduce_in_threads(blocks, from_block, combine, progress)
    held = partial(_held_to_one_thread, from_block)
    return _reduce_in_client(client, blocks, held, combine, progress)


def map_blocks(
    client: Client | None,
    blocks: Sequence[slice],
    function: Callable[[slice], T],
    *,
    progress: Advance = silent,
) -> list[T]:
    """Results of ``function`` on every block, in the order of the blocks; without a client in
    threads of this process."""
    if client is None:
        return reduce_blocks(None, blocks, lambda b: [function(b)], operator.add, progress=progress)
    found = client.map(partial(_held_to_one_thread, function), blocks, pure=False)
    _wait(as_completed(found), len(found), progress)
    return list(client.gather(found))


def _reduce_in_client(
    client: Client,
    blocks: Sequence[slice],
    from_block: Callable[[slice], T],
    combine: Callable[[T, T], T],
    progress: Advance,
) -> T:
    level: list[Any] = client.map(from_block, blocks, pure=False)
    leaves = as_completed(level)
    while len(level) > 1:
        pairs = zip(level[::2], level[1::2], strict=False)
        # before any further block: a worker would otherwise hold all of its blocks' results
        combined = [client.submit(combine, a, b, pure=False, priority=1) for a, b in pairs]
        level = combined + level[len(combined) * 2 :]
    _wait(leaves, len(blocks), progress)
    result: T = level[0].result()
    return result


def _wait(leaves: as_completed, number: int, progress: Advance) -> None:
    for future in leaves:
        if future.status == "error":
            future.result()  # raises the block's own error here, not at the end
        progress(1 / number)


def _reduce_in_threads(
    blocks: Sequence[slice],
    from_block: Callable[[slice], T],
    combine: Callable[[T, T], T],
    progress: Advance,
) -> T:
    tree, failed = FixedTree(len(blocks), combine), Event()

    def compute(index: int) -> None:
        if failed.is_set():
            return
        try:
            tree.add(index, from_block(blocks[index]))
        except BaseException:
            failed.set()
            raise

    with threads.ThreadPoolExecutor(min(CPU_COUNT, len(blocks))) as pool:
        try:
            waiting = [pool.submit(compute, index) for index in range(len(blocks))]
            for done in threads.as_completed(waiting):
                done.result()
                progress(1 / len(blocks))
        except BaseException:
            failed.set()
            pool.shutdown(cancel_futures=True)
            raise
    return tree.root


class FixedTree(Generic[T]):
    """The tree of ``tree_combine`` over a known number of leaves, grown in any order by threads.

    A node (level, index) joins the nodes (level - 1, 2 index) and (level - 1, 2 index + 1); the
    last node of an odd level has no neighbour and goes up as it is.
    """

    def __init__(self, num_leaves: int, combine: Callable[[T, T], T]) -> None:
        self._num_leaves, self._combine = num_leaves, combine
        self._waiting: dict[tuple[int, int], T] = {}
        self._lock = Lock()

    @property
    def root(self) -> T:
        """What all leaves combine to, once all were added."""
        (value,) = self._waiting.values()
        return value

    def add(self, index: int, value: T) -> None:
        """Add a leaf and combine upwards as far as neighbours are there."""
        level, width = 0, self._num_leaves
        while width > 1:
            sibling = index ^ 1
            if sibling < width:
                with self._lock:
                    if (level, sibling) not in self._waiting:
                        self._waiting[level, index] = value
                        return
                    other = self._waiting.pop((level, sibling))
                value = (
                    self._combine(value, other) if index < sibling else self._combine(other, value)
                )
            level, index, width = level + 1, index // 2, (width + 1) // 2
        self._waiting[level, index] = value


def _held_to_one_thread(function: Callable[[slice], T], rows: slice) -> T:
    with one_blas_thread():
        return function(rows)


_blas = Held(lambda: threadpool_limits(1, user_api="blas").restore_original_limits)


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Hold this process's BLAS to one thread as long as any of its threads is inside."""
    with _blas:
        yield
