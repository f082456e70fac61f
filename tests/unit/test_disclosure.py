"""Counts of 1 to 20 people are never shown."""

from __future__ import annotations

import pytest

from mrscale.disclosure import export_count, is_small, show_count


@pytest.mark.parametrize("count", range(1, 21))
def test_small_counts_are_bounds(count):
    assert is_small(count)
    assert show_count(count) == export_count(count) == "<=20"


def test_nobody_and_many_may_be_shown():
    assert [show_count(n) for n in (0, 21, 12_345)] == ["0", "21", "12,345"]
    assert [export_count(n) for n in (0, 21, 12_345)] == [0, 21, 12_345]
