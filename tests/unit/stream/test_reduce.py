"""Reductions over blocks: the same bits whoever computes them."""

from __future__ import annotations

import shutil
from threading import Lock

import numpy as np
import pytest
from dask.system import CPU_COUNT
from distributed import Client, LocalCluster
from numpy.testing import assert_allclose, assert_array_equal
from threadpoolctl import threadpool_info

from mrscale.errors import StoreError
from mrscale.sampling.plan import blocks
from mrscale.stats.moments import Moments
from mrscale.store.reader import open_store
from mrscale.stream.engine import engine
from mrscale.stream.reduce import map_blocks, one_blas_thread, reduce_blocks

ROWS = np.random.default_rng(0).normal(size=(1003, 7)) * 10.0 ** np.arange(-3, 4)
CUTS = blocks(len(ROWS), 64)


def moments(rows: slice) -> Moments:
    return Moments.from_block(ROWS[rows])


def cluster(threads: int, *, processes: bool = False) -> LocalCluster:
    return LocalCluster(
        n_workers=2 if processes else 1,
        threads_per_worker=threads,
        processes=processes,
        protocol="tcp",
        host="127.0.0.1",
        dashboard_address=None,
    )


@pytest.fixture(scope="module")
def client():
    with engine() as found:
        yield found


@pytest.fixture(scope="module")
def expected(client):
    return reduce_blocks(client, CUTS, moments, Moments.combine)


def test_the_reduction_equals_the_dense_one(expected):
    dense = Moments.from_block(ROWS)
    assert expected.count == dense.count
    assert_allclose(expected.mean, dense.mean, rtol=1e-12, atol=1e-12)
    size = np.sqrt(np.diag(dense.cross))
    assert (np.abs(expected.cross - dense.cross) <= 1e-12 * np.outer(size, size)).all()


@pytest.mark.parametrize(("threads", "processes"), [(1, False), (3, False), (1, True)])
def test_any_number_of_workers_gives_the_same_bits(expected, threads, processes):
    rows = ROWS

    def here(cut: slice) -> Moments:  # sent by value: a worker process cannot import this file
        return Moments.from_block(rows[cut])

    with cluster(threads, processes=processes) as workers, Client(workers) as client:
        found = reduce_blocks(client, CUTS, here, Moments.combine)
    assert_array_equal(found.mean, expected.mean)
    assert_array_equal(found.cross, expected.cross)


def test_threads_without_an_engine_give_the_same_bits(expected):
    found = reduce_blocks(None, CUTS, moments, Moments.combine)
    assert_array_equal(found.mean, expected.mean)
    assert_array_equal(found.cross, expected.cross)


@pytest.fixture(scope="module", params=["dask", "threads"])
def either(request, client):
    """A client, or None for threads without one."""
    return client if request.param == "dask" else None


def test_the_tree_depends_on_the_number_of_blocks_only(either):
    cuts = blocks(5, 1)
    found = reduce_blocks(either, cuts, lambda rows: str(rows.start), lambda a, b: f"({a}{b})")
    assert found == "(((01)(23))4)"
    assert reduce_blocks(either, cuts[:1], lambda rows: rows.start, max) == 0


def test_results_come_in_the_order_of_the_blocks(client):
    assert map_blocks(client, CUTS, lambda rows: rows.start) == [cut.start for cut in CUTS]


def test_progress_adds_up_to_one(either):
    amounts: list[float] = []
    reduce_blocks(
        either,
        CUTS,
        moments,
        Moments.combine,
        progress=lambda amount=1, note="": amounts.append(amount),
    )
    assert len(amounts) == len(CUTS)
    assert sum(amounts) == pytest.approx(1)


class Partial:
    """A partial result that knows how many of its kind there are."""

    lock, alive, most = Lock(), 0, 0

    def __init__(self, total: int) -> None:
        self.total = total
        with self.lock:
            Partial.alive += 1
            Partial.most = max(Partial.most, Partial.alive)

    def __del__(self) -> None:
        with self.lock:
            Partial.alive -= 1


def test_few_partial_results_are_in_memory_at_once():
    depth = 9
    Partial.most = 0
    found = reduce_blocks(
        None,
        blocks(2**depth, 1),
        lambda rows: Partial(rows.start),
        lambda a, b: Partial(a.total + b.total),
    )
    assert found.total == 2**depth * (2**depth - 1) // 2
    # each block that is late parts what is done into a tree per level; three are in each hand
    assert Partial.most <= CPU_COUNT * (depth + 3)


def fail_late(rows: slice) -> int:
    if rows.start > 500:
        raise StoreError("the store is damaged at call_dosage, chunk 9")
    return 1


@pytest.mark.parametrize("compute", [map_blocks, reduce_blocks])
def test_an_error_in_a_block_is_the_callers(client, compute):
    combine = () if compute is map_blocks else (int.__add__,)
    with pytest.raises(StoreError, match="damaged at call_dosage, chunk 9"):
        compute(client, CUTS, fail_late, *combine)
    assert sum(map_blocks(client, CUTS, lambda rows: 1)) == len(CUTS)


def test_an_error_in_a_thread_is_the_callers_and_stops_the_others():
    started = []

    def block(rows: slice) -> int:
        started.append(rows)
        return fail_late(slice(501, 502))

    with pytest.raises(StoreError, match="damaged at call_dosage, chunk 9"):
        reduce_blocks(None, blocks(10_000, 1), block, int.__add__)
    assert len(started) <= CPU_COUNT


def test_an_error_while_combining_is_the_callers(either):
    with pytest.raises(ZeroDivisionError, match="division"):
        reduce_blocks(either, CUTS, lambda rows: 0, lambda a, b: a // b)


def blas_threads() -> set[int]:
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


def test_blas_has_one_thread_inside_a_block_and_as_many_as_before_afterwards():
    before = blas_threads()
    found = reduce_blocks(None, CUTS, lambda rows: blas_threads(), set.union)
    assert found == {1}
    assert blas_threads() == before


def test_a_thread_that_leaves_does_not_free_blas_for_the_others():
    with one_blas_thread():
        with one_blas_thread():
            pass
        assert blas_threads() == {1}


def test_a_damaged_chunk_is_named(client, small_store, tmp_path):
    path = tmp_path / "store.zarr"
    shutil.copytree(small_store, path)
    shard = path / "call_dosage" / "c" / "0" / "0"
    content = bytearray(shard.read_bytes())
    content[20] ^= 255
    shard.write_bytes(bytes(content))
    store = open_store(path)
    cuts = blocks(store.num_samples, store.layout.chunk_rows)
    with pytest.raises(StoreError, match=r"damaged at call_dosage, chunk \d+ \(rows"):
        map_blocks(client, cuts, store.dosage)
