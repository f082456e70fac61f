"""Codes of dosages."""

from __future__ import annotations

import numpy as np
import pytest

from mrscale.errors import InputError
from mrscale.store.schema import CALLS, CODES, DOSAGES


@pytest.mark.parametrize("code", CODES.values(), ids=CODES)
def test_whole_dosages_and_missing_ones_are_exact(code):
    dosage = np.array([0, 1, 2, np.nan], dtype=np.float32)
    codes = code.encode(dosage)
    assert codes.dtype == code.dtype
    assert codes.tolist() == [0, code.per_allele, code.highest, code.missing]
    np.testing.assert_array_equal(code.decode(codes), dosage)
    # as xarray decodes, in either precision
    for dtype in (np.float32, np.float64):
        np.testing.assert_array_equal(codes[:3].astype(dtype) * dtype(code.scale), [0, 1, 2])


@pytest.mark.parametrize("code", CODES.values(), ids=CODES)
def test_what_was_never_written_is_no_code(code):
    everything = np.arange(256, dtype=np.uint8).view(code.dtype)
    valid = [code.is_valid(np.array([c])) for c in everything]
    assert sum(valid) == code.highest + 2
    assert not code.is_valid(np.array([code.unwritten], dtype=code.dtype))
    assert code.is_valid(np.array([code.missing, 0, code.highest], dtype=code.dtype))


def test_imputed_dosages_are_off_by_half_a_unit_at_most():
    dosage = np.linspace(0, 2, 1001)
    found = DOSAGES.decode(DOSAGES.encode(dosage))
    assert np.abs(found - dosage).max() <= DOSAGES.scale / 2 + 1e-6


def test_rounding_outside_the_range_is_forgiven_and_more_is_refused():
    assert CALLS.encode(np.array([-0.001, 2.001])).tolist() == [0, 2]
    with pytest.raises(InputError, match="a dosage must lie between 0 and 2"):
        DOSAGES.encode(np.array([2.5]))
