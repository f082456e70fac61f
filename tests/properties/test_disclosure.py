"""An attacker who has every export, the totals and this code cannot find a small count.

All worlds of a few environments with a few people are enumerated under a lowered limit. Worlds with
equal exports look alike to the attacker: every small count must then be able to have two values.
"""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mrscale import disclosure
from mrscale.disclosure import Policy
from mrscale.report import control
from mrscale.report.export import estimates_tsv, from_json, to_json
from mrscale.report.render import render
from mrscale.results import Estimate, LeftOut, PairResult, StudyResult

LIMIT = 2
TOO_FEW = 3
"""An environment with so many people used, or fewer, has no estimate of its own."""


@pytest.fixture
def lowered():
    disclosure.enforce(Policy(limit=LIMIT, below_policy=True))
    yield
    disclosure.enforce(Policy())


@dataclass(frozen=True)
class World:
    """People per environment, those with all traits of each pair, and those lost before."""

    sizes: tuple[int, ...]
    used: tuple[tuple[int, ...], ...]
    lost: tuple[int, ...] = ()

    def secrets(self) -> dict[str, int]:
        """Every count of people that may be small: each part, the rest, and each step."""
        found = {f"size {e}": n for e, n in enumerate(self.sizes)}
        for p, used in enumerate(self.used):
            for e, (n, u) in enumerate(zip(self.sizes, used, strict=True)):
                found[f"used {p} {e}"], found[f"left {p} {e}"] = u, n - u
            found[f"used {p}"] = sum(used)
            found[f"left {p}"] = sum(self.sizes) - sum(used)
        return found | {f"lost {i}": n for i, n in enumerate(self.lost)}

    def result(self) -> StudyResult:
        """As the estimate stage makes it, statistics aside."""
        total = sum(self.sizes)
        funnel = {"analysed": total}
        for i, lost in enumerate(self.lost):
            total += lost
            funnel = {f"before step {i}": total, **funnel}
        few = [not _has_estimate(sum(used), self.sizes) for used in self.used]
        return StudyResult(
            name="s",
            pairs=tuple(
                _pair(str(p), self.sizes, used)
                for p, (used, no) in enumerate(zip(self.used, few, strict=True))
                if not no
            ),
            not_estimated={str(p): "too few" for p, no in enumerate(few) if no},
            environments={f"e{i}": n for i, n in enumerate(self.sizes)},
            num_people=sum(self.sizes),
            num_variants=5,
            missing_rate=0.0,
            people=funnel,
        )


def _has_estimate(used: int, sizes: tuple[int, ...]) -> bool:
    """Whether people of environments of these sizes have one that may be shown. No environment of
    a store is small: worlds with such ones are looked at for what counts alone would tell."""
    if any(map(disclosure.is_small, sizes)) and len(sizes) > 1:
        return True
    return used > TOO_FEW and disclosure.may_tell_more_than(
        TOO_FEW, used, [sum(sizes)] if not any(map(disclosure.is_small, sizes)) else []
    )


def _pair(outcome: str, sizes: tuple[int, ...], used: tuple[int, ...]) -> PairResult:
    def row(key: str, num_obs: int) -> Estimate:
        return Estimate(key, key, 1.0, 0.1, 0.8, 1.2, 0.01, num_obs)

    places = list(enumerate(zip(sizes, used, strict=True)))
    own = [(f"e{i}", u) for i, (n, u) in places if _has_estimate(u, (n,))]
    without = [f"e{i}" for i, _ in places if {key for key, _ in own} - {f"e{i}"}]
    return PairResult(
        "x",
        outcome,
        (row("ols", sum(used)), row("meta", sum(n for _, n in own))),
        "ols",
        "green",
        (),
        per_environment=tuple(row(key, n) for key, n in own),
        without=tuple(LeftOut(key, 1.0, 0.8, 1.2, 30.0) for key in without),
    )


def two_environments() -> Iterator[World]:
    for sizes in itertools.product(range(11), repeat=2):
        for used in itertools.product(*(range(n + 1) for n in sizes)):
            yield World(sizes, (used,))


def three_environments() -> Iterator[World]:
    for sizes in itertools.product(range(3, 8), repeat=3):
        for used in itertools.product(*(range(n + 1) for n in sizes)):
            yield World(sizes, (used,))


def two_pairs() -> Iterator[World]:
    for sizes in itertools.product(range(3, 7), repeat=2):
        choices = list(itertools.product(*(range(n + 1) for n in sizes)))
        for used in itertools.product(choices, repeat=2):
            yield World(sizes, used)


def funnels() -> Iterator[World]:
    for sizes in itertools.product(range(8), repeat=2):
        for lost in itertools.product(range(12), repeat=2):
            yield World(sizes, (sizes,), lost)


def require_hidden(worlds: Iterator[World], export) -> None:
    """Every small secret has another value in a world that looks the same.

    Worlds at the upper edge of the enumeration lack neighbours and are looked at only as such.
    """
    worlds = list(worlds)
    edge = max(max(world.sizes) for world in worlds) - LIMIT
    alike = defaultdict(list)
    for world in worlds:
        alike[export(world)].append(world)
    leaks = []
    for seen, several in alike.items():
        values = defaultdict(set)
        for world in several:
            for name, value in world.secrets().items():
                values[name].add(value)
        for name, found in values.items():
            if len(found) == 1 and 1 <= min(found) <= LIMIT:
                leaks += [(w, name, seen) for w in several if max(*w.sizes, *w.lost) <= edge]
    assert not leaks, f"{len(leaks)} leaks, the first: {leaks[0]}"


def exported(world: World) -> str:
    return json.dumps(to_json(world.result()))


def exported_twice(world: World) -> str:
    """What readers have of two runs with other traits, of which the second knows the first."""
    published: control.Published = {}
    whole = world.result()
    runs = [control.disclose(replace(whole, pairs=(pair,)), published) for pair in whole.pairs]
    return json.dumps([to_json(run) for run in runs])


@pytest.mark.parametrize("worlds", [two_environments, three_environments, two_pairs, funnels])
def test_no_small_count_follows_from_the_exports(worlds, lowered):
    require_hidden(worlds(), exported)


def test_no_small_count_follows_from_two_runs(lowered):
    require_hidden(two_pairs(), exported_twice)


counts = st.lists(
    st.tuples(st.integers(0, 200), st.integers(0, 60)).map(lambda t: (t[0], max(0, t[0] - t[1]))),
    min_size=1,
    max_size=4,
)


@given(counts, st.lists(st.integers(0, 60), max_size=3))
@settings(max_examples=8, deadline=None)
def test_page_and_table_say_no_more_than_the_json(
    people: list[tuple[int, int]], lost: list[int]
) -> None:
    sizes, used = zip(*people, strict=True)
    exact = World(sizes, (used,), tuple(lost)).result()
    assume(exact.pairs)  # the estimate stage refuses a study without any
    again = from_json(to_json(exact))
    assert render(exact) == render(again)
    assert estimates_tsv(exact) == estimates_tsv(again)
    assert set(control.suppressed(control.disclose(exact))) == set(control.suppressed(again))
