"""Small counts are never shown, nor is what tells them."""

from __future__ import annotations

import math

import pytest

from mrscale import disclosure
from mrscale.disclosure import (
    AtMost,
    Policy,
    allele_frequency,
    bounded,
    export_count,
    hidden_range,
    is_small,
    may_tell_more_than,
    parse_count,
    show_count,
    total_of,
    vague,
)
from mrscale.errors import InputError
from mrscale.study_file import parse_study


@pytest.mark.parametrize("count", range(1, 21))
def test_small_counts_are_bounds(count):
    assert is_small(count)
    assert show_count(count) == export_count(count) == "<=20"


def test_nobody_and_many_may_be_shown():
    assert [show_count(n) for n in (0, 21, 12_345)] == ["0", "21", "12,345"]
    assert [export_count(n) for n in (0, 21, 12_345)] == [0, 21, 12_345]


def test_bounds_are_shown_as_such_and_read_again():
    assert show_count(AtMost(1020)) == "<=1,020"
    assert export_count(AtMost(1020)) == "<=1020"
    again = parse_count("<=1020")
    assert isinstance(again, AtMost)
    assert again == 1020
    assert not isinstance(parse_count(1020), AtMost)


@pytest.mark.parametrize(
    ("count", "published", "expected"),
    [
        (21, [], None),
        (20, [], range(1, 21)),
        (1000, [1000], None),
        (999, [1000], range(980, 1000)),
        (1020, [1000], range(1001, 1021)),
        (979, [1000], None),
        (38, [40], range(1, 40)),  # 1 to 20 and 20 to 39 meet
        (42, [40], range(41, 61)),
        (45, [40, 70], range(41, 70)),
    ],
)
def test_what_looks_alike_has_one_bound(count, published, expected):
    assert hidden_range(count, published) == expected


def test_a_shown_count_joins_the_published_ones():
    published = [1000]
    assert bounded(900, published) == 900
    assert published == [1000, 900]
    assert show_count(bounded(910, published)) == "<=920"
    assert published == [1000, 900]


def test_a_total_is_a_sum_of_what_is_shown():
    assert total_of([500, 400], 900) == 900
    assert show_count(total_of([500, AtMost(20)], 507)) == "<=520"


def test_an_estimate_must_not_narrow_a_bound():
    assert may_tell_more_than(50, 60, [1000])
    assert may_tell_more_than(50, 995, [1000])
    assert not may_tell_more_than(985, 995, [1000])
    assert not may_tell_more_than(5, 15, [1000])


def test_a_frequency_that_is_a_small_count_of_alleles_is_not_shown():
    assert allele_frequency(0.25, 1000) == 0.25
    assert math.isnan(allele_frequency(20 / 2000, 1000))
    assert math.isnan(allele_frequency(1 - 20 / 2000, 1000))
    assert allele_frequency(21 / 2000, 1000) == 0.011
    assert math.isnan(allele_frequency(0.5, 20))
    assert math.isnan(allele_frequency(0.5, 24))
    assert allele_frequency(0.0, 1000) == 0


def test_a_count_beside_others_is_told_in_hundreds():
    assert [show_count(vague(count)) for count in (0, 7, 21, 300, 301)] == [
        "0",
        "<=20",
        "<=100",
        "<=300",
        "<=400",
    ]


@pytest.mark.parametrize("num_people", [25, 69, 70, 300, 519, 520, 900, 5021, 20_000])
def test_a_frequency_does_not_tell_how_many_people_it_is_of(num_people):
    counts = range(21, 2 * num_people - 20, max(1, num_people // 40))
    shown = [allele_frequency(count / (2 * num_people), num_people) for count in counts]
    step = 10.0 ** -max(len(repr(one).partition(".")[2]) for one in shown)
    for one in shown:
        for others in range(num_people - 20, num_people + 21):
            nearest = round(2 * others * one) / (2 * others)
            assert abs(nearest - one) <= step / 2 + 1e-12


def test_the_limit_may_be_raised_and_is_then_everybodys():
    disclosure.enforce(Policy(limit=50))
    try:
        assert show_count(43) == "<=50"
    finally:
        disclosure.enforce(Policy())
    assert show_count(43) == "43"


def test_the_limit_is_lowered_on_purpose_only():
    with pytest.raises(InputError, match=r"may be raised only; found 5; .* below_policy = true"):
        Policy(limit=5)
    assert Policy(limit=5, below_policy=True).limit == 5
    with pytest.raises(InputError, match=r"limit.* below_policy = true"):
        parse_study({"disclosure": {"limit": 5}})
    raised = parse_study({"disclosure": {"limit": 30}}).disclosure.as_policy()
    assert raised == Policy(limit=30)
