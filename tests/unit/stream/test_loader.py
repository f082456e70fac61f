"""Streamed batches are those of the plan, from wherever one starts and however little is held."""

from __future__ import annotations

import shutil
import threading
import time
import weakref

import numpy as np
import pytest

from mrscale.errors import StoreError
from mrscale.sampling.plan import Plan
from mrscale.store.reader import GenotypeStore, open_store
from mrscale.stream.engine import readers
from mrscale.stream.loader import READY_BATCHES, Loader, ahead

STEPS = 40


@pytest.fixture(scope="module")
def executor():
    with readers() as found:
        yield found


@pytest.fixture(scope="module")
def store(small_store):
    return open_store(small_store)


@pytest.fixture(scope="module")
def plan(store):
    rows = np.flatnonzero(np.arange(store.num_samples) % 5 != 0)
    environment = store.array("environment")[rows]
    parts = tuple(rows[environment == code] for code in range(len(store.names("environments"))))
    return Plan(parts, store.layout.chunk_rows, batch_size=40, seed=3)


def stream(executor, store, plan, start=0, stop=STEPS, rank=0, world=1, **options):
    loader = Loader(executor, store, **options)
    return list(loader.batches([plan], start=start, stop=stop, rank=rank, world=world))


def assert_same(found, expected):
    assert len(found) == len(expected)
    for one, two in zip(found, expected, strict=True):
        for a, b in zip(one, two, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def expected(store, plan):
    """Every batch by indexing the whole matrix."""
    dosage, environment = store.dosage(slice(None)), store.array("environment")
    rows = [np.concatenate(plan.batch(step)) for step in range(STEPS)]
    return [(dosage[index], environment[index]) for index in rows]


def test_batches_are_the_rows_of_the_plan(executor, store, plan, expected):
    found = stream(executor, store, plan)
    assert_same(found, expected)
    dosage, environment = found[0]
    assert dosage.dtype == np.int8
    assert environment.dtype == np.int16
    assert dosage.shape == (42, store.num_variants)


@pytest.mark.parametrize("start", [1, 17, STEPS - 1, STEPS])
def test_resuming_gives_the_batches_of_an_undisturbed_run(executor, store, plan, expected, start):
    assert_same(stream(executor, store, plan, start=start), expected[start:])


@pytest.mark.parametrize("prefetch_bytes", [1, 5 * 64 * 30, 2**30])
def test_any_bound_on_prefetching_gives_the_same_batches(
    executor, store, plan, expected, prefetch_bytes
):
    assert_same(stream(executor, store, plan, prefetch_bytes=prefetch_bytes), expected)


def test_several_plans_are_followed_side_by_side(executor, store, plan, expected):
    other = Plan(plan.rows, plan.chunk_rows, batch_size=9, seed=8)
    found = list(Loader(executor, store).batches([plan, other], start=3, stop=20))
    apart = zip(expected[3:20], stream(executor, store, other, start=3, stop=20), strict=True)
    assert_same(found, [tuple(map(np.concatenate, zip(*pair, strict=True))) for pair in apart])


@pytest.mark.parametrize("world", [2, 3, 20])
def test_ranks_together_hold_the_global_batch(executor, store, plan, expected, world):
    ranks = [stream(executor, store, plan, stop=6, rank=r, world=world) for r in range(world)]
    for step in range(6):
        dosage, environment = (
            np.concatenate(part) for part in zip(*(r[step] for r in ranks), strict=True)
        )
        order = np.argsort(environment, kind="stable")
        assert_same([(dosage[order], environment[order])], [expected[step]])


def test_rows_come_in_the_order_asked_for(executor, store):
    rows = np.random.default_rng(0).integers(0, store.num_samples, 500)
    found = Loader(executor, store, prefetch_bytes=1).rows(rows)
    np.testing.assert_array_equal(found, store.dosage(slice(None))[rows])


ALIVE: weakref.WeakSet = weakref.WeakSet()
READS: list[int] = []


class Watched(GenotypeStore):
    """A store whose decoded chunks can be counted while they are in memory, and its reads."""

    def dosage(self, rows):
        block = super().dosage(rows).view(Block)
        ALIVE.add(block)
        READS.append(rows.start)
        return block


class Block(np.ndarray):
    """An array that can be a member of a set."""

    def __hash__(self):
        return id(self)

    def __eq__(self, other):
        return self is other


@pytest.fixture
def watched(store):
    ALIVE.clear()
    READS.clear()
    return Watched(store.path, store.manifest)


@pytest.mark.parametrize("most", [1, 6])
def test_no_more_chunks_are_held_than_allowed_beside_those_of_one_batch(
    executor, watched, store, most
):
    # small batches from all 15 chunks: four of them are shuffled together at a time
    plan = Plan((np.arange(store.num_samples),), store.layout.chunk_rows, batch_size=8, seed=1)
    stop = plan.batches_per_epoch
    of_a_batch = max(len(np.unique(plan.batch(step)[0] // 64)) for step in range(stop))
    assert most + of_a_batch < store.layout.num_chunks
    limit = most * store.layout.chunk_rows * store.num_variants
    held = 0
    loader = Loader(executor, watched, limit)
    for _ in loader.batches([plan], start=0, stop=stop):
        deadline = time.monotonic() + 5
        while len(ALIVE) > most + of_a_batch and time.monotonic() < deadline:
            time.sleep(0.01)  # Dask forgets what was released a moment later
        held = max(held, len(ALIVE))
    assert 4 <= held <= most + of_a_batch


def test_with_room_for_all_every_chunk_is_read_once(executor, watched, store, plan):
    loader = Loader(executor, watched)
    for _ in loader.batches([plan], start=0, stop=STEPS):
        pass
    assert len(READS) == len(set(READS)) == store.layout.num_chunks == loader.chunks_read


def test_ranks_read_few_chunks_twice(executor, store):
    everybody = Plan((range(store.num_samples),), store.layout.chunk_rows, batch_size=64, seed=1)
    read = 0
    for rank in range(2):
        loader = Loader(executor, store, prefetch_bytes=1)
        for _ in loader.batches([everybody], start=0, stop=4, rank=rank, world=2):
            pass
        read += loader.chunks_read
    window = np.unique(np.concatenate(everybody.window(0, 4)[0]) // everybody.chunk_rows)
    assert len(window) <= read <= len(window) + 4


def test_a_damaged_chunk_stops_the_stream_with_its_name(executor, small_store, plan, tmp_path):
    path = tmp_path / "store.zarr"
    shutil.copytree(small_store, path)
    for shard in (path / "call_dosage" / "c").glob("*/0"):
        content = bytearray(shard.read_bytes())
        content[20] ^= 255
        shard.write_bytes(bytes(content))
    with pytest.raises(StoreError, match=r"damaged at call_dosage, chunk \d+"):
        stream(executor, open_store(path), plan)


def test_a_trainer_that_stops_leaves_no_thread_behind(executor, store, plan):
    before = threading.active_count()
    found = Loader(executor, store).batches([plan], start=0, stop=STEPS)
    next(found)
    assert threading.active_count() == before + 1
    found.close()
    assert threading.active_count() == before


def test_batches_are_made_only_so_far_ahead():
    made = []

    def numbers():
        for number in range(100):
            made.append(number)
            yield number

    found = ahead(numbers, READY_BATCHES)
    assert next(found) == 0
    deadline = time.monotonic() + 5
    while len(made) < READY_BATCHES + 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    # those that wait, the one that was taken, and one that waits to be put there
    assert len(made) == READY_BATCHES + 2
    assert list(found) == list(range(1, 100))


def test_an_error_ahead_is_raised_where_its_batch_would_come():
    def failing():
        yield 1
        raise StoreError("damaged")

    found = ahead(failing, 3)
    assert next(found) == 1
    with pytest.raises(StoreError, match="damaged"):
        next(found)
