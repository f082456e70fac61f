"""Staged blocks and the shards cut from them, against a dense array (no Spark needed)."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrscale.errors import EngineError
from mrscale.store.schema import CALLS as CALL_CODE
from mrscale.store.schema import DOSAGES as DOSAGE_CODE
from pipelines import staging
from pipelines.packing import CALLS, DOSAGES
from pipelines.staging import Blocks, Staged, block_writer
from pipelines.transpose import shard_dosage

NUM_VARIANTS = 5
SITES = [f"1\t{10 * (v + 1)}\tA\tG\trs{v}\t" for v in range(NUM_VARIANTS)]


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(staging, "_FEWEST_ROWS", 32)
    monkeypatch.setattr(staging, "_MOST_ROWS", 32)


@given(st.lists(st.integers(1, 2000), min_size=1, max_size=6), st.sampled_from([CALLS, DOSAGES]))
def test_segments_cover_every_row_once_and_stay_in_one_environment(sizes, packing):
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    blocks = Blocks(int(offsets[-1]), tuple(offsets[:-1].tolist()), packing)
    segments = [segment for block in range(len(blocks)) for segment in blocks.segments(block)]
    assert [s.start for s in segments] == [0, *(s.stop for s in segments[:-1])]
    assert segments[-1].stop == blocks.num_samples
    for s in segments:
        assert offsets[s.environment] <= s.start < s.stop <= offsets[s.environment + 1]
        assert s.words.stop - s.words.start == packing.num_words(s.num_people)


def records(pack, codes_MN, blocks, wanted):
    """What Spark hands to Python: sorted by block and site."""
    for number, block in enumerate(wanted):
        for variant, site in enumerate(SITES[: len(codes_MN)]):
            runs = [codes_MN[variant, s.start : s.stop].tolist() for s in blocks.segments(block)]
            words = np.concatenate([pack(blocks.packing, run)[0] for run in runs])
            yield {"site": site, "number": number, "words": words.tolist()}
        yield {"site": None, "number": number, "words": None}


def in_batches(rows, batch_rows=3):
    schema = pa.schema(
        [("site", pa.string()), ("number", pa.int32()), ("words", pa.list_(pa.int64()))]
    )
    for at in range(0, len(rows), batch_rows):
        yield pa.RecordBatch.from_pylist(rows[at : at + batch_rows], schema=schema)


def stage(pack, folder, codes_MN, offsets, packing):
    blocks = Blocks(codes_MN.shape[1], offsets, packing)
    staged = Staged(str(folder), blocks, "key")
    wanted = list(range(len(blocks)))
    batches = in_batches(list(records(pack, codes_MN, blocks, wanted)))
    written = [b.column("block")[0].as_py() for b in block_writer(staged, wanted)(batches)]
    assert written == wanted == staged.finished()
    return staged


@pytest.fixture(params=[(CALLS, CALL_CODE), (DOSAGES, DOSAGE_CODE)], ids=["calls", "dosages"])
def cohort(request, pack, tmp_path, small_blocks):
    packing, code = request.param
    rng = np.random.default_rng(3)
    codes = rng.integers(0, code.highest + 1, (NUM_VARIANTS, 150)).astype(np.uint8)
    codes[rng.random(codes.shape) < 0.1] = packing.missing
    return stage(pack, tmp_path, codes, (0, 21, 70), packing), codes, code


def test_counts_are_those_of_the_dense_codes(cohort):
    staged, codes, code = cohort
    assert staged.sites()["position"].tolist() == [10, 20, 30, 40, 50]
    assert staged.sites()["rsid"].tolist() == [f"rs{v}" for v in range(NUM_VARIANTS)]
    for e, rows in enumerate([slice(0, 21), slice(21, 70), slice(70, 150)]):
        part = codes[:, rows].astype(int)
        called = part != staged.blocks.packing.missing
        if code is CALL_CODE:
            expected = np.stack([(part == copies).sum(axis=1) for copies in range(3)], axis=1)
        else:
            total = np.where(called, part, 0).sum(axis=1)
            expected = np.stack([called.sum(axis=1), total, 0 * total], axis=1)
        np.testing.assert_array_equal(staged.counts()[:, e], expected)


def test_people_are_found_by_row(cohort):
    staged, codes, _ = cohort
    rows, variants = np.array([149, 0, 20, 21, 64, 69, 70]), np.array([4, 1])
    np.testing.assert_array_equal(staged.people(rows, variants), codes[np.ix_(variants, rows)])


@pytest.mark.parametrize("rows", [slice(0, 64), slice(64, 128), slice(128, 150), slice(0, 150)])
def test_shards_hold_the_effect_allele_of_chosen_variants(cohort, rows):
    staged, codes, code = cohort
    variants, effect_is_alt = np.array([3, 0, 4]), np.array([True, False, False])
    found = shard_dosage(staged, rows, code, variants, effect_is_alt)
    wanted = codes[variants, rows].T.astype(int)
    expected = np.where(effect_is_alt, wanted, code.highest - wanted)
    expected[wanted == staged.blocks.packing.missing] = code.missing
    assert found.dtype == code.dtype
    np.testing.assert_array_equal(found, expected)


def test_a_source_without_variants_leaves_empty_blocks(tmp_path, small_blocks):
    staged = Staged(str(tmp_path), Blocks(40, (0, 25), CALLS), "key")
    for block in range(2):
        staged.write(block, iter(()))
    assert staged.counts().shape == (0, 2, 3)
    assert len(staged.sites()) == 0


def test_blocks_of_another_extraction_do_not_count(pack, tmp_path, small_blocks):
    codes = np.zeros((2, 40), np.uint8)
    staged = stage(pack, tmp_path, codes, (0, 25), CALLS)
    assert Staged(staged.path, staged.blocks, "other").finished() == []


@pytest.mark.parametrize("num_cut", range(1, NUM_VARIANTS + 1))
def test_a_stream_that_is_cut_off_finishes_no_block(pack, tmp_path, small_blocks, num_cut):
    """As when a JVM is killed between two batches: Arrow takes that for the end of the stream."""
    codes = np.zeros((NUM_VARIANTS, 40), np.uint8)
    staged = Staged(str(tmp_path), Blocks(40, (0, 25), CALLS), "key")
    rows = list(records(pack, codes, staged.blocks, [0, 1]))[:-num_cut]
    with pytest.raises(EngineError, match="cut off"):
        list(block_writer(staged, [0, 1])(in_batches(rows)))
    assert staged.finished() == [0]
    assert {file.suffix for file in tmp_path.glob("*-000001.*")} == set()
