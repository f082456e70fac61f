"""Batches from scores in memory: the people of the plan, and those who judge."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mrscale.train import resident
from mrscale.train.ranks import Ranks
from mrscale.train.resident import WINDOW_STEPS, batches, held_out, resident_block

E, P = 3, 2


def block(seed, num=200, aside=0.2):
    """A block in which environments differ in size; scores say whose they are."""
    rng = np.random.default_rng(seed)
    environment = rng.choice(E, num, p=[0.7, 0.28, 0.02])
    environment[:E] = range(E)
    scores = np.c_[1000 * seed + np.arange(num), environment].astype(np.float32)
    judges = rng.random(num) < aside
    judges[:E] = False
    made = resident_block(scores, environment, judges, E, batch_size=20, seed=seed)
    return made, environment, judges


BLOCKS = [block(seed)[0] for seed in (1, 2)]


@pytest.mark.parametrize("world", [1, 2, 3])
def test_batches_hold_the_people_of_the_plan(world):
    start, stop = WINDOW_STEPS - 3, 2 * WINDOW_STEPS + 2
    for rank in range(world):
        found = list(batches(BLOCKS, 2, Ranks(rank, world), start=start, stop=stop))
        assert len(found) == stop - start
        for step, batch in zip(range(start, stop), found, strict=True):
            assert batch.shape[:2] == (4, E)
            for s, one in enumerate(BLOCKS):
                rows = np.stack(one.plan.batch(step, rank=rank, world=world))
                for variant in range(2):
                    assert torch.equal(batch[2 * s + variant], one.scores[rows])


def test_batches_do_not_depend_on_where_one_starts():
    whole = list(batches(BLOCKS, 1, Ranks(), start=0, stop=80))
    for start in (0, 1, 31, 32, 40, 79):
        rest = list(batches(BLOCKS, 1, Ranks(), start=start, stop=80))
        assert all(torch.equal(a, b) for a, b in zip(rest, whole[start:], strict=True))
    assert list(batches(BLOCKS, 1, Ranks(), start=80, stop=80)) == []


def test_nobody_trains_and_judges():
    made, environment, judges = block(3)
    assert sorted(np.concatenate([*made.plan.rows, *made.judges])) == list(range(200))
    for code in range(E):
        inside = environment == code
        np.testing.assert_array_equal(made.plan.rows[code], np.flatnonzero(inside & ~judges))
        np.testing.assert_array_equal(made.judges[code], np.flatnonzero(inside & judges))


def test_judges_are_limited_over_all_environments(monkeypatch):
    monkeypatch.setattr(resident, "MOST_JUDGES", 31)
    made, environment, judges = block(3, num=400, aside=0.5)
    there = np.bincount(environment[judges], minlength=E)
    assert (there > 11).tolist() == [True, True, False]
    assert [len(rows) for rows in made.judges] == np.minimum(there, 11).tolist()
    assert sum(len(rows) for rows in made.plan.rows) == (~judges).sum()


@pytest.mark.parametrize("world", [1, 3, 7])
def test_ranks_share_the_people_who_judge(world):
    seen = [[[] for _ in range(E)] for _ in BLOCKS]
    for rank in range(world):
        mine = held_out(BLOCKS, 2, Ranks(rank, world))
        assert mine.scores.shape == (*mine.weight.shape, P)
        assert set(mine.weight.unique().tolist()) <= {0.0, 1.0}
        assert (mine.scores[mine.weight == 0] == 0).all()
        assert torch.equal(mine.scores[0], mine.scores[1])
        assert torch.equal(mine.weight[2], mine.weight[3])
        for s in range(2):
            for code in range(E):
                people = mine.scores[2 * s, code][mine.weight[2 * s, code] == 1]
                assert (people[:, 1] == code).all()
                seen[s][code] += people[:, 0].tolist()
    for s, one in enumerate(BLOCKS):
        for code in range(E):
            assert sorted(seen[s][code]) == one.scores[one.judges[code], 0].tolist()


def test_a_rank_without_judges_has_weights_of_nothing():
    lonely, _, _ = block(4, aside=0)
    mine = held_out([lonely], 1, Ranks())
    assert mine.weight.shape == (1, E, 1)
    assert mine.weight.sum() == 0
