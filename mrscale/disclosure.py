"""What may leave: the one gate for counts of people, and for numbers that are counts in disguise.

Under the policy ``"all-of-us"`` a count of 1 to 20 people is never shown, nor one from which such a
count would follow by subtraction. Studies may raise the limit; to lower it they must say so. What
the gate does and what an attacker could still do is in ``docs/disclosure.md``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, MutableSequence
from dataclasses import dataclass
from operator import index
from typing import Literal

from mrscale.errors import InputError

PolicyName = Literal["all-of-us"]
LIMITS: dict[PolicyName, int] = {"all-of-us": 20}
"""Per policy, the largest count that may not be shown."""


@dataclass(frozen=True)
class Policy:
    """Which counts of people may be shown.

    Attributes
    ----------
    name : {"all-of-us"}
    limit : int
        Counts of 1 to this many people are not shown.
    below_policy : bool
        Whether ``limit`` may be smaller than that of the policy.

    Raises
    ------
    InputError
        If ``limit`` is smaller than the policy's without ``below_policy``, or negative.
    """

    name: PolicyName = "all-of-us"
    limit: int = LIMITS["all-of-us"]
    below_policy: bool = False

    def __post_init__(self) -> None:
        needed = LIMITS[self.name]
        if self.limit < (0 if self.below_policy else needed):
            raise InputError(
                f"the policy {self.name!r} hides counts of 1 to {needed} people, and the limit may "
                f"be raised only; found {self.limit}; if you are sure that smaller counts may "
                "leave, say so: below_policy = true"
            )


_active = Policy()


def policy() -> Policy:
    """The policy in force in this process."""
    return _active


def enforce(chosen: Policy) -> None:
    """Put a policy in force, for all that this process says and writes from now on.

    A study does so by its section ``[disclosure]``; without a study, call this.

    Examples
    --------
    >>> from mrscale import disclosure
    >>> disclosure.enforce(disclosure.Policy(limit=50))
    >>> disclosure.show_count(43)
    '<=50'
    >>> disclosure.enforce(disclosure.Policy())
    """
    global _active
    _active = chosen


class AtMost(int):
    """A count of people of which only an upper bound may be known."""


def is_small(count: int) -> bool:
    """Whether a count of people must be hidden (1 to 20; zero may be shown)."""
    return 1 <= count <= _active.limit


def show_count(count: int) -> str:
    """A count of people as it may be shown: ``"<=20"``, or the number with separators."""
    if isinstance(count, AtMost):
        return f"<={int(count):,}"
    return f"<={_active.limit}" if is_small(count) else f"{count:,}"


def vague(count: int) -> int:
    """A count of people in hundreds, as a bound: where the exact one, beside others that readers
    know, or a product with it, would tell a small one."""
    hundreds = -(-count // 100) * 100
    return AtMost(_active.limit if is_small(count) else hundreds) if count else 0


def export_count(count: int) -> int | str:
    """A count of people as it may stand in a machine-readable file: an int or ``"<=20"``."""
    if isinstance(count, AtMost):
        return f"<={int(count)}"
    return f"<={_active.limit}" if is_small(count) else int(count)


def parse_count(exported: int | str) -> int:
    """The count that :func:`export_count` wrote; a bound stays one."""
    return AtMost(exported.removeprefix("<=")) if isinstance(exported, str) else index(exported)


def hidden_range(count: int, published: Iterable[int], reach: int = 0) -> range | None:
    """All counts that look like this one to readers; None if it may be shown.

    Parameters
    ----------
    count : int
    published : iterable of int
        Exact counts of overlapping sets of people that readers know.
    reach : int
        Counts up to this are hidden, too: those near a count that is itself hidden.

    Returns
    -------
    range or None
        Of 1 to the limit (or to ``reach``), and of counts that differ by so little from a published
        one, the piece around ``count``; pieces that overlap are one, so that no bound tells which
        it was.
    """
    limit, known = _active.limit, set(published)
    if count in known:
        return None
    pieces = [range(1, max(limit, reach) + 1)]
    pieces += [piece for o in known for piece in (range(o - limit, o), range(o + 1, o + limit + 1))]
    found = None
    for piece in sorted(pieces, key=lambda p: p.start):
        if found is not None and piece.start < found.stop:
            found = range(found.start, max(found.stop, piece.stop))
        elif found is not None and count in found:
            return found
        else:
            found = piece
    return found if found is not None and count in found else None


def bounded(count: int, published: MutableSequence[int], reach: int = 0) -> int:
    """The count, or a bound if it is small or differs little from one that readers know.

    Parameters
    ----------
    count : int
    published : list of int
        Exact counts of overlapping sets of people that readers will see or have seen; a count that
        may join them is appended.
    reach : int
        As for :func:`hidden_range`.

    Returns
    -------
    int
        :class:`AtMost` the end of its :func:`hidden_range`, or the count.
    """
    if isinstance(count, AtMost):
        return count
    hidden = hidden_range(count, published, reach)
    if hidden:
        return AtMost(hidden.stop - 1)
    if count not in published:
        published.append(count)
    return count


def may_tell_more_than(needed: int, count: int, published: Iterable[int]) -> bool:
    """Whether it may be told that there are more than ``needed`` people, if there are.

    Not if counts that look like this one lie on both sides: that something was estimated from these
    people, or was not, would narrow the bound.
    """
    hidden = hidden_range(count, published)
    return hidden is None or hidden.start > needed


def total_of(cells: Iterable[int], total: int) -> int:
    """The total to show under controlled cells: their own sum, as a bound if one cell is one.

    A function of the cells that are shown, so that it adds nothing to what they say. Equals
    ``total`` where nothing was hidden.
    """
    cells = list(cells)
    return AtMost(sum(cells)) if any(isinstance(c, AtMost) for c in cells) else total


def allele_frequency(frequency: float, num_people: int) -> float:
    """An allele frequency that may be shown: NaN if it tells a small count of alleles or people.

    Parameters
    ----------
    frequency : float
        Of either allele, in a group of people.
    num_people : int
        People of the group whose alleles are known; ``2 * num_people * frequency`` is a count of
        alleles, and at most as many people carry the rarer one.

    Returns
    -------
    float
        Rounded to so few decimal places that it could as well be a frequency in a group that is
        smaller or larger by a small count: of which alleles are not known must not follow.
    """
    rarer = min(frequency, 1 - frequency)
    if math.isnan(frequency) or is_small(num_people) or is_small(round(2 * num_people * rarer)):
        return math.nan
    fewest = 2 * (num_people - _active.limit)
    return round(frequency, len(str(fewest)) - 1) if fewest >= 10 else math.nan
