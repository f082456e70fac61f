"""Design columns."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from mrscale.stats.design import fill_missing, indicators, is_missing, polynomial_basis


def test_missing_calls_get_the_mean_of_their_environment_and_variant():
    dosage = np.array([[0, -1, 2], [-1, -1, 1], [2, 1, -1]], dtype=np.int8)
    means = np.array([[0.1, 0.2, 0.3], [1.1, 1.2, 1.3]])
    environment = np.array([0, 1, 1], dtype=np.int16)
    found = fill_missing(dosage, environment, means)
    assert found.dtype == np.float64
    assert_array_equal(found, [[0, 0.2, 2], [1.1, 1.2, 1], [2, 1, 1.3]])
    assert dosage[0, 1] == -1, "the block that was read is left alone"


def test_blocks_without_missing_calls_only_change_type():
    dosage = np.array([[0, 1], [2, 1]], dtype=np.int8)
    found = fill_missing(dosage, np.zeros(2, np.int16), np.full((1, 2), np.nan))
    assert_array_equal(found, dosage)


def test_bases_hold_powers_then_pair_products():
    a, b, c = latent = np.random.default_rng(0).normal(size=(3, 7))
    assert_array_equal(polynomial_basis(latent.T, 1), latent.T)
    expected = [a, b, c, a**2, b**2, c**2, a * b, a * c, b * c]
    assert_array_equal(polynomial_basis(latent.T, 2), np.stack(expected, axis=1))


@pytest.mark.parametrize("columns", [1, 2, 4])
@pytest.mark.parametrize("degree", [1, 2, 3])
def test_bases_have_the_documented_width(columns, degree):
    width = columns * degree + (columns * (columns - 1) // 2 if degree > 1 else 0)
    assert polynomial_basis(np.ones((5, columns)), degree).shape == (5, width)


def test_indicators_leave_out_the_first_environment():
    found = indicators(np.array([0, 2, 1, 2], dtype=np.int16), 4)
    assert_array_equal(found, [[0, 0, 0], [0, 1, 0], [1, 0, 0], [0, 1, 0]])
    assert indicators(np.zeros(3, np.int16), 1).shape == (3, 0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_negative_instruments_are_values_and_nan_is_missing(dtype):
    """Instruments of any kind: standardised ones are negative half of the time."""
    values = np.array([[-1.5, np.nan], [0.25, -0.0]], dtype=dtype)
    assert_array_equal(is_missing(values), [[False, True], [False, False]])
    found = fill_missing(values, np.array([1, 0], np.int16), np.array([[7.0, 8.0], [5.0, 6.0]]))
    assert found.dtype == np.float64
    assert_array_equal(found, [[-1.5, 6.0], [0.25, 0.0]])


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int64])
def test_negative_calls_are_missing(dtype):
    calls = np.array([[0, -1, 2], [-9, 1, 0]], dtype=dtype)
    assert_array_equal(is_missing(calls), [[False, True, False], [True, False, False]])


def test_unsigned_calls_are_never_missing():
    assert not is_missing(np.array([[0, 255]], np.uint8)).any()
