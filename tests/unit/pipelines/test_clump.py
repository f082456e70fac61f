"""Linkage and clumping, against numpy's correlations."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.clump import Linkage, Window, clump, plan_passes


def people(num_people=3000, num_variants=40, num_environments=3, highest=2, seed=0):
    """Codes of correlated variants in unlike environments, 3 % missing; environments of people."""
    rng = np.random.default_rng(seed)
    environment = rng.integers(0, num_environments, num_people)
    shared = rng.normal(size=(num_people, 4))
    loadings = rng.normal(size=(num_environments, 4, num_variants))
    score = np.einsum("nk,nkm->nm", shared, loadings[environment])
    score += rng.normal(size=score.shape) + environment[:, None] * rng.normal(size=num_variants)
    share = 1 / (1 + np.exp(-score))
    codes = np.rint(rng.beta(1 + 5 * share, 6 - 5 * share) * highest).astype(np.int16)
    codes[rng.random(codes.shape) < 0.03] = -1
    return codes, environment


def whole(num_variants):
    return Window(0, num_variants, num_variants)


def accumulated(codes, environment, windows, blocks=1, **options):
    linkage = Linkage(windows, int(environment.max()) + 1, **options)
    for part in np.array_split(np.arange(len(codes)), blocks):
        for code in np.unique(environment[part]):
            linkage.update(code, codes[part][environment[part] == code])
    return linkage


def filled(codes, environment):
    """Dosages with the environment's mean for missing calls."""
    dosage = codes.astype(float)
    for code in np.unique(environment):
        rows = environment == code
        called = np.where(codes[rows] >= 0, codes[rows], 0).sum(0) / (codes[rows] >= 0).sum(0)
        dosage[rows] = np.where(codes[rows] >= 0, codes[rows], called)
    return dosage


@pytest.mark.parametrize("highest", [2, 252])
def test_r2_is_that_of_numpy_in_every_environment_and_over_all(highest):
    codes, environment = people(highest=highest)
    found = accumulated(codes, environment, [whole(40)]).r2(0)
    dosage = filled(codes, environment)
    for code in range(3):
        expected = np.corrcoef(dosage[environment == code].T) ** 2
        np.testing.assert_allclose(found[code], expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found[3], np.corrcoef(dosage.T) ** 2, rtol=0, atol=1e-12)


@pytest.mark.parametrize("highest", [2, 252])
def test_any_cut_into_blocks_and_any_combination_give_the_same_bits(highest):
    codes, environment = people(highest=highest)
    dense = accumulated(codes, environment, [whole(40)])
    chunked = accumulated(codes, environment, [whole(40)], blocks=37)
    np.testing.assert_array_equal(chunked.r2(0), dense.r2(0))
    first, second = slice(0, 1234), slice(1234, None)
    parts = [accumulated(codes[s], environment[s], [whole(40)]) for s in (first, second)]
    parts = [pickle.loads(pickle.dumps(part)) for part in parts]
    np.testing.assert_array_equal(parts[0].combine(parts[1]).r2(0), dense.r2(0))


def test_the_counted_allele_and_the_code_of_missing_do_not_matter():
    codes, environment = people()
    expected = accumulated(codes, environment, [whole(40)]).r2(0)
    turned = np.where(codes < 0, 3, 2 - codes).astype(np.uint8)
    found = accumulated(turned, environment, [whole(40)], missing=3).r2(0)
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_a_variant_that_does_not_vary_somewhere_is_judged_where_it_does():
    codes, environment = people(num_variants=2)
    codes[:, 1] = codes[:, 0]
    codes[environment == 1] = 1
    linkage = accumulated(codes, environment, [whole(2)])
    assert np.isnan(linkage.r2(0)[1]).all()
    np.testing.assert_allclose(linkage.r2(0)[[0, 2, 3]], 1)
    assert linkage.finalise(np.array([1, 2]), kb=1, r2=0.9).tolist() == [[0, 1]]
    assert linkage.finalise(np.array([1, 2000]), kb=1, r2=0.9).tolist() == []


def test_one_environment_is_enough_to_link_two_variants():
    codes, environment = people(num_people=20_000, num_variants=2, seed=3)
    rng = np.random.default_rng(4)
    codes = rng.integers(0, 3, codes.shape).astype(np.int8)
    codes[environment == 2, 1] = codes[environment == 2, 0]
    linkage = accumulated(codes, environment, [whole(2)])
    r2 = linkage.r2(0)[:, 0, 1]
    assert r2[2] == 1
    assert r2[[0, 1, 3]].max() < 0.3
    assert len(linkage.finalise(np.array([1, 2]), kb=1, r2=0.5)) == 1


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_windows_hold_every_near_pair_once_and_passes_fit_into_memory(data):
    chromosomes = data.draw(st.lists(st.integers(0, 60), min_size=0, max_size=4))
    steps = [data.draw(st.lists(st.integers(0, 9), min_size=n, max_size=n)) for n in chromosomes]
    position = np.concatenate([np.cumsum(s) for s in steps] or [[]]).astype(np.int64) * 100
    contig = np.repeat([f"{i}" for i in range(len(steps))], chromosomes)
    kb, memory = data.draw(st.sampled_from([0.05, 0.5, 2, 100])), data.draw(st.integers(1, 10**5))
    passes = plan_passes(contig, position, kb=kb, num_environments=2, memory=memory)
    for group in passes:
        size = [64 * np.prod(window.shape) for window in group]
        assert sum(size) <= memory or len(group) == 1
    windows = [window for group in passes for window in group]
    rows = [row for window in windows for row in range(window.first, window.stop)]
    assert rows == list(range(len(position)))
    inside = {(i, j) for w in windows for i in range(w.first, w.stop) for j in range(i, w.reach)}
    assert all(contig[i] == contig[j] for i, j in inside)
    near = np.abs(position[:, None] - position) <= 1000 * kb
    near &= contig[:, None] == contig
    assert {(i, j) for i, j in np.argwhere(near).tolist() if i <= j} <= inside


def test_windows_do_not_change_what_is_linked():
    codes, environment = people(num_variants=60)
    position = np.sort(np.random.default_rng(5).integers(0, 100_000, 60))
    contig = np.repeat(["1", "2"], [35, 25])
    position[35:] -= position[35]

    def linked(memory):
        found = []
        passes = plan_passes(contig, position, kb=20, num_environments=3, memory=memory)
        for group in passes:
            linkage = accumulated(codes, environment, group)
            found.append(linkage.finalise(position, kb=20, r2=0.2))
        return len(passes), np.concatenate(found).tolist()

    few, many = linked(2**30), linked(1)
    assert (few[0], many[0]) == (1, 60)
    assert few[1] == many[1] != []


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_clumping_is_greedy_and_complete(data):
    num = data.draw(st.integers(0, 12))
    order = np.array(data.draw(st.permutations(range(num))), dtype=np.int64)
    possible = [(i, j) for i in range(num) for j in range(i + 1, num)]
    chosen = data.draw(st.lists(st.sampled_from(possible), unique=True)) if possible else []
    pairs = np.array(chosen, dtype=np.int64).reshape(-1, 2)
    kept_by = clump(order, pairs)
    linked = set(chosen) | {(j, i) for i, j in chosen}
    rank = np.argsort(order)
    kept = [variant for variant in range(num) if kept_by[variant] == variant]
    assert not any((i, j) in linked for i in kept for j in kept)
    for variant in set(range(num)) - set(kept):
        better = [k for k in kept if (k, variant) in linked and rank[k] < rank[variant]]
        assert kept_by[variant] == min(better, key=lambda k: rank[k])
