"""Disclosure control of a whole result: no count of 1 to 20 people is printed or derivable.

Counts that hang together (environments and their total, people used per estimate) are controlled
together, since a small one could otherwise be found by subtraction.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from mrscale.disclosure import SMALLEST_COUNT, is_small
from mrscale.results import PairResult, StudyResult


class AtMost(int):
    """A count of people of which only an upper bound may be known; shown as ``"<=20"``."""


def show(count: int) -> str:
    """A controlled count as text: ``"<=20"`` for a bound, else the number with separators."""
    return f"<={int(count):,}" if isinstance(count, AtMost) else f"{count:,}"


def export(count: int) -> int | str:
    """A controlled count for a machine-readable file: ``"<=20"`` for a bound, else an int."""
    return f"<={int(count)}" if isinstance(count, AtMost) else int(count)


def parse(exported: int | str) -> int:
    """The count that :func:`export` wrote."""
    return AtMost(exported.removeprefix("<=")) if isinstance(exported, str) else exported


def bounded(count: int, published: list[int]) -> int:
    """The count, or a bound if it is small or differs by 1 to 20 from one already published.

    Parameters
    ----------
    count : int
    published : list of int
        Exact counts of overlapping sets of people that readers will see; a count that may join
        them is appended.
    """
    if isinstance(count, AtMost):
        return count
    if is_small(count):
        return AtMost(SMALLEST_COUNT)
    for other in published:
        if is_small(abs(count - other)):
            return AtMost(other if count < other else other + SMALLEST_COUNT)
    published.append(count)
    return count


def total_of(cells: Iterable[int], total: int) -> int:
    """The total to print under controlled cells: their own sum, as a bound if one cell is one.

    A function of the printed cells alone, so it adds nothing to what they say. Equals ``total``
    where nothing was suppressed.
    """
    cells = list(cells)
    return AtMost(sum(cells)) if any(isinstance(c, AtMost) for c in cells) else total


def disclose(result: StudyResult) -> StudyResult:
    """The result with every count of people controlled; applying it twice changes nothing.

    Parameters
    ----------
    result : StudyResult
        With exact counts, or already controlled.

    Returns
    -------
    StudyResult
        Counts of people that may not leave, or from which one could be derived, are
        :class:`AtMost`. Estimates are unchanged. ``encoders`` and ``provenance`` are taken to
        hold no counts of people.
    """
    inside: dict[str, list[int]] = {name: [] for name in result.environments}
    environments = {
        name: bounded(count, inside[name]) for name, count in result.environments.items()
    }
    total = total_of(environments.values(), result.num_people)
    # a bounded total must not come back exactly through another count of the same people
    known: dict[int, int] = {result.num_people: total} if isinstance(total, AtMost) else {}
    everyone: list[int] = []
    total = bounded(total, everyone)
    people = {
        reason: bounded(known.get(count, count), everyone)
        for reason, count in result.people.items()
    }
    pairs = tuple(_disclose_pair(p, inside, known, everyone) for p in result.pairs)
    return replace(result, environments=environments, num_people=total, people=people, pairs=pairs)


def _disclose_pair(
    pair: PairResult, inside: dict[str, list[int]], known: dict[int, int], everyone: list[int]
) -> PairResult:
    cells = [bounded(e.num_obs, inside.setdefault(e.key, [])) for e in pair.per_environment]
    used = sum(e.num_obs for e in pair.per_environment)
    total = total_of(cells, used)
    if isinstance(total, AtMost):
        known = known | {used: total}
    else:
        everyone.append(used)  # readers can add the cells up

    def whole(count: int) -> int:
        return bounded(known.get(count, count), everyone)

    return replace(
        pair,
        estimates=tuple(replace(e, num_obs=whole(e.num_obs)) for e in pair.estimates),
        per_environment=tuple(
            replace(e, num_obs=cell) for e, cell in zip(pair.per_environment, cells, strict=True)
        ),
    )
