"""Ranks come together before any waits for another in its sums."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from torch import distributed

from mrscale.errors import EngineError
from mrscale.train import ranks


def test_ranks_wait_for_one_that_comes_late():
    store = distributed.HashStore()
    with ThreadPoolExecutor(1) as pool:
        early = pool.submit(ranks._meet, store, 0, 2)
        with pytest.raises(TimeoutError):
            early.result(timeout=0.5)
        ranks._meet(store, 1, 2)
        early.result(timeout=10)


def test_a_rank_that_does_not_come_is_not_waited_for_for_ever(monkeypatch):
    monkeypatch.setattr(ranks, "MEETING", timedelta(seconds=0.5))
    store = distributed.HashStore()
    with pytest.raises(EngineError, match="a training of 3 ranks needs all of them, and some did"):
        ranks._meet(store, 0, 3)
