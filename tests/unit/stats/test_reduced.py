"""The canonical form, against residuals of dense regressions."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from mrscale.stats.moments import Moments
from mrscale.stats.reduced import Columns, design_cross, reduce_design
from mrscale.stats.scores import canonical_rows

dense = runpy.run_path(str(Path(__file__).parents[2] / "canonical.py"))
COLUMNS = Columns(num_instruments=4, num_covariates=2, num_exposures=2)


def stack(columns):
    return np.column_stack([columns.z, columns.w, columns.x, columns.y])


@pytest.fixture
def rows():
    return stack(dense["design"](0, p=2))


def residuals(values, controls):
    return values - controls @ np.linalg.lstsq(controls, values)[0]


def test_columns_know_their_places():
    assert_array_equal(COLUMNS.instruments, [0, 1, 2, 3])
    assert_array_equal(COLUMNS.covariates, [4, 5])
    assert_array_equal(COLUMNS.traits, [6, 7, 8])
    assert COLUMNS.width == 9


@pytest.mark.parametrize("intercept", [True, False])
def test_the_reduced_form_is_that_of_dense_residuals(rows, intercept):
    reduced, basis = reduce_design(Moments.from_block(rows), COLUMNS, intercept=intercept)
    controls = np.column_stack([rows[:, 4:6], np.ones((len(rows), int(intercept)))])
    z, r = residuals(rows[:, :4], controls), residuals(rows[:, 6:], controls)
    q = np.linalg.qr(z)[0]
    assert reduced.num_controls == controls.shape[1]
    assert (reduced.num_instruments, reduced.num_exposures, reduced.count) == (4, 2, 300)
    assert reduced.dof == 300 - 4 - controls.shape[1]
    assert_allclose(reduced.total, r.T @ r, rtol=1e-10)
    assert_allclose(reduced.zx.T @ reduced.zx, r[:, :2].T @ q @ q.T @ r[:, :2], rtol=1e-10)
    assert_allclose(reduced.zx.T @ reduced.zy, r[:, :2].T @ q @ q.T @ r[:, 2], rtol=1e-10)
    assert basis.num_parameters == 2 + controls.shape[1]


@pytest.mark.parametrize("intercept", [True, False])
def test_rows_map_to_canonical_coordinates(rows, intercept):
    weights = np.random.default_rng(1).uniform(0.5, 2, len(rows))
    for given in (None, weights):
        moments = Moments.from_block(rows, given)
        reduced, basis = reduce_design(moments, COLUMNS, intercept=intercept)
        z, w, r = canonical_rows(rows, basis, given)
        found = np.column_stack([z, w])
        assert_allclose(found.T @ found, np.eye(found.shape[1]), atol=1e-12)
        assert_allclose(w.T @ r, 0, atol=1e-9)
        assert_allclose(z.T @ r, np.column_stack([reduced.zx, reduced.zy]), atol=1e-10)
        assert_allclose(r.T @ r, reduced.total, rtol=1e-11)
        means = basis.regressor_means
        if intercept:
            assert_allclose(means, np.average(rows[:, [6, 7, 4, 5]], axis=0, weights=given))


def test_dependent_columns_are_dropped_and_said(rows):
    wide = np.column_stack(
        [rows[:, :4], rows[:, :1] - rows[:, 4:5], rows[:, 4:6], rows[:, 4:5] * 2, rows[:, 6:]]
    )
    columns = Columns(5, 3, 2)
    found, basis = reduce_design(Moments.from_block(wide), columns)
    expected, _ = reduce_design(Moments.from_block(rows), COLUMNS)
    assert found.num_instruments == 4
    assert found.num_controls == 3
    assert_array_equal(basis.kept_covariates, [0, 1])
    assert basis.num_parameters == 5
    assert_allclose(found.total, expected.total, rtol=1e-10)
    assert_allclose(found.zx.T @ found.zx, expected.zx.T @ expected.zx, rtol=1e-10)


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, 1 / 3, 1e9 + 0.1])
def test_columns_of_one_value_are_empty(rows, value):
    constant = np.full((len(rows), 1), value)
    wide = np.column_stack([rows[:, :4], constant, rows[:, 4:6], constant, rows[:, 6:]])
    parts = [Moments.from_block(part) for part in np.array_split(wide, 7)]
    moments = parts[0]
    for part in parts[1:]:
        moments = moments.combine(part)
    assert_array_equal(np.flatnonzero(moments.constant), [4, 7])
    assert (design_cross(moments)[4] == 0).all()
    found, basis = reduce_design(moments, Columns(5, 3, 2))
    expected, _ = reduce_design(Moments.from_block(rows), COLUMNS)
    assert found.num_instruments == 4
    assert_array_equal(basis.kept_covariates, [0, 1])
    assert_allclose(found.zx.T @ found.zx, expected.zx.T @ expected.zx, rtol=1e-10)


def test_a_column_with_a_large_mean_is_not_constant(rows):
    shifted = rows.copy()
    shifted[:, 0] += 1e6
    moments = Moments.from_block(shifted)
    assert not moments.constant.any()
    assert reduce_design(moments, COLUMNS)[0].num_instruments == 4


def test_what_covariates_explain_is_nothing(rows):
    explained = rows.copy()
    explained[:, 0] = rows[:, 4] - 2 * rows[:, 5] + 3
    reduced, _ = reduce_design(Moments.from_block(explained), COLUMNS)
    assert reduced.num_instruments == 3
    explained[:, 6] = rows[:, 4]
    reduced, _ = reduce_design(Moments.from_block(explained), COLUMNS)
    assert reduced.xx[0, 0] == 0
    assert (reduced.zx[:, 0] == 0).all()


def test_meats_of_a_residual_combine_those_of_the_traits():
    problem = dense["canonical"](dense["design"](1, p=2))
    weights = np.array([-0.5, 0.3, 1.0])
    u = problem.traits @ weights
    expected = (problem.z * u[:, None]).T @ (problem.z * u[:, None])
    assert_allclose(problem.meats.of_residual(weights), expected, rtol=1e-10, atol=1e-14)
