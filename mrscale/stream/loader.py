"""Execute plans: read whole chunks ahead of the trainer, gather the rows of each batch."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mrscale.sampling.plan import Plan, Rows
from mrscale.store.reader import GenotypeStore
from mrscale.stream.engine import Readers, answered

T = TypeVar("T")
Batch = tuple[NDArray[Any], NDArray[np.int16]]

PREFETCH_BYTES = 512 * 2**20
LOOKAHEAD_BATCHES = 256
"""Batches whose chunks may be asked for, as far as the bytes allow."""
DRAWN_BATCHES = 32
"""Batches whose rows are drawn at once."""
READY_BATCHES = 4
"""Batches gathered ahead of the trainer."""
READ_SECONDS = 600
"""After which a chunk is not waited for any longer."""


@dataclass(eq=False)
class Loader:
    """Reads batches of dosages from a store.

    Attributes
    ----------
    readers : Readers
        Read and decode chunks; see :func:`mrscale.stream.engine.readers`.
    store : GenotypeStore
    prefetch_bytes : int
        Bound on the decoded chunks held, if it is more than those of one batch.
    chunks_read : int
        So far; each rank reads the chunks of its own rows, and some are read by several.
    """

    readers: Readers
    store: GenotypeStore
    prefetch_bytes: int = PREFETCH_BYTES
    chunks_read: int = field(default=0, init=False)

    @property
    def chunk_rows(self) -> int:
        """Rows in a chunk of the store."""
        return self.store.layout.chunk_rows

    def batches(
        self, plans: Sequence[Plan], *, start: int, stop: int, rank: int = 0, world: int = 1
    ) -> Iterator[Batch]:
        """Batches ``start`` to ``stop`` of plans that are followed side by side.

        Parameters
        ----------
        plans : sequence of Plan
            Of disjoint rows, as a rule. With one seed they need the same chunks at a time.
        start, stop : int
            Global steps; resuming at ``start`` gives the batches an undisturbed run would have had.
        rank, world : int
            This process's slice of every batch.

        Yields
        ------
        dosage : ndarray, shape (B, M), int8 or float32
            Rows by plan, then by environment. Missing calls are negative or NaN.
        environment : ndarray, shape (B,), int16

        Raises
        ------
        StoreError
            If a chunk is damaged; it is named.
        EngineError
            If a Dask cluster reads, and its scheduler or all of its workers are gone.
        """
        return ahead(lambda: self._batches(plans, start, stop, rank, world), READY_BATCHES)

    def batches_as(
        self,
        decode: Callable[[NDArray[Any]], T],
        plans: Sequence[Plan],
        *,
        start: int,
        stop: int,
        rank: int = 0,
        world: int = 1,
    ) -> Iterator[T]:
        """What ``decode`` makes of the dosages of every batch, ahead of the trainer as they are;
        see :meth:`batches`."""
        batches = partial(self._batches, plans, start, stop, rank, world)
        return ahead(lambda: (decode(dosage) for dosage, _ in batches()), READY_BATCHES)

    def rows(self, rows: Rows) -> NDArray[Any]:
        """Dosages of some rows, in their order; shape (B, M)."""
        chunks = self._chunks()
        index = rows // self.chunk_rows
        order = np.argsort(index, kind="stable")
        parts = np.split(order, np.flatnonzero(np.diff(index[order])) + 1)
        dosage = self._empty(len(rows))
        for step, part in enumerate(parts):
            for later, soon in enumerate(parts[step : step + READY_BATCHES], start=step):
                chunks.request(rows[soon], later, force=later == step)
            dosage[part] = chunks.gather(rows[part])
            chunks.forget(step + 1)
        return dosage

    def _batches(
        self, plans: Sequence[Plan], start: int, stop: int, rank: int, world: int
    ) -> Iterator[Batch]:
        shares = [part for plan in plans for part in plan.batch(start, rank=rank, world=world)]
        codes = np.tile(np.arange(len(plans[0].rows), dtype=np.int16), len(plans))
        environment = np.repeat(codes, [len(part) for part in shares])
        chunks, drawn = self._chunks(), _drawn(plans, start, stop, rank, world)
        waiting: deque[Rows] = deque()
        put_off: Rows | None = None
        for step in range(start, stop):
            while len(waiting) < LOOKAHEAD_BATCHES:
                rows = put_off if put_off is not None else next(drawn, None)
                if rows is None:
                    break
                put_off = None
                if not chunks.request(rows, step + len(waiting), force=not waiting):
                    put_off = rows
                    break
                waiting.append(rows)
            yield chunks.gather(waiting.popleft()), environment
            chunks.forget(step + 1)

    def _chunks(self) -> _Chunks:
        bytes_of_one = self._empty(self.chunk_rows).nbytes
        return _Chunks(self, max(1, self.prefetch_bytes // max(1, bytes_of_one)))

    def _empty(self, num_rows: int) -> NDArray[Any]:
        return np.empty((num_rows, self.store.num_variants), dtype=self.store.dosage_dtype)


def _drawn(plans: Sequence[Plan], start: int, stop: int, rank: int, world: int) -> Iterator[Rows]:
    """Rows of one batch after the other, drawn many at once."""
    for first in range(start, stop, DRAWN_BATCHES):
        last = min(first + DRAWN_BATCHES, stop)
        windows = [plan.window(first, last, rank=rank, world=world) for plan in plans]
        yield from np.concatenate([part for parts in windows for part in parts], axis=1)


class _Chunks:
    """Decoded chunks, there or on their way, bounded in number."""

    def __init__(self, loader: Loader, most: int) -> None:
        self._loader, self._most = loader, most
        self._size = loader.chunk_rows
        self._held: dict[int, Any] = {}
        self._last_step: dict[int, int] = {}
        self._step = 0

    def request(self, rows: Rows, step: int, *, force: bool) -> bool:
        """Start reading the chunks of a batch; False, unless forced, if that is too many."""
        wanted = np.unique(rows // self._size).tolist()
        new = [chunk for chunk in wanted if chunk not in self._held]
        spare = self._most - len(self._held) - len(new)
        if spare < 0:
            kept = set(wanted)
            idle = [c for c, s in self._last_step.items() if s < self._step and c not in kept]
            if len(idle) < -spare and not force:
                return False
            for chunk in sorted(idle, key=self._last_step.__getitem__)[:-spare]:
                del self._held[chunk], self._last_step[chunk]
        for chunk in new:
            read, where = self._loader.store.expected_dosage, self._loader.store.layout.chunk(chunk)
            self._held[chunk] = self._loader.readers.submit(read, where)
            self._loader.chunks_read += 1
        self._last_step |= dict.fromkeys(wanted, step)
        return True

    def gather(self, rows: Rows) -> NDArray[Any]:
        """Dosages of rows whose chunks were asked for, in runs of one chunk."""
        index = rows // self._size
        dosage = self._loader._empty(len(rows))
        cuts = [0, *(np.flatnonzero(np.diff(index)) + 1).tolist(), len(rows)]
        inside = rows - index * self._size
        for start, stop in pairwise(cuts):
            if start < stop:
                decoded = self._decoded(int(index[start]))
                decoded.take(inside[start:stop], axis=0, out=dosage[start:stop], mode="clip")
        return dosage

    def forget(self, step: int) -> None:
        """Say that the batches before ``step`` are over."""
        self._step = step

    def _decoded(self, chunk: int) -> NDArray[Any]:
        if not isinstance(self._held[chunk], np.ndarray):
            with answered():
                self._held[chunk] = self._held[chunk].result(READ_SECONDS)
        decoded: NDArray[Any] = self._held[chunk]
        return decoded


def ahead(start: Callable[[], Iterator[T]], most: int) -> Iterator[T]:
    """What an iterator gives, made in a thread that is at most so many items ahead.

    Parameters
    ----------
    start : callable
        Makes the iterator, inside the thread; its errors are raised here.
    most : int
    """
    ready: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(most)
    over = threading.Event()

    def hand(item: T | None, error: BaseException | None = None) -> bool:
        while not over.is_set():
            try:
                ready.put((item, error), timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def work() -> None:
        try:
            for item in start():
                if not hand(item):
                    return
            hand(None)
        except BaseException as error:
            hand(None, error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            if item is None:
                return
            yield item
    finally:
        over.set()
        thread.join()
