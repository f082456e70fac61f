"""Environment-balanced batches: a pure function of seed, step and store layout.

Every global batch holds the same number of rows of every environment. Ranks take slices of the
global batches, so the batches do not depend on how many ranks there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]

WINDOW_CHUNKS = 4
"""Chunks of one environment that are shuffled together; more mix better and cost more memory."""


@dataclass(frozen=True, eq=False)
class Plan:
    """Batches over the rows to learn from.

    Attributes
    ----------
    rows : tuple of ndarray, one per environment
        Rows of the store to draw from, increasing. None may be empty.
    chunk_rows : int
        Rows per chunk of the store.
    batch_size : int
        Rows per global batch; rounded up to a multiple of the number of environments.
    seed : int
        Two plans with the same seed and rows are the same.
    """

    rows: tuple[Rows, ...]
    chunk_rows: int
    batch_size: int
    seed: int

    @property
    def per_environment(self) -> int:
        """Rows of each environment in a global batch."""
        return -(-self.batch_size // len(self.rows))

    @property
    def batches_per_epoch(self) -> int:
        """Batches after which the largest environment has been seen once."""
        return -(-max(len(rows) for rows in self.rows) // self.per_environment)

    @property
    def wraps(self) -> tuple[float, ...]:
        """How often each environment is seen in one epoch; 1 for the largest."""
        drawn = self.batches_per_epoch * self.per_environment
        return tuple(drawn / len(rows) for rows in self.rows)

    def batch(self, step: int, *, rank: int = 0, world: int = 1) -> tuple[Rows, ...]:
        """Rows of batch ``step`` for one rank, per environment.

        Parameters
        ----------
        step : int
            Global step, counted over epochs from 0.
        rank, world : int
            Slice to take: ranks are disjoint, and together they are the global batch.

        Returns
        -------
        tuple of ndarray, one per environment, int64
        """
        return tuple(self.window(step, step + 1, rank=rank, world=world)[:, 0])

    def window(self, start: int, stop: int, *, rank: int = 0, world: int = 1) -> Rows:
        """Rows of batches ``start`` to ``stop`` for one rank, drawn at once; see :meth:`batch`.

        Returns
        -------
        ndarray, shape (E, stop - start, b), int64
        """
        size = self.per_environment
        drawn = [self._draw(code, start * size, stop * size) for code in range(len(self.rows))]
        shape = len(self.rows), stop - start, size
        return np.concatenate(drawn).reshape(shape)[:, :, rank::world]

    def _draw(self, code: int, start: int, stop: int) -> Rows:
        """Rows ``start`` to ``stop`` of the endless stream of one environment's passes."""
        length = len(self.rows[code])
        passes = range(start // length, (stop - 1) // length + 1)
        parts = [
            _order(self, code, p)[max(start - p * length, 0) : stop - p * length] for p in passes
        ]
        return np.concatenate(parts)


@lru_cache(maxsize=64)
def _order(plan: Plan, code: int, number: int) -> Rows:
    """One pass over an environment: chunks shuffled, then rows within windows of chunks."""
    rng = np.random.default_rng([plan.seed, code, number])
    rows = plan.rows[code]
    chunks = np.split(rows, np.flatnonzero(np.diff(rows // plan.chunk_rows)) + 1)
    shuffled = [chunks[i] for i in rng.permutation(len(chunks))]
    windows = [
        np.concatenate(shuffled[i : i + WINDOW_CHUNKS])
        for i in range(0, len(shuffled), WINDOW_CHUNKS)
    ]
    return np.concatenate([rng.permutation(window) for window in windows])


def held_out(family: NDArray[np.int32], seed: int, share: float = 0.15) -> NDArray[np.bool_]:
    """Which rows are kept aside to judge an encoder while it trains.

    Parameters
    ----------
    family : ndarray, shape (N,), int32
        Family code of each row; relatives stay on one side. -1 is alone.
    seed : int
    share : float, default 0.15
        Expected share of rows kept aside.

    Returns
    -------
    ndarray, shape (N,), bool
    """
    rng = np.random.default_rng(seed)
    by_row = rng.random(len(family)) < share
    by_family = rng.random(int(family.max(initial=-1)) + 1) < share
    return np.where(family >= 0, by_family[family], by_row) if len(by_family) else by_row


def split_by_environment(
    rows: Rows, environment: NDArray[np.int16], num_environments: int
) -> tuple[Rows, ...]:
    """The rows of each environment, given the environment code of every row of the store."""
    return tuple(rows[environment[rows] == code] for code in range(num_environments))


def blocks(num_rows: int, block_rows: int) -> Sequence[slice]:
    """Consecutive blocks of rows; the last may be short."""
    return [slice(i, min(i + block_rows, num_rows)) for i in range(0, num_rows, block_rows)]
