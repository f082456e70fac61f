"""Batch plans: balanced, disjoint over ranks, complete over an epoch, the same every time."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mrscale.sampling.plan import Plan, blocks, held_out

relaxed = settings(deadline=None, max_examples=60)


@st.composite
def plans(draw, seed=None):
    """Plans over environments from one row to thousands, with gaps where rows are held out."""
    lengths = draw(st.lists(st.sampled_from([1, 2, 7, 64, 65, 300, 2000]), min_size=1, max_size=5))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    start, rows = 0, []
    for length in lengths:
        span = length + draw(st.integers(0, 40))
        rows.append(np.sort(start + rng.permutation(span)[:length]))
        start += span
    return Plan(
        tuple(rows),
        chunk_rows=draw(st.sampled_from([1, 16, 64, 4096])),
        batch_size=draw(st.integers(1, 200)),
        seed=draw(st.integers(0, 2**31)) if seed is None else seed,
    )


def same(one, two):
    return all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))


@relaxed
@given(plan=plans(), step=st.integers(0, 500))
def test_every_batch_has_the_same_number_of_rows_of_every_environment(plan, step):
    batch = plan.batch(step)
    assert {len(rows) for rows in batch} == {plan.per_environment}
    assert plan.per_environment * len(plan.rows) >= plan.batch_size
    assert (plan.per_environment - 1) * len(plan.rows) < plan.batch_size
    for drawn, allowed in zip(batch, plan.rows, strict=True):
        assert np.isin(drawn, allowed).all()


@relaxed
@given(plan=plans(), step=st.integers(0, 500), world=st.integers(1, 9))
def test_ranks_share_the_global_batch_without_overlap(plan, step, world):
    whole = plan.batch(step)
    parts = [plan.batch(step, rank=rank, world=world) for rank in range(world)]
    for code, expected in enumerate(whole):
        shares = [part[code] for part in parts]
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
        together = np.empty_like(expected)
        for rank, share in enumerate(shares):
            together[rank::world] = share
        np.testing.assert_array_equal(together, expected)


@relaxed
@given(plan=plans(), epoch=st.integers(0, 3))
def test_every_pass_over_an_environment_has_each_row_once(plan, epoch):
    length = max(len(rows) for rows in plan.rows)
    last = -(-(epoch + 1) * length // plan.per_environment)
    drawn = [np.concatenate(column) for column in zip(*map(plan.batch, range(last)), strict=True)]
    for stream, rows in zip(drawn, plan.rows, strict=True):
        for start in range(0, len(stream) - len(rows) + 1, len(rows)):
            np.testing.assert_array_equal(np.sort(stream[start : start + len(rows)]), rows)


@relaxed
@given(plan=plans())
def test_an_epoch_sees_the_largest_environment_once_and_says_how_others_wrap(plan):
    batches = [plan.batch(step) for step in range(plan.batches_per_epoch)]
    for code, rows in enumerate(plan.rows):
        drawn = np.concatenate([batch[code] for batch in batches])
        assert set(drawn.tolist()) == set(rows.tolist())
        assert plan.wraps[code] == len(drawn) / len(rows)
        counts = np.unique(drawn, return_counts=True)[1]
        assert counts.max() - counts.min() <= 1
    largest = max(len(rows) for rows in plan.rows)
    assert (plan.batches_per_epoch - 1) * plan.per_environment < largest


@relaxed
@given(data=st.data(), seed=st.integers(0, 99), step=st.integers(0, 200))
def test_a_batch_depends_on_seed_and_step_only(data, seed, step):
    plan = data.draw(plans(seed=seed))
    again = Plan(plan.rows, plan.chunk_rows, plan.batch_size, plan.seed)
    again.batch(step // 2)
    assert same(plan.batch(step), again.batch(step))
    if min(len(rows) for rows in plan.rows) >= 300 and plan.per_environment >= 10:
        other = Plan(plan.rows, plan.chunk_rows, plan.batch_size, seed + 1)
        assert not same(plan.batch(step), other.batch(step))


@relaxed
@given(
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=80),
    alone=st.integers(0, 200),
    seed=st.integers(0, 999),
)
def test_relatives_are_held_out_together(sizes, alone, seed):
    family = np.repeat(np.arange(len(sizes)), sizes)
    family = np.r_[family, np.full(alone, -1)].astype(np.int32)
    family = np.random.default_rng(seed).permutation(family)
    aside = held_out(family, seed)
    assert aside.shape == family.shape
    assert aside.dtype == bool
    for code in range(len(sizes)):
        assert len(set(aside[family == code].tolist())) == 1
    np.testing.assert_array_equal(aside, held_out(family, seed))


@relaxed
@given(num_rows=st.integers(0, 1000), block_rows=st.integers(1, 300))
def test_blocks_cover_all_rows_in_order(num_rows, block_rows):
    rows = [i for cut in blocks(num_rows, block_rows) for i in range(cut.start, cut.stop)]
    assert rows == list(range(num_rows))
