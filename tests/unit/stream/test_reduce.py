"""Reductions over blocks: the same bits whoever computes them."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from distributed import Client, LocalCluster
from numpy.testing import assert_allclose, assert_array_equal

from mrscale.errors import StoreError
from mrscale.sampling.plan import blocks
from mrscale.stats.moments import Moments
from mrscale.store.reader import open_store
from mrscale.stream.engine import engine
from mrscale.stream.reduce import map_blocks, reduce_blocks

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


def test_the_tree_depends_on_the_number_of_blocks_only(client):
    cuts = blocks(5, 1)
    found = reduce_blocks(client, cuts, lambda rows: str(rows.start), lambda a, b: f"({a}{b})")
    assert found == "(((01)(23))4)"
    assert reduce_blocks(client, cuts[:1], lambda rows: rows.start, max) == 0


def test_results_come_in_the_order_of_the_blocks(client):
    assert map_blocks(client, CUTS, lambda rows: rows.start) == [cut.start for cut in CUTS]


def test_progress_adds_up_to_one(client):
    amounts: list[float] = []
    reduce_blocks(
        client,
        CUTS,
        moments,
        Moments.combine,
        progress=lambda amount=1, note="": amounts.append(amount),
    )
    assert len(amounts) == len(CUTS)
    assert sum(amounts) == pytest.approx(1)


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


def test_an_error_while_combining_is_the_callers(client):
    with pytest.raises(ZeroDivisionError, match="division"):
        reduce_blocks(client, CUTS, lambda rows: 0, lambda a, b: a // b)


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
