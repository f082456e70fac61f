"""Numbers read as people write them: true minus signs, bounds, dashes for what is not there."""

from __future__ import annotations

import math

import pytest

from mrscale.plots import numbers
from mrscale.plots.numbers import DASH, MINUS


@pytest.mark.parametrize(
    ("value", "places", "expected"),
    [
        (-0.0001, 2, "0.00"),
        (-1.5, 1, f"{MINUS}1.5"),
        (math.nan, 2, DASH),
        (-math.inf, 2, f"{MINUS}∞"),
        (1.23456e7, 2, "1.235e+07"),
    ],
)
def test_number(value: float, places: int, expected: str) -> None:
    assert numbers.number(value, places) == expected


def test_effects_of_large_units_are_not_zero() -> None:
    m = numbers.MINUS
    assert numbers.interval(-4e-10, 2.1e-11, numbers.decimals(4e-11)) == f"{m}4e{m}10 to 2.1e{m}11"


@pytest.mark.parametrize(
    ("error", "places"), [(0.034, 3), (0.34, 2), (34.0, 0), (1e-12, 13), (math.nan, 3), (0.0, 3)]
)
def test_two_digits_of_the_standard_error_are_shown(error: float, places: int) -> None:
    assert numbers.decimals(error) == places


def test_other_formats() -> None:
    assert numbers.interval(-1.0, 2.0, 1) == f"{MINUS}1.0 to 2.0"
    assert numbers.interval(math.nan, 1.0, 2) == DASH
    assert numbers.p_value(0.0) == "<1e-300"
    assert numbers.p_value(math.nan) == DASH
    assert numbers.f_statistic(1204.4) == "1,204"
    assert numbers.f_statistic(9.96) == "10.0"
    assert numbers.share(0.0049) == "0.49 %"
    assert numbers.share(1e-6) == "less than 0.01 %"
    assert numbers.statistic(-0.0021) == f"{MINUS}0.0021"
