"""Progress of jobs by what appears on disk."""

from __future__ import annotations

import threading

import pytest

from mrscale.errors import EngineError
from pipelines import job


@pytest.mark.parametrize("error", [EngineError("cannot be reached"), OSError("stale handle")])
def test_a_look_that_fails_ends_no_progress(monkeypatch, error):
    monkeypatch.setattr(job, "_POLL_SECONDS", 0.01)
    looks, told, seen = [], [], threading.Event()

    def num_done():
        looks.append(1)
        if len(looks) == 1:
            raise error
        return 1

    def advance(share):
        told.append(share)
        seen.set()

    with job.watched(num_done, 4, advance):
        assert seen.wait(10), "it looks again"
    assert told == [0.25, 0.75]
