"""What may leave: counts of 1 to 20 people are never printed (the workbench policy's "<=20")."""

from __future__ import annotations

SMALLEST_COUNT = 20


def is_small(count: int) -> bool:
    """Whether a count of people must be suppressed (1 to 20; zero may be shown)."""
    return 1 <= count <= SMALLEST_COUNT


def show_count(count: int) -> str:
    """A count of people as it may be shown: ``"0"``, ``"<=20"`` or the number with separators."""
    return f"<={SMALLEST_COUNT}" if is_small(count) else f"{count:,}"


def export_count(count: int) -> int | str:
    """A count of people as it may be exported to a machine-readable table: int or ``"<=20"``."""
    return f"<={SMALLEST_COUNT}" if is_small(count) else int(count)
