"""Properties of the store: any layout gives back any rows, and covers everyone once."""

from __future__ import annotations

import tempfile

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mrscale.store import writer
from mrscale.store.reader import GenotypeStore
from mrscale.store.schema import CALLS, TARGET_CHUNK_BYTES, Layout


@given(num_samples=st.integers(1, 600_000), num_variants=st.integers(1, 100_000))
def test_a_chosen_layout_covers_everyone_once(num_samples, num_variants):
    layout = Layout.choose(num_samples, num_variants)
    assert layout.chunk_rows & (layout.chunk_rows - 1) == 0
    assert layout.shard_rows % layout.chunk_rows == 0
    assert layout.chunk_rows * num_variants <= TARGET_CHUNK_BYTES
    for count, piece in ((layout.num_chunks, layout.chunk), (layout.num_shards, layout.shard)):
        assert piece(0).start == 0
        assert piece(count - 1).stop == num_samples
        assert piece(count - 1).start < num_samples


@settings(deadline=None, max_examples=25)
@given(st.data())
def test_any_rows_of_any_layout_come_back(data):
    num_samples, num_variants = data.draw(st.integers(1, 90)), data.draw(st.integers(1, 9))
    chunk = 2 ** data.draw(st.integers(0, 5))
    layout = Layout(num_samples, num_variants, chunk, chunk * data.draw(st.integers(1, 4)))
    rng = np.random.default_rng(data.draw(st.integers(0, 9)))
    dosage = rng.integers(-1, 3, size=(num_samples, num_variants)).astype(np.int8)
    start = data.draw(st.integers(0, num_samples))
    stop = data.draw(st.integers(start, num_samples))
    with tempfile.TemporaryDirectory() as folder:
        writer.create(folder, layout)
        for index in data.draw(st.permutations(range(layout.num_shards))):
            writer.write_shard(folder, index, dosage[layout.shard(index)], key="k")
        store = GenotypeStore(folder, {"layout": vars(layout), "code": CALLS.name})
        np.testing.assert_array_equal(store.dosage(slice(start, stop)), dosage[start:stop])
