"""Writing, reading and verifying a store, without any engine."""

from __future__ import annotations

import copy
import json
import pickle
import shutil

import numpy as np
import pytest
import xarray as xr

from mrscale.errors import StoreError
from mrscale.store import writer
from mrscale.store.reader import open_dataset, open_store
from mrscale.store.schema import CALLS, DOSAGES, MANIFEST
from mrscale.store.verify import verify


def test_what_was_written_is_read_back(store, values):
    opened, expected = open_store(store), values
    for name, value in expected.items():
        np.testing.assert_array_equal(opened.array(name), value.astype(opened.array(name).dtype))
    np.testing.assert_array_equal(opened.dosage(slice(10, 70)), expected["call_dosage"][10:70])
    assert opened.names("environments") == ["environment_name-0", "environment_name-1"]
    assert opened.names("covariates") == []
    assert (opened.code, opened.manifest["version"]) == (CALLS, 1)
    verify(store)


def test_column_major_text_keeps_its_place(tmp_path, values, write):
    expected = values["variant_allele"].copy()
    write(tmp_path / "s.zarr", values | {"variant_allele": np.asfortranarray(expected)})
    verify(tmp_path / "s.zarr")
    np.testing.assert_array_equal(open_store(tmp_path / "s.zarr").array("variant_allele"), expected)


def test_equal_content_gives_equal_digests_and_other_content_another(
    store, tmp_path, values, write
):
    again = write(tmp_path / "again.zarr", values)
    assert again == open_store(store).manifest
    changed = copy.deepcopy(values)
    changed["call_dosage"][3, 3] = (values["call_dosage"][3, 3] + 2) % 3
    assert write(tmp_path / "other.zarr", changed)["digest"] != again["digest"]


def test_opens_with_plain_xarray_and_shows_no_ids(store, values):
    dataset = open_dataset(store)
    expected = values["call_dosage"]
    np.testing.assert_array_equal(xr.open_zarr(store)["call_dosage"].values, expected)
    assert dataset["call_dosage"].dims == ("samples", "variants")
    assert "sample_id-" not in repr(dataset) + dataset._repr_html_()


def test_pickles_and_reopens(store):
    opened = open_store(store)
    first = opened.dosage(slice(0, 5))
    again = pickle.loads(pickle.dumps(opened))
    np.testing.assert_array_equal(again.dosage(slice(0, 5)), first)
    assert again.digest == opened.digest


def test_a_folder_without_manifest_is_no_store(store):
    (store / MANIFEST).unlink()
    with pytest.raises(
        StoreError, match=r"not a finished genotype store.*run the extraction again"
    ):
        open_store(store)


def test_another_schema_version_is_refused(store):
    manifest = json.loads((store / MANIFEST).read_text())
    (store / MANIFEST).write_text(json.dumps(manifest | {"schema_version": "0.1"}))
    with pytest.raises(StoreError, match=r"store schema 0\.1, this mrscale reads"):
        open_dataset(store)


def test_a_flipped_byte_names_the_chunk(store):
    shard = store / "call_dosage" / "c" / "1" / "0"
    damaged = bytearray(shard.read_bytes())
    damaged[5] ^= 0xFF
    shard.write_bytes(bytes(damaged))
    with pytest.raises(StoreError, match=r"damaged at call_dosage, chunk 4 \(rows 64 to 79\)"):
        open_store(store).dosage(slice(0, 150))


def test_a_flipped_byte_in_a_small_array_names_it(store):
    file = store / "exposure" / "c" / "0" / "0"
    damaged = bytearray(file.read_bytes())
    damaged[5] ^= 0xFF
    file.write_bytes(bytes(damaged))
    with pytest.raises(StoreError, match="damaged at exposure"):
        open_store(store).array("exposure")


def test_a_lost_shard_is_not_read_as_missing_calls(store):
    shutil.rmtree(store / "call_dosage" / "c" / "2")
    with pytest.raises(StoreError, match="1 of 3 shards of call_dosage are gone"):
        open_store(store).dosage(slice(0, 5))


def test_a_lost_file_of_a_small_array_is_not_read_as_zeros(store):
    (store / "exposure" / "c" / "0" / "0").unlink()
    with pytest.raises(StoreError, match="1 of 1 files of exposure are gone"):
        open_store(store).array("exposure")


def test_an_unfinished_store_cannot_be_committed(tmp_path, layout):
    writer.create(tmp_path / "s", layout)
    with pytest.raises(StoreError, match=r"cannot be finished.*sample_id"):
        writer.finalise(
            tmp_path / "s", layout=layout, arrays={}, shards={}, report={}, provenance={}, run={}
        )


def test_an_unknown_array_is_named(store):
    with pytest.raises(StoreError, match="no array 'dosages'"):
        open_store(store).array("dosages")


def test_imputed_dosages_are_decoded_by_xarray_and_by_their_code(tmp_path, values, write):
    rng = np.random.default_rng(3)
    dosage = rng.uniform(0, 2, (150, 7)).astype(np.float32)
    dosage[0, :3], dosage[rng.random((150, 7)) < 0.1] = (0, 1, 2), np.nan
    path = tmp_path / "s.zarr"
    write(path, values | {"call_dosage": DOSAGES.encode(dosage)}, code=DOSAGES)
    store = open_store(path)
    verify(path)
    assert (store.code, store.dosage(slice(0, 1)).dtype) == (DOSAGES, np.uint8)
    found = store.code.decode(store.dosage(slice(None)))
    np.testing.assert_allclose(found, dosage, atol=DOSAGES.scale / 2 + 1e-6)
    # xarray decodes in double precision
    np.testing.assert_allclose(xr.open_zarr(path)["call_dosage"].values, found, rtol=1e-7)
    np.testing.assert_allclose(open_dataset(path)["call_dosage"].values, found, rtol=1e-7)


def test_a_shard_of_another_code_is_a_programming_error(tmp_path, layout):
    writer.create(tmp_path / "s", layout)
    with pytest.raises(TypeError, match="call_dosage is int8, but the shard is uint8"):
        writer.write_shard(tmp_path / "s", 0, np.zeros((64, 7), np.uint8), key="k")


def test_a_run_folder_is_told_from_the_store_in_it(store, tmp_path):
    shutil.copytree(store, tmp_path / "run" / "store.zarr")
    with pytest.raises(StoreError, match=r"run is a run folder; its store is .*run/store\.zarr$"):
        open_store(tmp_path / "run")
