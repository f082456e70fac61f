"""Execute a plan: read whole chunks ahead of the trainer, gather the rows of each batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
from distributed import Client
from numpy.typing import NDArray

from mrscale.sampling.plan import Plan
from mrscale.store.reader import GenotypeStore

Batch = tuple[NDArray[Any], NDArray[np.int16]]

PREFETCH_BYTES = 256 * 2**20
LOOKAHEAD_BATCHES = 32


def batches(
    client: Client,
    store: GenotypeStore,
    plan: Plan,
    *,
    start: int,
    stop: int,
    rank: int = 0,
    world: int = 1,
    prefetch_bytes: int = PREFETCH_BYTES,
) -> Iterator[Batch]:
    """Batches ``start`` to ``stop`` of a plan.

    Parameters
    ----------
    client : distributed.Client
        Reads and decodes chunks.
    store : GenotypeStore
    plan : Plan
    start, stop : int
        Global steps; resuming at ``start`` gives the batches an undisturbed run would have had.
    rank, world : int
        This process's slice of every batch.
    prefetch_bytes : int
        Bound on the decoded chunks held, beyond those of one batch.

    Yields
    ------
    dosage : ndarray, shape (B, M), int8 or float32
        Missing calls are negative or NaN.
    environment : ndarray, shape (B,), int16
    """
    chunks = _Chunks(client, store, prefetch_bytes)
    waiting: deque[NDArray[np.int64]] = deque()
    share = len(range(rank, plan.per_environment, world))
    environment = np.repeat(np.arange(len(plan.rows), dtype=np.int16), share)
    next_step = start
    for _ in range(start, stop):
        while next_step < stop and len(waiting) < LOOKAHEAD_BATCHES:
            rows = np.concatenate(plan.batch(next_step, rank=rank, world=world))
            if waiting and not chunks.request(rows):
                break
            waiting.append(rows)
            next_step += 1
        yield chunks.gather(waiting.popleft()), environment
        chunks.forget(waiting)


class _Chunks:
    """Decoded chunks on their way, bounded in bytes."""

    def __init__(self, client: Client, store: GenotypeStore, limit: int) -> None:
        self._client, self._store = client, store
        self._rows = store.layout.chunk_rows
        row_bytes = np.dtype(store.dosage_dtype).itemsize * max(1, store.num_variants)
        self._most = max(1, limit // (self._rows * row_bytes))
        self._futures: dict[int, Any] = {}
        self._decoded: dict[int, NDArray[Any]] = {}

    def request(self, rows: NDArray[np.int64]) -> bool:
        """Start reading the chunks of some rows; False if that would pass the limit."""
        wanted = set(np.unique(rows // self._rows).tolist()) - self._futures.keys()
        if len(self._futures) + len(wanted) > self._most:
            return False
        self._read(wanted)
        return True

    def gather(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        index = rows // self._rows
        needed = np.unique(index)
        self._read(set(needed.tolist()) - self._futures.keys())
        dosage = np.empty((len(rows), self._store.num_variants), dtype=self._store.dosage_dtype)
        for chunk in needed.tolist():
            if chunk not in self._decoded:
                self._decoded[chunk] = self._futures[chunk].result()
            here = index == chunk
            dosage[here] = self._decoded[chunk][rows[here] - chunk * self._rows]
        return dosage

    def forget(self, waiting: deque[NDArray[np.int64]]) -> None:
        """Drop, oldest first, chunks that no waiting batch needs, once the limit is near."""
        if len(self._futures) < self._most:
            return
        needed = {chunk for rows in waiting for chunk in np.unique(rows // self._rows).tolist()}
        for chunk in [c for c in self._futures if c not in needed]:
            del self._futures[chunk]
            self._decoded.pop(chunk, None)

    def _read(self, chunks: set[int]) -> None:
        for chunk in sorted(chunks):
            rows = self._store.layout.chunk(chunk)
            read = self._store.expected_dosage
            self._futures[chunk] = self._client.submit(read, rows, pure=False)
