"""Sums of outer products of scores, over people and over clusters that lie in several blocks."""

from __future__ import annotations

import runpy
from functools import partial, reduce
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from mrscale.stats.kclass import fit_kclass
from mrscale.stats.moments import Moments
from mrscale.stats.reduced import Columns, reduce_design
from mrscale.stats.scores import OuterSums, canonical_rows, iv_scores, meats

dense = runpy.run_path(str(Path(__file__).parents[2] / "canonical.py"))
NUM_PEOPLE, NUM_CLUSTERS = 200, 37


@pytest.fixture
def scores():
    rng = np.random.default_rng(0)
    return [rng.normal(size=(NUM_PEOPLE, 3)), rng.normal(size=(NUM_PEOPLE, 5))]


@pytest.fixture
def codes():
    drawn = np.random.default_rng(1).integers(0, NUM_CLUSTERS, NUM_PEOPLE)
    return np.unique(drawn, return_inverse=True)[1].astype(np.int64)


def by_hand(scores, codes):
    sums = np.zeros((codes.max() + 1, scores.shape[1]))
    np.add.at(sums, codes, scores)
    return sums.T @ sums


def blocks(scores, codes, cuts):
    sizes = np.bincount(codes)
    parts = zip(*(np.split(s, cuts) for s in scores), strict=True)
    return [
        OuterSums.from_block(part, code, sizes)
        for part, code in zip(parts, np.split(codes, cuts), strict=True)
    ]


def test_without_clusters_each_person_is_their_own(scores):
    first = OuterSums.from_block([s[:120] for s in scores])
    found = first.combine(OuterSums.from_block([s[120:] for s in scores]))
    for total, s in zip(found.totals, scores, strict=True):
        assert_allclose(total, s.T @ s, rtol=1e-13, atol=1e-12)
    assert found.open_code.size == 0


@pytest.mark.parametrize("cuts", [[], [1], [10, 90], [50, 51, 52, 199], [0, 100, 100, 200]])
def test_clusters_may_lie_in_several_blocks(scores, codes, cuts):
    parts = blocks(scores, codes, cuts)
    found = reduce(partial(OuterSums.combine, sizes=np.bincount(codes)), parts)
    for total, s in zip(found.totals, scores, strict=True):
        assert_allclose(total, by_hand(s, codes), rtol=1e-12, atol=1e-12)
    assert found.open_code.size == 0, "all people were seen"


def test_people_without_a_cluster_are_their_own(scores, codes):
    some = np.where(codes % 3 == 0, -1, codes // 3)
    own = np.where(some < 0, 1000 + np.arange(NUM_PEOPLE), some)
    sizes = np.bincount(some[some >= 0])
    parts = [
        OuterSums.from_block([s[rows] for s in scores], some[rows], sizes)
        for rows in (slice(0, 70), slice(70, NUM_PEOPLE))
    ]
    found = parts[0].combine(parts[1], sizes)
    for total, s in zip(found.totals, scores, strict=True):
        assert_allclose(total, by_hand(s, own), rtol=1e-12, atol=1e-12)
    assert found.open_code.size == 0


def test_any_tree_gives_the_same(scores, codes):
    sizes = np.bincount(codes)
    a, b, c, d = blocks(scores, codes, [40, 110, 150])
    left = a.combine(b, sizes).combine(c, sizes).combine(d, sizes)
    right = d.combine(c, sizes).combine(a.combine(b, sizes), sizes)
    for one, other in zip(left.totals, right.totals, strict=True):
        assert_allclose(one, other, rtol=1e-12, atol=1e-12)


def test_only_clusters_with_people_to_come_stay_open(scores):
    codes = np.arange(NUM_PEOPLE, dtype=np.int64) // 3
    first, second = blocks(scores, codes, [100])
    assert first.open_code.tolist() == [33]
    assert first.open_count.tolist() == [1]
    assert second.open_code.tolist() == [33]
    joined = first.combine(second, np.bincount(codes))
    assert joined.open_code.size == 0


def test_combining_changes_neither(scores, codes):
    sizes = np.bincount(codes)
    first, second = blocks(scores, codes, [100])
    before = [t.copy() for t in (*first.totals, *first.open_sums)]
    first.combine(second, sizes)
    for one, other in zip(before, (*first.totals, *first.open_sums), strict=True):
        assert (one == other).all()


@pytest.mark.parametrize("clustered", [False, True])
@pytest.mark.parametrize("num_exposures", [1, 2])
def test_meats_equal_those_of_dense_columns(num_exposures, clustered):
    columns = dense["design"](2, p=num_exposures)
    problem = dense["canonical"](columns, clustered)
    rows = np.column_stack([columns.z, columns.w, columns.x, columns.y])
    kinds = Columns(4, 2, num_exposures)
    reduced, basis = reduce_design(Moments.from_block(rows), kinds)
    fit = fit_kclass(reduced, 1.0)
    z, w, r = canonical_rows(rows, basis)
    parameters, traits, residuals = iv_scores(z, w, r, reduced, fit.residual_weights)
    codes = problem.codes.astype(np.int64)
    sizes = np.bincount(codes)
    sums = OuterSums.from_block([parameters, traits, residuals], codes, sizes)
    found = meats(sums, reduced, len(sizes))
    # the two canonical forms differ by a rotation of the instruments
    turn = z.T @ problem.z
    assert_allclose(turn @ turn.T, np.eye(4), atol=1e-10)
    for ours, theirs in (
        (found.traits, problem.meats.traits),
        (found.first_stage, problem.meats.first_stage),
        (found.reduced_form, problem.reduced_form),
    ):
        assert_allclose(np.einsum("ia,cdij,jb->cdab", turn, ours, turn), theirs, atol=1e-10)
    assert found.num_groups == len(sizes)
    u = problem.traits @ fit.residual_weights
    projected = problem.z @ (problem.z.T @ problem.traits[:, :-1])
    expected = problem.outer(projected * u[:, None])
    assert_allclose(sums.totals[0][:num_exposures, :num_exposures], expected, rtol=1e-9)


def test_scores_of_ols_take_the_exposures_themselves():
    columns = dense["design"](2)
    rows = np.column_stack([columns.w, columns.x, columns.y])
    reduced, basis = reduce_design(Moments.from_block(rows), Columns(0, 2, 1))
    fit = fit_kclass(reduced, 0.0)
    z, w, r = canonical_rows(rows, basis)
    parameters, traits, _ = iv_scores(z, w, r, reduced, fit.residual_weights)
    u = r @ fit.residual_weights
    assert_allclose(parameters[:, 0], r[:, 0] * u)
    assert_allclose(parameters.sum(axis=0), 0, atol=1e-9)
    assert traits.shape == (300, 0)
