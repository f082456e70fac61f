"""What is told of a store tells no small count."""

from __future__ import annotations

import json

import numpy as np
import pytest

import mrscale as mr


@pytest.mark.parametrize(("known", "told"), [(890, "<=20 people"), (12, "all but <=20 people")])
def test_a_small_count_is_no_share(small, changed_store, known, told):
    outcome = small.array("outcome")
    outcome[known:] = np.nan
    assert mr.describe(changed_store(outcome=outcome)).traits["outcomes"] == {"outcome": told}


def test_steps_of_the_extraction_tell_no_small_environment(write_store, tmp_path):
    """A store that was extracted under a lower limit, say."""

    def one_is_small(values):
        values["environment"] = np.repeat([0, 1, 2], [450, 440, 10]).astype(np.int16)
        values["environment_offset"] = np.array([0, 450, 890])

    write_store(tmp_path / "s.zarr", change=one_is_small)
    manifest = json.loads((tmp_path / "s.zarr" / "manifest.json").read_text())
    manifest["people"] = [["in both", 901], ["with an environment", 900]]
    (tmp_path / "s.zarr" / "manifest.json").write_text(json.dumps(manifest))
    found = mr.describe(tmp_path / "s.zarr")
    assert list(found.environments.values()) == [450, 440, "<=20"]
    assert set(found.funnel.values()) <= {"<=910", "<=920", "<=930"}


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
