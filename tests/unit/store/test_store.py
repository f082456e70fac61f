"""Writing, reading and verifying a store, without any engine."""

from __future__ import annotations

import json
import pickle
import shutil

import numpy as np
import pytest
import xarray as xr

from mrscale.errors import StoreError
from mrscale.store import writer
from mrscale.store.reader import open_dataset, open_store
from mrscale.store.schema import ARRAYS, MANIFEST, Layout
from mrscale.store.verify import verify

LAYOUT = Layout(num_samples=150, num_variants=7, chunk_rows=16, shard_rows=64)
SIZES = {"samples": 150, "variants": 7, "environments": 2, "exposures": 1, "outcomes": 2}
SIZES |= {"covariates": 0, "alleles": 2}


def values():
    rng = np.random.default_rng(5)
    arrays = {}
    for spec in ARRAYS:
        shape = tuple(SIZES[dim] for dim in spec.dims)
        if spec.dtype == "str":
            texts = [f"{spec.name}-{i}" for i in range(int(np.prod(shape)))]
            arrays[spec.name] = np.array(texts, dtype=object).reshape(shape)
        else:
            arrays[spec.name] = rng.integers(-1, 3, size=shape).astype(spec.dtype)
    arrays["environment"] = np.repeat([0, 1], [90, 60]).astype(np.int16)
    arrays["environment_offset"] = np.array([0, 90])
    return arrays


def write(path, arrays):
    writer.create(path, LAYOUT)
    dosage = arrays["call_dosage"]
    small = {n: writer.write_array(path, n, v) for n, v in arrays.items() if n != "call_dosage"}
    shards = {
        i: writer.write_shard(path, i, dosage[LAYOUT.shard(i)], key="k")
        for i in range(LAYOUT.num_shards)
    }
    return writer.finalise(
        path, layout=LAYOUT, arrays=small, shards=shards, report={}, provenance={}, run={}
    )


@pytest.fixture
def store(tmp_path):
    write(tmp_path / "s.zarr", values())
    return tmp_path / "s.zarr"


def test_what_was_written_is_read_back(store):
    opened, expected = open_store(store), values()
    for name, value in expected.items():
        np.testing.assert_array_equal(opened.array(name), value.astype(opened.array(name).dtype))
    np.testing.assert_array_equal(opened.dosage(slice(10, 70)), expected["call_dosage"][10:70])
    assert opened.names("environments") == ["environment_name-0", "environment_name-1"]
    assert opened.names("covariates") == []
    verify(store)


def test_column_major_text_keeps_its_place(tmp_path):
    arrays = values()
    arrays["variant_allele"] = np.asfortranarray(arrays["variant_allele"])
    write(tmp_path / "s.zarr", arrays)
    verify(tmp_path / "s.zarr")
    np.testing.assert_array_equal(
        open_store(tmp_path / "s.zarr").array("variant_allele"), values()["variant_allele"]
    )


def test_equal_content_gives_equal_digests_and_other_content_another(store, tmp_path):
    again = write(tmp_path / "again.zarr", values())
    assert again == open_store(store).manifest
    changed = values()
    changed["call_dosage"][3, 3] = (changed["call_dosage"][3, 3] + 2) % 3
    assert write(tmp_path / "other.zarr", changed)["digest"] != again["digest"]


def test_opens_with_plain_xarray_and_shows_no_ids(store):
    dataset = open_dataset(store)
    expected = values()["call_dosage"]
    np.testing.assert_array_equal(xr.open_zarr(store)["call_dosage"].values, expected)
    assert dataset["call_dosage"].dims == ("samples", "variants")
    assert "sample_id-" not in repr(dataset) + dataset._repr_html_()


def test_pickles_and_reopens(store):
    opened = open_store(store)
    first = opened.dosage(slice(0, 5))
    copy = pickle.loads(pickle.dumps(opened))
    np.testing.assert_array_equal(copy.dosage(slice(0, 5)), first)
    assert copy.digest == opened.digest


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
    with pytest.raises(StoreError, match="chunk 4"):
        verify(store)


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


def test_verify_sees_a_valid_file_with_other_content(store):
    other = values()["call_dosage"][LAYOUT.shard(1)][::-1].copy()
    writer.write_shard(store, 1, other, key="k")
    with pytest.raises(StoreError, match=r"call_dosage, shard 1 \(rows 64 to 127\) differs"):
        verify(store)


def test_an_unfinished_store_cannot_be_committed(tmp_path):
    writer.create(tmp_path / "s", LAYOUT)
    with pytest.raises(StoreError, match=r"cannot be finished.*sample_id"):
        writer.finalise(
            tmp_path / "s", layout=LAYOUT, arrays={}, shards={}, report={}, provenance={}, run={}
        )


def test_a_rerun_keeps_shards_of_the_same_key_only(tmp_path):
    path, dosage = tmp_path / "s", values()["call_dosage"]
    writer.create(path, LAYOUT)
    sha = writer.write_shard(path, 1, dosage[LAYOUT.shard(1)], key="mine")
    writer.create(path, LAYOUT)
    assert writer.finished_shards(path, "mine") == {1: sha}
    assert writer.finished_shards(path, "another") == {}
    writer.create(path, Layout(150, 6, 16, 64))
    assert not list((path / "call_dosage").glob("c/*/*"))


def test_an_unknown_array_is_named(store):
    with pytest.raises(StoreError, match="no array 'dosages'"):
        open_store(store).array("dosages")
