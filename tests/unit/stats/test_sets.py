"""Confidence sets, and where functions are not positive."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose

from mrscale.stats.sets import (
    EVERYTHING,
    ConfidenceSet,
    ProjectiveLine,
    where_quadratic_nonpositive,
)

INF = math.inf


@pytest.mark.parametrize(
    ("intervals", "text", "empty", "bounded"),
    [
        ((), "empty", True, True),
        (((-1.25, 0.5),), "[-1.25, 0.5]", False, True),
        (EVERYTHING, "(-inf, inf)", False, False),
        (((-INF, -1.2), (0.3, INF)), "(-inf, -1.2] u [0.3, inf)", False, False),
    ],
)
def test_sets_say_what_they_are(intervals, text, empty, bounded):
    found = ConfidenceSet(intervals, 0.95, "anderson-rubin")
    assert (str(found), found.is_empty, found.is_bounded) == (text, empty, bounded)


def test_membership_includes_the_ends():
    found = ConfidenceSet(((-INF, -1.0), (2.0, 3.0)), 0.9, "clr")
    assert all(value in found for value in (-1e300, -1.0, 2.0, 3.0))
    assert not any(value in found for value in (-0.99, 1.99, 3.01))


def test_a_test_that_cannot_be_made_excludes_nothing_and_says_why():
    found = ConfidenceSet.not_applicable("clr", 0.95, "too few clusters")
    assert found.intervals == EVERYTHING
    assert found.reason == "too few clusters"


@pytest.mark.parametrize(
    ("coefficients", "expected"),
    [
        ((1, 0, -4), ((-2, 2),)),
        ((-1, 0, 4), ((-INF, -2), (2, INF))),
        ((1, -6, 9), ((3, 3),)),
        ((1, 0, 0), ((0, 0),)),
        ((1, 0, 1), ()),
        ((-1, 0, -1), EVERYTHING),
        ((0, 2, -6), ((-INF, 3),)),
        ((0, -2, 6), ((3, INF),)),
        ((0, 0, -1), EVERYTHING),
        ((0, 0, 1), ()),
        ((1, -1e9, 1), ((1e-9, 1e9),)),  # the small root would cancel to nothing
    ],
)
def test_quadratic(coefficients, expected):
    found = where_quadratic_nonpositive(*coefficients)
    assert len(found) == len(expected)
    if expected:
        assert_allclose(found, expected, rtol=1e-14)


ANGLES = np.linspace(-1.5, 1.5, 40)


@pytest.mark.parametrize("expected", [((-3.0, 5.0),), ((-INF, -3.0), (5.0, INF))])
def test_line_refines_crossings(expected):
    line, inside = ProjectiveLine(1.0, 2.0), len(expected) == 1

    def product(angle):
        y, x = -line.weights(angle)[0], line.weights(angle)[1]
        return (y + 3 * x) * (y - 5 * x) * (1 if inside else -1)

    assert_allclose(line.where_nonpositive(product, ANGLES), expected, rtol=1e-12)


@pytest.mark.parametrize(("sign", "expected"), [(1, ()), (-1, EVERYTHING)])
def test_line_without_crossings(sign, expected):
    assert ProjectiveLine(0.0, 1.0).where_nonpositive(lambda _: sign, ANGLES) == expected


def test_line_with_several_crossings_and_one_at_infinity():
    def wave(angle):  # period pi, zero at odd multiples of pi/8
        return math.cos(4 * angle)

    ends = np.tan(np.arange(-3, 4, 2) * math.pi / 8)
    found = ProjectiveLine(0.0, 1.0).where_nonpositive(wave, ANGLES)
    assert_allclose(found, ends.reshape(2, 2), rtol=1e-12)
    half_line = ProjectiveLine(0.0, 1.0).where_nonpositive(lambda a: math.sin(2 * a), ANGLES)
    assert half_line[0][0] == -INF or half_line[0][0] < -1e15
    assert_allclose(half_line[0][1], 0, atol=1e-12)
