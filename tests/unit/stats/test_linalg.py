"""Roots, ranks and condition numbers of cross-products."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from mrscale.stats.linalg import condition_number, independent, standardised, whitening

SCALES = np.array([1e-6, 1.0, 1e6, 1e3])


@pytest.fixture
def columns():
    rng = np.random.default_rng(0)
    return rng.normal(size=(50, 4)) * SCALES


def test_standardised_has_a_unit_diagonal_and_empty_columns_stay_empty(columns):
    cross = columns.T @ columns
    cross[1] = cross[:, 1] = 0
    scaled, scale = standardised(cross)
    assert_allclose(np.diag(scaled), [1, 0, 1, 1])
    assert scale[1] == 0
    first, third = columns[:, 0], columns[:, 2]
    cosine = first @ third / np.linalg.norm(first) / np.linalg.norm(third)
    assert_allclose(scaled[0, 2], cosine, rtol=1e-12)


def test_whitening_is_a_root_of_the_inverse_whatever_the_units(columns):
    cross = columns.T @ columns
    root, rank = whitening(cross)
    assert rank == 4
    assert_allclose(root.T @ cross @ root, np.eye(4), atol=1e-12)
    assert_allclose((root @ root.T) / np.linalg.inv(cross), np.ones((4, 4)), rtol=1e-9)


def test_whitening_drops_dependent_and_empty_columns(columns):
    wide = np.column_stack([columns, columns @ [1e6, 2, 0, 0], np.zeros(50)])
    root, rank = whitening(wide.T @ wide)
    assert root.shape == (6, 4)
    assert rank == 4
    basis = wide @ root
    assert_allclose(basis.T @ basis, np.eye(4), atol=1e-7)  # collinear: the root of rounding
    assert whitening(np.zeros((3, 3)))[1] == 0
    assert whitening(np.zeros((0, 0)))[0].shape == (0, 0)


def test_the_first_of_dependent_columns_is_kept(columns):
    wide = np.column_stack([columns[:, 0], columns[:, 0] * -3, np.zeros(50), columns[:, 1:]])
    assert_array_equal(independent(wide.T @ wide), [0, 3, 4, 5])
    assert independent(np.zeros((0, 0))).shape == (0,)
    assert independent(np.zeros((0, 0))).dtype == np.intp


@pytest.mark.parametrize("share", [1e-3, 1e-8])
def test_columns_above_the_tolerance_are_kept(columns, share):
    near = columns[:, 1] + np.sqrt(share) * columns[:, 3] / 1e3
    wide = np.column_stack([columns[:, 1], near])
    assert_array_equal(independent(wide.T @ wide), [0, 1])
    assert_array_equal(independent(wide.T @ wide, tolerance=10 * share), [0])


def test_condition_numbers_do_not_depend_on_units(columns):
    q = np.linalg.qr(columns)[0]
    assert_allclose(condition_number((q * SCALES).T @ (q * SCALES)), 1, rtol=1e-10)
    mixed = np.column_stack([q[:, 0], q[:, 0] + 1e-3 * q[:, 1]]) * [1e5, 1]
    assert_allclose(condition_number(mixed.T @ mixed), 2e3, rtol=1e-5)
    assert condition_number(np.zeros((0, 0))) == condition_number(np.zeros((2, 2))) == 1.0


def test_condition_numbers_leave_rounding_aside_and_nothing_else(columns):
    same = np.column_stack([columns, columns[:, :1] * 7])
    assert condition_number(same.T @ same) < 10
    unit = columns / np.linalg.norm(columns, axis=0)
    near = np.column_stack([unit[:, 0], unit[:, 0] + 1e-5 * unit[:, 1]])
    assert condition_number(near.T @ near) > 1e5
