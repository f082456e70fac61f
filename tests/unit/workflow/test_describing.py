"""What is told of a store tells no small count."""

from __future__ import annotations

import numpy as np
import pytest

import mrscale as mr


@pytest.mark.parametrize(("known", "told"), [(890, "<=20 people"), (12, "all but <=20 people")])
def test_a_small_count_is_no_share(small, changed_store, known, told):
    outcome = small.array("outcome")
    outcome[known:] = np.nan
    assert mr.describe(changed_store(outcome=outcome)).traits["outcomes"] == {"outcome": told}


def test_a_share_could_be_that_of_many_counts(small, changed_store):
    """Else it would tell how many people of an environment have an outcome, beside its size."""
    counts = {}
    for known in range(280, 330):
        outcome = small.array("outcome")
        outcome[known:] = np.nan
        share = mr.describe(changed_store(outcome=outcome)).traits["outcomes"]["outcome"]
        counts[share] = counts.get(share, 0) + 1
    assert max(counts.values()) > 20
    assert list(counts) == [0.7, 0.6]
