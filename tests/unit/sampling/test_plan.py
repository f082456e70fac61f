"""Plans and splits on small examples; what holds for all of them is in tests/properties."""

from __future__ import annotations

import numpy as np

from mrscale.sampling.plan import Plan, held_out


def test_epochs_differ_and_rows_are_mixed():
    plan = Plan((np.arange(1000), np.arange(1000, 2000)), 64, 400, seed=0)
    assert plan.batches_per_epoch == 5
    for first, later in zip(plan.batch(0), plan.batch(5), strict=True):
        assert not np.array_equal(first, later)
    for rows in plan.batch(0):
        assert len(np.unique(rows // 64)) > 1
        assert not (np.diff(rows) > 0).all()


def test_about_the_asked_share_is_held_out():
    for family in (np.full(20_000, -1), np.repeat(np.arange(10_000), 2)):
        family = family.astype(np.int32)
        assert abs(held_out(family, 1).mean() - 0.15) < 0.01
        assert abs(held_out(family, 1, share=0.4).mean() - 0.4) < 0.015
        assert (held_out(family, 1) != held_out(family, 2)).any()
