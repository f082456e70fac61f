"""Codes in words: what Hail packs is what is unpacked and counted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.packing import CALLS, DOSAGES

runs_of_calls = st.lists(st.integers(0, 3), min_size=1, max_size=130)
runs_of_dosages = st.lists(st.integers(0, 250) | st.just(255), min_size=1, max_size=40)


@given(runs_of_calls)
def test_calls_are_unpacked_and_counted(pack, codes):
    words = pack(CALLS, codes)
    assert words.shape == (1, CALLS.num_words(len(codes)))
    assert CALLS.unpack(words, len(codes)).tolist() == [codes]
    expected = [[codes.count(copies) for copies in range(3)]]
    assert CALLS.count(words, len(codes)).tolist() == expected


@given(runs_of_dosages)
def test_dosages_are_unpacked_and_counted(pack, codes):
    words = pack(DOSAGES, codes)
    assert DOSAGES.unpack(words, len(codes)).tolist() == [codes]
    called = [code for code in codes if code != 255]
    assert DOSAGES.count(words, len(codes)).tolist() == [[len(called), sum(called), 0]]


@given(runs_of_calls)
def test_codes_are_translated_while_they_are_unpacked(pack, codes):
    values = np.array([2, 1, 0, 255], dtype=np.uint8)
    found = CALLS.unpack(pack(CALLS, codes), len(codes), values)
    assert found.tolist() == [values[codes].tolist()]


@pytest.mark.parametrize("packing", [CALLS, DOSAGES])
def test_many_variants_are_unpacked_side_by_side(pack, packing):
    codes = np.random.default_rng(0).integers(0, packing.missing + 1, (7, 45))
    words = np.concatenate([pack(packing, row.tolist()) for row in codes])
    np.testing.assert_array_equal(packing.unpack(words, 45), codes)
