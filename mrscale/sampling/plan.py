"""Environment-balanced batches: a pure function of seed, step and store layout.

Every global batch holds a fixed number of rows of every environment. Ranks take slices of the
global batches, so the batches do not depend on how many ranks there are.

Legend: E environments, N_e rows of one, b_e of them in a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mrscale.errors import InputError

Rows = NDArray[np.int64]

WINDOW_CHUNKS = 4
"""Chunks of one environment that are shuffled together; more mix better and cost more memory."""


@dataclass(frozen=True, eq=False)
class Plan:
    """Batches over the rows to learn from, which never end: every environment is passed over again
    and again, nothing is dropped, and an epoch is one pass over the slowest.

    Attributes
    ----------
    rows : tuple of range or ndarray, one per environment
        Rows of the store to draw from, increasing, as a range if they are all of an environment:
        a plan then takes the same memory for any number of people. None may be empty.
    chunk_rows : int
        Rows per chunk of the store.
    batch_size : int
        Rows per global batch; with equal shares rounded up to a multiple of E.
    seed : int
        Two plans with the same seed and rows are the same.
    balance : float, default 0
        Share of an environment in a batch, as a power of its size: 0 is equal shares, 1 shares in
        proportion to size, between them tempered.
    """

    rows: tuple[range | Rows, ...]
    chunk_rows: int
    batch_size: int
    seed: int
    balance: float = 0.0

    @cached_property
    def shares(self) -> tuple[int, ...]:
        """b_e: rows of each environment in every global batch, at least one.

        Raises
        ------
        InputError
            If the batch has fewer rows than there are environments and shares are not equal.
        """
        number = len(self.rows)
        if self.balance == 0:
            return (-(-self.batch_size // number),) * number
        if self.batch_size < number:
            raise InputError(
                f"a batch needs a row of each of the {number:,} environments; found a batch size "
                f"of {self.batch_size:,}; raise it"
            )
        weight = np.array([len(rows) for rows in self.rows], dtype=float) ** self.balance
        exact = self.batch_size * weight / weight.sum()
        shares = np.maximum(np.floor(exact), 1)
        while (left := self.batch_size - shares.sum()) > 0:
            shares[np.argmax(exact - shares)] += 1
        for _ in range(int(-left)):
            shares[np.argmax(np.where(shares > 1, shares - exact, -np.inf))] -= 1
        return tuple(int(share) for share in shares)

    @property
    def batches_per_epoch(self) -> int:
        """Batches after which every environment has been seen at least once."""
        return max(
            -(-len(rows) // share) for rows, share in zip(self.rows, self.shares, strict=True)
        )

    @property
    def wraps(self) -> tuple[float, ...]:
        """How often each environment is seen in one epoch; about 1 for the slowest."""
        return tuple(
            self.batches_per_epoch * share / len(rows)
            for rows, share in zip(self.rows, self.shares, strict=True)
        )

    def batch(self, step: int, *, rank: int = 0, world: int = 1) -> tuple[Rows, ...]:
        """Rows of batch ``step`` for one rank, per environment.

        Parameters
        ----------
        step : int
            Global step, counted over epochs from 0.
        rank, world : int
            Slice to take: ranks are disjoint, together they are the global batch, and they differ
            by at most one row of an environment.

        Returns
        -------
        tuple of ndarray, one per environment, int64
        """
        return tuple(part[0] for part in self.window(step, step + 1, rank=rank, world=world))

    def window(self, start: int, stop: int, *, rank: int = 0, world: int = 1) -> tuple[Rows, ...]:
        """Rows of batches ``start`` to ``stop`` for one rank, drawn at once; see :meth:`batch`.

        Returns
        -------
        tuple of ndarray, shape (stop - start, this rank's part of b_e), int64

        Notes
        -----
        Rows of a batch come in the order of their chunks, and ranks divide them so: few chunks are
        then read by more than one rank.
        """
        found = []
        for stream, share in zip(self._streams, self.shares, strict=True):
            drawn = stream.draw(start * share, stop * share).reshape(-1, share)
            order = np.argsort(drawn // self.chunk_rows, axis=1, kind="stable")
            mine = order[:, rank * share // world : (rank + 1) * share // world]
            found.append(np.take_along_axis(drawn, mine, axis=1))
        return tuple(found)

    @cached_property
    def _streams(self) -> tuple[_Stream, ...]:
        return tuple(
            _Stream(rows, self.chunk_rows, (self.seed, code)) for code, rows in enumerate(self.rows)
        )


class _Stream:
    """Endless passes over the rows of one environment: chunks in random order, then rows within
    windows of chunks. Holds the window it drew from last."""

    def __init__(self, rows: range | Rows, chunk_rows: int, seed: tuple[int, int]) -> None:
        self._rows, self._seed = rows, seed
        starts = chunk_rows * np.arange(rows[0] // chunk_rows + 1, rows[-1] // chunk_rows + 1)
        inner = starts - rows.start if isinstance(rows, range) else np.searchsorted(rows, starts)
        self._edges = np.unique(np.concatenate([[0], inner, [len(rows)]]))
        # a first window of fewer chunks, so that environments do not all need new ones at once
        many = len(self._edges) - 1 > WINDOW_CHUNKS
        self._lead = WINDOW_CHUNKS - 1 - seed[-1] % WINDOW_CHUNKS if many else 0
        self._window_at(0)

    def draw(self, start: int, stop: int) -> Rows:
        """Rows ``start`` to ``stop`` of the stream."""
        parts = [np.empty(0, dtype=np.int64)]
        while start < stop:
            if not self._first <= start < self._first + len(self._mixed):
                self._window_at(start)
            inside = start - self._first
            parts.append(self._mixed[inside : inside + stop - start])
            start += len(parts[-1])
        return np.concatenate(parts)

    def _window_at(self, place: int) -> None:
        """Shuffle the window of chunks that holds a place of the stream."""
        number, inside = divmod(place, len(self._rows))
        chunks = np.random.default_rng([*self._seed, number]).permutation(len(self._edges) - 1)
        ends = np.cumsum(np.diff(self._edges)[chunks])
        window = (int(np.searchsorted(ends, inside, side="right")) + self._lead) // WINDOW_CHUNKS
        first = max(0, window * WINDOW_CHUNKS - self._lead)
        chosen = chunks[first : (window + 1) * WINDOW_CHUNKS - self._lead]
        rows = [np.asarray(self._rows[self._edges[c] : self._edges[c + 1]]) for c in chosen]
        rng = np.random.default_rng([*self._seed, number, window])
        self._mixed: Rows = rng.permutation(np.concatenate(rows))
        self._first = number * len(self._rows) + (int(ends[first - 1]) if first else 0)


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


def blocks(num_rows: int, block_rows: int) -> Sequence[slice]:
    """Consecutive blocks of rows; the last may be short."""
    return [slice(i, min(i + block_rows, num_rows)) for i in range(0, num_rows, block_rows)]
