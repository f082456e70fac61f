"""Design columns."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from mrscale.stats.design import fill_missing, indicators, polynomial_basis


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
