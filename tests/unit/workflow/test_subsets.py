"""Fits in each environment and without each, from moments and influence summed in one pass."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

from mrscale.results.cohort import ESTIMATES
from mrscale.store.reader import open_store
from mrscale.workflow.store_data import StoreData
from mrscale.workflow.subsets import (
    NOBODY,
    TOO_FEW,
    each_environment,
    environment_moments,
    estimates_table,
    influence_scores,
    meta_table,
    wald,
    with_the_others,
    without_each_environment,
)


@pytest.fixture(scope="module")
def fitted(small):
    data = StoreData.read(small, None, ["exposure"], "outcome", ["age", "PC1"], clustered=True)
    groups = data.group_moments()
    return data, groups


def test_subsets_are_environments_and_all_but_one(fitted):
    data, groups = fitted
    within = each_environment(data, groups, "2sls")
    without = without_each_environment(data, groups, "2sls")
    assert [one.environments for one in within] == [(0,), (1,), (2,)]
    assert [one.environments for one in without] == [(1, 2), (0, 2), (0, 1)]
    sizes = np.bincount(data.environment)
    assert [one.num_obs for one in within] == sizes.tolist()
    assert [one.num_obs for one in without] == (sizes.sum() - sizes).tolist()
    clusters = [len(np.unique(data.codes[data.environment != e])) for e in range(3)]
    assert [one.num_clusters for one in without] == clusters
    assert environment_moments(groups, 1).count == sizes[1]


def test_influence_is_zero_outside_a_subset_and_sums_to_nothing_inside(fitted):
    data, groups = fitted
    subsets = each_environment(data, groups, "liml") + without_each_environment(
        data, groups, "liml"
    )
    layout = data.rows.store.layout
    rows = np.concatenate([data.rows.of(layout.chunk(i)) for i in range(layout.num_chunks)])
    found = influence_scores(data, subsets)(rows, None)
    assert len(found) == 6
    for subset, values in zip(subsets, found, strict=True):
        inside = np.isin(data.environment, subset.environments)
        assert values.shape == (len(rows), 1)
        assert not values[~inside].any()
        assert values[inside].all()
    # the scores of two-stage least squares sum to zero, those of LIML do not
    plain = each_environment(data, groups, "2sls")
    for values in influence_scores(data, plain)(rows, None):
        assert abs(values.sum()) < 1e-10 * np.abs(values).sum()


def test_a_block_of_one_environment_is_enough(fitted):
    data, groups = fitted
    subsets = each_environment(data, groups, "2sls")
    first = data.rows.of(data.rows.store.layout.chunk(0))
    found = influence_scores(data, subsets)(first, None)
    assert [bool(values.any()) for values in found] == [True, False, False]


def test_fewer_clusters_than_two_in_an_environment_give_no_error(small, changed_store):
    cluster = np.where(small.array("environment") == 0, 5, small.array("cluster") + 1000)
    store = open_store(changed_store(cluster=cluster))
    data = StoreData.read(store, None, ["exposure"], "outcome", [], clustered=True)
    subsets = each_environment(data, data.group_moments(), "2sls")
    table = estimates_table(["exposure"], subsets[:1], {}, small_sample=False)
    assert table["note"].tolist() == ["clustered errors need two clusters or more"]
    assert table["estimate"].isna().all()


def test_environments_without_an_estimate_keep_their_row():
    table = pd.DataFrame(
        [{"label": "b", "exposure": "x", "estimate": 1.0}], columns=list(ESTIMATES)
    )
    found = with_the_others(table, ["a", "b", "c"], ["x"], {2: 30})
    assert found["label"].tolist() == ["b", "a", "c"]
    assert found["note"].tolist()[1:] == [NOBODY, TOO_FEW]
    assert found["num_obs"].tolist()[1:] == [0, 30]


def test_no_environment_with_an_estimate_has_no_mean():
    assert not len(meta_table(pd.DataFrame(columns=list(ESTIMATES))))


def test_wald_rows_are_those_of_the_normal_or_t():
    found = wald(1.0, 0.5)
    assert_allclose([found["ci_lower"], found["ci_upper"]], [0.020018, 1.979982], rtol=1e-4)
    assert_allclose(found["pvalue"], 0.0455003, rtol=1e-5)
    assert_allclose(wald(1.0, 0.5, dof=5)["pvalue"], 0.1019395, rtol=1e-5)
