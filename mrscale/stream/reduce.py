"""Map blocks of rows and combine what comes back along one fixed tree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from distributed import Client, as_completed

from mrscale.progress import Advance, silent

T = TypeVar("T")


def reduce_blocks(
    client: Client,
    blocks: Sequence[slice],
    from_block: Callable[[slice], T],
    combine: Callable[[T, T], T],
    *,
    progress: Advance = silent,
) -> T:
    """Compute ``from_block`` on every block and combine the results.

    Parameters
    ----------
    client : distributed.Client
    blocks : sequence of slice
        Rows of each block, at least one.
    from_block : callable
        Takes a slice of rows, reads what it needs and returns a partial result.
    combine : callable
        Joins two partial results.
    progress : Advance
        Told of every finished block; the amounts sum to 1.

    Returns
    -------
    T
        Combined along a tree that depends on the number of blocks only: the same bits for any
        number of workers and any order of execution.
    """
    leaves = client.map(from_block, blocks, pure=False)
    level: list[Any] = leaves
    while len(level) > 1:
        pairs = zip(level[::2], level[1::2], strict=False)
        combined = [client.submit(combine, a, b, pure=False) for a, b in pairs]
        level = combined + level[len(combined) * 2 :]
    _wait(leaves, progress)
    result: T = level[0].result()
    return result


def map_blocks(
    client: Client,
    blocks: Sequence[slice],
    function: Callable[[slice], T],
    *,
    progress: Advance = silent,
) -> list[T]:
    """Results of ``function`` on every block, in the order of the blocks."""
    futures = client.map(function, blocks, pure=False)
    _wait(futures, progress)
    return list(client.gather(futures))


def _wait(futures: Sequence[Any], progress: Advance) -> None:
    for future in as_completed(futures):
        if future.status == "error":
            future.result()  # raises the block's own error here, not at the end
        progress(1 / len(futures))
