"""Packing of dosages, and the assembly of shards from shuffled records (no Spark needed)."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrscale.errors import EngineError
from mrscale.store import writer
from mrscale.store.schema import Layout
from pipelines.transpose import PER_WORD, shard_writer, unpack

LAYOUT = Layout(num_samples=100, num_variants=5, chunk_rows=8, shard_rows=32)


def pack(dosage):
    """Words of one variant's dosages, as Hail's fold makes them."""
    codes = np.where(dosage < 0, 3, dosage).tolist()
    words = []
    for start in range(0, len(codes), PER_WORD):
        word = 0
        for code in codes[start : start + PER_WORD]:
            word = word * 4 + code
        words.append(word)
    return words


def batches(dosage_NM, shards, batch_rows):
    """Records of all shards, sorted by shard and variant, cut into batches of any size."""
    records = [
        {
            "variant": variant,
            "shard": position,
            "words": pack(dosage_NM[LAYOUT.shard(shard), variant]),
        }
        for position, shard in enumerate(shards)
        for variant in range(dosage_NM.shape[1])
    ]
    schema = pa.schema(
        [("variant", pa.int32()), ("shard", pa.int32()), ("words", pa.list_(pa.int32()))]
    )
    for start in range(0, len(records), batch_rows):
        yield pa.RecordBatch.from_pylist(records[start : start + batch_rows], schema=schema)


@given(st.lists(st.integers(-1, 2), min_size=1, max_size=64))
def test_unpack_undoes_pack(dosage):
    words = np.array([pack(np.array(dosage))] * 2, dtype=np.int32)
    assert unpack(words, len(dosage)).tolist() == [dosage] * 2


@pytest.mark.parametrize("batch_rows", [1, 3, 7, 1000])
def test_shards_are_assembled_from_batches_of_any_size(tmp_path, batch_rows):
    rng = np.random.default_rng(1)
    alt_NM = rng.integers(-1, 3, size=(100, 5)).astype(np.int8)
    effect_is_alt = np.array([True, False, True, True, False])
    writer.create(tmp_path / "s", LAYOUT)
    shards = [0, 1, 3]
    write = shard_writer(str(tmp_path / "s"), LAYOUT, shards, effect_is_alt, "k")
    done = [row for b in write(batches(alt_NM, shards, batch_rows)) for row in b.to_pylist()]
    assert [row["shard"] for row in done] == shards
    assert list(writer.finished_shards(tmp_path / "s", "k")) == shards
    import zarr

    stored = zarr.open_array(tmp_path / "s" / "call_dosage", mode="r")[...]
    expected = np.where(effect_is_alt | (alt_NM < 0), alt_NM, 2 - alt_NM)
    asked = np.r_[0:64, 96:100]
    np.testing.assert_array_equal(stored[asked], expected[asked])


def test_a_lost_record_is_noticed(tmp_path):
    writer.create(tmp_path / "s", LAYOUT)
    write = shard_writer(str(tmp_path / "s"), LAYOUT, [0], np.ones(5, bool), "k")
    short = np.zeros((100, 4), dtype=np.int8)
    with pytest.raises(EngineError, match="a shard got 4 of 5 variants"):
        list(write(batches(short, [0], 10)))
