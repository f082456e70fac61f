"""The same bits whoever computes: any number of workers, processes or threads, any order."""

from __future__ import annotations

from functools import reduce

import dask.array as da
import numpy as np
import pytest
from distributed import Client, LocalCluster
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from mrscale.stats.moments import Moments, tree_combine
from mrscale.store.reader import open_store
from mrscale.stream import arrays as stream_arrays
from mrscale.stream.products import dosage_moments
from mrscale.stream.reduce import FixedTree
from mrscale.workflow.iv_many import iv_many


@given(order=st.integers(1, 60).flatmap(lambda n: st.permutations(range(n))))
def test_leaves_in_any_order_grow_the_tree_of_tree_combine(order):
    def combine(a: str, b: str) -> str:
        return f"({a}{b})"

    tree = FixedTree(len(order), combine)
    for index in order:
        tree.add(index, f"{index},")
    assert tree.root == tree_combine([f"{i}," for i in range(len(order))], combine)


@given(
    num_rows=st.integers(1, 40),
    seed=st.integers(0, 2**32 - 1),
    cuts=st.lists(st.integers(0, 40), max_size=5),
)
def test_moments_of_parts_in_any_order_are_those_of_the_whole(num_rows, seed, cuts):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(num_rows, 3)) * [1e-3, 1.0, 1e3] + [5.0, -2.0, 1e4]
    parts = [Moments.from_block(part) for part in np.split(rows, sorted(cuts))]
    rng.shuffle(parts)  # type: ignore[arg-type]
    found, whole = reduce(Moments.combine, parts), Moments.from_block(rows)
    size = np.sqrt(np.diag(whole.cross)) + 1e-9 * np.abs(whole.mean)
    assert found.count == whole.count
    # relative to the spread, or to what rounding of the mean leaves of it
    assert (np.abs(found.cross - whole.cross) <= 1e-10 * np.outer(size, size)).all()


def columns(num_people=40_000):
    rng = np.random.default_rng(0)
    z = rng.binomial(2, 0.3, (num_people, 5)).astype(np.int8)
    x = z @ rng.uniform(0.1, 0.4, (5, 2)) + rng.normal(size=(num_people, 2))
    y = x @ rng.normal(size=(2, 2)) + rng.normal(size=(num_people, 2))
    y[rng.random(y.shape) < 0.1] = np.nan
    return y, x, z


def estimates(y, x, z):
    table = iv_many(y, x, z).select_dtypes("number")
    return table.to_numpy()


def test_iv_many_has_the_same_bits_for_arrays_in_memory_and_any_dask_chunks():
    y, x, z = columns()
    expected = estimates(y, x, z)
    rows = stream_arrays.BLOCK_ROWS
    for chunk in (rows, rows // 4, 3 * rows):
        lazy = (da.from_array(a, chunks=(chunk, -1)) for a in (y, x, z))
        assert_array_equal(estimates(*lazy), expected)


@pytest.mark.slow
def test_any_number_of_worker_processes_gives_the_same_bits(small_store):
    store = open_store(small_store)
    moments = dosage_moments(None, store)
    y, x, z = columns()
    expected = estimates(y, x, z)
    lazy = [da.from_array(a, chunks=(stream_arrays.BLOCK_ROWS, -1)) for a in (y, x, z)]
    with (
        LocalCluster(
            n_workers=1,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
            host="127.0.0.1",
        ) as cluster,
        Client(cluster) as client,
    ):
        for workers in (1, 2, 3, 7):
            cluster.scale(workers)
            client.wait_for_workers(workers)
            assert_array_equal(estimates(*lazy), expected)  # on the active client
            if workers == 3:  # each process imports torch first, which takes seconds
                found = dosage_moments(client, store)
                assert_array_equal(found.mean, moments.mean)
                assert_array_equal(found.cross, moments.cross)
            assert len(client.scheduler_info()["workers"]) == workers


@pytest.mark.parametrize("seed", range(3))
def test_rows_in_another_order_change_nothing_beyond_rounding(seed):
    y, x, z = columns(3000)
    order = np.random.default_rng(seed).permutation(len(y))
    found, expected = iv_many(y[order], x[order], z[order]), iv_many(y, x, z)
    for name in ("estimate", "std_error", "ci_lower", "first_stage_f", "num_obs"):
        assert_allclose(found[name], expected[name], rtol=1e-12)
