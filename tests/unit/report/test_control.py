"""No count of 1 to 20 people is printed, and none can be found by subtraction."""

from __future__ import annotations

import math
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from mrscale.disclosure import AtMost, export_count, show_count
from mrscale.report import control
from mrscale.results import Estimate, PairResult, Sensitivity, StudyResult
from mrscale.results.pair import ROBUSTNESS


def _study(counts: list[int], used: list[int]) -> StudyResult:
    def row(key: str, num_obs: int) -> Estimate:
        return Estimate(key, key, 1.0, 0.1, 0.8, 1.2, 0.01, num_obs)

    pair = PairResult(
        "x", "y", (row("ols", sum(used)),), "ols", "green", (),
        per_environment=tuple(row(f"e{i}", n) for i, n in enumerate(used)),
    )  # fmt: skip
    return StudyResult(
        "s", (pair,), {f"e{i}": n for i, n in enumerate(counts)}, sum(counts), 5, 0.0
    )


def _exact(counts: list[int]) -> list[int]:
    return [c for c in counts if not isinstance(c, AtMost)]


def test_a_small_cell_and_its_total_become_bounds() -> None:
    shown = control.disclose(_study([500, 7], [500, 7]))
    assert [show_count(n) for n in shown.environments.values()] == ["500", "<=20"]
    assert show_count(shown.num_people) == "<=520"
    assert export_count(shown.pairs[0]["ols"].num_obs) == "<=520"


def test_large_counts_stay_exact() -> None:
    result = _study([12_345, 0], [12_000, 0])
    assert control.disclose(result) == result
    assert show_count(control.disclose(result).num_people) == "12,345"


def test_few_people_without_a_trait_cannot_be_found_by_subtraction() -> None:
    shown = control.disclose(_study([500, 400], [500, 393]))
    assert [show_count(e.num_obs) for e in shown.pairs[0].per_environment] == ["500", "<=399"]
    assert show_count(shown.pairs[0]["ols"].num_obs) == "<=899"


def test_a_small_step_of_the_funnel_is_not_derivable() -> None:
    people = {"in the genotypes": 905, "no phenotype": 5, "kept": 900}
    shown = control.disclose(replace(_study([500, 400], [500, 400]), people=people))
    assert [show_count(n) for n in shown.people.values()] == ["<=920", "<=20", "900"]


def test_robustness_values_that_tell_the_degrees_of_freedom_are_hidden_with_the_people() -> None:
    rows = tuple(
        Sensitivity(name, 0.1, math.nan, math.nan, "")
        for name in (f"{ROBUSTNESS}, estimate", f"{ROBUSTNESS}, interval", "leakage")
    )
    for used, hidden in ([[500, 400], False], [[500, 393], True]):
        exact = _study([500, 400], used)
        exact = replace(exact, pairs=(replace(exact.pairs[0], sensitivity=rows),))
        shown = control.disclose(exact).pairs[0].sensitivity
        assert [math.isnan(one.value) for one in shown] == [hidden, hidden, False]


cells = st.lists(
    st.tuples(st.integers(0, 200), st.integers(0, 60)).map(lambda t: (t[0], max(0, t[0] - t[1]))),
    min_size=1,
    max_size=5,
)


@given(cells)
@settings(deadline=None)
def test_no_two_exact_counts_of_the_same_people_differ_by_1_to_20(
    both: list[tuple[int, int]],
) -> None:
    result = _study([a for a, _ in both], [b for _, b in both])
    shown = control.disclose(result)
    pair = shown.pairs[0]
    groups = [[shown.num_people, pair["ols"].num_obs]]
    for whole, part in zip(shown.environments.values(), pair.per_environment, strict=True):
        groups.append([whole, part.num_obs])
    for group in groups:
        exact = _exact(group)
        assert not any(1 <= n <= 20 or 1 <= abs(n - m) <= 20 for n in exact for m in exact)
    if len(_exact(list(shown.environments.values()))) < len(both):
        assert isinstance(shown.num_people, AtMost)
    true = [*result.environments.values(), result.num_people]
    bound = [*shown.environments.values(), shown.num_people]
    assert all(b >= t for b, t in zip(bound, true, strict=True))
    again = control.disclose(shown)
    assert again == shown
    assert [type(n) for n in again.environments.values()] == [
        type(n) for n in shown.environments.values()
    ]
