"""Verification finds whatever was done to a store, and says where."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mrscale.errors import StoreError
from mrscale.store import writer
from mrscale.store.append import append
from mrscale.store.reader import open_store
from mrscale.store.schema import MANIFEST
from mrscale.store.verify import verify


def flip(file):
    damaged = bytearray(file.read_bytes())
    damaged[5] ^= 0xFF
    file.write_bytes(bytes(damaged))


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_a_sound_store_passes_and_a_flipped_byte_names_its_chunk(store, workers):
    done = []
    assert verify(store, workers=workers, progress=done.append).digest == open_store(store).digest
    assert sum(done) == pytest.approx(1)
    flip(store / "call_dosage" / "c" / "1" / "0")
    with pytest.raises(StoreError, match=r"damaged at call_dosage, chunk 4 \(rows 64 to 79\)"):
        verify(store, workers=workers)


def test_a_valid_file_with_other_content_names_its_shard(store, values, layout):
    writer.write_shard(store, 1, values["call_dosage"][layout.shard(1)][::-1].copy(), key="k")
    with pytest.raises(StoreError, match=r"call_dosage, shard 1 \(rows 64 to 127\) differs"):
        verify(store)


def test_missing_and_extra_shards_are_refused(store):
    shards = store / "call_dosage" / "c"
    (shards / "2" / "0").rename(store / "kept")
    with pytest.raises(StoreError, match="lacks shard 2"):
        verify(store)
    (store / "kept").rename(shards / "2" / "0")
    (shards / "0" / "0.5f.partial").write_bytes(b"left by a kill")
    verify(store)
    (shards / "3").mkdir()
    (shards / "3" / "0").write_bytes((shards / "2" / "0").read_bytes())
    with pytest.raises(StoreError, match="files that the manifest does not know"):
        verify(store)


def test_a_manifest_that_was_edited_is_refused(store):
    manifest = json.loads((store / MANIFEST).read_text())
    manifest["shards"].reverse()
    (store / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(StoreError, match="the manifest does not fit its own digest"):
        verify(store)


@pytest.mark.parametrize(
    ("name", "place", "value", "message"),
    [
        ("call_dosage", (3, 3), 3, r"shard 0 \(rows 0 to 63\) has codes that are no dosages"),
        ("environment", 3, 1, "environment_offset does not fit environment"),
        ("environment", 149, 2, "environment_offset does not fit environment"),
        ("environment_offset", 1, 91, "environment_offset does not fit environment"),
        ("fold", 3, -1, "fold has codes below 0"),
        ("fold", 3, 2, "a family is split over folds"),
        ("family", 3, -2, "family has codes below -1"),
        ("cluster", 3, -2, "cluster has codes below -1"),
        ("sample_id", 3, "sample_id-4", "sample_id has an id twice"),
        ("exposure", (3, 0), np.inf, "exposure has infinite values"),
        ("variant_call_rate", (0, 0), 1.5, "variant_call_rate has values that are no shares"),
        ("variant_effect_allele", 3, "N", "variant_effect_allele is not one of the alleles"),
    ],
)
def test_a_store_written_against_the_rules_is_refused(
    tmp_path, values, write, name, place, value, message
):
    values[name][place] = value
    write(tmp_path / "bad.zarr", values)
    with pytest.raises(StoreError, match=message) as caught:
        verify(tmp_path / "bad.zarr")
    assert "sample_id-" not in str(caught.value)


def test_appended_traits_are_verified_too(store, values):
    added = append(store, values["sample_id"], {"outcome": (["new"], np.ones((150, 1)))})
    verify(store)
    group = store / "appended" / added.store.manifest["appended"][0]["name"]
    flip(group / "outcome" / "c" / "0" / "0")
    with pytest.raises(StoreError, match="damaged at outcome of appended"):
        verify(store)
