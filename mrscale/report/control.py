"""Disclosure control of a whole result: no small count of people is printed or derivable.

Counts that hang together (environments and their total, people used per estimate) are controlled
together, since a small one could otherwise be found by subtraction; so are counts that readers know
from earlier results.
"""

from __future__ import annotations

import math
from dataclasses import replace

from mrscale.disclosure import AtMost, bounded, is_small, policy, show_count, total_of
from mrscale.results import PairResult, StudyResult
from mrscale.results.pair import ROBUSTNESS

Published = dict[str, list[int]]
"""Exact counts that readers know: of everybody (key ``""``) and of each environment (its name)."""
EVERYBODY = ""


def disclose(result: StudyResult, published: Published | None = None) -> StudyResult:
    """The result with every count of people controlled; applying it twice changes nothing.

    Parameters
    ----------
    result : StudyResult
        With exact counts, or already controlled.
    published : dict of str to list of int, optional
        Counts that readers know from earlier results about these people. Those that this result
        shows are added.

    Returns
    -------
    StudyResult
        Counts of people that may not leave, or from which one could be derived, are
        :class:`~mrscale.disclosure.AtMost`, and robustness values and standard errors of variants
        of such people NaN. Estimates are unchanged. ``encoders`` and ``provenance`` are taken to
        hold no counts of people.
    """
    known = {} if published is None else published
    environments = {
        name: bounded(count, known.setdefault(name, []))
        for name, count in result.environments.items()
    }
    everyone = known.setdefault(EVERYBODY, [])
    total = total_of(environments.values(), result.num_people)
    hidden: dict[int, int] = {}
    reach = 0
    if isinstance(total, AtMost):
        # a bounded total must not come back through another count of the same people
        hidden, reach = {result.num_people: total}, total + policy().limit
    total = bounded(total, everyone)
    people = {step: bounded(n, everyone, reach) for step, n in result.people.items()}
    calls = result.num_people * result.num_variants
    shown = replace(
        result,
        environments=environments,
        num_people=total,
        people=people,
        missing_rate=_missing(result.missing_rate, calls),
    )
    pairs = tuple(_disclose_pair(pair, shown, known, hidden) for pair in result.pairs)
    return replace(shown, pairs=pairs)


def _disclose_pair(
    pair: PairResult, shown: StudyResult, known: Published, hidden: dict[int, int]
) -> PairResult:
    inside = [bounded(e.num_obs, known.setdefault(e.key, [])) for e in pair.per_environment]
    used = sum(e.num_obs for e in pair.per_environment)
    own = {e.key for e in pair.per_environment}
    others = sum(n for name, n in shown.environments.items() if name not in own)
    everyone = known.setdefault(EVERYBODY, [])

    def whole(count: int) -> int:
        if isinstance(count, AtMost):
            return count
        # people of environments without an estimate of their own, whose counts are not shown
        rest = [AtMost(others)] if count > used else []
        cell = total_of([*inside, *rest], count)
        return bounded(hidden.get(count, cell) if cell == count else cell, everyone)

    estimates = tuple(replace(e, num_obs=whole(e.num_obs)) for e in pair.estimates)
    if not isinstance(total_of(inside, used), AtMost):
        everyone.append(used)  # readers can add the cells up
    sensitivity, instruments = pair.sensitivity, pair.instruments
    if any(isinstance(e.num_obs, AtMost) for e in estimates):
        # two of them, and errors of a few variants, have the degrees of freedom between them
        sensitivity = tuple(
            replace(one, value=math.nan) if one.name.startswith(ROBUSTNESS) else one
            for one in sensitivity
        )
        instruments = tuple(
            replace(one, se_exposure=math.nan, se_outcome=math.nan) for one in instruments
        )
    return replace(
        pair,
        estimates=estimates,
        sensitivity=sensitivity,
        instruments=instruments,
        per_environment=tuple(
            replace(e, num_obs=cell) for e, cell in zip(pair.per_environment, inside, strict=True)
        ),
    )


def _missing(rate: float, calls: int) -> float:
    """The share of missing calls, NaN if these are so few that they may be those of few people."""
    return math.nan if math.isnan(rate) or is_small(round(rate * calls)) else rate


def suppressed(result: StudyResult) -> list[str]:
    """What :func:`disclose` hid, a line for each number, with the bound that is shown instead."""
    cells = [(f"people in {name}", n) for name, n in result.environments.items()]
    cells.append(("people in all environments", result.num_people))
    cells += [(f"people {step}", n) for step, n in result.people.items()]
    for pair in result.pairs:
        which = f"{pair.exposure} → {pair.outcome}"
        cells += [(f"people used inside {e.key}, {which}", e.num_obs) for e in pair.per_environment]
        cells += [(f"people used for “{e.label}”, {which}", e.num_obs) for e in pair.estimates]
    lines = [f"{what}: shown as {show_count(n)}" for what, n in cells if isinstance(n, AtMost)]
    return [*lines, *(["share of missing genotypes"] if math.isnan(result.missing_rate) else [])]
