"""Design rows of a store, as blocks and as passes see them."""

from __future__ import annotations

import pickle
import shutil

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from mrscale.errors import InputError
from mrscale.stats.moments import Moments
from mrscale.store import writer
from mrscale.store.reader import GenotypeStore, open_store
from mrscale.store.schema import DOSAGES, SPECS
from mrscale.workflow.iv_data import Data
from mrscale.workflow.store_data import StoreData


def data_of(store, covariates=("age", "PC1"), *, clustered=False):
    return StoreData.read(store, None, ["exposure"], "outcome", covariates, clustered=clustered)


def rows_of(data):
    layout = data.rows.store.layout
    return np.concatenate([data.rows.of(layout.chunk(i)) for i in range(layout.num_chunks)])


@pytest.fixture
def holes(small, changed_store):
    """Missing traits everywhere, and nobody of the middle environment."""
    exposure, covariate = small.array("exposure"), small.array("covariate")
    exposure[::9] = np.nan
    exposure[small.array("environment") == 1] = np.nan
    covariate[3::11, 1] = np.nan
    return open_store(changed_store(exposure=exposure, covariate=covariate))


def imputed(small, path):
    """A store of imputed dosages with the small store's people."""
    rng = np.random.default_rng(4)
    calls = small.dosage(slice(None))
    codes = np.clip(126 * calls.astype(int) + rng.integers(-30, 30, calls.shape), 0, 252)
    codes = np.where(calls < 0, DOSAGES.missing, codes).astype(np.uint8)
    writer.create(path, small.layout, code=DOSAGES)
    arrays = {name: small.array(name) for name in SPECS if name != "call_dosage"}
    writer.finalise(
        path,
        layout=small.layout,
        arrays={name: writer.write_array(path, name, value) for name, value in arrays.items()},
        shards={
            shard: writer.write_shard(path, shard, codes[small.layout.shard(shard)], key="k")
            for shard in range(small.layout.num_shards)
        },
        report={},
        provenance={},
        run={},
    )
    return open_store(path)


def test_rows_are_dosages_covariates_indicators_and_traits(holes):
    data = data_of(holes)
    keep = np.isfinite(holes.array("exposure")[:, 0]) & np.isfinite(holes.array("covariate")[:, 1])
    environment = holes.array("environment")[keep]
    assert data.present == (0, 2)
    assert data.covariates.names == ["age", "PC1", "environment west"]
    found = rows_of(data)
    fill = data.rows.fill[environment]
    dosage = holes.dosage(slice(None))[keep]
    assert_array_equal(found[:, :30], np.where(dosage < 0, fill, dosage))
    assert_array_equal(found[:, 30:32], holes.array("covariate")[keep].astype(float))
    assert_array_equal(found[:, data.indicators[0]], environment == 2)
    assert_array_equal(found[:, -2], holes.array("exposure")[keep, 0].astype(float))
    assert_array_equal(data.environment, environment)
    assert_array_equal(data.fold, holes.array("fold")[keep])
    assert data.ends[-1] == keep.sum()


@pytest.mark.parametrize("code", ["calls", "imputed"])
def test_both_passes_see_the_same_numbers(holes, small, tmp_path, code):
    store = holes if code == "calls" else imputed(small, tmp_path / "imputed.zarr")
    data = data_of(store)
    exact = data.with_indicators(data.group_moments())
    dense = Moments.from_block(rows_of(data))
    assert exact.count == dense.count
    assert_allclose(exact.mean, dense.mean, rtol=1e-12)
    assert_allclose(exact.cross, dense.cross, rtol=1e-11, atol=1e-9)
    summed = data.moments()  # the pass of any other data
    assert_allclose(summed.cross, dense.cross, rtol=1e-11, atol=1e-9)


def test_clusters_reach_the_people_they_are_of(holes):
    data = data_of(holes, clustered=True)
    sums = data.outer_sums(lambda rows, _: (rows[:, [0, -1]],))
    rows, cluster = rows_of(data)[:, [0, -1]], np.unique(data.codes)
    by_hand = np.array([rows[data.codes == code].sum(axis=0) for code in cluster])
    assert_allclose(sums.totals[0], by_hand.T @ by_hand, rtol=1e-12)
    family = holes.array("cluster")
    keep = np.isfinite(holes.array("exposure")[:, 0]) & np.isfinite(holes.array("covariate")[:, 1])
    together = family[keep][:, None] == family[keep]
    together &= family[keep] >= 0
    np.fill_diagonal(together, True)
    assert_array_equal(data.codes[:, None] == data.codes, together)
    assert data.num_clusters == len(cluster)


def test_chunks_without_people_are_not_read_again(holes, monkeypatch):
    data, read, rows_read = data_of(holes), GenotypeStore.dosage, []
    monkeypatch.setattr(
        GenotypeStore, "dosage", lambda self, rows: (rows_read.append(rows), read(self, rows))[1]
    )
    data.moments()
    people = np.diff(data.ends, prepend=0)
    assert len(rows_read) == (people > 0).sum() < len(people)


def test_progress_is_told_of_every_pass(small):
    told = []
    data = StoreData.read(
        small, None, ["exposure"], "outcome", ["age"], clustered=False, progress=told.append
    )
    data.group_moments()
    assert_allclose(sum(told), 1)
    data.outer_sums(lambda rows, _: (rows[:, :2],))
    assert_allclose(sum(told), 2)


def test_what_travels_to_workers_holds_no_people(small):
    data = data_of(small)
    rows_of(data)  # whatever is cached
    assert len(pickle.dumps(data.rows)) < 20_000
    assert isinstance(data, Data)


def test_ordinary_least_squares_read_no_dosages(holes, monkeypatch):
    data = data_of(holes).without_instruments()
    monkeypatch.setattr(GenotypeStore, "dosage", None)
    assert rows_of(data).shape[1] == data.columns.width == 5


def test_a_trait_that_is_not_there_is_named(small):
    with pytest.raises(InputError, match="no covariate PC2; it has age, PC1; did you mean 'PC1'"):
        data_of(small, covariates=["PC2"])


def test_a_damaged_store_is_said_to_be(small, tmp_path):
    path = tmp_path / "damaged.zarr"
    shutil.copytree(small.path, path)
    shard = next(p for p in (path / "call_dosage").rglob("*") if p.is_file() and p.name == "0")
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.write_bytes(content)
    data = data_of(open_store(path))
    with pytest.raises(Exception, match="the store is damaged at call_dosage, chunk"):
        data.group_moments()
